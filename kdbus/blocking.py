# SPDX-License-Identifier: GPL-2.0-or-later
"""The blocking face: connections whose waiting holds up the thread.

Timeouts are in seconds; None waits for ever. A connection may be used by several threads, as every command is one call
to the kernel, but each message goes to one of them.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Iterator
from typing import Unpack

from kdbus import matches
from kdbus.abi.revision import Revision
from kdbus.errors import Disconnected, NotFound, failure
from kdbus.flags import Attach, HelloFlag, NameFlag
from kdbus.nodes import ROOT, open_endpoint
from kdbus.peer import CALL_TIMEOUT, HelloOptions, Peer
from kdbus.received import Message
from kdbus.sending import Options, Payload
from kdbus.values import NameChange


class Connection(Peer):
    """A connection to a bus; `connect` makes one."""

    def receive(self, timeout: float | None = None, *, peek: bool = False) -> Message:
        """The next message, which is waited for. Raises TimedOut, Disconnected or Malformed.

        There is no waiting for a priority (`receive_nowait` has one), as poll cannot tell messages apart.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while (message := self.receive_nowait(peek=peek)) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise failure("RECV", errno.ETIMEDOUT, f"within {timeout} s")
            poll.poll(None if left is None else left * 1000)
        return message

    def __iter__(self) -> Iterator[Message]:
        """Every message, until the connection ends."""
        while True:
            try:
                yield self.receive()
            except Disconnected:
                return

    def call(
        self,
        destination: int | str,
        *payload: Payload,
        timeout: float = CALL_TIMEOUT,
        cancel_fd: int | None = None,
        **options: Unpack[Options],
    ) -> Message:
        """Send a request and wait for the reply, which does not come through the queue.

        Raises NotFound, PeerGone, TimedOut, Cancelled (`cancel_fd` became readable) or another Error; Malformed.
        """
        return self._call_synchronously(destination, payload, timeout, options, cancel_fd)


def connect(
    bus: str,
    *,
    endpoint: str = "bus",
    root: str = ROOT,
    revision: Revision | None = None,
    **hello: Unpack[HelloOptions],
) -> Connection:
    """Connect to a bus, by its name or by the path of its node. `revision`: the one to speak; None: the newest
    that is spoken there. The rest is as in `Peer`. Raises Error."""
    device, commands = open_endpoint(bus, endpoint, root, revision)
    return Connection(device, commands, **hello)


def wait_for_name(bus: str, name: str, timeout: float | None = None, *, root: str = ROOT) -> int:
    """Wait until somebody owns the name; returns who. Raises TimedOut or Disconnected.

    On a connection of its own, so that no message of another is taken for it.
    """
    with connect(bus, root=root, flags=HelloFlag.NONE) as connection:
        # First ask to be told, then look: it may appear in between.
        connection.add_match(matches.NameAppears(name))
        connection.add_match(matches.NameChangesHands(name))
        try:
            info = connection.info(name, Attach.NONE)
            if not info.flags & HelloFlag.ACTIVATOR:
                return info.id
        except NotFound:
            pass
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with connection.receive(None if deadline is None else max(0, deadline - time.monotonic())) as message:
                change = message.notification
                if isinstance(change, NameChange) and not change.new_flags & NameFlag.ACTIVATOR:
                    return change.new_id

