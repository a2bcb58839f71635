# SPDX-License-Identifier: GPL-2.0-or-later
"""Match rules: which messages somebody wants to see, as D-Bus writes it down, and what of that kdbus can be asked for.

Source: D-Bus Specification, "Match Rules", and dbus-daemon where that is vague: a rule has at most 1024 bytes; outside
quotes a backslash only escapes an apostrophe; spaces before a key and a comma at the end are ignored.

kdbus cannot evaluate a rule. It can compare bloom filters with masks, so a rule becomes one or more sets of entries
(`alternatives`) of which at least one is in the filter of every message that the rule fits. What comes through besides
has to be thrown away by asking `Rule.fits`. Three conditions are left to that, as a mask would lose messages:

* arguments but the first, since the sd-bus of 2015 does not put them into its filters (`kdbus.dbus.bloom`);
* `path_namespace='/'`, which everything fits;
* `destination` and `eavesdrop`: a broadcast has no destination.

`arg0path` fits in two directions: arguments below the rule's path, and, where they end with a slash, those above.
sd-bus asked for the first only. Here each path above is an alternative of its own.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Final

from kdbus.dbus import names
from kdbus.dbus.bloom import MAX_ARGUMENTS, TYPE_NAMES
from kdbus.dbus.errors import InvalidName, InvalidRule
from kdbus.dbus.message import Message, MessageType
from kdbus.dbus.signature import split

MAX_LENGTH: Final = 1024
"""Bytes of a rule (dbus-daemon)."""

_TYPES: Final = {name: kind for kind, name in TYPE_NAMES.items()}
_ARGUMENT = re.compile(r"arg(0|[1-9][0-9]?)(path)?", re.ASCII)
_CHECKS: Final = {
    "sender": names.check_bus_name,
    "destination": names.check_bus_name,
    "interface": names.check_interface,
    "member": names.check_member,
    "path": names.check_path,
    "path_namespace": names.check_path,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A match rule; what is None is not asked for.

    `arguments` and `argument_paths` are (number, text) pairs, `arg0namespace` the beginning of a name, whose elements
    are whole. `eavesdrop` is kept and changes nothing here: on kdbus a monitor sees everything, and nobody else
    does (`kdbus proxy` makes one for who asks).
    """

    type: MessageType | None = None
    sender: str | None = None
    interface: str | None = None
    member: str | None = None
    path: str | None = None
    path_namespace: str | None = None
    destination: str | None = None
    arg0namespace: str | None = None
    arguments: tuple[tuple[int, str], ...] = ()
    argument_paths: tuple[tuple[int, str], ...] = ()
    eavesdrop: bool = False

    def __str__(self) -> str:
        """The rule in D-Bus's words."""
        pairs = [("type", TYPE_NAMES[self.type])] if self.type else []
        pairs += [(key, getattr(self, key)) for key in (*_CHECKS, "arg0namespace") if getattr(self, key) is not None]
        pairs += [(f"arg{number}", text) for number, text in self.arguments]
        pairs += [(f"arg{number}path", text) for number, text in self.argument_paths]
        pairs += [("eavesdrop", "true")] if self.eavesdrop else []
        return ",".join(f"{key}={_quoted(value)}" for key, value in pairs)

    def fits(self, message: Message, sender_names: Container[str] = ()) -> bool:
        """Whether the rule fits a message. `sender_names`: the well-known names of its sender."""
        if self.type not in (None, message.type):
            return False
        for key in ("interface", "member", "path", "destination"):
            if getattr(self, key) not in (None, getattr(message, key)):
                return False
        if self.sender not in (None, message.sender) and self.sender not in sender_names:
            return False
        if self.path_namespace is not None and not _is_below(message.path, self.path_namespace, "/"):
            return False
        if self.arg0namespace is not None and not _is_below(_argument(message, 0, "s"), self.arg0namespace, "."):
            return False
        if any(_argument(message, number, "s") != text for number, text in self.arguments):
            return False
        return all(_is_path_for(_argument(message, number, "so"), text) for number, text in self.argument_paths)


def _quoted(value: str) -> str:
    """A value in quotes; an apostrophe stands outside of them, escaped."""
    return "'" + value.replace("'", "'\\''") + "'"


def _argument(message: Message, number: int, types: str) -> Any:
    """The argument of that number, None if there is none or it has another type."""
    kinds = split(message.signature)
    return message.body[number] if number < len(kinds) and kinds[number].code in types else None


