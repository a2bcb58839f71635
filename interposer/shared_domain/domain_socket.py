# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kdbus serve` and `kdbus run --domain` say to each other.

One connection of type SOCK_SEQPACKET (unix(7)) for each program that joins. It carries a handful of messages, whose
first byte is their kind; what matters in them are the descriptors:

    W version mounts         server: welcome; with one mount of the kdbusfs and one of the module's folder if the server
                             shares them, otherwise the program makes its own
    J flags                  client: join; with the seccomp listener (K: waits are killable only), a pidfd of the
                             program, its user namespace if one was made for it (U), and the folder of its kdbusfs if it
                             made that (F); in path mode (P) the server has the folder
    A                        server: accepted, the program may be executed
    E error                  server: refused, and why (`interposer.errors.pack`)
    B                        server: it ends; with the listener, whose calls are the client's from now on

After A the connection says by its mere existence that the other side lives. Nothing that a client says about itself is
believed: who it is comes with the connection (SO_PEERCRED), who makes a call is asked of the kernel at each call, and
descriptors are looked at before they are used (`kind_of`).

Alternative considered: passing the listener's number, and fetching everything with pidfd_getfd(2). That takes the right
to inspect the launcher, which a server need not have.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from interposer.errors import DomainUnavailable

VERSION = 3
LONGEST_MESSAGE = 65536
MOST_DESCRIPTORS = 8
LONGEST_PATH = 107
"""Bytes of `sun_path`, without its terminating zero."""
_LOOK_AGAIN_S = 0.02
"""How often `connect` looks whether a server has come up."""

WELCOME, JOIN, ACCEPTED, REFUSED, BYE = b"W", b"J", b"A", b"E", b"B"
KILLABLE, USER_NAMESPACE, FOLDER, PATH_MODE = b"K", b"U", b"F", b"P"
FAULTS = b"\0"
"""What stands between those flags and what is to be injected, and between the parts of that."""

_CREDENTIALS = struct.Struct("=3i")


@dataclass(slots=True)
class Message:
    """One message; its descriptors are the receiver's to close."""

    kind: bytes
    text: bytes
    descriptors: list[int]

    def take(self) -> int:
        """The next descriptor, which is the caller's from now on. Raises ValueError if there is none left."""
        if not self.descriptors:
            raise ValueError("a descriptor is missing")
        return self.descriptors.pop(0)

    def close(self) -> None:
        """Close what has not been taken."""
        while self.descriptors:
            os.close(self.descriptors.pop())


@dataclass(frozen=True, slots=True)
class Peer:
    """Who has connected, as the kernel says: ids in this process's namespaces."""

    process: int
    user: int
    group: int


def send(connection: socket.socket, kind: bytes, text: bytes = b"", descriptors: Sequence[int] = ()) -> None:
    """Send a message; the descriptors stay the caller's. Raises OSError, BlockingIOError if nobody reads."""
    socket.send_fds(connection, [kind + text], list(descriptors), socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> Message | None:
    """The next message, None at the end. Raises OSError."""
    data, descriptors, _, _ = socket.recv_fds(connection, LONGEST_MESSAGE, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    message = Message(data[:1], data[1:], list(descriptors))
    if not data:
        message.close()
        return None
    return message


def peer_of(connection: socket.socket) -> Peer:
    """Who is on the other side, or was when it connected."""
    return Peer(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def kind_of(descriptor: int) -> str:
    """What a descriptor is, in the kernel's words: `anon_inode:seccomp notify`, `anon_inode:[pidfd]`, `user:[...]`,
    a path."""
    return os.readlink(f"/proc/self/fd/{descriptor}")


def connect(path: str, wait_s: float = 0) -> socket.socket:
    """A connection to the server of `path`, which may come up within `wait_s` seconds. Raises DomainUnavailable."""
    attempted = f"joining the domain at {path}"
    _check_length(attempted, path)
    stop = time.monotonic() + wait_s
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) and time.monotonic() < stop:
                # Folders of the path may not exist yet, so there is nothing to watch.
                time.sleep(_LOOK_AGAIN_S)
                continue
            advice = f"start a server: kdbus serve --socket {path}"
            if isinstance(error, PermissionError):
                advice = "the owner of the socket decides who may join; `ls -l` shows its permissions"
            raise DomainUnavailable(attempted, os.strerror(error.errno or 0), advice) from error
        return connection


def listen(path: str, mode: int, kind: int = socket.SOCK_SEQPACKET) -> socket.socket:
    """Listen at `path`, with permissions `mode`, with a socket of that kind. One there at which nobody listens any more
    is replaced.

    The socket appears under its name when connecting to it works, never before. Raises DomainUnavailable.
    """
    attempted = f"listening at {path}"
    prepared = f"{path}.{os.getpid()}"
    _check_length(attempted, prepared)
    _remove_stale(attempted, path, kind)
    listening = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    bound = False
    try:
        listening.bind(prepared)
        bound = True
        os.chmod(prepared, mode)
        listening.listen(128)
        # Unlike rename(2), link(2) never replaces the socket of a server that was quicker.
        os.link(prepared, path)
    except OSError as error:
        listening.close()
        raise _cannot_listen(attempted, path, error) from error
    finally:
        if bound:
            os.unlink(prepared)
    return listening


def _cannot_listen(attempted: str, path: str, error: OSError) -> DomainUnavailable:
    """The error for a socket that cannot be made at `path`."""
    folder = os.path.dirname(path) or "."
    if error.errno == errno.ENOENT:
        return DomainUnavailable(attempted, f"there is no folder {folder}", "make it, or choose another place")
    if error.errno == errno.ENOTDIR:
        return DomainUnavailable(attempted, f"{folder} is no folder", "choose another place")
    reason = f"in {folder}: {os.strerror(error.errno or 0)}"
    return DomainUnavailable(attempted, reason, "choose a place where you may make files")


def _remove_stale(attempted: str, path: str, kind: int) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise DomainUnavailable(
                attempted, "there is a file of that name, and it is no socket", "choose another name"
            )
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise _cannot_listen(attempted, path, error) from error
    else:
        raise DomainUnavailable(attempted, "somebody listens there already", "join that domain, or choose another name")


def _check_length(attempted: str, path: str) -> None:
    if not 0 < len(os.fsencode(path)) <= LONGEST_PATH:
        raise DomainUnavailable(
            attempted, f"the name of a socket has 1 to {LONGEST_PATH} bytes", "use a shorter path, or a relative one"
        )
