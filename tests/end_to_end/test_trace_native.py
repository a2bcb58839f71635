# SPDX-License-Identifier: GPL-2.0-or-later
"""What native code serves is traced and watched as if the broker had served it, and native code goes on serving it.

The same invented conversation (`programs/traffic.c`, see `test_flows.py`) is traced with flows and without, and the
traces are compared; only times, and numbers that differ from run to run, are left out. So are the messages that
`kdbus monitor` shows of it.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.users import User

SEEDS = {"3": 3, "final": 15, "mixed": 4}
MESSAGES = 300
_STATISTICS = re.compile(r"kdbus: (\d+) calls served by the broker, (\d+) natively\n")
_DIFFERING = (
    (re.compile(r"^\d+ ", re.M), ""),
    (re.compile(r"<\d+\.\d+>(?=\n|\0)"), "<T>"),
    (re.compile(r"timeout_ns=\d+ /\* in -?[0-9.]+ s \*/"), "TIMEOUT"),
    (re.compile(r"\b(monotonic_ns|realtime_ns|start_time_ns|pid|tid|ppid)=\d+"), r"\1=N"),
    (re.compile(r"id128=<[^>]*>"), "ID"),
    (re.compile(r"address=0x[0-9a-f]+"), "ADDRESS"),
)


@pytest.fixture(scope="module")
def traffic(open_folder: Path) -> Path:
    return compile_program("traffic", open_folder)


def traced(user: User, *words: str) -> int:
    """How many calls were served natively while the program ran and was traced."""
    outcome = user.trusting.run(user.kdbus("run", "--statistics", *words))
    found = _STATISTICS.search(outcome.output)
    assert outcome.status == 0 and found is not None, outcome.output
    return int(found[2])


def comparable(trace: Path) -> list[str]:
    """The records of a trace, without what differs from run to run."""
    text = trace.read_text().replace("\n    # ", "\0")
    for pattern, substitute in _DIFFERING:
        text = pattern.sub(substitute, text)
    # A connection that ends has its notes in the order of deadlines.
    return ["\n".join([line.split("\0")[0], *sorted(line.split("\0")[1:])]) for line in text.splitlines()]


@pytest.mark.parametrize("arguments", [(), ("metadata",)], ids=["plain", "metadata"])
@pytest.mark.parametrize("revision", SEEDS)
def test_a_trace_is_the_same_whoever_serves(
    user: User, traffic: Path, writable: Path, revision: str, arguments: tuple[str, ...]
) -> None:
    conversation = "--", str(traffic), revision, str(SEEDS[revision]), "1200", *arguments
    natively = traced(user, f"--trace={writable}/native", *conversation)
    assert natively > 30, "the comparison is worth nothing if next to nothing was served natively"
    assert traced(user, "--no-flows", f"--trace={writable}/broker", *conversation) == 0
    assert comparable(writable / "native") == comparable(writable / "broker")


def test_calls_that_wait_natively_begin_and_end(user: User, open_folder: Path, writable: Path) -> None:
    """Each that waits is over some time later, by whomever; both are told with the time at which it began."""
    program = compile_program("reply", open_folder)
    command = "--", str(program), "many_callers_wait_at_once"
    trace = writable / "trace"
    outcome = user.trusting.run(user.kdbus("trace", "--json", "-o", str(trace), *command))
    assert outcome.status == 0, outcome.output
    records = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [record["sequence"] for record in records] == list(range(1, len(records) + 1))
    waiting: dict[int, dict[str, object]] = {}
    resumed = 0
    for record in records:
        if record.get("phase") == "unfinished":
            assert waiting.setdefault(record["tid"], record) is record
        elif record.get("phase") == "resumed":
            begun = waiting.pop(record["tid"])
            assert {key: begun[key] for key in ("monotonic_ns", "descriptor", "connection", "arguments")} == {
                key: record[key] for key in ("monotonic_ns", "descriptor", "connection", "arguments")
            }
            resumed += 1
    assert not waiting and resumed > 100


@pytest.mark.parametrize("revision", ["3", "final"])
def test_messages_are_the_same_whoever_serves(user: User, traffic: Path, revision: str) -> None:
    conversation = f"read go; exec {traffic} {revision} {SEEDS[revision]} 1200"
    with_flows, natively = monitored(user, conversation)
    assert natively > 30, "the comparison is worth nothing if next to nothing was served natively"
    without, none = monitored(user, conversation, "--no-flows")
    assert none == 0 and len(with_flows) == MESSAGES
    assert with_flows == without


def monitored(user: User, script: str, *options: str) -> tuple[list[dict[str, object]], int]:
    """What `kdbus monitor` tells of the first messages of a script, which reads a line before, without times; and how
    many calls were served natively."""

    def start(words: list[str], output: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=user.trusting.environment,
            **user.becoming,
        )

    command = "run", "--statistics", *options, "--make-bus", "gate", "--", "sh", "-c", f"echo ready >&2; {script}"
    running = start(user.trusting.kdbus(*command), subprocess.DEVNULL)
    watching = None
    try:
        assert running.stderr is not None and running.stderr.readline() == "ready\n"
        watching = start(
            user.kdbus("monitor", "--json", "--count", str(MESSAGES), "-p", str(running.pid)), subprocess.PIPE
        )
        assert watching.stdout is not None
        about = watching.stdout.readline()
        assert json.loads(about)["record"] == "supervisor"
        running.stdin, gate = None, running.stdin
        assert gate is not None
        with gate:
            print("go", file=gate)
        told = watching.stdout.read()
        output = running.stderr.read()
        assert running.wait(60) == 0, output
        watching.wait(60)
    finally:
        for process in (running, watching):
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
    found = _STATISTICS.search(output)
    assert found is not None, output
    records = [json.loads(line) for line in told.splitlines()]
    for record in records:
        assert record["record"] == "message", record
        for key in ("time_ns", "monotonic_ns", "took_ns"):
            record[key] = record[key] is not None
    return records, int(found[2])
