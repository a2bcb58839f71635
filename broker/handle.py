# SPDX-License-Identifier: GPL-2.0-or-later
"""Handles: what an open descriptor of a node is, and which commands it takes.

A handle of `control` takes BUS_MAKE once, and then stands for that bus: its last close ends the bus. A handle of an
endpoint becomes a connection by HELLO, or the owner of a custom endpoint by ENDPOINT_MAKE; it is one thing or the
other for good. Commands that the present state does not know are ENOTTY.

An endpoint's handle is *privileged* if, when it was opened, the endpoint was the default one and the opener had
CAP_IPC_OWNER towards the domain's user namespace or the bus maker's uid as its effective one. It stays so, whoever
uses it later.

Memory, descriptors and credentials belong to the thread that issues the command, not to the one that opened the
handle.

A synchronous SEND that waits keeps its handle open, as ioctl(2) holds the file: if the last descriptor is closed
meanwhile, by another thread, the connection ends when the call does. Reference: ipc/kdbus/handle.c.
"""

from __future__ import annotations

from collections.abc import Callable

from broker import command, info, limits
from broker.access import may_own
from broker.bus import Bus
from broker.command import Invocation
from broker.connection import Connection
from broker.domain import CAP_IPC_OWNER, Control, Domain
from broker.endpoint import Endpoint, make_endpoint
from broker.errors import (
    BadItem,
    BadPoolSize,
    Disconnected,
    HandleInUse,
    MappingTooLarge,
    NodeShutDown,
    NoMapping,
    NotMappable,
    NotPermitted,
    TooManyNames,
    UnknownCommand,
    WrongConnectionKind,
)
from broker.outside import Caller, ConnectionEvents, PoolMemory
from broker.receive import receive
from broker.reply import Reply
from broker.send import Wait, send
from kdbus.abi import revision3 as abi

_REQUEST = abi.REQUESTS


class Handle:
    """An open node. Made by `open_node`."""

    def ioctl(self, request: int, argument: int, caller: Caller) -> Wait | None:
        """One command. `argument` is the third argument of ioctl(2), mostly an address in the caller's memory.

        Returns None for success (the call answers 0), or a `Wait`. Raises a KdbusError.
        """
        raise NotImplementedError

    def map(self, length: int, *, writable: bool) -> PoolMemory:
        """What mmap(2) of `length` bytes maps. Raises NoMapping, NotMappable or MappingTooLarge."""
        raise NoMapping

    def close(self) -> None:
        """The last duplicate was closed. Called exactly once."""


class ControlHandle(Handle):
    """An open `control` node."""

    def __init__(self, domain: Domain, control: Control) -> None:
        self._domain = domain
        self._control = control
        self.bus: Bus | None = None

    def ioctl(self, request: int, argument: int, caller: Caller) -> Wait | None:
        if not self._control.active or not self._domain.active:
            raise NodeShutDown
        if request != _REQUEST["KDBUS_CMD_BUS_MAKE"]:
            raise UnknownCommand
        if self.bus is not None:
            raise HandleInUse
        self.bus = Bus(self._domain, command.receive(command.TABLE[request], caller, argument))
        return None

    def close(self) -> None:
        if self.bus is not None:
            self.bus.deactivate()


class EndpointHandle(Handle):
    """An open endpoint node."""

    def __init__(self, endpoint: Endpoint, events: ConnectionEvents, *, privileged: bool) -> None:
        self.endpoint = endpoint
        self.privileged = privileged
        self.connection: Connection | None = None
        self.owned: Endpoint | None = None
        self._events = events
        self._waits = 0
        self._closed = False

    def ioctl(self, request: int, argument: int, caller: Caller) -> Wait | None:
        if self.connection is not None:
            return self._connected(self.connection, request, argument, caller)
        if self.owned is not None:
            if request != _REQUEST["KDBUS_CMD_ENDPOINT_UPDATE"]:
                raise UnknownCommand
            update = command.receive(command.TABLE[request], caller, argument)
            self.owned.set_policy(update)
            update.finish()
        elif request == _REQUEST["KDBUS_CMD_HELLO"]:
            self._hello(command.receive(command.TABLE[request], caller, argument))
        elif request == _REQUEST["KDBUS_CMD_ENDPOINT_MAKE"]:
            if not self.privileged:
                raise NotPermitted
            make = command.receive(command.TABLE[request], caller, argument)
            self.owned = make_endpoint(self.endpoint.bus, make)
        else:
            raise UnknownCommand
        return None

    def _hello(self, hello: Invocation) -> None:
        size = hello.get("pool_size")
        if size == 0 or size % limits.PAGE_SIZE:
            raise BadPoolSize
        connection = Connection(self.endpoint, hello, privileged=self.privileged)
        try:
            connection.connect(hello)
            hello.finish()
        except BaseException:
            connection.close()
            raise
        self.connection = connection
        connection.events = self._events
        if len(connection.queue):
            self._events.message_queued()

    def _connected(self, connection: Connection, request: int, argument: int, caller: Caller) -> Wait | None:
        """The commands of a connection. That it is alive comes before everything else, then who may issue the
        command."""
        if request == _REQUEST["KDBUS_CMD_BYEBYE"]:
            if connection.kind != command.ORDINARY:
                raise WrongConnectionKind
            connection.bye()
            return None
        if not connection.active:
            raise Disconnected
        run = _COMMANDS.get(request)
        if run is None:
            raise UnknownCommand
        known = command.TABLE[request]
        if connection.kind not in known.kinds:
            raise WrongConnectionKind
        wait = run(connection, command.receive(known, caller, argument))
        return None if wait is None else self._keep(wait)

    def resume(self, reply: Reply, argument: int, data: bytes, caller: Caller) -> Wait:
        """A synchronous SEND that began to wait elsewhere (`broker.lending`) waits on here.

        `data`: the command as the caller passed it at `argument`. Takes over a hold on `reply`.
        """
        assert self.connection is not None
        known = command.TABLE[_REQUEST["KDBUS_CMD_SEND"]]
        invocation = Invocation(known, caller, argument, bytearray(data), [])
        invocation.put("return_flags", 0)
        return self._keep(Wait(self.connection, invocation, reply, None))

    def _keep(self, wait: Wait) -> Wait:
        self._waits += 1
        wait.on_end(self._wait_ended)
        return wait

    def _wait_ended(self) -> None:
        self._waits -= 1
        if self._closed and not self._waits:
            self._release()

    def map(self, length: int, *, writable: bool) -> PoolMemory:
        if self.connection is None or writable:
            raise NotMappable
        if length > self.connection.pool.size:
            raise MappingTooLarge
        return self.connection.pool.memory

    def close(self) -> None:
        self._closed = True
        if not self._waits:
            self._release()

    def _release(self) -> None:
        if self.connection is not None:
            self.connection.close()
        if self.owned is not None:
            self.owned.deactivate()


