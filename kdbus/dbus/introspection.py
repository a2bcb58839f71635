# SPDX-License-Identifier: GPL-2.0-or-later
"""What an object can do, as a value, and as the XML that Introspect returns.

Source: D-Bus Specification, "Introspection Data Format". Elements and attributes that are unknown are ignored, as are
annotations but the one that says whether changes of a property are told. What is known has to be right: a name that is
none, a signature that is none, an access that is none, and all XML that is not well-formed is Malformed. The XML comes
from a peer, so entities are refused, which could grow without bound, and its size and depth are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from kdbus.dbus import names
from kdbus.dbus.errors import DBusError, Malformed
from kdbus.dbus.signature import single

MAX_SIZE: Final = 1 << 20
"""Characters of XML that are parsed."""
MAX_DEPTH: Final = 8
"""Elements within each other. The format has five; a node inside a node is not looked into."""

READ, WRITE, READWRITE = "read", "write", "readwrite"
_EMITS: Final = "org.freedesktop.DBus.Property.EmitsChangedSignal"
DOCTYPE: Final = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a method or signal: the signature of one complete type, and a name, which may be empty."""

    signature: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    """A method and what goes in and comes out."""

    name: str
    inputs: tuple[Argument, ...] = ()
    outputs: tuple[Argument, ...] = ()

    @property
    def signature(self) -> str:
        """The signature of a call."""
        return signature_of(self.inputs)

    @property
    def reply_signature(self) -> str:
        """The signature of a reply."""
        return signature_of(self.outputs)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal and its arguments."""

    name: str
    arguments: tuple[Argument, ...] = ()

    @property
    def signature(self) -> str:
        return signature_of(self.arguments)


@dataclass(frozen=True, slots=True)
class Property:
    """A property; `access` is READ, WRITE or READWRITE. `emits`: PropertiesChanged tells when it changes."""

    name: str
    signature: str
    access: str = READ
    emits: bool = True


@dataclass(frozen=True, slots=True)
class Interface:
    """Everything of one interface, by name."""

    name: str
    methods: dict[str, Method] = field(default_factory=dict)
    signals: dict[str, Signal] = field(default_factory=dict)
    properties: dict[str, Property] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """An object: its interfaces by name, and the names of what is directly below its path."""

    interfaces: dict[str, Interface] = field(default_factory=dict)
    children: tuple[str, ...] = ()


def signature_of(arguments: Iterable[Argument]) -> str:
    """The signature of all arguments together."""
    return "".join(argument.signature for argument in arguments)


def _standard(name: str, *methods: Method, signals: tuple[Signal, ...] = ()) -> Interface:
    return Interface(name, {each.name: each for each in methods}, {each.name: each for each in signals})


INTROSPECTABLE: Final = _standard(
    "org.freedesktop.DBus.Introspectable", Method("Introspect", (), (Argument("s", "xml_data"),))
)
PEER: Final = _standard(
    "org.freedesktop.DBus.Peer", Method("Ping"), Method("GetMachineId", (), (Argument("s", "machine_uuid"),))
)
PROPERTIES: Final = _standard(
    "org.freedesktop.DBus.Properties",
    Method("Get", (Argument("s", "interface_name"), Argument("s", "property_name")), (Argument("v", "value"),)),
    Method("Set", (Argument("s", "interface_name"), Argument("s", "property_name"), Argument("v", "value"))),
    Method("GetAll", (Argument("s", "interface_name"),), (Argument("a{sv}", "properties"),)),
    signals=(
        Signal(
            "PropertiesChanged",
            (
                Argument("s", "interface_name"),
                Argument("a{sv}", "changed_properties"),
                Argument("as", "invalidated_properties"),
            ),
        ),
    ),
)
STANDARD: Final = {each.name: each for each in (INTROSPECTABLE, PEER, PROPERTIES)}
"""The interfaces that every object has, by name."""


def to_xml(node: Node) -> str:
    """The XML of an object."""
    lines = ["<node>"]
    for interface in node.interfaces.values():
        lines.append(f" <interface name={quoteattr(interface.name)}>")
        for method in interface.methods.values():
            lines.append(f"  <method name={quoteattr(method.name)}>")
            lines += [_argument(argument, "in") for argument in method.inputs]
            lines += [_argument(argument, "out") for argument in method.outputs]
            lines.append("  </method>")
        for signal in interface.signals.values():
            lines.append(f"  <signal name={quoteattr(signal.name)}>")
            lines += [_argument(argument) for argument in signal.arguments]
            lines.append("  </signal>")
        for each in interface.properties.values():
            start = f'  <property name={quoteattr(each.name)} type="{each.signature}" access="{each.access}"'
            silent = f'>\n   <annotation name="{_EMITS}" value="false"/>\n  </property>'
            lines.append(start + ("/>" if each.emits else silent))
        lines.append(" </interface>")
    lines += [f" <node name={quoteattr(child)}/>" for child in node.children]
    return DOCTYPE + "\n".join([*lines, "</node>", ""])


def _argument(argument: Argument, direction: str = "") -> str:
    name = f" name={quoteattr(argument.name)}" if argument.name else ""
    about = f' direction="{direction}"' if direction else ""
    return f'   <arg type="{argument.signature}"{name}{about}/>'


class _Reader:
    """Takes the events of an XML parser and collects an object from them."""

    def __init__(self) -> None:
        self.interfaces: dict[str, Interface] = {}
        self.children: list[str] = []
        self._path: list[str] = []
        self._interface = Interface("")
        self._member = ""
        self._inputs: list[Argument] = []
        self._outputs: list[Argument] = []

    def start(self, element: str, attributes: dict[str, str]) -> None:
        self._path.append(element)
        if len(self._path) > MAX_DEPTH:
            raise Malformed(f"introspection data with more than {MAX_DEPTH} elements within each other")
        match self._path:
            case ["node", "node"]:
                if name := attributes.get("name"):
                    self.children.append(name)
            case ["node", "interface"]:
                self._interface = Interface(names.check_interface(attributes.get("name", "")))
                self.interfaces[self._interface.name] = self._interface
            case ["node", "interface", "method" | "signal"]:
                self._member = names.check_member(attributes.get("name", ""))
                self._inputs, self._outputs = [], []
            case ["node", "interface", "method" | "signal" as kind, "arg"]:
                signature = str(single(attributes.get("type", "")))
                direction = attributes.get("direction") or ("in" if kind == "method" else "out")
                if direction not in ("in", "out"):
                    raise Malformed(f"introspection data with an argument of the direction {direction!r}")
                into = self._inputs if direction == "in" else self._outputs
                into.append(Argument(signature, attributes.get("name", "")))
            case ["node", "interface", "property"]:
                name = names.check_member(attributes.get("name", ""))
                access = attributes.get("access", "")
                if access not in (READ, WRITE, READWRITE):
                    raise Malformed(f"introspection data with a property of the access {access!r}")
                self._member = name
                self._interface.properties[name] = Property(name, str(single(attributes.get("type", ""))), access)
            case ["node", "interface", "property", "annotation"] if attributes.get("name") == _EMITS:
                about = self._interface.properties[self._member]
                emits = attributes.get("value") in ("true", "invalidates")
                self._interface.properties[self._member] = replace(about, emits=emits)

    def end(self, element: str) -> None:
        match self._path:
            case ["node", "interface", "method"]:
                method = Method(self._member, tuple(self._inputs), tuple(self._outputs))
                self._interface.methods[method.name] = method
            case ["node", "interface", "signal"]:
                self._interface.signals[self._member] = Signal(self._member, tuple(self._inputs + self._outputs))
        self._path.pop()


def from_xml(text: str) -> Node:
    """The object that the XML describes. Raises Malformed."""
    if len(text) > MAX_SIZE:
        raise Malformed(f"introspection data of {len(text)} characters")
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise Malformed(f"introspection data that is no XML: {error}") from None
    except DBusError as error:
        raise Malformed(f"introspection data: {error}") from None
    return Node(reader.interfaces, tuple(reader.children))


def _refuse_entity(name: str, *_: object) -> None:
    raise Malformed(f"introspection data that declares the entity {name!r}")
