# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that touch the memory of targets in this one's stead, and are left behind where that stalls (`deputy.c`).

So does closing a file that a target has made: each close of a file on FUSE is told to its server, and the last one of a
socket may linger. `close_file` has that done by a deputy as well. At most one of an owner's closes is waited for at a
time, by its deputy alone; further ones of that owner are made when it is over.

Once `employ` was called, `native.memory` and `native.pool` have targets' memory read and written by a deputy, and raise
`Stalled` where it does not come back within some milliseconds. What was asked for is then as good as not done: a read
and a copy into a pool go nowhere, and a write may still come to pass. `Deputies.returned` tells when it is over.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EINPROGRESS
from typing import TYPE_CHECKING

from native.credentials import borrowed_now
from native.library import failure, ffi, lib

if TYPE_CHECKING:
    from native._helper import CData

_Closed = Callable[[], None]

_present: list[Deputies] = []
"""One, or none."""
os.register_at_fork(after_in_child=lambda: employ(None))  # whose threads are its parent's


class Stalled(Exception):
    """A copy from or to a target's memory does not end. `ticket`: its number in `Deputies.returned`."""

    def __init__(self, ticket: int) -> None:
        super().__init__("a copy from or to a program's memory waits for whoever serves that memory")
        self.ticket = ticket


class Deputies:
    """The one who is at hand, and those who were left behind. Raises OSError: EMFILE or ENFILE, ENOMEM."""

    def __init__(self) -> None:
        self._deputies = lib.kdbus_deputies_create()
        if self._deputies == ffi.NULL:
            raise failure(-ffi.errno, "set up a thread for copies from programs")
        self._kept: dict[int, tuple[object, ...]] = {}
        """What those who were left behind still read and write."""
        self._closing: dict[int, tuple[int | None, _Closed | None]] = {}
        """By ticket: whose file is being closed, and who is to be told."""
        self._unclosed: dict[int | None, deque[tuple[int, _Closed | None]]] = {}
        """By owner, for those of whom a close has stalled: what is to be closed behind it."""
        self._ticket = ffi.new("uint64_t *")
        self._result = ffi.new("int *")

    def fileno(self) -> int:
        """Readable when there is somebody in `returned`."""
        return int(lib.kdbus_deputies_fileno(self._deputies))

    def returned(self) -> Iterator[tuple[int, int]]:
        """The tickets of those who have come back, with the errno of their copy, 0 for none."""
        while lib.kdbus_deputies_next(self._deputies, self._ticket, self._result) == 1:
            ticket = int(self._ticket[0])
            self._kept.pop(ticket, None)
            if ticket in self._closing:
                self._is_closed(ticket)
            else:
                yield ticket, -int(self._result[0])

    def read(self, pid: int, address: int, buffer: CData, size: int) -> int:
        """As `kdbus_memory_read`. Raises Stalled, as all functions here do."""
        return self._checked(lib.kdbus_deputies_read(self._deputies, pid, address, buffer, size), buffer)

    def read_pieces(self, pid: int, pieces: CData, buffer: CData, size: int) -> int:
        """As `kdbus_memory_read_pieces`."""
        result = lib.kdbus_deputies_read_pieces(self._deputies, pid, pieces, len(pieces), buffer, size)
        return self._checked(result, pieces, buffer)

    def read_string(self, pid: int, address: int, buffer: CData, limit: int) -> int:
        """As `kdbus_memory_read_string`."""
        return self._checked(lib.kdbus_deputies_read_string(self._deputies, pid, address, buffer, limit), buffer)

    def write(self, pid: int, address: int, data: bytes) -> int:
        """As `kdbus_memory_write`."""
        buffer = ffi.from_buffer(data)
        return self._checked(lib.kdbus_deputies_write(self._deputies, pid, address, buffer, len(data)), data, buffer)

    def copy(self, pool: CData, pid: int, offset: int, pieces: CData) -> int:
        """As `kdbus_pool_copy_from_process`. Where it raises Stalled, the pool's memory may be elsewhere by then."""
        result = lib.kdbus_deputies_copy(self._deputies, pool, pid, offset, pieces, len(pieces))
        return self._checked(result, pieces)

    def open(self, directory: int, path: bytes, flags: int, resolve: int) -> int:
        """As `kdbus_openat2`, with the identity that this thread has borrowed, if it has."""
        borrowed = borrowed_now()
        wanted, saved = (ffi.NULL, ffi.NULL) if borrowed is None else borrowed.description()
        result = lib.kdbus_deputies_open(self._deputies, directory, path, flags, resolve, wanted, saved)
        return self._checked(result, path, borrowed)

    def read_link(self, directory: int, path: bytes, buffer: CData, size: int) -> int:
        """As readlinkat(2)."""
        result = lib.kdbus_deputies_read_link(self._deputies, directory, path, buffer, size)
        return self._checked(result, path, buffer)

    def read_file(self, path: bytes, size: int) -> bytes:
        """The first `size` bytes of a file. Raises OSError."""
        buffer = ffi.new("char[]", size)
        result = self._checked(lib.kdbus_deputies_read_file(self._deputies, path, buffer, size), path, buffer)
        if result < 0:
            raise failure(result, f"read {path!r}")
        return ffi.unpack(buffer, result)

    def close_file(self, descriptor: int, owner: int | None, closed: _Closed | None) -> None:
        """See the function of that name."""
        if owner in self._unclosed:
            self._unclosed[owner].append((descriptor, closed))
        elif lib.kdbus_deputies_close(self._deputies, descriptor) == -EINPROGRESS:
            self._closing[self.keep()] = owner, closed
            self._unclosed[owner] = deque()
        elif closed is not None:
            closed()

    def _is_closed(self, ticket: int) -> None:
        owner, closed = self._closing.pop(ticket)
        if closed is not None:
            closed()
        for descriptor, then in self._unclosed.pop(owner):
            self.close_file(descriptor, owner, then)

    @property
    def away(self) -> bool:
        """Whether `returned` may have something to tell, now or later."""
        return bool(lib.kdbus_deputies_away(self._deputies))

    def _checked(self, result: int, *kept: object) -> int:
        if result != -EINPROGRESS:
            return result
        raise Stalled(self.keep(*kept))

    def keep(self, *kept: object) -> int:
        """The ticket of who was left behind last, and who needs these until then."""
        ticket = int(lib.kdbus_deputies_ticket(self._deputies))
        self._kept[ticket] = kept
        return ticket

    def description(self) -> CData:
        """C's structure of this, valid until `close`."""
        return self._deputies

    def close(self) -> None:
        """Nobody is at hand any more. Who was left behind ends with the process."""
        if present() is self:
            employ(None)
        lib.kdbus_deputies_destroy(self._deputies)


def employ(deputies: Deputies | None) -> None:
    """Have targets' memory touched by these from now on; None: directly, by whoever asks for it."""
    _present[:] = [] if deputies is None else [deputies]


def present() -> Deputies | None:
    """Who touches targets' memory; None: whoever asks for it."""
    return _present[0] if _present else None


def close_file(descriptor: int, owner: int | None = None, closed: _Closed | None = None) -> None:
    """close(2) of a file that a target has made, which may stall. Errors are nobody's here: it is closed.

    `owner`: a user; None: it cannot be told. `closed` is called when it is closed, as a rule before this returns.
    """
    deputies = present()
    if deputies is not None:
        deputies.close_file(descriptor, owner, closed)
        return
    with suppress(OSError):
        os.close(descriptor)
    if closed is not None:
        closed()
