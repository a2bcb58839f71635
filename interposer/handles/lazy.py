# SPDX-License-Identifier: GPL-2.0-or-later
"""Handles that are made lazily: nodes that were opened in a way that is not trapped.

A program may open a node read-only, or with O_CREAT, or be given a descriptor from outside. It then holds the plain
file, which is replaced by a handle when it is first used as one. By then it may have duplicates, in this process and in
others; and they are one open file, so they must become one handle.

Whether two descriptors are the same open file is asked without any further system call being allowed: they share one
file offset, which means nothing to a node. The supervisor keeps a duplicate of each plain file that it has replaced
(`OpenHandle.plain`), moves that offset to a random place, and looks where the offset of the other is
(`/proc/TID/fdinfo/N`).

Duplicates in a process of one thread are replaced together with the first. All others are recognised at their own first
use, while the handle is still open somewhere.

Weaknesses: until then poll(2) sees a plain file on them, and they do not keep the handle open; one that is used after
the handle has ended becomes a new handle. The duplicate keeps a mount of kdbusfs busy for umount(2).
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from interposer.handles.handles import HandleTable, OpenHandle
from interposer.target.budget import OverBudget
from interposer.target.ids import lines_of
from interposer.target.inspection import tell_forbidden
from interposer.target.process import open_thread
from native.deputies import close_file
from native.identity import can_fetch, pidfd_getfd, socket_cookie
from native.namespace import AT_FDCWD, known_status
from native.notification import Listener, Notification

_OFFSETS = 1 << 62
_MOST_DUPLICATES = 1024
"""Among how many descriptors of a process duplicates are looked for at once."""


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A descriptor of a target that is open on the plain file of a node."""

    thread: int
    descriptor: int
    device: int
    inode: int
    flags: int
    """O_* of the open, O_CLOEXEC of the descriptor among them."""

    @classmethod
    def at(cls, thread: int, descriptor: int) -> PlainFile:
        """What that descriptor is open on. Raises OSError."""
        status = known_status(AT_FDCWD, f"/proc/{thread}/fd/{descriptor}")
        return cls(thread, descriptor, status.st_dev, status.st_ino, _information(thread, descriptor)[b"flags"])

    @property
    def is_path(self) -> bool:
        """Whether it was opened with O_PATH, and can never be used."""
        return bool(self.flags & os.O_PATH)

    @property
    def close_on_exec(self) -> bool:
        """Whether the descriptor closes on exec."""
        return bool(self.flags & os.O_CLOEXEC)

    def duplicate(self) -> int:
        """A duplicate in this process. Raises OSError, also if the number stands for another file meanwhile, or in the
        process (see `open_thread`)."""
        copy = _fetch(self.thread, self.descriptor)
        status = known_status(copy)
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            close_file(copy)
            raise OSError(errno.EBADF, f"descriptor {self.descriptor} of thread {self.thread} is another file by now")
        return copy

    def is_same_as(self, plain: int) -> bool:
        """Whether it is the open file of which `plain` is a descriptor of ours. Raises OSError."""
        offset = random.randrange(1, _OFFSETS)
        os.lseek(plain, offset, os.SEEK_SET)
        return _information(self.thread, self.descriptor)[b"pos"] == offset


class LazyHandles:
    """Makes the handles of plain files."""

    def __init__(self, listener: Listener, handles: HandleTable) -> None:
        self._listener = listener
        self._handles = handles

    def handle(
        self, notification: Notification, descriptor: int, install: Callable[[int], object]
    ) -> OpenHandle | None:
        """The handle for a plain file of a node, which is put in its place; None if it is none that can be used.

        `install(flags)` makes a new handle at `descriptor`, and may raise what it likes.
        """
        thread = notification.pid
        try:
            file = PlainFile.at(thread, descriptor)
            if file.is_path:
                return None
            # Without a duplicate, others are not recognised as such: each becomes a handle of its own.
            plain = file.duplicate() if can_fetch() else -1
        except PermissionError:
            tell_forbidden(thread)
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return None
        try:
            if not self._join(notification, file):
                install(file.flags)
                made = self._handles.find(thread, descriptor)
                if made is None:
                    return None
                if plain < 0:
                    return made
                with suppress(OverBudget):
                    made.charge.add(1)
                    made.plain, plain = plain, -1
                with suppress(OSError):
                    for other in _duplicates(file, made.plain):
                        self._replace(notification, other, made)
        finally:
            if plain >= 0:
                os.close(plain)
        return self._handles.find(thread, descriptor)

    def _join(self, notification: Notification, file: PlainFile) -> bool:
        """Put the handle in the place of `file` that was made from another duplicate of it, if there is one."""
        with suppress(OSError):
            for handle in self._handles.made_lazily():
                status = os.fstat(handle.plain)
                if (status.st_dev, status.st_ino) == (file.device, file.inode) and file.is_same_as(handle.plain):
                    return self._replace(notification, file, handle)
        return False

    def _replace(self, notification: Notification, file: PlainFile, handle: OpenHandle) -> bool:
        """Put a duplicate of the target's end of `handle` in the place of `file`. Raises OSError."""
        end = fetch_end(handle)
        if end is None:
            return False
        try:
            self._listener.add_descriptor(notification.id, end, close_on_exec=file.close_on_exec, at=file.descriptor)
        finally:
            os.close(end)
        return True


def fetch_end(handle: OpenHandle) -> int | None:
    """A duplicate of the target's end, from where the handle was used last; None if it is not there any more."""
    try:
        found = _fetch(*handle.location)
    except OSError:
        return None
    try:
        if socket_cookie(found) == handle.cookie:
            return found
    except OSError:
        pass
    close_file(found)
    return None


def _duplicates(file: PlainFile, plain: int) -> Iterator[PlainFile]:
    """The other descriptors, in a process of one thread, that are the open file `plain`. Raises OSError."""
    if len(os.listdir(f"/proc/{file.thread}/task")) != 1:
        # Another thread could give the number to another file at any moment.
        return
    with os.scandir(f"/proc/{file.thread}/fd") as entries:
        for entry in islice(entries, _MOST_DUPLICATES):
            other = PlainFile.at(file.thread, int(entry.name))
            same_node = (other.device, other.inode) == (file.device, file.inode)
            if same_node and other.descriptor != file.descriptor and not other.is_path and other.is_same_as(plain):
                yield other


def _fetch(thread: int, descriptor: int) -> int:
    pidfd = open_thread(thread)
    try:
        return pidfd_getfd(pidfd, descriptor)
    finally:
        os.close(pidfd)


def _information(thread: int, descriptor: int) -> dict[bytes, int]:
    """Offset (`pos`) and flags of an open descriptor (proc(5), fdinfo). Raises OSError."""
    with open(f"/proc/{thread}/fdinfo/{descriptor}", "rb") as file:
        fields = dict(line.split(b":", 1) for line in lines_of(file.read()) if b":" in line)
    return {b"pos": int(fields[b"pos"]), b"flags": int(fields[b"flags"], 8)}
