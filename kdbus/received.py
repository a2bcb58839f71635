# SPDX-License-Identifier: GPL-2.0-or-later
"""A received message, as users of the library see it: values, views of the payload, descriptors.

It owns a part of the pool, and the descriptors that came along. Both are given back by `release`, at the end of a
`with` block, or when the message is forgotten. Views of the payload that are still held keep the part of the pool, so
they never change under their reader; descriptors that are wanted for longer are taken (`Descriptor.take`).
"""

from __future__ import annotations

import errno
import mmap
import os
from functools import cache
from types import TracebackType
from typing import Self

from kdbus.errors import Error, Malformed
from kdbus.flags import BROADCAST, KERNEL, MessageFlag
from kdbus.message import LARGEST_VECTOR, BloomFilter, Incoming, MemfdRange
from kdbus.values import Metadata, Notification


class Descriptor:
    """A descriptor that came with a message; closed with it unless taken."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._missing = number < 0

    def fileno(self) -> int:
        """Its number. Raises Error (EMFILE: it could not be installed) or ValueError (taken or closed)."""
        if self._missing:
            raise Error("RECV", errno.EMFILE, "the descriptor was peeked at, not accepted, or could not be installed")
        if self._number < 0:
            raise ValueError("the descriptor was taken or closed")
        return self._number

    def take(self) -> int:
        """Its number, which is the caller's to close from now on. Raises as `fileno` does."""
        number = self.fileno()
        self._number = -1
        return number

    def close(self) -> None:
        """Idempotent."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        self.close()


class Message:
    """A message, a notification or a reply.

    `lost`: how many messages were lost before this one. `incomplete`: some descriptors could not be installed, for want
    of free numbers.
    """

    def __init__(
        self, content: Incoming, part: memoryview, *, lost: int = 0, incomplete: bool = False, peeked: bool = False
    ) -> None:
        """`part`: a view of the pool that holds the message's part of it. A peeked message owns no descriptors."""
        self._content = content
        self._part: memoryview | None = part
        self._views: list[memoryview] | None = None
        self._payload: memoryview | None = None
        self.lost = lost
        self.incomplete = incomplete
        self.descriptors = tuple(Descriptor(-1 if peeked else number) for number in content.descriptors)
        self._memfds = [
            Descriptor(-1 if peeked else piece.descriptor)
            for piece in content.pieces
            if isinstance(piece, MemfdRange)
        ]

    @property
    def sender(self) -> int:
        """The sender's id; KERNEL for a notification."""
        return self._content.sender

    @property
    def destination(self) -> int:
        """The id that it was sent to; BROADCAST, or 0 if it was sent to a name."""
        return self._content.destination

    @property
    def destination_name(self) -> str | None:
        """The name that it was sent to."""
        return self._content.destination_name

    @property
    def flags(self) -> MessageFlag:
        return self._content.flags

    @property
    def priority(self) -> int:
        return self._content.priority

    @property
    def payload_type(self) -> int:
        return self._content.payload_type

    @property
    def cookie(self) -> int:
        """The number that its sender gave it."""
        return self._content.cookie

    @property
    def expects_reply(self) -> bool:
        return int(self.flags) & 1 == 1  # MessageFlag.EXPECT_REPLY, asked often

    @property
    def reply_to(self) -> int:
        """The cookie of the request that this is the reply to, or the notification about; else 0."""
        return 0 if self.expects_reply else self._content.last_word

    @property
    def deadline_ns(self) -> int:
        """Until when (CLOCK_MONOTONIC) a reply is expected; 0 if none is."""
        return self._content.last_word if self.expects_reply else 0

    @property
    def is_broadcast(self) -> bool:
        return self.destination == BROADCAST

    @property
    def is_notification(self) -> bool:
        return self.sender == KERNEL

    @property
    def notification(self) -> Notification | None:
        """What the bus itself has to say."""
        return self._content.notification

    @property
    def bloom(self) -> BloomFilter | None:
        """The filter of a signal; version 3 does not tell it."""
        return self._content.bloom

    @property
    def metadata(self) -> Metadata:
        """What was asked for about the sender."""
        return self._content.metadata

    @property
    def views(self) -> list[memoryview]:
        """The payload in the parts that it was sent in, without a copy. Raises Malformed: a memfd is shorter than said;
        Error: a memfd did not arrive; ValueError: the message was released."""
        if self._views is None:
            if self._part is None:
                raise ValueError("the message was released")
            memfds = iter(self._memfds)
            views: list[memoryview] = []
            for piece in self._content.pieces:
                if isinstance(piece, MemfdRange):
                    views.append(_map(next(memfds), piece))
                elif piece.offset is None:
                    views.append(_zeros()[: piece.size])
                else:
                    views.append(self._part[piece.offset : piece.offset + piece.size])
            self._views = views
        return self._views

    @property
    def payload(self) -> memoryview:
        """The whole payload: a view if it was sent in one part, else a copy. Raises as `views` does."""
        views = self.views
        if self._payload is None:
            self._payload = views[0] if len(views) == 1 else memoryview(b"".join(views))
        return self._payload

    def memfd(self, index: int = 0) -> Descriptor:
        """The descriptor behind the memfd with that index among the payload's parts."""
        return self._memfds[index]

    def release(self) -> None:
        """Close the descriptors, and give the part of the pool back, at once or as soon as no view of it is held."""
        self._part = self._views = self._payload = None
        for descriptor in (*self.descriptors, *self._memfds):
            descriptor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        about = self.notification or f"cookie {self.cookie}, reply to {self.reply_to}"
        return f"<kdbus.Message from {self.sender}: {about}>"


@cache
def _zeros() -> memoryview:
    """As many zero bytes as a part may have. All messages share them, so that a small message cannot cost much
    memory."""
    return memoryview(bytes(LARGEST_VECTOR))


def _map(descriptor: Descriptor, piece: MemfdRange) -> memoryview:
    if piece.size == 0:
        return memoryview(b"")
    before = piece.start % mmap.ALLOCATIONGRANULARITY
    number = descriptor.fileno()
    try:
        mapped = mmap.mmap(number, before + piece.size, prot=mmap.PROT_READ, offset=piece.start - before)
    except (OSError, ValueError, OverflowError) as error:
        raise Malformed("RECV", meaning=f"{piece.size} bytes at {piece.start} of a memfd: {error}") from None
    return memoryview(mapped)[before : before + piece.size].toreadonly()
