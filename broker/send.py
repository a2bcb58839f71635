# SPDX-License-Identifier: GPL-2.0-or-later
"""SEND: from a well-formed message to the receivers' queues.

A message goes to a connection by id, to the owner of a name (or its activator), or to everybody who wants it. In
order:

1. the destination is found: a name must have an owner (ESRCH), of the given id if one is given (EREMCHG), and not
   just an activator if nothing may be started (EADDRNOTAVAIL); an id must be that of an ordinary connection (ENXIO);
2. metadata are collected;
3. permission: a request or a plain message needs TALK access to the receiver; a reply needs the receiver to expect
   it; a unicast signal needs a match of the receiver, and the receiver TALK access to the sender, as for a broadcast;
4. monitors get their copy, whatever happens then;
5. the message is queued, or, if it answers a synchronous request, attached to that;
6. a synchronous request waits (`Wait`).

How a message gets into a queue is in `broker.delivery`. Reference: `kdbus_cmd_msg_send` in connection.c.
"""

from __future__ import annotations

from collections.abc import Callable

from broker import message
from broker.access import endpoint_lets_talk, may_talk, refused_by
from broker.command import Invocation, answering
from broker.connection import Connection
from broker.connection_kind import ORDINARY
from broker.delivery import broadcast, collect, copy_delivered, eavesdrop, insert, wants_signal
from broker.errors import (
    BadArgument,
    BadDescriptor,
    BadItem,
    CallerGone,
    Cancelled,
    DescriptorsRefused,
    DuplicateItem,
    HiddenByEndpoint,
    KdbusError,
    NameOwnerChanged,
    NoSuchCall,
    NoSuchConnection,
    NoSuchName,
    NotPermitted,
    OnlyActivator,
    QueueFull,
    ReplyNotExpected,
    ReplyRefused,
    TimedOut,
)
from broker.interfaces import Caller, File
from broker.item import Item
from broker.message import Message
from broker.names import NameEntry
from broker.receive import check_files
from broker.reply import Reply
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import signed64
from kdbus.abi.revision import Kind


