# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket of one client: bytes with descriptors beside them, and a queue of what the client has not read yet.

Messages are queued, and one task writes (`Stream.write_all`): who has something to say does not wait for a client that
reads slowly. What is queued is bounded by those who fill it: they wait for `room`, or give the client up.

Descriptors go along with the first byte of their message, as D-Bus wants it (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import array
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from kdbus.received import Descriptor

_READ: Final = 64 << 10
_CREDENTIALS: Final = 12


class Stream:
    """A connected socket. `unread`: bytes that are queued; `unread_answers`: those of them that were put as answers."""

    def __init__(self, connection: trio.socket.SocketType, most_descriptors: int) -> None:
        """`most_descriptors`: that come with one piece."""
        self._socket = connection
        self._most = most_descriptors
        self._queue: deque[tuple[bytes, Sequence[Descriptor], bool]] = deque()
        self.unread = 0
        self.unread_answers = 0
        self._changed = trio.Event()
        self._closed = False

    async def read(self) -> tuple[bytes, list[Descriptor]]:
        """What has come; no bytes at the end. Raises OSError, and nothing that came is lost or left open."""
        space = socket.CMSG_SPACE(self._most * 4)
        data, ancillary, _, _ = await self._socket.recvmsg(_READ, space, socket.MSG_CMSG_CLOEXEC)
        descriptors = []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                descriptors += [Descriptor(number) for number in numbers]
        return data, descriptors

    def put(self, data: bytes, descriptors: Sequence[Descriptor] = (), *, answer: bool = False) -> None:
        """Queue a message. Its descriptors are closed when they are sent, or never will be. `answer`: the client has
        itself brought it about."""
        if not self._closed:
            self._queue.append((data, descriptors, answer))
            self._count(len(data), answer)

    async def room(self, bytes_: int) -> None:
        """Wait until fewer bytes than that are queued."""
        while self.unread >= bytes_:
            await self._changed.wait()

    async def write_all(self) -> None:
        """Write what is queued, until it is cancelled. Raises OSError: the client is gone."""
        while True:
            while not self._queue:
                await self._changed.wait()
            data, descriptors, answer = self._queue[0]
            rest = memoryview(data)
            while rest:
                rest = rest[await self._send(rest, descriptors) :]
                for descriptor in descriptors:
                    descriptor.close()
                descriptors = ()
            self._queue.popleft()
            self._count(-len(data), answer)

    async def write(self, data: bytes) -> None:
        """Write past the queue, which is empty: before there are messages."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self._send(rest, ()) :]

    def close(self) -> None:
        """Close it, and what is queued. Idempotent."""
        self._closed = True
        for _, descriptors, _ in self._queue:
            for descriptor in descriptors:
                descriptor.close()
        self._queue.clear()
        self._socket.close()

    async def _send(self, data: memoryview, descriptors: Sequence[Descriptor]) -> int:
        if not descriptors:
            return await self._socket.send(data)
        numbers = array.array("i", [descriptor.fileno() for descriptor in descriptors])
        return await self._socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])

    def _count(self, size: int, answer: bool) -> None:
        self.unread += size
        self.unread_answers += size if answer else 0
        self._changed.set()
        self._changed = trio.Event()


def who(connection: trio.socket.SocketType) -> tuple[int, int, int]:
    """Process, user and group of the client, as the kernel noted them when it connected (SO_PEERCRED)."""
    content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS)
    process, user, group = array.array("i", content)
    return process, user & 0xFFFFFFFF, group & 0xFFFFFFFF


def security_label(connection: trio.socket.SocketType) -> str | None:
    """The client's label, where the kernel has security modules that give one (SO_PEERSEC)."""
    with suppress(OSError):
        content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERSEC, 4096)
        return content.rstrip(b"\0").decode(errors="surrogateescape") or None
    return None
