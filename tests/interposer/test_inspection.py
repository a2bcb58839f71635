# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a process may be inspected, and what is said where it may not."""

from __future__ import annotations

import errno
import os

import pytest

from interposer.target import inspection
from interposer.target.inspection import Forbidden, try_to_inspect, yama_scope
from tests.support.users import User

_SABOTAGE = """
import errno, sys
import native.memory, interposer.handles.lazy, interposer.traps.node_handles
def forbidden(*_, **__): raise PermissionError(errno.EPERM, "not permitted")
native.memory.read = native.memory.read_string = {} = forbidden
from interposer.command_line import main
sys.exit(main())
"""
_PROGRAM = """
import errno, fcntl, os
try:
    control = os.open("/sys/fs/kdbus/control", os.O_RDWR)
    fcntl.ioctl(control, 0x40409500, bytes(64))
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def forbidden(*_: object) -> None:
    raise PermissionError(errno.EPERM, "not permitted")


def test_oneself_may_be_inspected() -> None:
    try_to_inspect(os.getpid())
    assert yama_scope() in (None, "0", "1", "2", "3")
    with pytest.raises(ProcessLookupError):
        try_to_inspect(0)


@pytest.mark.parametrize(
    ("scope", "advice"),
    [
        (None, "security module or a container's"),
        ("1", "security module or a container's"),
        ("2", "ptrace_scope is 2, so it finds no kdbus that works; run `kdbus` with CAP_SYS_PTRACE"),
        ("3", "ptrace_scope is 3, so it finds no kdbus that works; that forbids it to root too"),
    ],
)
def test_it_is_told_once_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], scope: str | None, advice: str
) -> None:
    monkeypatch.setattr(inspection, "yama_scope", lambda: scope)
    told = Forbidden()
    told.tell(os.getpid())  # which may be inspected
    told.tell(0)  # and there is none
    monkeypatch.setattr(inspection, "try_to_inspect", forbidden)
    told.tell(7)
    told.tell(8)
    said = capfd.readouterr().err
    assert said.startswith("kdbus: serving the calls of thread 7: ") and said.count("\n") == 1
    assert advice in said


def test_of_paths_it_is_told_where_the_process_is_ones_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspection, "try_to_inspect", forbidden)
    told = Forbidden()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    told.tell_of_path(os.getpid())
    assert not capfd.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(inspection, "try_to_inspect", forbidden)
    told.tell_of_path(os.getpid())
    assert f"thread {os.getpid()}: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("mode", "refused", "met"),
    [
        ("mount", "interposer.traps.node_handles.status_of", "ENOTTY"),  # AppArmor
        ("mount", "interposer.handles.lazy._fetch", "ENOTTY"),  # Yama, SELinux: /proc/PID/fd may be looked at
        ("path", "interposer.traps.node_handles.status_of", "ENOENT"),
    ],
)
def test_kdbus_run_tells_why_its_program_finds_no_kdbus(user: User, mode: str, refused: str, met: str) -> None:
    command = user.kdbus("run", "--mode", mode, "--no-preload", "--", user.python, "-c", _PROGRAM)
    place = command.index("-m")
    outcome = user.run([*command[:place], "-c", _SABOTAGE.replace("{}", refused), *command[place + 2 :]])
    told, *rest = sorted(outcome.output.splitlines(), key=lambda line: not line.startswith("kdbus: "))
    assert (outcome.status, rest) == (0, [met])
    assert "neither read its memory nor fetch its descriptors" in told
