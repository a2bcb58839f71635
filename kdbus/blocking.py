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

from kdbus.abi.revision import Revision
from kdbus.errors import Disconnected, TimedOut, failure
from kdbus.flags import HelloFlag
from kdbus.nodes import ROOT, open_endpoint
from kdbus.peer import CALL_TIMEOUT, HelloOptions, Peer
from kdbus.received import Message
from kdbus.sending import Options, Payload
from kdbus.waiting import LOOK_AGAIN, BusWatch, ask_for_owner, new_owner


class Connection(Peer):
    """A connection to a bus; `connect` makes one."""

    def receive(self, timeout: float | None = None, *, peek: bool = False) -> Message:
        """The next message, which is waited for. Raises TimedOut, Disconnected or Malformed.

        There is no waiting for a priority (`receive_nowait` has one), as poll cannot tell messages apart.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        poll: select.poll | None = None
        while (message := self.receive_nowait(peek=peek)) is None:
            if poll is None:
                poll = select.poll()
                poll.register(self, select.POLLIN)
            left = _left(deadline)
            if left == 0:
                raise failure("RECV", errno.ETIMEDOUT, f"within {timeout:.3g} s")
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


def wait_for_bus(bus: str, timeout: float | None = None, *, endpoint: str = "bus", root: str = ROOT) -> None:
    """Wait until a bus is there. Raises TimedOut; Error: there is no kdbus, or this user may not open the node."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with BusWatch(bus, endpoint, root) as watch:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        while not watch.is_there():
            left = _left(deadline)
            if left == 0:
                raise failure("open", errno.ETIMEDOUT, bus)
            poll.poll(1000 * (LOOK_AGAIN if left is None else min(left, LOOK_AGAIN)))


def wait_for_name(bus: str, name: str, timeout: float | None = None, *, root: str = ROOT) -> int:
    """Wait until the bus is there and somebody owns the name; returns who. Raises TimedOut, Disconnected or Error.

    On a connection of its own, so that no message of another is taken for what it waits for.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    wait_for_bus(bus, timeout, root=root)
    with connect(bus, root=root, flags=HelloFlag.NONE) as connection:
        owner = ask_for_owner(connection, name)
        try:
            while owner is None:
                with connection.receive(_left(deadline)) as message:
                    owner = new_owner(message)
        except TimedOut:
            raise failure("CONN_INFO", errno.ETIMEDOUT, name) from None
    return owner


def _left(deadline: float | None) -> float | None:
    """Seconds until then, at least 0."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
