# SPDX-License-Identifier: GPL-2.0-or-later
"""One client, from its first byte to its last.

It says who it is (`bridge.sasl`), says Hello, and has a connection of kdbus from then on. Three tasks work for it: one
takes what it sends, one what the bus has for it, one writes. When one of them ends, so do the others.

What ends it, besides its own wish: that it does not say Hello in time; an invalid message, as with dbus-daemon; more
unread answers than it may have. It is told nothing, as it is not known whether it
would understand. Others learn from the bus that it went.

*Whose connection it is.* Where this process may (as the bus's owner), the connection is in the name of the client, as
the kernel says who that is (SO_PEERCRED, SO_PEERSEC). Where it may not, it is in this process's name, and only for
clients of the same user.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

import kdbus.trio
from bridge import stream as streams
from bridge.driver import Driver
from bridge.failures import ACCESS_DENIED, LIMITS_EXCEEDED, NO_OWNER, NOT_SUPPORTED, SERVICE_UNKNOWN, UNKNOWN_METHOD
from bridge.framing import Framing
from bridge.house import House, Record
from bridge.inward import Inward, own_matches
from bridge.limits import DEFAULTS, Limits
from bridge.monitoring import Eavesdropper, Monitor
from bridge.onward import Onward
from bridge.queries import PEER
from bridge.rules import Policy
from bridge.sasl import Authentication, Refused
from bridge.stream import Stream
from bridge.threads import compute
from kdbus.abi.revision import FINAL
from kdbus.dbus import version1
from kdbus.dbus.errors import DBusError, ErrorReply, InvalidValue, Malformed
from kdbus.dbus.kernel import DRIVER
from kdbus.dbus.message import Message, MessageType, error, method_return
from kdbus.dbus.rule import Rule
from kdbus.errors import Denied, Disconnected, Error
from kdbus.flags import Attach, HelloFlag
from kdbus.received import Descriptor
from kdbus.values import Credentials, Pids

_AT_ONCE: Final = 8
"""Messages of one client that are taken before others have their turn."""
_LOG = logging.getLogger("bridge")


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all clients of a socket.

    `bus` and `endpoint` as for `kdbus.connect`; `guid`: the socket's, 32 hexadecimal digits; `anonymous`: the mechanism
    ANONYMOUS is allowed; `other_users`: clients of other users are; `policy`: what clients may do, and which users may
    have clients; without, clients may do what this process may; `reread` and `reload_services`: as for House.
    """

    bus: str
    guid: str
    limits: Limits = DEFAULTS
    anonymous: bool = False
    other_users: bool = False
    policy: Policy | None = None
    reread: Callable[[], Policy] | None = None
    reload_services: Callable[[], None] = lambda: None


