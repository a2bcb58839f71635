# SPDX-License-Identifier: GPL-2.0-or-later
"""Where control sockets are: found by whoever may inspect the process, no trap for anybody, and nowhere afterwards."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interposer.watching import places

USER = os.geteuid()
ME = os.getpid()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that counts."""
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def place() -> Iterator[places.Place]:
    made = places.make()
    assert made is not None
    yield made
    made.close()


def connected(process: int = ME) -> bool:
    try:
        places.connect(process).close()
    except OSError:
        return False
    return True


def test_made_found_and_gone(runtime: Path) -> None:
    before = os.listdir("/proc/self/fd")
    place = places.make()
    assert place is not None
    assert list(places.processes()) == [ME]
    assert connected()
    assert list(runtime.iterdir()) == [], "no name is left"
    assert stat.S_IMODE(os.stat(places.descriptor_of(ME)).st_mode) == 0o600
    place.close()
    assert list(places.processes()) == [] and not connected()
    assert os.listdir("/proc/self/fd") == before


def test_umask_is_untouched(place: places.Place) -> None:
    before = os.umask(0o22)
    try:
        again = places.make()
        assert again is not None
        again.close()
        assert os.umask(0o22) == 0o22
    finally:
        os.umask(before)


def test_long_folders_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 200)
    long.mkdir()
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", str(long))
    place = places.make()
    assert place is not None and connected()
    place.close()


def test_only_those_of_the_same_folder_are_found(
    place: places.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", str(tmp_path / ".." / tmp_path.name))
    assert list(places.processes()) == [ME]
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", "/tmp")
    assert ME not in places.processes() and not connected()
    monkeypatch.delenv("KDBUS_RUNTIME_DIR")
    assert ME in places.processes() and connected()


def test_descriptor_of_anothers_socket_is_no_supervisor(place: places.Place, runtime: Path) -> None:
    """Its file may be anybody's; who listens there is the kernel's word."""
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    file = os.open(places.descriptor_of(ME), os.O_PATH)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[file]
    ) as other:
        os.close(file)
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        assert other.pid in places.processes()
        with pytest.raises(PermissionError, match="another process"):
            places.connect(other.pid)
        other.stdin.close()


def test_file_that_is_no_socket(runtime: Path) -> None:
    name = runtime / (places._NAME + "0" * 16)
    name.touch()
    with open(name):
        name.unlink()
        with pytest.raises(FileNotFoundError, match="no socket"):
            places.connect(ME)


def test_name_that_still_stands_is_no_supervisors(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(runtime / (places._NAME + "0" * 16)))
        listening.listen()
        file = os.open(runtime / (places._NAME + "0" * 16), os.O_PATH)
        try:
            assert not connected()
        finally:
            os.close(file)


@pytest.mark.parametrize("folder", ["/proc/self/nowhere", "/proc", "/etc/passwd"])
def test_no_place_is_no_failure(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", folder)
    before = os.listdir("/proc/self/fd")
    assert places.make() is None
    assert os.listdir("/proc/self/fd") == before


def test_environment_leads_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KDBUS_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "relative")
    assert places.candidates() == [str(tmp_path), "/dev/shm", "/tmp"]


def test_who_may_watch() -> None:
    assert places.may_watch(USER) and places.may_watch(0)
    assert not places.may_watch(12345)
