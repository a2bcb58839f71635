# SPDX-License-Identifier: GPL-2.0-or-later
"""The results for programs: one JSON object per line, each with the version of this schema and its kind.

    machine   facts: object of strings
    run       mode, repetitions, seconds (for one figure), started (UTC), duration (s)
    figure    group, row, column, unit ("ns", "bytes", "" for a number), median, lower_quartile, upper_quartile,
              samples, disturbed
    ratio     group, row, column, baseline, ratio (of the medians)
    target    what, bound, value (or null), verdict; in ns, bytes, or a ratio
    disturbed reason: what disturbed the run as a whole
    missing   what, reason
    failure   group, column, reason

Rows are as the programs of the benchmarks print them: a size is its number of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from benchmarks.figures import Results
from benchmarks.groups import GROUPS
from benchmarks.targets import judge

SCHEMA = 1


def lines(results: Results, machine: Mapping[str, str], run: Mapping[str, object]) -> Iterator[str]:
    """The lines, without their ends."""
    for kind, content in _records(results, machine, run):
        yield json.dumps({"schema": SCHEMA, "kind": kind, **content})


def _records(
    results: Results, machine: Mapping[str, str], run: Mapping[str, object]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    yield "machine", {"facts": dict(machine)}
    yield "run", run
    for group in GROUPS:
        table = results.tables.get(group.name)
        if table is None:
            continue
        for row, column in table.samples:
            cell = {"group": group.name, "row": row, "column": column}
            figure = table.figure(row, column)
            if figure is not None:
                yield "figure", {**cell, "unit": group.unit, **asdict(figure), "disturbed": figure.disturbed}
            for baseline in group.baselines:
                ratio = table.ratio(row, column, baseline)
                if column not in group.baselines and ratio is not None:
                    yield "ratio", {**cell, "baseline": baseline, "ratio": ratio}
    for outcome in judge(results):
        target = outcome.target
        content = {"what": target.what, "bound": target.bound, "value": outcome.value, "verdict": outcome.verdict}
        yield "target", content
    for reason in results.disturbances:
        yield "disturbed", {"reason": reason}
    for missing in results.missing:
        yield "missing", asdict(missing)
    for failure in results.failures:
        yield "failure", asdict(failure)
