# SPDX-License-Identifier: GPL-2.0-or-later
"""Connecting to a socket as another user, which root may.

Whoever listens is told by the kernel who called connect(2) (SO_PEERCRED, SO_PEERGROUPS in unix(7)). Linux keeps user
and groups for each thread, and only libc makes all threads of a process change theirs together. So a thread of its own
calls the kernel directly, connects, and ends; it is never root again, and no other thread is ever anybody else. The
process number that is told is this process's: it cannot be another's.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SETGROUPS_SETRESGID_SETRESUID: Final = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}
"""Numbers of the system calls, by machine."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user with groups; `groups` are those beside `group`."""

    user: int
    group: int
    groups: Sequence[int] = ()


def may_be_others() -> bool:
    """Whether `connect_as` can work here."""
    return os.geteuid() == 0 and platform.machine() in _SETGROUPS_SETRESGID_SETRESUID


def connect_as(identity: Identity, connection: socket.socket, path: str | bytes) -> None:
    """Connect a socket as somebody; blocks. Raises OSError."""
    failures: list[OSError] = []

    def connect() -> None:
        try:
            _become(identity)
            connection.connect(path)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _become(identity: Identity) -> None:
    """Change who this thread is, for good. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    setgroups, setresgid, setresuid = _SETGROUPS_SETRESGID_SETRESUID[platform.machine()]
    groups = (ctypes.c_uint32 * len(identity.groups))(*identity.groups)
    user, group = ctypes.c_uint32(identity.user), ctypes.c_uint32(identity.group)
    for call in (
        (setgroups, ctypes.c_size_t(len(groups)), groups),
        (setresgid, group, group, group),
        (setresuid, user, user, user),
    ):
        if libc.syscall(*call) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
