# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.keeper`: what it keeps is open, and not in this process's own table; and `native.pool` with it."""

from __future__ import annotations

import errno
import mmap
import os
import resource
from collections.abc import Iterator

import pytest

from native.keeper import Keeper
from native.pool import Pool


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    made.close()


def _own() -> set[str]:
    numbers = os.listdir("/proc/self/fd")
    return {number for number in numbers if os.path.lexists(f"/proc/self/fd/{number}")}


def test_what_is_kept_stays_open_out_of_sight(keeper: Keeper) -> None:
    before = _own()
    reading, writing = os.pipe()
    kept = keeper.keep(writing)
    os.close(writing)
    assert _own() == before | {str(reading)}
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    for _ in range(2):
        with keeper.fetched(kept) as fetched:
            assert not os.get_inheritable(fetched)
            os.write(fetched, b"x")
        assert os.read(reading, 2) == b"x"
    assert _own() == before | {str(reading)}
    keeper.drop(kept)
    os.set_blocking(reading, True)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_it_has_nothing_of_what_was_open_before() -> None:
    reading, writing = os.pipe()
    keeper = Keeper()
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    keeper.close()


def test_what_it_keeps_ends_with_it() -> None:
    before = _own()
    keeper = Keeper()
    reading, writing = os.pipe()
    keeper.keep(writing)
    os.close(writing)
    keeper.close()
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert _own() == before


def test_what_is_not_kept_cannot_be_fetched(keeper: Keeper) -> None:
    with pytest.raises(OSError) as refused, keeper.fetched(999):
        pass
    assert refused.value.errno == errno.EBADF
    with pytest.raises(OSError) as refused:
        keeper.keep(-1)
    assert refused.value.errno == errno.EBADF


def test_it_keeps_as_many_as_the_limit_says(keeper: Keeper) -> None:
    """Beside as many here; and one more is refused, with what was kept still there."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = max(map(int, _own()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 8, limit[1]))
    try:
        kept = []
        with open("/dev/null", "rb") as file:
            with pytest.raises(OSError) as refused:
                for _ in range(here + 8):
                    kept.append(keeper.keep(file.fileno()))
            assert refused.value.errno == errno.EMFILE
            assert len(kept) == here + 7, "all but its socket"
            with keeper.fetched(kept[-1]) as fetched:
                assert os.path.sameopenfile(fetched, file.fileno())
            keeper.drop(kept.pop())
            kept.append(keeper.keep(file.fileno()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_no_room_to_fetch(keeper: Keeper) -> None:
    kept = keeper.keep(0)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(OSError) as refused, keeper.fetched(kept):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert refused.value.errno == errno.EMFILE
    with keeper.fetched(kept):
        pass


def test_a_pool_is_entrusted(keeper: Keeper) -> None:
    with Pool(b"pool", mmap.PAGESIZE) as pool:
        identity = os.fstat(pool.read_only_descriptor)
        pool.entrust(keeper)
        assert pool.read_only_descriptor == -1
        pool.write(0, b"content")
        for _ in range(2):
            with pool.opened() as descriptor:
                assert os.path.samestat(os.fstat(descriptor), identity)
                assert os.pread(descriptor, 7, 0) == b"content"
    with pytest.raises(ValueError, match="closed"):
        pool.read(0, 1)


def test_a_pool_that_is_not_entrusted_is_opened_as_well() -> None:
    with Pool(b"pool", mmap.PAGESIZE) as pool, pool.opened() as descriptor:
        assert descriptor == pool.read_only_descriptor
