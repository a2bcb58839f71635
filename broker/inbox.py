# SPDX-License-Identifier: GPL-2.0-or-later
"""Inboxes: how a message lies in its receiver's pool, and when it gets there.

Up to version 3 a message is *two slices*. The payload is copied into the pool when it is sent; header and items are
written when it is received, as only then it is known which metadata the receiver wants and which numbers its
descriptors get. Offsets of payload are counted from the start of the pool. The items are rebuilt, in an order of their
own: for a notification its one item; DST_NAME, payload in the order sent, FDS; metadata.

In the final revision it is *one slice*, written as a whole when it is sent: header; the sender's items as it sent
them; metadata, translated for the receiver as it was at HELLO; payload, which the offsets count from the start of the
message. Only the numbers of descriptors are filled in by RECV. So the size of a message in the pool is known, and can
be shared among users (`broker.quota`), before anything is written.

Version 2 has one slice already (`broker.inbox2`).

A message between peers of two revisions is rebuilt: its items keep their order and get the receiver's numbers. What
the receiver's revision has no item for is left out.

`accept` makes the entry, quota included; `answer` makes one that never enters the queue, the answer to a synchronous
call. Reference: queue.c and pool.c; message.c (`kdbus_staging_emit`), final-revision.md, 4.4.3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from broker import limits
from broker.errors import DescriptorsRefused, PoolShareExceeded, QueueFull
from broker.interfaces import Caller
from broker.item import HEADER_SIZE, Item, build_padded, unpadded, walk
from broker.pool import Pool, Slice
from broker.queue import QueueEntry
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64, align8
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.behaviour import Behaviour
    from broker.connection import Connection
    from broker.message import Message
    from broker.quota import User

_HEADER = struct.Struct("<QQqQQQQQ")


class Inbox(Protocol):
    """One of the two."""

    whole: bool
    """Whether a message is complete in its receiver's pool once it is sent, whoever receives it."""
    takes_half: bool
    """Whether what is put into the pool, if there is room at all, may be half of what is left of it and no more."""

    def accept(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, attached: int
    ) -> QueueEntry:
        """An entry for the queue of `destination`, charged to `user` (None: the bus itself).

        `caller`: the sending thread, None for a notification; `attached`: KDBUS_ATTACH_* of what it has for this
        receiver. Raises QueueFull, TooManyDescriptors, Disconnected, DescriptorsRefused, PoolShareExceeded, PoolFull or
        BadAddress.
        """
        ...

    def answer(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, attached: int
    ) -> QueueEntry:
        """The same for the answer to a synchronous call."""
        ...

    def move(self, entry: QueueEntry, destination: Connection, user: User | None) -> QueueEntry:
        """An entry for the queue of `destination` instead of one that has left another queue, where it was charged to
        `user`, if to anybody. Raises what `accept` raises, and then leaves it as it was."""
        ...

    def restore(
        self, message: Message, slice_: Slice | None, memfd_places: Sequence[int], behaviour: Behaviour
    ) -> QueueEntry:
        """The entry that `accept` made once, of a receiver of that behaviour: its `payload`, held once, and its
        `memfd_places`."""
        ...


def check_receiver(destination: Connection, sent: Message) -> None:
    if not destination.active:
        raise destination.gone()
    if sent.files and not destination.flags & abi.HELLO_ACCEPT_FD:
        raise DescriptorsRefused(connection=destination.id)


def _queue_full(destination: Connection, **facts: object) -> QueueFull:
    return QueueFull(connection=destination.id, waiting=destination.queue.counts_by_sender, **facts)


