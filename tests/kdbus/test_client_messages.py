# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages as they lie in the pool, read; and ones that lie, refused. All bytes were put together by hand."""

from __future__ import annotations

import array
import contextlib
import ctypes
import struct

import hypothesis
import pytest
from hypothesis import strategies

from kdbus.abi.revision import FINAL, REVISION219, VERSION3, Kind, Revision
from kdbus.commands import Commands
from kdbus.dialect import DIALECTS
from kdbus.errors import Malformed
from kdbus.flags import HelloFlag, MessageFlag, NameFlag
from kdbus.message import BloomFilter, Incoming, MemfdRange, Memory, PoolRange, descriptors_in, read
from kdbus.sending import Zeros, pieces
from kdbus.values import (
    Audit,
    Capabilities,
    Credentials,
    IdChange,
    NameChange,
    OwnedName,
    Pids,
    ReplyDead,
    ReplyTimeout,
    Timestamp,
)

POOL = 4096
NOWHERE = 0xFFFFFFFFFFFFFFFF


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def item(number: int, content: bytes = b"", size: int | None = None) -> bytes:
    said = 16 + len(content) if size is None else size
    return words(said, number) + content + bytes(-len(content) & 7)


def message(*items: bytes, size: int | None = None, flags: int = 0, source: int = 5, last_word: int = 0) -> bytes:
    body = b"".join(items)
    return words(64 + len(body) if size is None else size, flags, 0, 7, source, 0x77, 3, last_word) + body


def read_at(revision: Revision, offset: int, data: bytes, slice_size: int | None = None) -> Incoming:
    pool = bytearray(POOL)
    pool[offset : offset + len(data)] = data
    said = len(data) if slice_size is None else slice_size
    return read(DIALECTS[revision], memoryview(pool).toreadonly(), offset, said)


def test_payload_of_version_3_is_counted_from_the_pool() -> None:
    items = item(2, words(10, 1024)), item(2, words(4, NOWHERE)), item(3, struct.pack("<QQiI", 8, 100, 6, 0))
    found = read_at(VERSION3, 512, message(*items, item(4, struct.pack("<3i", 7, -1, 9))))
    assert found.pieces == [PoolRange(1024, 10), PoolRange(None, 4), MemfdRange(6, 8, 100)]
    assert found.descriptors == [7, -1, 9]
    assert (found.sender, found.destination, found.payload_type, found.cookie) == (5, 7, 0x77, 3)


def test_payload_of_the_final_revision_is_counted_from_the_message() -> None:
    data = message(item(3, words(10, 96)), flags=1, last_word=10**9)
    found = read_at(FINAL, 512, data, 112)
    assert found.pieces == [PoolRange(608, 10)]
    assert (found.flags, found.last_word) == (MessageFlag.EXPECT_REPLY, 10**9)


def test_items_that_the_sender_made_stay_in_the_final_revision() -> None:
    found = read_at(FINAL, 0, message(item(10, b"a.b\0"), item(8, words(2, 1))))
    assert found.destination_name == "a.b"
    assert found.bloom == BloomFilter(words(1), 2)


@pytest.mark.parametrize("revision", [VERSION3, FINAL])
def test_metadata(revision: Revision) -> None:
    ids = "<8I" if revision is VERSION3 else "<8Q"
    found = read_at(
        revision,
        0,
        message(
            item(0x1001, struct.pack(ids, *range(1, 9))),
            item(0x1002, words(10, 11, 12)),
            item(0x1003, struct.pack(ids[:1] + "2" + ids[2:], 20, 21)),
            item(0x1004, words(4) + b"a.b\0"),
            item(0x1004, words(0) + b"c.d\0"),
            item(0x1005, b"tid\0"),
            item(0x1006, b"pid\0"),
            item(0x1007, b"/exe\0"),
            item(0x1008, b"argv\0"),
            item(0x1009, b"/group\0"),
            item(0x100A, struct.pack("<9I", 40, 1, 0, 2, 0, 3, 1, 4, 0)),
            item(0x100B, b"label\xff\0"),
            item(0x100C, struct.pack("<2I", 30, 31)),
            item(0x100D, b"name\0"),
            item(0x1000, words(1, 2, 3)),
        ),
    ).metadata
    assert found.creds == Credentials(1, 2, 3, 4, 5, 6, 7, 8)
    assert found.pids == Pids(10, 11, 12)
    assert found.auxgroups == (20, 21)
    assert found.names == (OwnedName("a.b", NameFlag.QUEUE), OwnedName("c.d", NameFlag(0)))
    assert (found.tid_comm, found.pid_comm, found.exe, found.cmdline) == ("tid", "pid", "/exe", "argv")
    assert (found.cgroup, found.seclabel, found.description) == ("/group", "label\udcff", "name")
    assert found.caps == Capabilities(40, 1, 2, 3 | 1 << 32, 4)
    assert found.audit == Audit(30, 31)
    assert found.timestamp == Timestamp(1, 2, 3)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (item(0x8000, words(0, 0, 9, 4) + b"a.b\0"), NameChange("a.b", 0, NameFlag(0), 9, NameFlag.QUEUE)),
        (item(0x8001, words(9, 0, 0, 0) + b"a.b\0"), NameChange("a.b", 9, NameFlag(0), 0, NameFlag(0))),
        # Version 3 rounds the item's size up.
        (item(0x8002, words(8, 0, 9, 0) + b"a.b\0\0\0\0\0"), NameChange("a.b", 8, NameFlag(0), 9, NameFlag(0))),
        (item(0x8003, words(9, 1)), IdChange(9, HelloFlag.ACCEPT_FD, True)),
        (item(0x8004, words(9, 1)), IdChange(9, HelloFlag.ACCEPT_FD, False)),
        (item(0x8005), ReplyTimeout()),
        (item(0x8006), ReplyDead()),
    ],
)
def test_notifications(data: bytes, expected: object) -> None:
    for revision in (VERSION3, FINAL):
        assert read_at(revision, 0, message(data, source=0)).notification == expected


