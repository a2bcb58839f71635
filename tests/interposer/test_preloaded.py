# SPDX-License-Identifier: GPL-2.0-or-later
"""What the preloaded library, and loaders that look for it, are given."""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from interposer.launch import preloading
from interposer.launch.filter import I386, X86_64
from interposer.traps.preloaded import Preloaded, empty_library
from native import preloaded as native
from native.preloaded import STATE, STATE_PATH, library

HEADER = Path(native.__file__).parent / "preload" / "preload.h"
KDBUS, MODULE = 0x1234_5678_9ABC, 0x3D


@pytest.fixture
def given() -> Iterator[Preloaded]:
    made = Preloaded(KDBUS, MODULE)
    yield made
    made.close()


def test_both_sides_know_the_same() -> None:
    header = HEADER.read_text()
    assert f"#define STUB_ADDRESS {native.STUB_ADDRESS:#x}UL" in header
    assert f'#define STATE_PATH "{STATE_PATH.decode()}"' in header
    structure = re.search(r"struct state \{(.*?)\}", header, re.DOTALL)
    assert structure is not None
    sizes = {"uint32_t": "I", "uint64_t": "Q"}
    assert STATE.format == "=" + "".join(sizes[each] for each in re.findall(r"uint\d+_t", structure[1]))


def test_the_state_is_seen_at_once_and_cannot_be_written(given: Preloaded) -> None:
    descriptor = given.open(STATE_PATH, X86_64.audit)
    assert descriptor is not None
    with mmap.mmap(descriptor, 4096, prot=mmap.PROT_READ) as page:
        assert STATE.unpack_from(page) == (0, 0, 0, 0, KDBUS, MODULE, 0)
        given.entered()
        assert STATE.unpack_from(page) == (1, 0, 0, 0, KDBUS, MODULE, 0)
        given.mounted()
        assert STATE.unpack_from(page) == (1, 1, 0, 0, KDBUS, MODULE, 0)
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError):
        os.pwrite(descriptor, b"\0", 0)
    os.close(descriptor)


def test_what_receivers_and_broken_calls_may_do_is_told() -> None:
    made = Preloaded(KDBUS, MODULE, real=True, shelves=True, repeats=True)
    descriptor = made.open(STATE_PATH, X86_64.audit)
    assert descriptor is not None
    assert STATE.unpack(os.pread(descriptor, STATE.size, 0)) == (0, 0, 1, 1, KDBUS, MODULE, 1)
    os.close(descriptor)
    made.close()


def test_the_library_is_given_to_each_with_a_position_of_its_own(given: Preloaded) -> None:
    path = library()
    if path is None:
        pytest.skip("there is none for this machine")
    first, second = (given.open(path.encode(), X86_64.audit) for _ in range(2))
    assert first is not None and second is not None
    assert os.read(first, 5) == os.read(second, 5) == b"\x7fELF\x02"
    small = given.open(path.encode(), I386.audit)
    assert small is not None and os.read(small, 1000) == empty_library()
    assert empty_library()[:5] == b"\x7fELF\x01"
    with pytest.raises(OSError):
        os.write(small, b"x")
    for each in (first, second, small):
        assert stat.S_ISREG(os.fstat(each).st_mode)
        os.close(each)


@pytest.mark.parametrize("path", [b"", b"/", b"/sys/module/kdbus", STATE_PATH + b"/", b"preload"])
def test_nothing_else_is_given(given: Preloaded, path: bytes) -> None:
    assert given.open(path, X86_64.audit) is None


@pytest.mark.parametrize(
    ("before", "after"), [(None, b"/a.so"), (b"", b"/a.so"), (b"/b.so c.so", b"/b.so c.so:/a.so"), (b"/a.so", b"/a.so")]
)
def test_it_comes_last(monkeypatch: pytest.MonkeyPatch, before: bytes | None, after: bytes) -> None:
    # Set in any case, so that it is put right afterwards.
    monkeypatch.setenv("LD_PRELOAD", os.fsdecode(before or b""))
    if before is None:
        monkeypatch.delenv("LD_PRELOAD")
    preloading.preload_also("/a.so")
    assert os.environb[b"LD_PRELOAD"] == after


@pytest.mark.parametrize("path", ["/with blank/a.so", "/with:colon/a.so", "/$ORIGIN/a.so"])
def test_what_cannot_be_named_is_left_out(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(preloading, "library", lambda: path)
    assert preloading.preloadable() is None
