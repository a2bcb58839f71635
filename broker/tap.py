# SPDX-License-Identifier: GPL-2.0-or-later
"""Watching messages from outside: what a domain tells of, if anybody asks it to.

A `Tap` hears of every message when kdbus's own monitors do (`broker.delivery.eavesdrop`): when it is known who may get
it, and before anybody has got it. What then becomes of it is told only if the SEND fails; so is a SEND that does not
get so far.

Unlike a monitor, a tap is no connection: it takes no id, programs do not find it in lists, nothing more is collected
about a sender for its sake, and it cannot be late with its own queue. That is why `kdbus monitor` has a tap, although
`busctl monitor` made such a connection. Messages of connections that are lent (`broker.flow`) do not come by here: who
serves those has to tell of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.bus import Bus
    from broker.connection import Connection
    from broker.errors import KdbusError
    from broker.interfaces import Caller
    from broker.message import Message


class Tap(Protocol):
    """Hears of messages. It must change nothing, and keep nothing of the caller."""

    def sent(self, bus: Bus, source: Connection | None, message: Message, caller: Caller | None) -> None:
        """A message of a connection, or of the bus itself, is about to be delivered."""
        ...

    def failed(self, source: Connection, message: Message, error: KdbusError, caller: Caller) -> None:
        """The SEND fails with `error`, whether or not `sent` has been called for the message."""
        ...
