# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: one `Group` for each table, made of tasks that take turns.

A task measures one column, or a few that belong together, in one go: it runs one program of `programs/` and says which
row and column each of its figures belongs to. Columns are what is compared, and a group says which of them the others
are divided by.

Names of rows are what the programs print, so that JSON has plain numbers; `show` makes them readable.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import memory
from benchmarks.execution import CannotRun, Execution, parse_samples
from benchmarks.figures import Results
from benchmarks.message_buses import BROKER, DAEMON
from benchmarks.settings import Settings

SYNCHRONOUS = "kdbus, synchronous"
ASYNCHRONOUS = "kdbus, asynchronous"
KDBUS = "kdbus"
SOCKET = "unix socket"
BARE = "bare"
UNDER_KDBUS = "kdbus run"
TRACED = "strace -f -c"
TRAP = "bare trap"
SERVED_TRAP = "served trap"
"""With what every supervisor has to do about a call, see `programs/trap.c`."""

NO_METADATA = 0
IDENTITY = 1 << 1 | 1 << 2  # KDBUS_ATTACH_CREDS, KDBUS_ATTACH_PIDS
EVERYTHING = (1 << 14) - 1  # _KDBUS_ATTACH_ALL

Sample = tuple[str, str, float]
"""Row, column, number."""


@dataclass(frozen=True)
class Context:
    """What tasks need: programs, the addresses of the message buses that are there, how much to measure."""

    execution: Execution
    settings: Settings
    buses: Mapping[str, str]
    results: Results


@dataclass(frozen=True)
class Task:
    """One turn of one thing that is compared. `measure` yields samples and raises CannotRun."""

    column: str
    measure: Callable[[], Iterable[Sample]]


@dataclass(frozen=True)
class Group:
    """A table. `unit` is that of its samples, "ns", "bytes" or "" for a number; `baselines` are columns to divide the
    others by."""

    name: str
    title: str
    row_title: str
    unit: str
    baselines: tuple[str, ...]
    tasks: Callable[[Context], Iterable[Task]]
    show: Callable[[str], str] = str

    @property
    def uses_buses(self) -> bool:
        """Whether D-Bus message buses are compared here."""
        return DAEMON in self.baselines


def size(row: str) -> str:
    """A number of bytes as people write it."""
    number = int(row)
    for shift, unit in ((20, "MiB"), (10, "KiB")):
        if number >= 1 << shift and number % (1 << shift) == 0:
            return f"{number >> shift} {unit}"
    return f"{number} B"


def _task(
    context: Context,
    column: str,
    program: str,
    arguments: Sequence[object],
    *,
    under_kdbus: bool = False,
    variables: Mapping[str, str] | None = None,
    place: Callable[[str], tuple[str, str]] | None = None,
) -> Task:
    """The task that runs `program`; `place` tells row and column by what it prints, otherwise that is the row.

    What it measured before it failed counts.
    """

    def measure() -> Iterator[Sample]:
        command: list[str] = [str(context.execution.program(program)), *map(str, arguments)]
        if under_kdbus:
            command = context.execution.run_under_kdbus(*command)
        failure = None
        try:
            lines = context.execution.run(command, variables)
        except CannotRun as error:
            lines, failure = error.lines, error
        for what, number in parse_samples(lines):
            row, in_column = place(what) if place else (what, column)
            yield row, in_column, number
        if failure:
            raise failure

    return Task(column, measure)


def _on_buses(context: Context, program: str, arguments: Sequence[object]) -> Iterator[Task]:
    """The task of each message bus that is there."""
    for name, address in context.buses.items():
        yield _task(context, name, program, arguments, variables={"DBUS_SESSION_BUS_ADDRESS": address})


def _commands(context: Context) -> Iterator[Task]:
    seconds = context.settings.seconds
    row = "message of 8 B"
    yield _task(context, TRAP, "trap", ["bare", seconds], place=lambda _: (row, TRAP))
    yield _task(context, SERVED_TRAP, "trap", ["served", seconds], place=lambda _: (row, SERVED_TRAP))
    yield _task(
        context,
        KDBUS,
        "kdbus-commands",
        [round(3 * seconds, 6)],
        under_kdbus=True,
        place=lambda command: (row, command),
    )


def _conversations(context: Context, kind: str, sizes: Sequence[int]) -> Iterator[Task]:
    seconds = context.settings.seconds
    yield _task(context, SOCKET, "socket-call", [kind, seconds, *sizes])
    yield from _on_buses(context, "dbus-call", [kind, seconds, *sizes])
    for mode, column in (("synchronous", SYNCHRONOUS), ("asynchronous", ASYNCHRONOUS)):
        arguments = [mode, kind, NO_METADATA, seconds, *sizes]
        yield _task(context, column, "kdbus-call", arguments, under_kdbus=True)