def open_node(domain: Domain, path: tuple[str, ...], caller: Caller, events: ConnectionEvents) -> Handle:
    """Open the node at `path` below the domain's root, with read and write access already granted.

    Raises NodeShutDown if there is none (any more).
    """
    node: object = domain
    for name in path:
        node = getattr(node, "children", {}).get(name)
    if isinstance(node, Control) and node.active:
        return ControlHandle(domain, node)
    if isinstance(node, Endpoint) and node.active:
        privileged = not node.has_policy and (
            caller.credentials().euid == node.bus.uid
            or caller.process.has_capability(CAP_IPC_OWNER, domain.ids.user_namespace)
        )
        return EndpointHandle(node, events, privileged=privileged)
    raise NodeShutDown


def _free(connection: Connection, invocation: Invocation) -> None:
    """FREE: give a slice back. It takes no items (BadItem); NoSuchSlice."""
    if invocation.items:
        raise BadItem
    connection.pool.free_offset(invocation.get("offset"))
    invocation.finish()


def _name_acquire(connection: Connection, invocation: Invocation) -> None:
    """NAME_ACQUIRE: BadItem or BadName, TooManyNames, NotPermitted, then the registry's rules."""
    name = info.required_name(invocation.items)
    if len(connection.names) >= limits.NAMES_PER_CONNECTION:
        raise TooManyNames
    if not may_own(connection, invocation.caller.credentials(), name):
        raise NotPermitted
    flags = connection.bus.names.acquire(connection, name, invocation.get("flags"))
    invocation.put("flags", flags)
    invocation.finish()


def _name_release(connection: Connection, invocation: Invocation) -> None:
    connection.bus.names.release(connection, info.required_name(invocation.items))
    invocation.finish()


def _update(connection: Connection, invocation: Invocation) -> None:
    connection.update(invocation)
    invocation.finish()


def _match_add(connection: Connection, invocation: Invocation) -> None:
    replace = bool(invocation.get("flags") & abi.MATCH_REPLACE)
    bloom_size = connection.bus.bloom_size
    connection.matches.add(invocation.get("cookie"), invocation.items, bloom_size, replace=replace)
    invocation.finish()


def _match_remove(connection: Connection, invocation: Invocation) -> None:
    connection.matches.remove(invocation.get("cookie"))
    invocation.finish()


_COMMANDS: dict[int, Callable[[Connection, Invocation], Wait | None]] = {
    _REQUEST["KDBUS_CMD_SEND"]: send,
    _REQUEST["KDBUS_CMD_RECV"]: receive,
    _REQUEST["KDBUS_CMD_FREE"]: _free,
    _REQUEST["KDBUS_CMD_NAME_ACQUIRE"]: _name_acquire,
    _REQUEST["KDBUS_CMD_NAME_RELEASE"]: _name_release,
    _REQUEST["KDBUS_CMD_NAME_LIST"]: info.name_list,
    _REQUEST["KDBUS_CMD_CONN_INFO"]: info.connection_info,
    _REQUEST["KDBUS_CMD_BUS_CREATOR_INFO"]: info.bus_creator_info,
    _REQUEST["KDBUS_CMD_CONN_UPDATE"]: _update,
    _REQUEST["KDBUS_CMD_MATCH_ADD"]: _match_add,
    _REQUEST["KDBUS_CMD_MATCH_REMOVE"]: _match_remove,
}
