# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that somebody wants calls to meet: the words of `--inject`, as in `SEND:errno=ENOBUFS:every=3`.

First the commands, then, each behind a colon, what shall happen and when. As with `-e`, the words are strace's where
strace has them, and a word that means nothing is an error that lists what there is.

Calls are counted for each fault and each process, from 1, as strace counts them: a fault's count then does not depend
on what other programs do meanwhile. What is counted are the calls that the fault could hit: `lost` counts broadcasts,
`incomplete` messages with descriptors, `die` calls that have succeeded, and of RECV those that have brought a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum

from kdbus.abi.decode import COMMANDS
from tracing.errnos import NUMBERS

_UNITS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_LONGEST_NS = 60 * _UNITS["s"]
_MANY = 30
_COMM = 15
"""How many characters of its name the kernel keeps for a process."""


class BadFault(ValueError):
    """Words that cannot be understood; the text says why, and which words there are."""


class Effect(Enum):
    """What becomes of a call; the value is the word for it."""

    FAIL = "errno"
    """It fails with an errno, and has no other effect."""
    LOSE = "lost"
    """The broadcast that would be received is lost and counted, as if the queue had been full when it was sent."""
    INCOMPLETE = "incomplete"
    """No descriptor of the message can be installed: they are negative numbers."""
    DIE = "die"
    """It succeeds, and the process is killed before it returns."""


_EFFECTS = {effect.value: effect for effect in Effect}
_OF_RECV = (Effect.LOSE, Effect.INCOMPLETE)
_WORDS = (*_EFFECTS, "delay", "when", "every", "first", "name", "process")
_WITHOUT_VALUE = tuple(effect.value for effect in Effect if effect is not Effect.FAIL)
_WHEN = re.compile(r"([1-9][0-9]{0,8})(?:(\+)([1-9][0-9]{0,8})?)?", re.ASCII)
_TIME = re.compile(r"([0-9]{1,9})(us|ms|s)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fault:
    """One `--inject`."""

    text: str
    """As it was given."""
    commands: frozenset[str]
    effect: Effect | None = None
    """None: nothing but a delay."""
    errno: int = 0
    delay_ns: int = 0
    """How long the call waits before it is served."""
    first: int = 1
    last: int | None = None
    step: int = 1
    name: str = ""
    """Only calls of the connection that owns it; empty for all."""
    process: str = ""
    """Only calls of processes of that name (`/proc/PID/comm`), or with `!` in front of all others; empty for all."""

    @property
    def is_early(self) -> bool:
        """Whether it is decided before the call is served, by nothing but the call itself."""
        return bool(self.delay_ns) or self.effect is Effect.FAIL

    def is_for(self, process: str) -> bool:
        """Whether it is for processes of that name."""
        wanted = self.process.removeprefix("!")[:_COMM]
        return not wanted or (process == wanted) is not self.process.startswith("!")

    def hits(self, number: int) -> bool:
        """Whether it is for the call of that number, counted from 1."""
        before_the_end = self.last is None or number <= self.last
        return number >= self.first and before_the_end and (number - self.first) % self.step == 0


def parse(text: str) -> Fault:
    """The fault that `text` asks for. Raises BadFault."""
    commands, *parts = text.split(":")
    names = [name for name in commands.split(",") if name]
    if not names:
        raise BadFault(f"{text!r} names no command{_advice('', COMMANDS)}")
    found = frozenset(_known("command", name, COMMANDS) for name in names)
    given: dict[str, str] = {}
    for part in parts:
        word, equals, value = part.partition("=")
        _known("word", word, _WORDS)
        if word in given:
            raise BadFault(f"{word} is given twice in {text!r}")
        if bool(equals) is (word in _WITHOUT_VALUE) or (equals and not value):
            raise BadFault(f"{word} takes no value" if word in _WITHOUT_VALUE else f"{word}= needs a value")
        given[word] = value
    effects = [_EFFECTS[word] for word in given if word in _EFFECTS]
    if len(effects) > 1:
        raise BadFault(f"{text!r} has {' and '.join(effect.value for effect in effects)}, a call meets one of them")
    if not effects and "delay" not in given:
        raise BadFault(f"{text!r} does not say what shall happen; there are {', '.join(_EFFECTS)}, delay")
    effect = effects[0] if effects else None
    if "delay" in given and effect not in (None, Effect.FAIL):
        raise BadFault(f"delay goes with errno alone; give {effect.value} an --inject of its own")
    if effect in _OF_RECV and found != {"RECV"}:
        raise BadFault(f"{effect.value} is for RECV alone")
    first, last, step = _times(given)
    return Fault(
        text,
        found,
        effect,
        NUMBERS[_known("errno", given["errno"], NUMBERS)] if "errno" in given else 0,
        _nanoseconds(given["delay"]) if "delay" in given else 0,
        first,
        last,
        step,
        given.get("name", ""),
        given.get("process", ""),
    )


def _times(given: dict[str, str]) -> tuple[int, int | None, int]:
    """Which calls: from which on, up to which, and every how manieth."""
    chosen = [word for word in ("when", "every", "first") if word in given]
    if len(chosen) > 1:
        raise BadFault(f"{' and '.join(chosen)} both say which calls are meant")
    if not chosen:
        return 1, None, 1
    word, value = chosen[0], given[chosen[0]]
    match = _WHEN.fullmatch(value)
    if match is None or (word != "when" and match[2]):
        form = "a number from 1, N+ or N+STEP" if word == "when" else "a number from 1"
        raise BadFault(f"{word}={value} is not {form}")
    number = int(match[1])
    if word == "every":
        return number, None, number
    if word == "first":
        return 1, number, 1
    return (number, None, int(match[3] or 1)) if match[2] else (number, number, 1)


def _nanoseconds(value: str) -> int:
    match = _TIME.fullmatch(value)
    if match is None or int(match[1]) * _UNITS[match[2]] > _LONGEST_NS:
        raise BadFault(f"delay={value} is no time up to 60 s, such as 500us, 20ms or 2s")
    return int(match[1]) * _UNITS[match[2]]


def _known(kind: str, word: str, words: Iterable[str]) -> str:
    """`word` as it is spelt. Raises BadFault where there is none."""
    found = {each.upper(): each for each in words}.get(word.upper())
    if found is None:
        raise BadFault(f"there is no {kind} {word!r}{_advice(word, words)}")
    return found


def _advice(word: str, words: Iterable[str]) -> str:
    known: Sequence[str] = list(words)
    nearest = get_close_matches(word.upper(), [each.upper() for each in known], 1)
    meant = [each for each in known if each.upper() in nearest]
    advice = f"; did you mean {meant[0]}?" if meant else ""
    return advice if len(known) > _MANY else f"{advice or ';'} there are {', '.join(known)}"
