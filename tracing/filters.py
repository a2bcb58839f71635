# SPDX-License-Identifier: GPL-2.0-or-later
"""Which records are shown: `-e KEY=[!]VALUE[,VALUE...]`.

Several expressions must all hold; of one expression's values, one must. `!` turns an expression around. Records that
tell what is missing (dropped ones) are always shown.

A word that names nothing is an error that lists what there is, as a filter with a slip of the pen would show nothing,
and look like a program that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from kdbus.abi.decode import COMMANDS
from tracing.errnos import NUMBERS, OF_KDBUS, errno_name
from tracing.record import Event, Phase
from tracing.shown import Shown, names_in


class BadFilter(ValueError):
    """An expression that cannot be understood; the text says why, and which words there are."""


def _words(shown: Shown) -> set[str]:
    record = shown.record
    return {record.command} if record.event is Event.CALL else {record.event.value}


def _ids(shown: Shown) -> set[str]:
    record = shown.record
    return {str(number) for number in (record.connection, record.peer) if number is not None}


def _errnos(shown: Shown) -> set[str]:
    return {errno_name(shown.record.errno)} if shown.record.errno else set()


def _directions(shown: Shown) -> set[str]:
    record = shown.record
    if record.command == "RECV" or (record.command == "SEND" and record.phase is Phase.RESUMED):
        return {"received"}
    return {"sent"} if record.command == "SEND" else set()


_EVENTS = tuple(event.value for event in Event if event not in (Event.CALL, Event.DROPPED))


@dataclass(frozen=True, slots=True)
class _Key:
    of: Callable[[Shown], set[str]]
    words: tuple[str, ...] = ()
    """What there is; empty if any word may be."""
    likely: tuple[str, ...] = ()
    """Where those are too many to be listed, the ones that are."""
    meant: Callable[[str], str] = str
    """What a word stands for."""


_KEYS = {
    "command": _Key(_words, (*COMMANDS, *_EVENTS)),
    "errno": _Key(_errnos, tuple(NUMBERS), OF_KDBUS, lambda name: errno_name(NUMBERS[name])),
    "connection": _Key(_ids),
    "name": _Key(names_in),
    "direction": _Key(_directions, ("sent", "received")),
}


@dataclass(frozen=True, slots=True)
class _Expression:
    of: Callable[[Shown], set[str]]
    values: frozenset[str]
    negated: bool

    def holds(self, shown: Shown) -> bool:
        return bool(self.of(shown) & self.values) is not self.negated


class Filter:
    """What is shown."""

    def __init__(self, expressions: Iterable[str] = (), *, failed: bool = False, succeeded: bool = False) -> None:
        """`failed`, `succeeded`: only those records. Raises BadFilter."""
        self._expressions = [_parse(text) for text in expressions]
        self._failed = failed
        self._succeeded = succeeded

    def takes(self, shown: Shown) -> bool:
        """Whether the record is shown."""
        record = shown.record
        if record.event is Event.DROPPED:
            return True
        has_failed = bool(record.errno or record.error)
        if (self._failed and not has_failed) or (self._succeeded and (has_failed or record.phase is Phase.WAITS)):
            return False
        return all(expression.holds(shown) for expression in self._expressions)


def _parse(text: str) -> _Expression:
    key, equals, rest = text.partition("=")
    if not equals:
        key, rest = "command", text
    if equals and (key.startswith("!") or key.endswith("!")):
        raise BadFilter(f"the ! of {text!r} belongs before the values: {key.strip('!')}=!{rest}")
    key = _ALIASES.get(key, key)
    if key not in _KEYS:
        raise BadFilter(f"there is no key {key!r}{_advice(key, _Key(_words, tuple(_KEYS)))}")
    negated = rest.startswith("!")
    values = [value for value in rest.removeprefix("!").split(",") if value]
    if not values:
        raise BadFilter(f"{key}= has no value{_advice('', _KEYS[key])}")
    known = {word.upper(): word for word in _KEYS[key].words}
    found = []
    for value in values:
        word = value.upper()
        if key == "command":
            word = _WRITTEN.get(word, word.removeprefix("KDBUS_CMD_"))
        if key == "connection" and not value.isdecimal():
            raise BadFilter(f"{value!r} is no connection id; they are numbers")
        if known and word not in known:
            raise BadFilter(f"there is no {key} {value!r}{_advice(value, _KEYS[key])}")
        found.append(_KEYS[key].meant(known.get(word, value)))
    return _Expression(_KEYS[key].of, frozenset(found), negated)


_ALIASES = {"trace": "command", "t": "command"}
"""What strace calls it."""
_WRITTEN = {"MMAP": "MAP"}
"""What lines of the trace call an event otherwise."""
_MANY = 30


def _advice(word: str, key: _Key) -> str:
    if len(key.words) <= _MANY:
        return f"; there are {', '.join(key.words)}" if key.words else ""
    near = get_close_matches(word.upper(), key.likely, 3)
    return f"; is it {' or '.join(near)}?" if near else f"; kdbus has {', '.join(key.likely)}"
