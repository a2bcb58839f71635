# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus on kdbus for programs that wait: proxies, services, signals.

    from kdbus.dbus.blocking import connect

    with connect("0-system") as bus:
        printer = bus.proxy("org.example.Printer", "/org/example/Printer", "org.example.Printer")
        job = printer.Print("text", 2)

A call waits in the kernel, and nothing else happens meanwhile: messages that come stay in the connection's pool until
somebody takes them. `process` takes one, answers it if it is a call to one of our objects, and hands it to the
subscriptions that it fits. `serve` does so for ever, and a subscription that is read until it has something.

Timeouts are in seconds; None waits for ever.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, Unpack

import kdbus.blocking
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


class Connection:
    """A connection that speaks D-Bus; `connect` makes one. It is for one thread.

    `peer` is the connection below, for what D-Bus has no words for; `objects` are ours, which others may call.
    """

    def __init__(self, peer: kdbus.blocking.Connection, *, version: Version = GVARIANT) -> None:
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

    def call(self, message: Message, timeout: float = CALL_TIMEOUT) -> Message:
        """Send a call and wait for the reply, which may be an error. Raises kdbus.Error (NotFound, TimedOut, PeerGone
        and so on), InvalidValue if the body does not fit or no reply is expected, and kdbus.dbus.errors.Malformed."""
        if not message.expects_reply:
            raise InvalidValue(f"a {message.type.name} that expects no reply")
        with self._transport.packed(message) as (destination, payload, options):
            reply = self.peer.call(destination, *payload, timeout=timeout, **options)
            return self._transport.read_reply(reply, options.get("cookie"))

    def proxy(self, destination: str, path: str, interface: str | Interface) -> Proxy:
        """An object of another. An interface that is only a name is asked for, which raises as `call` does, ErrorReply,
        and InvalidName if the object does not have it."""
        if isinstance(interface, str):
            interface = proxy.interface_in(self.call(proxy.introspect(destination, path)), interface)
        return Proxy(self, Target(destination, path, interface))

    def subscribe(self, wanted: str | Rule) -> Subscription:
        """The signals that a match rule fits, from now on, until it is closed. Raises InvalidRule or Error."""
        return Subscription(self, rule.parse(wanted) if isinstance(wanted, str) else wanted)

    def process(self, timeout: float | None = None) -> Message:
        """Wait for a message of D-Bus and do with it what has to be done; returns it. Others are left out.

        Raises TimedOut or Disconnected.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            try:
                origin = self.peer.receive(left)
            except Malformed:
                continue
            delivery = self._transport.delivery(origin)
            if delivery is not None:
                self._handle(delivery)
                return delivery.message

    def serve(self) -> None:
        """Answer calls until the connection ends."""
        while True:
            try:
                self.process()
            except Disconnected:
                return

    def close(self) -> None:
        """End the connection. Idempotent."""
        self.peer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _handle(self, delivery: Delivery) -> None:
        if delivery.message.type == MessageType.METHOD_CALL:
            action = self.objects.action(delivery.message)
            self._transport.finish(delivery, action, _outcome(action))
            return
        for subscription in self._subscriptions:
            subscription._offer(delivery)


def _outcome(action: Action) -> Any:
    """What a call returns, or the exception that it raises."""
    try:
        result = action.run()
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError("a coroutine function; kdbus.dbus.trio has connections that await it")
    except Exception as error:
        log_failure(action, error)
        return error
    return result


class Subscription:
    """Signals that somebody wanted, in the order in which they came. A context manager, to end it."""

    def __init__(self, connection: Connection, wanted: Rule) -> None:
        self.rule = wanted
        self._connection = connection
        self._queue: deque[Message] = deque()
        self._cookie = connection._transport.add_matches(wanted)
        connection._subscriptions.append(self)

    def receive(self, timeout: float | None = None) -> Message:
        """The next one. What else comes meanwhile is handled (`Connection.process`). Raises TimedOut or
        Disconnected."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._queue:
            self._connection.process(None if deadline is None else max(0, deadline - time.monotonic()))
        return self._queue.popleft()

    def __iter__(self) -> Iterator[Message]:
        """Every one, until the connection ends."""
        while True:
            try:
                yield self.receive()
            except Disconnected:
                return

    def close(self) -> None:
        """No more of them. Idempotent."""
        if self in self._connection._subscriptions:
            self._connection._subscriptions.remove(self)
            self._connection._transport.remove_matches(self._cookie)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _offer(self, delivery: Delivery) -> None:
        if self.rule.fits(delivery.message, delivery.sender_names):
            self._queue.append(delivery.message)


class Proxy:
    """An object of another: its methods are methods of this. Each waits for its reply, and returns what is in it, or
    raises ErrorReply."""

    def __init__(self, connection: Connection, target: Target) -> None:
        self._connection = connection
        self._target = target

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A method of the interface. AttributeError: it has none of that name."""
        if name not in self._target.interface.methods:
            raise AttributeError(f"{self._target.interface.name} has no method {name!r}")
        return lambda *arguments: self.call(name, *arguments)

    def call(self, name: str, *arguments: Any, timeout: float = CALL_TIMEOUT, flags: Flag = NO_FLAGS) -> Any:
        """The same with a timeout, or with flags. With NO_REPLY_EXPECTED nothing is waited for."""
        message = self._target.call(name, *arguments, flags=flags)
        if not message.expects_reply:
            return self._connection.send(message)
        return proxy.result(self._connection.call(message, timeout))

    def get(self, name: str) -> Any:
        """The value of a property."""
        return proxy.value_in(self._connection.call(self._target.get(name)))

    def set(self, name: str, value: Any) -> None:
        """Write a property."""
        proxy.result(self._connection.call(self._target.set(name, value)))

    def get_all(self) -> dict[str, Any]:
        """The values of all properties, by name."""
        return proxy.values_in(self._connection.call(self._target.get_all()))

    def subscribe(self, signal: str) -> Subscription:
        """A signal of the object, from now on. Raises InvalidName if the interface has none of that name."""
        return self._connection.subscribe(self._target.rule(signal))


def connect(
    bus: str,
    *,
    endpoint: str = "bus",
    root: str = ROOT,
    revision: Revision | None = None,
    version: Version = GVARIANT,
    **hello: Unpack[HelloOptions],
) -> Connection:
    """Connect to a bus; as `kdbus.connect`, but that names of senders are asked for unless told otherwise, since match
    rules may speak of them; `version` as of Connection. Raises Error."""
    hello.setdefault("attach_receive", Attach.NAMES)
    peer = kdbus.blocking.connect(bus, endpoint=endpoint, root=root, revision=revision, **hello)
    try:
        return Connection(peer, version=version)
    except BaseException:
        peer.close()
        raise
