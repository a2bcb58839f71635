# SPDX-License-Identifier: GPL-2.0-or-later
"""Failures of our own: killed, interrupted, out of memory or descriptors, or plainly wrong.

In each case the targets get a clear end (`tests/programs/survivor.c` says what they meet), stderr says in a line what
has happened, and no mount, process, socket or temporary folder is left behind.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from interposer.report import Reports
from tests.support.compiling import compile_program
from tests.support.users import User, current_user

_SECONDS = 20
_SABOTAGE = "import sys\n{}\nfrom interposer.command_line import main\nsys.exit(main())\n"
_BROKEN_COMMAND = "import broker.handle as h\ndef f(*a): raise {}\nh.ControlHandle.ioctl = f"
_BROKEN_LOOP = "import interposer.supervisor.supervisor as s\ndef f(*a): raise {}\ns.Supervisor.serve_turn = f"
_ON_PURPOSE = "RuntimeError('on purpose')"


def _survivor(folder: Path) -> str:
    return str(compile_program("survivor", folder, "-O2"))


@contextmanager
def _running(user: User, command: list[str], place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, which has said "ready". Temporary files go to `place`, which must be empty in the end."""
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={**user.environment, "TMPDIR": str(place), "XDG_RUNTIME_DIR": str(place)},
        start_new_session=True,
        **user.becoming,
    )
    try:
        assert process.stdout is not None
        _expect(process, b"ready")
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _expect(process: subprocess.Popen[bytes], *lines: bytes) -> None:
    """The next line is one of these."""
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    assert poll.poll(_SECONDS * 1000), f"{lines!r} has not come"
    assert process.stdout.readline().rstrip(b"\n") in lines


def _family(process: int) -> list[int]:
    """Descriptors that stand for a process, and for all that it has started."""
    with suppress(OSError):
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [os.pidfd_open(process), *(each for child in children for each in _family(int(child)))]
    return []


def _await_end(family: list[int]) -> None:
    for pidfd in family:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(_SECONDS * 1000), "a process is left"
        os.close(pidfd)


@pytest.mark.parametrize("mode", ["mount", "path"])
def test_killed(user: User, mode: str, open_folder: Path) -> None:
    """SIGKILL: kdbus is gone from then on; the program is otherwise left alone."""
    place = open_folder / f"killed-{mode}-{user.identity}"
    mounts = Path("/proc/self/mounts").read_text()
    with _running(user, user.kdbus("run", "--mode", mode, "--", _survivor(open_folder), "open_"), place) as process:
        family = _family(process.pid)
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
        if mode == "mount":
            _expect(process, b"open ok")
            _expect(process, b"command ESHUTDOWN")
        else:
            _expect(process, b"open ENOENT")
        _await_end(family)
    assert os.listdir(place) == []
    assert Path("/proc/self/mounts").read_text() == mounts


@pytest.mark.parametrize(
    ("case", "lines"), [("wait_", (b"send ENOTTY", b"send ESHUTDOWN")), ("poll_", (b"hung up ESHUTDOWN",))]
)
def test_killed_while_programs_wait(user: User, case: str, lines: tuple[bytes, ...], open_folder: Path) -> None:
    """Who waits for a reply or in poll(2) is woken. A SEND may come before or after its supervisor's end."""
    place = open_folder / f"waiting-{case}-{user.identity}"
    with _running(user, user.kdbus("run", "--", _survivor(open_folder), case), place) as process:
        family = _family(process.pid)
        process.kill()
        _expect(process, *lines)
        _await_end(family)
    assert os.listdir(place) == []


@pytest.mark.parametrize("mode", ["mount", "path"])
@pytest.mark.parametrize("killed", [False, True])
def test_left_behind(user: User, mode: str, killed: bool, open_folder: Path) -> None:
    """A daemon that outlives `kdbus run` does what it did before, and finds kdbus gone; nobody else stays."""
    place = open_folder / f"left-{mode}-{killed}-{user.identity}"
    options = ["--mode", mode, *(["--linger"] if killed else [])]
    with _running(user, user.kdbus("run", *options, "--", _survivor(open_folder), "left_"), place) as process:
        family = _family(process.pid) if killed else []
        if killed:
            process.kill()
        assert process.wait(_SECONDS) == (-signal.SIGKILL if killed else 0)
        # Its stdin ends with that of the daemon, and its output with nobody's but the daemon's.
        output, _ = process.communicate(timeout=_SECONDS)
        assert output.endswith(b"map ok\nopen ok\nstat ok\ncommand ESHUTDOWN\n")
        _await_end(family)
    assert os.listdir(place) == []


