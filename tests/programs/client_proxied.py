# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus programs on a bus of kdbus, played by jeepney: to be run under `kdbus proxy`, for the bus that is the argument.

`client_proxied.py BUS`; each case prints a line, as those of `client_support` do.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from jeepney import (
    DBusAddress,
    MatchRule,
    MessageType,
    message_bus,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from kdbus.dbus import blocking, version1
from kdbus.dbus.message import method_call
from tests.programs.client_dbus import NAME, PATH, Printer
from tests.programs.client_support import PATIENCE

ADDRESS = os.environ["DBUS_SESSION_BUS_ADDRESS"]
OTHER = DBusAddress("/o", "org.example.Old", "org.example.Old")


class Stage:
    """What the cases have in common: connections of both kinds, which end with the case."""

    def __init__(self, stack: ExitStack, bus: str) -> None:
        self.stack = stack
        self.bus = bus

    def old(self, **options: Any) -> DBusConnection:
        """A D-Bus program."""
        return self.stack.enter_context(open_dbus_connection(ADDRESS, **options))

    def new(self) -> blocking.Connection:
        """A program of kdbus."""
        return self.stack.enter_context(blocking.connect(self.bus))

    def serve(self, work: Callable[[], object]) -> None:
        """Do something in a thread, which has to end by itself."""
        thread = threading.Thread(target=work)
        thread.start()
        self.stack.callback(thread.join)


def ask(connection: DBusConnection, message: Any) -> tuple[Any, ...]:
    """The body of the reply, or the name of the error."""
    reply = connection.send_and_get_reply(message, timeout=PATIENCE)
    fields = {field.name: value for field, value in reply.header.fields.items()}
    return (fields["error_name"],) if reply.header.message_type == MessageType.error else reply.body


def a_service_of_kdbus_is_called(stage: Stage) -> None:
    server, client = stage.new(), stage.old()
    server.acquire_name(NAME)
    server.objects.add(PATH, Printer())
    stage.serve(lambda: [server.process(PATIENCE) for _ in range(4)])
    printer = DBusAddress(PATH, NAME, NAME)
    assert ask(client, new_method_call(printer, "Print", "su", ("x", 2))) == (2,)
    assert ask(client, new_method_call(printer, "Break")) == ("org.example.Error.Broken",)
    assert ask(client, new_method_call(printer, "Echo", "ay", (b"z" * 1_000_000,))) == (b"z" * 1_000_000,)
    properties = printer.with_interface("org.freedesktop.DBus.Properties")
    assert ask(client, new_method_call(properties, "GetAll", "s", (NAME,))) == ({"Volume": ("d", 0.5)},)
    nobody = DBusAddress("/", "org.example.Nobody", "org.example.Nobody")
    assert ask(client, new_method_call(nobody, "M")) == ("org.freedesktop.DBus.Error.ServiceUnknown",)


def a_service_of_d_bus_is_called(stage: Stage) -> None:
    server, client, other = stage.old(), stage.new(), stage.old()
    assert ask(server, message_bus.RequestName(OTHER.bus_name)) == (1,)

    def serve() -> None:
        for _ in range(3):
            call = server.receive(timeout=PATIENCE)
            while call.header.message_type != MessageType.method_call:
                call = server.receive(timeout=PATIENCE)
            if call.body:
                server.send(new_method_return(call, "a{sv}", ({"text": ("s", call.body[0])},)))
            else:
                server.send(new_error(call, "org.example.Error.Empty", "s", ("nothing",)))

    stage.serve(serve)
    reply = client.call(method_call(OTHER.bus_name, "/o", OTHER.interface, "M", "s", ("new",)), PATIENCE)
    assert reply.body[0]["text"].value == "new"
    failed = client.call(method_call(OTHER.bus_name, "/o", OTHER.interface, "M"), PATIENCE)
    assert (failed.error_name, failed.body) == ("org.example.Error.Empty", ("nothing",))
    assert ask(other, new_method_call(OTHER, "M", "s", ("old",))) == ({"text": ("s", "old")},)


def who_calls_goes_away_or_does_not_answer(stage: Stage) -> None:
    client = stage.old()
    with open_dbus_connection(ADDRESS) as server:
        call = new_method_call(DBusAddress("/o", server.unique_name, OTHER.interface), "M")
        client.send(call)
        while server.receive(timeout=PATIENCE).header.message_type != MessageType.method_call:
            pass
    while (found := client.receive(timeout=PATIENCE)).header.message_type != MessageType.error:
        pass
    assert "NoReply" in repr(found.header)


def signals_go_both_ways(stage: Stage) -> None:
    old, new = stage.old(), stage.new()
    wanted = MatchRule(type="signal", interface=NAME, member="Printed", path=PATH)
    wanted.add_arg_condition(1, "this")
    assert ask(old, message_bus.AddMatch(wanted)) == ()
    for text in ("not this", "this"):
        new.send(Printer.Printed.message(PATH, 1, text))
    found = old.receive(timeout=PATIENCE)
    while found.header.message_type != MessageType.signal or len(found.body) != 2:
        found = old.receive(timeout=PATIENCE)
    assert found.body == (1, "this")
    with new.subscribe(f"sender='{old.unique_name}',arg0='hello'") as printed:
        for text in ("nothing", "hello"):
            old.send(new_signal(OTHER, "Said", "s", (text,)))
        assert printed.receive(PATIENCE).body == ("hello",)
    assert ask(old, message_bus.RemoveMatch(wanted)) == ()
    assert ask(old, message_bus.RemoveMatch(wanted)) == ("org.freedesktop.DBus.Error.MatchRuleNotFound",)


def descriptors_travel(stage: Stage) -> None:
    server, client = stage.new(), stage.old(enable_fds=True)
    server.objects.add(PATH, Printer())
    stage.serve(lambda: server.process(PATIENCE))
    reading, writing = os.pipe()
    call = new_method_call(DBusAddress(PATH, server.unique_name, NAME), "Pass", "h", (writing,))
    reply = client.send_and_get_reply(call, timeout=PATIENCE)
    reply.body[0].close()
    os.close(writing)
    assert os.read(reading, 10) == b"seen" and os.read(reading, 10) == b""
    os.close(reading)


def who_takes_no_descriptors_gets_none(stage: Stage) -> None:
    server, client = stage.old(), stage.new()
    reading, writing = os.pipe()
    try:
        call = method_call(server.unique_name, "/o", OTHER.interface, "M", "h", (reading,))
        assert client.call(call, PATIENCE).error_name == "org.freedesktop.DBus.Error.NotSupported"
    finally:
        os.close(reading)
        os.close(writing)


def raw() -> socket.socket:
    """A connection that has authenticated and said nothing else."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    connection.connect(ADDRESS.removeprefix("unix:path=").partition(",")[0])
    connection.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
    answer = b""
    while answer.count(b"\r\n") < 2:
        answer += connection.recv(1000)
    return connection


HELLO = replace(method_call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello"), cookie=1)


def both_byte_orders_are_spoken(stage: Stage) -> None:
    with raw() as connection:
        connection.sendall(version1.build(HELLO, order="big"))
        data = connection.recv(1000)
        assert version1.parse(data[: 16 + (int.from_bytes(data[12:16], "little") + 7 & ~7) + data[4]]).reply_cookie == 1


def who_breaks_the_protocol_is_cut_off(stage: Stage) -> None:
    lies: tuple[bytes, ...] = (
        b"GET / HTTP/1.1\r\n\r\n",
        version1.build(HELLO)[:4] + b"\xff" * 12,
        version1.build(HELLO) + b"x" * 16,
        version1.build(HELLO) + version1.build(replace(HELLO, cookie=2, descriptors=1)),
    )
    for lie in lies:
        with raw() as connection:
            connection.sendall(lie)
            while connection.recv(1000):
                pass
    assert ask(stage.old(), message_bus.NameHasOwner("org.freedesktop.DBus")) == (True,)


CASES = (
    a_service_of_kdbus_is_called,
    a_service_of_d_bus_is_called,
    who_calls_goes_away_or_does_not_answer,
    signals_go_both_ways,
    descriptors_travel,
    who_takes_no_descriptors_gets_none,
    both_byte_orders_are_spoken,
    who_breaks_the_protocol_is_cut_off,
)


def main() -> None:
    failed = False
    for case in CASES:
        if sys.argv[2:] and case.__name__ not in sys.argv[2:]:
            continue
        name = case.__name__.replace("_", "-")
        try:
            with ExitStack() as stack:
                case(Stage(stack, sys.argv[1]))
        except Exception:
            failed = True
            print(f"not ok - {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
        else:
            print(f"ok - {name}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
