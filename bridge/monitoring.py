# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that has become a monitor (D-Bus Specification, "org.freedesktop.DBus.Monitoring.BecomeMonitor").

It is on the bus no more: it has no name, nobody can reach it, and it must not say anything. It is shown all messages
that one of its match rules fits, or all if it gave none. On kdbus there are such connections, too, which the owner of a
bus may have; so this one shows what clients and programs that speak kdbus send each other. What the driver is told and
says does not pass over the bus: the clients of the same socket show it (`bridge.house`).

One that has a match rule with `eavesdrop` stays on the bus, and is shown what others send to one receiver, as far as
such a rule fits (`Eavesdropper`); what is for all, and for itself, it gets anyway.

A signal to all that kdbus could not send to all (`bridge.onward`) passes once for each receiver, and is shown once.

Messages come in the order in which they were sent, as far as that can be known: before something of the driver's is
shown, what the bus has by then is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio

import kdbus.trio
from bridge.guard import Guard
from bridge.limits import Limits
from bridge.stream import Stream
from kdbus.abi.revision import FINAL
from kdbus.dbus import names, version1, version2
from kdbus.dbus.errors import DBusError, InvalidName, Malformed
from kdbus.dbus.kernel import DRIVER, message_of
from kdbus.dbus.message import Message, MessageType
from kdbus.dbus.rule import Rule
from kdbus.errors import Error
from kdbus.errors import Malformed as Contradictory
from kdbus.flags import PAYLOAD_DBUS, Attach, HelloFlag
from kdbus.received import Descriptor
from kdbus.received import Message as Received

_AT_ONCE: Final = 16
_SENDERS: Final = 64
"""Of signals that pass several times; how many are remembered."""
_LOG = logging.getLogger("bridge")


