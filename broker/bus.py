# SPDX-License-Identifier: GPL-2.0-or-later
"""A bus: the room in which connections meet.

BUS_MAKE on a domain's control node makes one; it lives until that handle is closed. Its maker fixes for all: the
name, who may enter (the access flags), the size of bloom filters, which metadata every connection must send
(`attach_flags_required`) and which of the maker's own may be told (`attach_flags_owner`). Reference: ipc/kdbus/bus.c.
"""

from __future__ import annotations

from broker import delivery, limits
from broker.command import Invocation
from broker.connection import Connection
from broker.domain import Domain, MessageCounter
from broker.endpoint import Endpoint
from broker.errors import BadArgument, BadItem, DuplicateItem, MissingItem
from broker.item import Item
from broker.message import Message
from broker.metadata import PROCESS_FLAGS, START_TIME, ProcessMetadata
from broker.names import NameRegistry
from broker.node import Node, node_mode
from broker.notify import Notifications
from broker.policy import PolicyDatabase
from broker.subscribers import Subscribers
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

_TAKEN = (Kind.MAKE_NAME, Kind.BLOOM_PARAMETER, Kind.ATTACH_FLAGS_SEND, Kind.ATTACH_FLAGS_RECV)


class Bus(Node):
    """One bus. `connections` holds all active ones by id, in the order of their ids."""

    is_directory = True

    def __init__(self, domain: Domain, make: Invocation, *, any_name: bool = False) -> None:
        """Check a BUS_MAKE and make the bus, active, with its default endpoint.

        `any_name`: whether it may have a name that is not its maker's.

        Raises BadItem, DuplicateItem, MissingItem (name and bloom parameters are needed), BadArgument (bloom size not
        8 to 4096 or no multiple of 8, no hash function, unknown attach flags), BadName, NodeExists, TooManyBuses, and
        what showing its nodes raises: then there is no such bus.
        """
        caller = make.caller
        name, self.bloom, required, owner = _read_items(make.items)
        self.bloom_size = int.from_bytes(self.bloom[:8], "little")
        if not 8 <= self.bloom_size <= limits.BLOOM_SIZE or self.bloom_size % 8:
            rule = f"size {self.bloom_size} is no multiple of 8 up to {limits.BLOOM_SIZE}"
            raise BadArgument(kind=Kind.BLOOM_PARAMETER, rule=rule)
        if self.bloom[8:] == bytes(8):
            raise BadArgument(kind=Kind.BLOOM_PARAMETER, rule="n_hash 0")
        self.behaviour = make.behaviour
        read_flags, tells = self.behaviour.read_attach_flags, self.behaviour.tells_of_maker
        self.attach_flags_required = read_flags(required) if self.behaviour.requires_metadata else 0
        self.attach_flags_owner = read_flags(owner) if tells is None else tells
        who = caller.credentials()
        if not any_name:
            domain.check_uid_prefix(name, who.euid)
        self.flags = make.get("flags")
        text = name.decode("utf-8", "surrogateescape")
        super().__init__(text, node_mode(self.flags, 0o500), who.euid, who.egid)
        self.name_bytes = name
        self.domain = domain
        self.messages = MessageCounter() if self.behaviour.ids_of_domain else domain.messages
        self.id = domain.next_bus_id()
        self.id128 = _random_uuid(domain)
        self.connections: dict[int, Connection] = {}
        self.monitors: dict[Connection, None] = {}
        self.subscribers = Subscribers()
        self.names = NameRegistry(self)
        self.policy = PolicyDatabase()
        self.notifications = Notifications(self)
        self.metadata = ProcessMetadata()
        self._counts = False
        self._last_connection_id = 0
        self._last_endpoint_id = 0
        self.link(domain)
        try:
            self.metadata.collect(caller, PROCESS_FLAGS | START_TIME)
            self.creator = domain.user(who.uid)
            self.creator.add_bus()
            self._counts = True
            self.activate()
            Endpoint(self, "bus", self.flags, who, custom=False).activate()
        except BaseException:
            self.deactivate()
            raise

    def released(self, was_active: bool) -> None:
        if self._counts:
            self.creator.buses -= 1

    def next_connection_id(self) -> int:
        """The id of the next connection; used up even if HELLO fails."""
        if self.behaviour.ids_of_domain:
            return self.domain.next_bus_id()
        self._last_connection_id += 1
        return self._last_connection_id

    def next_endpoint_id(self) -> int:
        """The id of the next endpoint."""
        self._last_endpoint_id += 1
        return self._last_endpoint_id

    def add_connection(self, connection: Connection) -> None:
        """Let it be found."""
        self.connections[connection.id] = connection
        if connection.flags & abi.HELLO_MONITOR:
            self.monitors[connection] = None

    def remove_connection(self, connection: Connection) -> None:
        """Let it be found no more."""
        del self.connections[connection.id]
        self.monitors.pop(connection, None)
        connection.matches.clear()

    def deliver_notification(self, message: Message) -> None:
        """Send a notification that has been collected."""
        delivery.notify(self, message)


def _read_items(items: list[Item]) -> tuple[bytes, bytes, int, int]:
    """(name, bloom parameters, required attach flags, owner's attach flags)."""
    found: dict[int, Item] = {}
    for current in items:
        if current.type not in _TAKEN:
            raise BadItem(item=current, kind=current.type, rule="BUS_MAKE does not take it")
        if current.type in found:
            raise DuplicateItem(item=current, kind=current.type)
        found[current.type] = current
    for kind in (Kind.MAKE_NAME, Kind.BLOOM_PARAMETER):
        if kind not in found:
            raise MissingItem(kind=kind)
    required = found.get(Kind.ATTACH_FLAGS_RECV)
    owner = found.get(Kind.ATTACH_FLAGS_SEND)
    return (
        found[Kind.MAKE_NAME].text(),
        found[Kind.BLOOM_PARAMETER].payload,
        0 if required is None else required.u64(),
        0 if owner is None else owner.u64(),
    )


def _random_uuid(domain: Domain) -> bytes:
    """16 random bytes, marked as a random UUID (RFC 4122, version 4)."""
    raw = bytearray(domain.random(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)
