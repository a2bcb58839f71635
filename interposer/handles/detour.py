# SPDX-License-Identifier: GPL-2.0-or-later
"""Mapping a pool in a thread that somebody else traces.

A thread under gdb or strace cannot be seized, so the pool cannot be mapped by injection. Instead the descriptor in
the call is replaced, for as long as the call takes, by the pool's memfd, and the kernel executes the mmap as it
stands. Nothing announces that it is done; the handle is put back at the thread's next trap, which is the first moment
at which the difference can matter to us. Meanwhile the supervisor holds a duplicate of the handle, so that it does
not count as closed.

A duplicate that was made of the memfd in between becomes the handle at its own first use, as nothing else in a target
can be open on that file.

Weaknesses: until the thread's next trap poll(2) on the descriptor sees a plain file, which is always readable, and
epoll_ctl(2) refuses it with EPERM. In practice that next trap follows at once, as HELLO's answer is read from
the pool and given back (FREE) before anything else. A thread that closes the descriptor, or executes a program, in
between has closed the file only; the handle then ends at the thread's next trap, or with the thread.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress
from dataclasses import dataclass

from interposer.handles.handles import OpenHandle, status_of
from interposer.handles.lazy import fetch_end
from interposer.target.process import open_thread
from native.deputies import close_file
from native.identity import pidfd_getfd
from native.notification import Listener, Notification

_AT_ONCE = 1024
"""Descriptors that may be replaced at the same time; two of ours for each."""
_Identity = tuple[int, int]
"""Device and inode of a file."""


@dataclass(frozen=True, slots=True)
class _Replaced:
    handle: OpenHandle
    descriptor: int
    pidfd: int
    held: int
    """Our duplicate of the target's end of the handle."""
    file: _Identity
    """The memfd that stands there now."""
    close_on_exec: bool

    def close(self) -> None:
        close_file(self.held)
        os.close(self.pidfd)


class Detours:
    """The descriptors that are replaced at the moment, by thread."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._replaced: dict[int, _Replaced] = {}
        self._mapped: dict[_Identity, OpenHandle] = {}
        self._ended = select.epoll()

    def fileno(self) -> int:
        """A descriptor that is readable when `collect` has something to do."""
        return self._ended.fileno()

    def map_instead(self, notification: Notification, handle: OpenHandle, descriptor: int, pool: int) -> None:
        """Put `pool`, a descriptor of ours, in the place of `descriptor`, and let the kernel execute the mmap.

        Raises OSError if the thread may not be inspected at all.
        """
        thread = notification.pid
        if len(self._replaced) >= _AT_ONCE:
            raise OSError(errno.ENOMEM, "map a pool in a thread that is traced: too many are in the middle of that")
        close_on_exec = _closes_on_exec(thread, descriptor)
        pidfd = open_thread(thread)
        try:
            held = pidfd_getfd(pidfd, descriptor)
        except OSError:
            os.close(pidfd)
            raise
        status = os.fstat(pool)
        replaced = _Replaced(handle, descriptor, pidfd, held, (status.st_dev, status.st_ino), close_on_exec)
        try:
            self._listener.add_descriptor(notification.id, pool, close_on_exec=close_on_exec, at=descriptor)
        except OSError:
            replaced.close()
            raise
        self._mapped = {file: known for file, known in self._mapped.items() if known.table.has(known)}
        self._mapped[replaced.file] = handle
        self._replaced[thread] = replaced
        self._ended.register(pidfd, select.EPOLLIN)
        self._listener.respond_continue(notification.id)

    def end(self, notification: Notification) -> None:
        """The thread is in its next trap: put the handle back, if the memfd still stands in its place."""
        replaced = self._replaced.pop(notification.pid, None)
        if replaced is None:
            return
        try:
            with suppress(OSError):
                status = status_of(notification.pid, replaced.descriptor)
                if (status.st_dev, status.st_ino) == replaced.file:
                    self._listener.add_descriptor(
                        notification.id, replaced.held, close_on_exec=replaced.close_on_exec, at=replaced.descriptor
                    )
        finally:
            replaced.close()

    def knows(self, status: os.stat_result) -> bool:
        """Whether the file of `status` is a pool that has stood in the place of a handle, and may still."""
        return (status.st_dev, status.st_ino) in self._mapped

    def restore(self, notification: Notification, descriptor: int, status: os.stat_result) -> OpenHandle | None:
        """The handle that `descriptor`, open on the file of `status`, should be; it is put there. None for others."""
        handle = self._mapped.get((status.st_dev, status.st_ino))
        if handle is None or not handle.table.has(handle):
            return None
        end = self._end_of(handle)
        if end is None:
            return None
        try:
            close_on_exec = _closes_on_exec(notification.pid, descriptor)
            self._listener.add_descriptor(notification.id, end, close_on_exec=close_on_exec, at=descriptor)
        except OSError:
            return None
        finally:
            os.close(end)
        return handle

    def _end_of(self, handle: OpenHandle) -> int | None:
        for replaced in self._replaced.values():
            if replaced.handle is handle:
                return os.dup(replaced.held)
        return fetch_end(handle)

    def collect(self) -> None:
        """Let go of the handles of threads that have ended."""
        if not self._replaced:
            return
        ended = {descriptor for descriptor, _ in self._ended.poll(0)}
        for thread, replaced in list(self._replaced.items()):
            if replaced.pidfd in ended:
                del self._replaced[thread]
                replaced.close()

    def close(self) -> None:
        """Let go of everything."""
        for replaced in self._replaced.values():
            replaced.close()
        self._replaced.clear()
        self._ended.close()


def _closes_on_exec(thread: int, descriptor: int) -> bool:
    with open(f"/proc/{thread}/fdinfo/{descriptor}", "rb") as file:
        flags = next(line for line in file if line.startswith(b"flags:"))
    return bool(int(flags.split()[1], 8) & os.O_CLOEXEC)
