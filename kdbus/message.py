# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages as bytes: built for SEND, and read from the pool. No input or output.

A message is a header and items; its payload is elsewhere, and items say where: in the sender's memory (`Memory`), in a
file in memory (`MemfdRange`), or, for the receiver, in its pool (`PoolRange`). `read` resolves these to places in the
pool, which all lie within it: whoever maps the pool need not check again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kdbus import items
from kdbus.abi.layout import U64
from kdbus.abi.revision import Kind, Revision
from kdbus.commands import item
from kdbus.dialect import Dialect
from kdbus.errors import Malformed
from kdbus.flags import BROADCAST, KERNEL, PAYLOAD_DBUS, MessageFlag
from kdbus.matches import text
from kdbus.values import Metadata, Notification

HEADER: Final = 64
"""Bytes of a message before its items, in both revisions."""
NOT_STORED: Final = U64
"""An offset that means zero bytes which are not stored."""
LARGEST_VECTOR: Final = 2 << 20
"""Bytes of payload that a part, memfds apart, has at most (KDBUS_MSG_MAX_PAYLOAD_VEC_SIZE)."""
_MESSAGE: Final = struct.Struct("<2Qq5Q")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at an address in the sender's memory; address 0 means that many zero bytes."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class MemfdRange:
    """A part of a sealed memfd. `descriptor` is -1 if the receiver could not get one."""

    descriptor: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class PoolRange:
    """A part of the pool. Offset None: zero bytes, which are not stored."""

    offset: int | None
    size: int


@dataclass(frozen=True, slots=True)
class BloomFilter:
    """What a signal is about; `generation` chooses among the masks of those who want it."""

    data: bytes
    generation: int = 0


@dataclass(slots=True)
class Outgoing:
    """A message to be sent, to an id or a name. `owner`: the id that the name's owner must have, or 0.

    `last_word` is the deadline of a request (CLOCK_MONOTONIC, ns), or the cookie that a reply is to.
    """

    destination: int | str
    pieces: Sequence[Memory | MemfdRange] = ()
    cookie: int = 0
    flags: int = 0
    last_word: int = 0
    payload_type: int = PAYLOAD_DBUS
    priority: int = 0
    descriptors: Sequence[int] = ()
    bloom: BloomFilter | None = None
    owner: int = 0

    def build(self, revision: Revision) -> bytearray:
        """The message as bytes. ValueError: a name with a zero character."""
        identity, content = self.owner, b""
        if isinstance(self.destination, str):
            content = item(revision, Kind.DST_NAME, text(self.destination))
        else:
            identity = self.destination
        for piece in self.pieces:
            if isinstance(piece, Memory):
                content += item(revision, Kind.PAYLOAD_VEC, struct.pack("<2Q", piece.size, piece.address))
            else:
                packed = struct.pack("<2QiI", piece.start, piece.size, piece.descriptor, 0)
                content += item(revision, Kind.PAYLOAD_MEMFD, packed)
        if self.descriptors:
            content += item(revision, Kind.FDS, struct.pack(f"<{len(self.descriptors)}i", *self.descriptors))
        if self.bloom is not None:
            packed = struct.pack("<Q", self.bloom.generation) + self.bloom.data
            content += item(revision, Kind.BLOOM_FILTER, packed)
        header = _MESSAGE.pack(
            HEADER + len(content),
            self.flags,
            self.priority,
            identity,
            0,  # The bus fills the sender in.
            self.payload_type,
            self.cookie,
            self.last_word,
        )
        return bytearray(header + content)


@dataclass(slots=True)
class Incoming:
    """A message that was received. `destination`: an id, BROADCAST, or 0 if it was sent to a name."""

    sender: int
    destination: int
    flags: MessageFlag
    priority: int
    payload_type: int
    cookie: int
    last_word: int
    pieces: list[PoolRange | MemfdRange] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    destination_name: str | None = None
    bloom: BloomFilter | None = None
    notification: Notification | None = None
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def reply_to(self) -> int:
        """The cookie of the request that this replies to; 0 if it is none."""
        return 0 if self.expects_reply else self.last_word

    @property
    def expects_reply(self) -> bool:
        return int(self.flags) & 1 == 1  # MessageFlag.EXPECT_REPLY, asked often

    @property
    def is_broadcast(self) -> bool:
        return self.destination == BROADCAST


