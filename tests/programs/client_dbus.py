# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus through the client library: proxies, services, signals, and peers that lie."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace

import kdbus
from kdbus.dbus import proxy, service, version1
from kdbus.dbus.blocking import Connection, Proxy
from kdbus.dbus.errors import ErrorReply, InvalidName, InvalidValue, Malformed
from kdbus.dbus.message import Flag, Message, method_call, method_return, signal
from kdbus.dbus.values import Variant
from kdbus.dbus.version2 import build, parse
from kdbus.dbus.versions import CLASSIC, GVARIANT, Version, version_of
from tests.programs.client_support import PATIENCE, Scene, case, fails, main

NAME = "org.example.Printer"
PATH = "/org/example/Printer"


@service.interface(NAME)
class Printer:
    def __init__(self) -> None:
        self.volume = 0.5
        self.printed: list[str] = []

    @service.method("su", "u")
    def Print(self, text: str, copies: int) -> int:
        self.printed += [text] * copies
        return len(self.printed)

    @service.method("ay", "ay")
    def Echo(self, content: bytes) -> bytes:
        return content

    @service.method("h", "h")
    def Pass(self, file: kdbus.Descriptor) -> kdbus.Descriptor:
        os.write(file.fileno(), b"seen")
        return file

    @service.method("", "i")
    def Wrong(self) -> str:
        return "no number"

    @service.method()
    def Break(self) -> None:
        raise ErrorReply("org.example.Error.Broken", "as ever")

    @service.method()
    async def Later(self) -> None:
        raise AssertionError("nobody awaits it here")

    @property
    @service.exposed("d")
    def Volume(self) -> float:
        return self.volume

    @Volume.setter
    def Volume(self, value: float) -> None:
        self.volume = value

    Printed = service.Signal("us", "job", "text")


def connect(scene: Scene, version: Version = GVARIANT) -> Connection:
    return Connection(scene.connect(attach_receive=kdbus.Attach.NAMES), version=version)


def serving(scene: Scene, *instances: object, name: str = NAME) -> Connection:
    """A service that answers, in a thread, until it is called for the last time (`Quit`) or the case ends."""
    bus = connect(scene)
    bus.acquire_name(name)
    bus.objects.add(PATH, *instances)

    def serve() -> None:
        while bus.process(PATIENCE).member != "Quit":
            pass

    thread = threading.Thread(target=serve)
    thread.start()

    def stop() -> None:
        with kdbus.connect(scene.bus.name, revision=scene.revision) as last:
            Connection(last).send(method_call(name, PATH, None, "Quit", flags=Flag.NO_REPLY_EXPECTED))
        thread.join()

    scene.stack.callback(stop)
    return bus


@case
def a_proxy_calls_a_service(scene: Scene) -> None:
    printer = Printer()
    serving(scene, printer)
    bus = connect(scene)
    remote = bus.proxy(NAME, PATH, NAME)
    assert remote.Print("text", 2) == 2
    assert printer.printed == ["text", "text"]
    assert remote.get("Volume") == 0.5
    remote.set("Volume", 0.75)
    assert remote.get_all() == {"Volume": 0.75}
    assert remote.call("Print", "more", 1, flags=Flag.NO_REPLY_EXPECTED) is None
    assert remote.Print("", 0) == 3
    described = bus.proxy(bus.unique_name, PATH, service.interface_of(Printer))
    assert not hasattr(described, "Nothing")


@case
def a_call_fails(scene: Scene) -> None:
    serving(scene, Printer())
    bus = connect(scene)
    remote = bus.proxy(NAME, PATH, NAME)
    failing: list[tuple[Callable[[], object], str]] = [
        (remote.Break, "org.example.Error.Broken"),
        (remote.Wrong, service.FAILED),
        (remote.Later, service.FAILED),
        (lambda: bus.proxy(NAME, "/none", NAME), service.UNKNOWN_OBJECT),
    ]
    for call, name in failing:
        try:
            call()
        except ErrorReply as error:
            assert error.name == name, error
        else:
            raise AssertionError(f"no {name}")
    wrong: list[Callable[[], object]] = [
        lambda: bus.proxy(NAME, PATH, "org.example.None"),
        lambda: remote.call("None"),
    ]
    for call in wrong:
        try:
            call()
        except InvalidName:
            continue
        raise AssertionError("no InvalidName")
    fails(kdbus.NotFound, errno.ESRCH, lambda: bus.proxy("org.example.Nobody", PATH, NAME))


