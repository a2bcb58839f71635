# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of D-Bus and programs that speak kdbus on one bus: who calls whom, and what they hear of each other."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import kdbus
from kdbus.dbus import service
from kdbus.dbus.blocking import Connection, connect
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import MessageType, method_call, method_return, signal
from kdbus.dbus.values import Variant
from kdbus.dbus.version2 import build
from tests.programs.dbus_peer import DRIVER, PATIENCE, Peer

BUS = kdbus.own_name("user")
LARGE = bytes(range(256)) * 4096
"""1 MiB, which kdbus passes as a memfd."""
VALUES = (
    Variant("s", "text"),
    Variant("a{s(yv)}", {"k": (1, Variant("ad", [0.5]))}),
    Variant("ay", LARGE),
    Variant("ai", list(range(500_000))),
)


@service.interface("org.example.Things")
class Things:
    @service.method("v", "v")
    def Echo(self, value: Variant) -> Variant:
        return value

    @service.method("", "")
    def Fail(self) -> None:
        raise ErrorReply("org.example.Error", "text")

    @service.method("h", "h")
    def Pass(self, descriptor: kdbus.Descriptor) -> kdbus.Descriptor:
        os.write(descriptor.fileno(), b"from the service")
        return descriptor

    Happened = service.Signal("sas", "what", "more")


@contextmanager
def serving() -> Iterator[Connection]:
    """A service that speaks kdbus, in a thread."""
    with connect(BUS) as bus:
        bus.acquire_name("org.example.Things")
        bus.objects.add("/things", Things())
        thread = threading.Thread(target=bus.serve)
        thread.start()
        try:
            yield bus
        finally:
            bus.peer.byebye()
            thread.join()


def calls_of_a_kdbus_service(client: Peer) -> None:
    with serving() as bus:
        for to in ("org.example.Things", bus.unique_name):
            for value in VALUES:
                assert client.call(to, "/things", "org.example.Things", "Echo", "v", (value,)) == (value,)
        try:
            client.call("org.example.Things", "/things", "org.example.Things", "Fail")
        except ErrorReply as error:
            assert (error.name, error.text) == ("org.example.Error", "text")
        else:
            raise AssertionError
        (xml,) = client.call("org.example.Things", "/things", f"{DRIVER}.Introspectable", "Introspect")
        assert "Echo" in xml
        assert client.driver("GetConnectionUnixProcessID", "s", "org.example.Things") == os.getpid()


def descriptors_of_a_kdbus_service(client: Peer) -> None:
    reading, writing = os.pipe()
    with serving():
        things = ("org.example.Things", "/things", "org.example.Things", "Pass", "h", (0,))
        assert client.call(*things, descriptors=[writing]) == (0,)
        os.write(client.descriptors[0], b" and back")
        assert os.read(reading, 100) == b"from the service and back"
    os.close(reading)
    os.close(writing)


def without_descriptors_agreed_on_none_come(client: Peer) -> None:
    with serving(), Peer(descriptors=False) as other:
        try:
            client.call(other.name, "/", "a.b", "C", "h", (0,), descriptors=[0])
        except ErrorReply as error:
            assert error.name == f"{DRIVER}.Error.NotSupported"
        else:
            raise AssertionError


def the_other_byte_order(client: Peer) -> None:
    """A call of GetNameOwner("org.freedesktop.DBus") in big-endian, and one to a service."""
    with serving():
        for destination, member, argument in ((DRIVER, "GetNameOwner", DRIVER), ("org.example.Things", "Ping", "")):
            fields = b""
            interface = DRIVER if argument else f"{DRIVER}.Peer"
            for number, kind, value in (
                (1, "o", "/things"),
                (2, "s", interface),
                (3, "s", member),
                (6, "s", destination),
                (8, "g", "s" if argument else ""),
            ):
                fields += bytes(-len(fields) % 8) + bytes([number, 1]) + kind.encode() + b"\0"
                if kind == "g":
                    fields += bytes([len(value)]) + value.encode() + b"\0"
                else:
                    fields += struct.pack(">I", len(value)) + value.encode() + b"\0"
            body = struct.pack(">I", len(argument)) + argument.encode() + b"\0" if argument else b""
            header = b"B\1\0\1" + struct.pack(">3I", len(body), 0x01020304, len(fields))
            client.write(header + fields + bytes(-len(header + fields) % 8) + body)
            assert client.reply_to(0x01020304) == ((DRIVER,) if argument else ())


