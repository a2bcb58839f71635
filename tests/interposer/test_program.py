# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kdbus run` owes its program and its shell: job control, and programs that leave daemons behind.

A daemon tells through a named pipe what it finds after the program has ended.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from interposer.launch.program import has_moved
from tests.support.compiling import compile_program
from tests.support.supervised import await_caught
from tests.support.users import User

PATIENCE_S = 60


@pytest.fixture
def program(open_folder: Path) -> Path:
    target = open_folder / "trees"
    return target if target.exists() else compile_program("trees", open_folder, "-O2")


@pytest.fixture
def pipe(open_folder: Path) -> Iterator[Path]:
    """A named pipe that everybody may use."""
    path = open_folder / "daemon"
    os.mkfifo(path)
    path.chmod(0o666)
    yield path
    path.unlink()


@contextmanager
def started(
    user: User, command: list[str], stderr: int | None = None, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`command` as `user`, in a session of its own, which is killed in the end."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=stderr,
        env={**user.environment, **variables},
        cwd="/",
        start_new_session=True,
        **user.becoming,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_daemon_finds_kdbus_gone_with_the_program(user: User, program: Path, pipe: Path) -> None:
    command = user.kdbus("run", "--", str(program), "part_daemon")
    with started(user, command, E2E_DAEMON=str(pipe)) as process:
        assert pipe.read_text() == "kdbus is gone\n"
        assert process.wait(PATIENCE_S) == 0


_LEAVES = """
import fcntl, os, signal
handle = os.open("/sys/fs/kdbus/control", os.O_RDWR)
try:
    fcntl.ioctl(handle, 0x9501)
except OSError:
    pass
child = os.fork()
if not child:
    signal.pause()
os.kill(child, signal.SIGKILL)
"""
"""Ends while a child of it, which has a handle, is about to die."""


def test_who_is_left_behind_with_handles_is_told(user: User, program: Path, pipe: Path) -> None:
    """Or kdbus would seem to have failed there."""
    command = user.kdbus("run", "--", str(program), "part_daemon")
    with started(user, command, stderr=subprocess.PIPE, E2E_DAEMON=str(pipe)) as process:
        assert pipe.read_text() == "kdbus is gone\n"
        assert process.stderr is not None
        told = process.stderr.read().decode()
    assert told.startswith("kdbus: the program has ended, and processes that it left behind have 2 handles open")
    assert "`kdbus run --linger`" in told
    assert told.count("\n") == 1


def test_nothing_is_told_of_who_is_about_to_die(user: User) -> None:
    outcome = user.run(user.kdbus("run", "--", user.python, "-c", _LEAVES))
    assert (outcome.status, outcome.output) == (0, "")


def test_lingering_serves_the_daemon_to_its_end(user: User, program: Path, pipe: Path) -> None:
    command = user.kdbus("run", "--linger", "--", str(program), "part_daemon")
    with started(user, command, E2E_DAEMON=str(pipe), E2E_LINGERS="once") as process:
        assert pipe.read_text() == "kdbus is there\n"
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_lingering_ends_at_a_signal(user: User, program: Path, pipe: Path, number: int) -> None:
    command = user.kdbus("run", "--linger", "--", str(program), "part_daemon")
    with started(user, command, E2E_DAEMON=str(pipe), E2E_LINGERS="to the end") as process, pipe.open() as told:
        assert told.readline() == "kdbus is there\n"
        await_caught(process.pid, signal.SIGINT)
        process.send_signal(number)
        assert told.read() == "kdbus is gone\n"
        assert process.wait(PATIENCE_S) == 0


def test_lingering_gives_the_status_of_the_program(user: User) -> None:
    assert user.run(user.kdbus("run", "--linger", "--", "sh", "-c", "exit 3")).status == 3
    assert user.run(user.kdbus("run", "--linger", "--", "sh", "-c", "kill -TERM $$")).status == -signal.SIGTERM


@pytest.mark.parametrize("options", [["--mode", "mount"], ["--mode", "path"], ["--make-bus", "early"]])
@pytest.mark.parametrize("bound", [True, False])
def test_a_program_may_be_bound_to_its_launcher(user: User, pipe: Path, options: list[str], bound: bool) -> None:
    """Also if it is held until there is a bus. Otherwise it outlives the launcher."""
    options = [*options, *(["--die-with-parent"] if bound else [])]
    command = user.kdbus("run", *options, "--", "sh", "-c", f"exec >{pipe}; echo $$; exec sleep {PATIENCE_S}")
    with started(user, command) as process, pipe.open() as told:
        program = os.pidfd_open(int(told.readline()))
        try:
            process.kill()
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
            assert bool(select.select([program], [], [], PATIENCE_S if bound else 0)[0]) is bound
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(program, signal.SIGKILL)
            os.close(program)


class Shell:
    """A session with a terminal, in which one job runs in the foreground; the shell's part is played by the test.

    The job's parent is a process of that session; otherwise the kernel would not stop it (an orphaned process group).
    It says "stopped N PID", "continued" or "ended N" through a pipe when its job does.
    """

    _SCRIPT = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
report = int(sys.argv[1])
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])
while True:
    _, status = os.waitpid(job, os.WUNTRACED | os.WCONTINUED)
    if os.WIFSTOPPED(status):
        os.write(report, b"stopped %d %d\\n" % (os.WSTOPSIG(status), job))
    elif os.WIFCONTINUED(status):
        os.write(report, b"continued\\n")
    else:
        os.write(report, b"ended %d\\n" % os.waitstatus_to_exitcode(status))
        break
