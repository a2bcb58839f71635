# SPDX-License-Identifier: GPL-2.0-or-later
"""The results for people: text for a terminal, and a page of Markdown with the same tables.

Both show medians with the quartiles behind them, `!` where the result was disturbed, and the ratios to the group's
baselines in a table of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import Figure, Results, Table
from benchmarks.groups import GROUPS, Group
from benchmarks.pictures import Picture
from benchmarks.targets import judge

DISTURBED_MARK = "!"
NOTHING = "-"
LEGEND = f"Medians, with the quartiles in brackets; {DISTURBED_MARK} marks what was disturbed: a spread too wide."


@dataclass(frozen=True)
class Grid:
    """A table as text: `head` and each of `rows` have the same length."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def show_number(value: float, unit: str) -> str:
    """A time in microseconds or milliseconds, an amount of memory, or a mere number, with three digits that count."""
    if not unit:
        return _three_digits(value)
    if unit == "bytes":
        return f"{_three_digits(value / 1024)} KiB"
    if abs(value) >= 10_000_000:
        return f"{_three_digits(value / 1_000_000)} ms"
    return f"{_three_digits(value / 1000)} us"


def _three_digits(value: float) -> str:
    for limit, digits in ((10, 2), (100, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def _cell(figure: Figure | None, unit: str) -> str:
    if figure is None:
        return NOTHING
    mark = DISTURBED_MARK if figure.disturbed else ""
    median, lower, upper = (
        show_number(value, unit) for value in (figure.median, figure.lower_quartile, figure.upper_quartile)
    )
    # The unit once is enough, if it is the same.
    short = [text.partition(" ")[0] if text.split()[1:] == median.split()[1:] else text for text in (lower, upper)]
    return f"{median}{mark} ({short[0]} - {short[1]})"


def grids(group: Group, table: Table) -> list[Grid]:
    """The table of medians, and the one of ratios if the group has baselines that were measured."""
    rows, columns = table.rows, table.columns
    medians = [[group.show(row), *(_cell(table.figure(row, column), group.unit) for column in columns)] for row in rows]
    found = [Grid(group.title, [group.row_title, *columns], medians)]
    baselines = [name for name in group.baselines if name in columns]
    pairs = [(column, base) for column in columns if column not in group.baselines for base in baselines]
    if pairs:
        ratios = [[group.show(row), *(_ratio(table, row, *pair) for pair in pairs)] for row in rows]
        told = [row for row in ratios if set(row[1:]) != {NOTHING}]
        found.append(Grid("Ratios", [group.row_title, *(f"{a} / {b}" for a, b in pairs)], told))
    return found


def _ratio(table: Table, row: str, column: str, baseline: str) -> str:
    ratio = table.ratio(row, column, baseline)
    if ratio is None:
        return NOTHING
    figures = (table.figure(row, column), table.figure(row, baseline))
    return f"{ratio:.2f}" + (DISTURBED_MARK if any(figure and figure.disturbed for figure in figures) else "")


def target_grid(results: Results) -> Grid | None:
    """The targets of the groups that were measured, None if there are none."""
    outcomes = judge(results)
    rows = [
        [
            outcome.target.what,
            outcome.target.show(outcome.target.bound),
            NOTHING if outcome.value is None else outcome.target.show(outcome.value),
            outcome.verdict,
        ]
        for outcome in outcomes
    ]
    return Grid("Targets", ["what", "at most", "measured", "verdict"], rows) if rows else None


def _measured_groups(results: Results) -> list[tuple[Group, Table]]:
    return [(group, results.tables[group.name]) for group in GROUPS if group.name in results.tables]


def text(results: Results, machine: Mapping[str, str], run: str) -> str:
    """Everything, for a terminal. `run` tells how it was measured."""
    parts = [run, *(f"  {name}: {fact}" for name, fact in machine.items()), "", LEGEND, ""]
    for group, table in _measured_groups(results):
        for grid in grids(group, table):
            parts += [f"{group.name}: {grid.title}", *_aligned(grid), ""]
    targets = target_grid(results)
    if targets:
        parts += [targets.title, *_aligned(targets), ""]
    parts += _troubles(results)
    return "\n".join(parts).rstrip("\n") + "\n"


def _troubles(results: Results) -> list[str]:
    missing = [f"missing: {missing.what}: {missing.reason}" for missing in results.missing]
    failed = [f"failed: {failure.group}, {failure.column}: {failure.reason}" for failure in results.failures]
    return [f"disturbed: {text}" for text in results.disturbances] + missing + failed


def _aligned(grid: Grid) -> list[str]:
    """Lines with columns as wide as they need, the first to the left and the others to the right.

    Heads that are a ratio stand on two lines, as they would make their columns far wider than the numbers are.
    """
    heads = [head.partition(" / ") for head in grid.head]
    lines = [[above + slash.rstrip() for above, slash, _ in heads], [below for _, _, below in heads], *grid.rows]
    if not any(below for _, _, below in heads):
        del lines[1]
    widths = [max(len(line[column]) for line in lines) for column in range(len(grid.head))]
    return [
        "  "
        + "  ".join([line[0].ljust(widths[0]), *(word.rjust(w) for word, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]


def markdown(results: Results, machine: Mapping[str, str], run: str, drawn: Iterable[Picture] = ()) -> str:
    """Everything, as a page that refers to the pictures that were drawn beside it."""
    parts = ["# Measurements", "", f"{run} This page is written by `python -m benchmarks --save`.", "", LEGEND, ""]
    parts += ["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in machine.items()), ""]
    targets = target_grid(results)
    if targets:
        parts += ["## Targets", "", *_markdown_table(targets), ""]
    for group, table in _measured_groups(results):
        parts += [f"## {group.title}", ""]
        for picture in drawn:
            if picture.group == group.name:
                parts += [f"![{picture.title}]({picture.file})", ""]
        for number, grid in enumerate(grids(group, table)):
            parts += [f"{grid.title}:", ""] if number else []
            parts += [*_markdown_table(grid), ""]
    troubles = _troubles(results)
    if troubles:
        parts += ["## Disturbed, missing or failed", "", *(f"- {line}" for line in troubles), ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def _markdown_table(grid: Grid) -> list[str]:
    rule = "|" + "|".join(["---", *["---:"] * (len(grid.head) - 1)]) + "|"
    return [_markdown_row(grid.head), rule, *(_markdown_row(row) for row in grid.rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
