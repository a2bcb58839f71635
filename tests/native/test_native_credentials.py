# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.credentials`: what a thread may do while it acts as somebody else, and that it is itself again after."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from native import namespace, seccomp
from native.credentials import borrowed_identity
from tests.support.children import in_child

NOBODY = 65534
CAP_DAC_OVERRIDE, CAP_SETGID, CAP_SETUID = 1 << 1, 1 << 6, 1 << 7
PR_GET_PDEATHSIG, PR_GET_DUMPABLE = 2, 3

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can borrow another identity")

_libc = ctypes.CDLL(None)


def status(*keys: str) -> dict[str, list[str]]:
    """Fields of the calling thread's status."""
    with open("/proc/thread-self/status", encoding="ascii") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return {key: fields[key].split() for key in keys}


IDENTITY = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh", "CapBnd")


def dumpable() -> int:
    result: int = _libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
    return result


@needs_root
def test_ids_and_groups_are_borrowed_and_given_back() -> None:
    before = status(*IDENTITY)
    with borrowed_identity(1001, 1002, [1003, 1004]):
        within = status(*IDENTITY)
    assert status(*IDENTITY) == before
    assert within["Uid"] == [*before["Uid"][:3], "1001"]
    assert within["Gid"] == [*before["Gid"][:3], "1002"]
    assert within["Groups"] == ["1003", "1004"]
    assert int(within["CapEff"][0], 16) & CAP_DAC_OVERRIDE == 0
    assert within["CapPrm"] == before["CapPrm"]


@needs_root
def test_the_kernel_decides_as_for_the_borrowed_user(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("secret", encoding="ascii")
    private.chmod(0o600)
    descriptor = os.open(private, os.O_PATH)
    path = f"/proc/self/fd/{descriptor}"
    with borrowed_identity(NOBODY, NOBODY, []), pytest.raises(PermissionError):
        os.open(path, os.O_RDONLY)
    with borrowed_identity(NOBODY, NOBODY, [], CAP_DAC_OVERRIDE):
        os.close(os.open(path, os.O_RDONLY))
    private.chmod(0o640)
    os.chown(private, 0, 1234)
    with borrowed_identity(NOBODY, NOBODY, [1234]):
        os.close(os.open(path, os.O_RDONLY))
    os.close(descriptor)


@needs_root
def test_capabilities_are_only_what_was_asked_for() -> None:
    before = status("CapEff")
    with borrowed_identity(0, 0, [], 0):
        assert int(status("CapEff")["CapEff"][0], 16) == 0
    with borrowed_identity(NOBODY, NOBODY, [], CAP_DAC_OVERRIDE | 1 << 63):
        assert int(status("CapEff")["CapEff"][0], 16) == CAP_DAC_OVERRIDE
    assert status("CapEff") == before


@needs_root
def test_other_threads_stay_who_they_are() -> None:
    entered, looked = threading.Event(), threading.Event()
    seen: list[dict[str, list[str]]] = []

    def look() -> None:
        entered.wait()
        seen.append(status(*IDENTITY))
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    mine = status(*IDENTITY)
    with borrowed_identity(NOBODY, NOBODY, [5]):
        entered.set()
        looked.wait()
    thread.join()
    assert seen == [mine]


@needs_root
def test_side_effects_are_undone() -> None:
    def inside() -> tuple[int, int, int]:
        seccomp.set_parent_death_signal(signal.SIGUSR2)
        with borrowed_identity(NOBODY, NOBODY, []):
            within = dumpable()
        number = ctypes.c_int()
        _libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
        return within, dumpable(), number.value

    within, after, number = in_child(inside)
    assert within != 1
    assert after == 1
    assert number == signal.SIGUSR2


@needs_root
def test_it_ends_with_an_exception_too() -> None:
    before = status(*IDENTITY)
    with pytest.raises(KeyError), borrowed_identity(NOBODY, NOBODY, [5]):
        raise KeyError
    assert status(*IDENTITY) == before


@needs_root
def test_an_object_serves_again_but_not_within_itself() -> None:
    somebody = borrowed_identity(NOBODY, NOBODY, [])
    for _ in range(3):
        with somebody:
            assert status("Uid")["Uid"][3] == str(NOBODY)
            with pytest.raises(RuntimeError, match="already borrowed"), somebody:
                pass
            assert status("Uid")["Uid"][3] == str(NOBODY)
        assert status("Uid")["Uid"][3] == "0"


@needs_root
@pytest.mark.parametrize("kept", [0, CAP_SETGID, CAP_SETUID])
def test_a_failure_half_way_changes_nothing(kept: int) -> None:
    def inside() -> tuple[int | None, bool, bool]:
        os.setgroups([7, 8])
        with borrowed_identity(0, 0, [7, 8], kept):
            before = status(*IDENTITY)
            code = None
            try:
                with borrowed_identity(NOBODY, NOBODY, [9]):
                    pass
            except OSError as error:
                code = error.errno
            return code, status(*IDENTITY)["Groups"] == ["7", "8"], status(*IDENTITY) == before

    assert in_child(inside) == (errno.EPERM, True, True)


def test_being_oneself_needs_no_privilege() -> None:
    def inside() -> tuple[bool, int | None]:
        if os.geteuid() == 0:
            os.setgroups([3])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        before = status(*IDENTITY)
        with borrowed_identity(os.geteuid(), os.getegid(), os.getgroups()):
            same = status(*IDENTITY) == before
        # Nothing is permitted to this thread, so nothing of what is asked for becomes effective.
        with borrowed_identity(os.geteuid(), os.getegid(), os.getgroups(), CAP_DAC_OVERRIDE):
            same = same and status(*IDENTITY) == before
        same = same and status(*IDENTITY) == before
        try:
            with borrowed_identity(0, 0, os.getgroups()):
                pass
        except OSError as error:
            return same and status(*IDENTITY) == before, error.errno
        return same, None

    assert in_child(inside) == (True, errno.EPERM)


@needs_root
def test_what_setfsuid_adds_to_the_capabilities_is_taken_away_again() -> None:
    with borrowed_identity(0, 0, os.getgroups(), CAP_SETGID | CAP_SETUID):
        before = status(*IDENTITY)
        with borrowed_identity(NOBODY, NOBODY, []):
            pass
        assert status(*IDENTITY) == before


@needs_root
def test_many_groups() -> None:
    groups = list(range(1000, 1000 + 65536))

    def inside() -> tuple[bool, bool]:
        os.setgroups(groups)
        with borrowed_identity(NOBODY, NOBODY, []):
            empty = os.getgroups() == []
        return empty, os.getgroups() == groups

    assert in_child(inside) == (True, True)
    with pytest.raises(OSError) as caught, borrowed_identity(0, 0, [*groups, 1]):
        pass
    assert caught.value.errno == errno.EINVAL


def test_ids_that_are_none() -> None:
    with pytest.raises(OverflowError):
        borrowed_identity(-1, 0, [])
    with pytest.raises(OverflowError):
        borrowed_identity(0, 0, [1 << 32])


@needs_root
def test_the_id_that_nobody_has_cannot_be_borrowed() -> None:
    with pytest.raises(OSError, match="act as user 4294967295"), borrowed_identity(0xFFFFFFFF, 0, []):
        pass


def test_namespace_offers_it_as_well() -> None:
    assert namespace.borrowed_identity is borrowed_identity
