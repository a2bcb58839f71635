# SPDX-License-Identifier: GPL-2.0-or-later
"""A plot of lines over two logarithmic axes, as SVG.

Just what the one picture of latency over size needs, in plain text: a plotting library would be the largest dependency
of the project. Colours are those of Okabe and Ito, which colour-blind people can tell apart; dashes and the order of
the legend help as well. A thin bar at each point goes from the lower to the upper quartile. The ground is white
in any surroundings, so that the picture reads the same on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 880, 520
LEFT, RIGHT, TOP, BOTTOM = 80, 250, 50, 60

_COLOURS = ("#000000", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("", "", "", "", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Point:
    """One point, with the ends of its bar; all above 0."""

    x: float
    y: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Line:
    """Points in the order of x, at least one, and what they are."""

    label: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `start` to `end` (values) on the page from `first` to `last` (pixels)."""

    start: float
    end: float
    first: float
    last: float

    def place(self, value: float) -> float:
        """Where a value lies on the page."""
        part = (math.log(value) - math.log(self.start)) / (math.log(self.end) - math.log(self.start))
        return self.first + part * (self.last - self.first)


def draw(
    title: str,
    x_title: str,
    y_title: str,
    lines: Sequence[Line],
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
) -> str:
    """The SVG text; `show_x` and `show_y` write values beside the axes. ValueError if there is no line."""
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("there is nothing to draw")
    x = _axis([point.x for point in points], 2, LEFT, WIDTH - RIGHT)
    y = _axis([value for point in points for value in (point.lower, point.upper)], 10, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 28, title, "start", 15),
        *_grid(x, y, sorted({point.x for point in points}), show_x, show_y),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, x_title, "middle"),
        f'<g transform="rotate(-90 20 {HEIGHT / 2})">{_text(20, HEIGHT / 2, y_title, "middle")}</g>',
    ]
    for number, line in enumerate(lines):
        parts += _line(line, x, y, number)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _axis(values: Sequence[float], base: int, first: float, last: float) -> Axis:
    """An axis that holds all values, between powers of `base`; never of no length."""
    start = math.floor(math.log(min(values), base) + 1e-9)
    end = max(math.ceil(math.log(max(values), base) - 1e-9), start + 1)
    return Axis(float(base) ** start, float(base) ** end, first, last)


def _grid(
    x: Axis, y: Axis, marks: Sequence[float], show_x: Callable[[float], str], show_y: Callable[[float], str]
) -> list[str]:
    """Lines and numbers: at every x that was measured (numbers where they have room), and at 1, 2, 5, 10 ... in y."""
    parts = []
    free = -math.inf
    for value in marks:
        place = x.place(value)
        parts.append(_rule(place, y.first, place, y.last, "#dddddd"))
        if place - free >= 46:
            parts.append(_text(place, y.first + 18, show_x(value), "middle"))
            free = place
    power = y.start
    while power <= y.end * 1.001:
        for factor in (1, 2, 5):
            value = power * factor
            if value <= y.end * 1.001:
                place = y.place(value)
                parts.append(_rule(x.first, place, x.last, place, "#bbbbbb" if factor == 1 else "#e8e8e8"))
                if factor == 1:
                    parts.append(_text(x.first - 8, place + 4, show_y(value), "end"))
        power *= 10
    return parts


def _line(line: Line, x: Axis, y: Axis, number: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    dash = _DASHES[number % len(_DASHES)]
    stroke = f'stroke="{colour}" fill="none" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")
    places = " ".join(f"{x.place(point.x):.1f},{y.place(point.y):.1f}" for point in line.points)
    legend = TOP + 16 + 22 * number
    start = WIDTH - RIGHT + 20
    return [
        f'<polyline points="{places}" {stroke}/>',
        *(_rule(x.place(p.x), y.place(p.lower), x.place(p.x), y.place(p.upper), colour) for p in line.points),
        *(f'<circle cx="{x.place(p.x):.1f}" cy="{y.place(p.y):.1f}" r="3" fill="{colour}"/>' for p in line.points),
        f'<polyline points="{start},{legend - 4} {start + 26},{legend - 4}" {stroke}/>',
        _text(start + 34, legend, line.label, "start"),
    ]


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="1"/>'


def _text(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