def _calls(context: Context) -> Iterable[Task]:
    return _conversations(context, "copy", context.settings.sizes)


def _memfds(context: Context) -> Iterable[Task]:
    return _conversations(context, "memfd", context.settings.memory_sizes)


def _throughput(context: Context) -> Iterator[Task]:
    def named(task: Task, senders: int) -> Task:
        def measure() -> Iterator[Sample]:
            for row, column, number in task.measure():
                yield f"{senders} x {row}", column, number

        return Task(task.column, measure)

    for senders in context.settings.senders:
        arguments = [senders, context.settings.seconds, *context.settings.throughput_sizes]
        for task in _on_buses(context, "dbus-throughput", arguments):
            yield named(task, senders)
        yield named(_task(context, KDBUS, "kdbus-throughput", arguments, under_kdbus=True), senders)


def _show_throughput(row: str) -> str:
    senders, _, number = row.partition(" x ")
    return f"{senders} {'sender' if senders == '1' else 'senders'}, {size(number)}"


def _broadcast(context: Context) -> Iterator[Task]:
    for kind in ("matching", "others"):
        arguments = [kind, context.settings.seconds, *context.settings.receivers]
        yield from _on_buses(context, "dbus-broadcast", arguments)
        yield _task(context, KDBUS, "kdbus-broadcast", arguments, under_kdbus=True)


def _show_broadcast(row: str) -> str:
    number, _, event = row.partition(" ")
    who = "receiver" if number == "1" else "receivers"
    return {
        "sent": f"{number} {who}, SEND alone",
        "received": f"{number} {who}, until all have it",
        "": f"{number} {who} of something else",
    }[event]


def _service(context: Context) -> Iterator[Task]:
    yield from _on_buses(context, "dbus-service", [context.settings.seconds])
    yield _task(context, KDBUS, "kdbus-service", [context.settings.seconds], under_kdbus=True)


def _desktop(context: Context) -> Iterator[Task]:
    # The first reads of a thousand names are another thing than those that follow.
    seconds = 5 * context.settings.seconds
    yield from _on_buses(context, "dbus-desktop", [seconds])
    yield _task(context, KDBUS, "kdbus-desktop", [seconds], under_kdbus=True)


def _contention(context: Context) -> Iterator[Task]:
    arguments = [4 * context.settings.seconds, *context.settings.clients]
    yield from _on_buses(context, "dbus-contention", arguments)
    yield _only(_task(context, KDBUS, "kdbus-contention", arguments, under_kdbus=True), str.isdigit)


def _fairness(context: Context) -> Iterator[Task]:
    arguments = [4 * context.settings.seconds, max(context.settings.clients)]
    yield _only(_task(context, KDBUS, "kdbus-contention", arguments, under_kdbus=True), lambda row: not row.isdigit())


def _only(task: Task, wanted: Callable[[str], bool]) -> Task:
    """Those of its samples whose row is wanted."""

    def measure() -> Iterator[Sample]:
        return (sample for sample in task.measure() if wanted(sample[0]))

    return Task(task.column, measure)


def _show_fairness(row: str) -> str:
    number, _, what = row.partition(" ")
    return f"{number} clients, " + {
        "refused": "SENDs refused for each call answered",
        "most": "calls of the one with the most, over the median client's",
        "least": "calls of the one with the fewest, over the median client's",
    }[what]


def _growth(context: Context) -> Iterator[Task]:
    for kind in ("connections", "names", "matches"):
        counts = context.settings.counts
        if os.geteuid() != 0 and kind == "connections" and max(counts) > 1000:
            context.results.miss(
                "growth: more than 1000 connections",
                "kdbus grants one user 1024, and only root can connect as several users; run the benchmarks as root",
            )
            counts = tuple(count for count in counts if count <= 1000)
        arguments = [kind, context.settings.seconds, *counts]

        def place(count: str, kind: str = kind) -> tuple[str, str]:
            return kind, count

        yield _task(context, kind, "kdbus-growth", arguments, under_kdbus=True, place=place)
    row = "pairs that call at once, from one call to the next"
    arguments = [context.settings.seconds, *context.settings.pairs]

    def of_pairs(count: str) -> tuple[str, str]:
        return row, count

    yield _task(context, row, "kdbus-conversations", arguments, under_kdbus=True, place=of_pairs)


def _metadata(context: Context) -> Iterator[Task]:
    for column, flags in (("none", NO_METADATA), ("creds and pids", IDENTITY), ("everything", EVERYTHING)):
        arguments = ["synchronous", "copy", flags, context.settings.seconds, 8]
        yield _task(context, column, "kdbus-call", arguments, under_kdbus=True)


