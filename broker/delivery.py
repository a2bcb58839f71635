# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery: how a message gets into queues, one or many.

`insert` is the only way into a queue, for messages of connections and notifications alike. It checks what the
receiver can take: descriptors only if it accepts them, 256 messages at most, no more than half of what is free in its
pool, and its quota per user.

A broadcast goes to every ordinary connection that has a fitting match and TALK access to the sender, a broadcast
notification to those that have a fitting match and may see it. Neither ever fails: a receiver that cannot take it
counts it as lost, and is told at its next RECV. What a sender that was killed meanwhile did not get to send is not
lost. Monitors get everything, before anybody else.

Those who want it get it in the order of their ids. Reference:
`kdbus_conn_entry_insert` in connection.c, `kdbus_bus_broadcast` and `kdbus_bus_eavesdrop` in bus.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker import limits
from broker.access import may_see_notification, may_talk
from broker.errors import CallerGone, DescriptorsRefused, Disconnected, KdbusError, PoolShareExceeded, QueueFull
from broker.message import Message
from broker.outside import Caller
from broker.queue import QueueEntry
from broker.reply import Reply
from kdbus.abi import revision3 as abi

if TYPE_CHECKING:
    from broker.bus import Bus
    from broker.connection import Connection


def collect(sent: Message, source: Connection, destination: Connection, caller: Caller) -> None:
    """Collect the metadata that the sender lets out and this receiver asks for."""
    flags = source.attach_flags_send & destination.attach_flags_recv
    if not flags & ~(sent.process.collected | sent.connection.collected):
        return
    if not source.faked_metadata:
        sent.process.collect(caller, flags)
    sent.connection.collect_timestamp(source.bus.domain.clock, sent.sequence, flags)
    names = ((name, entry.flags) for name, entry in source.names.items())
    sent.connection.collect(names, source.description, flags)


def make_entry(destination: Connection, sent: Message, caller: Caller | None) -> QueueEntry:
    """Copy the payload into the receiver's pool.

    `caller` is the sending thread, None for a notification. Raises Disconnected, DescriptorsRefused,
    PoolShareExceeded, PoolFull or BadAddress.
    """
    if not destination.active:
        raise Disconnected
    if sent.files and not destination.flags & abi.HELLO_ACCEPT_FD:
        raise DescriptorsRefused
    if not sent.pieces or caller is None:
        return QueueEntry(sent, None)
    pool = destination.pool
    if pool.remaining // 2 < sent.payload_size < pool.remaining:
        raise PoolShareExceeded
    return QueueEntry(sent, sent.copy_to(pool, caller))


def insert(
    source: Connection | None, destination: Connection, sent: Message, caller: Caller | None, reply: Reply | None
) -> None:
    """Put the message into the receiver's queue; from then on `reply`, if any, is expected.

    Raises QueueFull (256 messages wait, or the user's share is used up), and what making the entry raises.
    """
    if len(destination.queue) >= limits.MESSAGES_PER_CONNECTION:
        raise QueueFull
    entry = make_entry(destination, sent, caller)
    try:
        user = None if source is None else source.user
        entry.charge = destination.quota.charge(user, len(destination.queue))
    except QueueFull:
        entry.discard()
        raise
    if reply is not None:
        entry.reply = reply.hold()
        reply.link()
        destination.bus.domain.deadlines.add(reply)
    destination.enqueue(entry)


def _try_insert(source: Connection | None, destination: Connection, sent: Message, caller: Caller | None) -> None:
    try:
        insert(source, destination, sent, caller, None)
    except CallerGone:
        raise
    except KdbusError:
        destination.lost_count += 1


def eavesdrop(bus: Bus, source: Connection | None, sent: Message, caller: Caller | None) -> None:
    """Give every monitor of the bus a copy."""
    for monitor in list(bus.monitors):
        if source is not None and caller is not None:
            collect(sent, source, monitor, caller)
        _try_insert(source, monitor, sent, caller)


def broadcast(bus: Bus, source: Connection | None, sent: Message, caller: Caller | None) -> None:
    """Deliver a broadcast of `source`, or of the bus itself, to all who want it and may have it."""
    eavesdrop(bus, source, sent, caller)
    for destination in bus.subscribers.wanting(sent, source):
        if destination is source:
            continue
        if source is not None and caller is not None:
            if not may_talk(destination, destination.credentials, source):
                continue
            collect(sent, source, destination, caller)
        elif sent.notification is None or not may_see_notification(destination, sent.notification):
            continue
        _try_insert(source, destination, sent, caller)


def notify(bus: Bus, sent: Message) -> None:
    """Deliver a notification, to one connection or to all who want it; it gets its sequence number and time now."""
    domain = bus.domain
    sent.sequence = domain.next_sequence()
    sent.connection.collect_timestamp(domain.clock, sent.sequence, abi.ATTACH_TIMESTAMP)
    if sent.is_broadcast:
        broadcast(bus, None, sent, None)
        return
    destination = bus.connections.get(sent.destination)
    if destination is not None:
        eavesdrop(bus, None, sent, None)
        try:
            insert(None, destination, sent, None, None)
        except KdbusError:
            # Nobody could be told: unlike a lost broadcast, this is not counted.
            return
