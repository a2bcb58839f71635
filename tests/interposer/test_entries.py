# SPDX-License-Identifier: GPL-2.0-or-later
"""`interposer.handles.entries`: each file is told from the others of its set, and places are used again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from interposer.handles.entries import Entries, Entry
from interposer.target.budget import HANDLES_PER_SET

SELF = os.getpid()


@pytest.fixture
def entries() -> Iterator[Entries]:
    made = Entries()
    yield made
    made.close()


def _file() -> tuple[int, int]:
    """A file that epoll takes, and what keeps its other end open."""
    reading, writing = os.pipe()
    return reading, writing


def _sets(known: list[Entry]) -> int:
    return len({entry.epoll for entry in known})


def test_each_is_told_from_the_others(entries: Entries) -> None:
    files = [_file() for _ in range(3 * HANDLES_PER_SET)]
    known = [entries.add(file) for file, _ in files]
    assert len(set(known)) == len(files) and _sets(known) == 3
    for entry in known:
        assert [entry.is_file(SELF, file) for file, _ in files] == [entry is other for other in known]
    for entry, (file, other) in zip(known, files, strict=True):
        os.close(other)
        assert entry.is_open()
        os.close(file)
        assert not entry.is_open()


def test_an_end_stands_in_no_other_place(entries: Entries) -> None:
    """Nothing is left of it under the numbers of the sets: its last close is the last one."""
    file, other = _file()
    entries.add(file)
    os.close(file)
    with pytest.raises(BrokenPipeError):
        os.write(other, b"x")
    os.close(other)


def test_places_are_used_again_and_sets_end(entries: Entries) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        files = [_file() for _ in range(2 * HANDLES_PER_SET)]
        known = [entries.add(file) for file, _ in files]
        gone = known[::2]
        for entry, pair in zip(gone, files[::2], strict=True):
            os.close(pair[0])
            os.close(pair[1])
            entries.remove(entry)
        again = [_file() for _ in gone]
        reused = [entries.add(file) for file, _ in again]
        assert set(reused) == set(gone)
        for entry, pair in zip((*known[1::2], *reused), (*files[1::2], *again), strict=True):
            os.close(pair[0])
            os.close(pair[1])
            entries.remove(entry)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_place_whose_file_is_still_open_is_passed_over(entries: Entries) -> None:
    files = [_file() for _ in range(3)]
    first = entries.add(files[0][0])
    second = entries.add(files[1][0])
    entries.remove(first)
    others = [entries.add(files[2][0]) for _ in range(2 * HANDLES_PER_SET)]
    assert first not in others and second not in others
    assert first.is_file(SELF, files[0][0]) and not first.is_file(SELF, files[2][0])
    for pair in files:
        os.close(pair[0])
        os.close(pair[1])


def test_what_cannot_be_added_takes_no_place(entries: Entries) -> None:
    with open(__file__, "rb") as plain, pytest.raises(PermissionError):
        entries.add(plain.fileno())
    file, other = _file()
    assert entries.add(file).is_file(SELF, file)
    os.close(file)
    os.close(other)