def kdbus_in_the_other_byte_order(client: Peer) -> None:
    with connect(BUS) as bus:
        call = replace(method_call(client.name, "/a", "a.b", "C", "su", ("text", 7)), cookie=9)
        bus.peer.send(client.name_id, build(call, order="big"), cookie=9, timeout=PATIENCE)
        came = client.serve("C", "n", -2)
        assert (came.body, came.sender, came.cookie) == (("text", 7), bus.unique_name, 9)
        with bus.peer.receive(timeout=PATIENCE) as reply:
            assert reply.reply_to == 9


def calls_from_kdbus(client: Peer) -> None:
    client.driver("RequestName", "su", "org.example.Client", 0)
    client.settle()
    with connect(BUS) as bus:
        thread = threading.Thread(target=client.serve, args=("Upper", "s", "TEXT"))
        thread.start()
        reply = bus.call(method_call("org.example.Client", "/", "org.example.I", "Upper", "s", ("text",)))
        assert (reply.body, reply.sender) == (("TEXT",), client.name)
        thread.join()
        thread = threading.Thread(target=client.refuse, args=("Upper", "a.b", "no"))
        thread.start()
        reply = bus.call(method_call(client.name, "/", "org.example.I", "Upper", "ay", (LARGE,)))
        assert (reply.type, reply.error_name, reply.body) == (MessageType.ERROR, "a.b", ("no",))
        thread.join()


def cookies_that_are_no_serials(client: Peer) -> None:
    with connect(BUS) as bus:
        for cookie in (1 << 32, (1 << 63) + 5, 2 << 32):
            call = replace(method_call(client.name, "/a", "a.b", "C"), cookie=cookie)
            bus.peer.send(client.name_id, build(call), cookie=cookie, timeout=PATIENCE)
            assert 0 < client.serve("C").cookie < 1 << 32
            with bus.peer.receive(timeout=PATIENCE) as reply:
                assert reply.reply_to == cookie


def signals_both_ways(client: Peer) -> None:
    client.driver("AddMatch", "s", "interface='org.example.Things',arg0='wanted'")
    wanted = "interface='org.example.I',path_namespace='/a'"
    with serving() as bus, connect(BUS) as other, other.subscribe(wanted) as got:
        bus.send(Things.Happened.message("/things", "not wanted", []))
        bus.send(Things.Happened.message("/things", "wanted", ["more"]))
        came = client.wait_for("Happened")
        assert (came.body, came.sender) == (("wanted", ["more"]), bus.unique_name)
        client.emit("/b", "org.example.I", "S", "s", "elsewhere")
        client.emit("/a/b", "org.example.I", "S", "s", "here")
        received = got.receive(timeout=PATIENCE)
        assert (received.body, received.sender) == (("here",), client.name)
        bus.send(signal("/", "a.b", "ToOne", destination=client.name))
        assert client.wait_for("ToOne").destination == client.name


def signals_to_all_that_kdbus_sends_to_one_only(client: Peer) -> None:
    """They reach who speaks kdbus and has a match, and clients that have a rule for them, once."""
    reading, writing = os.pipe()
    client.driver("AddMatch", "s", "path_namespace='/of/the/client'")
    with (
        Peer() as monitor,
        connect(BUS) as bus,
        bus.subscribe("interface='t.I',arg0='wanted'") as got,
        connect(BUS) as other,
        other.subscribe("interface='t.Other'") as nothing,
    ):
        become = (DRIVER, "/org/freedesktop/DBus", f"{DRIVER}.Monitoring", "BecomeMonitor")
        monitor.call(*become, "asu", (["member='S'"], 0))
        for path in ("/of/the/client", "/elsewhere"):
            for size in (0, 3 << 20):
                for what in ("not wanted", "wanted"):
                    message = signal(path, "t.I", "S", "shay", (what, 0, bytes(size)))
                    client.send(message, descriptors=[writing])
                received = got.receive(timeout=PATIENCE)
                assert (received.sender, received.body[0], received.body[2]) == (client.name, "wanted", bytes(size))
                os.write(received.body[1].fileno(), b"heard")
                assert os.read(reading, 100) == b"heard"
        client.emit("/", "t.Other", "Last")
        client.emit("/", "t.I", "S", "s", "wanted")
        assert nothing.receive(timeout=PATIENCE).member == "Last"
        assert got.receive(timeout=PATIENCE).signature == "s"
        shown = [monitor.wait_for("S") for _ in range(9)]
        assert [message.body[0] for message in shown] == ["not wanted", "wanted"] * 4 + ["wanted"]
        assert all(message.destination is None for message in shown)
    came = [client.wait_for("S") for _ in range(4)]
    assert [message.body[0] for message in came] == ["not wanted", "wanted"] * 2
    assert all(message.destination is None for message in came)
    assert all(message.member != "S" for message in client.settle())
    os.close(reading)
    os.close(writing)


