# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and writing the memory of another process (process_vm_readv(2), process_vm_writev(2)).

Needs the right to trace the process (ptrace(2), "Ptrace access mode checking"). Alternatives: an open `/proc/PID/mem`
is a little faster for a few bytes, three times slower for large blocks, writes through read-only mappings (which no
system call of the target could), and costs a descriptor per process.

All or nothing: a read yields every byte or raises. What was read is a copy; a hostile target may change its memory at
any time, so a value is read once and used as read. A write that fails half-way has written what comes before the bad
byte, as the kernel's own copying does.

The caller is responsible for sizes: memory for the whole result is taken before the first byte is read.

Errors common to all functions, as OSError:
    ESRCH: there is no such process, or `pid` is not positive;
    EPERM: it may not be traced;
    EFAULT: a byte is not mapped, not readable or not writable.

Where deputies are employed (`native.deputies`) all of them may also raise Stalled.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from native.deputies import present
from native.library import failure, ffi, lib

if TYPE_CHECKING:
    from native._helper import CData

_new_bytes = ffi.new_allocator(should_clear_after_alloc=False)
"""Memory that C fills completely before anybody looks at it."""


def read(pid: int, address: int, size: int) -> bytes:
    """`size` bytes from `address` of the process or thread `pid`; EFAULT beyond the end of all memory."""
    _check(address)
    buffer = _new_bytes("char[]", size)
    deputies = present()
    if deputies is None:
        result = lib.kdbus_memory_read(pid, address, buffer, size)
    else:
        result = deputies.read(pid, address, buffer, size)
    if result < 0:
        raise failure(result, f"read {size} bytes at {address:#x} of process {pid}")
    return ffi.unpack(buffer, size)


def read_pieces(pid: int, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
    """The (address, size) `pieces`, in order, all in one system call (one per 1024 pieces)."""
    total = sum(size for _, size in pieces)
    buffer = _new_bytes("char[]", total)
    array, deputies = pieces_array(pieces), present()
    if deputies is None:
        result = lib.kdbus_memory_read_pieces(pid, array, len(pieces), buffer, total)
    else:
        result = deputies.read_pieces(pid, array, buffer, total)
    if result < 0:
        raise failure(result, f"read {len(pieces)} pieces, {total} bytes, of process {pid}")
    whole = ffi.unpack(buffer, total)
    found = []
    start = 0
    for _, size in pieces:
        found.append(whole[start : start + size])
        start += size
    return found


def read_string(pid: int, address: int, limit: int) -> bytes:
    """The string at `address` up to its terminating zero, which is not part of the result.

    `limit`: how many bytes it may have at most, the zero included (PATH_MAX counts like this). Bytes behind the page of
    the zero are never touched. Raises OSError: ENAMETOOLONG if there is no zero within `limit`.
    """
    buffer = _new_bytes("char[]", limit)
    deputies = present()
    if deputies is None:
        length = lib.kdbus_memory_read_string(pid, address, buffer, limit)
    else:
        length = deputies.read_string(pid, address, buffer, limit)
    if length < 0:
        raise failure(length, f"read a string of at most {limit} bytes at {address:#x} of process {pid}")
    return ffi.unpack(buffer, length)


def write(pid: int, address: int, data: bytes) -> None:
    """Puts `data` at `address` of the process or thread `pid`; EFAULT beyond the end of all memory."""
    _check(address)
    deputies = present()
    if deputies is None:
        result = lib.kdbus_memory_write(pid, address, ffi.from_buffer(data), len(data))
    else:
        result = deputies.write(pid, address, data)
    if result < 0:
        raise failure(result, f"write {len(data)} bytes at {address:#x} of process {pid}")


def _check(address: int) -> None:
    """What was added to an address of a program may leave 64 bits."""
    if address >> 64:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def pieces_array(pieces: Sequence[tuple[int, int]]) -> CData:
    """`pieces` as C's array of `struct kdbus_piece`. OverflowError if a number is no unsigned 64 bits."""
    return ffi.new("struct kdbus_piece[]", pieces)
