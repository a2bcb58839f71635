# SPDX-License-Identifier: GPL-2.0-or-later
"""Which revision lacks what, answers a failure by another number, or means something else: read from the tables.

Version 4 is served as the final revision, as nothing in a request tells them apart. Here it stands by itself, in
numbers and in meaning, since a program that runs on one of them may rely on what the other does not do. The little that
is no member of `broker.behaviour.Behaviour`, as it is code there, is written down below (`_MORE`).

Reference: revisions.md; final-revision.md, 4, 5.2, 5.4 and 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Final

from broker import errors, limits
from broker.behaviour import Behaviour
from broker.command import Command
from broker.errors import KdbusError, errno_of
from broker.recognition import NAMES, named
from kdbus.abi import revision4
from kdbus.abi.revision import Kind, Revision

FEW_DESCRIPTORS: Final = limits.DESCRIPTORS_PER_USER
"""In one message, where there may not be many."""
_FINAL, _219 = named("final"), named("219")
_VERSION4 = replace(
    _219,
    revision=Revision("4", revision4.CONSTANTS, revision4.REQUESTS, revision4.STRUCTS),
    commands=_FINAL.commands,
    errnos={
        error: number
        for error, number in _FINAL.errnos.items()
        if error not in (errors.ReplyNotExpected, errors.BeyondFile)
    },
    results_as_list=False,
    losses_wake=True,
    ids_of_domain=True,
)
"""Not to be served: only what is compared here is its."""
_ALL: Mapping[str, Behaviour] = {name: _VERSION4 if name == "4" else named(name) for name in NAMES}
_UNTIL_219, _SINCE_4 = frozenset(("2", "3", "219")), frozenset(("4", "final"))
_MORE: Mapping[str, Mapping[str, object]] = {
    meaning: {name: name in those for name in NAMES}
    for meaning, those in {
        "losses_fail": _UNTIL_219,
        "waits_in_flags": _UNTIL_219,
        "counts_messages": _UNTIL_219,
        "many_descriptors": _UNTIL_219,
        "drops_by_priority": _UNTIL_219,
        "cookie_0": frozenset(("final",)),
    }.items()
} | {
    "form of CREDS": {
        "2": "40 bytes with the thread's start",
        **dict.fromkeys(("3", "219"), "32 bits for each number"),
        **dict.fromkeys(_SINCE_4, "64 bits for each number"),
    },
    "form of AUXGROUPS": {
        **dict.fromkeys(("3", "219"), "32 bits for each group"),
        **dict.fromkeys(("2", *_SINCE_4), "64 bits for each group"),
    },
}
"""By name and revision."""


@cache
def lacking(name: str) -> tuple[str, ...]:
    """The revisions that do not have the command, item or flag of that name in the header."""
    command, item = name.removeprefix("KDBUS_CMD_"), name.removeprefix("KDBUS_ITEM_")
    found = []
    for other, behaviour in _ALL.items():
        revision = behaviour.revision
        if command != name:
            has = command in revision.requests
        elif item != name:
            has = item in Kind.__members__ and revision.number_of(Kind[item]) is not None
        else:
            has = name in revision.constants
        if not has:
            found.append(other)
    return tuple(found)


@cache
def other_numbers(command: str, revision: str) -> tuple[str, ...]:
    """The revisions that have the command of `revision` under another number, and so do not know this one."""
    numbers = {name: behaviour.revision.requests.get(command) for name, behaviour in _ALL.items()}
    mine = numbers[revision]
    return tuple(name for name, number in numbers.items() if number is not None and number != mine)


def value(meaning: str, revision: str) -> object:
    """A member of `broker.behaviour.Behaviour`, or one of `_MORE`, in that revision."""
    return _MORE[meaning][revision] if meaning in _MORE else getattr(_ALL[revision], meaning)


@cache
def unlike(meaning: str, revision: str) -> tuple[str, ...]:
    """The revisions in which `value` is another than in `revision`."""
    mine = value(meaning, revision)
    return tuple(other for other in NAMES if value(meaning, other) != mine)


def below(meaning: str, count: int, revision: str) -> tuple[str, ...]:
    """The revisions of which a limit is lower than `count`, unless that of `revision` is as well."""
    low = tuple(other for other in NAMES if getattr(_ALL[other], meaning) < count)
    return () if revision in low else low


_STRICT = ("219", "4", "final")
"""Revisions that refuse what a command does not take; earlier ones mostly ignore it."""
_RENAMED = {"CONN_UPDATE": "UPDATE", "NAME_LIST": "LIST"}
_CONCEDED = ("BUS_MAKE", "ATTACH_FLAGS_RECV")
"""What the final revision refuses, and is let through for version 4's sake: who asks for it was built for that."""


@cache
def refusing(command: str, kind: str, revision: str) -> tuple[str, ...]:
    """Other revisions than `revision` that have both the command and the kind of item, and refuse it there (EINVAL)."""
    if revision == "final" and (command, kind) == _CONCEDED:
        return ("final",)
    if kind not in Kind.__members__:
        return ()
    found = []
    for other in _STRICT:
        taking = _command(other, command)
        known = _ALL[other].revision.number_of(Kind[kind]) is not None
        if other != revision and taking is not None and known and Kind[kind] not in taking.items:
            found.append(other)
    return tuple(found)


@cache
def refusing_two(command: str, kind: str, revision: str) -> tuple[str, ...]:
    """Other revisions than `revision` in which the command takes one item of that kind, and refuses a second one."""
    found = []
    for other in _STRICT:
        taking = _command(other, command)
        rule = None if taking is None or kind not in Kind.__members__ else taking.items.get(Kind[kind])
        if other != revision and rule is not None and not rule.repeats:
            found.append(other)
    return tuple(found)


def _command(revision: str, name: str) -> Command | None:
    tables = {each.name: each for each in _ALL[revision].commands.values()}
    return tables.get(_RENAMED.get(name, name))


@cache
def other_errnos(error: str, number: int, revision: str, command: str = "") -> dict[int, list[str]]:
    """Other numbers than `number` that other revisions than `revision` answer with for the failure, and which."""
    kind = getattr(errors, error, None)
    found: dict[int, list[str]] = {}
    if not isinstance(kind, type) or not issubclass(kind, KdbusError) or kind is errors.Injected:
        return found
    for other, behaviour in _ALL.items():
        if command == "SEND" and kind in _TWICE:
            failure: KdbusError = _TWICE[other == "final"]()
        else:
            failure = kind()
        failure.errnos = behaviour.errnos
        if other != revision and errno_of(failure) != number:
            found.setdefault(errno_of(failure), []).append(other)
    return found


_TWICE = (errors.DuplicateItem, errors.RepeatedItem)
"""An item of a message that is there twice, until version 4 and in the final revision."""
