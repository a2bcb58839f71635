# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that answer, without a bus: calls in, replies out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdbus.dbus import service
from kdbus.dbus.errors import DBusError, ErrorReply, InvalidSignature, InvalidValue
from kdbus.dbus.introspection import READ, READWRITE, Argument, Method, Property, Signal, from_xml
from kdbus.dbus.message import Message, MessageType, method_call
from kdbus.dbus.values import Variant

NAME = "org.example.Printer"
PATH = "/org/example/Printer"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"


class Counted:
    """What the class below inherits."""

    @service.method("", "u")
    def Count(self) -> int:
        return 7


@service.interface(NAME)
class Printer(Counted):
    def __init__(self) -> None:
        self._volume = 0.5

    @service.method("su", "u")
    def Print(self, text: str, copies: int) -> int:
        return len(text) * copies

    @service.method("s", "si", name="Split")
    def split(self, text: str) -> tuple[str, int]:
        return text[:1], len(text)

    @service.method()
    def Jam(self) -> None:
        raise ErrorReply("org.example.Error.Jammed", "out of luck")

    @service.method()
    def Break(self) -> None:
        raise RuntimeError("broken")

    @service.method("", "as")
    def Wrong(self) -> int:
        return 1

    @property
    @service.exposed("d", emits=True)
    def Volume(self) -> float:
        return self._volume

    @Volume.setter
    def Volume(self, value: float) -> None:
        self._volume = value

    @property
    @service.exposed("au", name="Jobs")
    def jobs(self) -> list[int]:
        return [1, 2]

    Printed = service.Signal("us", "job")

    def hidden(self) -> None:
        """Not marked, so nobody calls it."""


@service.interface("org.example.Other")
class Other:
    @service.method("", "s")
    def Print(self) -> str:
        return "other"


@pytest.fixture
def objects() -> service.Objects:
    found = service.Objects(lambda: "0" * 32)
    found.add(PATH, Printer())
    return found


def ask(
    objects: service.Objects,
    member: str,
    signature: str = "",
    body: tuple[Any, ...] = (),
    *,
    interface: str | None = NAME,
    path: str = PATH,
) -> Message:
    """The reply to a call."""
    call = replace(method_call(None, path, interface, member, signature, body), cookie=3, sender=":1.9")
    action = objects.action(call)
    try:
        reply = action.returned(action.run())
    except Exception as error:
        reply = action.failed(error)
    assert reply.reply_cookie == 3 and reply.destination == ":1.9"
    return reply


def test_the_interface_of_a_class() -> None:
    about = service.interface_of(Printer)
    assert about.methods["Print"] == Method("Print", (Argument("s", "text"), Argument("u", "copies")), (Argument("u"),))
    assert set(about.methods) == {"Print", "Split", "Jam", "Break", "Wrong", "Count"}
    assert about.properties == {
        "Volume": Property("Volume", "d", READWRITE, emits=True),
        "Jobs": Property("Jobs", "au", READ, emits=False),
    }
    assert about.signals == {"Printed": Signal("Printed", (Argument("u", "job"), Argument("s")))}


def test_methods_return_values(objects: service.Objects) -> None:
    assert ask(objects, "Print", "su", ("abc", 2)).body == (6,)
    assert ask(objects, "Split", "s", ("abc",)).body == ("a", 3)
    assert ask(objects, "Count").body == (7,)
    assert ask(objects, "Print", "su", ("abc", 2), interface=None).body == (6,)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"member": "Jam"}, "org.example.Error.Jammed"),
        ({"member": "Break"}, service.FAILED),
        ({"member": "hidden"}, service.UNKNOWN_METHOD),
        ({"member": "split", "signature": "s", "body": ("x",)}, service.UNKNOWN_METHOD),
        ({"member": "Print", "signature": "s", "body": ("x",)}, service.INVALID_ARGUMENTS),
        ({"member": "Print"}, service.INVALID_ARGUMENTS),
        ({"member": "Print", "interface": "org.example.None"}, service.UNKNOWN_INTERFACE),
        ({"member": "Print", "path": "/elsewhere"}, service.UNKNOWN_OBJECT),
        ({"member": "Print", "path": "/org"}, service.UNKNOWN_INTERFACE),
    ],
)
def test_calls_that_fail(objects: service.Objects, arguments: dict[str, Any], error: str) -> None:
    reply = ask(objects, **arguments)
    assert (reply.type, reply.error_name) == (MessageType.ERROR, error)


