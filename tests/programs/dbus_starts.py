# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are started by a call from the other side of a bridge, and end as soon as they have nothing to do; and
many callers of them at a time, of whom each has to get each reply.

    serve-daemon NAME, serve-bus NAME   the program, of a D-Bus daemon and of kdbus
    call-daemon NAME, call-bus NAME     the callers, on either side
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator

import kdbus
from kdbus.dbus import service
from kdbus.dbus.blocking import connect
from kdbus.dbus.message import Message, MessageType, method_call, method_return
from kdbus.flags import HelloFlag
from kdbus.matches import NameChangesHands
from tests.programs.dbus_peer import DRIVER, PATIENCE, Peer

BUS = kdbus.own_name("user")
CALLERS, CALLS, ROUNDS = 3, 6, 2


def serve_daemon(name: str) -> None:
    """Answer calls; give the name up after each, and go when all are answered that had been sent before."""
    with Peer() as peer:
        # Who has it may be about to end.
        peer.driver("RequestName", "su", name, 0)
        answer(peer, peer.wait(is_call))
        released = peer.send(method_call(DRIVER, "/org/freedesktop/DBus", DRIVER, "ReleaseName", "s", (name,)))
        while (message := peer.wait(lambda each: is_call(each) or each.reply_cookie == released)).reply_cookie is None:
            answer(peer, message)


def is_call(message: Message) -> bool:
    return message.type == MessageType.METHOD_CALL


def answer(peer: Peer, call: Message) -> None:
    peer.send(method_return(call, "s", call.body))


@service.interface("t.I")
class Echoing:
    @service.method("s", "s")
    def Echo(self, text: str) -> str:
        return text


def serve_bus(name: str) -> None:
    """Answer calls, and go once none waits: the bus does not let us go while one does."""
    with connect(BUS) as bus:
        bus.objects.add("/", Echoing())
        if not bus.acquire_name(name):
            return
        while True:
            bus.process()
            try:
                bus.peer.byebye()
            except kdbus.Error:
                continue
            return


def echo_by_daemon(name: str, texts: Iterable[str]) -> Iterator[object]:
    with Peer() as peer:
        for text in texts:
            yield from peer.call(name, "/", "t.I", "Echo", "s", (text,))


def echo_by_bus(name: str, texts: Iterable[str]) -> Iterator[object]:
    with connect(BUS) as bus:
        for text in texts:
            yield from bus.call(method_call(name, "/", "t.I", "Echo", "s", (text,)), PATIENCE).body


def call(echo: Callable[[str, Iterable[str]], Iterator[object]], name: str) -> None:
    """In each round all callers call at the same time; between rounds the program goes."""
    replies: list[object] = []

    def one(caller: int) -> None:
        replies.extend(echo(name, (f"{caller} {number}" for number in range(CALLS))))

    with kdbus.connect(BUS) as watching:
        watching.add_match(NameChangesHands(name))
        for _ in range(ROUNDS):
            threads = [threading.Thread(target=one, args=(caller,)) for caller in range(CALLERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            while not watching.info(name).flags & HelloFlag.ACTIVATOR:
                watching.receive(timeout=PATIENCE).release()
    wanted = [f"{caller} {number}" for caller in range(CALLERS) for number in range(CALLS)] * ROUNDS
    print("all answered" if sorted(map(str, replies)) == sorted(wanted) else replies, flush=True)


if __name__ == "__main__":
    what, name_ = sys.argv[1:]
    if what == "serve-daemon":
        serve_daemon(name_)
    elif what == "serve-bus":
        serve_bus(name_)
    else:
        call({"call-daemon": echo_by_daemon, "call-bus": echo_by_bus}[what], name_)