LIES = {
    "a message smaller than its header": message(size=63),
    "a message of no size": message(size=0),
    "a message beyond the pool": message(size=POOL + 1),
    "a message of all sizes": message(size=NOWHERE),
    "an item smaller than its header": message(item(0x1000, words(1, 2, 3), size=15)),
    "an item of no size": message(item(0x1000, words(1, 2, 3), size=0)),
    "an item beyond its message": message(item(0x1000, words(1, 2, 3), size=41)),
    "an item of all sizes": message(item(0x1000, words(1, 2, 3), size=NOWHERE)),
    "half an item's header": message(words(16)),
    "a payload without a place": message(item(2, words(10)), item(3, words(10))),
    "a payload beyond the pool": message(item(2, words(10, POOL)), item(3, words(10, POOL))),
    "a payload that wraps around": message(item(2, words(NOWHERE, 8)), item(3, words(NOWHERE, 8))),
    "more zeros than there can be": message(item(2, words(1 << 40, NOWHERE)), item(3, words(1 << 40, NOWHERE))),
    "a short timestamp": message(item(0x1000, words(1, 2))),
    "short credentials": message(item(0x1001, words(1, 2))),
    "capabilities without sets": message(item(0x100A, struct.pack("<2I", 0xFFFFFFFF, 0))),
    "a string that does not end": message(item(0x1005, b"endless!")),
    "a short notification": message(item(0x8000, words(1)), source=0),
}


@pytest.mark.parametrize("revision", [VERSION3, FINAL])
@pytest.mark.parametrize("lie", LIES)
def test_lie_is_found(revision: Revision, lie: str) -> None:
    with pytest.raises(Malformed) as caught:
        read_at(revision, 0, LIES[lie])
    assert caught.value.command == "RECV"


def test_slice_smaller_than_its_message() -> None:
    with pytest.raises(Malformed, match="is said to take 64"):
        read_at(FINAL, 0, message(item(0x8005)), 64)
    with pytest.raises(Malformed, match="does not lie within"):
        read_at(FINAL, 0, message(item(3, words(10, 96))), 104)


def test_descriptors_before_the_lie_are_known() -> None:
    memory = item(4, struct.pack("<QQiI", 0, 8, 11, 0))
    data = message(memory, item(5, struct.pack("<2i", 12, -1)), item(0x1000, size=3), item(5, struct.pack("<i", 13)))
    assert descriptors_in(FINAL, memoryview(data), 0) == [11, 12]
    assert descriptors_in(FINAL, memoryview(data), 8) == []


KINDS = [number for revision in (VERSION3, REVISION219, FINAL) for number in map(revision.number_of, Kind) if number]
ITEMS = strategies.lists(
    strategies.builds(
        item,
        strategies.sampled_from(KINDS) | strategies.integers(0, NOWHERE),
        strategies.binary(max_size=80),
        strategies.none() | strategies.none() | strategies.integers(0, 100),
    ),
    max_size=6,
).map(b"".join)
REVISIONS = strategies.sampled_from([VERSION3, REVISION219, FINAL])


@hypothesis.given(ITEMS | strategies.binary(max_size=200), REVISIONS, strategies.sampled_from([0, 5]))
def test_whatever_lies_there_is_read_or_refused(data: bytes, revision: Revision, source: int) -> None:
    whole = message(data, source=source)
    try:
        found = read_at(revision, 0, whole)
    except Malformed:
        descriptors_in(revision, memoryview(whole), 0)
        return
    for piece in found.pieces:
        assert isinstance(piece, MemfdRange) or piece.offset is None or piece.offset + piece.size <= POOL
    memfds = [piece.descriptor for piece in found.pieces if isinstance(piece, MemfdRange)]
    numbers = {number for number in (*found.descriptors, *memfds) if number >= 0}
    assert numbers == set(descriptors_in(revision, memoryview(whole), 0))


@hypothesis.given(ITEMS | strategies.binary(max_size=200), REVISIONS, strategies.integers(0, 300))
def test_whatever_a_result_has_is_read_or_refused(data: bytes, revision: Revision, size: int) -> None:
    commands = Commands(revision)
    readers = commands.read_list, commands.read_bloom, lambda view: commands.read_info(view, "CONN_INFO")
    for head in (b"", words(size), words(size, 1, 2), words(size, size, 1, 2)):
        for read_result in readers:
            with contextlib.suppress(Malformed):
                read_result(memoryview(head + data))


def test_payload_is_sent_from_where_it_lies() -> None:
    numbers = array.array("I", [1, 2, 3])
    grid = memoryview(bytearray(range(16)))
    parts: list[bytes | bytearray | memoryview] = [b"bytes", bytearray(b"array"), memoryview(numbers), b"", grid[::2]]
    found, held = pieces([*parts, memoryview(b"read-only")[5:], Zeros(7)])
    assert isinstance(found[0], Memory)
    sent = [ctypes.string_at(each.address, each.size) for each in found[:-1] if isinstance(each, Memory)]
    assert sent == [b"bytes", b"array", numbers.tobytes(), bytes(grid[::2]), b"only"]
    assert found[-1] == Memory(0, 7)
    with pytest.raises(BufferError):
        numbers.append(4)
    held.clear()
    with pytest.raises(TypeError):
        pieces(["text"])  # type: ignore[list-item]