@pytest.mark.parametrize("mode", ["mount", "path"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupted(user: User, mode: str, number: int, open_folder: Path) -> None:
    """As from a terminal, to the whole group: the program dies of it, and so does `kdbus run`, having cleaned up."""
    place = open_folder / f"interrupted-{mode}-{number}-{user.identity}"
    command = user.kdbus("run", "--mode", mode, "--", _survivor(open_folder), "wait_")
    with _running(user, command, place) as process:
        family = _family(process.pid)
        os.killpg(process.pid, number)
        assert process.wait(_SECONDS) == -number
        _await_end(family)
    assert os.listdir(place) == []


@pytest.mark.parametrize("limit", [8, 12, 16, 24, 32, 64])
def test_few_descriptors(user: User, limit: int, open_folder: Path) -> None:
    """Programs get an errno; if the supervisor itself cannot go on, it says why and what to do, in one line."""
    command = ["prlimit", f"--nofile={limit}:{limit}", *user.kdbus("run", "--", _survivor(open_folder), "serve")]
    outcome = user.run(command, seconds=_SECONDS)
    lines = [line for line in outcome.output.splitlines() if line.startswith("kdbus: ")]
    assert "Traceback" not in outcome.output and "report" not in outcome.output, outcome.output
    if outcome.status == 125:
        assert len(lines) == 1 and "raise the limit of open files" in lines[0], outcome.output
    else:
        assert outcome.status == 0 and ("served ENFILE" in outcome.output or "served ok" in outcome.output)


@pytest.mark.parametrize("megabytes", [40, 60, 100])
def test_little_address_space(user: User, megabytes: int, open_folder: Path) -> None:
    command = ["prlimit", f"--as={megabytes << 20}", *user.kdbus("run", "--", _survivor(open_folder), "serve")]
    outcome = user.run(command, seconds=_SECONDS)
    assert "Traceback" not in outcome.output, outcome.output
    if outcome.status == 0:
        assert "served ENOMEM" in outcome.output or "served ok" in outcome.output, outcome.output


def test_a_handler_without_memory(user: User, open_folder: Path) -> None:
    """MemoryError in the middle of a command: the caller is told, the user once, and nothing is to be reported."""
    code = _SABOTAGE.format(_BROKEN_COMMAND.format("MemoryError"))
    outcome = user.run([user.python, "-c", code, "run", "--", _survivor(open_folder), "commands"], seconds=_SECONDS)
    told, *lines = outcome.output.splitlines()
    assert (outcome.status, lines) == (0, ["command ENOMEM", "ok 1 - commands", "1..1"])
    assert told.startswith("kdbus: serving a call to kdbus: out of memory; raise the limits of memory")


def test_a_mistake_of_ours_in_a_command(user: User, open_folder: Path) -> None:
    """The caller gets EIO. The first failures are told, one line each, in one file; the rest are not."""
    code = _SABOTAGE.format(_BROKEN_COMMAND.format(_ON_PURPOSE))
    place = open_folder / f"mistake-{user.identity}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    command = ["env", f"TMPDIR={place}", user.python, "-c", code, "run", "--", _survivor(open_folder), "commands"]
    outcome = user.run(command, seconds=_SECONDS)
    lines = outcome.output.splitlines()
    told = [line for line in lines if line.startswith("kdbus: ")]
    assert outcome.status == 0 and "command EIO" in lines, outcome.output
    assert len(told) == 16 and all("RuntimeError: on purpose" in line for line in told)
    assert told[-1].endswith("further failures are not told")
    (report,) = place.iterdir()
    assert str(report) in told[0]
    assert report.read_text().count("RuntimeError: on purpose") == 16
    assert report.stat().st_mode & 0o777 == 0o600


def test_a_crash(user: User, open_folder: Path) -> None:
    """The supervisor itself fails: the program's calls fail with ENOSYS, and one line names the file with the rest."""
    code = _SABOTAGE.format(_BROKEN_LOOP.format(_ON_PURPOSE))
    place = open_folder / f"crash-{user.identity}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    command = ["env", f"TMPDIR={place}", user.python, "-c", code, "run", "--", _survivor(open_folder), "serve"]
    outcome = user.run(command, seconds=_SECONDS)
    told = [line for line in outcome.output.splitlines() if line.startswith("kdbus: ")]
    assert outcome.status == 125 and "Traceback" not in outcome.output, outcome.output
    assert len(told) == 1 and "internal error: RuntimeError: on purpose; details are in" in told[0]
    (report,) = place.iterdir()
    assert "Traceback" in report.read_text()


def test_reports_do_not_wait_for_a_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stderr that is full, as targets may have filled it, stops nobody."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    stderr = os.dup(2)
    os.dup2(writing, 2)
    try:
        Reports().unexpected("something failed")
    finally:
        os.dup2(stderr, 2)
        for descriptor in (stderr, reading, writing):
            os.close(descriptor)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_server_ends_with_its_socket(open_folder: Path) -> None:
    """`kdbus serve` after SIGTERM leaves no socket; after SIGKILL the next server takes its place."""
    user = current_user()
    path, address = open_folder / "socket", open_folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(_SECONDS)
        for number in (signal.SIGKILL, signal.SIGTERM):
            environment = {**user.environment, "NOTIFY_SOCKET": str(address)}
            process = subprocess.Popen(user.kdbus("serve", "--socket", str(path)), env=environment)
            try:
                while manager.recv(64) != b"READY=1":
                    pass
                process.send_signal(number)
                process.wait(_SECONDS)
            finally:
                process.kill()
                process.wait()
    assert not path.exists()
