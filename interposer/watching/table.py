# SPDX-License-Identifier: GPL-2.0-or-later
"""How facts are written for people: in columns, in colour where there is a terminal, and never as orders to it.

Names, descriptions and commands are chosen by the programs that are watched. Whatever of them cannot be printed is
escaped, so that none can forge a line, move the cursor or hide.

Colours are for terminals only, unless NO_COLOR is set (no-color.org) or TERM is `dumb`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence

from interposer.errors import printable

_UNITS = "KMGT"


class Style:
    """Marks text, or leaves it as it is."""

    def __init__(self, coloured: bool) -> None:
        self._coloured = coloured

    def _marked(self, text: str, code: int) -> str:
        return f"\033[{code}m{text}\033[0m" if self._coloured and text else text

    def heading(self, text: str) -> str:
        return self._marked(text, 1)

    def name(self, text: str) -> str:
        return self._marked(text, 32)

    def minor(self, text: str) -> str:
        return self._marked(text, 2)

    def notable(self, text: str) -> str:
        return self._marked(text, 33)

    def bad(self, text: str) -> str:
        return self._marked(text, 31)


def style_of(descriptor: int = 1) -> Style:
    """What suits whoever reads this descriptor."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style(wanted and os.isatty(descriptor))


class Cell:
    """One field of a table: what it says, already printable, and how it is marked."""

    def __init__(self, text: object, marked: str | None = None, *, right: bool = False) -> None:
        self.text = printable(str(text))
        self.marked = self.text if marked is None else marked
        self.width = width_of(self.text)
        self.right = right


def number(value: object, mark: str | None = None) -> Cell:
    """A number, at the right of its column; `-` for none."""
    return Cell("-" if value is None else value, mark, right=True)


def lines_of(headings: Sequence[str], rows: Sequence[Sequence[Cell]], style: Style) -> list[str]:
    """The table, each column as wide as it has to be; without rows, only the headings."""
    table = [[Cell(heading, style.heading(heading)) for heading in headings], *rows]
    for heading, *column in zip(*table, strict=True):
        heading.right = bool(column) and all(cell.right for cell in column)
    widths = [max(cell.width for cell in column) for column in zip(*table, strict=True)]
    return [_line(row, widths) for row in table]


def _line(row: Sequence[Cell], widths: Sequence[int]) -> str:
    parts = []
    for cell, width in zip(row, widths, strict=True):
        blank = " " * (width - cell.width)
        parts.append(blank + cell.marked if cell.right else cell.marked + blank)
    return "  ".join(parts).rstrip()


def width_of(text: str) -> int:
    """How many columns of a terminal it takes; it is printable."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) > 0 for each in text)


def size_of(count: int) -> str:
    """A number of bytes, short: 0, 512, 1.5K, 16M."""
    if count < 1024:
        return str(count)
    value, unit = count / 1024, 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return (f"{value:.1f}" if value < 9.95 else f"{value:.0f}").removesuffix(".0") + _UNITS[unit]


def time_of(nanoseconds: int) -> str:
    """A duration: 3.2 s, 45 ms, 12 us."""
    for limit, unit in ((1_000_000_000, "s"), (1_000_000, "ms"), (1000, "us")):
        if nanoseconds >= limit:
            value = nanoseconds / limit
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{nanoseconds} ns"
