# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of a D-Bus daemon and programs that speak kdbus, on two buses that a bridge makes one."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial

import kdbus
from kdbus.dbus import names, service
from kdbus.dbus.blocking import Connection, connect
from kdbus.dbus.bloom import filter_of
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import Flag, Message, method_call, method_return, signal
from kdbus.dbus.values import Variant
from kdbus.dbus.version2 import build
from kdbus.flags import Attach, ListFlag
from tests.programs.dbus_peer import DRIVER, PATIENCE, Peer

BUS = kdbus.own_name("user")
LARGE = bytes(range(256)) * 4096
VALUES = (
    Variant("s", "text"),
    Variant("a{s(yv)}", {"k": (1, Variant("ad", [0.5]))}),
    Variant("ay", LARGE),
    Variant("ai", list(range(100_000))),
)


@service.interface("t.Things")
class Things:
    """A service that speaks kdbus. `called`: what came without a reply being wanted."""

    def __init__(self, bus: Connection) -> None:
        self._bus = bus
        self.called: list[str] = []
        self.enough = threading.Event()

    @service.method("v", "v")
    def Echo(self, value: Variant) -> Variant:
        return value

    @service.method("", "")
    def Fail(self) -> None:
        raise ErrorReply("t.Error", "text")

    @service.method("h", "h")
    def Pass(self, descriptor: kdbus.Descriptor) -> kdbus.Descriptor:
        os.write(descriptor.fileno(), b"from the service")
        return descriptor

    @service.method("s", "")
    def Note(self, text: str) -> None:
        self.called.append(text)
        if len(self.called) == 20:
            self.enough.set()

    @service.method("s", "s")
    def Announce(self, text: str) -> str:
        self._bus.send(Things.Happened.message("/things", text))
        return text

    Happened = service.Signal("s", "what")


@contextmanager
def serving(name: str = "t.Things") -> Iterator[tuple[Connection, Things]]:
    """The service in a thread. It is known on the other side before anything is done with it."""
    with connect(BUS) as bus, Peer() as watching:
        things = Things(bus)
        bus.objects.add("/things", things)
        bus.acquire_name(name)
        wait_for_name(watching, name)
        thread = threading.Thread(target=bus.serve)
        thread.start()
        try:
            yield bus, things
        finally:
            bus.peer.byebye()
            thread.join()
            wait_for_name(watching, name, owned=False)


@contextmanager
def owning(name: str) -> Iterator[Peer]:
    """A client of the daemon that owns a name, which is known on the bus; afterwards it is gone from there."""
    with connect(BUS) as watching, watching.subscribe(f"member='NameOwnerChanged',arg0='{name}'") as changes:

        def wait(*, owned: bool) -> None:
            while any(entry.name == name for entry in watching.peer.list_names()) is not owned:
                changes.receive(timeout=PATIENCE)

        with Peer() as client:
            client.driver("RequestName", "su", name, 0)
            wait(owned=True)
            yield client
        wait(owned=False)


def wait_for_name(client: Peer, name: str, *, owned: bool = True) -> None:
    """Wait until a name has an owner at the daemon, or none."""
    client.driver("AddMatch", "s", f"member='NameOwnerChanged',arg0='{name}'")
    while client.driver("NameHasOwner", "s", name) is not owned:
        client.wait_for("NameOwnerChanged")
    client.driver("RemoveMatch", "s", f"member='NameOwnerChanged',arg0='{name}'")


def calls_of_a_kdbus_service(client: Peer) -> None:
    with serving() as (bus, _):
        for value in VALUES:
            assert client.call("t.Things", "/things", "t.Things", "Echo", "v", (value,)) == (value,)
        owner = client.driver("GetNameOwner", "s", "t.Things")
        assert client.call(owner, "/things", "t.Things", "Echo", "v", (VALUES[0],)) == (VALUES[0],)
        assert_fails(lambda: client.call("t.Things", "/things", "t.Things", "Fail"), "t.Error")
        assert_fails(lambda: client.call("t.Things", "/things", "t.Things", "Nope"), f"{DRIVER}.Error.UnknownMethod")
        # There it is one connection, and the name is its own.
        assert [entry.id for entry in bus.peer.list_names() if entry.name == "t.Things"] == [bus.peer.id]