def _wrappers(context: Context) -> Iterator[tuple[str, list[str]]]:
    """How a program that does not use kdbus is run: the column, and the words before the program's."""
    yield BARE, []
    yield UNDER_KDBUS, context.execution.run_under_kdbus()
    if shutil.which("strace"):
        # strace exits as its program does; its summary goes where nobody is disturbed by it.
        yield TRACED, ["strace", "-f", "-c", "-o", "/dev/null"]
    else:
        context.results.miss(TRACED, "strace is not installed; apt-get install strace")


def _bystanders(context: Context) -> Iterator[Task]:
    execution, seconds = context.execution, context.settings.seconds
    job = [*execution.compile_command("kdbus-call", "-c", "-o", "/dev/null")]
    jobs: list[tuple[str, list[object]]] = [
        ("storm", [seconds, execution.folder / "storm-file"]),
        ("spawn", ["start and end of a process", seconds, "true"]),
        ("spawn", ["compile job", 4 * seconds, *job]),
    ]
    (execution.folder / "storm-file").touch()
    for program, arguments in jobs:
        for column, wrapper in _wrappers(context):

            def measure(
                column: str = column,
                wrapper: Sequence[str] = wrapper,
                program: str = program,
                arguments: Sequence[object] = arguments,
            ) -> Iterator[Sample]:
                command = [*wrapper, str(execution.program(program)), *map(str, arguments)]
                for row, number in parse_samples(execution.run(command)):
                    yield row, column, number

            yield Task(column, measure)


_STARTS = 9
"""How often a program is started that reports its first message."""


def _start(context: Context) -> Iterator[Task]:
    execution, seconds = context.execution, context.settings.seconds
    first_call = str(execution.program("kdbus-hold"))
    commands = [
        ("true", BARE, ["true"]),
        ("true", "Python alone", [sys.executable, "-c", "pass"]),
        ("true", UNDER_KDBUS, execution.run_under_kdbus("true")),
        ("a program that makes a bus", UNDER_KDBUS, execution.run_under_kdbus(first_call, "0", "0", "0")),
    ]
    for row, column, command in commands:

        def place(_: str, row: str = row, column: str = column) -> tuple[str, str]:
            return row, column

        yield _task(context, column, "spawn", ["start", 4 * seconds, *command], place=place)

    def first_message() -> Iterator[Sample]:
        command = execution.run_under_kdbus(str(execution.program("kdbus-first")))
        for _ in range(_STARTS):
            for row, number in parse_samples(execution.run(command)):
                yield row, UNDER_KDBUS, number

    yield Task(UNDER_KDBUS, first_message)


def _memory(context: Context) -> Iterator[Task]:
    def measure() -> Iterator[Sample]:
        held = memory.Held(*context.settings.held)
        for row, number in memory.per_object(context.execution, held):
            yield row, "supervisor", number

    yield Task("supervisor", measure)


GROUPS = (
    Group("commands", "Each kdbus command against traps", "", "ns", (TRAP, SERVED_TRAP), _commands),
    Group("calls", "A call and its reply, copied", "size", "ns", (DAEMON, BROKER, SOCKET), _calls, size),
    Group("memfds", "A call that passes sealed memory", "size", "ns", (DAEMON, BROKER, SOCKET), _memfds, size),
    Group(
        "throughput",
        "One-way messages: time from one to the next",
        "senders and size",
        "ns",
        (DAEMON, BROKER),
        _throughput,
        _show_throughput,
    ),
    Group("broadcast", "A signal to many", "receivers", "ns", (DAEMON, BROKER), _broadcast, _show_broadcast),
    Group("service", "A call and a signal, as most services do it", "", "ns", (DAEMON, BROKER), _service),
    Group("desktop", "The mix of a desktop session: a thousand names", "", "ns", (DAEMON, BROKER), _desktop),
    Group(
        "contention",
        "Many clients of one service: from one answer to the next",
        "clients",
        "ns",
        (DAEMON, BROKER),
        _contention,
    ),
    Group("fairness", "Many clients of one service: who gets how much", "", "", (), _fairness, _show_fairness),
    Group("growth", "A synchronous call of 8 B on a bus with so many", "of", "ns", ("10",), _growth),
    Group("metadata", "A synchronous call that tells about the sender", "size", "ns", ("none",), _metadata, size),
    Group("bystanders", "What programs pay that do not use kdbus", "what", "ns", (BARE,), _bystanders),
    Group("start", "Start and end", "program", "ns", (BARE,), _start),
    Group("memory", "Memory of the supervisor for each", "object", "bytes", (), _memory),
)
"""All groups, in the order in which they are measured."""
