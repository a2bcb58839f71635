# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows: decisions that may be repeated without asking again, and what comes back when they end.

Most traffic is the same question over and over: may this connection send to that one, which metadata does the
receiver get, where in its pool does the message go? A *flow* is the broker's answer, given once, for messages of one
kind: payload without descriptors to pass, from this connection to that one. Whoever serves the hot calls
(`native/flow.c`) may repeat that answer as long as nothing changes.

Two things may change without a call of kdbus: who the sending thread is (its ids, its name, its program), and how a
receiving thread sees the world (its namespaces). Where the answer depends on the first, the flow is for messages of one
origin (`broker.origin`), or for a sender with the same credentials, which has to be established for each message.

To do so it must know the state that the rules work on: the receiver's pool, its queue, the replies that are expected.
So connections are *lent*: their state is handed out as it is, and the broker does not look at it again before it has
taken it back. It takes everything back before it does anything at all, so no rule ever sees half of the truth, and no
flow outlives a change of policy, names or metadata. `is_lendable` and `is_flow` say when; both are conservative, as
what is not lent is merely slower.

Nothing here decides who may do what; it only says when the modules that do would give the same answer again, and
turns state into words of 64 bits and back.

Alternatives: keeping the state natively for good would put the rules there as well; telling the native side of each
change would need a message for every rule that changes something, and one forgotten is a wrong delivery.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.access import may_talk
from broker.command import ORDINARY
from broker.connection import Connection
from broker.domain import Domain
from broker.layout import U64, signed64
from broker.message import Message, Part
from broker.origin import Origins, timestamp_of
from broker.outside import Credentials, File
from broker.queue import QueueEntry
from broker.quota import User
from broker.reply import Reply
from broker.send import Wait

LENT_DOMAINS = 16
_NOTIFICATION_WORDS = 14
_COMMAND_WORDS = 9
_PARTS = 16
"""Pieces of payload that a lent message may have."""
GROUPS = 1024
"""Auxiliary groups of a sender whose messages are lent; it may have 65536, which would be remembered (`Origins`)."""


@dataclass(frozen=True, slots=True)
class LentWait:
    """A synchronous SEND that waits, and may do so elsewhere.

    `notification`: 14 words that name the waiting call, and mean nothing here.
    """

    wait: Wait
    notification: tuple[int, ...]


def is_lendable(connection: Connection) -> bool:
    """Whether the hot calls on this connection depend on nothing that cannot be handed out.

    An ordinary, living connection without losses to report, whose waiting messages are plain, on a bus without
    monitors, which would have to see everything. Its replies are looked at by `lendable`.
    """
    return (
        connection.active
        and connection.kind == ORDINARY
        and not connection.lost_count
        and not connection.bus.monitors
        and all(_is_plain(entry.message) and _is_own(entry, connection) for entry in connection.queue.entries())
    )


def _is_own(entry: QueueEntry, connection: Connection) -> bool:
    """Whether nobody but its receiver is to answer the message.

    A request that nobody waits for any more, and that then moved with a name, still refers to its first receiver.
    """
    return entry.reply is None or entry.reply.replier is connection


def _is_plain(message: Message) -> bool:
    """Whether the message carries nothing but payload, metadata and perhaps a destination's name, and not too much."""
    return not (
        message.files
        or message.extra
        or len(message.parts) > _PARTS
        or len(message.process.credentials.groups) > GROUPS
    )


def lendable(connections: Iterable[Connection], waits: Container[Reply]) -> list[Connection]:
    """Those of `connections` that can be lent together: whatever replies they expect or owe are among themselves.

    `waits`: the replies of synchronous calls that may wait elsewhere. Any other call that waits keeps its connection
    here, but not the one that is to reply: the request can be received anywhere, and the reply comes to the broker, as
    there is no flow to what is not lent.
    """
    chosen = {connection: None for connection in connections if is_lendable(connection)}
    own = _by_connection(_replies(chosen))
    gone = [connection for connection in chosen if not _is_closed(connection, chosen, own[connection], waits)]
    while gone:
        connection = gone.pop()
        if connection not in chosen:
            continue
        del chosen[connection]
        for reply in own[connection]:
            if reply.replier is connection:
                gone.append(reply.requester)
            elif not reply.sync:
                gone.append(reply.replier)
    return list(chosen)


