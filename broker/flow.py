# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows: decisions that may be repeated without asking again.

Most traffic is the same question over and over: may this connection send to that one, which metadata does the
receiver get, where in its pool does the message go? A *flow* is the broker's answer, given once, for messages of one
kind: payload without descriptors to pass, from this connection to that one. Whoever serves the hot calls
(`native/flow.c`) may repeat that answer as long as nothing changes.

A signal is the same question for many at once: who wants one with these bits in its filter, and may have it? The answer
is for all signals of this connection to that destination, all or one, with that very filter, and may be repeated as
long as everybody who gets them is lent, and can take one more.

Two things may change without a call of kdbus: who the sending thread is (its ids, its name, its program), and how a
receiving thread sees the world (its namespaces). Where the answer depends on the first, the flow is for messages of one
origin (`broker.origin`), or for a sender with the same credentials, which has to be established for each message.

To do so it must know the state that the rules work on: the receiver's pool, its queue, the replies that are expected.
So connections are *lent*: their state is handed out as it is, and the broker does not look at it again before it has
taken it back. It takes everything back before it does anything at all, so no rule ever sees half of the truth, and no
flow outlives a change of policy, names or metadata. `lendable` and `flow` say when; both are conservative, as
what is not lent is merely slower.

Nothing here decides who may do what; it only says when the modules that do would give the same answer again. How state
is handed out and taken back is in `broker.lending`.

Alternatives: keeping the state natively for good would put the rules there as well; telling the native side of each
change would need a message for every rule that changes something, and one forgotten is a wrong delivery.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import NamedTuple

from broker.access import may_talk
from broker.behaviour import Behaviour
from broker.connection import Connection
from broker.connection_kind import ORDINARY
from broker.delivery import audience, wants_signal
from broker.interfaces import Credentials
from broker.message import Message
from broker.queue import QueueEntry
from broker.quota import ShareQuota
from broker.receive import receive_offset, receive_telling_losses
from broker.reply import Reply
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

_MESSAGES = 256
"""Waiting messages of a connection that is lent."""
_PARTS = 16
"""Pieces of payload that a lent message may have."""
SLICES = 1024
"""Pieces that the pool of a lent connection may be in."""
GROUPS = 1024
"""Auxiliary groups of a sender whose messages are lent; it may have 65536, which would be remembered (`Origins`)."""


def is_lendable(connection: Connection) -> bool:
    """Whether the hot calls on this connection depend on nothing that cannot be handed out.

    An ordinary, living connection without losses to report, whose pool is not in too many pieces and whose waiting
    messages are plain, on a bus without monitors, which would have to see everything. Its replies are looked at by
    `lendable`.
    """
    if not connection.active or connection.kind != ORDINARY:
        return False
    if connection.faked_metadata and connection.behaviour.sends_claims:
        return False
    if len(connection.queue) > _MESSAGES or connection.lost_count:
        return False
    if connection.bus.monitors:
        return False
    return len(connection.pool) <= SLICES and all(
        entry.behaviour is connection.behaviour and _is_plain(entry) and _is_own(entry, connection)
        for entry in connection.queue.entries()
    )


def _is_own(entry: QueueEntry, connection: Connection) -> bool:
    """Whether nobody but its receiver is to answer the message.

    A request that nobody waits for any more, and that then moved with a name, still refers to its first receiver.
    """
    return entry.reply is None or entry.reply.replier is connection