def calls_from_kdbus(_client: Peer) -> None:
    with owning("t.Client") as client, connect(BUS) as bus:
        for value in VALUES:
            answering = threading.Thread(target=client.serve, args=("Echo", "v", value))
            answering.start()
            reply = bus.call(method_call("t.Client", "/a", "t.I", "Echo", "v", (value,)))
            answering.join()
            assert reply.body == (value,)
        assert reply.sender is not None
        answering = threading.Thread(target=client.refuse, args=("Echo", "t.Error", "no"))
        answering.start()
        refused = bus.call(method_call(reply.sender, "/a", "t.I", "Echo"))
        answering.join()
        assert (refused.error_name, refused.body, refused.sender) == ("t.Error", ("no",), reply.sender)


def callers_are_somebody(client: Peer) -> None:
    """A caller has one unique name on the other side, and kdbus knows whose process it is."""
    with connect(BUS) as bus, serving("t.Other"):
        bus.acquire_name("t.Asked")
        wait_for_name(client, "t.Asked")
        seen = []
        for _ in range(2):
            serial = client.send(method_call("t.Asked", "/", "t.I", "Who"))
            with bus.peer.receive(timeout=PATIENCE) as request:
                seen.append(request.sender)
                told = replace(
                    method_return(replace(method_call(None, "/", "a.b", "C"), cookie=request.cookie)), cookie=5
                )
                bus.peer.reply(request, build(told), cookie=request.cookie + 100)
            client.reply_to(serial)
        assert seen[0] == seen[1]
        about = bus.peer.info(seen[0], Attach.CREDS | Attach.PIDS).metadata
        assert about.creds is not None and about.creds.euid == os.geteuid()
        assert about.pids is not None and about.pids.pid == os.getpid()


def descriptors_both_ways(client: Peer) -> None:
    reading, writing = os.pipe()
    with serving():
        assert client.call("t.Things", "/things", "t.Things", "Pass", "h", (0,), descriptors=[writing]) == (0,)
        os.write(client.descriptors.pop(), b" and back")
        assert os.read(reading, 100) == b"from the service and back"
    with owning("t.Client") as other, connect(BUS) as bus:
        answering = threading.Thread(target=other.serve, args=("Give", "h", 0), kwargs={"descriptors": [writing]})
        answering.start()
        reply = bus.call(method_call("t.Client", "/", "t.I", "Give"))
        answering.join()
        os.write(reply.body[0].fileno(), b"given")
        assert os.read(reading, 100) == b"given"


def signals_to_all_with_descriptors(client: Peer) -> None:
    """On kdbus such a signal is sent to each connection by itself, as a proxy does it; at the daemon there is one."""
    reading, writing = os.pipe()
    client.driver("AddMatch", "s", "interface='t.Things'")
    with owning("t.Client") as other, connect(BUS) as bus, bus.subscribe("interface='t.Mine'") as got:
        other.send(signal("/a", "t.Mine", "S", "h", (0,)), descriptors=[writing])
        received = got.receive(timeout=PATIENCE)
        assert received.sender == names.unique_name(bus.peer.info("t.Client").id)
        os.write(received.body[0].fileno(), b"from the daemon")
        assert os.read(reading, 100) == b"from the daemon"

        said = signal("/things", "t.Things", "Happened", "h", (0,))
        data = build(replace(said, cookie=1 << 20, descriptors=1))
        bloom = filter_of(said, size=bus.peer.bloom.size, hashes=bus.peer.bloom.hashes)
        for entry in bus.peer.list_names(ListFlag.UNIQUE):
            with suppress(kdbus.NotFound):  # It is an activator.
                bus.peer.signal(data, bloom=bloom, destination=entry.id, descriptors=[writing], cookie=1 << 20)
        client.wait_for("Happened")
        os.write(client.descriptors.pop(), b"from the bus")
        assert os.read(reading, 100) == b"from the bus"
        bus.send(signal("/things", "t.Things", "Last"))
        client.wait_for("Last")
        assert all(message.member != "Happened" for message in client.settle())
    os.close(reading)
    os.close(writing)


