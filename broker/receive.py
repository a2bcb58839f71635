# SPDX-License-Identifier: GPL-2.0-or-later
"""RECV: take the next message out of the queue, look at it, or drop it.

In order: an empty queue is EAGAIN, no message urgent enough ENOMSG; DROP throws the message away, and whoever waits
for a reply to it is told; messages lost since the last RECV are reported instead of a message, once (EOVERFLOW, with
their number in `dropped_msgs`); else the message is made readable in the pool (`broker.inbox`), descriptors installed,
and the offset given out. PEEK does the same but installs nothing and leaves the message where it is.

In the final revision losses are told by a return flag instead, together with the next message or with EAGAIN. Version 2
tells nothing but the offset.

Reference: `kdbus_cmd_msg_recv` in connection.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from broker.command import Invocation
from broker.connection import Connection
from broker.errors import (
    BadArgument,
    KdbusError,
    MessagesLost,
    NoFreeDescriptor,
    NoMessage,
    NoMessageOfPriority,
    PeerGone,
)
from broker.pool import Slice
from broker.queue import QueueEntry
from kdbus.abi import final
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import signed64

RETURN_DROPPED_MSGS = final.CONSTANTS["KDBUS_RECV_RETURN_DROPPED_MSGS"]


def receive(connection: Connection, invocation: Invocation) -> None:
    """RECV up to version 3, where losses are an error of their own.

    Raises NoMessage, NoMessageOfPriority, MessagesLost, PoolFull or BadAddress.
    """
    with _flushing(connection):
        invocation.put("dropped_msgs", 0)
        entry = connection.queue.peek(_priority(invocation))
        if invocation.get("flags") & abi.RECV_DROP:
            _drop(connection, entry)
            _store(invocation, 0, 0, 0)
        elif connection.lost_count:
            invocation.put("dropped_msgs", connection.lost_count)
            lost, connection.lost_count = connection.lost_count, 0
            _store(invocation, 0, 0, 0)
            raise MessagesLost(count=lost)
        else:
            _store(invocation, *_take(connection, entry, invocation))


def receive_telling_losses(connection: Connection, invocation: Invocation) -> None:
    """RECV of the final revision, where losses are told by a flag with whatever else RECV says, EAGAIN included.

    Raises BadArgument (DROP by priority), NoMessage or BadAddress. Reference: final-revision.md, 4.4.5.
    """
    with _flushing(connection):
        flags = invocation.get("flags")
        if flags & abi.RECV_DROP and flags & abi.RECV_USE_PRIORITY:
            raise BadArgument(rule="DROP with USE_PRIORITY")
        result = (connection.empty_offset, 0, 0)
        nothing: KdbusError | None = None
        try:
            entry = connection.queue.peek(_priority(invocation))
        except (NoMessage, NoMessageOfPriority) as error:
            nothing = error
        else:
            if flags & abi.RECV_DROP:
                _drop(connection, entry)
            else:
                result = _take(connection, entry, invocation)
        invocation.put("dropped_msgs", connection.lost_count)
        invocation.put("return_flags", RETURN_DROPPED_MSGS if connection.lost_count else 0)
        connection.lost_count = 0
        connection.drained()
        _store(invocation, *result)
        if nothing is not None:
            raise nothing


def receive_offset(connection: Connection, invocation: Invocation) -> None:
    """RECV of version 2, which tells where the message is and nothing else; of losses not even how many there were.

    Raises BadArgument (an offset is given), NoMessage, NoMessageOfPriority, MessagesLost, PoolFull, NoFreeDescriptor or
    BadAddress. Reference: final-revision.md, 6.2.
    """
    with _flushing(connection):
        if invocation.get("offset"):
            raise BadArgument(rule="offset is not 0")
        entry = connection.queue.peek(_priority(invocation))
        if invocation.get("flags") & abi.RECV_DROP:
            _drop(connection, entry)
        elif connection.lost_count:
            lost, connection.lost_count = connection.lost_count, 0
            raise MessagesLost(count=lost)
        else:
            offset, _, _ = _take(connection, entry, invocation)
            invocation.put("offset", offset)
        invocation.finish()


def check_files(connection: Connection, slice_: Slice, return_flags: int) -> None:
    """Some revisions refuse a message whose descriptors cannot all be installed. Raises NoFreeDescriptor, having let go
    of `slice_`, in which it is."""
    if return_flags and connection.behaviour.needs_all_files:
        slice_.release()
        raise NoFreeDescriptor(connection=connection.id)


def next_is_broadcast(connection: Connection) -> bool:
    """Whether the oldest message in the queue is a broadcast, which may be lost."""
    entries = connection.queue.entries()
    return bool(entries) and entries[0].message.is_broadcast


def lose_next(connection: Connection) -> None:
    """Make of the oldest message in the queue, a broadcast, one that could not be queued: it is counted as lost.

    For faults that are injected from outside.
    """
    entry = connection.queue.peek(None)
    _drop(connection, entry)
    connection.lose()


@contextmanager
def _flushing(connection: Connection) -> Iterator[None]:
    try:
        yield
    finally:
        connection.bus.notifications.flush()


def _priority(invocation: Invocation) -> int | None:
    if not invocation.get("flags") & abi.RECV_USE_PRIORITY:
        return None
    return signed64(invocation.get("priority"))


def _take(connection: Connection, entry: QueueEntry, invocation: Invocation) -> tuple[int, int, int]:
    """Hand a message out; returns its offset, its size in the pool, and KDBUS_RECV_RETURN_* flags."""
    peek = bool(invocation.get("flags") & abi.RECV_PEEK)
    attach_flags = connection.bus.domain.exported(connection.attach_flags_recv)
    descriptors = connection.installs_files and not peek
    slice_, return_flags = entry.install(connection.pool, invocation.caller, attach_flags, descriptors=descriptors)
    if not peek:
        _remove(connection, entry)
        entry.discard()
        check_files(connection, slice_, return_flags)
        connection.last_received = entry.message
    if not peek or connection.behaviour.peek_hands_out:
        slice_.publish()
    slice_.release()
    return slice_.offset, slice_.size, return_flags


def _store(invocation: Invocation, offset: int, size: int, return_flags: int) -> None:
    """Write the command back: `dropped_msgs` and `msg`."""
    invocation.put_bytes("msg", b"".join(word.to_bytes(8, "little") for word in (offset, size, return_flags)))
    invocation.finish()


def _remove(connection: Connection, entry: QueueEntry) -> None:
    connection.queue.remove(entry)
    connection.drained()


def _drop(connection: Connection, entry: QueueEntry) -> None:
    """Throw the message away; a reply to it will never come."""
    _remove(connection, entry)
    reply = entry.reply
    if reply is not None and reply.linked:
        if reply.sync:
            reply.wake_up(PeerGone(connection=connection.id, rule="it dropped the request"))
        else:
            connection.bus.notifications.reply_dead(entry.message.source, entry.message.cookie)
            reply.unlink()
    entry.discard()
