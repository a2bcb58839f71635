# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus's messages over a connection of kdbus, without waiting: what the blocking and the trio face share.

What sd-bus did, and thus what others expect: a message's cookie is the same in its bytes and for kdbus, as kdbus looks
for the request that a reply belongs to by its own. Signals carry a bloom filter. A large body goes as a memfd, which is
not copied, unless the message goes to many. The sender is who kdbus says it is. What cannot be read as D-Bus is
ignored, and so are payloads of other types.

That is the second version of the wire format, which nearly everybody spoke on kdbus. What comes in the first, which
early libdbus put there, is read as well and answered likewise; what a connection sends of itself is of one version.

Values of the type `h` are descriptors here: what has a `fileno`, or a number, on the way out; `kdbus.Descriptor`, which
closes itself, on the way in.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from kdbus.dbus import names
from kdbus.dbus.bloom import filter_of
from kdbus.dbus.errors import DBusError, ErrorReply, InvalidValue, Malformed
from kdbus.dbus.handles import replaced
from kdbus.dbus.kernel import matches_of, message_of
from kdbus.dbus.message import Flag, Message, MessageType
from kdbus.dbus.rule import Rule
from kdbus.dbus.service import FAILED, Action
from kdbus.dbus.version2 import Parts, build_parts
from kdbus.dbus.versions import CLASSIC, GVARIANT, Version, build, parse
from kdbus.errors import Disconnected, Error
from kdbus.flags import BROADCAST, PAYLOAD_DBUS, MessageFlag
from kdbus.peer import Peer
from kdbus.received import Descriptor
from kdbus.received import Message as Received
from kdbus.sending import Memfd, Options, Payload

MEMFD_FROM: Final = 512 << 10
"""Bytes of a body from which on it goes as a memfd; sd-bus's number."""

