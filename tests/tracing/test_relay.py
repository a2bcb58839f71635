# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process of its own writes is what it was told, in order; what it was not told for want of room is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdbus.abi.revision import REVISIONS
from native.library import ffi
from tracing import output, relay
from tracing.native_calls import FORM, Batch, Known
from tracing.record import Event, Phase, Record
from tracing.relay import Relay

MESSAGES = 20000


class Notes:
    """A tracer that writes what it is shown into a file, once `gate` is readable."""

    payload_limit = 100
    waits = True
    stacks = False
    left = False

    def __init__(self, path: Path, gate: int | None = None) -> None:
        self._file = path.open("w")
        self._gate = gate

    def take(self, record: Record) -> None:
        if self._gate is not None:
            os.read(self._gate, 1)
            self._gate = None
        print(record.event.value, record.sequence, record.count, record.comm, record.reason, sep="|", file=self._file)

    def close(self) -> None:
        self._file.close()


def opened(sequence: int) -> Record:
    return Record(Event.OPEN, sequence, 1, 1, comm="program", node="control")


def free(revision: str = "final") -> bytes:
    """A FREE, as the engine notes it: of thread 11, on connection number 5 there."""
    request = next(each for each in REVISIONS if each.name == revision).requests["FREE"]
    command = (40).to_bytes(8, "little") + bytes(32) + bytes(32)
    return FORM.pack(1000, 3000, 0x7000, 0, 0, 0, 0, 0, 0, 0, 0, 11, 3, 5, request, 0, 0, 0, 0, 0, 0, command, command)


def batch(sequence: int, count: int, name: str) -> Batch:
    known = Known({5: ("0-x/bus", 7, "final", 1000, ["org.example.X"])}, {11: (10, name)}, {})
    return Batch(sequence, 50, free() * count, b"", known)


def test_the_engine_has_that_form() -> None:
    assert FORM.size == ffi.sizeof("struct kdbus_call_record")


def test_a_call_of_the_engine_as_a_record() -> None:
    (record,) = batch(4, 1, "program").made()
    assert (record.sequence, record.monotonic_ns, record.realtime_ns, record.duration_ns) == (4, 1000, 1050, 2000)
    assert (record.pid, record.tid, record.comm, record.descriptor) == (10, 11, "program", 3)
    assert (record.node, record.connection, record.names) == ("0-x/bus", 7, {7: ["org.example.X"]})
    assert (record.command, record.phase, record.errno, record.peer) == ("FREE", Phase.WHOLE, 0, None)
    assert Known.unpacked(batch(1, 1, "program").known.packed()) == batch(1, 1, "program").known


def test_everything_arrives_in_order(tmp_path: Path) -> None:
    tracer = Relay(Notes(tmp_path / "notes"), None)
    tracer.take(opened(1))
    tracer.take_batch(batch(2, 3, "before"))
    tracer.take_batch(batch(5, 1, "before"))
    tracer.take_batch(batch(6, 1, "behind"))
    tracer.take(opened(7))
    tracer.close()
    lines = [line.split("|") for line in (tmp_path / "notes").read_text().splitlines()]
    assert [(line[0], int(line[1]), line[3]) for line in lines] == [
        ("open", 1, "program"),
        *[("call", sequence, "before") for sequence in (2, 3, 4, 5)],
        ("call", 6, "behind"),
        ("open", 7, "program"),
    ]


def test_what_finds_no_room_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module, name, value in (
        (relay, "BACKLOG", 1000),
        (relay, "PATIENCE_S", 0.0),
        (relay, "AT_LEAST_S", 0.0),
        (output, "PATIENCE_S", 0.0),
        (output, "KEPT", 10000),
    ):
        monkeypatch.setattr(module, name, value)
    reading, writing = os.pipe()
    tracer = Relay(Notes(tmp_path / "notes", reading), "FILE")
    os.close(reading)
    for sequence in range(0, 2 * MESSAGES, 2):
        tracer.take(opened(sequence))
        tracer.take_batch(batch(sequence + 1, 1, "program"))
    os.write(writing, b"x")
    os.close(writing)
    tracer.close()
    lines = [line.split("|") for line in (tmp_path / "notes").read_text().splitlines()]
    dropped = sum(int(line[2]) for line in lines if line[0] == "dropped")
    sequences = [int(line[1]) for line in lines if line[0] != "dropped"]
    assert sequences == sorted(sequences) and len(sequences) < 2 * MESSAGES
    told = capfd.readouterr().err
    assert f"kdbus: {2 * MESSAGES - len(sequences)} records of the trace dropped" in told
    assert dropped <= 2 * MESSAGES - len(sequences)


def test_a_mistake_over_there_ends_the_trace_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracer = Relay(Notes(tmp_path / "notes"), "FILE")
    broken = batch(1, 1, "program")
    broken.known.threads.clear()
    tracer.take_batch(broken)
    os.waitid(os.P_PID, tracer._process, os.WEXITED | os.WNOWAIT)
    for sequence in range(MESSAGES):
        tracer.take(opened(sequence))
    tracer.close()
    told = capfd.readouterr().err
    assert "kdbus: writing the trace failed" in told and "KeyError" in told
    assert told.count("kdbus: writing the trace to 'FILE': Broken pipe") == 1
