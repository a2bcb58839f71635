# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus on kdbus for trio: proxies, services, signals.

    from kdbus.dbus.trio import connect

    async with connect("0-system") as bus:
        printer = await bus.proxy("org.example.Printer", "/org/example/Printer", "org.example.Printer")
        job = await printer.Print("text", 2)

While the block runs, one task in the background takes what comes in: calls to our objects run in tasks of their own,
and may be coroutine functions; signals go to the subscriptions that they fit. All tasks end with the block. What the
block raises comes out as it is and not in a group, as the nursery is nobody's business.

A subscription that nobody reads fills up, and then nothing else is taken: senders feel it (QueueFull), and replies to
our own calls do not, which do not come this way. Whoever stops reading should close it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, Unpack

import trio

import kdbus.trio
from kdbus.abi.revision import Revision
from kdbus.dbus import proxy, rule
from kdbus.dbus.errors import InvalidValue
from kdbus.dbus.introspection import Interface
from kdbus.dbus.message import NO_FLAGS, Flag, Message, MessageType
from kdbus.dbus.names import unique_name
from kdbus.dbus.proxy import Target
from kdbus.dbus.rule import Rule
from kdbus.dbus.service import Action, Objects
from kdbus.dbus.transport import Delivery, Transport, log_failure, machine_id
from kdbus.dbus.versions import GVARIANT, Version
from kdbus.errors import Disconnected, Malformed
from kdbus.flags import Attach, NameFlag
from kdbus.nodes import ROOT
from kdbus.peer import CALL_TIMEOUT, HelloOptions

TASKS: Final = 100
"""Calls that are at work at a time; no more messages are taken then."""
BUFFERED: Final = 1000
"""Signals that a subscription keeps until they are read."""


class Connection:
    """A connection that speaks D-Bus; `connect` makes one. It belongs to one trio loop.

    `peer` is the connection below, for what D-Bus has no words for; `objects` are ours, which others may call.
    """

    def __init__(self, peer: kdbus.trio.Connection, *, version: Version = GVARIANT) -> None:
        """On a connection that nobody else receives from. `version`: of the wire format, 1 for peers that speak nothing
        else; calls are answered in theirs anyway."""
        self.peer = peer
        self.objects = Objects(machine_id)
        self._transport = Transport(peer, version)
        self._subscriptions: list[Subscription] = []

    @property
    def unique_name(self) -> str:
        """Our name that no other connection has: ":1." and a number."""
        return unique_name(self.peer.id)

    def acquire_name(self, name: str, flags: NameFlag = NameFlag.NONE) -> bool:
        """As `Peer.acquire_name`: True if it is ours now, False if we wait for it."""
        return self.peer.acquire_name(name, flags)

    def send(self, message: Message) -> None:
        """Send a signal, or a call that expects no reply. Raises Error or InvalidValue."""
        self._transport.send(message)

    async def call(
        self,
        message: Message,
        timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 (the bus has to know it)
    ) -> Message:
        """Send a call and wait for the reply, which may be an error. Raises kdbus.Error (NotFound, TimedOut, PeerGone
        and so on), InvalidValue if the body does not fit or no reply is expected, and kdbus.dbus.errors.Malformed."""
        if not message.expects_reply:
            raise InvalidValue(f"a {message.type.name} that expects no reply")
        with self._transport.packed(message) as (destination, payload, options):
            reply = await self.peer.call(destination, *payload, timeout=timeout, **options)
            return self._transport.read_reply(reply, options.get("cookie"))

    async def proxy(self, destination: str, path: str, interface: str | Interface) -> Proxy:
        """An object of another. An interface that is only a name is asked for, which raises as `call` does, ErrorReply,
        and InvalidName if the object does not have it."""
        if isinstance(interface, str):
            interface = proxy.interface_in(await self.call(proxy.introspect(destination, path)), interface)
        return Proxy(self, Target(destination, path, interface))

    def subscribe(self, wanted: str | Rule) -> Subscription:
        """The signals that a match rule fits, from now on, until it is closed. Raises InvalidRule or Error."""
        return Subscription(self, rule.parse(wanted) if isinstance(wanted, str) else wanted)

    async def _serve(self) -> None:
        """Take what comes in until the connection ends, and tell the subscriptions then."""
        slots = trio.Semaphore(TASKS)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await slots.acquire()
                    delivery = await self._receive()
                    if delivery.message.type == MessageType.METHOD_CALL:
                        nursery.start_soon(self._answer, delivery, slots)
                    else:
                        slots.release()
                        for subscription in tuple(self._subscriptions):
                            await subscription._offer(delivery)
        except* Disconnected:
            for subscription in tuple(self._subscriptions):
                subscription._end()

    async def _receive(self) -> Delivery:
        while True:
            try:
                delivery = self._transport.delivery(await self.peer.receive())
            except Malformed:
                continue
            if delivery is not None:
                return delivery

    async def _answer(self, request: Delivery, slots: trio.Semaphore) -> None:
        action = self.objects.action(request.message)
        try:
            self._transport.finish(request, action, await _outcome(action))
        finally:
            slots.release()


