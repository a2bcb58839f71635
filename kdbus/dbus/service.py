# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects of Python as objects of D-Bus.

A class says with decorators what of it others may use:

    @service.interface("org.example.Printer")
    class Printer:
        @service.method("su", "u")
        def Print(self, text: str, copies: int) -> int: ...

        @property
        @service.exposed("d")
        def Volume(self) -> float: ...

        Printed = service.Signal("u", "job")

`Objects` is where its instances stand, by path, and answers for them: `action` takes a call and says what to run and
how its outcome becomes the reply. It neither runs nor sends anything, so the blocking and the trio face share it, and a
method may be a coroutine function where the face awaits it. Introspection, properties and Peer come with every object
(D-Bus Specification, "Standard Interfaces").

Names on the bus are those in Python unless told otherwise; names of arguments are those of parameters. A setter makes a
property writable. Signals are messages: `Printer.Printed.message(path, 7)`, to be sent by whoever has a connection.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from kdbus.dbus import message, names
from kdbus.dbus.errors import ErrorReply, InvalidSignature, InvalidValue
from kdbus.dbus.introspection import (
    PEER,
    PROPERTIES,
    READ,
    READWRITE,
    STANDARD,
    Argument,
    Interface,
    Method,
    Node,
    Property,
    to_xml,
)
from kdbus.dbus.introspection import Signal as SignalDescription
from kdbus.dbus.message import Message
from kdbus.dbus.signature import split
from kdbus.dbus.values import Variant

_MARK: Final = "__dbus__"
_ERROR: Final = "org.freedesktop.DBus.Error."
FAILED: Final = _ERROR + "Failed"
INVALID_ARGUMENTS: Final = _ERROR + "InvalidArgs"
UNKNOWN_OBJECT: Final = _ERROR + "UnknownObject"
UNKNOWN_INTERFACE: Final = _ERROR + "UnknownInterface"
UNKNOWN_METHOD: Final = _ERROR + "UnknownMethod"
UNKNOWN_PROPERTY: Final = _ERROR + "UnknownProperty"
PROPERTY_READ_ONLY: Final = _ERROR + "PropertyReadOnly"

_F = TypeVar("_F", bound=Callable[..., Any])
_C = TypeVar("_C", bound=type)


def method(inputs: str = "", outputs: str = "", *, name: str | None = None) -> Callable[[_F], _F]:
    """Makes a function a method of D-Bus: the signatures of what goes in and comes out.

    It returns nothing, one value, or a tuple, as `outputs` has none, one or several types. Raises InvalidSignature,
    also if the function takes another number of arguments; InvalidName.
    """
    kinds, results = split(inputs), split(outputs)

    def mark(function: _F) -> _F:
        parameters = list(inspect.signature(function).parameters)[1:]
        if len(parameters) != len(kinds):
            raise InvalidSignature(f"{function.__name__} takes {parameters}, and {inputs!r} has {len(kinds)} types")
        arguments = tuple(Argument(str(kind), parameter) for kind, parameter in zip(kinds, parameters, strict=True))
        about = Method(
            names.check_member(name or function.__name__), arguments, tuple(Argument(str(k)) for k in results)
        )
        setattr(function, _MARK, about)
        return function

    return mark


def exposed(signature: str, *, name: str | None = None, emits: bool = False) -> Callable[[_F], _F]:
    """Makes the getter of a Python property (below `@property`) one of D-Bus, of one complete type.

    `emits`: the program promises to send `properties_changed` whenever it changes, so others need not ask again. Raises
    InvalidSignature and InvalidName.
    """
    if len(split(signature)) != 1:
        raise InvalidSignature(f"a property of {signature!r}, which is not one type")

    def mark(function: _F) -> _F:
        setattr(function, _MARK, Property(names.check_member(name or function.__name__), signature, emits=emits))
        return function

    return mark


