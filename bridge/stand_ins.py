# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins: a connection on one bus for each connection of the other that is heard of there.

    an ordinary connection of kdbus  --  its `OnDaemon`, a client of the daemon
    a client of the daemon           --  its `OnBus`, a connection of kdbus

What one says to the other's stand-in, its own stand-in says to the other. So callers have unique names on either side,
signals have a sender that match rules can ask for, replies find back, names have owners, and when somebody goes, so
does the stand-in, and both buses tell what they tell of their own.

*Serials.* On kdbus a stand-in says what its original says, with the same serials, so replies need no table. At the
daemon it also speaks for itself (RequestName), and cookies have 64 bits, so serials are its own there.

*Replies* go out on the connection that the call came in on, as either bus wants it, whoever answers. A stand-in waits
for those that it owes before it ends; and before it gives a name up, for those to calls of that name: kdbus would have
an activator owe them instead.

*What can be started.* What is sent to a name that the other side can start goes to the name there, and not to who had
it when the message was on its way: so the other side starts it if that one has gone. Other messages go to the one.

*Order.* A stand-in's original sends signals to all beside what it sends to one, and they arrive on different
connections here. Before something is passed on, what has come on the other one is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

import kdbus.trio
from bridge.activation import ACTIVATOR
from bridge.daemon import Daemon, Ended
from bridge.failures import NOT_SUPPORTED, gone, no_such_name
from bridge.limits import Limits
from bridge.onward import MayWant, Onward
from bridge.starting import refusal
from bridge.threads import compute
from kdbus.dbus import names, version2
from kdbus.dbus.errors import DBusError, ErrorReply, InvalidValue, Malformed
from kdbus.dbus.kernel import DRIVER
from kdbus.dbus.message import Flag, Message, MessageType, error
from kdbus.errors import Error
from kdbus.errors import Malformed as Contradictory
from kdbus.flags import PAYLOAD_DBUS, NameFlag
from kdbus.received import Descriptor
from kdbus.received import Message as Received
from kdbus.values import Credentials, ReplyDead, ReplyTimeout

HOLDER: Final = -1
"""In place of an id: the stand-in at the daemon for all that can be started on kdbus."""
_IN_QUEUE: Final = 2
_LOG = logging.getLogger("bridge")


Finder = Callable[[int, Credentials | None], Awaitable["OnDaemon"]]


