# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person may ask of `kdbus run`, and how options are read.

Options end at the first word that is none. A value is the next word, or follows `=`. There are few options, and a
parser library would cost more time than starting the program does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from interposer.errors import UsageError


class RunOptions(NamedTuple):
    """The options of `kdbus run`.

    No dataclass, as importing `dataclasses` would take a fifth of the time until the program starts.
    """

    flows: bool = True
    """Serve hot calls natively; off for comparison, and to debug."""
    linger: bool = False
    """Serve until the last process of the tree has ended, instead of ending with the program."""
    statistics: bool = False
    """Tell on stderr, at the end, how many calls were served, and where."""
    buses: tuple[str, ...] = ()
    """Names of buses that exist from the start."""


def parse(
    subcommand: str,
    words: Sequence[str],
    known: Mapping[str, bool],
    repeatable: Mapping[str, list[str]] | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Split `words` into options with their values, empty for those that take none, and what follows them.

    `known`: by option, whether it takes a value; the last one counts. `repeatable`: lists that get every value that
    such an option is given. Raises UsageError.
    """
    given: dict[str, str] = {}
    rest = list(words)
    attempt = f"reading the options of `kdbus {subcommand}`"
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name not in known:
            raise UsageError(attempt, f"there is no {name!r}", "see --help")
        if known[name] and not equals:
            if not rest:
                raise UsageError(attempt, f"{name!r} needs a value", "see --help")
            value = rest.pop(0)
        elif equals and not known[name]:
            raise UsageError(attempt, f"{name!r} takes no value", "see --help")
        given[name] = value
        if repeatable is not None and name in repeatable:
            repeatable[name].append(value)
    return given, rest