class Client:
    """Serves one connected socket. `said_hello`: it has come so far."""

    def __init__(self, connection: socket.socket, terms: Terms, house: House) -> None:
        """The socket is closed when it is served."""
        self.said_hello = trio.Event()
        self._terms = terms
        self._house = house
        self._limits = terms.limits
        self._process, self._user, self._group = streams.who(connection)
        self._groups = streams.groups(connection, self._group)
        self._label = streams.security_label(connection)
        self._stream = Stream(connection, terms.limits.descriptors)
        self._framing = Framing(terms.limits.message, terms.limits.descriptors)
        self._passes_descriptors = False
        self._eavesdropping: trio.CancelScope | None = None

    async def serve(self) -> None:
        """Until one side ends it. Raises nothing that a client could bring about."""
        peer = None
        try:
            with trio.move_on_after(self._limits.login_seconds):
                peer = await self._log_in()
            if peer is not None:
                try:
                    with peer:
                        await self._work(peer)
                finally:
                    self._leave(peer.id)
                if self._driver.monitor is not None:
                    await self._watch(self._driver.monitor)
        except* (Refused, DBusError) as reasons:
            _LOG.info("process %d was cut off: %s", self._process, _first(reasons))
        except* (Disconnected, OSError) as reasons:
            _LOG.debug("process %d has gone: %s", self._process, _first(reasons))
        finally:
            self._framing.close()
            self._stream.close()

    # ---- until Hello

    async def _log_in(self) -> kdbus.trio.Connection | None:
        """The client's connection of kdbus; None if it went before."""
        self._check_user()
        authentication = Authentication(self._user, self._terms.guid, anonymous=self._terms.anonymous)
        while not authentication.done:
            data, descriptors = await self._stream.read()
            _close(descriptors)
            if not data:
                return None
            answer = authentication.take(data)
            if answer:
                await self._stream.write(answer)
        self._passes_descriptors = authentication.passes_descriptors
        self._framing.feed(authentication.rest())
        while True:
            while (call := self._framing.next()) is not None:
                peer = await self._hello(version1.parse(call))
                if peer is not None:
                    return peer
            if not await self._read():
                return None

    def _check_user(self) -> None:
        """Raises Refused if clients of this user are not accepted."""
        if self._house.guards is None:
            accepted, reason = self._user in (0, os.geteuid()) or self._terms.other_users, ""
        else:
            decision = self._house.guards.policy.may_connect(self._user, self._groups, os.geteuid())
            accepted, reason = decision.allowed, f", by {decision.rule or 'no rule that allows it'}"
        if not accepted:
            raise Refused(f"clients of the user {self._user} are not accepted{reason}")

    async def _hello(self, call: Message) -> kdbus.trio.Connection | None:
        """Take the first message, or the next one: a connection for Hello, or else an error for an answer."""
        _close(self._framing.claim(call.descriptors))
        is_hello = call.type == MessageType.METHOD_CALL and (call.destination, call.member) == (DRIVER, "Hello")
        if not is_hello or call.interface not in (None, DRIVER):
            reason = ErrorReply(
                ACCESS_DENIED, "Client tried to send a message other than Hello without being registered"
            )
        elif self._house.users[self._user] >= self._limits.clients_of_user:
            reason = ErrorReply(
                LIMITS_EXCEEDED, f"The maximum number of active connections for UID {self._user} has been reached"
            )
        else:
            try:
                peer = self._connect()
            except Error as failed:
                code = ACCESS_DENIED if isinstance(failed, Denied) else LIMITS_EXCEEDED
                reason = ErrorReply(code, f"kdbus gives no connection: {failed.meaning}")
            else:
                self._first_words(peer, call)
                return peer
        if call.expects_reply:
            answer = error(replace(call, sender=None), reason.name, reason.text)
            await self._stream.write(version1.build(replace(answer, cookie=1, sender=DRIVER)))
        return None

    def _connect(self) -> kdbus.trio.Connection:
        """A connection of kdbus in the client's name. Raises Error."""
        # Also for a client that takes no descriptors, as large bodies come in memfds.
        flags = HelloFlag.ACCEPT_FD
        user, group = self._user, self._group
        try:
            peer = kdbus.trio.connect(
                self._terms.bus,
                revision=FINAL,
                flags=flags,
                attach_receive=Attach.NAMES,
                creds=Credentials(user, user, user, user, group, group, group, group),
                pids=Pids(self._process, self._process, 0),
                seclabel=self._label,
            )
        except Denied:
            if user != os.geteuid():
                raise
            peer = kdbus.trio.connect(self._terms.bus, revision=FINAL, flags=flags, attach_receive=Attach.NAMES)
        try:
            for match in own_matches(peer.id):
                peer.add_match(match)
        except BaseException:
            peer.close()
            raise
        return peer

    def _first_words(self, peer: kdbus.trio.Connection, hello: Message) -> None:
        house, guards = self._house, self._house.guards
        house.users[self._user] += 1
        claims: set[str] = set()
        self._guard = None if guards is None else guards.add(peer, self._user, self._groups, claims)
        takes = self._passes_descriptors
        self._inward = Inward(peer, self._stream, self._limits, self._guard, house.show, passes_descriptors=takes)
        house.listeners[peer.id] = self._inward.rules
        self._onward = Onward(peer, self._inward, self._guard, house.may_want)
        self._record = Record(self._inward.name, self._inward.rules, claims, self._stream)
        self._driver = Driver(
            peer, self._inward, self._limits, self._guard, house, claims, self._monitor, self._eavesdrop
        )
        house.add(self._record)
        house.show(replace(hello, sender=self._inward.name))
        if hello.expects_reply:
            self._inward.say(method_return(hello, "s", (self._inward.name,)))
        self._inward.greet()
        self._stream.flush()
        self.said_hello.set()

    def _leave(self, identifier: int) -> None:
        """The client is on the bus no more."""
        self._house.users[self._user] -= 1
        self._house.remove(self._record)
        del self._house.listeners[identifier]
        if self._house.guards is not None:
            self._house.guards.remove(identifier)

    def _monitor(self, rules: Sequence[Rule]) -> Monitor:
        """What shows the client what passes. Raises ErrorReply, and Error."""
        if self._user not in (0, os.geteuid()):
            raise ErrorReply(ACCESS_DENIED, "Only root, and the user whose bus it is, may become a monitor")
        return Monitor(
            self._terms.bus, rules, self._stream, self._limits, passes_descriptors=self._passes_descriptors
        )

    def _eavesdrop(self, wanted: bool) -> None:
        """Show the client from now on what others send each other, or no more. One that may not is shown nothing, as
        with dbus-daemon."""
        if not wanted and self._eavesdropping is not None:
            self._eavesdropping.cancel()
            self._eavesdropping = None
        if not wanted or self._eavesdropping is not None or self._user not in (0, os.geteuid()):
            return
        try:
            eavesdropper = Eavesdropper(
                self._terms.bus,
                self._inward.rules,
                self._stream,
                self._limits,
                self._inward.name,
                self._guard,
                passes_descriptors=self._passes_descriptors,
            )
        except Error as reason:
            _LOG.info("%s cannot eavesdrop: %s", self._inward.name, reason)
            return
        self._eavesdropping = trio.CancelScope()
        self._nursery.start_soon(self._show, eavesdropper, self._eavesdropping)

    async def _show(self, eavesdropper: Eavesdropper, scope: trio.CancelScope) -> None:
        self._house.watchers.append(eavesdropper)
        try:
            with scope:
                await eavesdropper.pass_all_on()
        finally:
            self._house.watchers.remove(eavesdropper)
            eavesdropper.close()

    # ---- from then on

    async def _work(self, peer: kdbus.trio.Connection) -> None:
        async with trio.open_nursery() as self._nursery:
            nursery = self._nursery
            nursery.start_soon(self._stream.write_all)
            nursery.start_soon(self._inward.pass_all_on)
            await self._take_all()
            nursery.cancel_scope.cancel()

    async def _watch(self, monitor: Monitor) -> None:
        """Show the client what passes, until it goes. Raises Refused if it says something."""
        self._house.watchers.append(monitor)
        try:
            # Not before: who knows that it is a monitor knows that it is on the bus no more.
            self._stream.flush()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stream.write_all)
                nursery.start_soon(monitor.pass_all_on)
                if self._framing.next() is not None or await self._read():
                    raise Refused("a monitor is not allowed to send messages")
                nursery.cancel_scope.cancel()
        finally:
            self._house.watchers.remove(monitor)
            monitor.close()

    async def _take_all(self) -> None:
        """Take what the client sends, to its end, or until it is a monitor. Raises Malformed or Refused."""
        taken = 0
        while True:
            while (data := self._framing.next()) is not None:
                await self._take(data)
                if self._driver.monitor is not None:
                    return
                taken += 1
                if taken % _AT_ONCE == 0:
                    self._stream.flush()
                    if self._stream.unread_answers > self._limits.unread_answers:
                        raise Refused(f"it leaves {self._stream.unread_answers} bytes of answers unread")
                    await trio.lowlevel.checkpoint()
            self._stream.flush()
            if not await self._read():
                return

    async def _read(self) -> bool:
        """Read on; False at the end. Descriptors are dropped where none are agreed on. Raises Malformed if some wait
        too long for their message."""
        if self._framing.waits_with_descriptors:
            with trio.move_on_after(self._limits.descriptors_seconds) as scope:
                data, descriptors = await self._stream.read()
            if scope.cancelled_caught:
                raise Malformed("descriptors whose message does not come")
        else:
            data, descriptors = await self._stream.read()
        if not self._passes_descriptors:
            _close(descriptors)
            descriptors = []
        self._framing.feed(data, descriptors)
        return bool(data)

    async def _take(self, data: bytes) -> None:
        self._record.largest = max(self._record.largest, len(data))
        large = len(data) > self._limits.on_loop
        message = await compute(large, version1.parse, data)
        descriptors = self._framing.claim(message.descriptors)
        try:
            if message.destination == DRIVER or (message.destination is None and _is_call(message)):
                await self._ask_driver(message)
            else:
                await self._onward.send(message, descriptors, large=large)
        except ErrorReply as reason:
            if reason.name in (SERVICE_UNKNOWN, NO_OWNER) and message.destination != DRIVER:
                # The bus has not seen it.
                self._house.show(replace(message, sender=self._inward.name))
            if message.expects_reply:
                self._inward.say(error(replace(message, sender=None), reason.name, reason.text))
        except InvalidValue as reason:
            # What D-Bus can have, and its form on kdbus cannot.
            if message.expects_reply:
                self._inward.say(error(replace(message, sender=None), NOT_SUPPORTED, str(reason)))
        finally:
            _close(descriptors)

    async def _ask_driver(self, message: Message) -> None:
        """Answer a call of the driver, or of nobody, which is the bus as a peer. Whatever else comes to it, it does not
        heed. Raises ErrorReply."""
        if self._house.watchers:
            self._house.show(replace(message, sender=self._inward.name))
        if not _is_call(message):
            return
        if message.destination is None and message.interface != PEER:
            raise ErrorReply(
                UNKNOWN_METHOD,
                f'Method "{message.member}" with signature "{message.signature}" on interface '
                f'"{message.interface or "(null)"}" doesn\'t exist\n',
            )
        if self._guard is not None and message.destination is not None:
            self._guard.check_driver_call(message)
        try:
            answer = self._driver.answer(message)
        finally:
            await self._inward.drain()
        if message.expects_reply and answer is not None:
            self._inward.say(method_return(replace(message, sender=None), *answer))
        if self._driver.monitor is not None:
            self._inward.lose_names(sorted(self._record.claims))


def _is_call(message: Message) -> bool:
    return message.type == MessageType.METHOD_CALL


def _close(descriptors: Sequence[Descriptor]) -> None:
    for descriptor in descriptors:
        descriptor.close()


def _first(reasons: BaseExceptionGroup[Any]) -> BaseException:
    """One of the exceptions in a group."""
    found: BaseException = reasons
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
