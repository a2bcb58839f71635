# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client sends, on its way to the bus.

A message's serial is its cookie on kdbus, so replies need no table. A call has no deadline on D-Bus, where clients
count for themselves; on kdbus it must have one, so it gets one that is never reached.

A signal to one receiver goes to an id on kdbus, never to a name. It arrives if the receiver has a match for it, which
clients of a proxy have; programs that speak kdbus need one.

*A signal to all* that kdbus sends to one only, as it has descriptors or is too large, goes to each connection of the
bus, one by one. A signal to one, too, arrives only where a match fits, so it is kdbus that chooses. It still says that
it is to all (it names no destination): who takes all signals to itself alone knows it by that (`bridge.inward`).

Whatever the client claims of its identity is left out: kdbus says who sends.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final, Protocol

import kdbus.trio
from bridge.failures import no_such_name, not_sent
from bridge.guard import Guard
from bridge.threads import compute
from kdbus.dbus import names
from kdbus.dbus.bloom import filter_of
from kdbus.dbus.errors import InvalidName
from kdbus.dbus.message import Flag, Message, MessageType
from kdbus.dbus.transport import MEMFD_FROM
from kdbus.dbus.version2 import Parts, build_parts
from kdbus.errors import Error
from kdbus.flags import Attach, ListFlag, MessageFlag
from kdbus.message import LARGEST_VECTOR
from kdbus.received import Descriptor
from kdbus.sending import Memfd, Options, Payload

NEVER: Final = math.inf
"""Seconds until the deadline of a call."""

_LOG = logging.getLogger("bridge")


class Replies(Protocol):
    """Who knows the requests that are to be replied to."""

    def cookie_of(self, sender: int, serial: int) -> int:
        """The cookie of the call that the client knows by that sender and serial."""
        ...


MayWant = Callable[[int, Message, Collection[str]], bool]
"""Whether a connection may want a signal to all, whose sender has those names. The bus knows of its matches."""


class Onward:
    """Sends what a client says."""

    def __init__(
        self,
        peer: kdbus.trio.Connection,
        inward: Replies,
        guard: Guard | None,
        may_want: MayWant,
    ) -> None:
        self._may_want = may_want
        self._guard = guard
        self._peer = peer
        self._inward = inward

    async def send(self, message: Message, descriptors: Sequence[Descriptor], *, large: bool) -> None:
        """Send a message. Raises ErrorReply with what its sender is to be told, InvalidValue for a body that kdbus's
        D-Bus cannot have."""
        parts = await compute(large, _parts, message if message.sender is None else replace(message, sender=None))
        options = Options(cookie=message.cookie, descriptors=[each.fileno() for each in descriptors])
        if message.flags & Flag.NO_AUTO_START:
            options["flags"] = MessageFlag.NO_AUTO_START
        try:
            one_by_one = message.destination is None and (
                bool(descriptors) or sum(map(len, parts)) > LARGEST_VECTOR
            )
            if len(parts.body) < MEMFD_FROM or (message.destination is None and not one_by_one):
                self._allowed(message, [b"".join(parts)], options, one_by_one=one_by_one)
            else:
                with await compute(large, Memfd, parts.body) as memfd:
                    self._allowed(message, [parts.head, memfd, parts.tail], options, one_by_one=one_by_one)
        except Error as error:
            starts = not message.flags & Flag.NO_AUTO_START
            raise not_sent(error, message.destination or "everybody", auto_start=starts) from error

    def _allowed(
        self, message: Message, payload: list[Payload], options: Options, *, one_by_one: bool = False
    ) -> None:
        """Send it if the policy lets it through. Raises Error, and ErrorReply."""

        def send(owner: int | None) -> None:
            if one_by_one:
                self._send_to_each(message, payload, options)
            elif message.destination is None:
                self._peer.signal(*payload, bloom=self._bloom(message), **options)
            else:
                self._send(message, message.destination, owner, payload, options)

        if self._guard is None:
            send(None)
        else:
            self._guard.send(message, send)

    def _send(
        self, message: Message, destination: str, owner: int | None, payload: list[Payload], options: Options
    ) -> None:
        """Send it to one receiver. `owner`: the one that must have the destination's name; None: whoever has it."""
        try:
            to: int | str = names.connection_id(destination) or destination
        except InvalidName:
            raise no_such_name(destination, auto_start=not message.flags & Flag.NO_AUTO_START) from None
        if message.type == MessageType.METHOD_CALL:
            if owner is not None and isinstance(to, str):
                options["owner"] = owner
            self._peer.send(to, *payload, timeout=NEVER if message.expects_reply else None, **options)
            return
        if isinstance(to, str):
            to = owner or self._peer.info(to, Attach.NONE).id
        if message.reply_cookie is None:
            self._peer.signal(*payload, bloom=self._bloom(message), destination=to, **options)
            return
        request = self._inward.cookie_of(to, message.reply_cookie)
        self._peer.answer(to, request, *payload, **options)

    def _send_to_each(self, message: Message, payload: list[Payload], options: Options) -> None:
        """Send a signal to each connection that may want it. That one does not take it is not the sender's business."""
        me = self._peer.id
        owned = {each.name for each in self._peer.info(me, Attach.NAMES).metadata.names}
        seen, bloom = replace(message, sender=names.unique_name(me)), self._bloom(message)
        for identifier in {entry.id for entry in self._peer.list_names(ListFlag.UNIQUE)}:
            if self._may_want(identifier, seen, owned):
                try:
                    self._peer.signal(*payload, bloom=bloom, destination=identifier, **options)
                except Error as error:
                    _LOG.info("a signal to all did not reach %s: %s", names.unique_name(identifier), error.meaning)

    def _bloom(self, message: Message) -> bytes:
        return filter_of(message, size=self._peer.bloom.size, hashes=self._peer.bloom.hashes)


def _parts(message: Message) -> Parts:
    return build_parts(message, order=sys.byteorder)
