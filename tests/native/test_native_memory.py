# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.memory` on the test's own memory (the kernel makes no difference) and on a child's."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native import memory
from tests.support.children import Child

PAGE = mmap.PAGESIZE
PROT_NONE = 0
ME = os.getpid()

_libc = ctypes.CDLL(None, use_errno=True)


class Pages:
    """Two pages, of which the second can be closed to access or to writing."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 2 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pin = (ctypes.c_char * (2 * PAGE)).from_buffer(self._map)
        self.address = ctypes.addressof(self._pin)
        self.border = self.address + PAGE

    def put(self, address: int, data: bytes) -> None:
        self._map[address - self.address : address - self.address + len(data)] = data

    def protect_second(self, protection: int) -> None:
        result = _libc.mprotect(ctypes.c_void_p(self.border), ctypes.c_size_t(PAGE), protection)
        assert result == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
def pages() -> Iterator[Pages]:
    """The two pages, given back accessible."""
    both = Pages()
    yield both
    both.protect_second(mmap.PROT_READ | mmap.PROT_WRITE)


def test_a_childs_memory_is_its_own(pages: Pages) -> None:
    reading, writing = os.pipe()
    pages.put(pages.address, b"before")
    with Child(lambda: (os.read(reading, 1), memory.read(os.getpid(), pages.address, 6))) as child:
        pages.put(pages.address, b"parent")
        assert memory.read(child.pid, pages.address, 6) == b"before"
        memory.write(child.pid, pages.address, b"childs")
        os.write(writing, b"x")
        assert child.result() == (b"x", b"childs")
    assert memory.read(ME, pages.address, 6) == b"parent"
    os.close(reading)
    os.close(writing)


def test_reading_across_pages(pages: Pages) -> None:
    pages.put(pages.border - 3, b"abcdef")
    assert memory.read(ME, pages.border - 3, 6) == b"abcdef"


def test_reading_nothing_needs_no_memory() -> None:
    assert memory.read(ME, 0, 0) == b""
    assert memory.read_pieces(ME, []) == []
    assert memory.read_pieces(ME, [(0, 0), (1, 0)]) == [b"", b""]
    memory.write(ME, 0, b"")


def test_a_read_is_all_or_nothing(pages: Pages) -> None:
    pages.protect_second(PROT_NONE)
    assert len(memory.read(ME, pages.address, PAGE)) == PAGE
    for start, size in [(pages.border - 1, 2), (pages.border, 1), (pages.address, 2 * PAGE), (0, 8), (2**64 - 8, 8)]:
        with pytest.raises(OSError, match=f"read {size} bytes at {start:#x} of process {ME}: Bad address") as caught:
            memory.read(ME, start, size)
        assert caught.value.errno == errno.EFAULT


def test_pieces_come_in_order(pages: Pages) -> None:
    pages.put(pages.address, bytes(range(256)))
    pieces = [(pages.address + 200, 3), (pages.address, 0), (pages.address + 10, 2), (pages.address + 10, 2)]
    assert memory.read_pieces(ME, pieces) == [bytes([200, 201, 202]), b"", bytes([10, 11]), bytes([10, 11])]


@given(st.lists(st.tuples(st.integers(0, 2 * PAGE - 1), st.integers(0, 40)), max_size=60))
def test_pieces_are_what_slices_are(places: list[tuple[int, int]]) -> None:
    data = bytes(i * 7 % 251 for i in range(2 * PAGE + 40))
    source = ctypes.create_string_buffer(data, len(data))
    address = ctypes.addressof(source)
    found = memory.read_pieces(ME, [(address + offset, size) for offset, size in places])
    assert found == [data[offset : offset + size] for offset, size in places]


@pytest.mark.parametrize("count", [1023, 1024, 1025, 3000])
def test_more_pieces_than_one_system_call_takes(pages: Pages, count: int) -> None:
    pages.put(pages.address, bytes(i % 256 for i in range(count + 1)))
    found = memory.read_pieces(ME, [(pages.address + i, 2) for i in range(count)])
    assert found == [bytes([i % 256, (i + 1) % 256]) for i in range(count)]


@pytest.mark.parametrize("bad", [0, 1, 1030, 1099])
def test_one_bad_piece_fails_all(pages: Pages, bad: int) -> None:
    pages.protect_second(PROT_NONE)
    pieces = [(pages.address, 4)] * 1100
    pieces[bad] = (pages.border - 2, 4)
    with pytest.raises(OSError) as caught:
        memory.read_pieces(ME, pieces)
    assert caught.value.errno == errno.EFAULT


@pytest.mark.parametrize("before_border", [0, 1, 2, 5, 6, 7, PAGE])
def test_a_string_ends_at_its_zero(pages: Pages, before_border: int) -> None:
    pages.put(pages.border - before_border, b"string\0rest")
    assert memory.read_string(ME, pages.border - before_border, 4096) == b"string"
    assert memory.read_string(ME, pages.border - before_border, 7) == b"string"


def test_nothing_behind_the_page_of_the_zero_is_read(pages: Pages) -> None:
    pages.put(pages.border - 4, b"end\0")
    pages.protect_second(PROT_NONE)
    assert memory.read_string(ME, pages.border - 4, 4096) == b"end"


def test_a_string_without_an_end(pages: Pages) -> None:
    pages.put(pages.border - 4, b"endless")
    for limit in (0, 1, 4, 7):
        with pytest.raises(OSError) as caught:
            memory.read_string(ME, pages.border - 4, limit)
        assert caught.value.errno == errno.ENAMETOOLONG
    pages.protect_second(PROT_NONE)
    with pytest.raises(OSError, match="read a string of at most 5 bytes") as caught:
        memory.read_string(ME, pages.border - 4, 5)
    assert caught.value.errno == errno.EFAULT


def test_writing_respects_protection(pages: Pages) -> None:
    memory.write(ME, pages.border - 2, b"1234")
    assert memory.read(ME, pages.border - 2, 4) == b"1234"
    pages.protect_second(mmap.PROT_READ)
    with pytest.raises(OSError, match="write 4 bytes") as caught:
        memory.write(ME, pages.border - 2, b"5678")
    assert caught.value.errno == errno.EFAULT
    assert memory.read(ME, pages.border, 2) == b"34"


def test_a_process_that_is_not_there() -> None:
    with Child(lambda: None) as child:
        child.result()
    for pid in (child.pid, 0, -1):
        for attempt in (
            lambda pid=pid: memory.read(pid, 4096, 1),
            lambda pid=pid: memory.read_pieces(pid, [(4096, 1)]),
            lambda pid=pid: memory.read_string(pid, 4096, 1),
            lambda pid=pid: memory.write(pid, 4096, b"x"),
        ):
            with pytest.raises(ProcessLookupError):
                attempt()
