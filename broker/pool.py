# SPDX-License-Identifier: GPL-2.0-or-later
"""The pool: where a connection's messages lie, cut into slices.

A pool is one stretch of memory, given out in slices of multiples of 8 bytes. An allocation takes the smallest free
slice that is large enough, and cuts off what it does not need; a freed slice melts together with free neighbours.
Offsets are visible to programs, so best fit is part of the behaviour.

A slice stays as long as anybody needs it: the program, from the moment its offset was given out until FREE; the
queue, while a message waits in it; or a parent slice. A message has two slices: one for the payload, filled when it
is sent, and one for header and items, made when it is received. The program only learns the offset of the second, so
the second holds the first as its *child* and lets go of it when freed.

The kernel has one bit per kind of holder. That loses slices when a message is peeked at and then received, or
dropped; here holders are counted (docs/differences.md). Slices of size 0 are not made: in the original they share an
offset with their neighbour.

Free slices are kept sorted by size, then by age, for bisection. Reference: ipc/kdbus/pool.c.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from broker.errors import NoSuchSlice, PoolFull, SliceNotHandedOut
from broker.interfaces import PoolMemory
from kdbus.abi.layout import U64, align8


class Slice:
    """A part of a pool: offset and size in bytes, and who holds it."""

    __slots__ = ("before", "child", "free", "holders", "next", "offset", "pool", "published", "serial", "size")

    def __init__(self, pool: Pool, offset: int, size: int) -> None:
        self.pool = pool
        self.offset = offset
        self.size = size
        self.free = True
        self.serial = 0
        self.holders = 0
        self.published = False
        self.child: Slice | None = None
        self.before: Slice | None = None
        self.next: Slice | None = None

    def adopt(self, child: Slice | None) -> None:
        """Hold `child` (a slice of the same pool) for as long as this slice lives."""
        if child is not None:
            self.child = child.hold()

    def hold(self) -> Slice:
        """One more holder inside the broker."""
        self.holders += 1
        return self

    def publish(self) -> None:
        """The program learns the offset, and may FREE it."""
        self.published = True

    def release(self) -> None:
        """One holder inside the broker lets go."""
        self.holders -= 1
        self.pool.give_back(self)


class Pool:
    """One connection's pool.

    Invariants: the slices, in order of offset, cover the whole memory without gaps; no two free slices are
    neighbours; `busy` is the sum of the sizes of those that are not free.
    """

    def __init__(self, memory: PoolMemory, size: int) -> None:
        self.memory = memory
        self.size = size
        self.busy = 0
        self._serial = 0
        self._by_offset: dict[int, Slice] = {}
        self._free: list[tuple[int, int, Slice]] = []
        self._first = Slice(self, 0, size)
        self._insert_free(self._first)

    @property
    def remaining(self) -> int:
        """Bytes that are free, in however many pieces."""
        return self.size - self.busy

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self._by_offset) + len(self._free)

    def slices(self) -> list[Slice]:
        """All slices in order of offset."""
        found: list[Slice] = []
        slice_: Slice | None = self._first
        while slice_ is not None:
            found.append(slice_)
            slice_ = slice_.next
        return found

    def allocate(self, size: int) -> Slice:
        """A slice of at least `size` > 0 bytes, held once. Raises PoolFull, also if there is no memory behind it."""
        size = align8(size)
        index = bisect_left(self._free, (size, 0))
        if index == len(self._free) or not self.memory.reserve(self._free[index][2].offset + size):
            raise PoolFull(size=size, count=self.remaining, limit=self.size)
        slice_ = self._free.pop(index)[2]
        if slice_.size > size:
            rest = Slice(self, slice_.offset + size, slice_.size - size)
            slice_.size = size
            rest.before, rest.next = slice_, slice_.next
            if slice_.next is not None:
                slice_.next.before = rest
            slice_.next = rest
            self._insert_free(rest)
        slice_.free = False
        slice_.holders = 1
        self._by_offset[slice_.offset] = slice_
        self.busy += size
        return slice_

    def store(self, data: bytes) -> Slice:
        """A slice that holds `data`. Raises PoolFull."""
        slice_ = self.allocate(len(data))
        self.memory.write(slice_.offset, data)
        return slice_

    def copy_of(self, source: Slice, size: int) -> Slice:
        """A slice that holds the first `size` bytes of another pool's slice. Raises PoolFull."""
        slice_ = self.allocate(size)
        self.memory.copy(slice_.offset, source.pool.memory, source.offset, size)
        return slice_

    def move_here(self, source: Slice) -> Slice:
        """A copy of another pool's slice; one holder of the source lets go. Raises PoolFull."""
        slice_ = self.copy_of(source, source.size)
        source.release()
        return slice_

    def free_offset(self, offset: int) -> None:
        """What FREE does. Raises NoSuchSlice or SliceNotHandedOut unless a program was given just this offset."""
        slice_ = self._by_offset.get(offset)
        if slice_ is None:
            raise NoSuchSlice(offset=offset)
        if not slice_.published:
            raise SliceNotHandedOut(offset=offset)
        slice_.published = False
        self.give_back(slice_)

    def export_state(self) -> list[int]:
        """The slices as 64-bit words, for whoever keeps the pool for a while (`broker.lending`).

        Serial, busy bytes, number of slices; then for each, in order of offset: size, state (bit 0 free, bit 1
        published, from bit 8 on the number of holders), age among the free, offset of the child or all ones.
        """
        words = [self._serial, self.busy, 0]
        slice_: Slice | None = self._first
        while slice_ is not None:
            state = int(slice_.free) | slice_.published << 1 | slice_.holders << 8
            child = U64 if slice_.child is None else slice_.child.offset
            words += (slice_.size, state, slice_.serial, child)
            words[2] += 1
            slice_ = slice_.next
        return words

    def import_state(self, words: Sequence[int]) -> None:
        """Replace all slices by those that `words` describe, as `export_state` does. Old slices are void."""
        self._serial, self.busy, count = words[:3]
        self._by_offset.clear()
        self._free.clear()
        children: list[tuple[Slice, int]] = []
        offset, last = 0, None
        for place in range(3, 3 + 4 * count, 4):
            size, state, serial, child = words[place : place + 4]
            slice_ = Slice(self, offset, size)
            slice_.free, slice_.published, slice_.holders = bool(state & 1), bool(state & 2), state >> 8
            slice_.serial, slice_.before = serial, last
            if last is None:
                self._first = slice_
            else:
                last.next = slice_
            if slice_.free:
                insort(self._free, (size, serial, slice_))
            else:
                self._by_offset[offset] = slice_
            if child != U64:
                children.append((slice_, child))
            offset, last = offset + size, slice_
        for parent, child in children:
            parent.child = self._by_offset[child]

    def busy_slice(self, offset: int) -> Slice:
        """The slice at `offset`, which is not free."""
        return self._by_offset[offset]

    def give_back(self, slice_: Slice) -> None:
        """Make the slice free if nobody holds it any more."""
        if slice_.holders or slice_.published:
            return
        del self._by_offset[slice_.offset]
        self.busy -= slice_.size
        child, slice_.child = slice_.child, None
        following, before = slice_.next, slice_.before
        if following is not None and following.free:
            self._remove_free(following)
            self._merge(slice_, following)
        if before is not None and before.free:
            self._remove_free(before)
            self._merge(before, slice_)
            slice_ = before
        slice_.free = True
        self._insert_free(slice_)
        if child is not None:
            child.release()

    def _merge(self, slice_: Slice, following: Slice) -> None:
        slice_.size += following.size
        slice_.next = following.next
        if following.next is not None:
            following.next.before = slice_

    def _insert_free(self, slice_: Slice) -> None:
        self._serial += 1
        slice_.serial = self._serial
        insort(self._free, (slice_.size, slice_.serial, slice_))

    def _remove_free(self, slice_: Slice) -> None:
        del self._free[bisect_left(self._free, (slice_.size, slice_.serial))]
