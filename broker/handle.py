# SPDX-License-Identifier: GPL-2.0-or-later
"""Handles: what an open descriptor of a node is, and which commands it takes.

A handle of `control` takes BUS_MAKE once, and then stands for that bus: its last close ends the bus. A handle of an
endpoint becomes a connection by HELLO, or the owner of a custom endpoint by ENDPOINT_MAKE; it is one thing or the
other for good. Commands that the present state does not know are ENOTTY, or EBADFD in the final revision. Which
revision a handle speaks, `broker.recognition` says, and it is pinned when a command has made something of it.

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
from broker.access import may_own, refused_by
from broker.behaviour import Behaviour
from broker.bus import Bus
from broker.command import Command, Invocation
from broker.connection import Connection, Opener
from broker.domain import CAP_IPC_OWNER, Control, Domain
from broker.endpoint import Endpoint, make_endpoint
from broker.errors import (
    BadItem,
    BadPoolSize,
    HandleInUse,
    MappingTooLarge,
    NodeShutDown,
    NoMapping,
    NotMappable,
    NotPermitted,
    TooManyNames,
    UnknownCommand,
    WrongConnectionKind,
    WrongState,
)
from broker.interfaces import Caller, ConnectionEvents, PoolMemory
from broker.message_form import negotiate_message
from broker.metadata import NAME_ACQUIRED, NAME_PRIMARY
from broker.recognition import spoken
from broker.reply import Reply
from broker.send import Wait, cancel, send
from broker.version3 import VERSION3
from kdbus.abi import revision3 as abi


class Handle:
    """An open node. Made by `open_node`.

    `behaviour` is that of the revision that it speaks, once a command has succeeded that makes something of it.
    """

    behaviour: Behaviour | None = None

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def ioctl(self, request: int, argument: int, caller: Caller) -> Wait | None:
        """One command. `argument` is the third argument of ioctl(2), mostly an address in the caller's memory.

        Returns None for success (the call answers 0), or a `Wait`. Raises a KdbusError, for the errno of the revision
        that the handle speaks, or that the request belongs to.
        """
        behaviour = self.spoken(request, argument, caller)
        if self.behaviour not in (None, behaviour):
            self._pin(behaviour)
        if behaviour is None:
            return self._run(None, VERSION3, argument, caller)
        with command.answering(behaviour):
            return self._run(behaviour.commands.get(request), behaviour, argument, caller)

    def spoken(self, request: int, argument: int, caller: Caller) -> Behaviour | None:
        """The revision as which a command of that number and argument is taken; None if nobody knows it."""
        return self._domain.forced or spoken(request, self.behaviour, argument, caller)

    def _run(self, known: Command | None, behaviour: Behaviour, argument: int, caller: Caller) -> Wait | None:
        """Do what the command says, or UnknownCommand for None."""
        raise NotImplementedError

    def _pin(self, behaviour: Behaviour | None) -> None:
        """From now on the handle speaks that revision."""
        assert behaviour is not None
        self.behaviour = behaviour
        self._domain.spoken.add(behaviour.revision.name)

    def map(self, length: int, *, writable: bool) -> PoolMemory:
        """What mmap(2) of `length` bytes maps. Raises NoMapping, NotMappable or MappingTooLarge."""
        raise NoMapping

    def close(self) -> None:
        """The last duplicate was closed. Called exactly once."""


class ControlHandle(Handle):
    """An open `control` node."""

    def __init__(self, domain: Domain, control: Control) -> None:
        super().__init__(domain)
        self._control = control
        self.bus: Bus | None = None

    def _run(self, known: Command | None, behaviour: Behaviour, argument: int, caller: Caller) -> Wait | None:
        if not self._control.active or not self._domain.active:
            raise NodeShutDown
        if known is None:
            raise UnknownCommand
        if known.name != "BUS_MAKE":
            raise WrongState(command=known.name, state="an open control node")
        if self.bus is not None:
            raise HandleInUse(state=f"the bus {self.bus.name}")
        make = behaviour.admit(known, behaviour, caller, argument)
        if make.negotiated:
            return None
        with command.answering(behaviour, make):
            self.bus = Bus(self._domain, make)
            try:
                make.finish()
            except BaseException:
                self.bus.deactivate()
                self.bus = None
                raise
        self._pin(behaviour)
        return None

    def close(self) -> None:
        if self.bus is not None:
            self.bus.deactivate()


class EndpointHandle(Handle):
    """An open endpoint node."""

    def __init__(self, endpoint: Endpoint, events: ConnectionEvents, opener: Opener) -> None:
        super().__init__(endpoint.bus.domain)
        self.endpoint = endpoint
        self.connection: Connection | None = None
        self.owned: Endpoint | None = None
        self._opener = opener
        self._events = events
        self._waits = 0
        self._closed = False

    @property
    def privileged(self) -> bool:
        """Whether who opened it is privileged there; see the module's essay."""
        return self._opener.privileged

    def _run(self, known: Command | None, behaviour: Behaviour, argument: int, caller: Caller) -> Wait | None:
        if self.connection is not None:
            return self._connected(self.connection, known, behaviour, argument, caller)
        if known is None:
            raise UnknownCommand
        run = self._setup_command(known)
        if behaviour.numbers_before_state and self.owned is None and not self.endpoint.active:
            raise NodeShutDown(node=self.endpoint.path)
        if known.name == "ENDPOINT_MAKE" and not self.privileged:
            raise NotPermitted(rule="only who is privileged on the bus may make endpoints")
        invocation = behaviour.admit(known, behaviour, caller, argument)
        if not invocation.negotiated:
            with command.answering(behaviour, invocation):
                run(invocation)
            self._pin(behaviour)
        return None

    def _pin(self, behaviour: Behaviour | None) -> None:
        super()._pin(behaviour)
        if self.connection is not None:
            assert behaviour is not None
            self.connection.speak(behaviour)

    def _setup_command(self, known: Command) -> Callable[[Invocation], None]:
        """What a command does that a handle takes before it is a connection. Raises WrongState."""
        if self.owned is not None:
            if known.name == "ENDPOINT_UPDATE":
                return self._update_endpoint
        elif known.name == "HELLO":
            return self._hello
        elif known.name == "ENDPOINT_MAKE":
            return self._make_endpoint
        state = "a handle that is no connection yet" if self.owned is None else f"the endpoint {self.owned.name}"
        raise WrongState(command=known.name, state=state)

    def _update_endpoint(self, update: Invocation) -> None:
        assert self.owned is not None
        if update.behaviour.numbers_before_state and not self.owned.active:
            raise NodeShutDown(node=self.owned.path)
        self.owned.set_policy(update)
        update.finish()

    def _make_endpoint(self, make: Invocation) -> None:
        endpoint = make_endpoint(self.endpoint.bus, make)
        try:
            make.finish()
        except BaseException:
            endpoint.deactivate()
            raise
        self.owned = endpoint

    def _hello(self, hello: Invocation) -> None:
        size = hello.get("pool_size")
        if size == 0 or size % limits.PAGE_SIZE:
            raise BadPoolSize(count=size, limit=limits.PAGE_SIZE)
        connection = Connection(self.endpoint, hello, self._opener)
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

    def _connected(
        self, connection: Connection, known: Command | None, behaviour: Behaviour, argument: int, caller: Caller
    ) -> Wait | None:
        """The commands of a connection. That it is alive comes before everything else, then who may issue the
        command."""
        connection.last_sent = connection.last_signal = connection.last_received = connection.refused_by = None
        if known is not None and not known.struct.size:
            if connection.kind not in known.kinds:
                raise WrongConnectionKind(command=known.name, connection_kind=connection.kind)
            connection.bye()
            return None
        if known is None and behaviour.numbers_before_state:
            raise UnknownCommand
        run = None if known is None else _COMMANDS.get(known.name)
        if not connection.active and (run is not None or not behaviour.numbers_before_state):
            raise connection.gone()
        if known is None:
            raise UnknownCommand
        if run is None:
            raise WrongState(command=known.name, state=f"the connection {connection.id}")
        if connection.kind not in known.kinds:
            raise WrongConnectionKind(command=known.name, connection_kind=connection.kind)
        invocation = behaviour.admit(known, behaviour, caller, argument)
        if invocation.negotiated:
            if known.name == "SEND":
                with command.answering(behaviour, invocation):
                    negotiate_message(invocation)
                    invocation.store("return_flags")
            return None
        with command.answering(behaviour, invocation):
            wait = run(connection, invocation)
        return None if wait is None else self._keep(wait)

    def resume(self, reply: Reply, argument: int, data: bytes, caller: Caller) -> Wait:
        """A synchronous SEND that began to wait elsewhere (`broker.lending`) waits on here.

        `data`: the command as the caller passed it at `argument`. Takes over a hold on `reply`.
        """
        assert self.connection is not None
        behaviour = self.connection.behaviour
        invocation = Invocation(behaviour.send_command, behaviour, caller, argument, bytearray(data), [])
        if "return_flags" in invocation.command.struct.members:
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
            raise NotMappable(rule="writable" if writable else "not a connection")
        if length > self.connection.pool.size:
            raise MappingTooLarge(count=length, limit=self.connection.pool.size)
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
        who = caller.credentials()
        owns = not node.has_policy and who.euid == node.bus.uid
        capable = not node.has_policy and caller.process.has_capability(CAP_IPC_OWNER, domain.ids.user_namespace)
        return EndpointHandle(node, events, Opener(who, privileged=owns or capable, capable=capable))
    raise NodeShutDown(node=path)