class TwoSlices:
    """The payload at SEND, header and items at RECV."""

    whole = False
    takes_half = True

    def accept(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, attached: int
    ) -> QueueEntry:
        if len(destination.queue) >= limits.MESSAGES_PER_CONNECTION:
            raise _queue_full(destination, count=len(destination.queue), limit=limits.MESSAGES_PER_CONNECTION)
        entry = self.answer(destination, sent, caller, user, attached)
        try:
            entry.charge = destination.quota.charge(user, len(destination.queue), sent.payload_size, len(sent.files))
        except QueueFull as error:
            entry.discard()
            raise _queue_full(destination, **error.facts) from None
        return entry

    def answer(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, attached: int
    ) -> QueueEntry:
        check_receiver(destination, sent)
        if not sent.pieces:
            return PartedEntry(sent, None, destination.behaviour)
        pool = destination.pool
        if pool.remaining // 2 < sent.payload_size < pool.remaining:
            raise PoolShareExceeded(connection=destination.id, count=sent.payload_size, limit=pool.remaining // 2)
        slice_ = pool.allocate(sent.payload_size)
        sent.copy_to(slice_, 0, caller)
        return PartedEntry(sent, slice_, destination.behaviour)

    def move(self, entry: QueueEntry, destination: Connection, user: User | None) -> QueueEntry:
        if not isinstance(entry, PartedEntry):
            return _rebuilt(entry, destination, user)
        if entry.payload is not None:
            entry.payload = destination.pool.move_here(entry.payload)
        return entry

    def restore(
        self, message: Message, slice_: Slice | None, memfd_places: Sequence[int], behaviour: Behaviour
    ) -> QueueEntry:
        return PartedEntry(message, slice_, behaviour)


class OneSlice:
    """Everything at SEND but the numbers of descriptors. `plan`: how it is laid out."""

    whole = True
    takes_half = False

    def __init__(self, plan: type[Plan] | None = None) -> None:
        self.plan = Plan if plan is None else plan

    def accept(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, attached: int
    ) -> QueueEntry:
        check_receiver(destination, sent)
        return self._put(destination, sent, caller, user, self.plan(sent, destination, attached))

    def _put(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, plan: Plan
    ) -> QueueEntry:
        """Charge the message as planned, and write it into the pool."""
        try:
            charge = destination.quota.charge(user, len(destination.queue), plan.size, len(sent.files))
        except QueueFull as error:
            raise _queue_full(destination, **error.facts) from None
        try:
            slice_ = destination.pool.allocate(plan.size)
            slice_.pool.memory.write(slice_.offset, plan.head + bytes(plan.size - len(plan.head)))
            if sent.pieces:
                sent.copy_to(slice_, plan.payload_at, caller)
        except BaseException:
            if charge is not None:
                charge.give_back()
            raise
        entry = WholeEntry(sent, slice_, plan.payload_at, destination.behaviour)
        entry.file_places, entry.memfd_places = plan.file_places, plan.memfd_places
        entry.charge = charge
        return entry

    answer = accept

    def move(self, entry: QueueEntry, destination: Connection, user: User | None) -> QueueEntry:
        return _rebuilt(entry, destination, user)

    def restore(
        self, message: Message, slice_: Slice | None, memfd_places: Sequence[int], behaviour: Behaviour
    ) -> QueueEntry:
        assert slice_ is not None
        entry = WholeEntry(message, slice_, slice_.size - align8(message.payload_size), behaviour)
        entry.memfd_places = memfd_places
        return entry


class OneSliceOfHalf(OneSlice):
    """As version 3 takes messages: `most` of them, each not more than half of what is left of the pool."""

    takes_half = True

    def __init__(self, plan: type[Plan] | None = None, most: int = limits.MESSAGES_PER_CONNECTION) -> None:
        super().__init__(plan)
        self._most = most

    def accept(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, attached: int
    ) -> QueueEntry:
        if len(destination.queue) >= self._most:
            raise QueueFull(count=len(destination.queue), limit=self._most)
        return self.answer(destination, sent, caller, user, attached)

    def answer(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, attached: int
    ) -> QueueEntry:
        attached &= destination.attach_flags_recv  # the bus itself has no say in what it tells
        plan, remaining = self.plan(sent, destination, attached), destination.pool.remaining
        if remaining // 2 < plan.size < remaining:
            raise PoolShareExceeded(count=plan.size, limit=remaining // 2)
        check_receiver(destination, sent)
        return self._put(destination, sent, caller, user, plan)


def _rebuilt(entry: QueueEntry, destination: Connection, user: User | None) -> QueueEntry:
    """A new entry out of one in another pool, which is discarded; the request that it may be stays expected."""
    message = entry.message
    if isinstance(entry, WholeEntry):
        entry.read_items()
    attached = message.process.valid | message.connection.valid
    if entry.payload is not None:
        message.copy, message.copy_offset = entry.payload.hold(), entry.payload_offset
    try:
        moved = destination.behaviour.inbox.accept(
            destination, message, None, user, attached & destination.attach_flags_recv
        )
    finally:
        message.sent()
    moved.name_id = entry.name_id
    if entry.reply is not None:
        moved.reply = entry.reply.hold()
    entry.discard()
    return moved


class PartedEntry(QueueEntry):
    """An entry of `TwoSlices`; `payload` is the first of the two, None if there is nothing to copy."""

    __slots__ = ()

    def install(self, pool: Pool, caller: Caller, attach_flags: int, *, descriptors: bool) -> tuple[Slice, int]:
        """See `QueueEntry.install`. The slice that is made holds the payload's.

        It is allocated before any descriptor is installed, so that a full pool costs the receiver no descriptors. A
        descriptor that cannot be installed shows as its negative errno number.
        """
        message, behaviour = self.message, self.behaviour
        metadata = behaviour.export(message.process, message.connection, caller.ids, attach_flags, behaviour, False)
        extra = notification_item(message, behaviour)
        size = _HEADER.size + len(extra) + message.items_size() + len(metadata)
        slice_ = pool.allocate(size)
        slice_.adopt(self.payload)
        items, return_flags = self._payload_items(caller, descriptors=descriptors)
        words = header(message, size, behaviour)
        pool.memory.write(slice_.offset, b"".join((words, extra, items, metadata)))
        return slice_, return_flags

    def _payload_items(self, caller: Caller, *, descriptors: bool) -> tuple[bytes, int]:
        message, build = self.message, self.behaviour.revision.build
        offset = 0 if self.payload is None else self.payload.offset
        complete = True
        parts: list[bytes] = []
        if message.destination_name is not None:
            parts.append(build(Kind.DST_NAME, message.destination_name + b"\0"))
        for part in message.parts:
            if part.file is None:
                place = U64 if part.start is None else part.start + offset
                parts.append(build(Kind.PAYLOAD_OFF, struct.pack("<QQ", part.size, place)))
            else:
                number = caller.install(part.file) if descriptors else -1
                complete = complete and (number >= 0 or not descriptors)
                packed = struct.pack("<QQiI", part.start, part.size, number, 0)
                parts.append(build(Kind.PAYLOAD_MEMFD, packed))
        if message.files:
            numbers = [caller.install(file) if descriptors else -1 for file in message.files]
            complete = complete and (not descriptors or all(number >= 0 for number in numbers))
            packed = struct.pack(f"<{len(numbers)}i", *numbers)
            parts.append(build(Kind.FDS, packed))
        return b"".join(parts), 0 if complete else abi.RECV_RETURN_INCOMPLETE_FDS


def header(message: Message, size: int, behaviour: Behaviour) -> bytes:
    """A `kdbus_msg` without items, the same in all revisions from version 3 on."""
    notifies = message.notification is not None
    signals = behaviour.notifications_are_signals if message.is_broadcast else behaviour.replies_are_signals
    return _HEADER.pack(
        size,
        message.flags | (abi.MESSAGE_SIGNAL if notifies and signals else 0),
        message.priority,
        message.destination,
        message.source,
        message.payload_type,
        message.cookie,
        message.timeout_or_cookie_reply,
    )


def notification_item(message: Message, behaviour: Behaviour) -> bytes:
    """The item of a notification, as a receiver of that behaviour sees it; nothing for other messages."""
    if message.notification is None:
        return b""
    payload = message.notification.payload(behaviour)
    if behaviour.pads_notifications:
        payload += bytes(-len(payload) & 7)
    return behaviour.revision.build(Kind(message.notification.type), payload)


class Plan:
    """What a message looks like in one slice, before there is one.

    `size`: bytes of the slice; `head`: all but the payload, which comes `payload_at` bytes from the start;
    `file_places` and `memfd_places`: where numbers of descriptors (32 bits) are to be written.
    """

    __slots__ = ("file_places", "head", "memfd_places", "payload_at", "size")
    header_size = _HEADER.size

    def __init__(self, message: Message, destination: Connection, attached: int) -> None:
        behaviour = destination.behaviour
        self.file_places: list[int] = []
        self.memfd_places: list[int] = []
        offsets: list[int] = []
        parts = [notification_item(message, behaviour)]
        place = end = self.header_size
        if parts[0]:
            end = place + int.from_bytes(parts[0][:8], "little")
            place += len(parts[0])
        for current in message.described(as_sent=behaviour.keeps_order):
            item = self._item(current, place, offsets, behaviour)
            if item:
                end = place + int.from_bytes(item[:8], "little")
                place += len(item)
                parts.append(item)
        metadata = behaviour.export(message.process, message.connection, destination.ids, attached, behaviour, True)
        size = place + unpadded(metadata) if metadata else end
        place += len(metadata)
        if not behaviour.keeps_order:
            size = place
        self.payload_at = place
        self.size = align8(place + message.payload_size)
        head = bytearray(b"".join((self._header(message, size, behaviour), *parts, metadata)))
        payload = (part for part in message.parts if part.file is None)
        for offset, part in zip(offsets, payload, strict=True):
            where = U64 if part.start is None else place + part.start
            head[offset : offset + 8] = where.to_bytes(8, "little")
        self.head = bytes(head)

    def _header(self, message: Message, size: int, behaviour: Behaviour) -> bytes:
        return header(message, size, behaviour)

    def _memfd(self, payload: bytes, place: int) -> bytes:
        """The payload of a PAYLOAD_MEMFD without a number, which has its place in what begins at `place`."""
        self.memfd_places.append(place + 16)
        return payload[:16] + b"\xff" * 4 + payload[20:]

    def _item(self, current: Item, place: int, offsets: list[int], behaviour: Behaviour) -> bytes:
        """One of the sender's items, at `place`; nothing if the receiver's revision does not know it."""
        kind, payload = Kind(current.type), current.payload
        if kind == Kind.PAYLOAD_VEC:
            kind = Kind.PAYLOAD_OFF
            offsets.append(place + HEADER_SIZE + 8)
        elif kind == Kind.PAYLOAD_MEMFD:
            payload = self._memfd(payload, place + HEADER_SIZE)
        elif kind == Kind.FDS:
            self.file_places += range(place + HEADER_SIZE, place + HEADER_SIZE + len(payload), 4)
            payload = b"\xff" * len(payload)
        return build_padded(behaviour.revision, kind, payload, current.padding)


class WholeEntry(QueueEntry):
    """An entry of `OneSlice`; `payload` is the whole message."""

    __slots__ = ("file_places",)

    def __init__(self, message: Message, slice_: Slice, payload_at: int, behaviour: Behaviour) -> None:
        super().__init__(message, slice_, behaviour)
        self.payload_offset = payload_at
        self.file_places: Sequence[int] = ()

    def read_items(self) -> None:
        """Give the message the items that it was sent with, out of the pool, if it has not kept them."""
        message, slice_ = self.message, self.payload
        assert slice_ is not None
        if message.items:
            return
        if not self.behaviour.keeps_order:
            return  # it had none that say more than can be said without
        data = slice_.pool.memory.read(slice_.offset + _HEADER.size, self.payload_offset - _HEADER.size)
        for _, number, payload, padding in walk(data):
            kind = self.behaviour.revision.kind_of(number)
            if kind not in (Kind.PAYLOAD_OFF, Kind.PAYLOAD_MEMFD, Kind.DST_NAME, Kind.BLOOM_FILTER):
                break  # metadata follow
            message.items.append(Item(Kind.PAYLOAD_VEC if kind == Kind.PAYLOAD_OFF else kind, payload, padding))

    def install(self, pool: Pool, caller: Caller, attach_flags: int, *, descriptors: bool) -> tuple[Slice, int]:
        """See `QueueEntry.install`: descriptors first, then memfds, each in order; -1 where there is none."""
        assert self.payload is not None
        message = self.message
        memfds = [part.file for part in message.parts if part.file is not None]
        places = zip((*self.file_places, *self.memfd_places), (*message.files, *memfds), strict=True)
        complete = True
        for place, file in places:
            number = max(caller.install(file), -1) if descriptors else -1
            complete = complete and (number >= 0 or not descriptors)
            pool.memory.write(self.payload.offset + place, struct.pack("<i", number))
        return self.payload.hold(), 0 if complete else abi.RECV_RETURN_INCOMPLETE_FDS
