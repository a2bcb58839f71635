# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the control sockets are: a folder for each user, in it one socket for each supervisor, named by its process id.

The folder is `kdbus-UID`, with mode 0700, in the first of these that takes it: XDG_RUNTIME_DIR, /run/user/UID, /run
(root's), TMPDIR, /tmp. Who looks for sockets looks into all of them, as the environment of who watches need not be that
of who is watched. So no argument is needed where one kdbus runs. KDBUS_RUNTIME_DIR, where it is set, stands for all.

*Who may.* The folder is closed to all but its owner and root, and so is each socket (mode 0600); that is the kernel's
doing, and it holds in user namespaces too. Besides, the supervisor asks who has connected (`may_watch`).

*No traps for who looks.* Others may make folders of that name in /tmp before the user does. So a folder counts only if
it is no link, is that user's and is closed to others; it is then used through a descriptor, never again by name. Root
may watch everybody's: a socket counts only if it is one, and no link to another.

The socket is gone at the end, and the folder with the last of them. What is left when a supervisor is killed is removed
by whoever looks next: nobody listens there.

Alternatives: abstract names (unix(7)) have no permissions; a path that is told by an environment variable would be
known to the program and its children, but not to who watches.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_MODE = 0o700
_ATTEMPTS = 8
"""How often a folder is made again that somebody else has just found empty and removed."""
_BACKLOG = 8


def candidates(user: int) -> list[str]:
    """The folders in which a user's folder may be."""
    only = os.environ.get("KDBUS_RUNTIME_DIR")
    if only:
        return [os.path.abspath(only)]
    own = f"/run/user/{user}"
    named = [os.environ.get("XDG_RUNTIME_DIR"), own, "/run" if user == 0 else None, os.environ.get("TMPDIR"), "/tmp"]
    return list(dict.fromkeys(folder for folder in named if folder and os.path.isabs(folder)))


class Place:
    """A socket that listens where `kdbus list` looks for it."""

    def __init__(self, folder: int, parent: str, name: str, listening: socket.socket) -> None:
        self._folder = folder
        self._parent = parent
        self._name = name
        self.listening = listening

    def close(self) -> None:
        """Listen no longer, and leave nothing behind."""
        self.listening.close()
        with suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder)
        os.close(self._folder)
        with suppress(OSError):
            os.rmdir(self._parent)  # fails while others are in it


def make() -> Place | None:
    """Listen for those who want to watch this process; None where there is no place for that."""
    user = os.geteuid()
    for parent in candidates(user):
        path = os.path.join(parent, f"kdbus-{user}")
        for _ in range(_ATTEMPTS):
            try:
                return _make(path, user)
            except FileNotFoundError:
                continue
            except OSError:
                break
    return None


def _make(path: str, user: int) -> Place:
    """Raises OSError, FileNotFoundError if somebody has removed the folder meanwhile."""
    with suppress(FileExistsError):
        os.mkdir(path, _MODE)
    folder = open_folder(path, user)
    name = str(os.getpid())
    prepared = f".{name}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with suppress(FileNotFoundError):
            os.unlink(prepared, dir_fd=folder)
        # Through the descriptor the name is short enough for a socket's, whatever the folder's is (unix(7)).
        own = f"/proc/self/fd/{folder}/{prepared}"
        listening.bind(own)
        os.chmod(own, 0o600)
        listening.listen(_BACKLOG)
        try:
            with suppress(ConnectionRefusedError, FileNotFoundError):
                connect(folder, os.getpid()).close()  # removes that of a process which had our number before
            # Unlike rename(2), never replaces that of another pid namespace's process.
            os.link(prepared, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.unlink(prepared, dir_fd=folder)
    except BaseException:
        listening.close()
        os.close(folder)
        raise
    return Place(folder, path, name, listening)


def open_folder(path: str, user: int) -> int:
    """A descriptor of the folder (O_PATH). Raises PermissionError if it is not the user's alone, and OSError."""
    folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(folder)
    if status.st_uid != user or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(folder)
        raise PermissionError(f"{path} is not uid {user}'s alone")
    return folder


@contextmanager
def folders(user: int) -> Iterator[list[int]]:
    """Descriptors of all folders of a user in which there may be sockets."""
    found: list[int] = []
    try:
        for parent in candidates(user):
            with suppress(OSError):
                found.append(open_folder(os.path.join(parent, f"kdbus-{user}"), user))
        yield found
    finally:
        for folder in found:
            os.close(folder)


def processes(folder: int) -> list[int]:
    """The supervisors whose sockets are in a folder, by process id."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return sorted(int(name) for name in os.listdir(readable) if name.isascii() and name.isdigit())
    finally:
        os.close(readable)


def connect(folder: int, process: int) -> socket.socket:
    """A connection to the supervisor. One that is gone leaves no socket. Raises OSError."""
    name = str(process)
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise FileNotFoundError(f"{name} is no socket")
        connection.connect(f"/proc/self/fd/{place}")
    except BaseException as error:
        connection.close()
        if isinstance(error, ConnectionRefusedError):
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(place)
    return connection


def may_watch(user: int) -> bool:
    """Whether uid `user`, as this process sees it, may watch this process: who it runs as, and root.

    In a user namespace of its own, root is one of those who show as the overflow user. There, only the modes of folder
    and socket tell them apart.
    """
    if user in (os.geteuid(), 0):
        return True
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    if (0, 0, 0xFFFFFFFF) in ranges:
        return False
    with open("/proc/sys/kernel/overflowuid") as file:
        return user == int(file.read())