class Monitor:
    """Shows a client what passes. To be closed."""

    def __init__(
        self, bus: str, rules: Sequence[Rule], stream: Stream, limits: Limits, *, passes_descriptors: bool
    ) -> None:
        """Raises Error: Denied, if the bus does not let this process watch."""
        flags = HelloFlag.MONITOR | HelloFlag.ACCEPT_FD
        self._peer = kdbus.trio.connect(bus, revision=FINAL, flags=flags, attach_receive=Attach.NAMES)
        self._rules = rules
        self._stream = stream
        self._limits = limits
        self._passes_descriptors = passes_descriptors
        self._shown: dict[int, int] = {}

    async def pass_all_on(self) -> None:
        """Until the bus ends, which raises Disconnected."""
        while True:
            await self._stream.room(self._limits.unread)
            more = self._pass_some_on(_AT_ONCE)
            self._stream.flush()
            if more:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._peer.fileno())

    def show(self, message: Message) -> None:
        """Show something of the driver's. One that does not read loses it."""
        while self._stream.unread < self._limits.unread and self._pass_some_on(_AT_ONCE):
            pass
        if self._stream.unread < self._limits.unread:
            self._put(message, self._names_of(message.sender), ())
            self._stream.flush()

    def close(self) -> None:
        """Idempotent."""
        self._peer.close()

    def _pass_some_on(self, most: int) -> bool:
        """Show what has come, `most` messages of it; whether there may be more."""
        for _ in range(most):
            try:
                origin = self._peer.receive_nowait()
                if origin is None:
                    return False
                with origin:
                    self._pass_on(origin)
            except (DBusError, Contradictory) as error:
                _LOG.debug("not shown to a monitor: %s", error)
        return True

    def _pass_on(self, origin: Received) -> None:
        """Raises DBusError for what is no D-Bus."""
        if origin.notification is not None:
            told = None if origin.reply_to else message_of(origin.notification, 0)
            if told is not None:
                self._put(replace(told, cookie=1), frozenset(), ())
            return
        if origin.payload_type != PAYLOAD_DBUS:
            raise Malformed(f"a payload of the type {origin.payload_type:#x}")
        try:
            message = version2.parse(origin.payload, sender=names.unique_name(origin.sender))
        except Error as error:
            raise Malformed(f"a payload that cannot be read: {error}") from None
        if message.descriptors != len(origin.descriptors):
            raise Malformed("other descriptors than were announced")
        if message.type == MessageType.SIGNAL and message.destination is None:
            if self._is_shown(origin):
                return
        elif message.destination is None and origin.destination:
            message = replace(message, destination=names.unique_name(origin.destination))
        if message.descriptors and not self._passes_descriptors:
            return
        owned = frozenset(each.name for each in origin.metadata.names)
        try:
            descriptors = [Descriptor(each.take()) for each in origin.descriptors]
        except Error as error:
            raise Malformed(f"a descriptor that did not arrive: {error}") from None
        self._put(message, owned, descriptors)

    def _is_shown(self, origin: Received) -> bool:
        """Whether a signal to all has passed before; it is remembered."""
        if origin.is_broadcast:
            return False
        last = self._shown.pop(origin.sender, None)
        self._shown[origin.sender] = origin.cookie
        if len(self._shown) > _SENDERS:
            del self._shown[next(iter(self._shown))]
        return last == origin.cookie

    def _put(self, message: Message, owned: frozenset[str], descriptors: Sequence[Descriptor]) -> None:
        """Queue it if it is to be shown."""
        if self._is_wanted(message, owned):
            self._stream.put(version1.build(message), descriptors)

    def _is_wanted(self, message: Message, owned: frozenset[str]) -> bool:
        return not self._rules or any(self._fits(rule, message, owned) for rule in self._rules)

    def _fits(self, rule: Rule, message: Message, owned: frozenset[str]) -> bool:
        """Whether a rule fits, also if it calls the receiver by another of its names than the message does."""
        if None not in (rule.destination, message.destination) and rule.destination != message.destination:
            to = self._owner(message.destination or "")
            if to is None or to != self._owner(rule.destination or ""):
                return False
            rule = replace(rule, destination=None)
        return rule.fits(message, owned)

    def _names_of(self, sender: str | None) -> frozenset[str]:
        """The well-known names of a client, if a rule asks for such."""
        owner = None if sender is None or sender == DRIVER else self._owner(sender)
        if owner is None or all(rule.sender is None or rule.sender.startswith(":") for rule in self._rules):
            return frozenset()
        try:
            return frozenset(each.name for each in self._peer.info(owner, Attach.NAMES).metadata.names)
        except Error:
            return frozenset()

    def _owner(self, name: str) -> int | None:
        """The id of a name's owner, if there is one."""
        try:
            return names.connection_id(name) or self._peer.info(name, Attach.NONE).id
        except (Error, InvalidName):
            return None


class Eavesdropper(Monitor):
    """Shows a client `name` what others send to one receiver. `rules` are all those of the client, now and later."""

    def __init__(
        self,
        bus: str,
        rules: Sequence[Rule],
        stream: Stream,
        limits: Limits,
        name: str,
        guard: Guard | None,
        *,
        passes_descriptors: bool,
    ) -> None:
        """As Monitor's."""
        super().__init__(bus, rules, stream, limits, passes_descriptors=passes_descriptors)
        self._name = name
        self._guard = guard

    def show(self, message: Message) -> None:
        """What the driver is told; not what it says, as with dbus-daemon."""
        if message.destination == DRIVER:
            super().show(message)

    def _pass_on(self, origin: Received) -> None:
        if origin.notification is None and not origin.is_broadcast:
            super()._pass_on(origin)

    def _is_wanted(self, message: Message, owned: frozenset[str]) -> bool:
        return (
            message.destination is not None
            and not self._is_own(message.destination)
            and any(rule.eavesdrop and self._fits(rule, message, owned) for rule in self._rules)
            and (self._guard is None or self._guard.may_eavesdrop(message, owned))
        )

    def _is_own(self, destination: str) -> bool:
        """Whether the client gets what is for that destination."""
        if destination.startswith(":"):
            return destination == self._name
        return self._owner(destination) == names.connection_id(self._name)
