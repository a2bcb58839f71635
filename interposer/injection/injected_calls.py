# SPDX-License-Identifier: GPL-2.0-or-later
"""What a caller is made to do itself in path mode (`interposer.traps.path_mode`), by
`interposer.injection.injection.inject`.

The supervisor has opened the file and gives the caller a descriptor of it for the moment. chdir becomes fchdir. Where a
call has no variant that takes a descriptor, it gets the descriptor's name below /proc/self/fd instead, which is a
symbolic link, so flags that forbid to follow links are taken away: the lookup has obeyed them already.
"""

from __future__ import annotations

import ctypes
import os

from interposer.injection.injection import Arguments, InjectedCall
from interposer.injection.registers import RegisterLayout
from interposer.nodes.resolve import AT_FDCWD

IN_DONT_FOLLOW = 0x02000000


def change_folder(layout: RegisterLayout, installed: int, _text: int) -> tuple[int, Arguments]:
    """fchdir(installed)."""
    return layout.fchdir, (installed, 0, 0, 0, 0, 0)


def open_path(flags: int) -> InjectedCall:
    """open(text, O_PATH), with the flags that count then; the text is a link, and has to be followed."""

    def call(layout: RegisterLayout, _installed: int, text: int) -> tuple[int, Arguments]:
        return layout.openat, (AT_FDCWD, text, flags & (os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY), 0, 0, 0)

    return call


def add_watch(inotify: int, mask: int) -> InjectedCall:
    """inotify_add_watch(inotify, text, mask); the text is a link, and has to be followed."""

    def call(layout: RegisterLayout, _installed: int, text: int) -> tuple[int, Arguments]:
        return layout.inotify_add_watch, (inotify, text, mask & ~IN_DONT_FOLLOW, 0, 0, 0)

    return call


def add_watch_here(inotify: int, descriptor: int, mask: int) -> int:
    """The same in this process, on a duplicate of the caller's descriptor; the watch, or -errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = b"/proc/self/fd/%d" % descriptor
    number: int = libc.inotify_add_watch(inotify, path, ctypes.c_uint32(mask & 0xFFFFFFFF & ~IN_DONT_FOLLOW))
    return -ctypes.get_errno() if number < 0 else number