def signals_both_ways_and_once(client: Peer) -> None:
    client.driver("AddMatch", "s", "interface='t.Things',sender='t.Things'")
    client.driver("AddMatch", "s", "interface='t.Mine'")
    with serving() as (bus, _), connect(BUS) as other, other.subscribe("interface='t.Mine',path_namespace='/a'") as got:
        bus.send(Things.Happened.message("/things", "text"))
        came = client.wait_for("Happened")
        assert (came.body, came.sender) == (("text",), client.driver("GetNameOwner", "s", "t.Things"))
        client.emit("/b", "t.Mine", "S", "s", "elsewhere")
        client.emit("/a/b", "t.Mine", "S", "s", "here")
        received = got.receive(timeout=PATIENCE)
        assert received.body == ("here",)
        # To one: a signal finds whoever has sent one.
        assert received.sender is not None
        bus.send(signal("/", "t.I", "ToOne", "s", ("x",), destination=received.sender))
        assert client.wait_for("ToOne").destination == client.name
        heard = [message.body for message in client.settle() if message.interface == "t.Mine"]
        assert heard == [("elsewhere",), ("here",)], heard


def a_signal_comes_before_the_reply_that_follows_it(client: Peer) -> None:
    client.driver("AddMatch", "s", "interface='t.Things'")
    with serving():
        for number in range(50):
            serial = client.send(method_call("t.Things", "/things", "t.Things", "Announce", "s", (str(number),)))
            first = client.wait(partial(_is_next, serial))
            assert (first.member, first.body) == ("Happened", (str(number),))
            client.reply_to(serial)


def _is_next(serial: int, message: Message) -> bool:
    return message.member == "Happened" or message.reply_cookie == serial


def names_come_and_go(client: Peer) -> None:
    client.driver("AddMatch", "s", "member='NameOwnerChanged',arg0='t.Things'")
    with serving():
        came = client.wait_for("NameOwnerChanged").body
        assert came[1] == "" and came[2].startswith(":")
    assert client.wait_for("NameOwnerChanged").body == ("t.Things", came[2], "")
    with connect(BUS) as bus, bus.subscribe("member='NameOwnerChanged',arg0='t.Client'") as changes:
        with owning("t.Client"):
            appeared = changes.receive(timeout=PATIENCE).body
        vanished = changes.receive(timeout=PATIENCE).body
        assert appeared[1] == "" and vanished == ("t.Client", appeared[2], "")


def a_name_of_both_sides(client: Peer) -> None:
    """Each has its own, and when one goes the other is everybody's."""
    client.driver("AddMatch", "s", "member='NameOwnerChanged',arg0='t.Things'")
    with serving() as (bus, _), Peer() as second:
        assert client.driver("RequestName", "su", "t.Things", 4) == 3
        assert second.driver("RequestName", "su", "t.Things", 0) == 2
        assert client.call("t.Things", "/things", "t.Things", "Echo", "v", (VALUES[0],)) == (VALUES[0],)
        client.wait_for("NameOwnerChanged")
        with connect(BUS) as other, other.subscribe("member='NameOwnerChanged',arg0='t.Things'") as changes:
            bus.peer.release_name("t.Things")
            assert client.wait_for("NameOwnerChanged").body[2] == second.name
            assert changes.receive(timeout=PATIENCE).body[2] == ""
            assert changes.receive(timeout=PATIENCE).body[1] == ""
        answering = threading.Thread(target=second.serve, args=("Hi", "s", "there"))
        answering.start()
        with connect(BUS) as other:
            assert other.call(method_call("t.Things", "/", "t.I", "Hi")).body == ("there",)
        answering.join()


def who_is_called_and_goes(client: Peer) -> None:
    with connect(BUS) as bus:
        bus.acquire_name("t.Goes")
        wait_for_name(client, "t.Goes")
        serial = client.send(method_call("t.Goes", "/", "t.I", "M"))
        bus.peer.receive(timeout=PATIENCE).release()
    assert_fails(lambda: client.reply_to(serial), f"{DRIVER}.Error.NoReply")
    with owning("t.Client") as other, connect(BUS) as bus:

        def go() -> None:
            other.wait_for("M")
            other.close()

        going = threading.Thread(target=go)
        going.start()
        reply = outcome(bus, "t.Client")
        going.join()
        assert reply in ("PeerGone", f"{DRIVER}.Error.NoReply"), reply
    assert_fails(lambda: client.call("t.Nobody", "/", "t.I", "M"), f"{DRIVER}.Error.ServiceUnknown")
    with connect(BUS) as bus:
        assert outcome(bus, "t.Nobody") == "NotFound"


