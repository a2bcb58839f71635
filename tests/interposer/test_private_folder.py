# SPDX-License-Identifier: GPL-2.0-or-later
"""The private folder: what is in it, who may enter it, and that it goes away."""

from __future__ import annotations

import os
import select
import signal
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from interposer.errors import PrivateFolderUnavailable
from interposer.launch import private_folder
from interposer.launch.private_folder import PrivateFolder
from interposer.launch.view import open_parameters
from interposer.nodes.filesystem import NodeFiles
from tests.interposer.test_view import become_nobody, needs_root
from tests.support.children import in_child


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content_and_removal() -> Any:
    folder = PrivateFolder()
    path = Path(folder.path)
    seen = {name: mode(path / name) for name in ("", "kdbus", "kdbus/control", "module", "module/parameters")}
    parameters = open_parameters(folder.module)
    mask = os.pread(os.open("attach_flags_mask", os.O_RDONLY, dir_fd=parameters), 100, 0)
    os.close(parameters)
    nodes = NodeFiles(folder.kdbus, (("control",),))
    nodes.node_added(("control",), False, 0o666, 0, 0)
    nodes.node_added(("1-bus",), True, 0o500, os.geteuid(), os.getegid())
    nodes.node_added(("1-bus", "bus"), False, 0o600, os.geteuid(), os.getegid())
    during = (mode(path / "kdbus"), mode(path / "kdbus/1-bus"), mode(path / "kdbus/1-bus/bus"))
    nodes.node_removed(("1-bus", "bus"))
    left = sorted(os.listdir(path / "kdbus/1-bus"))
    nodes.node_added(("1-bus", "bus"), False, 0o600, os.geteuid(), os.getegid())
    folder.remove()
    return seen, mask, during, left, path.exists()


def test_content_and_removal() -> None:
    seen, mask, during, left, exists = in_child(content_and_removal)
    assert seen == {"": 0o700, "kdbus": 0o555, "kdbus/control": 0o666, "module": 0o755, "module/parameters": 0o755}
    assert (mask, during, left, exists) == (b"10271\n", (0o555, 0o500, 0o600), [], False)


@needs_root
def test_content_and_removal_as_an_ordinary_user() -> None:
    def body() -> Any:
        become_nobody()
        return content_and_removal()

    seen, mask, during, left, exists = in_child(body)
    assert (seen["kdbus"], seen["module"], seen["module/parameters"]) == (0o555, 0o555, 0o555)
    assert (mask, during, left, exists) == (b"10271\n", (0o555, 0o500, 0o600), [], False)


def test_removed_when_its_maker_is_killed() -> None:
    reading, writing = os.pipe()
    maker = os.fork()
    if maker == 0:
        folder = PrivateFolder()
        os.write(writing, f"{folder.path} {folder._janitor}".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    path, janitor = os.read(reading, 4096).decode().split()
    handle = os.pidfd_open(int(janitor))
    os.waitpid(maker, 0)
    assert select.select([handle], [], [], 30)[0], "the janitor does not end"
    os.close(handle)
    assert not os.path.exists(path)
    os.close(reading)
    os.close(writing)


def test_janitor_holds_nothing_else() -> None:
    def body() -> Any:
        folder = PrivateFolder()
        while os.readlink(f"/proc/{folder._janitor}/cwd") != "/" or len(os.listdir(f"/proc/{folder._janitor}/fd")) != 1:
            os.sched_yield()
        own = os.getsid(folder._janitor) == folder._janitor
        folder.remove()
        return own

    assert in_child(body)


def test_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_folder, "_candidates", lambda: ["/proc/self", "/absent"])
    with pytest.raises(PrivateFolderUnavailable, match="/absent: No such file") as error:
        PrivateFolder()
    assert "TMPDIR" in error.value.advice


@pytest.mark.parametrize("user", ["ourselves", "nobody"])
def test_what_programs_have_left_in_it_goes_as_well(user: str) -> None:
    """Folders deeper than any path is long, some of which nobody may enter; the targets of links are left alone."""

    def body() -> Any:
        if user == "nobody":
            become_nobody()
        outside = tempfile.mkdtemp()
        os.chmod(outside, 0o500)
        folder = PrivateFolder()
        os.chmod(Path(folder.path, "kdbus"), 0o700)
        at = os.open(Path(folder.path, "kdbus"), os.O_RDONLY)
        os.symlink(outside, "link", dir_fd=at)
        for depth in range(3000):
            os.mkdir("deeper", dir_fd=at)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0, dir_fd=at))
            deeper = os.open("deeper", os.O_RDONLY, dir_fd=at)
            if depth % 1000 == 7:
                os.mkdir("locked", 0, dir_fd=at)
                os.fchmod(at, 0o500)
            os.close(at)
            at = deeper
        os.fchmod(at, 0)
        os.close(at)
        folder.remove()
        left = os.path.exists(folder.path), mode(Path(outside))
        os.rmdir(outside)
        return left

    if user == "nobody" and os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    assert in_child(body) == (False, 0o500)