def _is_below(text: str | None, start: str, separator: str) -> bool:
    """Whether the text is `start`, or begins with it and a separator."""
    return text is not None and f"{text}{separator}".startswith(start.rstrip(separator) + separator)


def _is_path_for(text: str | None, wanted: str) -> bool:
    """Whether one of the two is the other, or ends with a slash and is where the other begins."""
    if text is None:
        return False
    if wanted.endswith("/") and text.startswith(wanted):
        return True
    return text == wanted or (text.endswith("/") and wanted.startswith(text))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Keys and values of a rule, quotes and escapes resolved."""
    position = 0
    while True:
        while text[position : position + 1].isspace():
            position += 1
        if position == len(text):
            return
        key, equals, _ = text[position:].partition("=")
        if not equals:
            raise InvalidRule(f"the match rule {text!r} has a key without a value")
        position += len(key) + 1
        value = ""
        quoted = False
        while position < len(text) and (quoted or text[position] != ","):
            if text[position] == "'":
                quoted = not quoted
            elif not quoted and text.startswith("\\'", position):
                value += "'"
                position += 1
            else:
                value += text[position]
            position += 1
        if quoted:
            raise InvalidRule(f"the match rule {text!r} ends within quotes")
        yield key.strip(), value
        position += 1
        if position > len(text):
            return


def parse(text: str) -> Rule:
    """The rule in a text such as "type='signal',interface='org.example.Printer'"; the empty one fits everything.

    Raises InvalidRule for what dbus-daemon refuses: unknown or repeated keys, values that are no names, `path` beside
    `path_namespace`, arguments above 63.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_LENGTH:
        raise InvalidRule(f"a match rule of {len(text)} characters; {MAX_LENGTH} bytes are allowed")
    found: dict[str, Any] = {}
    arguments: dict[str, list[tuple[int, str]]] = {"arguments": [], "argument_paths": []}
    seen = set()
    for key, value in _pairs(text):
        if key in seen:
            raise InvalidRule(f"the match rule {text!r} has {key} twice")
        seen.add(key)
        argument = _ARGUMENT.fullmatch(key)
        if argument and int(argument[1]) < MAX_ARGUMENTS:
            arguments["argument_paths" if argument[2] else "arguments"].append((int(argument[1]), value))
        else:
            found[key] = _value(text, key, value)
    if {"path", "path_namespace"} <= seen:
        raise InvalidRule(f"the match rule {text!r} has both path and path_namespace")
    found.update((key, tuple(pairs)) for key, pairs in arguments.items())
    return Rule(**found)


def _value(text: str, key: str, value: str) -> Any:
    """What a key's value means. Raises InvalidRule."""
    try:
        if key == "type":
            return _TYPES[value]
        if key == "eavesdrop":
            return {"true": True, "false": False}[value]
        if key == "arg0namespace":
            # One element is enough here, which makes no name: "org" is a namespace.
            names.check_bus_name(value if "." in value else f"{value}.x")
            return value
        return _CHECKS[key](value)
    except (KeyError, InvalidName) as error:
        raise InvalidRule(f"the match rule {text!r} has {key}={value!r}, which D-Bus does not know") from error


def alternatives(rule: Rule) -> list[list[str]]:
    """Sets of entries of bloom filters: every broadcast that the rule fits has all entries of at least one of them.

    An empty set: no mask can help, every broadcast has to be looked at. Two broadcasts that the rule does not fit may
    come through as well, by their entries or by chance.
    """
    common = []
    if rule.type is not None:
        common.append(f"message-type:{TYPE_NAMES[rule.type]}")
    common += [f"{key}:{getattr(rule, key)}" for key in ("interface", "member", "path") if getattr(rule, key)]
    if rule.path_namespace not in (None, "/"):
        common.append(f"path-slash-prefix:{rule.path_namespace}")
    if rule.arg0namespace is not None:
        common.append(f"arg0-dot-prefix:{rule.arg0namespace}")
    common += [f"arg{number}:{text}" for number, text in rule.arguments if number == 0]
    for number, text in rule.argument_paths:
        if number == 0:
            above = [text[: end + 1] for end, letter in enumerate(text[:-1]) if letter == "/"]
            exact = "arg0-slash-prefix" if text.endswith("/") else "arg0"
            return [[*common, f"{exact}:{text}"], *([*common, f"arg0:{path}"] for path in above)]
    return [common]
