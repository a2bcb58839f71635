# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace never waits for its reader beyond its bound, says what is missing, and survives a reader that goes away."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracing import output
from tracing.output import Output

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def unexpected(error: OSError) -> None:
    raise AssertionError(error)


def test_a_file_has_it_all_in_order(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    out = Output(os.open(path, os.O_WRONLY | os.O_CREAT), unexpected)
    assert out.write(b"one\n") and out.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"  # at once, as a program that hangs is looked at while it does
    out.close()


def test_a_shared_pipe_stays_blocking_for_others(pipe: Pipe) -> None:
    reading, writing = pipe
    shared = os.dup(writing)
    out = Output(writing, unexpected)
    out.write(b"line\n")
    assert os.get_blocking(shared)
    assert os.read(reading, 100) == b"line\n"
    out.close()
    os.close(shared)


def test_what_a_slow_reader_does_not_take_is_kept_then_dropped_and_counted(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PATIENCE_S", 0.0)
    monkeypatch.setattr(output, "KEPT", 1000)
    reading, writing = pipe
    out = Output(writing, unexpected)
    record = b"x" * 99 + b"\n"
    taken = 0
    while out.write(record):
        taken += 1
    assert not out.write(record)
    assert out.dropped == 2
    found = b""
    while len(found) < 100 * taken - 1000:
        found += os.read(reading, 1 << 20)
    assert out.write(b"after\n")
    out.close()
    while chunk := os.read(reading, 1 << 20):
        found += chunk
    assert found == record * taken + b"after\n"


def test_a_reader_that_has_gone_is_told_once() -> None:
    reading, writing = os.pipe()
    errors: list[int | None] = []
    out = Output(writing, lambda error: errors.append(error.errno))
    os.close(reading)
    assert not out.write(b"line\n") or out.broken
    assert not out.write(b"line\n")
    assert errors == [errno.EPIPE]
    out.close()


def test_a_full_disk_is_told() -> None:
    errors: list[int | None] = []
    out = Output(os.open("/dev/full", os.O_WRONLY), lambda error: errors.append(error.errno))
    out.write(b"line\n")
    assert errors == [errno.ENOSPC] and out.broken
    out.close()