def read(dialect: Dialect, pool: memoryview, offset: int, slice_size: int, command: str = "RECV") -> Incoming:
    """The message at `offset` of the pool, which is said to take `slice_size` bytes.

    Raises Malformed, for `command`, if anything does not lie within the pool or contradicts itself. In revisions where
    payload lies behind its message it has to lie within `slice_size`; version 3 has it elsewhere in the pool.
    """
    if offset > len(pool) or slice_size > len(pool) - offset or slice_size < HEADER:
        raise Malformed(command, meaning=f"a message of {slice_size} bytes at {offset} does not lie within the pool")
    size, flags, priority, destination, sender, payload_type, cookie, last_word = _MESSAGE.unpack_from(pool, offset)
    if not HEADER <= size <= slice_size:
        raise Malformed(command, meaning=f"a message of {size} bytes is said to take {slice_size}")
    found = Incoming(sender, destination, MessageFlag(flags), priority, payload_type, cookie, last_word)
    bounds = (0, len(pool)) if dialect.payload_in_pool else (offset, slice_size)
    metadata = items.MetadataReader(dialect.revision, command)
    for kind, content in items.walk(dialect.revision, pool[offset + HEADER : offset + size], command):
        if kind == Kind.PAYLOAD_OFF:
            found.pieces.append(_pool_range(content, *bounds, command))
        elif kind == Kind.PAYLOAD_MEMFD:
            found.pieces.append(_memfd(content, command))
        elif kind == Kind.FDS:
            found.descriptors += _numbers(content)
        elif kind == Kind.DST_NAME:
            found.destination_name = items.text(content, command)
        elif kind == Kind.BLOOM_FILTER:
            (generation,) = items.words(content, 1, command)
            found.bloom = BloomFilter(bytes(content[8:]), generation)
        else:
            told = items.notification(kind, content, command) if sender == KERNEL else None
            found.notification = told or found.notification
            metadata.take(kind, content)
    found.metadata = metadata.result()
    return found


def descriptors_in(revision: Revision, pool: memoryview, offset: int) -> list[int]:
    """The descriptors that came with a message, up to where it lies: those that somebody has to close."""
    if offset > len(pool) or len(pool) - offset < HEADER:
        return []
    (size,) = struct.unpack_from("<Q", pool, offset)
    found: list[int] = []
    try:
        for kind, content in items.walk(revision, pool[offset + HEADER : offset + size], "RECV"):
            if kind == Kind.PAYLOAD_MEMFD and len(content) >= 20:
                found += struct.unpack_from("<i", content, 16)
            elif kind == Kind.FDS:
                found += _numbers(content)
    except Malformed:
        pass
    return [number for number in found if number >= 0]


def _pool_range(content: memoryview, base: int, room: int, command: str) -> PoolRange:
    size, place = items.words(content, 2, command)
    if place == NOT_STORED:
        if size > LARGEST_VECTOR:
            raise Malformed(command, meaning=f"{size} bytes of zeros where {LARGEST_VECTOR} are the most")
        return PoolRange(None, size)
    if place > room or size > room - place:
        raise Malformed(command, meaning=f"a payload of {size} bytes at {place} does not lie within {room}")
    return PoolRange(base + place, size)


def _memfd(content: memoryview, command: str) -> MemfdRange:
    start, size, _ = items.words(content, 3, command)
    (descriptor,) = struct.unpack_from("<i", content, 16)
    return MemfdRange(descriptor, start, size)


def _numbers(content: memoryview) -> list[int]:
    count = len(content) // 4
    return list(struct.unpack_from(f"<{count}i", content))
