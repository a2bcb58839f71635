# SPDX-License-Identifier: GPL-2.0-or-later
"""Lending: the state of connections as words of 64 bits, and back.

What is lent (`broker.flow` says when it may be) leaves the broker: pools, queues, and the replies that are expected, in
one sequence of words that has the same layout in both directions (`native/flow_state.c`). It comes back changed, and
the objects here are brought up to date with it.

All of it is done for each connection whenever the broker is needed, so it has to be quick: what is the same for all
receivers of a message is packed once, and what a pool or a queue has nothing of costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from broker.connection import Connection
from broker.domain import MessageCounter
from broker.flow import replies_of
from broker.interfaces import File
from broker.message import Message, Part
from broker.origin import Origins, timestamp_of
from broker.queue import QueueEntry
from broker.quota import User
from broker.reply import Reply
from broker.send import Wait
from kdbus.abi.layout import U64, signed64

LENT_COUNTERS = 16
_NOTIFICATION_WORDS = 15
_COMMAND_WORDS = 9


@dataclass(frozen=True, slots=True)
class LentWait:
    """A synchronous SEND that waits, and may do so elsewhere.

    `notification`: 15 words that name the waiting call, and mean nothing here.
    """

    wait: Wait
    notification: tuple[int, ...]


def hand_out(
    connections: list[tuple[int, Connection, bool]],
    counters: Sequence[MessageCounter],
    user_number: Callable[[User], int],
    origins: Origins,
    give_file: Callable[[File], int],
    waits: Mapping[Reply, LentWait],
) -> tuple[list[int], dict[int, Reply]]:
    """The state of `lendable` connections as words, as `take_back` reads them, and the replies that were kept.

    Their messages and replies are gone from here until then. `connections`: the number under which each is lent, and
    whether its pollers see it readable. `give_file`: a descriptor of the memfd, to be
    owned by whoever gets the words; what it raises leaves everything here as it was. `waits`: as for
    `lendable`; those of the connections are over here.
    """
    numbers = {connection: number for number, connection, _ in connections}
    replies = {reply: serial for serial, reply in enumerate(replies_of(numbers), 1)}
    kept = {serial: reply for reply, serial in replies.items() if reply.requester not in numbers}
    message_words = cache(partial(_message_words, origins))
    sequences = [counter.latest for counter in counters]
    words = [*sequences, *[0] * (LENT_COUNTERS - len(sequences)), len(connections), len(replies)]
    for reply, serial in replies.items():
        ends = numbers.get(reply.requester, U64), numbers[reply.replier]
        words += (
            serial,
            *ends,
            reply.cookie,
            reply.deadline_ns & U64,
            reply.name_id,
            reply.sync | reply.linked << 1 | reply.waiting << 2,
        )
        words += _wait_words(waits.get(reply) if reply.requester in numbers else None)
    for number, connection, readable in connections:
        words += (number, int(readable), origins.of_connection(connection), connection.attach_flags_recv)
        words += (*connection.pool.export_state(), len(connection.queue))
        for entry in connection.queue.entries():
            words += _entry_words(entry, message_words(entry.message), replies, user_number, give_file)
    for reply in kept.values():
        # The request that goes may be all that refers to it.
        reply.hold()
    for _, connection, _ in connections:
        for entry in connection.queue.take_all():
            # What becomes of its slice, the pool's state tells: that of a connection with messages always comes back.
            entry.payload = None
            entry.discard()
    for reply, serial in replies.items():
        if serial not in kept:
            reply.unlink()
            if reply in waits:
                waits[reply].wait.leave()
    return words, kept


def _wait_words(lent: LentWait | None) -> Sequence[int]:
    if lent is None:
        return (0,) * (_NOTIFICATION_WORDS + _COMMAND_WORDS)
    command = lent.wait.command
    assert command is not None
    words = [int.from_bytes(command[start : start + 8], "little") for start in range(0, len(command), 8)]
    return *lent.notification, *words, *[0] * (_COMMAND_WORDS - len(words))


def _message_words(origins: Origins, message: Message) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """What is the same for all receivers of a message: its header with the sequence, its origin, its name."""
    header = (
        *(0, message.flags, message.priority & U64, message.destination, message.source, message.payload_type),
        *(message.cookie, message.timeout_or_cookie_reply, message.sequence),
    )
    timestamp = timestamp_of(message.connection)
    origin = origins.number_of(message.process, message.connection)
    name = b"" if message.destination_name is None else message.destination_name + b"\0"
    padded = name + bytes(-len(name) % 8)
    return (
        header,
        (origin, 0, 0, 0) if timestamp is None else (origin, 1, *timestamp),
        (len(name), *(int.from_bytes(padded[start : start + 8], "little") for start in range(0, len(padded), 8))),
    )


def _entry_words(
    entry: QueueEntry,
    message_words: tuple[Sequence[int], Sequence[int], Sequence[int]],
    replies: Mapping[Reply, int],
    user_number: Callable[[User], int],
    give_file: Callable[[File], int],
) -> list[int]:
    header, origin, name = message_words
    parts = entry.message.parts
    words = [
        *header,
        entry.name_id,
        U64 if entry.payload is None else entry.payload.offset,
        0 if entry.reply is None else replies[entry.reply],
        U64 if entry.charge is None or entry.charge.user is None else user_number(entry.charge.user),
        *origin,
        len(parts),
    ]
    places = iter(entry.memfd_places)
    for part in parts:
        if part.file is None:
            words += (part.size, U64 if part.start is None else part.start, U64, 0)
        else:
            words += (part.size, U64 if part.start is None else part.start, give_file(part.file), next(places, 0))
    words += name
    return words


@dataclass(frozen=True, slots=True)
class ReturnedWait:
    """A synchronous SEND that waited when it was taken back.

    `notification`: 15 words that name the waiting call; `command`: its argument's bytes.
    """

    connection: Connection
    reply: Reply
    notification: tuple[int, ...]
    command: bytes


@dataclass(frozen=True, slots=True)
class Returned:
    """What else came back: calls that wait; whether pollers see the connections readable that were changed or had
    messages; those among them on which calls were served.
    """

    waits: list[ReturnedWait]
    readable: list[tuple[Connection, bool]]
    used: list[Connection]


def take_back(
    words: Sequence[int],
    counters: Sequence[MessageCounter],
    connections: dict[int, Connection],
    users: dict[int, User],
    kept: Mapping[int, Reply],
    origins: Origins,
    open_file: Callable[[int], File],
) -> Returned:
    """Bring the broker's objects up to date with the state that was lent.

    Args:
        words: the latest sequence numbers; the number of connections whose state follows, and of replies; the
            replies, oldest first; the connections. Their layouts are those that `_reply`, `_connection` and `_entry`
            read. A connection that has not changed, and had no messages when it was lent, need not be among them;
            empty if that holds for all of them.
        counters: by index. connections, users: by the numbers under which they were lent.
        kept: the replies that `hand_out` kept, and held until now. origins: those of `hand_out`, not cleared since.
        open_file: makes a file of a descriptor that came with a message.
    """
    returned = Returned([], [], [])
    replies: dict[int, Reply] = {}
    if words:
        reader = _Reader(words)
        for counter, latest in zip(counters, reader.take(LENT_COUNTERS), strict=False):
            counter.latest = max(counter.latest, latest)
        connection_count, reply_count = reader.take(2)
        replies.update(filter(None, (_reply(reader, connections, returned.waits) for _ in range(reply_count))))
        known = {**kept, **replies}
        for _ in range(connection_count):
            connection, state = _connection(reader, connections, users, known, origins, open_file)
            returned.readable.append((connection, bool(state & 1)))
            if state & 2:
                returned.used.append(connection)
    for reply in (*replies.values(), *kept.values()):
        reply.drop()
    return returned


class _Reader:
    """Words that are read one after the other."""

    __slots__ = ("_place", "_words")

    def __init__(self, words: Sequence[int]) -> None:
        self._words = words
        self._place = 0

    def take(self, count: int) -> Sequence[int]:
        """The next ones. Raises EOFError if there are not so many."""
        start, self._place = self._place, self._place + count
        if self._place > len(self._words):
            raise EOFError
        return self._words[start : self._place]


def _reply(reader: _Reader, connections: dict[int, Connection], waits: list[ReturnedWait]) -> tuple[int, Reply] | None:
    """number, requester, replier, cookie, deadline, name id, state (bit 0 sync, 1 linked, 2 waiting); notification and
    command of a waiting call. The reply is held once for us; None for one that was kept.
    """
    number, requester_index, replier_index, cookie, deadline, name_id, state = reader.take(7)
    notification = tuple(reader.take(_NOTIFICATION_WORDS))
    command = reader.take(_COMMAND_WORDS)
    if requester_index == U64:
        return None
    requester = connections[requester_index]
    reply = Reply(connections[replier_index], requester, cookie, deadline, name_id, sync=bool(state & 1))
    reply.waiting = bool(state & 4)
    if state & 2:
        reply.link()
        requester.bus.domain.deadlines.add(reply)
    if reply.waiting:
        size = requester.behaviour.send_command.struct.size
        data = b"".join(word.to_bytes(8, "little") for word in command[: size // 8])
        waits.append(ReturnedWait(requester, reply.hold(), notification, data))
    return number, reply


def _connection(
    reader: _Reader,
    connections: dict[int, Connection],
    users: dict[int, User],
    replies: Mapping[int, Reply],
    origins: Origins,
    open_file: Callable[[int], File],
) -> tuple[Connection, int]:
    """index, state (bit 0 readable, 1 used), names and description (`Origins.of_connection`), attach flags, the pool,
    number of entries, the entries. Returns the connection and its state."""
    index, state, _, _ = reader.take(4)
    connection = connections[index]
    pool = reader.take(3)
    connection.pool.import_state((*pool, *reader.take(4 * pool[2])))
    for _ in range(*reader.take(1)):
        connection.queue.add(_entry(reader, connection, users, replies, origins, open_file))
    return connection, state


def _entry(
    reader: _Reader,
    connection: Connection,
    users: dict[int, User],
    replies: Mapping[int, Reply],
    origins: Origins,
    open_file: Callable[[int], File],
) -> QueueEntry:
    """The message's header, sequence, name id, payload's offset, reply's number, user, origin, whether it has a
    timestamp, the timestamp, parts, name."""
    _, flags, priority, destination, source, payload_type, cookie, timeout = reader.take(8)
    sequence, name_id, payload, reply, user, origin, has_timestamp, monotonic, realtime, part_count = reader.take(10)
    message = Message(destination, source, payload_type)
    message.flags, message.priority, message.cookie = flags, signed64(priority), cookie
    message.timeout_or_cookie_reply, message.sequence, message.name_id = timeout, sequence, name_id
    origins.restore(message, origin, (monotonic, realtime) if has_timestamp else None)
    memfd_places: list[int] = []
    for size, start, descriptor, place in (reader.take(4) for _ in range(part_count)):
        file = None if descriptor == U64 else open_file(descriptor)
        part = Part(size, None if start == U64 and file is None else start, file)
        message.parts.append(part)
        message.payload_size += part.stored
        if file is not None:
            memfd_places.append(place)
    if message.payload_size:
        message.pieces.append((0, message.payload_size))  # where it came from, nobody asks any more
    (name_size,) = reader.take(1)
    if name_size:
        raw = b"".join(word.to_bytes(8, "little") for word in reader.take((name_size + 7) // 8))
        message.destination_name = raw[: name_size - 1]
    held = None if payload == U64 else connection.pool.busy_slice(payload)
    behaviour = connection.behaviour
    entry = behaviour.inbox.restore(message, held, memfd_places, behaviour)
    message.drop()
    if user != U64:
        entry.charge = connection.quota.record(users[user], 0 if held is None else held.size, 0)
    if reply:
        entry.reply = replies[reply].hold()
        message.sync = entry.reply.sync
    return entry
