# SPDX-License-Identifier: GPL-2.0-or-later
"""What is recorded comes back as it was; what is cut off or damaged is told, and what was before it is there."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracing.record import Event, Frame, Left, Phase, Record
from tracing.recording import END, MAGIC, BadRecording, frame, read

FULL = Record(Event.CALL, 7, 1, 2, 3, Phase.RESUMED, 4, 5, "comm", 6, "0-x/bus", 7, "final", "SEND", 8, 9, b"a", b"b")
FULL.message, FULL.payload, FULL.payload_size, FULL.pool, FULL.length = b"c", b"d", 10, b"e", 11
FULL.value, FULL.errno, FULL.error, FULL.reason, FULL.peer = -12, 13, "QueueFull", "é\n", 14
FULL.names, FULL.notes, FULL.count = {7: ["a.b", "c.d"]}, ["x"], 15
FULL.stack, FULL.copied = [Frame("/a (b)", 16, "main", 17), Frame("/c", 18, "", 0)], b"f"
FULL.path, FULL.left, FULL.unknown = "/mnt", [Left(19, 20, 21, 22)], 23


def stored(*records: Record) -> bytes:
    return MAGIC + b"".join(map(frame, records)) + END


def all_of(data: bytes) -> list[Record]:
    return list(read(io.BytesIO(data)))


def test_every_member_comes_back() -> None:
    empty = Record(Event.CLOSE, 1, 0, 0)
    for field in fields(Record):
        if field.name not in ("event", "phase"):
            assert getattr(FULL, field.name) != getattr(empty, field.name), field.name
    assert all_of(stored(FULL, empty, FULL)) == [FULL, empty, FULL]


def test_a_recording_of_before_a_member_was_there_can_be_read() -> None:
    record = Record(Event.CLOSE, 1, 0, 0, left=[Left(1, 2, 3, 4)])
    of_old = Record(Event.CLOSE, 1, 0, 0)
    assert frame(record) != frame(of_old) and all_of(stored(of_old))[0].left == []


def test_nothing_and_zero_are_not_the_same() -> None:
    for descriptor in (None, 0):
        assert all_of(stored(Record(Event.OPEN, 1, 0, 0, descriptor=descriptor)))[0].descriptor == descriptor


@given(st.integers(-(1 << 64), 1 << 64), st.binary(max_size=300), st.text(max_size=20))
def test_numbers_and_bytes_of_all_sizes(value: int, payload: bytes, reason: str) -> None:
    record = Record(Event.CALL, 1, 0, 0, value=value, payload=payload, reason=reason)
    assert all_of(stored(record)) == [record]


def test_a_file_that_is_cut_off_has_what_was_before() -> None:
    data = stored(FULL, FULL)
    for size in range(len(MAGIC), len(data)):
        whole = min((size - len(MAGIC)) // len(frame(FULL)), 2)
        records = read(io.BytesIO(data[:size]))
        assert [next(records) for _ in range(whole)] == [FULL] * whole
        with pytest.raises(BadRecording, match=f"cut off behind {whole} record{'s' * (whole != 1)}$"):
            next(records)


def test_a_damaged_file_is_told() -> None:
    data = bytearray(stored(FULL, FULL))
    data[-len(END) - 3] ^= 1
    records = read(io.BytesIO(data))
    assert next(records) == FULL
    with pytest.raises(BadRecording, match=r"damaged behind 1 record$"):
        next(records)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "it is no recording"),
        (b"#!/bin/sh\nexit 0 # long enough", "it is no recording"),
        (MAGIC[:-1] + b"\x01", "it is of version 1, and this kdbus reads version 2"),
        (MAGIC + b"\xfe" * 8, "damaged behind 0 records"),
    ],
)
def test_what_is_no_recording(data: bytes, part: str) -> None:
    with pytest.raises(BadRecording, match=part):
        all_of(data)


@given(st.binary(max_size=60))
def test_no_frame_makes_reading_fail_otherwise(data: bytes) -> None:

    whole = MAGIC + struct.pack("<2I", len(data), zlib.crc32(data)) + data
    for each in (whole, MAGIC + data):
        try:
            all_of(each)
        except BadRecording:
            continue


def test_members_of_later_versions_are_passed_over() -> None:

    data = frame(FULL)[8:] + bytes((120 << 1, 6, 121 << 1 | 1, 4)) + b"xy"
    found: list[Any] = all_of(MAGIC + struct.pack("<2I", len(data), zlib.crc32(data)) + data + END)
    assert found == [FULL]
