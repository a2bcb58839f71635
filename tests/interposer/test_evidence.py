# SPDX-License-Identifier: GPL-2.0-or-later
"""Evidence: what was read of a thread, and whether it still reads the same; recorded in Python, compared in C."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interposer.target.evidence import LIMIT, Evidence
from interposer.target.ids import ThreadFolder
from native.library import lib

STATUS = (
    b"Name:\tone\nState:\tS\nTgid:\t7\nPid:\t7\nPPid:\t3\nUid:\t1\t1\t1\t1\n"
    b"Gid:\t2\t2\t2\t2\nGroups:\t3 \nVmRSS:\t10 kB\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Like a /proc/TID, but one in which everything can be changed."""
    (tmp_path / "status").write_bytes(STATUS)
    (tmp_path / "cgroup").write_bytes(b"0::/one\n")
    (tmp_path / "exe").symlink_to("/bin/one")
    (tmp_path / "root").symlink_to("/")
    yield tmp_path


def recorded(folder: Path) -> Evidence:
    """What reading all of it leaves."""
    evidence = Evidence()
    for name in ("status", "cgroup"):
        evidence.content(name.encode(), (folder / name).read_bytes())
    evidence.link(b"exe", os.readlink(folder / "exe").encode())
    own = ThreadFolder(os.getpid(), lambda: True)
    evidence.root(*own.root())
    return evidence


def holds(folder: Path, packed: bytes) -> bool:
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    status = os.open(folder / "status", os.O_RDONLY)
    try:
        return bool(lib.kdbus_evidence_holds(directory, status, packed, len(packed)))
    finally:
        os.close(directory)
        os.close(status)


def packed(evidence: Evidence) -> bytes:
    found = evidence.packed()
    assert found is not None
    return found


def relink(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def test_what_has_not_changed_holds(folder: Path) -> None:
    assert holds(folder, packed(recorded(folder)))
    assert holds(folder, packed(Evidence())), "nothing was concluded from anything"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "status").write_bytes(STATUS.replace(b"S\n", b"R\n")),
        lambda folder: (folder / "status").write_bytes(STATUS.replace(b"10 kB", b"2000 kB")),
        lambda folder: (folder / "status").write_bytes(STATUS + b"Speculation_Store_Bypass:\tvulnerable\n"),
    ],
)
def test_what_nothing_is_concluded_from_may_change(folder: Path, change: Callable[[Path], object]) -> None:
    evidence = packed(recorded(folder))
    change(folder)
    assert holds(folder, evidence)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "status").write_bytes(STATUS.replace(b"one", b"two")),
        lambda folder: (folder / "status").write_bytes(STATUS.replace(b"one", b"one\rUid:\t1\t1\t1\t1")),
        lambda folder: (folder / "status").write_bytes(STATUS.replace(b"Uid:\t1\t1\t1\t1\n", b"Uid:\t1\t1\t1\t0\n")),
        lambda folder: (folder / "status").write_bytes(STATUS.replace(b"Groups:\t3 \n", b"Groups:\t3 4 \n")),
        lambda folder: (folder / "status").write_bytes(STATUS.replace(b"PPid:\t3", b"PPid:\t1")),
        lambda folder: (folder / "status").write_bytes(b""),
        lambda folder: (folder / "status").write_bytes(STATUS + b"x" * LIMIT),
        lambda folder: (folder / "cgroup").write_bytes(b"0::/two\n"),
        lambda folder: (folder / "cgroup").write_bytes(b"0::/one\nmore"),
        lambda folder: (folder / "cgroup").write_bytes(b"0::/one"),
        lambda folder: (folder / "cgroup").unlink(),
        lambda folder: relink(folder, "exe", "/bin/two"),
        lambda folder: relink(folder, "exe", "/bin/one (deleted)"),
        lambda folder: relink(folder, "root", "/proc"),
        lambda folder: (folder / "root").unlink(),
    ],
)
def test_what_something_is_concluded_from_may_not(folder: Path, change: Callable[[Path], object]) -> None:
    evidence = packed(recorded(folder))
    change(folder)
    assert not holds(folder, evidence)


def test_a_file_of_ours(folder: Path) -> None:
    parameter = folder / "parameter"
    parameter.write_bytes(b"0x1\n")
    with open(parameter, "rb") as file:
        evidence = Evidence()
        evidence.parameter(file.fileno(), b"0x1\n")
        assert holds(folder, packed(evidence))
        for content in (b"", b"0x1", b"0x1\n\n", b"0x2\n"):
            parameter.write_bytes(content)
            assert not holds(folder, packed(evidence))


def test_what_came_out_differently_within_a_call_proves_nothing(folder: Path) -> None:
    evidence = recorded(folder)
    evidence.content(b"status", STATUS.replace(b"VmRSS:\t10", b"VmRSS:\t11"))
    assert evidence.packed() is not None
    evidence.content(b"status", STATUS.replace(b"one", b"two"))
    assert evidence.packed() is None


def test_what_failed_proves_nothing(folder: Path) -> None:
    thread = ThreadFolder(os.getpid(), lambda: True)
    thread.read(b"comm")
    assert thread.evidence.packed() is not None
    with pytest.raises(FileNotFoundError):
        thread.read(b"no such file")
    assert thread.evidence.packed() is None


def test_what_is_too_much_is_not_compared() -> None:
    evidence = Evidence()
    evidence.content(b"cmdline", b"x" * LIMIT)
    assert evidence.packed() is None


@pytest.mark.parametrize("keep", range(0, 60, 4))
def test_evidence_cut_short_does_not_hold(folder: Path, keep: int) -> None:
    whole = packed(recorded(folder))
    assert not holds(folder, whole[: len(whole) - 60 + keep]) or keep == 60


def test_everything_that_is_read_of_a_thread_is_evidence() -> None:
    folder = ThreadFolder(os.getpid(), lambda: True)
    folder.read(b"status")
    folder.read(b"cmdline", 10000)
    folder.link(b"exe")
    folder.namespace(b"user")
    folder.root()
    evidence = packed(folder.evidence)
    assert holds(Path("/proc/self"), evidence)
    assert not holds(Path("/proc/1"), evidence)