def signals_to_all_of_another_proxy(client: Peer) -> None:
    """Some come to each connection by itself. They say that they are to all, so rules count."""
    client.driver("AddMatch", "s", "member='S'")
    with connect(BUS) as bus:
        for cookie, member in enumerate(("Other", "S"), 1 << 20):
            data = build(replace(signal("/", "t.I", member), cookie=cookie))
            bloom = bytes(bus.peer.bloom.size)
            bus.peer.signal(data, bloom=bloom, destination=client.name_id, cookie=cookie)
        assert client.wait_for("S").destination is None
        assert all(message.member != "Other" for message in client.settle())


def what_is_no_dbus_is_left_out(client: Peer) -> None:
    client.driver("AddMatch", "s", "")
    with connect(BUS) as bus:
        bus.peer.send(client.name_id, b"anything")
        bus.peer.send(client.name_id, b"anything", payload_type=7)
        cookie = client.send(method_call(bus.unique_name, "/", "a.b", "C"))
        with bus.peer.receive(timeout=PATIENCE) as request:
            # A reply for kdbus, which says that it is one to something else; the client must not see it.
            other = replace(method_return(replace(method_call(None, "/", "a.b", "C"), cookie=cookie + 7)), cookie=1)
            bus.peer.reply(request, build(other))
        forged = replace(method_return(replace(method_call(None, "/", "a.b", "C"), cookie=cookie)), cookie=2)
        bus.peer.send(client.name_id, build(forged), cookie=2)
        assert all(message.sender == DRIVER for message in client.settle())


def names_of_both_sides(client: Peer) -> None:
    client.driver("AddMatch", "s", "type='signal',member='NameOwnerChanged',arg0='org.example.Things'")
    with serving() as bus:
        assert client.wait_for("NameOwnerChanged").body == ("org.example.Things", "", bus.unique_name)
        assert client.driver("GetNameOwner", "s", "org.example.Things") == bus.unique_name
        assert "org.example.Things" in client.driver("ListNames")
        assert client.driver("RequestName", "su", "org.example.Things", 0) == 2
        assert bus.peer.info(client.name_id).metadata.pids is not None
    assert client.wait_for("NameOwnerChanged").body[1:] == (bus.unique_name, client.name)
    assert client.wait(lambda message: message.body == ("org.example.Things",)).member == "NameAcquired"


def the_driver_for_programs_that_speak_kdbus(client: Peer) -> None:
    client.driver("RequestName", "su", "org.example.Client", 0)
    with connect(BUS) as bus:
        driver = bus.proxy(DRIVER, "/org/freedesktop/DBus", DRIVER)
        assert driver.GetNameOwner("org.example.Client") == client.name
        assert {DRIVER, client.name, bus.unique_name, "org.example.Client"} <= set(driver.ListNames())
        assert driver.GetConnectionUnixProcessID(client.name) == os.getpid()
        assert driver.GetId() == client.driver("GetId")
        assert driver.get("Features") == ["ActivatableServicesChanged", "HeaderFiltering"]
        for member, error in (("GetNameOwner", "NameHasNoOwner"), ("ReleaseName", "NotSupported")):
            try:
                driver.call(member, "org.example.Nobody")
            except ErrorReply as reply:
                assert reply.name == f"{DRIVER}.Error.{error}"
            else:
                raise AssertionError(error)


CASES: tuple[Callable[[Peer], None], ...] = (
    calls_of_a_kdbus_service,
    descriptors_of_a_kdbus_service,
    without_descriptors_agreed_on_none_come,
    the_other_byte_order,
    kdbus_in_the_other_byte_order,
    calls_from_kdbus,
    cookies_that_are_no_serials,
    signals_both_ways,
    signals_to_all_that_kdbus_sends_to_one_only,
    signals_to_all_of_another_proxy,
    what_is_no_dbus_is_left_out,
    names_of_both_sides,
    the_driver_for_programs_that_speak_kdbus,
)


if __name__ == "__main__":
    for case in CASES:
        with ExitStack() as stack:
            case(stack.enter_context(Peer()))
        print(f"ok - {case.__name__}", flush=True)
