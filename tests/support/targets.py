# SPDX-License-Identifier: GPL-2.0-or-later
"""Real processes for the tests of the target side: children that hold still, and children under a real listener.

A child that holds still is a fork of the test process; whatever it should be like (other namespaces, another root) it
becomes itself. It reports when it is ready, and ends when the test is done with it, or when the test process dies.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from interposer.launch.filter import Trap, build, mount_mode_traps, this_architecture
from native.identity import pidfd_open
from native.notification import EndOfTargets, Listener, Notification
from native.seccomp import install_filter, set_no_new_privileges, set_parent_death_signal

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
PATIENCE_NS = 60 * 10**9
"""How long a test waits for what must come, in ns, before it calls it a failure."""


def compile_program(name: str, folder: Path) -> Path:
    """Compile `tests/programs/NAME.c` into `folder`."""
    program = folder / name
    command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([*command, "-o", str(program), str(PROGRAMS / f"{name}.c")], check=True)
    return program


def old_pidfd_open(pid: int, flags: int = 0) -> int:
    """`native.identity.pidfd_open` as it is on kernels before 6.9, which know no pidfds of threads."""
    if flags:
        raise OSError(errno.EINVAL, "as kernels before 6.9 say")
    return pidfd_open(pid)


def fork(body: Callable[[], None]) -> int:
    """Run `body` in a child, which then ends with status 0, or 1 after an exception. Returns its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    try:
        set_parent_death_signal(signal.SIGKILL)
        body()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


@contextmanager
def held_child(prepare: Callable[[], int | None]) -> Iterator[int]:
    """A child in which `prepare` has run and returned, and which does nothing any more.

    Yields its number, or the one that `prepare` returned. PermissionError in `prepare` skips the test: the machine
    does not allow what it needs.
    """
    ours, theirs = socket.socketpair()

    def body() -> None:
        ours.close()
        try:
            number = prepare()
        except PermissionError as error:
            theirs.send(b"skip %r" % str(error))
            return
        theirs.send(b"%d" % (number or 0))
        theirs.recv(1)

    child = fork(body)
    theirs.close()
    try:
        report = ours.recv(1000)
        if report.startswith(b"skip"):
            pytest.skip(f"not allowed here: {os.fsdecode(report[5:])}")
        assert report, "the child has failed; see its traceback"
        yield int(report) or child
    finally:
        ours.close()
        os.waitpid(child, 0)


@dataclass
class Target:
    """A child under a seccomp filter, and the listener of that filter."""

    pid: int
    listener: Listener

    def next(self) -> Notification:
        """The next trapped call, which must come."""
        notification = self.listener.receive(PATIENCE_NS)
        assert notification is not None, "no call was trapped"
        return notification

    def wait(self) -> int:
        """Exit status of the child, negative for a signal, as soon as it has ended."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def at_end(self) -> bool:
        """Whether the next thing to receive is the end of all targets."""
        try:
            return self.listener.receive(PATIENCE_NS) is None
        except EndOfTargets:
            return True


def traps_of(*calls: str) -> list[Trap]:
    """The entries of the project's own filter for `calls`."""
    return [trap for trap in mount_mode_traps(this_architecture()) if trap.system_call in calls]


def start_target(body: Callable[[], None], traps: Sequence[Trap], flags: int = 0) -> Target:
    """Run `body` in a child under a filter of `traps`; `flags`: SECCOMP_FILTER_FLAG_*.

    Where the kernel does not know a flag, the test is skipped.
    """
    ours, theirs = socket.socketpair()

    def filtered() -> None:
        ours.close()
        set_no_new_privileges()
        try:
            listener = install_filter(build(this_architecture(), traps), flags)
        except OSError as error:
            theirs.send(os.fsencode(str(error)))
            return
        socket.send_fds(theirs, [b"+"], [listener])
        os.close(listener)
        theirs.close()
        body()

    child = fork(filtered)
    theirs.close()
    with ours:
        report, descriptors, _, _ = socket.recv_fds(ours, 1000, 1)
    if not descriptors:
        os.waitpid(child, 0)
        pytest.skip(f"no listener here: {os.fsdecode(report)}")
    return Target(child, Listener(descriptors[0]))
