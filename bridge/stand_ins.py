# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins: a connection on one bus for each connection of the other that is heard of there.

    an ordinary connection of kdbus  --  its `OnDaemon`, a client of the daemon
    a client of the daemon           --  its `OnBus`, a connection of kdbus

What one says to the other's stand-in, its own stand-in says to the other. So callers have unique names on either side,
signals have a sender that match rules can ask for, replies find back, names have owners, and when somebody goes, so
does the stand-in, and both buses tell what they tell of their own.

*Serials.* On kdbus a stand-in says what its original says, with the same serials, so replies need no table. At the
daemon it also speaks for itself (RequestName), and cookies have 64 bits, so serials are its own there.

*Order.* A stand-in's original sends signals to all beside what it sends to one, and they arrive on different
connections here. Before something is passed on, what has come on the other one is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

import kdbus.trio
from bridge.daemon import Daemon, Ended
from bridge.failures import NOT_SUPPORTED, gone
from bridge.limits import Limits
from bridge.onward import Onward
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

_IN_QUEUE: Final = 2
_LOG = logging.getLogger("bridge")


Finder = Callable[[int, Credentials | None], Awaitable["OnDaemon"]]


class OnDaemon:
    """Stands at the daemon for the connection of kdbus `id`. `other` finds the stand-in of a client of the daemon.
    `scope` is to end it."""

    def __init__(
        self, daemon: Daemon, identifier: int, limits: Limits, other: Callable[[str], Awaitable[OnBus]]
    ) -> None:
        self.id = identifier
        self.scope = trio.CancelScope()
        self.daemon = daemon
        self._limits = limits
        self._other = other
        self._calls: dict[int, tuple[OnBus, int]] = {}

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
                    await stand_in.say(message, descriptors, large=large)
            elif message.sender not in (None, DRIVER):
                stand_in = await self._other(message.sender or "")
                await stand_in.say(replace(message, destination=names.unique_name(self.id)), descriptors, large=large)
        except ErrorReply as reason:
            if message.expects_reply:
                self.daemon.send(error(message, reason.name, reason.text))
        finally:
            for descriptor in descriptors:
                descriptor.close()

    async def say(self, message: Message, descriptors: Sequence[Descriptor], to: OnBus | None) -> None:
        """Say what the original says, to one client or all. Raises InvalidValue."""
        await self.daemon.room(self._limits.unread)
        serial = self.daemon.send(replace(message, destination=None if to is None else to.name), descriptors)
        if to is not None and message.expects_reply:
            self._calls[serial] = to, message.cookie

    def request_name(self, name: str) -> None:
        """Own a name there, or wait for it."""

        def told(answer: Message | None) -> None:
            if answer is None:
                return
            if answer.type == MessageType.ERROR:
                _LOG.warning("%s cannot be had of the daemon: %s", name, answer.body[0] if answer.body else "")
            elif answer.body[0] == _IN_QUEUE:
                _LOG.warning("%s is owned on both sides: each has its own", name)

        self.daemon.call(told, "RequestName", "su", name, 0)

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
    cannot be one. `scope` is to end it.
    """

    def __init__(self, peer: kdbus.trio.Connection, name: str, limits: Limits, other: Finder) -> None:
        self.name = name
        self.scope = trio.CancelScope()
        self.id = peer.id
        self._peer = peer
        self._limits = limits
        self._other = other
        self._onward = Onward(peer, _Same(), None)
        self._taking = trio.Lock()
        self._calls: dict[int, int] = {}

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
                with origin:
                    await self._caught_up()
                    try:
                        await self._take(origin)
                    except (DBusError, Error) as reason:
                        _LOG.debug("ignored: %s", reason)

    async def _take(self, origin: Received) -> None:
        """Pass a message on. Raises DBusError or Error."""
        if isinstance(origin.notification, ReplyDead | ReplyTimeout):
            called = self._calls.pop(origin.reply_to, None)
            if called is not None:
                with suppress(ErrorReply):
                    stand_in = await self._other(called, None)
                    stand_in.daemon.send(_failure(origin.reply_to, self.name, gone()))
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
        if (message.reply_cookie or 0) != origin.reply_to:
            raise Malformed(f"a {message.type.name} which is for kdbus a reply to {origin.reply_to}")
        self._calls.pop(origin.reply_to, None)
        stand_in = await self._other(origin.sender, origin.metadata.creds)
        descriptors = [Descriptor(each.take()) for each in origin.descriptors]
        await stand_in.say(replace(message, cookie=origin.cookie), descriptors, self)

    def _refuse(self, origin: Received, reason: ErrorReply) -> None:
        """Tell whoever waits for a reply, on either side."""
        if origin.expects_reply:
            told = _failure(origin.cookie, names.unique_name(origin.sender), reason)
            data = version2.build(replace(told, cookie=origin.cookie))
            self._peer.answer(origin.sender, origin.cookie, data, cookie=origin.cookie)
        _LOG.info("not passed on to %s: %s", self.name, reason.text)

    async def say(self, message: Message, descriptors: Sequence[Descriptor], *, large: bool) -> None:
        """Say what the original says. Raises ErrorReply with what it is to be told."""
        cookie = message.cookie
        receiver = names.connection_id(message.destination) if message.destination else None
        if message.expects_reply and receiver is not None:
            self._calls[cookie] = receiver
        try:
            await self._onward.send(message, descriptors, large=large)
        except ErrorReply:
            self._calls.pop(cookie, None)
            raise
        except InvalidValue as reason:
            self._calls.pop(cookie, None)
            raise ErrorReply(NOT_SUPPORTED, str(reason)) from None

    def acquire_name(self, name: str) -> None:
        """Own a name there, or wait for it."""
        try:
            if not self._peer.acquire_name(name, NameFlag.QUEUE):
                _LOG.warning("%s is owned on both sides: each has its own", name)
        except Error as reason:
            _LOG.warning("%s cannot be had on the bus: %s", name, reason)

    def release_name(self, name: str) -> None:
        with suppress(Error):
            self._peer.release_name(name)

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