"""

    def __init__(self, user: User, command: list[str], **variables: str) -> None:
        self._master, terminal = os.openpty()
        reports, theirs = os.pipe()

        self._process = subprocess.Popen(
            [user.python, "-c", self._SCRIPT, str(theirs), *command],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**user.environment, **variables},
            cwd="/",
            pass_fds=[theirs],
            start_new_session=True,
            **user.becoming,
        )
        os.close(terminal)
        os.close(theirs)
        self._reports = os.fdopen(reports)
        self.seen = ""

    def report(self) -> str:
        """The next thing that the job's parent says."""
        return self._reports.readline().strip()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, text: str) -> None:
        """Wait until the terminal shows `text`."""
        while text not in self.seen:
            try:
                self.seen += os.read(self._master, 4096).decode()
            except OSError:
                pytest.fail(f"the terminal was closed before {text!r} came:\n{self.seen}", pytrace=False)

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)
        self._reports.close()


def test_a_job_is_stopped_from_its_terminal_and_continued(user: User, program: Path) -> None:
    """Ctrl-Z stops `kdbus run` as it stops the program; both go on, and the call that waited is answered."""
    command = user.kdbus("run", "--", str(program), "part_wait_in_a_call")
    shell = Shell(user, command, E2E_PART="1")
    try:
        for _ in range(2):
            shell.read_until("waiting\r\n")
            shell.type("\x1a")
            word, number, job = shell.report().split()
            assert (word, int(number)) == ("stopped", signal.SIGTSTP)
            os.killpg(int(job), signal.SIGCONT)
            assert shell.report() == "continued"
        shell.type("go on\n")
        shell.read_until("answered\r\n")
        assert shell.report() == "ended 0"
    finally:
        shell.close()


def test_a_program_that_stops_itself_alone_is_no_concern_of_the_shell(user: User) -> None:
    """SIGSTOP comes from another process of the tree, which may want to continue it, and to use kdbus meanwhile."""
    script = "(while ! grep -q '^State:.T' /proc/$$/status; do :; done; kill -CONT $$) & kill -STOP $$; wait"
    outcome = user.run(user.kdbus("run", "--", "sh", "-c", script))
    assert (outcome.status, outcome.output) == (0, "")


def test_a_program_that_was_continued_and_stopped_at_once_has_moved() -> None:
    """Whoever takes it for still stopped would continue it against the terminal's will."""
    with subprocess.Popen(["sleep", "infinity"]) as process:
        try:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            assert not has_moved(process.pid)
            process.send_signal(signal.SIGCONT)
            assert has_moved(process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            assert has_moved(process.pid)
        finally:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_moved(process.pid)
