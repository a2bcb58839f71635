# SPDX-License-Identifier: GPL-2.0-or-later
"""Child processes for the tests of `native`: real ones, forked from the test itself.

Forked and not started anew, so that a child has the test's memory at the same addresses and its descriptors under the
same numbers, and so that what it does stands inside the test. What a child returns or raises comes back through a pipe.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import platform
import signal
import socket
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from native import seccomp
from native.notification import Listener, Notification

LONG_NS = 30_000_000_000
"""A wait that only a broken program uses up, in ns."""

SYSTEM_CALL_IOCTL, ARCHITECTURE = {
    "x86_64": (16, seccomp.AUDIT_ARCH_X86_64),
    "aarch64": (29, seccomp.AUDIT_ARCH_AARCH64),
}[platform.machine()]

REQUEST = 0x40009501
"""An ioctl of magic 0x95."""

Result = TypeVar("Result")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def trap(argument: int = 0, request: int = REQUEST, descriptor: int = 0) -> int:
    """ioctl(2), with all 64 bits of the result; -errno if it failed."""
    result: int = _libc.syscall(
        ctypes.c_long(SYSTEM_CALL_IOCTL),
        ctypes.c_long(descriptor),
        ctypes.c_ulong(request),
        ctypes.c_ulong(argument),
    )
    return -ctypes.get_errno() if result == -1 else result


def trapping_program() -> list[tuple[int, int, int, int]]:
    """Notifies of ioctls of magic 0x95 of this architecture, allows all else."""
    load = seccomp.BPF_LD | seccomp.BPF_W | seccomp.BPF_ABS
    jump_equal = seccomp.BPF_JMP | seccomp.BPF_JEQ | seccomp.BPF_K
    ret = seccomp.BPF_RET | seccomp.BPF_K
    return [
        (load, 0, 0, 4),
        (jump_equal, 0, 5, ARCHITECTURE),
        (load, 0, 0, 0),
        (jump_equal, 0, 3, SYSTEM_CALL_IOCTL),
        (load, 0, 0, 24),
        (seccomp.BPF_ALU | seccomp.BPF_AND | seccomp.BPF_K, 0, 0, 0xFF00),
        (jump_equal, 1, 0, 0x9500),
        (ret, 0, 0, seccomp.SECCOMP_RET_ALLOW),
        (ret, 0, 0, seccomp.SECCOMP_RET_USER_NOTIF),
    ]


class Child:
    """A forked process that runs `function` and ends; `result` waits for what it returned.

    Killed, if it still runs, when the `with` block ends.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reading)
            _run(function, writing)
        os.close(writing)
        self._ended = False

    def result(self) -> Any:
        """What the function returned; raises AssertionError with the traceback if it raised."""
        with open(self._reading, "rb", closefd=False) as pipe:
            data = pipe.read()
        self.wait()
        assert data, "the child died"
        succeeded, value = pickle.loads(data)
        assert succeeded, value
        return value

    def wait(self) -> None:
        """Waits until the process has ended."""
        if not self._ended:
            self._ended = True
            os.waitpid(self.pid, 0)

    def kill(self) -> None:
        """Ends the process by SIGKILL and waits for it."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        os.close(self._reading)


def _run(function: Callable[[], Any], writing: int) -> NoReturn:
    try:
        try:
            data = pickle.dumps((True, function()))
        except BaseException:
            data = pickle.dumps((False, traceback.format_exc()))
        with open(writing, "wb") as pipe:
            pipe.write(data)
    finally:
        os._exit(0)


def in_child(function: Callable[[], Result]) -> Result:
    """Runs `function` in a child and returns what it returned: for what cannot be undone."""
    with Child(function) as child:
        result: Result = child.result()
        return result


class Target(Child):
    """A child that runs `function` under `trapping_program`; `listener` receives its traps."""

    listener: Listener

    def __init__(self, function: Callable[[], Any], flags: int = 0) -> None:
        here, there = socket.socketpair()

        def under_filter() -> Any:
            here.close()
            seccomp.set_no_new_privileges()
            descriptor = seccomp.install_filter(trapping_program(), flags)
            socket.send_fds(there, [b"."], [descriptor])
            os.close(descriptor)
            there.close()
            return function()

        super().__init__(under_filter)
        there.close()
        with here:
            _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
        assert descriptors, self.result()
        self.listener = Listener(descriptors[0])

    def next(self) -> Notification:
        """The next trap, waited for."""
        notification = self.listener.receive(LONG_NS)
        assert notification is not None
        return notification

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.close()
        super().__exit__(kind, value, trace)