def _free(connection: Connection, invocation: Invocation) -> None:
    """FREE: give a slice back. It takes no items (BadItem); NoSuchSlice, SliceNotHandedOut."""
    if invocation.items:
        raise BadItem(item=invocation.items[0], kind=invocation.items[0].type, rule="FREE takes no items")
    offset = invocation.get("offset")
    if not connection.behaviour.empty_is_pool_size or offset != connection.empty_offset:
        connection.pool.free_offset(offset)
    invocation.finish()


def _name_acquire(connection: Connection, invocation: Invocation) -> None:
    """NAME_ACQUIRE: BadItem or BadName, TooManyNames, NotPermitted, then the registry's rules.

    What became of the claim is told in `flags` up to version 3, and in `return_flags` in the final revision, where it
    is told also with EEXIST.
    """
    behaviour = connection.behaviour
    name = info.required_name(invocation.items)
    most = behaviour.names_per_connection
    if not behaviour.one_claim_per_name and len(connection.names) >= most:
        raise TooManyNames(count=len(connection.names), limit=most)
    who = invocation.caller.credentials()
    if not may_own(connection, who, name):
        policy = refused_by(connection, who, (name,), abi.POLICY_OWN)
        raise NotPermitted(access="OWN", names=(name,), policy=policy)
    if behaviour.one_claim_per_name and not connection.claims(name):
        if len(connection.names) + len(connection.waiting_for) >= most:
            raise TooManyNames(count=len(connection.names) + len(connection.waiting_for), limit=most)
        invocation.put("return_flags", invocation.get("flags") & behaviour.stored_name_flags)
    claim = connection.bus.names.acquire(connection, name, invocation.get("flags"))
    if behaviour.one_claim_per_name:
        state = {True: NAME_PRIMARY, False: abi.NAME_IN_QUEUE, None: 0}[claim.owned]
        invocation.put("return_flags", claim.flags | state | (NAME_ACQUIRED if claim.new else 0))
    else:
        invocation.put("flags", claim.flags | (0 if claim.owned else abi.NAME_IN_QUEUE))
    invocation.finish()


