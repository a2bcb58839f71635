# SPDX-License-Identifier: GPL-2.0-or-later
"""Deputies: what they copy, and what becomes of a copy in which one is left behind."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fcntl import ioctl

import pytest

from native import memory
from native.deputies import Deputies, Stalled, employ, present
from native.pool import Pool

PAGE = 4096
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_API = 0xC018AA3F
_REGISTER = 0xC020AA00
_COPY = 0xC028AA03
_MISSING = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


@pytest.fixture
def deputies() -> Iterator[Deputies]:
    """Deputies that are employed."""
    with closing(Deputies()) as found:
        employ(found)
        yield found
    assert present() is None


class Withheld:
    """A page of this process that does not come before it is served."""

    def __init__(self) -> None:
        self.address: int = _LIBC.mmap(None, PAGE, 3, 0x22, -1, 0)
        self._fault = _LIBC.syscall(_USERFAULTFD[os.uname().machine], os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fault < 0:
            pytest.skip(f"userfaultfd(2): {os.strerror(ctypes.get_errno())}")
        ioctl(self._fault, _API, bytearray(struct.pack("3Q", 0xAA, 0, 0)))
        ioctl(self._fault, _REGISTER, bytearray(struct.pack("4Q", self.address, PAGE, _MISSING, 0)))

    def serve(self, content: bytes) -> None:
        page = ctypes.create_string_buffer(content, PAGE)
        ioctl(self._fault, _COPY, bytearray(struct.pack("5Q", self.address, ctypes.addressof(page), PAGE, 0, 0)))

    def close(self) -> None:
        os.close(self._fault)
        _LIBC.munmap(self.address, PAGE)


@contextmanager
def withheld() -> Iterator[Withheld]:
    with closing(Withheld()) as page:
        yield page


def await_return(deputies: Deputies) -> list[tuple[int, int]]:
    assert select.select([deputies], [], [], 30)[0], "nobody came back"
    return list(deputies.returned())


def test_they_copy_what_would_be_copied_without(deputies: Deputies) -> None:
    buffer = ctypes.create_string_buffer(b"hello, caller", 64)
    address, pid = ctypes.addressof(buffer), os.getpid()
    assert memory.read(pid, address, 5) == b"hello"
    assert memory.read(pid, address, 0) == b""
    assert memory.read_pieces(pid, [(address, 5), (address + 7, 6)]) == [b"hello", b"caller"]
    assert memory.read_string(pid, address, 64) == b"hello, caller"
    memory.write(pid, address, b"HE")
    assert buffer.value == b"HEllo, caller"
    with Pool(b"pool", PAGE) as pool:
        pool.copy_from_process(pid, 3, [(address, 5), (0, 2), (address + 7, 6)])
        assert pool.read(0, 17) == b"\0\0\0HEllo\0\0caller\0"
    assert list(deputies.returned()) == []


def test_errors_are_the_same(deputies: Deputies) -> None:
    buffer = ctypes.create_string_buffer(8)
    for attempt in (
        lambda: memory.read(os.getpid(), 8, 8),
        lambda: memory.write(os.getpid(), 8, b"x"),
        lambda: memory.read_string(os.getpid(), 8, 8),
        lambda: memory.read_pieces(os.getpid(), [(ctypes.addressof(buffer), 8), (8, 8)]),
    ):
        with pytest.raises(OSError) as told:
            attempt()
        assert told.value.errno == errno.EFAULT


def test_a_child_does_without(deputies: Deputies) -> None:
    buffer = ctypes.create_string_buffer(b"hello", 8)
    assert memory.read(os.getpid(), ctypes.addressof(buffer), 5) == b"hello"
    child = os.fork()
    if child == 0:
        found = present() is None and memory.read(os.getpid(), ctypes.addressof(buffer), 5) == b"hello"
        os._exit(0 if found else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_read_that_does_not_end_is_left_behind(deputies: Deputies) -> None:
    buffer = ctypes.create_string_buffer(b"hello", 8)
    with withheld() as page:
        with pytest.raises(Stalled) as told:
            memory.read(os.getpid(), page.address, 8)
        assert memory.read(os.getpid(), ctypes.addressof(buffer), 5) == b"hello"
        assert list(deputies.returned()) == []
        page.serve(b"late")
        assert await_return(deputies) == [(told.value.ticket, 0)]
        assert memory.read(os.getpid(), page.address, 4) == b"late"


def test_several_are_left_behind(deputies: Deputies) -> None:
    with withheld() as first, withheld() as second:
        tickets = []
        for page in (first, second):
            with pytest.raises(Stalled) as told:
                memory.read_pieces(os.getpid(), [(page.address, 8)])
            tickets.append(told.value.ticket)
        assert len(set(tickets)) == 2
        second.serve(b"")
        assert await_return(deputies) == [(tickets[1], 0)]
        first.serve(b"")
        assert await_return(deputies) == [(tickets[0], 0)]


def test_a_write_that_does_not_end_is_done_when_it_can_be(deputies: Deputies) -> None:
    with withheld() as page:
        with pytest.raises(Stalled) as told:
            memory.write(os.getpid(), page.address, b"written")
        page.serve(b"before!, and after")
        assert await_return(deputies) == [(told.value.ticket, 0)]
        assert memory.read(os.getpid(), page.address, 18) == b"written, and after"


def test_a_pool_moves_away_from_a_copy_that_does_not_end(deputies: Deputies) -> None:
    with withheld() as page, Pool(b"pool", 4 * PAGE) as pool:
        pool.write(0, b"x" * 3 * PAGE)
        with pytest.raises(Stalled) as told:
            pool.copy_from_process(os.getpid(), PAGE, [(page.address, PAGE)])
        pool.write(PAGE, b"mine")
        page.serve(b"late")
        assert await_return(deputies) == [(told.value.ticket, 0)]
        assert pool.read(PAGE - 1, 6) == b"xminex"
        assert os.pread(pool.read_only_descriptor, 6, PAGE - 1) == b"xminex"


def test_who_is_left_behind_does_not_outlive_its_copy() -> None:
    threads = os.listdir("/proc/self/task")
    with withheld() as page:
        deputies = Deputies()
        employ(deputies)
        with pytest.raises(Stalled):
            memory.read(os.getpid(), page.address, 8)
        page.serve(b"")
        await_return(deputies)
        deputies.close()
    assert os.listdir("/proc/self/task") == threads
