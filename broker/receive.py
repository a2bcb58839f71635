# SPDX-License-Identifier: GPL-2.0-or-later
"""RECV: take the next message out of the queue, look at it, or drop it.

In order: an empty queue is EAGAIN, no message urgent enough ENOMSG; DROP throws the message away, and whoever waits
for a reply to it is told; messages lost since the last RECV are reported instead of a message, once (EOVERFLOW, with
their number in `dropped_msgs`); else header and items are written to the pool, descriptors installed, and the offset
given out. PEEK does the same but installs nothing and leaves the message where it is; each PEEK makes a slice of its
own, to be freed as usual.

Reference: `kdbus_cmd_msg_recv` in connection.c.
"""

from __future__ import annotations

from broker.command import Invocation
from broker.connection import Connection
from broker.errors import MessagesLost, PeerGone
from broker.queue import QueueEntry
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import signed64


def receive(connection: Connection, invocation: Invocation) -> None:
    """The whole command. Raises NoMessage, NoMessageOfPriority, MessagesLost, PoolFull or BadAddress."""
    try:
        _receive(connection, invocation)
    finally:
        connection.bus.notifications.flush()


def _receive(connection: Connection, invocation: Invocation) -> None:
    connection.last_received = None
    flags = invocation.get("flags")
    priority = signed64(invocation.get("priority")) if flags & abi.RECV_USE_PRIORITY else None
    invocation.put("dropped_msgs", 0)
    entry = connection.queue.peek(priority)
    offset = size = return_flags = 0
    if flags & abi.RECV_DROP:
        _drop(connection, entry)
    elif connection.lost_count:
        invocation.put("dropped_msgs", connection.lost_count)
        connection.lost_count = 0
        _store(invocation, 0, 0, 0)
        raise MessagesLost
    else:
        peek = bool(flags & abi.RECV_PEEK)
        attach_flags = connection.bus.domain.exported(connection.attach_flags_recv)
        slice_, return_flags = entry.install(connection.pool, invocation.caller, attach_flags, descriptors=not peek)
        slice_.publish()
        slice_.release()
        offset, size = slice_.offset, slice_.size
        if not peek:
            _remove(connection, entry)
            entry.discard()
            connection.last_received = entry.message
    _store(invocation, offset, size, return_flags)


def _store(invocation: Invocation, offset: int, size: int, return_flags: int) -> None:
    """Write the command back: `dropped_msgs` and `msg`."""
    invocation.put_bytes("msg", b"".join(word.to_bytes(8, "little") for word in (offset, size, return_flags)))
    invocation.finish()


def _remove(connection: Connection, entry: QueueEntry) -> None:
    connection.queue.remove(entry)
    if connection.events is not None and not len(connection.queue):
        connection.events.queue_drained()


def _drop(connection: Connection, entry: QueueEntry) -> None:
    """Throw the message away; a reply to it will never come."""
    _remove(connection, entry)
    reply = entry.reply
    if reply is not None and reply.linked:
        if reply.sync:
            reply.wake_up(PeerGone())
        else:
            connection.bus.notifications.reply_dead(entry.message.source, entry.message.cookie)
            reply.unlink()
    entry.discard()
