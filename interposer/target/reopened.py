# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors of targets where pidfd_getfd(2) is forbidden: opened anew, where that is the same.

`/proc/TID/fd/N` opens what the descriptor is open on once more. For memfds and folders nobody sees a difference; for
regular files the offset is copied, but not shared; a pipe is the same pipe. The access mode is the one that the target
has already, and status flags are taken over, so it gains nothing.

Everything else is refused: sockets and most anonymous files (eventfd, epoll, ...) cannot be opened in this way, and
opening a device may do something to it. The memory devices (null, zero, random, ...) are an exception, as they
do nothing.
"""

from __future__ import annotations

import errno
import os
import stat

from broker.errors import BadDescriptor, DescriptorNotPassable
from interposer.target.ids import ThreadFolder, lines_of

_MEMORY_DEVICES = 1
"""Their major number, Documentation/admin-guide/devices.txt."""
_NOT_FOR_OPEN = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY


def reopen(folder: ThreadFolder, descriptor: int) -> int:
    """A new descriptor (close-on-exec) of what `descriptor` of the thread is open on.

    Raises BadDescriptor if there is none, DescriptorNotPassable (EOPNOTSUPP) for a kind of file that cannot be opened
    anew, or not by the supervisor; ProcessLookupError if the thread is gone; OSError (EMFILE, ENFILE).
    """
    name = b"fd/%d" % descriptor
    try:
        path = folder.open(name, os.O_PATH)
    except FileNotFoundError:
        raise BadDescriptor from None
    try:
        if not _can_be_reopened(os.fstat(path)):
            raise DescriptorNotPassable
    finally:
        os.close(path)
    information = lines_of(folder.read(b"fdinfo/%d" % descriptor))
    fields = dict(line.split(b":", 1) for line in information if b":" in line)
    flags = int(fields[b"flags"], 8) & ~_NOT_FOR_OPEN
    try:
        found = folder.open(name, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ESRCH):
            raise
        raise DescriptorNotPassable from error
    try:
        if not flags & os.O_PATH:
            os.set_blocking(found, not flags & os.O_NONBLOCK)
            if int(fields[b"pos"]):
                os.lseek(found, int(fields[b"pos"]), os.SEEK_SET)
    except BaseException:
        os.close(found)
        raise
    return found


def _can_be_reopened(status: os.stat_result) -> bool:
    if stat.S_ISCHR(status.st_mode):
        return os.major(status.st_rdev) == _MEMORY_DEVICES
    return stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISFIFO(status.st_mode)
