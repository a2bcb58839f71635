# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures groups: all tasks of a group in turns, so often as there are repetitions.

A task that fails does not end the run. What it measured before counts, and it gets another turn if there was
something; the failure is told with the results. What is not installed is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.execution import CannotRun, NotInstalled
from benchmarks.figures import Failure, Results, Table
from benchmarks.groups import Context, Group, Task


def measure(
    groups: Iterable[Group], context: Context, progress: Callable[[str], None], keep: Callable[[], None]
) -> None:
    """Measure `groups` into `context.results`; `progress` is told what comes next, and `keep` called after each."""
    for group in groups:
        table = context.results.tables.setdefault(group.name, Table())
        try:
            tasks = list(group.tasks(context))
        except CannotRun as error:
            _note(context.results, group, group.name, error)
            continue
        repetitions = context.settings.repetitions
        for repetition in range(1, repetitions + 1):
            progress(f"{group.name}, repetition {repetition} of {repetitions}")
            tasks = [task for task in tasks if _take_turn(context.results, group, task, table)]
        keep()


def _take_turn(results: Results, group: Group, task: Task, table: Table) -> bool:
    """One turn of `task`; whether it deserves another."""
    measured = False
    try:
        for row, column, number in task.measure():
            table.add(row, column, number)
            measured = True
    except CannotRun as error:
        _note(results, group, task.column, error)
    return measured


def _note(results: Results, group: Group, column: str, error: CannotRun) -> None:
    if isinstance(error, NotInstalled):
        results.miss(column, str(error))
        return
    failure = Failure(group.name, column, str(error))
    if failure not in results.failures:
        results.failures.append(failure)