@case
def large_values_go_as_memfds(scene: Scene) -> None:
    serving(scene, Printer())
    remote = connect(scene).proxy(NAME, PATH, service.interface_of(Printer))
    for size in (0, 100, 600_000, 5_000_000):
        content = os.urandom(16) * (size // 16)
        assert remote.Echo(content) == content


def assert_descriptor_travels(remote: Proxy) -> None:
    """The service writes into a pipe, and gives its end back."""
    reading, writing = os.pipe()
    try:
        remote.Pass(writing).close()
        assert os.read(reading, 10) == b"seen"
    finally:
        os.close(reading)
        os.close(writing)


@case
def descriptors_travel(scene: Scene) -> None:
    serving(scene, Printer())
    remote = connect(scene).proxy(NAME, PATH, service.interface_of(Printer))
    assert_descriptor_travels(remote)


@case
def classic_messages_are_answered_in_kind(scene: Scene) -> None:
    printer = Printer()
    service_side = serving(scene, printer)
    bus = connect(scene, CLASSIC)
    remote = bus.proxy(NAME, PATH, NAME)
    assert remote.Print("text", 2) == 2
    assert remote.get_all() == {"Volume": 0.5}
    for size in (0, 600_000, 5_000_000):
        content = os.urandom(16) * (size // 16)
        assert remote.Echo(content) == content
    assert_descriptor_travels(remote)
    try:
        remote.Break()
    except ErrorReply as error:
        assert error.name == "org.example.Error.Broken"
    else:
        raise AssertionError("no error")
    with connect(scene).subscribe("member='Printed',arg1='this'") as printed:
        bus.send(Printer.Printed.message(PATH, 1, "not this"))
        bus.send(Printer.Printed.message(PATH, 2, "this"))
        assert printed.receive(PATIENCE).body == (2, "this")
    # What goes over the bus is of the version that was asked for, and so is the answer.
    witness = scene.connect()
    bus.send(method_call(f":1.{witness.id}", PATH, NAME, "Print", flags=Flag.NO_REPLY_EXPECTED))
    with witness.receive(PATIENCE) as message:
        assert version_of(message.payload) == CLASSIC
    destination = service_side.unique_name
    for version, data in (
        (CLASSIC, version1.build(replace(method_call(destination, PATH, NAME, "Print", "su", ("", 0)), cookie=7))),
        (GVARIANT, build(replace(method_call(destination, PATH, NAME, "Print", "su", ("", 0)), cookie=7))),
    ):
        with witness.call(service_side.peer.id, data, cookie=7, timeout=PATIENCE) as answer:
            assert version_of(answer.payload) == version


@case
def there_are_two_versions(scene: Scene) -> None:
    try:
        Connection(scene.connect(), version=3)  # type: ignore[arg-type]
    except InvalidValue as error:
        assert "1 (classic) and 2 (GVariant)" in str(error)
    else:
        raise AssertionError("a third version")


@case
def signals_come_to_those_who_want_them(scene: Scene) -> None:
    sender, receiver = connect(scene), connect(scene)
    sender.acquire_name(NAME)
    remote = receiver.proxy(NAME, PATH, service.interface_of(Printer))
    with (
        remote.subscribe("Printed") as printed,
        receiver.subscribe("arg0='x',arg0path='/y'") as never,
        receiver.subscribe("path_namespace='/org',interface='org.freedesktop.DBus.Properties'") as changed,
    ):
        sender.send(Printer.Printed.message("/elsewhere", 1, "not this"))
        sender.send(Printer.Printed.message(PATH, 2, "this"))
        sender.send(service.properties_changed(PATH, Printer(), "Volume"))
        found = printed.receive(PATIENCE)
        assert found.body == (2, "this") and found.sender == sender.unique_name
        assert changed.receive(PATIENCE).body == (NAME, {"Volume": Variant("d", 0.5)}, [])
        fails(kdbus.TimedOut, errno.ETIMEDOUT, lambda: never.receive(0))
    sender.send(Printer.Printed.message(PATH, 3, "too late"))
    assert receiver.peer.receive_nowait() is None


@case
def owners_of_names_change(scene: Scene) -> None:
    watcher, owner = connect(scene), connect(scene)
    with (
        watcher.subscribe("type='signal',member='NameOwnerChanged',arg0='org.example.A'") as names,
        watcher.subscribe("sender='org.freedesktop.DBus',arg1=''") as all_,
    ):
        owner.acquire_name("org.example.A")
        owner.peer.release_name("org.example.A")
        other = connect(scene)
        assert names.receive(PATIENCE).body == ("org.example.A", "", owner.unique_name)
        assert names.receive(PATIENCE).body == ("org.example.A", owner.unique_name, "")
        assert all_.receive(PATIENCE).body == ("org.example.A", "", owner.unique_name)
        assert all_.receive(PATIENCE).body == (other.unique_name, "", other.unique_name)


def raw(message: Message) -> bytes:
    return build(replace(message, cookie=1))


@case
def what_is_not_d_bus_is_ignored(scene: Scene) -> None:
    liar, receiver = scene.connect(), connect(scene)
    call = method_call(None, PATH, NAME, "Print", "su", ("x", 1), flags=Flag.NO_REPLY_EXPECTED)
    liar.send(receiver.peer.id, b"nonsense")
    liar.send(receiver.peer.id, version1.build(replace(call, cookie=1))[:-1])
    liar.send(receiver.peer.id, raw(call)[:-1])
    liar.send(receiver.peer.id, raw(call), payload_type=7)
    liar.send(receiver.peer.id, raw(replace(call, descriptors=1)))
    liar.send(receiver.peer.id, raw(replace(call, signature="h", body=(0,))))
    liar.send(receiver.peer.id, raw(replace(call, sender=":1.77")))
    assert receiver.process(PATIENCE).sender == f":1.{liar.id}"
    fails(kdbus.TimedOut, errno.ETIMEDOUT, lambda: receiver.process(0))


@case
def a_reply_that_lies_is_told(scene: Scene) -> None:
    liar, client = scene.connect(), connect(scene)

    def lie(answer: Callable[[Message], bytes]) -> None:
        with liar.receive(PATIENCE) as request:
            liar.reply(request, answer(parse(request.payload)))

    lies: list[Callable[[Message], bytes]] = [
        lambda call: b"nonsense",
        lambda call: raw(signal("/", "a.b", "S")),
        lambda call: raw(method_return(replace(call, cookie=77))),
    ]
    for answer in lies:
        thread = threading.Thread(target=lie, args=(answer,))
        thread.start()
        try:
            client.call(method_call(f":1.{liar.id}", PATH, NAME, "Print"), PATIENCE)
        except Malformed:
            pass
        else:
            raise AssertionError("a lie was believed")
        finally:
            thread.join()


@case
def only_some_messages_can_be_sent_or_called(scene: Scene) -> None:
    bus = connect(scene)
    call = method_call(bus.unique_name, PATH, NAME, "Print")
    wrong: list[Callable[[], object]] = [
        lambda: bus.send(call),
        lambda: bus.call(replace(call, flags=Flag.NO_REPLY_EXPECTED)),
        lambda: bus.send(signal("/", "a.b", "S", "u", ("x",))),
    ]
    for attempt in wrong:
        try:
            attempt()
        except InvalidValue:
            continue
        raise AssertionError("no InvalidValue")
    assert proxy.introspect(bus.unique_name, PATH).destination == bus.unique_name


if __name__ == "__main__":
    main()
