# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in for an open kdbus node: two ends, one for the target and one for the supervisor.

Whatever it is, the supervisor must be able to make the target's end readable and unreadable again, to hang it up, and
to notice that its last duplicate is closed; so it may not hold the target's end itself. Two things can do that:

*A socket pair* has all poll states of a kdbus handle. What waits at the target's end can only be taken back through
that end, of which pidfd_getfd(2) fetches a duplicate for a moment.

*A pipe*, where pidfd_getfd(2) is forbidden (Docker's default profile without CAP_SYS_PTRACE). The target has the end
for reading. A pipe can be opened anew from any of its ends (`/proc/self/fd/N`), so the supervisor takes a byte back
without touching the target. All readers closed is POLLERR at the end for writing.

Alternatives to the pipe: a pseudo-terminal has all the poll states, but there are only 4096 on a machine, for all;
a datagram socket that the target is made to read from, with ptrace, costs 0.2 ms for each emptied queue, and leaves a
program under strace with a handle that is always readable; sending a fresh end to the target replaces one descriptor,
and not its duplicates.

Weaknesses of the pipe: no POLLOUT; the end of the connection is POLLHUP without POLLERR; F_GETFL says O_RDONLY.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Protocol

from native import identity


class SupervisorsEnd(Protocol):
    """What the supervisor keeps."""

    def fileno(self) -> int:
        """A descriptor that polls POLLHUP or POLLERR when the last duplicate of the target's end is closed."""
        ...

    def make_readable(self) -> bool:
        """Let a byte wait at the target's end; False if it is closed."""
        ...

    def make_unreadable(self, thread: int, descriptor: int) -> bool:
        """Take it back. `descriptor` of `thread` is a duplicate of the target's end.

        False if it is not any more. Raises OSError.
        """
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class TargetsEnd:
    """The descriptor that the target is to be given a duplicate of; `close` it then."""

    def __init__(self, descriptor: int, cookie: int) -> None:
        """`cookie`: the socket's, 0 for what is none."""
        self._descriptor = descriptor
        self.cookie = cookie

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


class SocketEnd:
    """The supervisor's end of a socket pair."""

    def __init__(self, ours: socket.socket, cookie: int) -> None:
        self._ours = ours
        self._cookie = cookie

    def fileno(self) -> int:
        return self._ours.fileno()

    def make_readable(self) -> bool:
        try:
            self._ours.send(b"m")
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def make_unreadable(self, thread: int, descriptor: int) -> bool:
        return identity.drain(thread, descriptor, self._cookie)

    def close(self) -> None:
        self._ours.close()


class PipeEnd:
    """The supervisor's end of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def make_readable(self) -> bool:
        try:
            os.write(self._descriptor, b"m")
        except (BlockingIOError, BrokenPipeError):
            return False
        return True

    def make_unreadable(self, thread: int, descriptor: int) -> bool:
        reader = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            with suppress(BlockingIOError):
                os.read(reader, 4096)
        finally:
            os.close(reader)
        return True

    def close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def make_socket_pair(*, nonblocking: bool) -> tuple[SupervisorsEnd, TargetsEnd]:
    """A pair of sockets. `nonblocking` is what the target's end shall say. Raises OSError: EMFILE, ENFILE."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with theirs:
        try:
            theirs.send(b"e")
            # What a target sends would stay here unread: descriptors that hold what they are, the handle itself even.
            ours.shutdown(socket.SHUT_RD)
            theirs.setblocking(not nonblocking)
            cookie = identity.socket_cookie(theirs.fileno())
        except BaseException:
            ours.close()
            raise
        return SocketEnd(ours, cookie), TargetsEnd(theirs.detach(), cookie)


def make_pipe(*, nonblocking: bool) -> tuple[SupervisorsEnd, TargetsEnd]:
    """A pipe; see `make_socket_pair`."""
    theirs, ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(theirs, not nonblocking)
    return PipeEnd(ours), TargetsEnd(theirs, 0)


def make(*, nonblocking: bool) -> tuple[SupervisorsEnd, TargetsEnd]:
    """The better of the two that works here."""
    return (make_socket_pair if identity.can_fetch() else make_pipe)(nonblocking=nonblocking)
