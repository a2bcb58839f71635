# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain files of nodes: how a duplicate of one is had, from a kernel with pidfds of threads and from an older one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from interposer.handles.lazy import PlainFile
from tests.support.targets import old_pidfd_open


@pytest.fixture(params=["threads", "processes"], autouse=True)
def pidfds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """pidfds as this kernel has them, and as those before 6.9 do."""
    if request.param == "processes":
        monkeypatch.setattr("interposer.target.process.pidfd_open", old_pidfd_open)


@pytest.fixture
def node() -> Iterator[Path]:
    """A file that stands for a node, in a tmpfs as they are: there an offset may be any number."""
    descriptor = os.memfd_create("node")
    yield Path(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)


def test_duplicates_share_the_offset(node: Path) -> None:
    first, second = (os.open(node, os.O_RDONLY) for _ in range(2))
    plain = PlainFile.at(os.getpid(), first).duplicate()
    try:
        assert PlainFile.at(os.getpid(), first).is_same_as(plain)
        assert not PlainFile.at(os.getpid(), second).is_same_as(plain)
    finally:
        for descriptor in (first, second, plain):
            os.close(descriptor)


def test_of_a_thread_that_is_not_the_first(node: Path) -> None:
    descriptor = os.open(node, os.O_RDONLY)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        plain = PlainFile.at(thread.native_id, descriptor).duplicate()
        os.close(plain)
    finally:
        done.set()
        thread.join()
        os.close(descriptor)


def test_another_file_at_the_number(node: Path, tmp_path: Path) -> None:
    descriptor = os.open(node, os.O_RDONLY)
    file = PlainFile.at(os.getpid(), descriptor)
    other = os.open(tmp_path, os.O_RDONLY)
    os.dup2(other, descriptor)
    before = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(OSError, match="another file"):
            file.duplicate()
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(other)
        os.close(descriptor)
