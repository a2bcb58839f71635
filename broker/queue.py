# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue of a connection: messages that wait to be received.

Messages leave in the order of their arrival, or, if RECV asks for it, by priority: the lowest number first, and in
the order of arrival among equals.

The payload lies in the receiver's pool from the moment of sending; header and items are written to the pool when the
message is received (`QueueEntry.install`), as only then it is known what metadata the receiver wants and which
numbers its descriptors get.

The order of items is part of the ABI: for a notification its one item; then DST_NAME, payload items in the order
sent, FDS; then metadata (see `broker.metadata`). Reference: ipc/kdbus/queue.c.
"""

from __future__ import annotations

import heapq
import struct
from typing import TYPE_CHECKING

from broker import item
from broker.errors import NoMessage, NoMessageOfPriority
from broker.outside import Caller
from broker.pool import Pool, Slice
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64

if TYPE_CHECKING:
    from broker.message import Message
    from broker.quota import Charge
    from broker.reply import Reply

_HEADER = struct.Struct("<QQqQQQQQ")


class QueueEntry:
    """One message in one receiver's queue, or attached to a synchronous reply."""

    __slots__ = ("charge", "message", "name_id", "payload", "reply")

    def __init__(self, message: Message, payload: Slice | None) -> None:
        """`payload`: the slice that the payload was copied to, held once; None if there is nothing to copy."""
        self.message = message.hold()
        self.payload = payload
        self.name_id = message.name_id
        self.reply: Reply | None = None
        self.charge: Charge | None = None

    def discard(self) -> None:
        """Let go of everything. Called exactly once."""
        if self.payload is not None:
            self.payload.release()
            self.payload = None
        if self.charge is not None:
            self.charge.give_back()
        self.message.drop()
        if self.reply is not None:
            self.reply.drop()

    def move(self, pool: Pool) -> None:
        """Copy the payload into another receiver's pool. Raises PoolFull, and then leaves all as it was."""
        if self.payload is not None:
            self.payload = pool.move_here(self.payload)

    def install(self, pool: Pool, caller: Caller, attach_flags: int, *, descriptors: bool) -> tuple[Slice, int]:
        """Write header and items to `pool` as a slice that holds the payload's.

        The slice is allocated before any descriptor is installed, so that a full pool costs the receiver no
        descriptors.

        Args:
            caller: the receiving thread, whose namespaces the metadata are translated to.
            attach_flags: metadata that may be exported.
            descriptors: whether to install files; if not (PEEK), their numbers are -1. One that cannot be installed
                shows as its negative errno number.

        Returns: the slice, held once and not published, and the return flags. Raises PoolFull.
        """
        message = self.message
        metadata = message.process.export(caller.ids, attach_flags) + message.connection.export(attach_flags)
        size = _HEADER.size + len(message.extra) + message.items_size() + len(metadata)
        slice_ = pool.allocate(size)
        slice_.adopt(self.payload)
        items, return_flags = self._payload_items(caller, descriptors=descriptors)
        header = _HEADER.pack(
            size,
            message.flags,
            message.priority,
            message.destination,
            message.source,
            message.payload_type,
            message.cookie,
            message.timeout_or_cookie_reply,
        )
        pool.memory.write(slice_.offset, b"".join((header, message.extra, items, metadata)))
        return slice_, return_flags

    def _payload_items(self, caller: Caller, *, descriptors: bool) -> tuple[bytes, int]:
        message = self.message
        offset = 0 if self.payload is None else self.payload.offset
        complete = True
        parts: list[bytes] = []
        if message.destination_name is not None:
            parts.append(item.build(abi.ITEM_DST_NAME, message.destination_name + b"\0"))
        for part in message.parts:
            if part.file is None:
                place = U64 if part.start is None else part.start + offset
                parts.append(item.build(abi.ITEM_PAYLOAD_OFF, struct.pack("<QQ", part.size, place)))
            else:
                number = caller.install(part.file) if descriptors else -1
                complete = complete and (number >= 0 or not descriptors)
                packed = struct.pack("<QQiI", part.start, part.size, number, 0)
                parts.append(item.build(abi.ITEM_PAYLOAD_MEMFD, packed))
        if message.files:
            numbers = [caller.install(file) if descriptors else -1 for file in message.files]
            complete = complete and (not descriptors or all(number >= 0 for number in numbers))
            packed = struct.pack(f"<{len(numbers)}i", *numbers)
            parts.append(item.build(abi.ITEM_FDS, packed))
        return b"".join(parts), 0 if complete else abi.RECV_RETURN_INCOMPLETE_FDS


class Queue:
    """The waiting messages of one connection.

    Invariant: `_entries` holds exactly the waiting entries in order of arrival; every one of them is in `_heap` once,
    which may also hold entries that have left.
    """

    def __init__(self) -> None:
        self._entries: dict[QueueEntry, None] = {}
        self._heap: list[tuple[int, int, QueueEntry]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[QueueEntry]:
        """All entries in order of arrival."""
        return list(self._entries)

    def add(self, entry: QueueEntry) -> None:
        """Append a message."""
        self._serial += 1
        self._entries[entry] = None
        heapq.heappush(self._heap, (entry.message.priority, self._serial, entry))

    def take_all(self) -> list[QueueEntry]:
        """Take all entries out, in order of arrival, with their charges."""
        entries = list(self._entries)
        self._entries.clear()
        self._heap.clear()
        return entries

    def peek(self, priority: int | None) -> QueueEntry:
        """The next entry; with a `priority`, the most urgent one, which must be at least as urgent as that.

        Raises NoMessage or NoMessageOfPriority.
        """
        if not self._entries:
            raise NoMessage
        if priority is None:
            return next(iter(self._entries))
        self._skip_removed()
        first = self._heap[0]
        if first[0] > priority:
            raise NoMessageOfPriority
        return first[2]

    def remove(self, entry: QueueEntry) -> None:
        """Take the entry out; its charge is returned."""
        del self._entries[entry]
        if entry.charge is not None:
            entry.charge.give_back()
            entry.charge = None
        self._skip_removed()
        if len(self._heap) > 2 * len(self._entries) + 16:
            self._heap = [node for node in self._heap if node[2] in self._entries]
            heapq.heapify(self._heap)

    def _skip_removed(self) -> None:
        while self._heap and self._heap[0][2] not in self._entries:
            heapq.heappop(self._heap)
