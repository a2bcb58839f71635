# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that this process writes and receivers map read-only: a sealed memfd.

The kernel's kdbus owned the pages and refused writable mappings. Here the pages belong to a memfd, and three things
together keep its receivers from ever writing: they only get a descriptor opened for reading; `F_SEAL_FUTURE_WRITE`
makes the kernel refuse every new writable mapping, write(2) and fallocate(2), even through a second opening by way of
`/proc`; `F_SEAL_SEAL` keeps that as it is. Only the mapping that was made before the sealing, in this process, can
write. `F_SEAL_SHRINK` keeps a reader, and this process, from being killed by SIGBUS.

Payload is copied once, from the sender's memory straight to its place here (`Pool.copy_from_process`).

Alternatives: shared memory files in /dev/shm have names and cannot be sealed; a pipe or socket copies twice.
Weakness: memory that a receiver has freed stays allocated until the pool is closed, as punching holes is a write that
the seal forbids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from native.deputies import Stalled, present
from native.keeper import Keeper
from native.library import failure, ffi, lib
from native.memory import pieces_array

if TYPE_CHECKING:
    from native._helper import CData


class Readable(Protocol):
    """What `Pool.copy` can copy from."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`."""
        ...


class Pool:
    """A pool of `size` bytes (at least 1), all zero at first.

    `name`: shown in /proc/PID/maps as `/memfd:NAME`, at most 249 bytes; raises ValueError if it has a zero byte.
    Raises OSError: EINVAL for a size of 0 or a name that is too long, ENOMEM, EFBIG, EMFILE, ENFILE.

    Every function below raises ValueError if it would leave the pool's bounds, or after `close`. Implements
    `broker.interfaces.PoolMemory`.
    """

    __slots__ = ("_closed", "_kept", "_pool", "_view", "read_only_descriptor", "size")

    size: int
    """Bytes."""
    read_only_descriptor: int
    """The read-only opening, which is given to the receiver to map (`opened`). Owned by the pool; -1 once closed or
    entrusted."""

    def __init__(self, name: bytes, size: int) -> None:
        if b"\0" in name:
            raise ValueError(f"embedded zero byte in {name!r}")
        self._pool = ffi.new("struct kdbus_pool *")
        result = lib.kdbus_pool_create(name, size, self._pool)
        if result < 0:
            raise failure(result, f"create a pool of {size} bytes")
        self._view = memoryview(ffi.buffer(self._pool.memory, size))
        self.size = size
        self.read_only_descriptor = self._pool.read_only_descriptor
        self._kept: tuple[Keeper, int] | None = None
        self._closed = False

    @property
    def usable(self) -> int:
        """How many bytes, from the beginning, slices may lie in: all, unless limited."""
        return int(self._pool.usable)

    def limit(self, usable: int) -> None:
        """Let slices lie in the first `usable` bytes only; the hot path leaves all beyond to the broker."""
        self._pool.usable = usable

    def reserve(self, end: int) -> bool:
        """Whether the first `end` bytes may be used. See `broker.interfaces.PoolMemory`."""
        return end <= self.usable

    def _check(self, offset: int, size: int) -> None:
        if self._closed:
            raise ValueError("the pool is closed")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"{size} bytes at {offset} leave a pool of {self.size} bytes")

    def write(self, offset: int, data: bytes) -> None:
        """Puts `data` at `offset` (bytes)."""
        size = len(data)
        self._check(offset, size)
        self._view[offset : offset + size] = data

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`."""
        self._check(offset, size)
        return self._view[offset : offset + size].tobytes()

    def copy(self, offset: int, source: Readable, source_offset: int, size: int) -> None:
        """Copies `size` bytes at `source_offset` of another pool (or this one, overlapping too) to `offset`."""
        self._check(offset, size)
        if isinstance(source, Pool):
            source._check(source_offset, size)
            self._view[offset : offset + size] = source._view[source_offset : source_offset + size]
        else:
            self.write(offset, source.read(source_offset, size))

    def copy_from_process(self, pid: int, offset: int, pieces: Sequence[tuple[int, int]]) -> None:
        """Copies the (address, size) `pieces` of the process or thread `pid`, one after the other, to `offset`.

        A piece at address 0 is that many zeros. Raises OSError: EFAULT if any byte cannot be read (what comes before it
        may have been written to the pool by then), ESRCH, EPERM; Stalled; as in `native.memory`.
        """
        total = sum(size for _, size in pieces)
        self._check(offset, total)
        array, deputies = pieces_array(pieces), present()
        if deputies is None:
            result = lib.kdbus_pool_copy_from_process(self._pool, pid, offset, array, len(pieces))
        else:
            try:
                result = deputies.copy(self._pool, pid, offset, array)
            except Stalled:
                self.look()
                raise
        if result < 0:
            raise failure(result, f"copy {len(pieces)} pieces, {total} bytes, of process {pid} into a pool")

    def look(self) -> None:
        """A copy into the pool was left behind, so its memory may be elsewhere."""
        self._view.release()
        self._view = memoryview(ffi.buffer(self._pool.memory, self.size))

    def entrust(self, keeper: Keeper) -> None:
        """Have the read-only opening kept elsewhere from now on. Raises OSError as `Keeper.keep` does."""
        self._kept = keeper, keeper.keep(self.read_only_descriptor)
        os.close(self.read_only_descriptor)
        self.read_only_descriptor = self._pool.read_only_descriptor = -1

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The read-only opening, wherever it is kept, for a moment. Raises OSError as `Keeper.fetched` does."""
        if self._kept is None:
            yield self.read_only_descriptor
        else:
            keeper, number = self._kept
            with keeper.fetched(number) as descriptor:
                yield descriptor

    def description(self) -> CData:
        """C's structure of this pool, valid until `close`."""
        return self._pool

    def close(self) -> None:
        """Gives up the mapping and the descriptor; mappings of receivers stay valid. Idempotent."""
        if not self._closed:
            self._closed = True
            self.read_only_descriptor = -1
            self._view.release()
            lib.kdbus_pool_destroy(self._pool)
            if self._kept is not None:
                keeper, number = self._kept
                with suppress(OSError):  # a keeper that has ended keeps nothing
                    keeper.drop(number)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
