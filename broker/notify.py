# SPDX-License-Identifier: GPL-2.0-or-later
"""Notifications: messages from the bus itself.

A connection came or went, a name changed hands: broadcast to those whose matches fit and whose policy lets them know.
A reply came too late, or will never come: sent to the one connection that waits for it. Each is a message from id 0
with payload type 0 and exactly one item. Until the final revision that item's size, unlike that of others, is rounded
up to 8, and the message has no flags; there, broadcasts have the flag SIGNAL.

Notifications are collected while a command runs and *flushed* at its end, so that nobody sees one of a change that is
still going on; they get their sequence number and timestamp then. Reference: ipc/kdbus/notify.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.message import About, Message
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.bus import Bus


class Notifications:
    """The notifications of one bus that are not flushed yet."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._pending: list[Message] = []

    def id_change(self, item_type: int, connection_id: int, flags: int) -> None:
        """ID_ADD or ID_REMOVE: a connection with these KDBUS_HELLO_* flags came or went."""
        added = item_type == Kind.ID_ADD
        old, new = (None, connection_id) if added else (connection_id, None)
        about = About(item_type, old, new, flags=(flags,))
        self._add(abi.DESTINATION_BROADCAST, about)

    def name_change(self, item_type: int, old: tuple[int, int], new: tuple[int, int], name: bytes) -> None:
        """NAME_ADD, NAME_REMOVE or NAME_CHANGE; `old` and `new` are (connection id, KDBUS_NAME_* flags), zeros for
        none."""
        self._add(abi.DESTINATION_BROADCAST, About(item_type, old[0], new[0], name, (old[1], new[1])))

    def reply_timeout(self, requester_id: int, cookie: int) -> None:
        """The reply to `cookie` did not come in time."""
        self._add(requester_id, About(Kind.REPLY_TIMEOUT), cookie)

    def reply_dead(self, requester_id: int, cookie: int) -> None:
        """The reply to `cookie` will never come."""
        self._add(requester_id, About(Kind.REPLY_DEAD), cookie)

    def _add(self, destination: int, about: About, cookie: int = 0) -> None:
        message = Message(destination, abi.SOURCE_KERNEL, abi.PAYLOAD_KERNEL)
        message.timeout_or_cookie_reply = cookie
        message.notification = about
        self._pending.append(message)

    def flush(self) -> None:
        """Send what has been collected."""
        while self._pending:
            pending, self._pending = self._pending, []
            for message in pending:
                self._bus.deliver_notification(message)
                message.drop()
