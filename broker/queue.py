# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue of a connection: messages that wait to be received.

Messages leave in the order of their arrival, or, if RECV asks for it, by priority: the lowest number first, and in
the order of arrival among equals.

How a message lies in the receiver's pool, and so what an entry holds, is in `broker.inbox`. Reference:
ipc/kdbus/queue.c.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.errors import NoMessage, NoMessageOfPriority
from broker.interfaces import Caller
from broker.pool import Pool, Slice

if TYPE_CHECKING:
    from broker.behaviour import Behaviour
    from broker.message import Message
    from broker.quota import Charge, ShareCharge
    from broker.reply import Reply


class QueueEntry:
    """One message in one receiver's queue, or attached to a synchronous reply."""

    __slots__ = ("behaviour", "charge", "memfd_places", "message", "name_id", "payload", "payload_offset", "reply")

    def __init__(self, message: Message, payload: Slice | None, behaviour: Behaviour) -> None:
        """`payload`: the slice in which the payload lies, held once; None if there is nothing to copy. `behaviour`:
        what its receiver speaks."""
        self.behaviour = behaviour
        self.message = message.hold()
        self.payload = payload
        self.payload_offset = 0
        """Where in that slice it begins, in bytes."""
        self.memfd_places: Sequence[int] = ()
        """Where in that slice the numbers of the message's memfds go when it is received, in bytes; none if that is
        decided only then."""
        self.name_id = message.name_id
        self.reply: Reply | None = None
        self.charge: Charge | ShareCharge | None = None

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

    def install(self, pool: Pool, caller: Caller, attach_flags: int, *, descriptors: bool) -> tuple[Slice, int]:
        """Make the whole message readable in `pool`.

        Args:
            caller: the receiving thread.
            attach_flags: metadata that may be exported, where that is decided only now.
            descriptors: whether to install files; if not, their numbers are -1.

        Returns: the slice, held once and not published, and KDBUS_RECV_RETURN_* flags. Raises PoolFull.
        """
        raise NotImplementedError


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

    def counts_by_sender(self) -> dict[int, int]:
        """How many messages wait, by the id of the connection that sent them."""
        return Counter(entry.message.source for entry in self._entries)

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
            raise NoMessageOfPriority(priority=priority)
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