class Signal:
    """A signal, as an attribute of a class."""

    def __init__(self, signature: str = "", *arguments: str, name: str = "") -> None:
        """`arguments`: their names, for introspection. Raises InvalidSignature and InvalidName."""
        kinds = [str(kind) for kind in split(signature)]
        called = [*arguments, *[""] * (len(kinds) - len(arguments))]
        if len(called) != len(kinds):
            raise InvalidSignature(f"{len(arguments)} names for the arguments {signature!r}")
        self._arguments = tuple(Argument(kind, each) for kind, each in zip(kinds, called, strict=True))
        self._name = name
        self.interface = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = names.check_member(self._name or name)

    @property
    def description(self) -> SignalDescription:
        """For introspection."""
        return SignalDescription(self._name, self._arguments)

    def message(self, path: str, *arguments: Any, destination: str | None = None) -> Message:
        """The signal from the object at `path`. Raises InvalidValue for another number of arguments; that they fit is
        found out when it is sent."""
        about = self.description
        return message.signal(path, self.interface, about.name, about.signature, arguments, destination=destination)


@dataclass(frozen=True, slots=True)
class _Exposed:
    """An interface, and the attributes of the class behind its methods and properties."""

    interface: Interface
    methods: dict[str, str]
    properties: dict[str, str]


def interface(name: str) -> Callable[[_C], _C]:
    """Makes a class one whose instances have this interface, with what is marked in it and in its bases. Raises
    InvalidName."""
    names.check_interface(name)

    def expose(class_: _C) -> _C:
        found = _Exposed(Interface(name), {}, {})
        for attribute in dir(class_):
            value = inspect.getattr_static(class_, attribute)
            if isinstance(value, Signal):
                value.interface = name
                found.interface.signals[value.description.name] = value.description
                continue
            about = getattr(value.fget if isinstance(value, property) else value, _MARK, None)
            if isinstance(about, Method):
                found.interface.methods[about.name] = about
                found.methods[about.name] = attribute
            elif isinstance(about, Property):
                access = READWRITE if value.fset else READ
                found.interface.properties[about.name] = replace(about, access=access)
                found.properties[about.name] = attribute
        setattr(class_, _MARK, found)
        return class_

    return expose


def _exposed(class_: type) -> _Exposed:
    found = getattr(class_, _MARK, None)
    if not isinstance(found, _Exposed):
        raise TypeError(f"{class_.__name__} has no interface; decorate it with service.interface")
    return found


def interface_of(class_: type) -> Interface:
    """The interface of a class, which a proxy can use instead of asking. Raises TypeError if it has none."""
    return _exposed(class_).interface


def properties_changed(path: str, instance: object, *changed: str) -> Message:
    """The standard signal that these properties of the object at `path` have changed, with their values."""
    about = _exposed(type(instance))
    values = {name: _value(about, instance, name) for name in changed}
    return message.signal(path, PROPERTIES.name, "PropertiesChanged", "sa{sv}as", (about.interface.name, values, []))


def _value(about: _Exposed, instance: object, name: str) -> Variant:
    if name not in about.properties:
        raise ErrorReply(UNKNOWN_PROPERTY, f"{about.interface.name} has no property {name!r}")
    return Variant(about.interface.properties[name].signature, getattr(instance, about.properties[name]))


@dataclass(frozen=True, slots=True)
class Action:
    """What a call asks for: something to run, whose result may have to be awaited, and what to make of the outcome."""

    call: Message
    run: Callable[[], Any]
    outputs: str = ""

    def returned(self, result: Any) -> Message:
        """The reply. Raises InvalidValue if the result is not of as many values as there should be."""
        count = len(split(self.outputs))
        body = () if count == 0 and result is None else (result,) if count == 1 else result
        if not isinstance(body, tuple) or len(body) != count:
            raise InvalidValue(f"{self.call.member} returned {type(result).__name__}, and should {self.outputs!r}")
        return message.method_return(self.call, self.outputs, body)

    def failed(self, error: BaseException) -> Message:
        """The reply that says so: an ErrorReply as it is, anything else as Failed."""
        if isinstance(error, ErrorReply):
            return message.error(self.call, error.name, error.text)
        return message.error(self.call, FAILED, f"{type(error).__name__}: {error}".replace("\0", ""))


