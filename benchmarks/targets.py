# SPDX-License-Identifier: GPL-2.0-or-later
"""The targets: what the project wants to reach, as bounds on medians of one run on one machine.

Each compares one cell of a table with another one (their ratio or their difference) or stands alone. Times are in
nanoseconds and memory in bytes, as the samples are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.figures import Results
from benchmarks.groups import BARE, KDBUS, SYNCHRONOUS, TRAP, UNDER_KDBUS
from benchmarks.message_buses import BROKER, DAEMON
from benchmarks.settings import KIB, MIB

Cell = tuple[str, str, str]
"""Group, row, column."""


def _ratio(value: float, other: float) -> float:
    return value / other


def _difference(value: float, other: float) -> float:
    return value - other


@dataclass(frozen=True)
class Target:
    """`what` is to be at most `bound`: `combine` of the medians of two cells, or the median of the only one.

    With `plus`, a third one is added to the second. `scale` and `unit` make the numbers readable: they are divided by
    the one and followed by the other.
    """

    what: str
    bound: float
    cell: Cell
    other: Cell | None = None
    combine: Callable[[float, float], float] = _ratio
    scale: float = 1
    unit: str = ""
    plus: Cell | None = None

    def show(self, value: float) -> str:
        """A value or the bound as people read it."""
        return f"{value / self.scale:.3g}{self.unit}"


@dataclass(frozen=True)
class Outcome:
    """What became of a target: its value by the medians (None: not measured here), and by the quartiles that speak
    most for it and most against it."""

    target: Target
    value: float | None
    best: float = 0
    worst: float = 0

    @property
    def verdict(self) -> str:
        """In words. It is certain if the quartiles say the same as the medians."""
        if self.value is None:
            return "not measured"
        met = self.value <= self.target.bound
        certain = self.worst <= self.target.bound if met else self.best > self.target.bound
        return ("met" if met else "missed") + ("" if certain else ", uncertain")


def _calls(row: int, peer: str, bound: float, what: str) -> Target:
    cell = ("calls", str(row), SYNCHRONOUS)
    return Target(f"call and reply of {what}, synchronous, over {peer}", bound, cell, ("calls", str(row), peer))


_COMMANDS_ROW = "message of 8 B"
DESKTOP = "nine property reads and a signal"

TARGETS = (
    *(
        Target(
            f"{command} over the bare trap", 2, ("commands", _COMMANDS_ROW, command), ("commands", _COMMANDS_ROW, TRAP)
        )
        for command in ("SEND", "RECV", "FREE")
    ),
    _calls(8, DAEMON, 0.75, "8 B"),
    _calls(8, BROKER, 1.0, "8 B"),
    _calls(4 * KIB, BROKER, 0.8, "4 KiB"),
    _calls(4 * KIB, DAEMON, 0.5, "4 KiB"),
    _calls(64 * KIB, BROKER, 0.5, "64 KiB"),
    _calls(64 * KIB, DAEMON, 0.14, "64 KiB"),
    _calls(MIB, BROKER, 0.35, "1 MiB"),
    _calls(MIB, DAEMON, 0.09, "1 MiB"),
    Target(
        "a call with a memfd of 256 MiB beyond one of 8 B",
        20_000,
        ("memfds", str(256 * MIB), SYNCHRONOUS),
        ("calls", "8", SYNCHRONOUS),
        _difference,
        1000,
        " us",
    ),
    Target(
        "a call and a signal over a call and a signal alone",
        1.3,
        ("service", "call and signal", KDBUS),
        ("service", "call", KDBUS),
        plus=("service", "signal", KDBUS),
    ),
    *(
        Target(f"{count} clients of one service over 8", 2, ("contention", count, KDBUS), ("contention", "8", KDBUS))
        for count in ("64", "200")
    ),
    Target("calls of one of 200 clients over the median client's", 10, ("fairness", "200 most", KDBUS)),
    *(
        Target(f"the mix of a desktop session, over {bus}", 1, ("desktop", DESKTOP, KDBUS), ("desktop", DESKTOP, bus))
        for bus in (DAEMON, BROKER)
    ),
    Target(
        "a call with 10 000 connections over one with 10",
        1.2,
        ("growth", "connections", "10000"),
        ("growth", "connections", "10"),
    ),
    Target(
        "a compile job under kdbus run over the bare run",
        1.02,
        ("bystanders", "compile job", UNDER_KDBUS),
        ("bystanders", "compile job", BARE),
    ),
    Target(
        "kdbus run -- true beyond true",
        100_000_000,
        ("start", "true", UNDER_KDBUS),
        ("start", "true", BARE),
        _difference,
        1_000_000,
        " ms",
    ),
    Target(
        "first message after the exec",
        70_000_000,
        ("start", "first message", UNDER_KDBUS),
        scale=1_000_000,
        unit=" ms",
    ),
    Target("an idle connection", 8 * KIB, ("memory", "idle connection", "supervisor"), scale=KIB, unit=" KiB"),
)


def judge(results: Results) -> list[Outcome]:
    """What became of the targets whose groups were measured."""
    return [_judge(target, results) for target in TARGETS if target.cell[0] in results.tables]


def _judge(target: Target, results: Results) -> Outcome:
    figure = results.figure(*target.cell)
    if figure is None:
        return Outcome(target, None)
    if target.other is None:
        return Outcome(target, figure.median, figure.lower_quartile, figure.upper_quartile)
    others = [results.figure(*cell) for cell in (target.other, target.plus) if cell is not None]
    known = [other for other in others if other is not None and other.lower_quartile > 0]
    if len(known) < len(others):
        return Outcome(target, None)
    return Outcome(
        target,
        target.combine(figure.median, sum(other.median for other in known)),
        target.combine(figure.lower_quartile, sum(other.upper_quartile for other in known)),
        target.combine(figure.upper_quartile, sum(other.lower_quartile for other in known)),
    )