async def _outcome(action: Action) -> Any:
    """What a call returns, or the exception that it raises."""
    try:
        result = action.run()
        return await result if inspect.isawaitable(result) else result
    except Exception as error:
        log_failure(action, error)
        return error


class Subscription:
    """Signals that somebody wanted, in the order in which they came. A context manager, to end it."""

    def __init__(self, connection: Connection, wanted: Rule) -> None:
        self.rule = wanted
        self._connection = connection
        self._cookie = connection._transport.add_matches(wanted)
        self._sender, self._receiver = trio.open_memory_channel[Message](BUFFERED)
        connection._subscriptions.append(self)

    async def receive(self) -> Message:
        """The next one. Raises trio.EndOfChannel when the connection has ended, trio.ClosedResourceError when this was
        closed."""
        return await self._receiver.receive()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Every one, until the connection ends."""
        async for message in self._receiver:
            yield message

    def close(self) -> None:
        """No more of them. Idempotent."""
        if self in self._connection._subscriptions:
            self._connection._subscriptions.remove(self)
            self._receiver.close()
            self._connection._transport.remove_matches(self._cookie)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _offer(self, delivery: Delivery) -> None:
        if self.rule.fits(delivery.message, delivery.sender_names):
            # It may be closed meanwhile.
            with suppress(trio.BrokenResourceError):
                await self._sender.send(delivery.message)

    def _end(self) -> None:
        self._sender.close()


class Proxy:
    """An object of another: its methods are methods of this. Each waits for its reply, and returns what is in it, or
    raises ErrorReply."""

    def __init__(self, connection: Connection, target: Target) -> None:
        self._connection = connection
        self._target = target

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """A method of the interface. AttributeError: it has none of that name."""
        if name not in self._target.interface.methods:
            raise AttributeError(f"{self._target.interface.name} has no method {name!r}")
        return lambda *arguments: self.call(name, *arguments)

    async def call(
        self,
        name: str,
        *arguments: Any,
        timeout: float = CALL_TIMEOUT,  # noqa: ASYNC109 (the bus has to know it)
        flags: Flag = NO_FLAGS,
    ) -> Any:
        """The same with a timeout, or with flags. With NO_REPLY_EXPECTED nothing is waited for."""
        message = self._target.call(name, *arguments, flags=flags)
        if not message.expects_reply:
            return self._connection.send(message)
        return proxy.result(await self._connection.call(message, timeout))

    async def get(self, name: str) -> Any:
        """The value of a property."""
        return proxy.value_in(await self._connection.call(self._target.get(name)))

    async def set(self, name: str, value: Any) -> None:
        """Write a property."""
        proxy.result(await self._connection.call(self._target.set(name, value)))

    async def get_all(self) -> dict[str, Any]:
        """The values of all properties, by name."""
        return proxy.values_in(await self._connection.call(self._target.get_all()))

    def subscribe(self, signal: str) -> Subscription:
        """A signal of the object, from now on. Raises InvalidName if the interface has none of that name."""
        return self._connection.subscribe(self._target.rule(signal))


@asynccontextmanager
async def connect(
    bus: str,
    *,
    endpoint: str = "bus",
    root: str = ROOT,
    revision: Revision | None = None,
    version: Version = GVARIANT,
    **hello: Unpack[HelloOptions],
) -> AsyncIterator[Connection]:
    """Connect to a bus; as `kdbus.connect`, but that names of senders are asked for unless told otherwise, since match
    rules may speak of them; `version` as of Connection. Raises Error."""
    hello.setdefault("attach_receive", Attach.NAMES)
    raised: BaseException | None = None
    with kdbus.trio.connect(bus, endpoint=endpoint, root=root, revision=revision, **hello) as peer:
        connection = Connection(peer, version=version)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection._serve)
                try:
                    yield connection
                except BaseException as error:
                    raised = error
                    raise
                finally:
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if raised is None or group.exceptions != (raised,):
                raise
            # Not `from None`, which would take away what the exception itself was raised from.
            raise raised from raised.__cause__
