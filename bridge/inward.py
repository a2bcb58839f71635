# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes from the bus, on its way to the client.

*What is passed on.* Messages to the client's connection: calls, replies and signals, in the first version of the wire
format, from the sender that kdbus names. Broadcasts that one of the client's match rules fits: a bloom filter lets more
through. Of the notifications of kdbus, what dbus-daemon would have sent: NameOwnerChanged to those with a rule for it,
NameAcquired and NameLost to whom it is about, and the error NoReply. What is no D-Bus is left out, as sd-bus did, and
so are replies of which kdbus says something else than they do.

*Order.* All that comes is taken in one place, one after the other, so it keeps its order. `drain` passes on what is
there already: so the client hears what its own call of the driver has brought about before it hears of the result.

*Bounds.* What the client does not read stays in the pool of its connection. When that is full, senders are told.

*Serials.* A serial has 32 bits, a cookie of kdbus 64, though nobody counts that far. A call with a greater cookie gets
a number for it, and the reply finds it again; the last few of them are remembered.
"""

from __future__ import annotations

import logging
import select
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

import trio

import kdbus.trio
from bridge.activation import ACTIVATOR
from bridge.failures import NOT_SUPPORTED
from bridge.guard import Guard
from bridge.limits import Limits
from bridge.starting import Starting, is_ours
from bridge.stream import Stream
from bridge.threads import compute
from kdbus.dbus import names, version1, version2
from kdbus.dbus.errors import DBusError, ErrorReply, Malformed
from kdbus.dbus.kernel import DRIVER, DRIVER_PATH, message_of
from kdbus.dbus.message import Flag, Message, MessageType, error
from kdbus.dbus.rule import Rule
from kdbus.errors import Error
from kdbus.errors import Malformed as Contradictory
from kdbus.flags import PAYLOAD_DBUS
from kdbus.matches import MatchRule, NameAppears, NameChangesHands, NameVanishes, ToId
from kdbus.received import Descriptor
from kdbus.received import Message as Received
from kdbus.values import IdChange, NameChange, Notification

_LARGEST_SERIAL: Final = 0xFFFFFFFF
_REMEMBERED: Final = 1024
"""Calls with cookies that are no serials."""
_AT_ONCE: Final = 8
"""Messages for one client that are taken before others have their turn."""
_DRAINED: Final = 1000
"""Messages that `drain` passes on at most: others may send faster than that."""

_NO_DESCRIPTORS: Final = "Tried to send message with Unix file descriptors to a client that doesn't support that."

_LOG = logging.getLogger("bridge")


def own_matches(identifier: int) -> Iterator[MatchRule]:
    """What a client's connection gets without having asked: signals to it alone, and what becomes of its names. Each is
    a match of its own."""
    yield ToId(identifier)
    yield NameAppears(None, identifier)
    yield NameVanishes(None, identifier)
    yield NameChangesHands(None, old_id=identifier)
    yield NameChangesHands(None, new_id=identifier)


class Inward:
    """Takes what a client's connection of kdbus receives, and gives it to the client."""

    def __init__(
        self,
        peer: kdbus.trio.Connection,
        stream: Stream,
        limits: Limits,
        guard: Guard | None,
        show: Callable[[Message], None],
        *,
        passes_descriptors: bool,
    ) -> None:
        """`passes_descriptors`: the client takes them; `show`: is called with what the driver says."""
        self.starting = Starting(peer, self.say)
        self._guard = guard
        self._show = show
        self._passes_descriptors = passes_descriptors
        self.name = names.unique_name(peer.id)
        self.rules: list[Rule] = []
        self._peer = peer
        self._stream = stream
        self._limits = limits
        self._taking = trio.Lock()
        self._poll = select.poll()
        self._poll.register(peer.fileno(), select.POLLIN)
        self._serial = 0
        self._passed: list[Received] = []
        self._cookies: OrderedDict[tuple[int, int], int] = OrderedDict()

    async def pass_all_on(self) -> None:
        """Until the connection ends, which raises Disconnected, or another Error."""
        while True:
            await trio.lowlevel.wait_readable(self._peer.fileno())
            if self._stream.unread >= self._limits.unread:
                await self._stream.room(self._limits.unread)
            await self._pass_some_on(_AT_ONCE)
            self._stream.flush()
            # Now that the client has something to do.
            self._release()

    def _is_readable(self) -> bool:
        """Whether the bus has something, or the connection has ended. Asking the descriptor takes a tenth of asking the
        bus."""
        return bool(self._poll.poll(0))

    async def drain(self) -> None:
        """Pass on what has come by now."""
        await self._pass_some_on(_DRAINED)
        self._release()

    async def _pass_some_on(self, most: int) -> None:
        """Pass on what has come by now, that many messages at most, or until the client has enough to read."""
        try:
            # `acquire` would let others run first.
            self._taking.acquire_nowait()
        except trio.WouldBlock:
            await self._taking.acquire()
        try:
            for _ in range(most):
                if self._stream.unread >= self._limits.unread or not self._is_readable() or not await self._pass_on():
                    return
        finally:
            self._taking.release()

    def say(self, message: Message) -> None:
        """Send the client something of the driver's."""
        self._serial = self._serial % _LARGEST_SERIAL + 1
        said = replace(message, cookie=self._serial, sender=DRIVER, destination=message.destination or self.name)
        if self._guard is None or self._guard.may_hear(said):
            self._stream.put(version1.build(said), answer=True)
            self._show(said)

    def cookie_of(self, sender: int, serial: int) -> int:
        """The cookie of the call that the client knows by that sender and serial."""
        return self._cookies.pop((sender, serial), serial)

    async def _pass_on(self) -> bool:
        """Take one message; False if there is none."""
        try:
            origin = self._peer.receive_nowait()
        except Contradictory as error:
            _LOG.debug("%s: ignored: %s", self.name, error)
            return True
        if origin is None:
            return False
        if origin.lost:
            _LOG.warning("%s: lost %d messages, as its client does not read them", self.name, origin.lost)
        self._passed.append(origin)
        if origin.notification is not None:
            self._tell(origin.notification, origin.reply_to)
            return True
        if is_ours(origin.reply_to):
            self.starting.take_reply(origin)
            return True
        try:
            large = sum(map(len, origin.views)) > self._limits.on_loop
            message = await compute(large, self._read, origin)
            if message is not None and self._is_welcome(origin, message):
                data = await compute(large, version1.build, message)
                self._stream.put(data, [Descriptor(each.take()) for each in origin.descriptors])
        except (DBusError, Error) as error:
            _LOG.debug("%s: ignored: %s", self.name, error)
        return True

    def _release(self) -> None:
        """Give back the memory of what was passed on."""
        for origin in self._passed:
            origin.release()
        self._passed.clear()

    def _read(self, origin: Received) -> Message | None:
        """The message as the client is to see it; None if no match rule asks for it. Raises DBusError or Error for what
        is no message."""
        if origin.payload_type != PAYLOAD_DBUS:
            raise Malformed(f"a payload of the type {origin.payload_type:#x}")
        message = version2.parse(origin.payload, sender=names.unique_name(origin.sender))
        if message.descriptors != len(origin.descriptors):
            raise Malformed(f"{len(origin.descriptors)} descriptors where {message.descriptors} were announced")
        if (message.reply_cookie or 0) != origin.reply_to:
            raise Malformed(f"a {message.type.name} which is for kdbus a reply to {origin.reply_to}")
        is_signal = message.type == MessageType.SIGNAL
        # A signal to all also comes to one receiver, if kdbus could not send it to all (`bridge.onward`).
        if origin.is_broadcast or (is_signal and message.destination is None):
            wanted = is_signal and any(
                rule.fits(message, _owned(origin)) for rule in self.rules
            )
            if not wanted:
                return None
        elif is_signal and _from_activator(origin) and self.starting.take_failed(message):
            return None
        elif message.destination is None:
            message = replace(message, destination=self.name)
        serial = self._serial_of(origin)
        return message if message.cookie == serial else replace(message, cookie=serial)

    def _is_welcome(self, origin: Received, message: Message) -> bool:
        """Whether the client may, and can, have the message. If not, who waits for a reply is told. Raises Error."""
        if origin.descriptors and not self._passes_descriptors:
            reason = ErrorReply(NOT_SUPPORTED, _NO_DESCRIPTORS)
        elif self._guard is not None and not self._guard.may_receive(message, origin.sender, _owned(origin)):
            reason = self._guard.denied(message, "receive")
        else:
            return True
        if origin.expects_reply:
            call = replace(message, cookie=origin.cookie)
            told = replace(error(call, reason.name, reason.text), cookie=origin.cookie)
            self._peer.answer(origin.sender, origin.cookie, version2.build(told), cookie=origin.cookie)
        return False

    def _serial_of(self, origin: Received) -> int:
        """The serial for a message."""
        if origin.cookie <= _LARGEST_SERIAL:
            return origin.cookie
        serial = origin.cookie & _LARGEST_SERIAL or 1
        while (origin.sender, serial) in self._cookies:
            serial = serial % _LARGEST_SERIAL + 1
        self._cookies[origin.sender, serial] = origin.cookie
        if len(self._cookies) > _REMEMBERED:
            self._cookies.popitem(last=False)
        return serial

    def _tell(self, notification: Notification, reply_to: int) -> None:
        """Say what dbus-daemon would have said, in its order: who loses a name hears it first."""
        told = message_of(notification, reply_to)
        if told is None:
            return
        if not isinstance(notification, NameChange | IdChange):
            if is_ours(reply_to):
                self.starting.take_dead(reply_to)
            else:
                reason = self.starting.reason(reply_to)
                self.say(replace(told, error_name=reason.name, body=(reason.text,)))
            return
        name, old, new = told.body or ("", "", "")
        if isinstance(notification, NameChange):
            self.starting.take_changed(notification)
        if isinstance(notification, NameChange) and old == self.name:
            self._say_of_name("NameLost", name)
        if any(rule.fits(told) for rule in self.rules) and (self._guard is None or self._guard.may_hear(told)):
            self._serial = self._serial % _LARGEST_SERIAL + 1
            self._stream.put(version1.build(replace(told, cookie=self._serial)))
        if isinstance(notification, NameChange) and new == self.name:
            self._say_of_name("NameAcquired", name)

    def _say_of_name(self, member: str, name: str) -> None:
        self.say(
            Message(
                type=MessageType.SIGNAL,
                flags=Flag.NO_REPLY_EXPECTED,
                path=DRIVER_PATH,
                interface=DRIVER,
                member=member,
                signature="s",
                body=(name,),
            )
        )

    def lose_names(self, owned: Iterable[str]) -> None:
        """Tell the client that it has no names any more."""
        for name in (self.name, *owned):
            self._say_of_name("NameLost", name)

    def greet(self) -> None:
        """Tell the client that it has its unique name."""
        self._say_of_name("NameAcquired", self.name)


def _owned(origin: Received) -> frozenset[str]:
    """The names that the sender of a message had."""
    return frozenset(each.name for each in origin.metadata.names)


def _from_activator(origin: Received) -> bool:
    return ACTIVATOR in _owned(origin)
