# SPDX-License-Identifier: GPL-2.0-or-later
"""Where control sockets are: made for one user, found by that user, and no trap for anybody."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from interposer.watching import places
from tests.interposer.test_view import needs_root

USER = os.geteuid()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that is looked into."""
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def place() -> Iterator[places.Place]:
    made = places.make()
    assert made is not None
    yield made
    made.close()


def found() -> list[int]:
    with places.folders(USER) as folders:
        return [process for folder in folders for process in places.processes(folder)]


def connected() -> bool:
    with places.folders(USER) as (folder,):
        try:
            places.connect(folder, os.getpid()).close()
        except OSError:
            return False
    return True


def test_made_found_and_gone(runtime: Path) -> None:
    place = places.make()
    assert place is not None
    assert found() == [os.getpid()]
    assert connected()
    folder = runtime / f"kdbus-{USER}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    place.close()
    assert list(runtime.iterdir()) == []


def test_folder_stays_while_others_are_in_it(runtime: Path) -> None:
    place = places.make()
    assert place is not None
    other = runtime / f"kdbus-{USER}" / "1"
    other.touch()
    place.close()
    assert other.exists()
    with places.folders(USER) as (folder,), pytest.raises(FileNotFoundError, match="no socket"):
        places.connect(folder, 1)


def test_long_folders_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 200)
    long.mkdir()
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", str(long))
    place = places.make()
    assert place is not None and connected()
    place.close()


@pytest.mark.parametrize("mode", [0o777, 0o710, 0o701])
def test_folder_that_is_open_to_others_does_not_count(runtime: Path, mode: int) -> None:
    folder = runtime / f"kdbus-{USER}"
    folder.mkdir()
    folder.chmod(mode)
    assert places.make() is None
    assert found() == []


def test_link_to_a_folder_does_not_count(runtime: Path) -> None:
    real = runtime / "real"
    real.mkdir(0o700)
    (runtime / f"kdbus-{USER}").symlink_to(real)
    assert places.make() is None
    assert found() == []


@needs_root
def test_folder_of_another_user_does_not_count(runtime: Path) -> None:
    folder = runtime / f"kdbus-{USER}"
    folder.mkdir(0o700)
    os.chown(folder, 65534, 65534)
    assert places.make() is None
    assert found() == []


def test_link_to_a_socket_is_not_followed(place: places.Place, runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(runtime / "other"))
        other.listen()
        (runtime / f"kdbus-{USER}" / "1").symlink_to(runtime / "other")
        with places.folders(USER) as (folder,), pytest.raises(OSError):
            places.connect(folder, 1)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_socket_of_the_dead_is_replaced_and_removed(runtime: Path) -> None:
    folder = runtime / f"kdbus-{USER}"
    folder.mkdir(0o700)
    for name in (str(os.getpid()), f".{os.getpid()}", "1"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / name))
    place = places.make()
    assert place is not None and connected()
    with places.folders(USER) as (opened,), pytest.raises(ConnectionRefusedError):
        places.connect(opened, 1)
    assert found() == [os.getpid()]
    place.close()
    assert list(runtime.iterdir()) == []


def test_socket_of_the_living_is_not_replaced(place: places.Place) -> None:
    assert places.make() is None
    assert connected()


def test_no_place_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", "/proc/self/nowhere")
    assert places.make() is None
    assert found() == []


def test_environment_leads_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KDBUS_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "relative")
    assert places.candidates(7) == [str(tmp_path), "/run/user/7", "/tmp"]
    assert places.candidates(0) == [str(tmp_path), "/run/user/0", "/run", "/tmp"]


def test_who_may_watch() -> None:
    assert places.may_watch(USER) and places.may_watch(0)
    assert not places.may_watch(12345)
