# SPDX-License-Identifier: GPL-2.0-or-later
"""The pool: best fit, coverage, holders (reference: pool.c)."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadAddress, NoSuchSlice, PoolFull, SliceNotHandedOut
from broker.message import Message
from broker.pool import Pool, Slice
from tests.support.world import FakeCaller, FakePool, fails

SIZE = 4096


def make_pool(size: int = SIZE) -> Pool:
    return Pool(FakePool(b"", size), size)


def check(pool: Pool) -> None:
    """The invariants of the class."""
    slices = pool.slices()
    end = 0
    for before, current in zip([None, *slices], slices, strict=False):
        assert current.offset == end and current.size > 0 and current.size % 8 == 0
        assert current.before is before
        assert not (before is not None and before.free and current.free), "free neighbours"
        assert current.free == (current.holders == 0 and not current.published)
        end += current.size
    assert end == pool.size
    assert pool.busy == sum(slice_.size for slice_ in slices if not slice_.free)
    assert pool.remaining == pool.size - pool.busy


def layout(pool: Pool) -> list[tuple[int, int, bool]]:
    return [(slice_.offset, slice_.size, slice_.free) for slice_ in pool.slices()]


def test_a_new_pool_is_one_free_slice() -> None:
    assert layout(make_pool()) == [(0, SIZE, True)]


def test_sizes_are_rounded_up_to_8() -> None:
    pool = make_pool()
    assert pool.allocate(1).size == 8
    assert pool.allocate(17).size == 24
    assert layout(pool) == [(0, 8, False), (8, 24, False), (32, SIZE - 32, True)]


def test_the_whole_pool_can_be_one_slice_and_then_it_is_full() -> None:
    pool = make_pool()
    everything = pool.allocate(SIZE)
    with fails(PoolFull, errno.ENOBUFS):
        pool.allocate(1)
    everything.release()
    assert layout(pool) == [(0, SIZE, True)]
    with fails(PoolFull, errno.ENOBUFS):
        pool.allocate(SIZE + 1)


def test_the_smallest_slice_that_fits_is_taken() -> None:
    pool = make_pool(128)
    first, _, third, _ = pool.allocate(48), pool.allocate(8), pool.allocate(24), pool.allocate(8)
    first.release()
    third.release()
    assert [size for _, size, free in layout(pool) if free] == [48, 24, 40]
    assert pool.allocate(20).offset == third.offset
    assert pool.allocate(30).offset == 88  # 40 is closer than 48
    check(pool)


def test_of_equal_slices_the_oldest_is_cut() -> None:
    pool = make_pool(96)
    first, _, third = pool.allocate(32), pool.allocate(16), pool.allocate(32)
    pool.allocate(16)
    third.release()
    first.release()
    assert pool.allocate(8).offset == third.offset
    check(pool)


def test_freed_neighbours_melt_together() -> None:
    pool = make_pool()
    slices = [pool.allocate(64) for _ in range(3)]
    slices[0].release()
    slices[2].release()
    assert layout(pool) == [(0, 64, True), (64, 64, False), (128, SIZE - 128, True)]
    slices[1].release()
    assert layout(pool) == [(0, SIZE, True)]


def test_a_program_frees_only_what_it_was_given() -> None:
    pool = make_pool()
    slice_ = pool.store(b"data")
    for offset in (1, 8, SIZE, (1 << 64) - 1):
        with fails(NoSuchSlice, errno.ENXIO):
            pool.free_offset(offset)
    with fails(SliceNotHandedOut, errno.ENXIO):
        pool.free_offset(0)
    slice_.publish()
    slice_.release()
    with fails(NoSuchSlice, errno.ENXIO):
        pool.free_offset(8)
    pool.free_offset(0)
    with fails(NoSuchSlice, errno.ENXIO):
        pool.free_offset(0)
    assert pool.busy == 0


def test_a_slice_in_use_outlives_its_free() -> None:
    pool = make_pool()
    slice_ = pool.store(b"data")
    slice_.publish()
    pool.free_offset(0)
    assert pool.busy == 8
    with fails(SliceNotHandedOut, errno.ENXIO):
        pool.free_offset(0)
    slice_.release()
    assert pool.busy == 0


def test_a_child_lives_as_long_as_its_parent() -> None:
    pool = make_pool()
    child, parent = pool.allocate(8), pool.allocate(8)
    parent.adopt(child)
    parent.publish()
    parent.release()
    child.release()
    with fails(SliceNotHandedOut, errno.ENXIO):
        pool.free_offset(child.offset)
    assert pool.busy == 16
    pool.free_offset(parent.offset)
    assert layout(pool) == [(0, SIZE, True)]


def test_a_child_may_have_two_parents() -> None:
    pool = make_pool()
    child = pool.allocate(8)
    parents = [pool.allocate(8), pool.allocate(8)]
    for parent in parents:
        parent.adopt(child)
    child.release()
    parents[0].release()
    assert pool.busy == 16
    parents[1].release()
    assert pool.busy == 0


def test_bytes_are_stored_and_copied() -> None:
    source, target = make_pool(), make_pool()
    target.allocate(64)
    slice_ = source.store(b"payload!")
    moved = target.move_here(slice_)
    assert (moved.offset, target.memory.read(moved.offset, 8)) == (64, b"payload!")
    assert source.busy == 0


def test_a_move_that_does_not_fit_leaves_all_as_it_was() -> None:
    source, target = make_pool(), make_pool()
    target.allocate(SIZE)
    slice_ = source.store(b"payload!")
    with fails(PoolFull):
        target.move_here(slice_)
    assert source.busy == 8
    check(source)


def copied(pool: Pool, caller: FakeCaller, pieces: list[tuple[int, int]]) -> Slice:
    """A slice with what a message of these pieces carries."""
    message = Message(1, 2, 3)
    message.pieces, message.payload_size = pieces, sum(size for _, size in pieces)
    slice_ = pool.allocate(message.payload_size)
    message.copy_to(slice_, 0, caller)
    message.sent()
    return slice_


def test_a_copy_from_bad_memory_takes_no_slice() -> None:
    pool, caller = make_pool(), FakeCaller()
    good = caller.memory.put(b"abc")
    with fails(BadAddress, errno.EFAULT):
        copied(pool, caller, [(good, 3), (good, 4)])
    assert layout(pool) == [(0, SIZE, True)]
    slice_ = copied(pool, caller, [(good, 3), (0, 2), (good, 1)])
    assert pool.memory.read(slice_.offset, 6) == b"abc\0\0a"


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 600)), max_size=60))
def test_any_use_keeps_the_invariants(steps: list[tuple[bool, int]]) -> None:
    pool = make_pool(2048)
    held: list[Slice] = []
    for allocate, size in steps:
        if allocate:
            free = [slice_.size for slice_ in pool.slices() if slice_.free]
            try:
                held.append(pool.allocate(size))
            except PoolFull:
                assert all(candidate < size for candidate in free)
            else:
                assert min(candidate for candidate in free if candidate >= size) >= held[-1].size
        elif held:
            held.pop(size % len(held)).release()
        check(pool)
    for slice_ in held:
        slice_.release()
    assert layout(pool) == [(0, 2048, True)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_the_order_of_freeing_does_not_matter(order: tuple[int, ...]) -> None:
    pool = make_pool()
    slices = [pool.allocate(100) for _ in range(3)]
    for index in order:
        slices[index].release()
        check(pool)
    assert layout(pool) == [(0, SIZE, True)]
