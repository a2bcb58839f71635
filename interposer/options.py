# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person may ask of `kdbus run`, and how options are read.

Options end at the first word that is none. A value is the next word, or follows `=`. There are few options, and a
parser library would cost more time than starting the program does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from interposer.errors import UsageError, quoted

if TYPE_CHECKING:
    from tracing.faults import Fault
    from tracing.record import Tracer

REVISIONS = ("2", "3", "219", "4", "final")
"""What `--revision` takes (`broker.recognition.NAMES`, which need not be imported for that)."""


VERBOSE_OPTIONS = {"-v": False, "--verbose": False}
UNDER_TRACE_OPTIONS = {
    **dict.fromkeys(("--mode", "--make-bus", "--revision", "--inject"), True),
    **dict.fromkeys(("-f", "--linger"), False),
}
JOINED_TRACE_OPTIONS = {"-p": True, "--pid": True, "--domain": True}
"""Options that several subcommands have, as `parse` takes them: of all that run a program; of those that trace one; of
`kdbus trace` where the program runs already."""


class RunOptions(NamedTuple):
    """The options of `kdbus run`.

    No dataclass, as importing `dataclasses` would take a fifth of the time until the program starts.
    """

    flows: bool = True
    """Serve hot calls natively; off for comparison, and to debug."""
    self_serve: bool = False
    """Let receivers take and free plain messages by themselves."""
    linger: bool = False
    """Serve until the last process of the tree has ended, instead of ending with the program."""
    statistics: bool = False
    """Tell on stderr, at the end, how many calls were served, and where."""
    buses: tuple[str, ...] = ()
    """Names of buses that exist from the start."""
    revision: str | None = None
    """The revision that every program is taken to speak, instead of recognising it."""
    tracer: Tracer | None = None
    """Who wants to see every call."""
    faults: tuple[Fault, ...] = ()
    """What calls are to meet."""


def see_help(subcommand: str) -> str:
    """What to do about words that `kdbus SUBCOMMAND` does not understand."""
    return f"see `kdbus {subcommand} --help`"


def too_many(attempt: str, word: str, subcommand: str) -> UsageError:
    """The error about a word for which nothing is left; an option there stands behind what ended the options."""
    if word.startswith("-"):
        return UsageError(attempt, f"{quoted(word)} comes too late", f"options stand in front; {see_help(subcommand)}")
    return UsageError(attempt, f"{quoted(word)} is too many", see_help(subcommand))


def suggestion(word: str, known: Iterable[str]) -> str:
    """Which of `known` somebody may have meant who wrote `word`; empty if none is like it."""
    # Worth its time when something is wrong already, and only then.
    from difflib import get_close_matches

    return "".join(f"did you mean {nearest}?" for nearest in get_close_matches(word, list(known), 1))


class Given(dict[str, list[str]]):
    """The options that were given: by name, the values in the order of the command line, empty for one without."""

    def last(self, name: str) -> str | None:
        """The value that counts where an option makes sense once; None if it was not given."""
        return self[name][-1] if name in self else None


def parse(subcommand: str, words: Sequence[str], known: Mapping[str, bool | None]) -> tuple[Given, list[str]]:
    """Split `words` into options, and what follows them.

    `known`: by option, whether it takes a value; None for one that may have a value behind `=`. Raises UsageError.
    """
    given = Given()
    rest = list(words)
    attempt = f"reading the options of `kdbus {subcommand}`"
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name not in known:
            advice = suggestion(name, known) or see_help(subcommand)
            raise UsageError(attempt, f"there is no {quoted(name)}", advice)
        if known[name] and not equals:
            if not rest:
                raise UsageError(attempt, f"{name} needs a value", see_help(subcommand))
            value = rest.pop(0)
        elif equals and known[name] is False:
            raise UsageError(attempt, f"{name} takes no value", see_help(subcommand))
        given.setdefault(name, []).append(value)
    return given, rest
