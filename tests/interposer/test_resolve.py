# SPDX-License-Identifier: GPL-2.0-or-later
"""Where paths of a target lead, for this process and for a child in a chroot; and what is opened to find out."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from interposer.nodes.resolve import AT_FDCWD, StartingPoints, resolve
from tests.support.children import Child


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a folder with files, folders and links of all kinds."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("inner/file")
    (tmp_path / "inner" / "up").symlink_to("../file")
    (tmp_path / "absolute").symlink_to(tmp_path / "inner")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    descriptor = os.open(tmp_path, os.O_PATH)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is opened below /proc/TID, by name, from now on."""
    names: list[str] = []
    prefix = f"/proc/{threading.get_native_id()}/"

    def open_and_note(path: str | bytes, flags: int, **more: int) -> int:
        if isinstance(path, str) and path.startswith(prefix):
            names.append(path.removeprefix(prefix))
        return real_open(path, flags, **more)

    real_open = os.open
    monkeypatch.setattr(os, "open", open_and_note)
    return names


def find(path: str, directory: int = AT_FDCWD, *, follow: bool = True) -> str:
    """What a path of this thread leads to. Raises OSError."""
    with StartingPoints(threading.get_native_id(), directory) as start:
        return name_of(resolve(start, os.fsencode(path), follow=follow))


def name_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("file", "file"),
        ("inner/../file", "file"),
        ("link", "inner/file"),
        ("inner/up", "file"),
        ("absolute/file", "inner/file"),
        ("absolute/up", "file"),
        (".", ""),
    ],
)
@pytest.mark.parametrize("way", ["absolute", "descriptor", "working folder"])
def test_path(way: str, path: str, leads_to: str, folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = str(tmp_path / leads_to)
    if way == "absolute":
        assert find(f"{tmp_path}/{path}") == expected
    elif way == "descriptor":
        assert find(path, folder) == expected
    else:
        monkeypatch.chdir(tmp_path)
        assert find(path) == expected


@pytest.mark.parametrize("path", ["link", "absolute", "loop", "inner/up"])
def test_link_at_the_end_is_found_itself(path: str, folder: int, tmp_path: Path) -> None:
    assert find(path, folder, follow=False) == str(tmp_path / path)
    assert find(f"{tmp_path}/{path}", follow=False) == str(tmp_path / path)


@pytest.mark.parametrize(
    ("path", "number"),
    [("loop", errno.ELOOP), ("dangling", errno.ENOENT), ("file/x", errno.ENOTDIR), ("", errno.ENOENT)],
)
def test_path_that_leads_nowhere(path: str, number: int, folder: int) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError) as caught:
        find(path, folder)
    assert caught.value.errno == number
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("path", "needed"),
    [("file", ["fd/{}"]), ("link", ["fd/{}"]), ("absolute/file", ["fd/{}", "root"]), ("/dev/null", ["root"])],
)
def test_only_what_a_path_needs_is_opened(path: str, needed: list[str], folder: int, opened: list[str]) -> None:
    with StartingPoints(threading.get_native_id(), folder) as start:
        for _ in range(2):
            os.close(resolve(start, os.fsencode(path)))
    assert opened == [name.format(folder) for name in needed]


def test_working_folder_is_opened_for_a_relative_path_alone(opened: list[str]) -> None:
    find(".")
    assert opened == ["cwd"]
    find("/")
    assert opened == ["cwd", "root"]


def test_everything_is_closed(folder: int) -> None:
    before = os.listdir("/proc/self/fd")
    find("absolute/file", folder)
    assert os.listdir("/proc/self/fd") == before


def test_what_is_opened_early_stays(folder: int, opened: list[str]) -> None:
    with StartingPoints(threading.get_native_id(), folder).opened() as start:
        assert sorted(opened) == [f"fd/{folder}", "root"]
        os.close(resolve(start, b"absolute/file"))
        assert len(opened) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_root_is_the_targets(folder: int, tmp_path: Path) -> None:
    (tmp_path / "rooted").symlink_to("/inner/file")
    ready, says_ready = os.pipe()

    def wait_in_chroot() -> None:
        os.chroot(tmp_path)
        os.chdir("/inner")
        os.write(says_ready, b"+")
        threading.Event().wait()

    with Child(wait_in_chroot) as child:
        os.read(ready, 1)
        for path, leads_to in {
            b"/file": "file",
            b"/../file": "file",
            b"/rooted": "inner/file",
            b"../rooted": "inner/file",
            b"file": "inner/file",
        }.items():
            with StartingPoints(child.pid, AT_FDCWD) as start:
                assert name_of(resolve(start, path)) == str(tmp_path / leads_to), path
    os.close(ready)
    os.close(says_ready)