class Objects:
    """The objects of one connection."""

    def __init__(self, machine_id: Callable[[], str]) -> None:
        """`machine_id` gives 32 hexadecimal digits that are the machine's (machine-id(5))."""
        self._machine_id = machine_id
        self._paths: dict[str, dict[str, tuple[_Exposed, object]]] = {}

    def add(self, path: str, *instances: object) -> None:
        """Let these answer at a path, each for its interface. Raises InvalidName; ValueError: an interface is there
        already; TypeError: a class has none."""
        found: dict[str, tuple[_Exposed, object]] = {}
        for instance in instances:
            about = _exposed(type(instance))
            if about.interface.name in (found | self._paths.get(path, {})):
                raise ValueError(f"{about.interface.name} is at {path} already")
            found[about.interface.name] = (about, instance)
        self._paths.setdefault(names.check_path(path), {}).update(found)

    def remove(self, path: str) -> None:
        """Nobody answers there any more. Raises KeyError if nobody did."""
        del self._paths[path]

    def action(self, call: Message) -> Action:
        """What to do about a call. For what is not there, something that raises the ErrorReply."""
        assert call.path is not None and call.member is not None
        try:
            return self._find(call, call.path, call.member)
        except ErrorReply as error:
            return Action(call, _raising(error))

    def _find(self, call: Message, path: str, member: str) -> Action:
        there = self._paths.get(path, {})
        if not there and call.interface != PEER.name and not self._children(path):
            raise ErrorReply(UNKNOWN_OBJECT, f"there is no object at {path}")
        if call.interface not in (None, *there, *STANDARD):
            raise ErrorReply(UNKNOWN_INTERFACE, f"{path} has no interface {call.interface}")
        for name, (about, instance) in there.items():
            if call.interface in (None, name) and member in about.methods:
                bound = getattr(instance, about.methods[member])
                return _checked(call, about.interface.methods[member], partial(bound, *call.body))
        for standard in STANDARD.values():
            if call.interface in (None, standard.name) and member in standard.methods:
                run = partial(getattr(self, f"_{member}"), path, *call.body)
                return _checked(call, standard.methods[member], run)
        raise ErrorReply(UNKNOWN_METHOD, f"{path} has no method {member} in {call.interface or 'any interface'}")

    def _children(self, path: str) -> list[str]:
        start = path.rstrip("/") + "/"
        below = (other[len(start) :] for other in self._paths if other.startswith(start) and other != start)
        return sorted({rest.partition("/")[0] for rest in below})

    def _of(self, path: str, interface_name: str) -> tuple[_Exposed, object]:
        try:
            return self._paths.get(path, {})[interface_name]
        except KeyError:
            raise ErrorReply(UNKNOWN_INTERFACE, f"{path} has no interface {interface_name!r}") from None

    # The standard methods, by their names on the bus.

    def _Introspect(self, path: str) -> str:
        interfaces = {name: about.interface for name, (about, _) in self._paths.get(path, {}).items()}
        return to_xml(Node({**interfaces, **STANDARD}, tuple(self._children(path))))

    def _Ping(self, path: str) -> None:
        pass

    def _GetMachineId(self, path: str) -> str:
        return self._machine_id()

    def _Get(self, path: str, interface_name: str, name: str) -> Variant:
        return _value(*self._of(path, interface_name), name)

    def _Set(self, path: str, interface_name: str, name: str, value: Variant) -> None:
        about, instance = self._of(path, interface_name)
        current = about.interface.properties.get(name)
        if current is None:
            raise ErrorReply(UNKNOWN_PROPERTY, f"{interface_name} has no property {name!r}")
        if current.access == READ:
            raise ErrorReply(PROPERTY_READ_ONLY, f"{interface_name}.{name} cannot be set")
        if value.signature != current.signature:
            raise ErrorReply(INVALID_ARGUMENTS, f"{interface_name}.{name} is {current.signature}")
        setattr(instance, about.properties[name], value.value)

    def _GetAll(self, path: str, interface_name: str) -> dict[str, Variant]:
        if interface_name in STANDARD:
            return {}
        about, instance = self._of(path, interface_name)
        return {name: _value(about, instance, name) for name in about.properties}


def _checked(call: Message, about: Method, run: Callable[[], Any]) -> Action:
    if call.signature != about.signature:
        raise ErrorReply(INVALID_ARGUMENTS, f"{about.name} takes {about.signature!r}, not {call.signature!r}")
    return Action(call, run, about.reply_signature)


def _raising(error: ErrorReply) -> Callable[[], Any]:
    def run() -> Any:
        raise error

    return run
