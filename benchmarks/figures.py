# SPDX-License-Identifier: GPL-2.0-or-later
"""What was measured: samples by group, row and column, and what they amount to.

A group is one table: its rows are situations (a size, a number of receivers), its columns what is compared (peers).
A sample is one number in the group's unit, nanoseconds or bytes. Samples of all repetitions are pooled: a repetition
that differs from the others widens the spread just as a slice within it does.

*Disturbed* is a result whose middle half of samples spreads over more than a quarter of its median. A rule by the
quartiles and not by the extremes: one slice in which another program woke up must not condemn the other nineteen.
Weakness: with less than four samples the quartiles are close to the extremes, and any one sample decides.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

DISTURBED = 0.25
"""The distance of the quartiles, as a part of the median, from which on a result is called disturbed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of some samples, and their quartiles."""

    median: float
    lower_quartile: float
    upper_quartile: float
    samples: int

    @property
    def disturbed(self) -> bool:
        """Whether the samples lie too far apart for the median to mean much."""
        return self.upper_quartile - self.lower_quartile > DISTURBED * abs(self.median)


def summarize(samples: Sequence[float]) -> Figure:
    """The figure of `samples`, at least one. Quartiles are interpolated between samples, never beyond them."""
    if len(samples) == 1:
        return Figure(samples[0], samples[0], samples[0], 1)
    lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return Figure(median, lower, upper, len(samples))


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that could not be measured here. `what` is a peer or a part, `reason` ends with what to do."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A measurement that went wrong: in which group and column, and what was said."""

    group: str
    column: str
    reason: str


@dataclass(slots=True)
class Table:
    """The samples of one group, in the order in which rows and columns first came."""

    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, row: str, column: str, sample: float) -> None:
        """Take one sample."""
        self.samples.setdefault((row, column), []).append(sample)

    @property
    def rows(self) -> list[str]:
        """All rows."""
        return list(dict.fromkeys(row for row, _ in self.samples))

    @property
    def columns(self) -> list[str]:
        """All columns."""
        return list(dict.fromkeys(column for _, column in self.samples))

    def figure(self, row: str, column: str) -> Figure | None:
        """The result in that cell, None if nothing was measured there."""
        samples = self.samples.get((row, column))
        return summarize(samples) if samples else None

    def ratio(self, row: str, column: str, baseline: str) -> float | None:
        """The cell's median as a multiple of the median in the column `baseline`; None if either is not there."""
        cell, divisor = self.figure(row, column), self.figure(row, baseline)
        return cell.median / divisor.median if cell and divisor and divisor.median else None


@dataclass(slots=True)
class Results:
    """Everything that one run found: tables by the name of their group."""

    tables: dict[str, Table] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    disturbances: list[str] = field(default_factory=list)
    """What disturbed the run as a whole."""

    def figure(self, group: str, row: str, column: str) -> Figure | None:
        """The result in a cell of a group, None if it was not measured."""
        table = self.tables.get(group)
        return table.figure(row, column) if table else None

    def miss(self, what: str, reason: str) -> None:
        """Note once that something is missing."""
        if Missing(what, reason) not in self.missing:
            self.missing.append(Missing(what, reason))
