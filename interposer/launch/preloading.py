# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a program with the library that spares it traps (`native/preload/preload.h`), by LD_PRELOAD.

It comes last in LD_PRELOAD: libraries that the program's user has put there have wrappers of the same functions, which
call the next ones, and this one calls nobody. Children inherit the variable; those that get another environment, static
programs and such as change their user by a set-user-ID bit, whose loader ignores it, go on trapped.

The loader complains of a library that it cannot open. It asks for it by a trapped call, so the supervisor can answer
wherever the kernel could not: in a chroot, for another user, for programs of 32 bits (`interposer.traps.preloaded`).

Alternative: a file of the system, /etc/ld.so.preload, which is everybody's. Weakness: a path with a blank, a colon or a
dollar sign cannot stand in LD_PRELOAD (ld.so(8)); programs below such a path are not spared.
"""

from __future__ import annotations

import os

from native.preloaded import library

_VARIABLE = b"LD_PRELOAD"
_SEPARATORS = frozenset(" :$\n")


def preloadable() -> str | None:
    """The library's path; None where there is none for this machine, or it lies where it cannot be named."""
    path = library()
    return None if path is None or _SEPARATORS & set(path) else path


def preload_also(path: str) -> None:
    """Programs that this process executes from now on are started with the library at `path`, too."""
    given = os.environb.get(_VARIABLE, b"")
    name = os.fsencode(path)
    if name not in given.replace(b" ", b":").split(b":"):
        os.environb[_VARIABLE] = given + b":" + name if given else name
