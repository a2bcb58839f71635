# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects of others, without a bus: calls out, replies in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdbus.dbus import proxy
from kdbus.dbus.errors import DBusError, ErrorReply, InvalidName, InvalidValue, Malformed
from kdbus.dbus.introspection import READWRITE, WRITE, Argument, Interface, Method, Node, Property, Signal, to_xml
from kdbus.dbus.message import Flag, error, method_call, method_return
from kdbus.dbus.values import Variant

PRINTER = Interface(
    "org.example.Printer",
    {"Print": Method("Print", (Argument("s"), Argument("u")), (Argument("u"),))},
    {"Printed": Signal("Printed", (Argument("u"),))},
    {"Volume": Property("Volume", "d", READWRITE), "Ink": Property("Ink", "u", WRITE)},
)
TARGET = proxy.Target("org.example.Printer", "/p", PRINTER)
CALL = replace(method_call("org.example.A", "/p", None, "M"), cookie=1, sender=":1.9")


def test_calls() -> None:
    wanted = method_call("org.example.Printer", "/p", "org.example.Printer", "Print", "su", ("x", 1))
    assert TARGET.call("Print", "x", 1) == wanted
    assert TARGET.call("Print", "x", 1, flags=Flag.NO_REPLY_EXPECTED).expects_reply is False
    with pytest.raises(InvalidName):
        TARGET.call("Nothing")
    with pytest.raises(InvalidValue):
        TARGET.call("Print", "x")


def test_properties() -> None:
    assert TARGET.get("Volume").body == ("org.example.Printer", "Volume")
    assert TARGET.set("Volume", 0.5).body == ("org.example.Printer", "Volume", Variant("d", 0.5))
    assert TARGET.get_all().body == ("org.example.Printer",)
    for name in ("Ink", "None"):
        with pytest.raises(InvalidName):
            TARGET.get(name)
    with pytest.raises(InvalidName):
        TARGET.set("None", 1)


def test_values_of_properties() -> None:
    assert proxy.value_in(method_return(CALL, "v", (Variant("u", 1),))) == 1
    assert proxy.values_in(method_return(CALL, "a{sv}", ({"a": Variant("u", 1)},))) == {"a": 1}
    for read in (proxy.value_in, proxy.values_in):
        with pytest.raises(Malformed):
            read(method_return(CALL, "s", ("x",)))
        with pytest.raises(Malformed):
            read(method_return(CALL))


def test_signals() -> None:
    wanted = "type='signal',sender='org.example.Printer',interface='org.example.Printer',member='Printed',path='/p'"
    assert str(TARGET.rule("Printed")) == wanted
    with pytest.raises(InvalidName):
        TARGET.rule("None")


@pytest.mark.parametrize(("destination", "path"), [("x", "/p"), ("org.example.A", "p")])
def test_an_object_has_a_name_and_a_path(destination: str, path: str) -> None:
    with pytest.raises(InvalidName):
        proxy.Target(destination, path, PRINTER)


def test_results() -> None:
    assert proxy.result(method_return(CALL)) is None
    assert proxy.result(method_return(CALL, "s", ("x",))) == "x"
    assert proxy.result(method_return(CALL, "su", ("x", 1))) == ("x", 1)
    with pytest.raises(ErrorReply) as caught:
        proxy.result(error(CALL, "org.example.Error.No", "no"))
    assert (caught.value.name, caught.value.text) == ("org.example.Error.No", "no")
    with pytest.raises(ErrorReply):
        proxy.result(replace(error(CALL, "org.example.Error.No"), signature="u", body=(1,)))


def test_introspection() -> None:
    assert proxy.introspect("org.example.A", "/p").member == "Introspect"
    reply = method_return(CALL, "s", (to_xml(Node({PRINTER.name: PRINTER})),))
    assert proxy.interface_in(reply, PRINTER.name) == PRINTER
    with pytest.raises(InvalidName):
        proxy.interface_in(reply, "org.example.Other")
    with pytest.raises(Malformed):
        proxy.interface_in(method_return(CALL, "u", (1,)), PRINTER.name)
    with pytest.raises(ErrorReply):
        proxy.interface_in(error(CALL, "org.example.Error.No"), PRINTER.name)
    assert issubclass(Malformed, DBusError) and not issubclass(ErrorReply, DBusError)