def _is_plain(entry: QueueEntry) -> bool:
    """Whether the message carries nothing but payload, metadata and perhaps a destination's name, and not too much; and
    no memfd to who would lose the message with it."""
    message = entry.message
    return not (
        message.files
        or (entry.behaviour.needs_all_files and any(part.file is not None for part in message.parts))
        or message.kernel_flags
        or message.notification is not None
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
    own = _by_connection(replies_of(chosen))
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


def replies_of(connections: Iterable[Connection]) -> list[Reply]:
    """All replies that the connections or their messages refer to; those that one expects with the oldest first."""
    found: dict[Reply, None] = {}
    for connection in connections:
        if connection.replies:
            found |= dict.fromkeys(reversed(connection.replies))
    for connection in connections:
        if connection.owed:
            found |= dict.fromkeys(connection.owed)
        for entry in connection.queue.entries():
            if entry.reply is not None:
                found[entry.reply] = None
    return list(found)


def _is_closed(
    connection: Connection, chosen: Container[Connection], own: list[Reply], waits: Container[Reply]
) -> bool:
    expected = 0
    for reply in own:
        if reply.requester is connection:
            expected += 1
            if reply.replier not in chosen or (reply.sync and reply not in waits):
                return False
        elif not reply.sync and reply.requester not in chosen:
            return False
    return expected == connection.request_count


@dataclass(frozen=True, slots=True)
class Flow:
    """The same answer for every plain message while nothing changes.

    `attach_flags`: what its origin consists of, at most. `talks`: whether messages other than replies may be sent.
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
    attach_flags = destination.behaviour.grant.most(source, destination)
    talks = may_talk(source, who, destination)
    return Flow(attach_flags, talks, depends=talks and not (source.privileged and not source.endpoint.has_policy))


def reply_flow(source: Connection, destination: Connection) -> Flow:
    """What may be said of messages from `source` to `destination`, on the same bus, without knowing who sends them:
    replies that are expected need nobody's permission."""
    return Flow(destination.behaviour.grant.most(source, destination), talks=False, depends=False)


@dataclass(frozen=True, slots=True)
class Signal:
    """The same answer for every plain signal of the same `Topic`, while nothing changes.

    `receivers`: who gets it, each with what it is shown at most, in the order of their ids; `attach_flags`: what its
    origin consists of, at most.
    """

    receivers: tuple[tuple[Connection, int], ...]
    attach_flags: int


class Topic(NamedTuple):
    """Of a signal: its destination (an id, or the number for all), and its filter's generation and bits."""

    destination: int
    generation: int
    bits: int


def topic(sent: Message) -> Topic | None:
    """The topic of a message, None if it is no signal to an id or to all."""
    if sent.bloom_filter is None or sent.destination_name is not None:
        return None
    return Topic(sent.destination, sent.bloom_generation, sent.bloom_filter)


def signal(source: Connection, about: Topic) -> Signal | None:
    """Who gets a signal of `source` of that topic; None if it fails. Whether somebody does depends on nobody's
    credentials at the moment (`broker.access`)."""
    message = Message(about.destination, source.id, abi.PAYLOAD_KERNEL)
    message.bloom_generation, message.bloom_filter = about.generation, about.bits
    if message.is_broadcast:
        who = list(audience(source, message))
    else:
        destination = source.bus.connections.get(about.destination)
        if destination is None or destination.kind != ORDINARY:
            return None
        who = [destination] if wants_signal(source, destination, message) else []
        if not who and not source.behaviour.silent_unicast_signals:
            return None
    receivers = tuple((each, each.behaviour.grant.most(source, each)) for each in who)
    return Signal(receivers, reduce(or_, (attached for _, attached in receivers), 0))


def layout(behaviour: Behaviour) -> dict[str, int]:
    """What whoever serves the hot calls has to know of a revision, by the names of the members of
    `kdbus_flow_revision` (`native/helper.h`): numbers, places in words of 64 bits, 0 for what there is not, and
    properties."""
    revision = behaviour.revision
    found = {
        "whole": int(behaviour.inbox.whole),
        "keeps_order": int(behaviour.keeps_order),
        "takes_half": int(behaviour.inbox.takes_half),
        "shares_memory": int(behaviour.new_quota is ShareQuota),
        "writes_no_message": int(behaviour.receive is receive_telling_losses),
        "keeps_padding": int(behaviour.keeps_padding),
        "writes_empty_reply": int(behaviour.writes_empty_reply),
        "empty_is_pool_size": int(behaviour.empty_is_pool_size),
        "message_is_command": int(behaviour.message_is_command),
        "only_offsets": int(behaviour.receive is receive_offset),
        "needs_all_files": int(behaviour.needs_all_files),
        "timestamp_first": int(behaviour.timestamp_first),
    }
    for member, kind in _ITEMS.items():
        number = revision.number_of(kind)
        assert number is not None
        found[member] = number
    for command, members in _MEMBERS.items():
        request = revision.requests[command.upper()]
        struct = behaviour.commands[request].struct
        found |= {command: request, f"{command}_words": struct.size // 8}
        for name, possible in members.items():
            places = [struct.span(member)[0] // 8 for member in possible if member in struct.members]
            found[f"{command}_{name}"] = places[0] if places else 0
    return found


_ITEMS = {
    "item_vector": Kind.PAYLOAD_VEC,
    "item_offset": Kind.PAYLOAD_OFF,
    "item_memfd": Kind.PAYLOAD_MEMFD,
    "item_name": Kind.DST_NAME,
    "item_filter": Kind.BLOOM_FILTER,
    "item_timestamp": Kind.TIMESTAMP,
}
_ALWAYS = {"flags": ("flags",), "kernel_flags": ("kernel_flags",), "return_flags": ("return_flags",)}
_MEMBERS: dict[str, dict[str, tuple[str, ...]]] = {
    "send": {**_ALWAYS, "address": ("msg_address",), "reply": ("reply", "offset_reply")},
    "recv": {**_ALWAYS, "priority": ("priority",), "dropped": ("dropped_msgs",), "message": ("msg", "offset")},
    "free": {**_ALWAYS, "offset": ("offset",)},
}
"""Members of the structures, of which a revision has the first or the second."""
