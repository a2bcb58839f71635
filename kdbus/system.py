# SPDX-License-Identifier: GPL-2.0-or-later
"""The system calls of the library: open, ioctl, mmap, close. Nothing else in it touches the kernel, but for waiting.

They are libc's, called through ctypes. `fcntl.ioctl` copies small arguments to a place that need not be aligned to 8
bytes, which kdbus demands, and `mmap.mmap` asks the descriptor for a file size, which it does not have.
"""

from __future__ import annotations

import ctypes
import errno
import os
import weakref
from typing import Final, Protocol

from kdbus.commands import Command
from kdbus.errors import Error, closed, failure
from kdbus.owned import OwnsDescriptor

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_ioctl: Final = _LIBC.ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_mmap: Final = _LIBC.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap: Final = _LIBC.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_PROT_READ: Final = 1
_MAP_SHARED: Final = 1
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


class Device(Protocol):
    """A descriptor of a kdbus node, or what stands in for one."""

    def run(self, command: Command, subject: str = "") -> None:
        """Issue a command, which changes its argument in place. Raises Error, which names `subject`."""

    def map(self, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        """The pool, mapped for as long as anything refers to it. Not to be written to. Raises Error."""

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""

    def close(self) -> None:
        """Idempotent."""


class Node(OwnsDescriptor):
    """An open node of kdbusfs."""

    def __init__(self, path: str) -> None:
        """Open `path`. Raises Error (ENOENT, EACCES, ESHUTDOWN of a bus that has ended)."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise failure("open", error.errno or 0, path) from None

    def run(self, command: Command, subject: str = "") -> None:
        """As Device says. A call that a signal interrupts goes on after Python's handlers have run; they may raise."""
        if self._descriptor < 0:
            raise closed(command.name, subject)
        held, address = in_memory(command.data)
        while _ioctl(self._descriptor, command.request, address) < 0:
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise failure(command.name, number, subject)
        del held

    def map(self, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        """As Device says."""
        address = _mmap(None, size, _PROT_READ, _MAP_SHARED, self._descriptor, 0)
        if address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise Error("mmap", number, os.strerror(number), f"a pool of {size} bytes")
        memory = (ctypes.c_ubyte * size).from_address(address)
        # Tied to the array and not to a connection: views of the pool keep the array, and must stay readable.
        weakref.finalize(memory, _munmap, address, size).atexit = False
        return memory

    def fileno(self) -> int:
        """As Device says."""
        return self._descriptor


def in_memory(data: bytearray) -> tuple[object, int]:
    """Something that holds the bytes where they are (the array cannot be resized while it exists), and their address,
    which is a multiple of 8; 0 if there are none."""
    if not data:
        return None, 0
    first = ctypes.c_char.from_buffer(data)
    return first, ctypes.addressof(first)


def preserving_errno(run: Device, command: Command) -> None:
    """Issue a command in the middle of whatever this thread is doing, as finalizers have to: the errno of a call that
    has just failed stays, and a failure is not told."""
    saved = ctypes.get_errno()
    try:
        run.run(command)
    except Error:
        pass
    finally:
        ctypes.set_errno(saved)
