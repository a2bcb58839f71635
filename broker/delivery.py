# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery: how a message gets into queues, one or many.

`insert` is the only way into a queue, for messages of connections and notifications alike. What the receiver can take
is decided by its inbox (`broker.inbox`) and its quota.

A broadcast goes to every ordinary connection that has a fitting match and TALK access to the sender, a broadcast
notification to those that have a fitting match and may see it. Neither ever fails: a receiver that cannot take it
counts it as lost, and is told at its next RECV. What a sender that was killed meanwhile did not get to send is not
lost. Monitors get everything, before anybody else; those of version 2 what has been delivered, and of broadcasts
what they have a match for.

Those who want it get it in the order of their ids. Reference:
`kdbus_conn_entry_insert` in connection.c, `kdbus_bus_broadcast` and `kdbus_bus_eavesdrop` in bus.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.access import may_see_notification, may_talk
from broker.errors import CallerGone, KdbusError
from broker.interfaces import Caller
from broker.message import Message
from broker.reply import Reply
from kdbus.abi import revision3 as abi

if TYPE_CHECKING:
    from broker.bus import Bus
    from broker.connection import Connection


def collect(sent: Message, source: Connection, destination: Connection, caller: Caller) -> int:
    """Collect the metadata that this receiver is granted, and return their KDBUS_ATTACH_* flags."""
    flags = destination.behaviour.grant.attached(source, destination, caller)
    if source.faked_metadata and source.behaviour.sends_claims:
        flags &= ~abi.ATTACH_TIMESTAMP
        sent.process = source.metadata
    if flags & ~(sent.process.collected | sent.connection.collected):
        if not source.faked_metadata:
            sent.process.collect(caller, flags)
        sent.connection.collect_timestamp(source.bus.domain.clock, sent.sequence, flags)
        names = ((name, entry.flags) for name, entry in source.names.items())
        sent.connection.collect(names, source.description, flags)
    return flags


def insert(
    source: Connection | None,
    destination: Connection,
    sent: Message,
    caller: Caller | None,
    reply: Reply | None,
    attached: int,
) -> None:
    """Put the message into the receiver's queue; from then on `reply`, if any, is expected.

    `caller` is the sending thread, None for a notification; `attached` what `collect` has returned for this receiver.
    Raises what `Inbox.accept` raises.
    """
    user = None if source is None else source.user
    entry = destination.behaviour.inbox.accept(destination, sent, caller, user, attached)
    if reply is not None:
        entry.reply = reply.hold()
        reply.link()
        destination.bus.domain.deadlines.add(reply)
    destination.enqueue(entry)


def _try_insert(
    source: Connection | None, destination: Connection, sent: Message, caller: Caller | None, attached: int
) -> None:
    try:
        insert(source, destination, sent, caller, None, attached)
    except CallerGone:
        raise
    except KdbusError:
        destination.lose()


def eavesdrop(bus: Bus, source: Connection | None, sent: Message, caller: Caller | None) -> None:
    """Give every monitor of the bus a copy, after who watches from outside; not those that get it otherwise."""
    if bus.domain.tap is not None:
        bus.domain.tap.sent(bus, source, sent, caller)
    _copy_to(bus, source, sent, caller, late=False)


def copy_delivered(source: Connection, sent: Message, caller: Caller) -> None:
    """Give a unicast message that has been delivered to those monitors that get it only then."""
    _copy_to(source.bus, source, sent, caller, late=True)


def _copy_to(bus: Bus, source: Connection | None, sent: Message, caller: Caller | None, *, late: bool) -> None:
    for monitor in list(bus.monitors):
        if monitor.behaviour.monitors_match != late:
            continue
        attached = abi.ATTACH_TIMESTAMP
        if source is not None and caller is not None:
            attached = collect(sent, source, monitor, caller)
        _try_insert(source, monitor, sent, caller, attached)


def broadcast(bus: Bus, source: Connection | None, sent: Message, caller: Caller | None) -> None:
    """Deliver a broadcast of `source`, or of the bus itself, to all who want it and may have it."""
    eavesdrop(bus, source, sent, caller)
    if source is None or caller is None:
        for destination in bus.subscribers.wanting(sent, None):
            if sent.notification is not None and may_see_notification(destination, sent.notification):
                _try_insert(None, destination, sent, None, abi.ATTACH_TIMESTAMP)
        return
    for destination in audience(source, sent):
        _try_insert(source, destination, sent, caller, collect(sent, source, destination, caller))


def audience(source: Connection, sent: Message) -> Iterator[Connection]:
    """Who wants a broadcast of `source` and may have it, in the order of their ids."""
    for destination in source.bus.subscribers.wanting(sent, source):
        if destination is source and not destination.behaviour.own_broadcasts:
            continue
        if may_talk(destination, destination.credentials, source):
            yield destination


def wants_signal(source: Connection, destination: Connection, sent: Message) -> bool:
    """Whether the receiver of a unicast signal has a match for it and may talk to its sender."""
    return destination.matches.fits(sent, source) and may_talk(destination, destination.credentials, source)


def notify(bus: Bus, sent: Message) -> None:
    """Deliver a notification, to one connection or to all who want it; it gets its sequence number and time now."""
    domain = bus.domain
    sent.sequence = bus.messages.next()
    sent.connection.collect_timestamp(domain.clock, sent.sequence, abi.ATTACH_TIMESTAMP)
    if sent.is_broadcast:
        broadcast(bus, None, sent, None)
        return
    destination = bus.connections.get(sent.destination)
    if destination is not None:
        eavesdrop(bus, None, sent, None)
        try:
            insert(None, destination, sent, None, None, abi.ATTACH_TIMESTAMP)
        except KdbusError:
            # Nobody could be told: unlike a lost broadcast, this is not counted.
            return