def who_says_something_and_goes(client: Peer) -> None:
    with serving() as (_, things):
        for number in range(20):
            with Peer() as short:
                words = ("t.Things", "/things", "t.Things", "Note", "s", (str(number),))
                short.send(method_call(*words, flags=Flag.NO_REPLY_EXPECTED))
        assert things.enough.wait(PATIENCE)
        assert sorted(things.called) == sorted(map(str, range(20))), things.called
    with owning("t.Client") as other:
        for number in range(20):
            with connect(BUS) as short_:
                short_.send(
                    method_call("t.Client", "/", "t.I", "Note", "s", (str(number),), flags=Flag.NO_REPLY_EXPECTED)
                )
        assert sorted(other.wait_for("Note").body[0] for _ in range(20)) == sorted(map(str, range(20)))


def what_is_no_dbus_is_refused(_client: Peer) -> None:
    with owning("t.Client"), kdbus.connect(BUS) as raw:
        with raw.call("t.Client", b"anything", timeout=PATIENCE) as reply:
            assert b"NotSupported" in bytes(reply.payload)
        raw.send("t.Client", b"anything else")


def assert_fails(action: Callable[[], object], name: str) -> None:
    try:
        action()
    except ErrorReply as error:
        assert error.name == name, error.name
    else:
        raise AssertionError(f"{name} was expected")


def outcome(bus: Connection, name: str) -> str:
    try:
        reply = bus.call(method_call(name, "/", "t.I", "M"))
    except kdbus.Error as error:
        return type(error).__name__
    return reply.error_name or "returned"


def others(client: Peer) -> None:
    """As root, on a bus that is open to all: whether what somebody else says is heard."""
    client.driver("AddMatch", "s", "interface='t.Things'")
    child = os.fork()
    if child == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with connect(BUS) as bus:
            bus.send(Things.Happened.message("/things", "of somebody else"))
        os._exit(0)
    os.waitpid(child, 0)
    with connect(BUS) as bus:
        bus.send(Things.Happened.message("/things", "ours"))
    print(client.wait_for("Happened").body[0], flush=True)


def whose(client: Peer) -> None:
    """As root, on a bus that is open to all: as whom somebody else speaks at the daemon."""
    client.driver("AddMatch", "s", "interface='t.Things'")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.setgroups([65533])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with connect(BUS) as bus:
            bus.send(Things.Happened.message("/things", "of somebody else"))
            os.read(reading, 1)
        os._exit(0)
    message = client.wait_for("Happened")
    found = client.driver("GetConnectionCredentials", "s", message.sender)
    print(message.body[0], found["UnixUserID"].value, sorted(found["UnixGroupIDs"].value), flush=True)
    os.close(writing)
    os.waitpid(child, 0)


CASES: list[Callable[[Peer], None]] = [
    calls_of_a_kdbus_service,
    calls_from_kdbus,
    callers_are_somebody,
    descriptors_both_ways,
    signals_to_all_with_descriptors,
    signals_both_ways_and_once,
    a_signal_comes_before_the_reply_that_follows_it,
    names_come_and_go,
    a_name_of_both_sides,
    who_is_called_and_goes,
    who_says_something_and_goes,
    what_is_no_dbus_is_refused,
]


def serve() -> None:
    with connect(BUS) as bus:
        bus.objects.add("/things", Things(bus))
        bus.acquire_name("t.Things")
        bus.serve()


def start() -> None:
    """Call what the daemon starts, have it end, and call it again; and what cannot be started."""
    with connect(BUS) as bus, bus.subscribe("member='NameOwnerChanged',arg0='t.Started',arg2=''") as changes:
        for word in ("first", "second"):
            print(bus.call(method_call("t.Started", "/", "t.I", "Echo", "s", (word,))).body, flush=True)
        bus.call(method_call("t.Started", "/", "t.I", "Quit"))
        changes.receive(timeout=PATIENCE)
        print("quit", flush=True)
        print(bus.call(method_call("t.Started", "/", "t.I", "Echo", "s", ("third",))).body, flush=True)
        print(outcome(bus, "t.Broken"), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["start"]:
        start()
        sys.exit()
    if sys.argv[1:] == ["serve"]:
        serve()
    if sys.argv[1:2] == ["call"]:
        with connect(BUS) as bus_:
            print(bus_.call(method_call(sys.argv[2], "/", "t.I", "M")).type.name, flush=True)
        sys.exit()
    if sys.argv[1:] in (["others"], ["whose"]):
        BUS = "0-system"
        CASES = [others] if sys.argv[1:] == ["others"] else [whose]
    for case in CASES:
        with ExitStack() as stack:
            case(stack.enter_context(Peer()))
        print("ok -", case.__name__, flush=True)