_LOG = logging.getLogger("kdbus.dbus")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message, and what it came in, which was released and still tells who sent it."""

    message: Message
    origin: Received
    version: Version
    """Of the wire format that it came in; what the bus itself tells counts as the second."""

    @property
    def sender_names(self) -> frozenset[str]:
        """The well-known names of the sender, if the connection asked for them (Attach.NAMES)."""
        return frozenset(owned.name for owned in self.origin.metadata.names)


class Transport:
    """Sends and reads messages of D-Bus on a connection."""

    def __init__(self, peer: Peer, version: Version = GVARIANT) -> None:
        """Nobody else should send D-Bus on that connection: cookies are counted here. `version`: of the wire format,
        for what is sent and is no reply. Raises InvalidValue: there is no such version."""
        if version not in (CLASSIC, GVARIANT):
            raise InvalidValue(f"version {version!r} of D-Bus's wire format; there are 1 (classic) and 2 (GVariant)")
        self._peer = peer
        self._version = version
        self._cookies = itertools.count(1)

    def send(self, message: Message) -> int:
        """Send a signal, or a call that expects no reply; returns the cookie. Raises Error, or InvalidValue if the body
        does not fit, for a call that expects a reply, and for a reply."""
        if message.expects_reply or message.reply_cookie is not None:
            raise InvalidValue("only signals, and calls that expect no reply, can be sent without more")
        with self.packed(message) as (destination, payload, options):
            if message.type == MessageType.SIGNAL:
                parameters = self._peer.bloom
                bloom = filter_of(message, size=parameters.size, hashes=parameters.hashes)
                return self._peer.signal(*payload, bloom=bloom, destination=destination, **options)
            return self._peer.send(destination, *payload, **options)

    def reply(self, request: Delivery, message: Message) -> None:
        """Send a reply, in the version of the request. Raises Error if nobody waits for it, InvalidValue if the body
        does not fit."""
        with self.packed(message, request.version) as (_, payload, options):
            self._peer.reply(request.origin, *payload, **options)

    @contextmanager
    def packed(
        self, message: Message, version: Version | None = None
    ) -> Iterator[tuple[int | str, list[Payload], Options]]:
        """Destination, payload and options for `Peer`, which hold while the block runs; without a version it is the
        connection's. Raises InvalidValue."""
        if message.destination is None:
            destination: int | str = BROADCAST
        else:
            identifier = names.connection_id(message.destination)
            destination = message.destination if identifier is None else identifier
        numbers: list[int] = []
        body = replaced(message.signature, message.body, lambda value: _index(numbers, value))
        cookie = next(self._cookies)
        whole = replace(message, body=body, cookie=cookie, descriptors=len(numbers))
        if (version or self._version) == CLASSIC:
            # Its end is not looked for by readers, so all of it may be in one memfd.
            parts = Parts(b"", build(whole, CLASSIC, order=sys.byteorder), b"")
        else:
            parts = build_parts(whole, order=sys.byteorder)
        options = Options(cookie=cookie, descriptors=numbers)
        if message.flags & Flag.NO_AUTO_START:
            options["flags"] = MessageFlag.NO_AUTO_START
        if len(parts.body) < MEMFD_FROM or destination == BROADCAST:
            yield destination, [b"".join(parts)], options
        else:
            with Memfd(parts.body) as memfd:
                yield destination, [part for part in (parts.head, memfd, parts.tail) if part], options

    def read(self, origin: Received) -> Delivery:
        """The message in what was received, which is released. Raises Malformed if it is none."""
        with origin:
            if origin.notification is not None:
                told = message_of(origin.notification, origin.reply_to)
                if told is None:
                    raise Malformed("a notification that D-Bus has no message for")
                return Delivery(told, origin, GVARIANT)
            if origin.payload_type != PAYLOAD_DBUS:
                raise Malformed(f"a payload of the type {origin.payload_type:#x}")
            try:
                message, version = parse(origin.payload)
            except Error as error:
                raise Malformed(f"a payload that cannot be read: {error}") from None
            if message.descriptors != len(origin.descriptors):
                raise Malformed(f"{len(origin.descriptors)} descriptors where {message.descriptors} were announced")
            taken: dict[int, Descriptor] = {}
            body = replaced(message.signature, message.body, lambda index: _descriptor(origin, taken, index))
            said = replace(message, sender=names.unique_name(origin.sender), body=body)
            return Delivery(said, origin, version)

    def read_reply(self, origin: Received, cookie: int | None) -> Message:
        """The same for the reply to the request of that cookie. Raises Malformed also if the message says that it is
        something else, whatever kdbus said."""
        message = self.read(origin).message
        if message.reply_cookie != cookie:
            raise Malformed(f"a {message.type.name} where the reply to the cookie {cookie} was expected")
        return message

    def delivery(self, origin: Received) -> Delivery | None:
        """The message in what was received, None if there is none that D-Bus knows: it is to be ignored then."""
        try:
            return self.read(origin)
        except Malformed as error:
            _LOG.debug("ignored: %s", error)
            return None

    def add_matches(self, wanted: Rule) -> int:
        """Want what a rule fits; the cookie for `remove_matches`. Raises Error or InvalidName, and has added nothing
        then."""
        first, *others = matches_of(wanted, self._peer.bloom)
        cookie = self._peer.add_match(*first)
        try:
            for match in others:
                self._peer.add_match(*match, cookie=cookie)
        except BaseException:
            self._peer.remove_match(cookie)
            raise
        return cookie

    def remove_matches(self, cookie: int) -> None:
        """Want them no more. A connection that has ended wants nothing anyway. Raises Error."""
        with suppress(Disconnected):
            self._peer.remove_match(cookie)

    def finish(self, request: Delivery, action: Action, outcome: Any) -> None:
        """Send the reply to a call that was run: `outcome` is what it returned, or the exception. That nobody waits
        for it any more is not an error."""
        if not request.message.expects_reply:
            return
        try:
            if isinstance(outcome, BaseException):
                self.reply(request, action.failed(outcome))
            else:
                self.reply(request, action.returned(outcome))
        except DBusError as error:
            _LOG.exception("%s of %s gave what is no reply", action.call.member, action.call.path)
            self.finish(request, action, ErrorReply(FAILED, str(error)))
        except Error as error:
            _LOG.debug("a reply that nobody got: %s", error)


def _index(numbers: list[int], value: Any) -> int:
    """Remember a descriptor to be sent; its index."""
    number = value if isinstance(value, int) else value.fileno()
    numbers.append(number)
    return len(numbers) - 1


def _descriptor(origin: Received, taken: dict[int, Descriptor], index: int) -> Descriptor:
    """The descriptor with that index. It outlives the message that brought it."""
    if index >= len(origin.descriptors):
        raise Malformed(f"the descriptor {index} of {len(origin.descriptors)}")
    if index not in taken:
        try:
            taken[index] = Descriptor(origin.descriptors[index].take())
        except Error as error:
            raise Malformed(f"a descriptor that did not arrive: {error}") from None
    return taken[index]


def log_failure(action: Action, error: BaseException) -> None:
    """Tell the service's owner that a method failed otherwise than by an ErrorReply. The caller is told as well."""
    if not isinstance(error, ErrorReply):
        _LOG.error("%s of %s failed", action.call.member, action.call.path, exc_info=error)


def machine_id() -> str:
    """The machine's id (machine-id(5)), as systemd or D-Bus keep it. Raises ErrorReply if there is none."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path) as file:
                return file.read().strip()
        except OSError:
            continue
    raise ErrorReply(FAILED, "this machine has no id")
