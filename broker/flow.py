# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows: decisions that may be repeated without asking again, and what comes back when they end.

Most traffic is the same question over and over: may this connection send to that one, which metadata does the
receiver get, where in its pool does the message go? A *flow* is the broker's answer, given once, for messages of one
kind: plain vectors without descriptors, from a connection that needs nobody's permission to talk, to one that asks it
for no metadata. Whoever serves the hot calls (`native/flow.c`) may repeat that answer as long as nothing changes.

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from broker.command import ORDINARY
from broker.connection import Connection
from broker.domain import Domain
from broker.layout import U64, signed64
from broker.message import Message, Part
from broker.queue import QueueEntry
from broker.quota import User
from broker.reply import Reply

LENT_DOMAINS = 16
_NOTIFICATION_WORDS = 12
_COMMAND_WORDS = 9


def is_lendable(connection: Connection) -> bool:
    """Whether all that the hot calls on this connection depend on can be handed out.

    An ordinary, living connection with an empty queue, no losses to report, and no replies in either direction; on a
    bus without monitors, which would have to see everything.
    """
    return (
        connection.active
        and connection.kind == ORDINARY
        and not len(connection.queue)
        and not connection.lost_count
        and not connection.request_count
        and not connection.owed
        and not connection.bus.monitors
    )


def is_flow(source: Connection, destination: Connection) -> bool:
    """Whether every plain message from `source` to `destination` gets the same answer while nothing changes.

    The sender needs no permission that depends on who it is at the moment (`broker.access`), and the two agree on no
    metadata, which would have to be collected each time.
    """
    return (
        source.bus is destination.bus
        and source.privileged
        and not source.endpoint.has_policy
        and not source.attach_flags_send & destination.attach_flags_recv
    )


@dataclass(frozen=True, slots=True)
class ReturnedWait:
    """A synchronous SEND that waited when it was taken back.

    `notification`: 12 words that name the waiting call; `command`: its argument's bytes.
    """

    connection: Connection
    reply: Reply
    notification: tuple[int, ...]
    command: bytes


@dataclass(frozen=True, slots=True)
class Returned:
    """What else came back: waiting calls, and for each changed connection whether its pollers see it readable."""

    waits: list[ReturnedWait]
    readable: list[tuple[Connection, bool]]


def take_back(
    words: Sequence[int],
    domains: Sequence[Domain | None],
    connections: dict[int, Connection],
    users: dict[int, User],
) -> Returned:
    """Bring the broker's objects up to date with the state that was lent.

    Args:
        words: the sequence numbers of the domains; the number of changed connections, and of replies; the
        connections;
            the replies, oldest first. Their layouts are those that `_connection`, `_entry` and `_reply` read.
        domains: by index. connections, users: by the numbers under which they were lent.
    """
    reader = iter(words)
    for index in range(LENT_DOMAINS):
        sequence = next(reader)
        domain = domains[index] if index < len(domains) else None
        if domain is not None:
            domain.sequence = max(domain.sequence, sequence)
    connection_count, reply_count = next(reader), next(reader)
    waiting_for: dict[int, QueueEntry] = {}
    readable = [_connection(reader, connections, users, waiting_for) for _ in range(connection_count)]
    waits: list[ReturnedWait] = []
    for _ in range(reply_count):
        _reply(reader, connections, waiting_for, waits)
    return Returned(waits, readable)


def _take(reader: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(next(reader) for _ in range(count))


def _connection(
    reader: Iterator[int], connections: dict[int, Connection], users: dict[int, User], requests: dict[int, QueueEntry]
) -> tuple[Connection, bool]:
    """index, readable, the pool, number of entries, the entries."""
    connection = connections[next(reader)]
    readable = bool(next(reader))
    connection.pool.import_state(reader)
    for _ in range(next(reader)):
        connection.queue.add(_entry(reader, connection, users, requests))
    return connection, readable


def _entry(
    reader: Iterator[int], connection: Connection, users: dict[int, User], requests: dict[int, QueueEntry]
) -> QueueEntry:
    """The message's header, sequence, name id, payload's offset, reply's number, user, parts, name."""
    _, flags, priority, destination, source, payload_type, cookie, timeout = _take(reader, 8)
    sequence, name_id, payload, reply, user, part_count = _take(reader, 6)
    message = Message(destination, source, payload_type)
    message.flags, message.priority, message.cookie = flags, signed64(priority), cookie
    message.timeout_or_cookie_reply, message.sequence, message.name_id = timeout, sequence, name_id
    message.parts = [Part(size, start, None) for size, start in (_take(reader, 2) for _ in range(part_count))]
    message.payload_size = sum(part.size for part in message.parts)
    name_size = next(reader)
    if name_size:
        raw = b"".join(word.to_bytes(8, "little") for word in _take(reader, (name_size + 7) // 8))
        message.destination_name = raw[: name_size - 1]
    entry = QueueEntry(message, None if payload == U64 else connection.pool.busy_slice(payload))
    message.drop()
    if user != U64:
        entry.charge = connection.quota.record(users[user])
    if reply:
        requests[reply] = entry
    return entry


def _reply(
    reader: Iterator[int],
    connections: dict[int, Connection],
    requests: dict[int, QueueEntry],
    waits: list[ReturnedWait],
) -> None:
    """number, requester, replier, cookie, deadline, name id, state; notification and command of a waiting call."""
    number, requester_index, replier_index, cookie, deadline, name_id, state = _take(reader, 7)
    notification = _take(reader, _NOTIFICATION_WORDS)
    command = b"".join(word.to_bytes(8, "little") for word in _take(reader, _COMMAND_WORDS))
    requester = connections[requester_index]
    reply = Reply(connections[replier_index], requester, cookie, deadline, name_id, sync=bool(state & 1))
    reply.waiting = bool(state & 4)
    if state & 2:
        reply.link()
        requester.bus.domain.deadlines.add(reply)
    entry = requests.get(number)
    if entry is not None:
        entry.reply = reply.hold()
    if reply.waiting:
        waits.append(ReturnedWait(requester, reply.hold(), notification, command))
    reply.drop()
