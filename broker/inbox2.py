# SPDX-License-Identifier: GPL-2.0-or-later
"""How a message lies in a pool of version 2: in one slice, behind a header of its own.

The header has a word more than later ones, and says with a flag whether the sender waits in SEND; it has no flag for
signals, which are known by their destination. A memfd is always passed from its start: of one of which a later
revision has sent a part beginning elsewhere, its receiver could not know which, so that it cannot be sent it. Metadata
are put in when the message is sent; the bus itself puts none into its notifications.

There is room for one message more than in version 3, whose comparison is another. Reference: final-revision.md, 6.1 and
6.2.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker import limits
from broker.errors import DescriptorNotPassable
from broker.inbox import OneSliceOfHalf, Plan
from broker.interfaces import Caller
from broker.queue import QueueEntry
from kdbus.abi import revision2
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.behaviour import Behaviour
    from broker.connection import Connection
    from broker.message import Message
    from broker.quota import User

_HEADER = struct.Struct("<QQQqQQQQQ")
SYNC_REPLY = revision2.CONSTANTS["KDBUS_MSG_SYNC_REPLY"]
NO_AUTO_START = revision2.CONSTANTS["KDBUS_MSG_NO_AUTO_START"]


class Version2Plan(Plan):
    """See `broker.inbox.Plan`."""

    __slots__ = ()
    header_size = _HEADER.size

    def _header(self, message: Message, size: int, behaviour: Behaviour) -> bytes:
        flags = message.flags & abi.MESSAGE_EXPECT_REPLY
        if message.sync:
            flags |= SYNC_REPLY
        if message.flags & abi.MESSAGE_NO_AUTO_START:
            flags |= NO_AUTO_START
        return _HEADER.pack(
            size,
            flags,
            message.kernel_flags,
            message.priority,
            message.destination,
            message.source,
            message.payload_type,
            message.cookie,
            message.timeout_or_cookie_reply,
        )

    def _memfd(self, payload: bytes, place: int) -> bytes:
        if payload[:8] != bytes(8):
            raise DescriptorNotPassable(
                kind=Kind.PAYLOAD_MEMFD, rule="a part of a memfd that does not begin at its start, to version 2"
            )
        self.memfd_places.append(place + 8)
        return payload[8:16] + b"\xff" * 4 + bytes(4)


class Version2Inbox(OneSliceOfHalf):
    """See `broker.inbox.Inbox`."""

    def __init__(self) -> None:
        super().__init__(Version2Plan, limits.MESSAGES_PER_CONNECTION + 1)

    def answer(
        self, destination: Connection, sent: Message, caller: Caller | None, user: User | None, attached: int
    ) -> QueueEntry:
        told = 0 if sent.notification is not None else attached
        return super().answer(destination, sent, caller, user, told)
