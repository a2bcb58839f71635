# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of the results, as SVG: the time over the size of a call, over the receivers of a signal, over the clients
of a service, for all peers. matplotlib draws them, which is not needed to measure (the extra `benchmarks`).

Colours are those of Okabe and Ito, which colour-blind people can tell apart; markers and dashes help as well. A thin
bar at each point goes from the lower to the upper quartile. The ground is white in any surroundings, so that
a picture reads the same on a dark page; text stays text; and the same results make the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Results, Table
from benchmarks.groups import KDBUS, SYNCHRONOUS, size

WANTED = "pip install 'kdbus-interposer[benchmarks]'"
_COLOURS = ("#000000", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "-", "-", "-", "--", ":", "-.")
_MARKERS = "os^vDPX"
_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"))


class NoPictures(Exception):
    """matplotlib cannot be used. `str()` says why, and what to do."""


@dataclass(frozen=True)
class Line:
    """What a line is called, and its points: a number on the x axis, and the figure there."""

    label: str
    points: Sequence[tuple[int, Figure]]


@dataclass(frozen=True)
class Picture:
    """`group`: whose page it stands on; `file`: its name there."""

    group: str
    file: str
    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    sizes: bool = False
    """Whether the x axis counts bytes."""


def pictures(results: Results) -> list[Picture]:
    """Those for which something was measured."""
    calls = results.tables.get("calls", Table())
    memfds = results.tables.get("memfds", Table())
    lines = [*_lines(calls), *_lines(memfds, suffix=", memfd", columns=(SYNCHRONOUS,))]
    title = "Call and reply: time over the size of either"
    found = [Picture("calls", "latency.svg", title, "size", "time of a call", lines, sizes=True)]
    signals = _lines(results.tables.get("broadcast", Table()), ending=" received")
    title = "A signal until all have it: time over the number of its receivers"
    found.append(Picture("broadcast", "receivers.svg", title, "receivers", "time of a signal", signals))
    clients = _lines(results.tables.get("contention", Table()))
    title = "Many clients of one service: from one answer to the next"
    found.append(Picture("contention", "clients.svg", title, "clients", "time of a call", clients))
    return [picture for picture in found if picture.lines]


def _lines(table: Table, *, ending: str = "", suffix: str = "", columns: Iterable[str] | None = None) -> list[Line]:
    """A line for each column, of the rows that are a number and `ending`; ours come last, on top of the others."""
    lines = []
    names = table.columns if columns is None else columns
    for column in sorted(names, key=lambda name: name.startswith(KDBUS)):
        numbers = [row.removesuffix(ending) for row in table.rows if row.endswith(ending)]
        figures = [(int(number), table.figure(number + ending, column)) for number in numbers if number.isdigit()]
        points = [(number, figure) for number, figure in figures if figure is not None]
        if points:
            lines.append(Line(column + suffix, points))
    return lines


def draw(picture: Picture, path: Path) -> None:
    """Write the picture to `path`. Raises NoPictures, OSError."""
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot, ticker
    except ImportError as error:
        raise NoPictures(f"matplotlib cannot be imported ({error}); {WANTED}") from None

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.file, "font.family": "sans-serif"}):
        canvas, axes = pyplot.subplots(figsize=(8.8, 5.2), layout="constrained")
        try:
            for number, line in enumerate(picture.lines):
                middle = [figure.median for _, figure in line.points]
                below = [figure.median - figure.lower_quartile for _, figure in line.points]
                above = [figure.upper_quartile - figure.median for _, figure in line.points]
                axes.errorbar(
                    [x for x, _ in line.points],
                    middle,
                    yerr=[below, above],
                    label=line.label,
                    color=_COLOURS[number % len(_COLOURS)],
                    linestyle=_DASHES[number % len(_DASHES)],
                    marker=_MARKERS[number % len(_MARKERS)],
                    markersize=4,
                )
            axes.set_xscale("log", base=2 if picture.sizes else 10)
            axes.set_yscale("log")
            places = sorted({x for line in picture.lines for x, _ in line.points})
            axes.set_xticks(places, [size(str(x)) if picture.sizes else str(x) for x in places])
            axes.xaxis.set_minor_locator(ticker.NullLocator())
            axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: show_time(value)))
            axes.grid(which="major", color="#dddddd")
            axes.set(title=picture.title, xlabel=picture.x_title, ylabel=picture.y_title)
            axes.legend(frameon=False)
            canvas.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
        finally:
            pyplot.close(canvas)


def show_time(nanoseconds: float) -> str:
    """A time beside an axis."""
    for limit, unit in _UNITS:
        if nanoseconds >= limit * 0.999:
            return f"{nanoseconds / limit:g} {unit}"
    return f"{nanoseconds:g} ns"