class Wait:
    """A synchronous SEND that waits for its reply.

    The outside calls `on_ready` once with what to do when the wait is over, and then just one of `finish` (it is
    over, in whatever way) or `interrupt` (a signal, or the caller is gone). `deadline` and the replier's doings end
    the wait by themselves; readability of `cancel_file` is reported with `cancel`.
    """

    __slots__ = ("_ended", "_invocation", "cancel_file", "connection", "reply")

    def __init__(self, connection: Connection, invocation: Invocation, reply: Reply, cancel_file: File | None) -> None:
        """Takes over the caller's hold on `reply`."""
        self.connection = connection
        self._invocation = invocation
        self.reply = reply
        self._ended: Callable[[], None] | None = None
        self.cancel_file = cancel_file

    @property
    def command(self) -> bytes | None:
        """The command as it was read, if the wait may go on elsewhere (`broker.lending`), else None.

        It may as long as it is not over, if there is nothing but the structure, no cancel descriptor, say. Behind a
        message that is its own command are its items, which have done their work.
        """
        size = self._invocation.command.struct.size
        plain = len(self._invocation.data) == size or self.connection.behaviour.message_is_command
        return bytes(self._invocation.data[:size]) if self.reply.waiting and plain else None

    def leave(self) -> None:
        """The wait goes on elsewhere, instead of `finish` or `interrupt`."""
        self._release()

    def on_end(self, ended: Callable[[], None]) -> None:
        """Have `ended` called when the call is over, after `finish` or `interrupt`."""
        self._ended = ended

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when the wait is over; at once if it is already. It must not call back into the broker."""
        self.reply.wake = wake
        if not self.reply.waiting:
            wake()

    def cancel(self) -> None:
        """The cancel descriptor became readable."""
        if self.reply.waiting:
            self.reply.wake_up(Cancelled())

    def interrupt(self) -> None:
        """A signal interrupts the wait. The reply stays expected, for the restarted call to find.

        An answer that came, but whose caller left before it could be told, is kept in the same way.
        """
        reply, connection = self.reply, self.connection
        reply.interrupted = True
        if reply.answer is not None and not reply.linked and connection.active:
            reply.link()
            connection.bus.domain.deadlines.add(reply)
        self._release()

    def finish(self, caller: Caller) -> None:
        """The wait is over: install the answer in the caller and write the command back.

        Raises the error that ended the wait, PoolFull when the answer does not fit, or BadAddress.
        """
        self._invocation.caller = caller
        with answering(self.connection.behaviour, self._invocation):
            self._finish(caller)

    def _finish(self, caller: Caller) -> None:
        reply, connection = self.reply, self.connection
        reply.waiting = False
        connection.last_received = None
        try:
            if reply.answer is None:
                raise reply.error if reply.error is not None else connection.gone()
            flags = connection.bus.domain.exported(connection.attach_flags_recv)
            descriptors = connection.installs_files
            slice_, return_flags = reply.answer.install(connection.pool, caller, flags, descriptors=descriptors)
            check_files(connection, slice_, return_flags)
            slice_.publish()
            slice_.release()
            connection.last_received = reply.answer.message
        finally:
            reply.discard_answer()
            reply.unlink()
            self._release()
        _tell(self._invocation, slice_.offset, slice_.size, return_flags)
        self._invocation.finish()
        self._invocation.store(connection.behaviour.answer_member)

    def _release(self) -> None:
        self.reply.wake = None
        self.reply.drop()
        if self.cancel_file is not None:
            self.cancel_file.close()
            self.cancel_file = None
        if self._ended is not None:
            self._ended()


def send(source: Connection, invocation: Invocation) -> Wait | None:
    """The whole command; a `Wait` if it waits for a reply, and then `Wait.finish` completes it.

    Raises what `broker.message.from_command` raises, and what the steps of the module's essay say.
    """
    sent, cancel_file = source.behaviour.read_message(source, invocation)
    try:
        reply = _dispatch(source, sent, invocation)
    except BaseException as error:
        if isinstance(error, KdbusError) and source.bus.domain.tap is not None:
            source.bus.domain.tap.failed(source, sent, error, invocation.caller)
        if cancel_file is not None:
            cancel_file.close()
        raise
    finally:
        sent.sent()
        sent.drop()
    if reply is None:
        if cancel_file is not None:
            cancel_file.close()
        _tell(invocation, source.empty_offset, 0, 0)
        invocation.finish()
        if source.behaviour.writes_empty_reply:
            invocation.store(source.behaviour.answer_member)
        return None
    return Wait(source, invocation, reply, cancel_file)


def _tell(invocation: Invocation, *words: int) -> None:
    """Put the answer's offset, size and return flags into the broker's copy of the command, as many as it has room
    for."""
    member = invocation.behaviour.answer_member
    start, end = invocation.command.struct.span(member)
    invocation.put_bytes(member, b"".join(word.to_bytes(8, "little") for word in words)[: end - start])


def cancel(connection: Connection, invocation: Invocation) -> None:
    """MSG_CANCEL: end the synchronous SEND with that cookie that waits on this connection. Raises NoSuchCall."""
    cookie = invocation.get("cookie")
    for reply in connection.replies:
        if reply.waiting and reply.cookie == cookie:
            reply.wake_up(Cancelled(cookie=cookie))
            return
    raise NoSuchCall(connection=connection.id, cookie=cookie)


def read_message(source: Connection, invocation: Invocation) -> tuple[Message, File | None]:
    """The message of a SEND, and then the file of its CANCEL_FD, in the order of version 3. Raises what reading either
    raises."""
    sent = message.from_command(invocation, source.id, source.bus.bloom_size)
    try:
        return sent, _cancel_file(invocation)
    except BaseException:
        sent.drop()
        raise


def _cancel_file(invocation: Invocation) -> File | None:
    """The descriptor of a CANCEL_FD item, which only a synchronous SEND looks at.

    Raises BadItem for other items, DuplicateItem, BadDescriptor, and BadArgument for a file that cannot be polled.
    """
    found: File | None = None
    try:
        for current in invocation.items:
            if current.type != Kind.CANCEL_FD:
                raise BadItem(item=current, kind=current.type, rule="SEND does not take it")
            if not invocation.get("flags") & abi.SEND_SYNC_REPLY:
                continue
            if found is not None:
                raise DuplicateItem(item=current, kind=current.type)
            found = cancel_file(invocation.caller, current)
    except BaseException as error:
        if isinstance(error, KdbusError):
            error.locate(invocation.items)
        if found is not None:
            found.close()
        raise
    return found


def cancel_file(caller: Caller, current: Item) -> File:
    """The file of one CANCEL_FD item. Raises BadDescriptor, and BadArgument for one that cannot be polled."""
    number = int.from_bytes(current.payload, "little", signed=True)
    found = caller.file(number)
    if found.is_path:
        found.close()
        raise BadDescriptor(item=current, kind=current.type, descriptor=number, rule="opened with O_PATH")
    if not found.can_poll:
        found.close()
        raise BadArgument(item=current, kind=current.type, rule=f"descriptor {number} cannot be polled")
    return found


def _dispatch(source: Connection, sent: Message, invocation: Invocation) -> Reply | None:
    """Steps 1 to 5; returns the reply to wait for, held, if the request is synchronous."""
    caller = invocation.caller
    sent.sequence = source.bus.messages.next()
    if sent.is_broadcast:
        broadcast(source.bus, source, sent, caller)
        source.last_signal = sent
        return None
    sync = sent.sync
    if sync and source.behaviour.calls_begin_with_time:
        resumed = _resume(source.find_reply(None, sent.cookie))
        if resumed is not None:
            return resumed
        if source.bus.domain.clock.monotonic_ns() >= signed64(sent.timeout_or_cookie_reply):
            raise TimedOut(rule="the deadline had passed before the call")
    destination, name = _find_destination(source, sent)
    if name is not None:
        sent.name_id = name.id
    if sync:
        resumed = _resume(source.find_reply(destination, sent.cookie))
        if resumed is not None:
            return resumed
    attached = collect(sent, source, destination, caller)
    silent = bool(sent.flags & abi.MESSAGE_SIGNAL) and source.behaviour.silent_unicast_signals
    reply: Reply | None = None
    expected: Reply | None = None
    if sent.flags & abi.MESSAGE_EXPECT_REPLY:
        _check_talk(source, destination, caller)
        signed = sync and not source.behaviour.timer_ends_calls
        deadline = signed64(sent.timeout_or_cookie_reply) if signed else sent.timeout_or_cookie_reply
        reply = Reply(destination, source, sent.cookie, deadline, sent.name_id, sync=sync)
    elif sent.flags & abi.MESSAGE_SIGNAL:
        wanted = wants_signal(source, destination, sent)
        if not wanted and not silent:
            rule = "no match of its for this signal, or no TALK to the sender"
            raise NotPermitted(connection=destination.id, rule=rule)
        source.last_signal = sent
        if not wanted:
            eavesdrop(source.bus, source, sent, caller)
            return None
    elif sent.timeout_or_cookie_reply:
        expected = _find_expected(destination, source, sent.timeout_or_cookie_reply)
    if expected is None and not sent.flags & (abi.MESSAGE_EXPECT_REPLY | abi.MESSAGE_SIGNAL):
        _check_talk(source, destination, caller)
    try:
        eavesdrop(source.bus, source, sent, caller)
        if expected is None:
            insert(source, destination, sent, caller, reply, attached)
        elif expected.sync:
            _attach(source, destination, sent, expected, caller, attached)
        else:
            _answer(source, destination, sent, expected, caller, attached)
        copy_delivered(source, sent, caller)
    except CallerGone:
        if reply is not None:
            reply.drop()
        raise
    except KdbusError as error:
        if silent:
            return None
        if reply is not None:
            reply.drop()
        if isinstance(error, QueueFull):
            source.refused_by = destination
            # All that a flow depends on was decided before; it may well be the first message of many (`broker.flow`).
            source.last_sent = sent, destination
        raise
    except BaseException:
        if reply is not None:
            reply.drop()
        raise
    source.last_sent = sent, destination
    if reply is None or not sync:
        if reply is not None:
            reply.drop()
        return None
    # As a signed number: a deadline of 2**63 ns or more, meant as "never", has always passed.
    if not source.behaviour.timer_ends_calls and source.bus.domain.clock.monotonic_ns() >= reply.deadline_ns:
        reply.unlink()
        reply.drop()
        raise TimedOut(rule="the deadline had passed before the call")
    return reply


def _resume(reply: Reply | None) -> Reply | None:
    """The reply of a call that a signal has interrupted, held, to wait for it again; None for any other."""
    if reply is None or not reply.interrupted:
        return None
    reply.interrupted = False
    return reply.hold()


def _find_destination(source: Connection, sent: Message) -> tuple[Connection, NameEntry | None]:
    """Step 1. Raises NoSuchName, NameOwnerChanged, OnlyActivator or NoSuchConnection."""
    if sent.destination_name is None:
        found = source.bus.connections.get(sent.destination)
        if found is None:
            raise NoSuchConnection(connection=sent.destination)
        if found.kind != ORDINARY:
            raise NoSuchConnection(connection=found.id, connection_kind=found.kind)
        return found, None
    entry = source.bus.names.find(sent.destination_name)
    if entry is None:
        raise NoSuchName(name=sent.destination_name)
    if sent.destination not in (abi.DESTINATION_NAME, entry.owner.id):
        raise NameOwnerChanged(name=entry.name, owner=entry.owner.id, connection=sent.destination)
    if sent.flags & abi.MESSAGE_NO_AUTO_START and entry.owner.is_activator:
        raise OnlyActivator(name=entry.name, owner=entry.owner.id)
    return entry.owner, entry


def _check_talk(source: Connection, destination: Connection, caller: Caller) -> None:
    who = caller.credentials()
    if not may_talk(source, who, destination):
        if source.behaviour.endpoints_hide and not endpoint_lets_talk(source, who, destination):
            raise HiddenByEndpoint(connection=destination.id)
        policy = refused_by(source, who, destination.names, abi.POLICY_TALK)
        names = tuple(destination.names)
        raise NotPermitted(access="TALK", connection=destination.id, names=names, policy=policy)


def _find_expected(requester: Connection, replier: Connection, cookie: int) -> Reply | None:
    """The permission to reply; None if there is none, where that makes no difference. Raises ReplyNotExpected."""
    reply = requester.find_reply(replier, cookie)
    if reply is None or reply.answer is not None:
        if replier.behaviour.replies_need_requests:
            raise ReplyNotExpected(connection=requester.id, cookie=cookie)
        return None
    return reply


def _answer(
    source: Connection, destination: Connection, sent: Message, reply: Reply, caller: Caller, attached: int
) -> None:
    """Answer a request that nobody waits for inside SEND. The permission is used up even if this fails, unless the
    caller is gone: the requester must hear that it will get no answer from this one, or get it from the next call.
    """
    reply.hold()
    reply.unlink()
    try:
        insert(source, destination, sent, caller, None, attached)
    except CallerGone:
        reply.link()
        destination.bus.domain.deadlines.add(reply)
        raise
    finally:
        reply.drop()


def _attach(
    source: Connection, destination: Connection, sent: Message, reply: Reply, caller: Caller, attached: int
) -> None:
    """Answer a synchronous request; the requester's queue never sees the message.

    If it cannot be taken, the requester's SEND fails with the same error as the replier's, except that refused
    descriptors are ReplyRefused there. An interrupted request keeps its answer until the restarted call picks it up.
    """
    reply.hold()
    try:
        if not reply.waiting:
            raise destination.gone()
        reply.answer = destination.behaviour.inbox.answer(destination, sent, caller, source.user, attached)
    except CallerGone:
        # The requester waits on: it is told when the connection ends, or answered by another call.
        raise
    except KdbusError as error:
        reply.wake_up(ReplyRefused(connection=source.id) if isinstance(error, DescriptorsRefused) else error)
        raise
    else:
        reply.wake_up(None)
        if not reply.interrupted:
            reply.unlink()
    finally:
        reply.drop()
