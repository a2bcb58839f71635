# SPDX-License-Identifier: GPL-2.0-or-later
"""Origins: metadata by number, so that a message can be told to come from where another one came from.

Metadata are collected anew for each message (`broker.metadata`), but mostly come out the same: the same thread sends,
and has not changed its ids, its name or its program in between. Whoever serves the hot calls (`broker.flow`) can
establish that much more cheaply than it can collect: it looks whether what was once read still reads the same. Then
the message has the same *origin*, a number here, and all that is new about it is its timestamp.

The number stands for the facts themselves and not for the thread, so nothing about it can become stale: what changes is
which number is right for the next message, and that is asked each time.

What a receiver is shown of an origin depends on its namespaces, its attach flags and the module parameter, but on
nothing else. It is worked out by `ProcessMetadata.export` as ever, and may be repeated while these stay the same.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple

from broker.interfaces import Credentials, Ids
from broker.item import unpadded
from broker.metadata import ConnectionMetadata, ProcessMetadata
from kdbus.abi import revision3 as abi

if TYPE_CHECKING:
    from broker.behaviour import Behaviour
    from broker.connection import Connection
    from broker.message import Message

LIMIT = 1024
"""How many numbers are worth keeping; when there are more, all of them are to be forgotten (`Origins.clear`)."""
_TIMESTAMP = struct.Struct("<3Q")


class Origins:
    """The numbers that have been given. 0 is that of messages without metadata."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._origins: dict[int, tuple[ProcessMetadata, ConnectionMetadata]] = {}

    @property
    def is_full(self) -> bool:
        return len(self._numbers) >= LIMIT

    def clear(self) -> None:
        """Forget all numbers; nothing may refer to one of them any more."""
        self._numbers.clear()
        self._origins.clear()

    def _number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers) + 1)

    def number_of(self, process: ProcessMetadata, connection: ConnectionMetadata) -> int:
        """The number of a message's metadata without its timestamp."""
        valid = connection.valid & ~abi.ATTACH_TIMESTAMP
        if not process.valid and not valid:
            return 0
        number = self._number((process.key(), valid, connection.names, connection.description))
        self._origins.setdefault(number, (process, connection))
        return number

    def of_connection(self, connection: Connection) -> int:
        """A number for what messages say of their sender's connection: its names, each as it was acquired, and its
        description."""
        names = tuple((name, entry.flags, entry.id) for name, entry in connection.names.items())
        return self._number((names, connection.description))

    def of_credentials(self, credentials: Credentials) -> int:
        """A number for who somebody is."""
        return self._number(credentials)

    def restore(self, message: Message, number: int, timestamp: tuple[int, int] | None) -> None:
        """Give `message` the metadata of `number`, and a timestamp: CLOCK_MONOTONIC and CLOCK_REALTIME, in ns."""
        if number:
            process, connection = self._origins[number]
            message.process = process
            message.connection.names, message.connection.description = connection.names, connection.description
            message.connection.valid = connection.valid & ~abi.ATTACH_TIMESTAMP
        if timestamp is not None:
            message.connection.timestamp = _TIMESTAMP.pack(message.sequence, *timestamp)
            message.connection.valid |= abi.ATTACH_TIMESTAMP


class Shown(NamedTuple):
    """What a receiver is shown of an origin: items, their bytes without the padding of the last one, and whether there
    is a timestamp as well."""

    items: bytes
    end: int
    timestamp: bool


def shown(message: Message, ids: Ids, attach_flags: int, behaviour: Behaviour) -> Shown:
    """What a receiver of that behaviour, with `ids` and `attach_flags`, is shown of the message's origin."""
    without = attach_flags & ~abi.ATTACH_TIMESTAMP
    items = behaviour.export(message.process, message.connection, ids, without, behaviour, behaviour.inbox.whole)
    return Shown(items, unpadded(items), bool(attach_flags & abi.ATTACH_TIMESTAMP))


def timestamp_of(connection: ConnectionMetadata) -> tuple[int, int] | None:
    """When the message was sent: CLOCK_MONOTONIC and CLOCK_REALTIME, in ns; None if that was not noted."""
    if not connection.valid & abi.ATTACH_TIMESTAMP:
        return None
    _, monotonic, realtime = _TIMESTAMP.unpack(connection.timestamp)
    return monotonic, realtime
