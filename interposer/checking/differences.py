# SPDX-License-Identifier: GPL-2.0-or-later
"""Which revision lacks what, and which answers a failure by another number: read from the tables, written nowhere else.

Version 4 has the commands, items and flags of the final revision, and is served as that.
"""

from __future__ import annotations

from functools import cache

from broker import errors
from broker.errors import KdbusError, errno_of
from broker.recognition import named
from kdbus.abi.revision import REVISIONS, Kind


@cache
def lacking(name: str) -> tuple[str, ...]:
    """The revisions that do not have the command, item or flag of that name in the header."""
    command, item = name.removeprefix("KDBUS_CMD_"), name.removeprefix("KDBUS_ITEM_")
    found = []
    for revision in REVISIONS:
        if command != name:
            has = command in revision.requests
        elif item != name:
            has = item in Kind.__members__ and revision.number_of(Kind[item]) is not None
        else:
            has = name in revision.constants
        if not has:
            found.append(revision.name)
    return tuple(found)


@cache
def other_numbers(command: str, revision: str) -> tuple[str, ...]:
    """The revisions that have the command of `revision` under another number, and so do not know this one."""
    numbers = {other.name: other.requests.get(command) for other in REVISIONS}
    mine = numbers[revision]
    return tuple(name for name, number in numbers.items() if number is not None and number != mine)


@cache
def unlike(meaning: str, revision: str) -> tuple[str, ...]:
    """The revisions in which that member of `broker.behaviour.Behaviour` is another than in `revision`."""
    mine = getattr(named(revision), meaning)
    return tuple(other.name for other in REVISIONS if getattr(named(other.name), meaning) != mine)


_STRICT = ("219", "final")
"""Revisions that refuse what a command does not take; earlier ones mostly ignore it."""
_RENAMED = {"CONN_UPDATE": "UPDATE", "NAME_LIST": "LIST"}


@cache
def refusing(command: str, kind: str, revision: str) -> tuple[str, ...]:
    """Other revisions than `revision` that have both the command and the kind of item, and refuse it there (EINVAL)."""
    if kind not in Kind.__members__:
        return ()
    found = []
    for other in _STRICT:
        tables = {each.name: each for each in named(other).commands.values()}
        taking = tables.get(_RENAMED.get(command, command))
        known = named(other).revision.number_of(Kind[kind]) is not None
        if other != revision and taking is not None and known and Kind[kind] not in taking.items:
            found.append(other)
    return tuple(found)


@cache
def other_errnos(error: str, number: int, revision: str) -> dict[int, list[str]]:
    """Other numbers than `number` that other revisions than `revision` answer with for the failure, and which."""
    kind = getattr(errors, error, None)
    found: dict[int, list[str]] = {}
    if not isinstance(kind, type) or not issubclass(kind, KdbusError) or kind is errors.Injected:
        return found
    for other in REVISIONS:
        failure = kind()
        failure.errnos = named(other.name).errnos
        if other.name != revision and errno_of(failure) != number:
            found.setdefault(errno_of(failure), []).append(other.name)
    return found
