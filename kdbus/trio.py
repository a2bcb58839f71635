# SPDX-License-Identifier: GPL-2.0-or-later
"""The trio face: connections whose waiting holds up one task, and can be cancelled.

    async with trio.open_nursery() as nursery:
        with kdbus.trio.connect("0-system") as connection:
            reply = await connection.call("org.example.Echo", b"hello")

One connection serves many tasks: some call, some receive, and each reply goes to the task that called. No task runs in
the background for that. Of those that wait, one reads for all and hands out what is not its own; when it is done or
cancelled, another goes on. Messages that nobody asked for stay in the pool until somebody receives: a service that is
too slow is felt by its clients (QueueFull), as without this library.

Waiting has no timeouts of its own but for replies, whose deadline the bus has to know; trio's cancel scopes do the
rest. Commands that do not wait are ordinary functions.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self, Unpack

import trio

from kdbus.abi.revision import Revision
from kdbus.commands import Commands
from kdbus.errors import Disconnected, Error, Malformed, failure
from kdbus.flags import HelloFlag
from kdbus.nodes import ROOT, open_endpoint
from kdbus.peer import CALL_TIMEOUT, HelloOptions, Peer
from kdbus.received import Message
from kdbus.sending import Options, Payload
from kdbus.system import Device
from kdbus.values import ReplyDead, ReplyTimeout
from kdbus.waiting import LOOK_AGAIN, BusWatch, ask_for_owner, new_owner

GRACE: Final = 1.0
"""Seconds after a deadline until which the bus should have told that it passed. It says nothing if the reply could not
be stored in the pool."""


class _Waiter:
    """A task that waits: for anything, or for the reply to one request."""

    __slots__ = ("event", "reply")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.reply: Message | None = None


class Connection(Peer):
    """A connection to a bus; `connect` makes one. It belongs to one trio loop."""

    def __init__(self, device: Device, commands: Commands, **hello: Unpack[HelloOptions]) -> None:
        """As Peer."""
        super().__init__(device, commands, **hello)
        self._arrived: deque[Message] = deque()
        self._malformed: Malformed | None = None
        self._calls: dict[int, _Waiter] = {}
        self._abandoned: set[int] = set()
        self._receivers: dict[_Waiter, None] = {}
        self._reading = False
        self._pause = trio.CancelScope()

    def receive_nowait(self, *, peek: bool = False, priority: int | None = None) -> Message | None:
        """As Peer's, but replies go to their calls. With `peek` or `priority`, messages that were taken out of the
        queue already, by a task that read on behalf of others, are not considered."""
        if peek:
            return super().receive_nowait(peek=True, priority=priority)
        if priority is None and self._arrived:
            return self._arrived.popleft()
        while (message := super().receive_nowait(priority=priority)) is not None:
            if not self._is_reply(message):
                return message
            # It may be for the task that waits for the descriptor, which is not readable any more.
            self._pause.cancel()
        return None

    async def receive(self) -> Message:
        """The next message that is no reply to a call. Raises Disconnected, or Malformed for a message that lied."""
        waiter = _Waiter()
        self._receivers[waiter] = None
        try:
            await self._wait(waiter, lambda: bool(self._arrived) or self._malformed is not None)
        finally:
            del self._receivers[waiter]
            self._hand_over()
        if self._malformed is not None:
            error, self._malformed = self._malformed, None
            raise error
        return self._arrived.popleft()

    def __aiter__(self) -> Self:
        """Every message, until the connection ends."""
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except Disconnected:
            raise StopAsyncIteration from None

    async def call(
        self,
        destination: int | str,
        *payload: Payload,
        timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 (the bus has to know it)
        **options: Unpack[Options],
    ) -> Message:
        """Send a request and wait for the reply. If the task is cancelled, a reply that comes later is thrown away.

        Raises NotFound, PeerGone, TimedOut or another Error. ValueError: a call with that cookie is under way.
        """
        if options.get("cookie") in self._calls:
            raise ValueError(f"a call with the cookie {options.get('cookie')} is under way")
        await trio.lowlevel.checkpoint_if_cancelled()
        cookie = self.send(destination, *payload, timeout=timeout, **options)
        self._calls[cookie] = waiter = _Waiter()
        try:
            with trio.move_on_after(timeout + GRACE):
                await self._wait(waiter, lambda: waiter.reply is not None)
        finally:
            del self._calls[cookie]
            if waiter.reply is None:
                self._abandoned.add(cookie)
            self._hand_over()
        reply = waiter.reply
        if reply is None or isinstance(reply.notification, ReplyTimeout):
            raise failure("SEND", errno.ETIMEDOUT, str(destination))
        if isinstance(reply.notification, ReplyDead):
            raise failure("SEND", errno.EPIPE, str(destination))
        return reply

    async def serve(self, handler: Callable[[Message], Awaitable[Payload | None]], *, tasks: int = 100) -> None:
        """Run `handler` for each message, in a task of its own, until the connection ends or this is cancelled.

        What it returns is the reply, if one is expected; that nobody waits for it any more is not its failure. The
        message is released when it returns. With that many `tasks` at work, no more messages are taken. Messages that
        lie are left out. Another exception of a handler ends them all.
        """
        slots = trio.Semaphore(tasks)

        async def run(message: Message) -> None:
            try:
                with message:
                    answer = await handler(message)
                    if answer is not None and message.expects_reply:
                        self._answer(message, answer)
            finally:
                slots.release()

        async with trio.open_nursery() as nursery:
            while True:
                await slots.acquire()
                try:
                    message = await self.receive()
                except Malformed:
                    slots.release()
                except Disconnected:
                    return
                else:
                    nursery.start_soon(run, message)

    def close(self) -> None:
        """As Peer's. Tasks that wait get trio.ClosedResourceError."""
        if self.fileno() >= 0 and trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self.fileno())
        super().close()

    def _answer(self, request: Message, answer: Payload) -> None:
        try:
            self.reply(request, answer)
        except Error as error:
            if error.errno not in (errno.EBADSLT, errno.EPERM, errno.ENXIO, errno.ECONNRESET):
                raise

    async def _wait(self, waiter: _Waiter, is_ready: Callable[[], bool]) -> None:
        """Wait until `is_ready`; meanwhile read for all, unless another task does."""
        await trio.lowlevel.checkpoint()
        while not is_ready():
            if self._reading:
                waiter.event = trio.Event()
                await waiter.event.wait()
                continue
            self._reading = True
            try:
                while not is_ready():
                    if self._read():
                        await trio.lowlevel.checkpoint()
                    else:
                        with trio.CancelScope() as self._pause:
                            await trio.lowlevel.wait_readable(self.fileno())
            finally:
                self._reading = False

    def _hand_over(self) -> None:
        """Wake somebody to read on, as this task will not. Who has no need to wait any more does the same in turn."""
        if not self._reading:
            for waiter in (*self._receivers, *self._calls.values()):
                waiter.event.set()
                return

    def _read(self) -> bool:
        """Take one message, if there is one, and give it to whom it belongs. Raises Error."""
        try:
            message = super().receive_nowait()
        except Malformed as error:
            # One is enough to tell: whoever sends many shall not fill the memory of a program that does not receive.
            self._malformed = self._malformed or error
            self._wake_receivers()
            return True
        if message is None:
            return False
        if not self._is_reply(message):
            self._arrived.append(message)
            self._wake_receivers()
        return True

    def _is_reply(self, message: Message) -> bool:
        """Whether the message is for a call, which gets it, or was for one that was given up."""
        waiter = self._calls.get(message.reply_to) if message.reply_to else None
        if waiter is not None and waiter.reply is None:
            waiter.reply = message
            waiter.event.set()
            return True
        if message.reply_to in self._abandoned:
            self._abandoned.discard(message.reply_to)
            message.release()
            return True
        return False

    def _wake_receivers(self) -> None:
        for waiter in self._receivers:
            waiter.event.set()