class OnDaemon:
    """Stands at the daemon for the connection of kdbus `id`, or, as the HOLDER, for all that can be started on kdbus.

    `other` finds the stand-in of a client of the daemon; `started`: the names that can be started on kdbus. `scope` is
    to end it.
    """

    def __init__(
        self,
        daemon: Daemon,
        identifier: int,
        limits: Limits,
        other: Callable[[str], Awaitable[OnBus]],
        started: Container[str],
    ) -> None:
        self.id = identifier
        self.scope = trio.CancelScope()
        self.daemon = daemon
        self._limits = limits
        self._other = other
        self._started = started
        self._calls: dict[int, tuple[OnBus, int]] = {}
        self._owed: set[tuple[str, int]] = set()
        self._answered = trio.Event()

    async def serve(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        """Pass on what comes. `caught_up`: waits until what has come for everybody is passed on. Raises Ended, OSError
        or DBusError."""
        while True:
            received = await self.daemon.receive()
            await caught_up()
            await self._take(*received)

    async def _take(self, message: Message, descriptors: Sequence[Descriptor], large: bool) -> None:
        try:
            if self.daemon.answered(message):
                return
            if message.reply_cookie is not None:
                requested = self._calls.pop(message.reply_cookie, None)
                if requested is not None:
                    stand_in, cookie = requested
                    message = replace(message, reply_cookie=cookie, destination=names.unique_name(self.id))
                    await stand_in.say(message, descriptors, large=large, via=self)
            elif message.sender not in (None, DRIVER):
                await self._pass_on(message, descriptors, large)
        except ErrorReply as reason:
            if message.expects_reply:
                self.answer(error(message, reason.name, reason.text))
            _LOG.info("not passed on from %s: %s", message.sender, reason.text)
        finally:
            for descriptor in descriptors:
                descriptor.close()

    async def _pass_on(self, message: Message, descriptors: Sequence[Descriptor], large: bool) -> None:
        """Raises ErrorReply."""
        sender = message.sender or ""
        if message.expects_reply:
            self._owed.add((sender, message.cookie))
        if message.destination not in self._started:
            if self.id == HOLDER:
                raise no_such_name(message.destination or "", auto_start=False)
            message = replace(message, destination=names.unique_name(self.id))
        stand_in = await self._other(sender)
        await stand_in.say(message, descriptors, large=large, via=self)

    async def say(
        self, message: Message, descriptors: Sequence[Descriptor], to: OnBus | None, name: str | None = None
    ) -> None:
        """Say what the original says, to one client, which has that `name` if that is what counts, or to all. Raises
        InvalidValue."""
        await self.daemon.room(self._limits.unread)
        destination = None if to is None else name or to.name
        serial = self.daemon.send(replace(message, destination=destination), descriptors)
        if to is not None and message.expects_reply:
            self._calls[serial] = to, message.cookie

    async def reply(self, message: Message, descriptors: Sequence[Descriptor]) -> None:
        """Reply to a call that came here. Raises InvalidValue."""
        await self.daemon.room(self._limits.unread)
        self.answer(message, descriptors)

    def answer(self, message: Message, descriptors: Sequence[Descriptor] = ()) -> None:
        """The same without waiting, for what is short."""
        self.daemon.send(message, descriptors)
        self._forget({(message.destination or "", message.reply_cookie or 0)})

    def forget(self, client: str) -> None:
        """That client has gone: it is owed nothing."""
        self._forget({each for each in self._owed if each[0] == client})

    def _forget(self, owed: set[tuple[str, int]]) -> None:
        self._owed -= owed
        self._answered.set()
        self._answered = trio.Event()

    async def owes_nothing(self) -> None:
        """Wait until every call that came here is answered."""
        while self._owed:
            await self._answered.wait()

    def request_name(self, name: str, flags: int = 0) -> None:
        """Own a name there, or wait for it. `flags` are those of RequestName."""

        def told(answer: Message | None) -> None:
            if answer is None:
                return
            if answer.type == MessageType.ERROR:
                _LOG.warning("%s cannot be had of the daemon: %s", name, answer.body[0] if answer.body else "")
            elif answer.body[0] == _IN_QUEUE:
                _LOG.warning("%s is owned on both sides: each has its own", name)

        self.daemon.call(told, "RequestName", "su", name, flags)

    def release_name(self, name: str) -> None:
        self.daemon.call(lambda _: None, "ReleaseName", "s", name)

    async def settle(self) -> None:
        """Wait until everything has been passed on that had been sent to this by now. As the daemon keeps order, it has
        been when its answer comes."""
        with suppress(Ended, ErrorReply):
            await self.daemon.ask("GetId")


class _Same:
    """Cookies are serials (see above)."""

    def cookie_of(self, _sender: int, serial: int) -> int:
        return serial


class OnBus:
    """Stands on the bus for the client `name` of the daemon, on a connection that is told creds.

    `other` finds the stand-in of a connection of kdbus, of which these may be known, and raises ErrorReply where there
    cannot be one; `started`: the names that the daemon can start. `scope` is to end it.
    """

    def __init__(
        self,
        peer: kdbus.trio.Connection,
        name: str,
        limits: Limits,
        other: Finder,
        started: Container[str],
        may_want: MayWant,
    ) -> None:
        self.name = name
        self.scope = trio.CancelScope()
        self.id = peer.id
        self._peer = peer
        self._limits = limits
        self._other = other
        self._onward = Onward(peer, _Same(), None, may_want)
        self._taking = trio.Lock()
        self._started = started
        self._calls: dict[int, OnDaemon] = {}
        self._owed: dict[tuple[int, int], str | None] = {}
        self._refused: dict[int, ErrorReply] = {}
        self._leaving: set[str] = set()
        self._answered = trio.Event()

    async def serve(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        """As that of `OnDaemon`. Raises Disconnected, or another Error."""
        self._caught_up = caught_up
        while True:
            await trio.lowlevel.wait_readable(self._peer.fileno())
            await self.drain()

    async def drain(self) -> None:
        """Pass on what has come by now. Raises Error."""
        async with self._taking:
            while True:
                try:
                    origin = self._peer.receive_nowait()
                except Contradictory:
                    continue
                if origin is None:
                    return
                if origin.expects_reply:
                    # At once: until it is noted, the name could be given up, and somebody else would owe the reply.
                    self._owed[origin.sender, origin.cookie] = origin.destination_name
                with origin:
                    await self._caught_up()
                    try:
                        await self._take(origin)
                    except (DBusError, Error) as reason:
                        _LOG.debug("ignored: %s", reason)
                        self._answer(origin.sender, origin.cookie)

    async def _take(self, origin: Received) -> None:
        """Pass a message on. Raises DBusError or Error."""
        if isinstance(origin.notification, ReplyDead | ReplyTimeout):
            called = self._calls.pop(origin.reply_to, None)
            if called is not None:
                reason = self._refused.pop(origin.reply_to, None) or gone()
                called.answer(_failure(origin.reply_to, self.name, reason))
            return
        if origin.notification is not None:
            return
        try:
            await self._pass_on(origin)
        except ErrorReply as reason:
            self._refuse(origin, reason)
        except InvalidValue as reason:
            # What its form on kdbus can have, and D-Bus cannot.
            self._refuse(origin, ErrorReply(NOT_SUPPORTED, str(reason)))
        except Malformed as reason:
            self._refuse(origin, ErrorReply(NOT_SUPPORTED, f"the bridge passes messages of D-Bus only: {reason}"))

    async def _pass_on(self, origin: Received) -> None:
        large = sum(map(len, origin.views)) > self._limits.on_loop
        message = await compute(large, read, origin)
        if message.type == MessageType.SIGNAL and (
            # One to all that kdbus could not send to all (`bridge.onward`) is heard elsewhere.
            message.destination is None or self._take_refusal(origin, message)
        ):
            return
        if (message.reply_cookie or 0) != origin.reply_to:
            raise Malformed(f"a {message.type.name} which is for kdbus a reply to {origin.reply_to}")
        if origin.reply_to:
            if origin.reply_to in self._calls:
                # Not by the stand-in of who answers, which need not be the one that was called.
                descriptors = [Descriptor(each.take()) for each in origin.descriptors]
                await self._calls[origin.reply_to].reply(replace(message, destination=self.name), descriptors)
                del self._calls[origin.reply_to]
                self._refused.pop(origin.reply_to, None)
            return
        name = origin.destination_name
        stand_in = await self._other(origin.sender, origin.metadata.creds)
        descriptors = [Descriptor(each.take()) for each in origin.descriptors]
        to_name = name if name in self._started else None
        await stand_in.say(replace(message, cookie=origin.cookie), descriptors, self, to_name)

    def _take_refusal(self, origin: Received, message: Message) -> bool:
        """Whether this is an activator's word of why a call will not be answered; it is remembered then."""
        if all(owned.name != ACTIVATOR for owned in origin.metadata.names):
            return False
        reason = refusal(message)
        if reason is not None and reason[0] in self._calls:
            self._refused[reason[0]] = reason[1]
        return reason is not None

    def _refuse(self, origin: Received, reason: ErrorReply) -> None:
        """Tell whoever waits for a reply, on either side."""
        called = self._calls.pop(origin.reply_to, None) if origin.reply_to else None
        if called is not None:
            called.answer(_failure(origin.reply_to, self.name, reason))
        if origin.expects_reply:
            self._answer(origin.sender, origin.cookie)
            told = _failure(origin.cookie, names.unique_name(origin.sender), reason)
            data = version2.build(replace(told, cookie=origin.cookie))
            self._peer.answer(origin.sender, origin.cookie, data, cookie=origin.cookie)
        _LOG.info("not passed on to %s: %s", self.name, reason.text)

    async def say(
        self, message: Message, descriptors: Sequence[Descriptor], *, large: bool, via: OnDaemon | None
    ) -> None:
        """Say what the original says, which came in `via` a stand-in if it is not for all. Raises ErrorReply with what
        it is to be told."""
        if message.expects_reply and via is not None:
            self._calls[message.cookie] = via
        try:
            await self._onward.send(message, descriptors, large=large)
        except ErrorReply:
            self._calls.pop(message.cookie, None)
            raise
        except InvalidValue as reason:
            self._calls.pop(message.cookie, None)
            raise ErrorReply(NOT_SUPPORTED, str(reason)) from None
        finally:
            if message.reply_cookie is not None and via is not None:
                self._answer(via.id, message.reply_cookie)

    def acquire_name(self, name: str) -> bool:
        """Own a name there, or wait for it; whether it is ours."""
        self._leaving.discard(name)
        try:
            return self._peer.acquire_name(name, NameFlag.QUEUE)
        except Error as reason:
            _LOG.warning("%s cannot be had on the bus: %s", name, reason)
            return True

    def release_name(self, name: str) -> None:
        """Give a name up, when all calls of it are answered."""
        self._leaving.add(name)
        self._release_unowed()

    def _release_unowed(self) -> None:
        for name in self._leaving - set(self._owed.values()):
            self._leaving.discard(name)
            with suppress(Error):
                self._peer.release_name(name)

    def _answer(self, whom: int, cookie: int) -> None:
        """A call is answered."""
        if (whom, cookie) in self._owed:
            del self._owed[whom, cookie]
            self._release_unowed()
            self._answered.set()
            self._answered = trio.Event()

    def forget(self, connection: int) -> None:
        """That connection has gone, or is not seen at the daemon any more: it is owed nothing."""
        for each in [each for each in self._owed if each[0] == connection]:
            self._answer(*each)

    async def finish(self) -> None:
        """Wait until every call that has come here is answered. Raises Error.

        What was sent to a name before that got another owner is still in the queue of this one.
        """
        await self.drain()
        while self._owed:
            await self._answered.wait()
            await self.drain()

    def close(self) -> None:
        self._peer.close()


def _failure(cookie: int, destination: str, reason: ErrorReply) -> Message:
    """The reply to the call of that cookie, which failed."""
    return Message(
        type=MessageType.ERROR,
        flags=Flag.NO_REPLY_EXPECTED,
        reply_cookie=cookie,
        error_name=reason.name,
        destination=destination,
        signature="s",
        body=(reason.text,),
    )


def read(origin: Received) -> Message:
    """The message in what was received. Raises Malformed or Error."""
    if origin.payload_type != PAYLOAD_DBUS:
        raise Malformed(f"a payload of the type {origin.payload_type:#x}")
    message = version2.parse(origin.payload, sender=names.unique_name(origin.sender))
    if message.descriptors != len(origin.descriptors):
        raise Malformed(f"{len(origin.descriptors)} descriptors where {message.descriptors} were announced")
    return message
