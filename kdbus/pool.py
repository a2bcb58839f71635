# SPDX-License-Identifier: GPL-2.0-or-later
"""The pool of a connection: memory that the bus writes and the connection reads, handed out in parts that free
themselves.

A part (a message, say) is given back with FREE, after which the bus overwrites it. Forgotten ones fill the pool until
nobody can send any more; one that is given back too early changes under its reader. So a part is tied to an object that
all views of it refer to, directly or through other views, and FREE is issued when that object dies. It is a ctypes
array over the whole pool, made for this part: `memoryview` keeps what it views alive, and Python can watch the end of
an array.

What is parsed is looked at through another view (`whole`), so that an exception, whose traceback holds views, holds no
part. Parts are counted by offset, as a message that was peeked at and then received is one part, given out twice and
freed once. Nothing is freed after the connection was closed: its pool is then nobody's, but stays readable as long as
views of it exist. Nor does a forked child free, as the parts are its parent's.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from kdbus.commands import Commands
from kdbus.errors import Malformed
from kdbus.system import Device, preserving_errno


class Pool:
    """The mapped pool of a device."""

    def __init__(self, device: Device, commands: Commands, size: int) -> None:
        """Map it. Raises Error."""
        self._device = device
        self._commands = commands
        self._memory = device.map(size)
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._held: dict[int, int] = {}
        self._receiving = 0
        self._pending: list[int] = []
        self._closed = False
        self.size = size
        self.whole = memoryview(self._memory).cast("B").toreadonly()

    def check(self, offset: int, size: int, command: str) -> None:
        """Raises Malformed, for `command`, unless these bytes lie within the pool."""
        if offset > self.size or size > self.size - offset:
            raise Malformed(command, meaning=f"{size} bytes at {offset} do not lie within the pool of {self.size}")

    def take(self, offset: int) -> memoryview:
        """A view of the whole pool that holds the part at `offset`: it is freed when this and all views made of it are
        gone."""
        exporter = type(self._memory).from_address(ctypes.addressof(self._memory))
        with self._lock:
            self._held[offset] = self._held.get(offset, 0) + 1
        weakref.finalize(exporter, self._forget, offset).atexit = False
        return memoryview(exporter).cast("B").toreadonly()

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """While a part is being received, none is freed: it may be one that is given out again, and not yet counted."""
        with self._lock:
            self._receiving += 1
            try:
                yield
            finally:
                self._receiving -= 1
                pending, self._pending = self._pending, []
                for offset in pending:
                    if offset not in self._held:
                        self.free(offset)

    def free(self, offset: int) -> None:
        """FREE, unless the connection is closed or another process's."""
        with self._lock:
            if not self._closed and os.getpid() == self._owner:
                preserving_errno(self._device, self._commands.free(offset))

    def close(self) -> None:
        """Nothing is freed from now on."""
        with self._lock:
            self._closed = True

    def _forget(self, offset: int) -> None:
        if os.getpid() != self._owner:
            return  # Before the lock, which another thread may have held while this process was forked.
        with self._lock:
            count = self._held.pop(offset) - 1
            if count:
                self._held[offset] = count
            elif self._receiving:
                self._pending.append(offset)
            else:
                self.free(offset)