def _by_connection(replies: Iterable[Reply]) -> defaultdict[Connection, list[Reply]]:
    """The replies that each connection expects or owes."""
    found: defaultdict[Connection, list[Reply]] = defaultdict(list)
    for reply in replies:
        for connection in {reply.requester, reply.replier}:
            found[connection].append(reply)
    return found


def _replies(connections: Iterable[Connection]) -> list[Reply]:
    """All replies that the connections or their messages refer to; those that one expects with the oldest first."""
    found: dict[Reply, None] = {}
    for connection in connections:
        found |= dict.fromkeys(reversed(connection.replies))
    for connection in connections:
        found |= dict.fromkeys(connection.owed)
        found |= dict.fromkeys(entry.reply for entry in connection.queue.entries() if entry.reply is not None)
    return list(found)


def _is_closed(
    connection: Connection, chosen: Container[Connection], own: list[Reply], waits: Container[Reply]
) -> bool:
    return (
        all(reply.sync or reply.requester in chosen for reply in own if reply.requester is not connection)
        and all(
            reply.replier in chosen and (not reply.sync or reply in waits)
            for reply in own
            if reply.requester is connection
        )
        and sum(reply.requester is connection for reply in own) == connection.request_count
    )


def hand_out(
    connections: list[tuple[int, Connection, bool]],
    domains: Sequence[Domain],
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
    replies = {reply: serial for serial, reply in enumerate(_replies(numbers), 1)}
    kept = {serial: reply for reply, serial in replies.items() if reply.requester not in numbers}
    sequences = [domain.sequence for domain in domains]
    words = [*sequences, *[0] * (LENT_DOMAINS - len(sequences)), len(connections), len(replies)]
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
            words += _entry_words(entry, replies, user_number, origins, give_file)
    for reply in kept.values():
        # The request that goes may be all that refers to it.
        reply.hold()
    for _, connection, _ in connections:
        for entry in connection.queue.entries():
            connection.queue.remove(entry)
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
    return *lent.notification, *(int.from_bytes(command[start : start + 8], "little") for start in range(0, 72, 8))


def _entry_words(
    entry: QueueEntry,
    replies: Mapping[Reply, int],
    user_number: Callable[[User], int],
    origins: Origins,
    give_file: Callable[[File], int],
) -> list[int]:
    message = entry.message
    words = [0, message.flags, message.priority & U64, message.destination, message.source, message.payload_type]
    words += (message.cookie, message.timeout_or_cookie_reply, message.sequence, entry.name_id)
    words.append(U64 if entry.payload is None else entry.payload.offset)
    words.append(0 if entry.reply is None else replies[entry.reply])
    words.append(U64 if entry.charge is None else user_number(entry.charge.user))
    timestamp = timestamp_of(message.connection)
    words.append(origins.number_of(message.process, message.connection))
    words += (0, 0, 0) if timestamp is None else (1, *timestamp)
    words.append(len(message.parts))
    for part in message.parts:
        file = U64 if part.file is None else give_file(part.file)
        words += (part.size, U64 if part.start is None else part.start, file)
    name = b"" if message.destination_name is None else message.destination_name + b"\0"
    words.append(len(name))
    padded = name + bytes(-len(name) % 8)
    words += (int.from_bytes(padded[start : start + 8], "little") for start in range(0, len(padded), 8))
    return words


@dataclass(frozen=True, slots=True)
class Flow:
    """The same answer for every plain message while nothing changes.

    `attach_flags`: what its origin consists of. `talks`: whether messages other than replies may be sent.
    `depends`: whether that is so for a sender with the same credentials only.
    """

    attach_flags: int
    talks: bool
    depends: bool


def flow(source: Connection, destination: Connection, who: Credentials) -> Flow | None:
    """The flow from `source`, acting with the credentials `who`, to `destination`; None between different buses.

    Whether it may talk depends on its credentials at the moment, unless it is privileged and no endpoint asks more of
    it (`broker.access`). Replies that are expected need no permission.
    """
    if source.bus is not destination.bus:
        return None
    attach_flags = source.attach_flags_send & destination.attach_flags_recv
    talks = may_talk(source, who, destination)
    return Flow(attach_flags, talks, depends=talks and not (source.privileged and not source.endpoint.has_policy))


@dataclass(frozen=True, slots=True)
class ReturnedWait:
    """A synchronous SEND that waited when it was taken back.

    `notification`: 14 words that name the waiting call; `command`: its argument's bytes.
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
    domains: Sequence[Domain],
    connections: dict[int, Connection],
    users: dict[int, User],
    kept: Mapping[int, Reply],
    origins: Origins,
    open_file: Callable[[int], File],
) -> Returned:
    """Bring the broker's objects up to date with the state that was lent.

    Args:
        words: the sequence numbers of the domains; the number of connections whose state follows, and of replies; the
            replies, oldest first; the connections. Their layouts are those that `_reply`, `_connection` and `_entry`
            read. A connection that has not changed, and had no messages when it was lent, need not be among them;
            empty if that holds for all of them.
        domains: by index. connections, users: by the numbers under which they were lent.
        kept: the replies that `hand_out` kept, and held until now. origins: those of `hand_out`, not cleared since.
        open_file: makes a file of a descriptor that came with a message.
    """
    returned = Returned([], [], [])
    replies: dict[int, Reply] = {}
    if words:
        reader = iter(words)
        for domain, sequence in zip(domains, _take(reader, LENT_DOMAINS), strict=False):
            domain.sequence = max(domain.sequence, sequence)
        connection_count, reply_count = next(reader), next(reader)
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


def _take(reader: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(next(reader) for _ in range(count))


def _reply(
    reader: Iterator[int], connections: dict[int, Connection], waits: list[ReturnedWait]
) -> tuple[int, Reply] | None:
    """number, requester, replier, cookie, deadline, name id, state (bit 0 sync, 1 linked, 2 waiting); notification and
    command of a waiting call. The reply is held once for us; None for one that was kept.
    """
    number, requester_index, replier_index, cookie, deadline, name_id, state = _take(reader, 7)
    notification = _take(reader, _NOTIFICATION_WORDS)
    command = b"".join(word.to_bytes(8, "little") for word in _take(reader, _COMMAND_WORDS))
    if requester_index == U64:
        return None
    requester = connections[requester_index]
    reply = Reply(connections[replier_index], requester, cookie, deadline, name_id, sync=bool(state & 1))
    reply.waiting = bool(state & 4)
    if state & 2:
        reply.link()
        requester.bus.domain.deadlines.add(reply)
    if reply.waiting:
        waits.append(ReturnedWait(requester, reply.hold(), notification, command))
    return number, reply


def _connection(
    reader: Iterator[int],
    connections: dict[int, Connection],
    users: dict[int, User],
    replies: Mapping[int, Reply],
    origins: Origins,
    open_file: Callable[[int], File],
) -> tuple[Connection, int]:
    """index, state (bit 0 readable, 1 used), names and description (`Origins.of_connection`), attach flags, the pool,
    number of entries, the entries. Returns the connection and its state."""
    connection = connections[next(reader)]
    state = next(reader)
    _take(reader, 2)
    connection.pool.import_state(reader)
    for _ in range(next(reader)):
        connection.queue.add(_entry(reader, connection, users, replies, origins, open_file))
    return connection, state


def _entry(
    reader: Iterator[int],
    connection: Connection,
    users: dict[int, User],
    replies: Mapping[int, Reply],
    origins: Origins,
    open_file: Callable[[int], File],
) -> QueueEntry:
    """The message's header, sequence, name id, payload's offset, reply's number, user, origin, whether it has a
    timestamp, the timestamp, parts, name."""
    _, flags, priority, destination, source, payload_type, cookie, timeout = _take(reader, 8)
    sequence, name_id, payload, reply, user, origin = _take(reader, 6)
    has_timestamp, monotonic, realtime, part_count = _take(reader, 4)
    message = Message(destination, source, payload_type)
    message.flags, message.priority, message.cookie = flags, signed64(priority), cookie
    message.timeout_or_cookie_reply, message.sequence, message.name_id = timeout, sequence, name_id
    origins.restore(message, origin, (monotonic, realtime) if has_timestamp else None)
    for size, start, descriptor in (_take(reader, 3) for _ in range(part_count)):
        file = None if descriptor == U64 else open_file(descriptor)
        message.parts.append(Part(size, None if start == U64 and file is None else start, file))
    name_size = next(reader)
    raw = b"".join(word.to_bytes(8, "little") for word in _take(reader, (name_size + 7) // 8))
    message.destination_name = raw[: name_size - 1] if name_size else None
    entry = QueueEntry(message, None if payload == U64 else connection.pool.busy_slice(payload))
    message.drop()
    if user != U64:
        entry.charge = connection.quota.record(users[user])
    if reply:
        entry.reply = replies[reply].hold()
    return entry
