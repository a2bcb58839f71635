# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells when files in some folders come, go or are written anew.

By inotify(7), with the events that dbus-daemon 1.14 waits for: a file counts when its writer has closed it, or when it
is moved to its place, so that half of one is never read. Not noticed: what changes behind a symbolic link, and what
happens in folders of another machine. A folder that is removed and made again is watched from the next `watch` on.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import Final

import trio

_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _DELETE = 0x8, 0x40, 0x80, 0x200
_EVENTS: Final = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE
_ONLY_FOLDERS: Final = 0x01000000
"""IN_ONLYDIR."""
_READ: Final = 64 << 10


class FolderWatch:
    """An inotify descriptor. To be closed."""

    def __init__(self) -> None:
        """Raises OSError: there can be no more of them."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._checked(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def watch(self, folders: Iterable[str]) -> list[OSError]:
        """Watch these folders, those that are watched already included; why that cannot be, for each such one."""
        failures = []
        for folder in folders:
            try:
                path = os.fsencode(folder)
                self._checked(self._libc.inotify_add_watch(self._descriptor, path, _EVENTS | _ONLY_FOLDERS), folder)
            except OSError as error:
                failures.append(error)
        return failures

    async def changed(self) -> None:
        """Wait until something has happened, and forget all that has happened by then."""
        await trio.lowlevel.wait_readable(self._descriptor)
        try:
            while os.read(self._descriptor, _READ):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Once."""
        os.close(self._descriptor)

    @staticmethod
    def _checked(result: int, path: str | None = None) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return result
