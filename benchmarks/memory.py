# SPDX-License-Identifier: GPL-2.0-or-later
"""What the supervisor's memory grows by for each connection, queued message and bus.

The program `kdbus-hold` makes so many of each, in stages, and waits between them; meanwhile its session is looked at
from outside. Counted is the anonymous memory (Pss_Anon in /proc/PID/smaps_rollup, proc(5)) of all processes of the
session that are not the program itself: pools are files and do not count, nor do pages of code.

Weaknesses: memory that an allocator keeps for later counts as in use, and what it kept before is not asked for again,
so that small numbers of objects say little; kernel memory, such as that of sockets and descriptors, is not seen.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.execution import PATIENCE, CannotRun, Execution


@dataclass(frozen=True)
class Held:
    """How many to make: connections, messages in each, buses."""

    connections: int
    messages: int
    buses: int


def per_object(execution: Execution, held: Held) -> Iterator[tuple[str, float]]:
    """(what, bytes for one) for each kind of object, and the whole before there are any. Raises CannotRun."""
    program = execution.program("kdbus-hold")
    command = execution.run_under_kdbus(program, *map(str, (held.connections, held.messages, held.buses)))
    with (
        tempfile.TemporaryFile() as errors,
        execution.started(command, subprocess.PIPE, errors, stdin=subprocess.PIPE) as process,
    ):
        stages = []
        for _ in range(4):
            _wait_until_ready(process, errors)
            _wait_for_helpers(process.pid, program)
            stages.append(_anonymous_memory(process.pid, program))
            _go_on(process)
        empty, connected, filled, with_buses = stages
    yield "supervisor with one connection", empty
    yield "idle connection", (connected - empty) / held.connections
    yield "queued message of 8 B", (filled - connected) / (held.connections * held.messages)
    yield "bus", (with_buses - filled) / held.buses


def _wait_until_ready(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    output = process.stdout
    assert output is not None
    # One line at a time, and nothing after it before we let the program go on: no line can be in the buffer.
    line = output.readline() if select.select([output], [], [], PATIENCE)[0] else b""
    if line.strip() != b"ready":
        errors.seek(0)
        said = errors.read().decode(errors="replace").split("\n")
        reason = next((text for text in reversed(said) if text.strip()), "it does not come forward")
        raise CannotRun(f"kdbus-hold: {reason}")


def _go_on(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def _wait_for_helpers(session: int, program: Path) -> None:
    """Wait for the end of what `kdbus run` starts for a moment, to find something out about the kernel."""
    for process in _processes(session, program):
        if process != session:
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(process)
                try:
                    if not select.select([pidfd], [], [], PATIENCE)[0]:
                        raise CannotRun(f"kdbus run: its process {process} does not end")
                finally:
                    os.close(pidfd)


def _processes(session: int, program: Path) -> Iterator[int]:
    """The processes of `session` that do not run `program`."""
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or os.getsid(int(folder.name)) != session:
                continue
            if os.readlink(folder / "exe") != str(program):
                yield int(folder.name)
        except OSError:
            # It has ended since, or is somebody else's.
            continue


def _anonymous_memory(session: int, program: Path) -> int:
    """Bytes of the processes of `session` that do not run `program`."""
    total = 0
    for process in _processes(session, program):
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss_Anon:\s*(\d+) kB$", rollup, re.MULTILINE)
        if found is None:
            raise CannotRun("/proc/PID/smaps_rollup has no Pss_Anon; Linux 5.4 or later is needed")
        total += 1024 * int(found.group(1))
    return total
