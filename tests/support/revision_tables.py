# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/revision-tables.md, made of the tables of all revisions.

    .venv/bin/python -m tests.support.revision_tables > docs/revision-tables.md

The same thing has one name in all revisions, and a number in each that has it. So one row for each item, flag and
failure, with a column for each revision, says what becomes of it between any two: the number in the one is exchanged
for that in the other. A table for each of twenty pairs would say the same ten times over.
"""

from __future__ import annotations

import errno
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

from broker import errors
from broker.recognition import NAMES, named
from kdbus.abi import final, revision2, revision3, revision4, revision219

TABLES: dict[str, ModuleType] = dict(zip(NAMES, (revision2, revision3, revision219, revision4, final), strict=True))
"""Of the ABI, by the name of the revision, in the order in which they came."""
NONE = "-"
_HEAD = """\
# Items, flags and errors in every revision

Made of the tables in `kdbus/abi` and `broker`, and compared with them by a test. `docs/revisions.md` says by whose
revision what is decided, and what becomes of contents.

Between any two revisions, one row holds for both directions: what the one calls by the number in its column, the other
gets by the number in its own. What has `-` in the receiver's column is left out, unless `docs/revisions.md` says what
takes its place. Version 4 is served as the final revision, which has three more. LIST_* were NAME_LIST_* before.

Errors are those of whoever makes the call, whatever the other side speaks. Not every revision has every case: which
are no error in one, or another error there, is in `docs/revisions.md`.

"""
_ITEM = "KDBUS_ITEM_"
_NOT_CALLS = (errors.KdbusError, errors.Injected)
_OTHER_NAMES = {
    124: "EMEDIUMTYPE",
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    errors.ERESTARTSYS: "EINTR, or the call is restarted",
}
"""What Python has no name for, or another one than the kernel's headers."""


def _names() -> list[str]:
    """Of all constants that say something, in the order in which they came."""
    return list(dict.fromkeys(name for table in TABLES.values() for name in table.CONSTANTS if name[0] != "_"))


def _numbers(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for name in names:
        found = (table.CONSTANTS.get(name) for table in TABLES.values())
        yield name.removeprefix("KDBUS_"), [NONE if number is None else f"{number:#x}" for number in found]


def _failures() -> Iterator[tuple[str, list[str]]]:
    """What goes wrong, in the first sentence of the error's own words, and its errno in each revision."""
    for kind in vars(errors).values():
        if not inspect.isclass(kind) or not issubclass(kind, errors.KdbusError) or kind in _NOT_CALLS:
            continue
        said = re.sub(r"\s+", " ", kind.__doc__ or "").split(". ")[0].rstrip(".").replace("|", "\\|")
        found = []
        for name in NAMES:
            error = kind()
            error.errnos = named(name).errnos
            number = errors.errno_of(error)
            found.append(_OTHER_NAMES.get(number) or errno.errorcode[number])
        yield said, found


def _table(title: str, first: str, rows: Iterable[tuple[str, list[str]]]) -> str:
    columns = [first, *NAMES]
    lines = [columns, ["---"] * len(columns), *([name, *cells] for name, cells in rows)]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def document() -> str:
    """All of docs/revision-tables.md."""
    names = _names()
    items = sorted((name for name in names if name.startswith(_ITEM)), key=_place)
    others = sorted((name for name in names if not name.startswith(_ITEM)), key=_family(names))
    return _HEAD + "\n".join(
        (
            _table("Items", "item", _numbers(items)),
            _table("Flags and other numbers", "name", _numbers(others)),
            _table("Errors", "what went wrong", _failures()),
        )
    )


def _place(name: str) -> int:
    """Where an item stands among others: by its number in the last revision that has it."""
    return [int(table.CONSTANTS[name]) for table in TABLES.values() if name in table.CONSTANTS][-1]


def _family(names: list[str]) -> Callable[[str], int]:
    """Sorts constants of one prefix together, where the first of them stands."""
    prefixes = [name.split("_")[1] for name in names]
    return lambda name: prefixes.index(name.split("_")[1])


if __name__ == "__main__":
    sys.stdout.write(document())
