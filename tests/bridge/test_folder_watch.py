# SPDX-License-Identifier: GPL-2.0-or-later
"""What is noticed of folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from bridge.folder_watch import FolderWatch

SECONDS = 60


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[FolderWatch]:
    """Of a folder `there`, with a file `old` in it."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "old").write_text("x")
    with closing(FolderWatch()) as found:
        assert found.watch([str(there)]) == []
        yield found


def notices(watch: FolderWatch) -> bool:
    """Whether something has happened by now."""

    async def look() -> bool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.changed)
            await trio.testing.wait_all_tasks_blocked()
            waits = bool(nursery.child_tasks)
            nursery.cancel_scope.cancel()
        return not waits

    return trio.run(look)


def watches() -> set[int]:
    """The inotify descriptors of this process."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(FileNotFoundError):  # the one that lists them
            if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:inotify":
                found.add(number)
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda there: (there / "new").write_text("x"),
        lambda there: (there / "old").write_text("y"),
        lambda there: (there / "old").unlink(),
        lambda there: (there / "old").rename(there.parent / "elsewhere"),
        lambda there: (there.parent / "out").rename(there / "in"),
    ],
    ids=["written", "written anew", "removed", "moved away", "moved here"],
)
def test_a_change_is_noticed_once(watch: FolderWatch, tmp_path: Path, change: Callable[[Path], object]) -> None:
    (tmp_path / "out").write_text("x")
    assert not notices(watch)
    change(tmp_path / "there")
    assert notices(watch)
    assert not notices(watch)


def test_a_file_that_is_being_written_is_not_noticed(watch: FolderWatch, tmp_path: Path) -> None:
    with open(tmp_path / "there" / "new", "w") as file:
        file.write("half")
        file.flush()
        assert not notices(watch)
    assert notices(watch)


def test_many_changes_are_one(watch: FolderWatch, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / "there" / f"with-a-name-that-is-rather-long-{number}").write_text("")
    assert notices(watch)
    assert not notices(watch)


def test_a_change_wakes_up_who_waits(watch: FolderWatch, tmp_path: Path) -> None:
    async def run() -> None:
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.changed)
                await trio.testing.wait_all_tasks_blocked()
                (tmp_path / "there" / "new").write_text("x")

    trio.run(run)


def test_folders_that_cannot_be_watched_are_told_of(watch: FolderWatch, tmp_path: Path) -> None:
    (tmp_path / "later").mkdir()
    folders = [str(tmp_path / each) for each in ("nowhere", "there/old", "later")]
    assert [(each.filename, type(each)) for each in watch.watch(folders)] == [
        (folders[0], FileNotFoundError),
        (folders[1], NotADirectoryError),
    ]
    (tmp_path / "later" / "new").write_text("x")
    assert notices(watch)


def test_a_folder_that_is_made_again_is_watched_when_asked(watch: FolderWatch, tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / "old").unlink()
    there.rmdir()
    there.mkdir()
    assert notices(watch)
    assert watch.watch([str(there)]) == []
    (there / "new").write_text("x")
    assert notices(watch)


def test_its_descriptor_is_not_inherited_and_closed() -> None:
    before = watches()
    with closing(FolderWatch()):
        (number,) = watches() - before
        assert not os.get_inheritable(number)
    assert watches() == before
