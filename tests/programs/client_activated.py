# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers of programs that are started when they are called, and two such programs. The first argument is the bus."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable

import kdbus
from kdbus.dbus.blocking import connect
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.kernel import DRIVER, DRIVER_PATH
from kdbus.flags import HelloFlag
from kdbus.matches import NameAppears, NameChangesHands, NameVanishes
from kdbus.values import NameChange, ReplyDead

PATIENCE = 60.0


def load(bus: str, callers: int, calls: int, rounds: int = 1) -> None:
    """So many callers at a time, each of which waits for each reply. After each round the program goes."""
    replies = []

    def call(number: int) -> None:
        with kdbus.connect(bus) as connection:
            for each in range(calls):
                text = b"call %d of %d" % (each, number)
                with connection.call("org.example.Idle", text, timeout=PATIENCE) as reply:
                    assert bytes(reply.payload) == text.upper() + b"\0"
                    replies.append(text)

    with kdbus.connect(bus) as watching:
        watching.add_match(NameChangesHands("org.example.Idle"))
        for turn in range(rounds):
            threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            while turn < rounds - 1 and not watching.info("org.example.Idle").flags & HelloFlag.ACTIVATOR:
                watching.receive(timeout=PATIENCE).release()
    print(len(replies), "replies", flush=True)


def post(bus: str, count: int) -> None:
    """Messages without replies, to one that tells us what it has received before it says goodbye."""
    with kdbus.connect(bus) as connection:
        connection.acquire_name("org.example.Poster")
        seen: list[int] = []
        for number in range(count):
            connection.send("org.example.Counter", b"%d" % number)
            if number % 50 == 49:
                # Let it go, and go on.
                while len(seen) <= number:
                    with connection.receive(timeout=PATIENCE) as message:
                        seen += [int(word) for word in bytes(message.payload).split()]
        assert seen == list(range(count)), seen
        print(f"all {count} came, in order", flush=True)


def count(bus: str) -> None:
    """Receive three messages, and say goodbye as soon as that is possible: it tells what has come before that."""
    with kdbus.connect(bus) as connection:
        connection.acquire_name("org.example.Counter")
        got: list[bytes] = []
        while True:
            message = connection.receive_nowait()
            if message is not None:
                with message:
                    got.append(bytes(message.payload))
                continue
            if got:
                connection.send("org.example.Poster", b" ".join(got))
                got.clear()
            try:
                connection.byebye()
            except kdbus.Error as error:
                assert error.errno == errno.EBUSY
            else:
                return


def shy(bus: str) -> None:
    """Take the name, and go without a word."""
    with kdbus.connect(bus) as connection:
        connection.acquire_name("t.Shy")
        print("shy took the name", flush=True)


def fail(bus: str) -> None:
    """Say what becomes of calls to what cannot be started."""
    with kdbus.connect(bus) as connection:
        for case in ("t.False", "t.False", "t.False dead", "t.None", "t.Open", "t.Shy", "t.Missing"):
            name, _, asynchronous = case.partition(" ")
            if asynchronous:
                connection.send(name, b"x", timeout=PATIENCE)
                with connection.receive(timeout=PATIENCE) as message:
                    print(name, "ReplyDead" if isinstance(message.notification, ReplyDead) else message, flush=True)
                continue
            try:
                connection.call(name, b"x", timeout=PATIENCE)
            except kdbus.Error as error:
                print(name, errno.errorcode[error.errno or 0], flush=True)


def ask(bus: str) -> None:
    """Ask the driver, as a program that speaks kdbus and D-Bus, to start some."""
    with connect(bus, revision=kdbus.FINAL) as connection:
        driver = connection.proxy(DRIVER, DRIVER_PATH, DRIVER)
        for name in ("org.example.Idle", "org.example.Idle", "t.False", "t.Missing"):
            try:
                print(name, driver.StartServiceByName(name, 0), flush=True)
            except ErrorReply as error:
                print(name, error.name, flush=True)


def files(bus: str, folder: str) -> None:
    """Change files in the folder, and say what becomes of the activator of the name in them."""
    path, new = f"{folder}/t.Unit.busname", f"{folder}/new"
    with kdbus.connect(bus) as connection:
        connection.add_match(NameAppears("t.Unit"))
        connection.add_match(NameVanishes("t.Unit"))

        def change(what: str, text: str, *, times: int = 1) -> None:
            with open(new, "w") as file:
                file.write(f"[BusName]\nName=t.Unit\nService=real.service\n{text}")
            os.rename(new, path)
            print(what, *(told() for _ in range(times)), flush=True)

        def told() -> str:
            with connection.receive(timeout=PATIENCE) as message:
                assert isinstance(message.notification, NameChange)
                return "appears" if message.notification.new_id else "vanishes"

        change("new:", "AllowWorld=talk\n")
        change("other rules:", "AllowWorld=own\n", times=2)
        change("nothing to start:", "AllowWorld=own\nActivating=no\n")
        change("something to start:", "AllowWorld=own\n")
        os.unlink(path)
        print("removed:", told(), flush=True)


if __name__ == "__main__":
    bus_, what, *words = sys.argv[1:]
    if what == "files":
        files(bus_, *words)
        sys.exit()
    action: Callable[..., None] = {each.__name__: each for each in (load, post, count, shy, fail, ask)}[what]
    action(bus_, *map(int, words))
