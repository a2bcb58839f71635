# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.pool`: what receivers see, and that they can never write."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.pool import Pool
from tests.support.children import Child

PAGE = mmap.PAGESIZE
SIZE = 4 * PAGE

F_GET_SEALS = 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE = 1, 2, 4, 16


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A pool of four pages."""
    with Pool(b"test", SIZE) as fresh:
        yield fresh


def mapped(pool: Pool) -> mmap.mmap:
    """The pool as a receiver maps it."""
    return mmap.mmap(pool.read_only_descriptor, pool.size, mmap.MAP_SHARED, mmap.PROT_READ)


def test_a_new_pool_is_zero(pool: Pool) -> None:
    assert pool.size == SIZE
    assert pool.read(0, SIZE) == bytes(SIZE)
    assert os.fstat(pool.read_only_descriptor).st_size == SIZE


def test_what_is_written_is_what_receivers_see(pool: Pool) -> None:
    view = mapped(pool)
    pool.write(10, b"hello")
    assert view[9:16] == b"\0hello\0"
    assert pool.read(9, 7) == b"\0hello\0"
    pool.write(SIZE - 1, b"z")
    assert view[SIZE - 1] == ord("z")


def test_another_process_sees_it_too(pool: Pool) -> None:
    pool.write(100, b"shared")
    with Child(lambda: mapped(pool)[100:106]) as child:
        assert child.result() == b"shared"


def test_a_receivers_descriptor_cannot_write(pool: Pool) -> None:
    descriptor = pool.read_only_descriptor
    assert not os.get_inheritable(descriptor)
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError):
        os.pwrite(descriptor, b"x", 0)


def test_a_receivers_mapping_cannot_become_writable(pool: Pool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, PAGE, mmap.PROT_READ, mmap.MAP_SHARED, pool.read_only_descriptor, 0)
    result = libc.mprotect(ctypes.c_void_p(address), PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
    assert (result, ctypes.get_errno()) == (-1, errno.EACCES)
    libc.munmap(ctypes.c_void_p(address), PAGE)


def attempts_to_change(descriptor: int) -> dict[str, Callable[[], object]]:
    """Every way to change a file through a descriptor that was opened for writing."""
    return {
        "map": lambda: mmap.mmap(descriptor, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        "write": lambda: os.pwrite(descriptor, b"x", 0),
        "shrink": lambda: os.ftruncate(descriptor, 0),
        "grow": lambda: os.ftruncate(descriptor, SIZE + PAGE),
        "allocate": lambda: os.posix_fallocate(descriptor, SIZE, PAGE),
        "seal": lambda: fcntl.fcntl(descriptor, 1033, 8),
    }


@pytest.mark.parametrize("attempt", ["map", "write", "shrink", "grow", "allocate", "seal"])
def test_a_second_opening_does_not_help(pool: Pool, attempt: str) -> None:
    descriptor = os.open(f"/proc/self/fd/{pool.read_only_descriptor}", os.O_RDWR)
    with pytest.raises(PermissionError):
        attempts_to_change(descriptor)[attempt]()
    os.close(descriptor)
    assert pool.read(0, 1) == b"\0"


def test_the_seals(pool: Pool) -> None:
    seals = fcntl.fcntl(pool.read_only_descriptor, F_GET_SEALS)
    wanted = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE
    assert seals & wanted == wanted


def test_the_name_shows_in_the_maps() -> None:
    with Pool(b"kdbus-name", PAGE), open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        assert "/memfd:kdbus-name" in maps.read()


@pytest.mark.parametrize("offset,size", [(-1, 1), (0, SIZE + 1), (SIZE, 1), (SIZE - 1, 2), (2**64, 1), (2**63, 2**63)])
def test_bounds(pool: Pool, offset: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"leave a pool of {SIZE} bytes"):
        pool.read(offset, size)
    with pytest.raises(ValueError, match="leave a pool"):
        pool.copy(offset, pool, 0, size)
    with pytest.raises(ValueError, match="leave a pool"):
        pool.copy(0, pool, offset, size)
    with pytest.raises(ValueError, match="leave a pool"):
        pool.copy_from_process(os.getpid(), offset, [(0, size)])
    if size <= SIZE + 1:
        with pytest.raises(ValueError, match="leave a pool"):
            pool.write(offset, bytes(size))
    assert pool.read(0, SIZE) == bytes(SIZE)


def test_the_very_end_is_within_bounds(pool: Pool) -> None:
    assert pool.read(SIZE, 0) == b""
    pool.write(SIZE, b"")
    pool.copy_from_process(os.getpid(), SIZE, [])


def test_copying_between_pools(pool: Pool) -> None:
    with Pool(b"other", PAGE) as other:
        other.write(5, b"payload")
        pool.copy(100, other, 5, 7)
        assert pool.read(99, 9) == b"\0payload\0"


def test_copying_within_a_pool_may_overlap(pool: Pool) -> None:
    pool.write(0, b"abcdef")
    pool.copy(2, pool, 0, 6)
    assert pool.read(0, 8) == b"ababcdef"


def test_copying_from_something_else_that_reads(pool: Pool) -> None:
    class Constant:
        def read(self, offset: int, size: int) -> bytes:
            return bytes([offset]) * size

    pool.copy(0, Constant(), 7, 3)
    assert pool.read(0, 4) == b"\7\7\7\0"


def test_payload_of_a_process_and_zeros(pool: Pool) -> None:
    source = ctypes.create_string_buffer(b"0123456789", 10)
    address = ctypes.addressof(source)
    pool.write(0, b"#" * 20)
    with Child(signal.pause) as child:
        pool.copy_from_process(child.pid, 1, [(0, 2), (address, 4), (address + 8, 2), (0, 1), (0, 1), (address, 1)])
        assert pool.read(0, 13) == b"#\0\x000123" + b"89\0\x000" + b"#"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300), st.integers(0, 50)), max_size=40), st.integers(0, 100))
def test_pieces_end_up_one_after_the_other(places: list[tuple[bool, int, int]], offset: int) -> None:
    data = bytes(i % 251 for i in range(350))
    source = ctypes.create_string_buffer(data, len(data))
    address = ctypes.addressof(source)
    expected = b"".join(bytes(size) if zeros else data[start : start + size] for zeros, start, size in places)
    with Pool(b"pieces", PAGE) as pool:
        pool.write(0, b"\xff" * PAGE)
        pieces = [(0 if zeros else address + start, size) for zeros, start, size in places]
        pool.copy_from_process(os.getpid(), offset, pieces)
        assert pool.read(0, PAGE) == b"\xff" * offset + expected + b"\xff" * (PAGE - offset - len(expected))


@pytest.mark.parametrize("pieces", [[(8, 8)], [(0, 4), (8, 8)], [(2**64 - 16, 16), (0, 8)]])
def test_payload_that_cannot_be_read(pool: Pool, pieces: list[tuple[int, int]]) -> None:
    with pytest.raises(OSError, match="into a pool: Bad address") as caught:
        pool.copy_from_process(os.getpid(), 0, pieces)
    assert caught.value.errno == errno.EFAULT


def test_payload_of_nobody(pool: Pool) -> None:
    with Child(lambda: None) as child:
        child.result()
    with pytest.raises(ProcessLookupError):
        pool.copy_from_process(child.pid, 0, [(4096, 1)])


@pytest.mark.parametrize("size,number", [(0, errno.EINVAL), (2**63, errno.EINVAL), (2**62, None)])
def test_impossible_sizes(size: int, number: int | None) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=f"create a pool of {size} bytes") as caught:
        Pool(b"x", size)
    assert number is None or caught.value.errno == number
    assert set(os.listdir("/proc/self/fd")) == before


def test_names() -> None:
    with Pool(b"x" * 249, PAGE):
        pass
    with pytest.raises(OSError) as caught:
        Pool(b"x" * 250, PAGE)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="zero byte"):
        Pool(b"a\0b", PAGE)


def test_a_closed_pool() -> None:
    before = len(os.listdir("/proc/self/fd"))
    pool = Pool(b"closing", PAGE)
    pool.write(0, b"kept")
    view = mapped(pool)
    pool.close()
    pool.close()
    assert view[:4] == b"kept"
    view.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for attempt in (
        lambda: pool.read(0, 1),
        lambda: pool.write(0, b"x"),
        lambda: pool.copy(0, pool, 1, 1),
        lambda: pool.copy_from_process(os.getpid(), 0, [(0, 1)]),
    ):
        with pytest.raises(ValueError, match="closed"):
            attempt()
