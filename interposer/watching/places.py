# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the control sockets are: nowhere but in /proc.

A supervisor gives its socket a name for a moment, keeps a descriptor of that file (O_PATH), and removes the name before
it listens. Whoever watches finds that descriptor in /proc/PID/fd, by what it leads to, and connects through it: for
connect(2) it is as good as a name. So nothing is left behind, however the supervisor ends; one that runs is found
whatever its environment, folder or mount namespace is; and no argument is needed where one kdbus runs.

*Who may.* To follow a descriptor of another process, one must be allowed to inspect it (proc(5), ptrace(2)): its user,
and root. The file has mode 0600, besides, and the supervisor asks who has connected (`may_watch`).

*No traps for who looks.* A descriptor is believed to be a supervisor's only if the process that listens is the one in
whose folder of /proc it was found, which the kernel tells (SO_PEERCRED); nothing is said before.

Where KDBUS_RUNTIME_DIR is set, the name is made there, and only supervisors are found that were started with the same
value: for whoever wants to be by himself, such as a test.

Alternatives: names that stay do not go with a supervisor that is killed; abstract names (unix(7)) do, but have no
permissions, and in a user namespace SO_PEERCRED cannot tell root from others; a helper that tidies up is one process
more for each `kdbus run`.

Weakness: to find supervisors, descriptors of all processes of the interpreter that may be inspected are looked at.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress

_NAME = ".kdbus-control-"
_FOUND = rf"(/.*)/{_NAME.replace('.', '[.]')}[0-9a-f]{{16}} \(deleted\)"
"""What its descriptor leads to. Not compiled here, as only who watches needs it."""
_BACKLOG = 8
_CREDENTIALS = struct.Struct("=3i")


def candidates() -> list[str]:
    """The folders in which the name may be made."""
    only = os.environ.get("KDBUS_RUNTIME_DIR")
    if only:
        return [os.path.realpath(only)]
    named = [os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm", os.environ.get("TMPDIR"), "/tmp"]
    return list(dict.fromkeys(folder for folder in named if folder and os.path.isabs(folder)))


class Place:
    """A socket that listens where `kdbus list` looks for it."""

    def __init__(self, file: int, listening: socket.socket) -> None:
        self._file = file
        self.listening = listening

    def close(self) -> None:
        """Listen no longer."""
        self.listening.close()
        os.close(self._file)


def make() -> Place | None:
    """Listen for those who want to watch this process; None where there is no place for that."""
    for folder in candidates():
        with suppress(OSError):
            return _make(folder)
    return None


def _make(path: str) -> Place:
    """Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = _NAME + os.urandom(8).hex()
            before = os.umask(0o177)
            try:
                # Through the descriptor the name is short enough for a socket's, whatever the folder's is (unix(7)).
                listening.bind(f"/proc/self/fd/{folder}/{name}")
            finally:
                os.umask(before)
            try:
                file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            finally:
                os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return Place(file, listening)


def processes() -> Iterator[int]:
    """The supervisors that may be watched, by process id."""
    for name in os.listdir("/proc"):
        if name.isdigit() and os.path.basename(_link(f"/proc/{name}/exe")).startswith("python"):
            with suppress(OSError):
                descriptor_of(int(name))
                yield int(name)


def descriptor_of(process: int) -> str:
    """The path of a supervisor's descriptor. Raises FileNotFoundError if it has none, and OSError."""
    only = os.environ.get("KDBUS_RUNTIME_DIR")
    folder = f"/proc/{process}/fd"
    for name in os.listdir(folder):
        found = re.fullmatch(_FOUND, _link(f"{folder}/{name}"))
        if found and (not only or found[1] == os.path.realpath(only)):
            return f"{folder}/{name}"
    raise FileNotFoundError(errno.ENOENT, f"process {process} is no supervisor")


def _link(path: str) -> str:
    """What a link in /proc leads to; empty if that may not be known."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def connect(process: int) -> socket.socket:
    """A connection to the supervisor `process`. Raises OSError."""
    path = descriptor_of(process)
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise FileNotFoundError(errno.ENOENT, f"{path} is no socket")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(packed)[0] != process:
            raise PermissionError(errno.EPERM, f"another process than {process} listens at {path}")
    except BaseException:
        connection.close()
        raise
    return connection


def may_watch(user: int) -> bool:
    """Whether uid `user`, as this process sees it, may watch this process: who it runs as, and root.

    In a user namespace of its own, root is one of those who show as the overflow user. There, only the kernel's
    permissions tell them apart.
    """
    if user in (os.geteuid(), 0):
        return True
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    if (0, 0, 0xFFFFFFFF) in ranges:
        return False
    with open("/proc/sys/kernel/overflowuid") as file:
        return user == int(file.read())
