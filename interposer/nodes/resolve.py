# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a path of a target leads: resolved as the target would, without opening anything.

A trapped open names a path in the target's memory, relative to the target's root, working folder or one of its
descriptors, possibly through symbolic links, in another mount namespace. openat2(2) does nearly all of that: a path
that begins at the root is resolved with RESOLVE_IN_ROOT below /proc/TID/root. A relative path starts elsewhere than
at the root that its absolute links refer to, which openat2 cannot express; such links are followed here, one by one.

The result is an O_PATH descriptor, which has no effect on what it stands for, be it a device or a named pipe.

Nothing that cannot be resolved is an error here: the kernel is then left to do the open, and to say what is wrong
with it. So magic links of /proc, which mean the reader's own files, need not be understood either.

Weakness: `..` in a relative path may climb above the target's root if that is not the root of its mount namespace.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Self

from native.namespace import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    find,
    known_status,
    read_link,
)

AT_FDCWD = -100
PATH_LIMIT = 4096
"""How many bytes a path has at most, its zero included (PATH_MAX)."""
_LONGEST_CHAIN = 40
"""How many symbolic links the kernel follows in one path (path_resolution(7))."""


class StartingPoints:
    """Where the paths of a thread begin: its root, and what a relative path starts from, as O_PATH descriptors.

    Each is opened when it is needed for the first time, as most paths need one of the two, and looking a process up in
    /proc is a good part of what an open costs that leads elsewhere. Both are closed at the end of a `with` block.

    They are opened with the rights that the supervisor has at that moment, mostly its own; the path is resolved with
    the target's. Should the second lookup of a path need one that the first did not, since a link was exchanged in
    between, then that may be forbidden; the kernel is left to do the open, as it is wherever a lookup fails.
    """

    __slots__ = ("_base", "_folder", "_root", "_start")

    def __init__(self, thread: int, directory: int) -> None:
        """`directory`: a descriptor of the thread, or AT_FDCWD."""
        self._folder = f"/proc/{thread}"
        self._start = "cwd" if directory == AT_FDCWD else f"fd/{directory}"
        self._root = -1
        self._base = -1

    @property
    def root(self) -> int:
        """What an absolute path or link starts from. Raises OSError."""
        if self._root < 0:
            self._root = os.open(f"{self._folder}/root", os.O_PATH | os.O_CLOEXEC)
        return self._root

    @property
    def base(self) -> int:
        """What a relative path starts from. Raises OSError."""
        if self._base < 0:
            self._base = os.open(f"{self._folder}/{self._start}", os.O_PATH | os.O_CLOEXEC)
        return self._base

    def opened(self) -> Self:
        """Itself, with both opened now, for who is about to lose the rights or the /proc for that. Raises OSError."""
        self._root, self._base = self.root, self.base
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what has been opened."""
        for descriptor in (self._root, self._base):
            if descriptor >= 0:
                os.close(descriptor)
        self._root = self._base = -1


def resolve(start: StartingPoints, path: bytes, *, follow: bool = True) -> int:
    """An O_PATH descriptor of what `path` leads to, to be closed by the caller. Raises OSError if it leads nowhere,
    Stalled if that takes too long.

    `follow`: whether to follow a link that the path ends with; if not, the descriptor is of the link.
    """
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    if path.startswith(b"/"):
        return _in_root(start.root, path, flags)
    return _relative(start, path, flags)


def _in_root(root: int, path: bytes, flags: int) -> int:
    return find(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def _relative(start: StartingPoints, path: bytes, flags: int) -> int:
    """Without links in one step, otherwise component by component."""
    try:
        return find(start.base, path, flags, RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if not path or error.errno != errno.ELOOP:
            raise
    current = os.dup(start.base)
    try:
        links = 0
        components = path.split(b"/")
        while components:
            name = components.pop(0)
            if not name:
                continue
            found = find(current, name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            is_wanted = not components and flags & os.O_NOFOLLOW
            if stat.S_ISLNK(known_status(found).st_mode) and not is_wanted:
                try:
                    link = read_link(found, b"")
                finally:
                    os.close(found)
                links += 1
                if links > _LONGEST_CHAIN:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if link.startswith(b"/"):
                    return _in_root(start.root, b"/".join((link, *components)), flags)
                components[:0] = link.split(b"/")
                continue
            os.close(current)
            current = found
        result, current = current, -1
        return result
    finally:
        if current >= 0:
            os.close(current)
