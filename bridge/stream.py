# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket of one client: bytes with descriptors beside them, and a queue of what the client has not read yet.

Messages are queued, and written when whoever fills the queue has no more for now (`Stream.flush`): many small ones go
with one call. What the client does not take at once is written by a task (`Stream.write_all`), so nobody waits for one
that reads slowly. What is queued is bounded by those who fill it: they wait for `room`, or give the client up.

Descriptors go along with the first byte of their message, as D-Bus wants it (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import array
import itertools
import select
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from kdbus.received import Descriptor

_READ: Final = 64 << 10
"""Bytes that are read or written with one call, more or less."""
_TOGETHER: Final = 64
"""Messages that are written with one call at most."""
_CREDENTIALS: Final = 12
_SO_PEERGROUPS: Final = 59
_MOST_GROUPS: Final = 65536
"""NGROUPS_MAX."""


class Stream:
    """A connected socket. `unread`: bytes that are queued, `most_unread` at most so far; `unread_answers`:
    those of them that were put as answers."""

    def __init__(self, connection: socket.socket, most_descriptors: int) -> None:
        """`connection` is closed with this; `most_descriptors`: that come with one piece."""
        connection.setblocking(False)
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._space = socket.CMSG_SPACE(most_descriptors * 4)
        self._queue: deque[tuple[bytes | memoryview, Sequence[Descriptor], bool]] = deque()
        self.unread = 0
        self.most_unread = 0
        self.unread_answers = 0
        self._written = trio.Event()
        self._stuck = trio.Event()
        self._closed = False

    async def read(self) -> tuple[bytes, list[Descriptor]]:
        """What has come; no bytes at the end. Raises OSError, and nothing that came is lost or left open."""
        while True:
            # Waiting first: mostly all that there was has been read before, and others are served meanwhile.
            await trio.lowlevel.wait_readable(self._socket)
            with suppress(BlockingIOError):
                data, ancillary, _, _ = self._socket.recvmsg(_READ, self._space, socket.MSG_CMSG_CLOEXEC)
                break
        descriptors = []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                descriptors += [Descriptor(number) for number in numbers]
        return data, descriptors

    @property
    def messages(self) -> int:
        """How many are queued."""
        return len(self._queue)

    @property
    def is_readable(self) -> bool:
        """Whether something has come, or the end."""
        return not self._closed and bool(self._poll.poll(0))

    def put(self, data: bytes, descriptors: Sequence[Descriptor] = (), *, answer: bool = False) -> None:
        """Queue a message, for `flush`. Its descriptors are closed when they are sent, or never will be. `answer`: the
        client has itself brought it about."""
        if not self._closed:
            self._queue.append((data, descriptors, answer))
            self._count(len(data), answer)

    def flush(self) -> None:
        """Write what is queued, as far as the client takes it now. That it is gone is told by `write_all`."""
        if not self._stuck.is_set():
            try:
                while self._queue:
                    if not self._write_some():
                        break
            except OSError:
                pass
            if self._queue:
                self._stuck.set()

    async def room(self, bytes_: int) -> None:
        """Wait until fewer bytes than that are queued."""
        while self.unread >= bytes_:
            await self._written.wait()

    async def write_all(self) -> None:
        """Write what `flush` could not, until this is cancelled. Raises OSError: the client is gone."""
        while True:
            await self._stuck.wait()
            while self._queue:
                if not self._write_some():
                    await trio.lowlevel.wait_writable(self._socket)
            self._stuck = trio.Event()

    def _write_some(self) -> bool:
        """Write from the front of the queue; False if the client takes nothing now. Raises OSError."""
        data, descriptors, answer = self._queue[0]
        together = [data]
        if not descriptors and len(self._queue) > 1:
            size = len(data)
            for more, with_it, _ in itertools.islice(self._queue, 1, _TOGETHER):
                if with_it or size > _READ:
                    break
                together.append(more)
                size += len(more)
        try:
            if descriptors:
                sent = socket.send_fds(self._socket, together, [descriptor.fileno() for descriptor in descriptors])
            else:
                sent = self._socket.sendmsg(together)
        except BlockingIOError:
            return False
        for descriptor in descriptors:
            descriptor.close()
        while sent:
            data, _, answer = self._queue.popleft()
            if sent < len(data):
                self._queue.appendleft((memoryview(data)[sent:], (), answer))
            taken = min(sent, len(data))
            sent -= taken
            self._count(-taken, answer)
        return True

    async def write(self, data: bytes) -> None:
        """Write past the queue, which is empty: before there are messages."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    def close(self) -> None:
        """Close it, and what is queued. Idempotent."""
        self._closed = True
        for _, descriptors, _ in self._queue:
            for descriptor in descriptors:
                descriptor.close()
        self._queue.clear()
        self._socket.close()

    def _count(self, size: int, answer: bool) -> None:
        self.unread += size
        self.most_unread = max(self.most_unread, self.unread)
        self.unread_answers += size if answer else 0
        if size < 0:
            self._written.set()
            self._written = trio.Event()


def who(connection: socket.socket) -> tuple[int, int, int]:
    """Process, user and group of the client, as the kernel noted them when it connected (SO_PEERCRED)."""
    content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS)
    process, user, group = array.array("i", content)
    return process, user & 0xFFFFFFFF, group & 0xFFFFFFFF


def groups(connection: socket.socket, group: int) -> tuple[int, ...]:
    """All groups of the client, `group` first, as the kernel noted them when it connected (SO_PEERGROUPS)."""
    numbers = array.array("I")
    with suppress(OSError):
        numbers.frombytes(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS * numbers.itemsize))
    return tuple(dict.fromkeys((group, *numbers)))


def security_label(connection: socket.socket) -> str | None:
    """The client's label, where the kernel has security modules that give one (SO_PEERSEC)."""
    with suppress(OSError):
        content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERSEC, 4096)
        return content.rstrip(b"\0").decode(errors="surrogateescape") or None
    return None