def connect(
    bus: str,
    *,
    endpoint: str = "bus",
    root: str = ROOT,
    revision: Revision | None = None,
    **hello: Unpack[HelloOptions],
) -> Connection:
    """Connect to a bus, by its name or by the path of its node. As `kdbus.connect`; it does not wait."""
    device, commands = open_endpoint(bus, endpoint, root, revision)
    return Connection(device, commands, **hello)


async def wait_for_bus(bus: str, *, endpoint: str = "bus", root: str = ROOT) -> None:
    """Wait until a bus is there. Raises Error: there is no kdbus, or this user may not open the node."""
    with BusWatch(bus, endpoint, root) as watch:
        await trio.lowlevel.checkpoint()
        while not watch.is_there():
            with trio.move_on_after(LOOK_AGAIN):
                await trio.lowlevel.wait_readable(watch.fileno())


async def wait_for_name(bus: str, name: str, *, root: str = ROOT) -> int:
    """Wait until the bus is there and somebody owns the name; returns who. Raises Disconnected or Error."""
    await wait_for_bus(bus, root=root)
    with connect(bus, root=root, flags=HelloFlag.NONE) as connection:
        owner = ask_for_owner(connection, name)
        while owner is None:
            with await connection.receive() as message:
                owner = new_owner(message)
    return owner