def test_what_fails_says_why(objects: service.Objects) -> None:
    assert ask(objects, "Jam").body == ("out of luck",)
    assert ask(objects, "Break").body == ("RuntimeError: broken",)


def test_a_result_of_another_number_of_values_is_the_services_fault(objects: service.Objects) -> None:
    action = objects.action(replace(method_call(None, PATH, NAME, "Split", "s", ("x",)), cookie=1))
    for result in (None, ("a",), "ab", ["a", 1]):
        with pytest.raises(InvalidValue):
            action.returned(result)
    nothing = objects.action(replace(method_call(None, PATH, NAME, "Jam"), cookie=1))
    with pytest.raises(InvalidValue):
        nothing.returned(1)


def test_properties(objects: service.Objects) -> None:
    def properties(member: str, signature: str, *body: Any) -> Message:
        return ask(objects, member, signature, body, interface=PROPERTIES)

    assert properties("Get", "ss", NAME, "Volume").body == (Variant("d", 0.5),)
    assert properties("Set", "ssv", NAME, "Volume", Variant("d", 1.0)).body == ()
    assert properties("GetAll", "s", NAME).body == ({"Volume": Variant("d", 1.0), "Jobs": Variant("au", [1, 2])},)
    assert properties("GetAll", "s", PEER).body == ({},)
    for member, signature, body, error in [
        ("Get", "ss", (NAME, "None"), service.UNKNOWN_PROPERTY),
        ("Get", "ss", ("org.example.None", "Volume"), service.UNKNOWN_INTERFACE),
        ("GetAll", "s", ("org.example.None",), service.UNKNOWN_INTERFACE),
        ("Set", "ssv", (NAME, "None", Variant("d", 1.0)), service.UNKNOWN_PROPERTY),
        ("Set", "ssv", (NAME, "Jobs", Variant("au", [])), service.PROPERTY_READ_ONLY),
        ("Set", "ssv", (NAME, "Volume", Variant("s", "loud")), service.INVALID_ARGUMENTS),
    ]:
        assert properties(member, signature, *body).error_name == error


def test_introspection(objects: service.Objects) -> None:
    node = from_xml(ask(objects, "Introspect", interface=INTROSPECTABLE).body[0])
    assert set(node.interfaces) == {NAME, PROPERTIES, INTROSPECTABLE, PEER}
    assert node.interfaces[NAME].methods["Print"].signature == "su"
    objects.add(PATH + "/tray/1", Other())
    objects.add("/", Other())
    for path, children in (("/", ("org",)), ("/org", ("example",)), (PATH, ("tray",)), (PATH + "/tray", ("1",))):
        node = from_xml(ask(objects, "Introspect", interface=INTROSPECTABLE, path=path).body[0])
        assert node.children == children


def test_every_path_has_a_peer(objects: service.Objects) -> None:
    assert ask(objects, "Ping", interface=PEER, path="/elsewhere").body == ()
    assert ask(objects, "GetMachineId", interface=PEER).body == ("0" * 32,)


def test_several_interfaces_at_a_path(objects: service.Objects) -> None:
    objects.add(PATH, Other())
    assert ask(objects, "Print", interface="org.example.Other").body == ("other",)
    assert ask(objects, "Print", "su", ("abc", 2)).body == (6,)
    with pytest.raises(ValueError):
        objects.add(PATH, Other())
    objects.remove(PATH)
    assert ask(objects, "Count").error_name == service.UNKNOWN_OBJECT


def test_signals_are_messages() -> None:
    message = Printer.Printed.message(PATH, 7, "done")
    assert (message.interface, message.member, message.signature) == (NAME, "Printed", "us")
    with pytest.raises(InvalidValue):
        Printer.Printed.message(PATH, 7)
    changed = service.properties_changed(PATH, Printer(), "Volume")
    assert changed.body == (NAME, {"Volume": Variant("d", 0.5)}, [])


def test_what_cannot_be_a_service() -> None:
    with pytest.raises(InvalidSignature):
        service.method("s")(Printer.hidden)
    with pytest.raises(InvalidSignature):
        service.exposed("ss")
    with pytest.raises(InvalidSignature):
        service.Signal("s", "one", "two")
    with pytest.raises(DBusError):
        service.interface("org")
    with pytest.raises(TypeError):
        service.interface_of(Counted)