def _name_release(connection: Connection, invocation: Invocation) -> None:
    """NAME_RELEASE: BadItem or BadName, NoSuchName, NotNameOwner. In the final revision a name that breaks the rules is
    just unknown."""
    if connection.behaviour.one_claim_per_name:
        name = invocation.items[-1].text()
    else:
        name = info.required_name(invocation.items)
    connection.bus.names.release(connection, name)
    invocation.finish()


def _update(connection: Connection, invocation: Invocation) -> None:
    connection.update(invocation)
    invocation.finish()


def _bye(connection: Connection, invocation: Invocation) -> None:
    """BYEBYE with an argument. Raises MessagesPending."""
    connection.bye()
    invocation.finish()


def _match_add(connection: Connection, invocation: Invocation) -> None:
    replace = bool(invocation.get("flags") & abi.MATCH_REPLACE)
    bloom_size = connection.bus.bloom_size
    connection.matches.add(invocation.get("cookie"), invocation.items, bloom_size, replace=replace)
    invocation.finish()


def _match_remove(connection: Connection, invocation: Invocation) -> None:
    connection.matches.remove(invocation.get("cookie"))
    invocation.finish()


def _receive(connection: Connection, invocation: Invocation) -> None:
    connection.behaviour.receive(connection, invocation)


def _list(connection: Connection, invocation: Invocation) -> None:
    connection.behaviour.list_names(connection, invocation)


_COMMANDS: dict[str, Callable[[Connection, Invocation], Wait | None]] = {
    "SEND": send,
    "RECV": _receive,
    "FREE": _free,
    "CANCEL": cancel,
    "BYEBYE": _bye,
    "NAME_ACQUIRE": _name_acquire,
    "NAME_RELEASE": _name_release,
    "LIST": _list,
    "CONN_INFO": info.connection_info,
    "BUS_CREATOR_INFO": info.bus_creator_info,
    "UPDATE": _update,
    "MATCH_ADD": _match_add,
    "MATCH_REMOVE": _match_remove,
}
