# SPDX-License-Identifier: GPL-2.0-or-later
"""Mapping a pool in a thread that somebody else traces.

A thread under gdb or strace cannot be seized, so the pool cannot be mapped by injection. Instead the descriptor in
the call is replaced, for as long as the call takes, by the pool's memfd, and the kernel executes the mmap as it
stands. Nothing announces that it is done; the handle is put back at the thread's next trap, which is the first moment
at which the difference can matter to us. Meanwhile the supervisor holds a duplicate of the handle, so that it does
not count as closed.

Weaknesses: until that next trap, poll(2) on the descriptor sees a plain file, and a duplicate made of it stays one. A
thread that closes the descriptor in between has closed the file only; the handle then ends at the thread's next trap,
or with it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from interposer.handles import OpenHandle
from native.identity import PIDFD_THREAD, pidfd_getfd, pidfd_open
from native.notification import Listener, Notification


@dataclass(frozen=True, slots=True)
class _Replaced:
    descriptor: int
    held: int
    """Our duplicate of the target's end of the handle."""
    file: tuple[int, int]
    """Device and inode of the memfd that stands there now."""
    close_on_exec: bool


class Detours:
    """The descriptors that are replaced at the moment, by thread."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._replaced: dict[int, _Replaced] = {}

    def map_instead(self, notification: Notification, handle: OpenHandle, descriptor: int, pool: int) -> None:
        """Put `pool`, a descriptor of ours, in the place of `descriptor`, and let the kernel execute the mmap.

        Raises OSError if the thread may not be inspected at all.
        """
        thread = notification.pid
        with open(f"/proc/{thread}/fdinfo/{descriptor}", "rb") as file:
            flags = next(line for line in file if line.startswith(b"flags:"))
        close_on_exec = bool(int(flags.split()[1], 8) & os.O_CLOEXEC)
        pidfd = pidfd_open(thread, PIDFD_THREAD)
        try:
            held = pidfd_getfd(pidfd, descriptor)
        finally:
            os.close(pidfd)
        status = os.fstat(pool)
        try:
            self._listener.add_descriptor(notification.id, pool, close_on_exec=close_on_exec, at=descriptor)
        except OSError:
            os.close(held)
            raise
        self._replaced[thread] = _Replaced(descriptor, held, (status.st_dev, status.st_ino), close_on_exec)
        self._listener.respond_continue(notification.id)

    def end(self, notification: Notification) -> None:
        """The thread is in its next trap: put the handle back, if the memfd still stands in its place."""
        replaced = self._replaced.pop(notification.pid, None)
        if replaced is None:
            return
        try:
            with suppress(OSError):
                status = os.stat(f"/proc/{notification.pid}/fd/{replaced.descriptor}")
                if (status.st_dev, status.st_ino) == replaced.file:
                    self._listener.add_descriptor(
                        notification.id, replaced.held, close_on_exec=replaced.close_on_exec, at=replaced.descriptor
                    )
        finally:
            os.close(replaced.held)

    def forget_ended(self) -> None:
        """Let go of the handles of threads that have ended."""
        for thread in [thread for thread in self._replaced if not os.path.exists(f"/proc/{thread}")]:
            os.close(self._replaced.pop(thread).held)
