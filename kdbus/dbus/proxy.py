# SPDX-License-Identifier: GPL-2.0-or-later
"""An object of another as seen from here, without anything that sends: the messages to it, and what replies mean.

The faces stand on it. Signatures come from an interface's description, which a service gives by introspection, or which
stands in the program (`interface_of` a service class).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdbus.dbus import names
from kdbus.dbus.errors import ErrorReply, InvalidName, InvalidValue, Malformed
from kdbus.dbus.introspection import INTROSPECTABLE, PROPERTIES, WRITE, Interface, Property, from_xml
from kdbus.dbus.message import NO_FLAGS, Flag, Message, MessageType, method_call
from kdbus.dbus.rule import Rule
from kdbus.dbus.values import Variant


@dataclass(frozen=True, slots=True)
class Target:
    """One interface of one object of one connection, well-known or unique."""

    destination: str
    path: str
    interface: Interface

    def __post_init__(self) -> None:
        """Raises InvalidName."""
        names.check_bus_name(self.destination)
        names.check_path(self.path)

    def call(self, member: str, *arguments: Any, flags: Flag = NO_FLAGS) -> Message:
        """The call of a method. Raises InvalidName: the interface has none of that name; InvalidValue: it takes another
        number of arguments."""
        method = self.interface.methods.get(member)
        if method is None:
            raise InvalidName(f"{self.interface.name} has no method {member!r}")
        if len(arguments) != len(method.inputs):
            raise InvalidValue(f"{member} takes {len(method.inputs)} arguments, not {len(arguments)}")
        return method_call(
            self.destination, self.path, self.interface.name, member, method.signature, arguments, flags=flags
        )

    def get(self, name: str) -> Message:
        """The call that reads a property. Raises InvalidName if there is none that can be read."""
        self._property(name, WRITE)
        return self._of_properties("Get", "ss", self.interface.name, name)

    def get_all(self) -> Message:
        """The call that reads all properties."""
        return self._of_properties("GetAll", "s", self.interface.name)

    def set(self, name: str, value: Any) -> Message:
        """The call that writes a property. Raises InvalidName."""
        about = self._property(name)
        return self._of_properties("Set", "ssv", self.interface.name, name, Variant(about.signature, value))

    def rule(self, signal: str) -> Rule:
        """The rule that fits a signal of the object. Raises InvalidName if the interface has none of that name."""
        if signal not in self.interface.signals:
            raise InvalidName(f"{self.interface.name} has no signal {signal!r}")
        return Rule(
            type=MessageType.SIGNAL,
            sender=self.destination,
            path=self.path,
            interface=self.interface.name,
            member=signal,
        )

    def _property(self, name: str, unfit: str = "") -> Property:
        about = self.interface.properties.get(name)
        if about is None or about.access == unfit:
            raise InvalidName(f"{self.interface.name} has no such property {name!r}")
        return about

    def _of_properties(self, member: str, signature: str, *arguments: Any) -> Message:
        return method_call(self.destination, self.path, PROPERTIES.name, member, signature, arguments)


def introspect(destination: str, path: str) -> Message:
    """The call that asks an object what it can do."""
    return method_call(destination, path, INTROSPECTABLE.name, "Introspect")


def interface_in(reply: Message, name: str) -> Interface:
    """The interface of that name in the reply to `introspect`. Raises ErrorReply, Malformed, and InvalidName if the
    object has no such interface."""
    text = result(reply)
    node = from_xml(text if isinstance(text, str) else "")
    if name not in node.interfaces:
        raise InvalidName(f"the object has no interface {name!r}, only {', '.join(node.interfaces)}")
    return node.interfaces[name]


def result(reply: Message) -> Any:
    """What a reply says: None, the only value, or a tuple of several. Raises ErrorReply if it is an error."""
    if reply.type == MessageType.ERROR:
        text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
        raise ErrorReply(reply.error_name or "", text)
    if len(reply.body) == 1:
        return reply.body[0]
    return reply.body or None


def value_in(reply: Message) -> Any:
    """The value in the reply to `Target.get`. Raises ErrorReply, and Malformed if there is none."""
    found = result(reply)
    if not isinstance(found, Variant):
        raise Malformed(f"a property of the signature {reply.signature!r}")
    return found.value


def values_in(reply: Message) -> dict[str, Any]:
    """The values in the reply to `Target.get_all`, by name. Raises as `value_in`."""
    found = result(reply)
    if reply.signature != "a{sv}":
        raise Malformed(f"properties of the signature {reply.signature!r}")
    return {name: variant.value for name, variant in found.items()}
