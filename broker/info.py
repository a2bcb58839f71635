# SPDX-License-Identifier: GPL-2.0-or-later
"""Information on request: NAME_LIST, CONN_INFO and BUS_CREATOR_INFO.

Each writes its result into the caller's pool and returns the offset; the caller frees it.

What CONN_INFO and BUS_CREATOR_INFO tell about a process is what was true at HELLO or BUS_MAKE, masked by what the
connection lets out (its `attach_flags_send`) or the bus's maker did; names and description are those of now. A
connection on a custom endpoint is told that what it may not see does not exist. Reference: `kdbus_cmd_conn_info` in
connection.c, `kdbus_cmd_bus_creator_info` in bus.c, `kdbus_cmd_name_list` in names.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from broker import item
from broker.access import may_see, may_see_name
from broker.command import Invocation
from broker.connection import Connection
from broker.errors import (
    BadArgument,
    BadItem,
    BadName,
    DuplicateItem,
    HiddenByEndpoint,
    MissingItem,
    NoSuchConnection,
    NoSuchName,
)
from broker.item import Item
from broker.metadata import ConnectionMetadata, claim_flags, owned_name
from broker.names import NameEntry
from broker.naming import is_valid_name
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind


def required_name(items: list[Item]) -> bytes:
    """The name in the only NAME item of a command. Raises BadItem (none, or several) or BadName."""
    try:
        name = item.unique(items, Kind.NAME).text()
    except (MissingItem, DuplicateItem) as error:
        missing = isinstance(error, MissingItem)
        raise BadItem(**error.facts, rule="there is none" if missing else "a second one") from error
    if not is_valid_name(name, wildcard=False):
        raise BadName(kind=Kind.NAME, name=name)
    return name


def _publish(connection: Connection, invocation: Invocation, data: bytes, size_member: str) -> None:
    if not data:
        invocation.put("offset", connection.empty_offset)
        invocation.put(size_member, 0)
        invocation.finish()
        return
    slice_ = connection.pool.store(data)
    invocation.put("offset", slice_.offset)
    if size_member in invocation.command.struct.members:
        invocation.put(size_member, slice_.size)
    slice_.publish()
    slice_.release()
    invocation.finish()


def name_list(connection: Connection, invocation: Invocation) -> None:
    """NAME_LIST: a `kdbus_name_list` with an entry per name or connection that the flags ask for.

    Connections come in the order of their ids. Raises BadItem (it takes no items), PoolFull or BadAddress.
    """
    if invocation.items:
        first = invocation.items[0]
        raise BadItem(item=first, kind=first.type, rule="NAME_LIST takes no items")
    flags = invocation.get("flags")
    who = invocation.caller.credentials()
    parts = [b""]
    for owner, entry in _listed(connection, flags):
        if entry is None:
            name = b""
        elif may_see_name(connection, who, entry.name):
            name = owned_name(entry.name, entry.flags, connection.behaviour)
        else:
            continue
        parts.append(struct.pack("<3Q", 24 + len(name), owner.flags, owner.id) + name)
    parts[0] = struct.pack("<Q", 8 + sum(map(len, parts)))
    _publish(connection, invocation, b"".join(parts), "list_size")


def _listed(connection: Connection, flags: int) -> Iterator[tuple[Connection, NameEntry | None]]:
    for peer in connection.bus.connections.values():
        if peer.is_activator and not flags & abi.LIST_ACTIVATORS:
            continue
        listed = False
        if flags & (abi.LIST_NAMES | abi.LIST_ACTIVATORS):
            for entry in peer.names.values():
                if flags & abi.LIST_ACTIVATORS and entry.activator not in (None, peer):
                    assert entry.activator is not None
                    yield entry.activator, entry
                    listed = True
                if flags & abi.LIST_NAMES or peer.is_activator:
                    yield peer, entry
                    listed = True
        if flags & abi.LIST_QUEUED:
            for waiter in peer.waiting_for:
                yield peer, waiter.entry
                listed = True
        if not listed and flags & abi.LIST_UNIQUE:
            yield peer, None


def claims_list(connection: Connection, invocation: Invocation) -> None:
    """LIST of the final revision: a `kdbus_info` per claim to a name, or per connection, that the flags ask for.

    There is no header; nothing to list is an empty result. Raises PoolFull or BadAddress. Reference:
    final-revision.md, 4.7.
    """
    flags = invocation.get("flags")
    who = invocation.caller.credentials()
    behaviour = connection.behaviour
    parts: list[bytes] = []
    for peer in connection.bus.connections.values():
        if peer.flags & abi.HELLO_MONITOR:
            continue
        claims = [claim for claim in _claims(peer) if claim.listed_by & flags]
        if not claims and flags & abi.LIST_UNIQUE:
            parts.append(struct.pack("<3Q", 24, peer.id, peer.flags))
        for claim in claims:
            if may_see_name(connection, who, claim.name):
                name = owned_name(claim.name, claim_flags(behaviour, claim.flags, first=claim.first), behaviour)
                parts.append(struct.pack("<3Q", 24 + len(name), peer.id, peer.flags) + name)
    _publish(connection, invocation, b"".join(parts), "list_size")


class _Claim(NamedTuple):
    name: bytes
    flags: int
    first: bool
    listed_by: int
    """KDBUS_LIST_* flag that asks for it."""


def _claims(peer: Connection) -> Iterator[_Claim]:
    for name, entry in peer.names.items():
        yield _Claim(name, entry.flags, True, abi.LIST_ACTIVATORS if peer.is_activator else abi.LIST_NAMES)
    for waiter in peer.waiting_for:
        yield _Claim(waiter.entry.name, waiter.flags, False, abi.LIST_QUEUED)
    meant = peer.activator_of
    if meant is not None and meant.owner is not peer:
        yield _Claim(meant.name, abi.NAME_ACTIVATOR, False, abi.LIST_ACTIVATORS)


def _wanted(invocation: Invocation) -> int:
    """The metadata that a command asks for. Raises BadArgument for unknown ones."""
    member = "attach_flags" if "attach_flags" in invocation.command.struct.members else "flags"
    return invocation.behaviour.read_attach_flags(invocation.get(member))


def _find_by_id_or_name(connection: Connection, invocation: Invocation) -> Connection:
    """Whom CONN_INFO is about: an id, or if that is 0 a name."""
    wanted = invocation.get("id")
    if wanted:
        return _find_id(connection, invocation, wanted)
    return _find_name(connection, invocation, required_name(invocation.items)).owner


def _find_by_name_or_id(connection: Connection, invocation: Invocation) -> Connection:
    """Whom CONN_INFO is about: a name, which must be that of the id if there is one; or an id."""
    wanted = invocation.get("id")
    if invocation.items:
        peer = _find_name(connection, invocation, invocation.items[-1].text()).owner
        if wanted not in (0, peer.id):
            raise NoSuchName(name=invocation.items[-1].text(), owner=peer.id)
        return peer
    if not wanted:
        raise BadArgument(rule="neither id nor name")
    return _find_id(connection, invocation, wanted)


def _find_name(connection: Connection, invocation: Invocation, name: bytes) -> NameEntry:
    entry = connection.bus.names.find(name)
    if entry is None or not may_see_name(connection, invocation.caller.credentials(), name):
        if entry is not None and connection.behaviour.endpoints_hide:
            raise HiddenByEndpoint(name=name)
        raise NoSuchName(name=name, hidden=entry is not None)
    return entry


def _find_id(connection: Connection, invocation: Invocation, wanted: int) -> Connection:
    found = connection.bus.connections.get(wanted)
    if found is None or not may_see(connection, invocation.caller.credentials(), found):
        if found is not None and connection.behaviour.endpoints_hide:
            raise HiddenByEndpoint(connection=wanted)
        raise NoSuchConnection(connection=wanted, hidden=found is not None)
    return found


def connection_info(connection: Connection, invocation: Invocation) -> None:
    """CONN_INFO: a `kdbus_info` about a connection, given by id or, with id 0, by a name that it owns.

    Raises BadItem or BadName (no usable name), NoSuchName or NoSuchConnection (also when it may not be seen, where that
    is not HiddenByEndpoint), PoolFull, BadAddress.
    """
    behaviour = connection.behaviour
    find = _find_by_name_or_id if behaviour.name_beats_id else _find_by_id_or_name
    wanted = _wanted(invocation)
    peer = find(connection, invocation)
    flags = behaviour.grant.told(wanted, peer.attach_flags_send, connection.bus.domain)
    current = ConnectionMetadata()
    current.collect(((name, entry.flags) for name, entry in peer.names.items()), peer.description, flags)
    reader = behaviour.grant.reader(connection, invocation.caller)
    items = behaviour.export(peer.metadata, current, reader, flags, behaviour, False)
    _publish(connection, invocation, struct.pack("<3Q", 24 + len(items), peer.id, peer.flags) + items, "info_size")


def bus_creator_info(connection: Connection, invocation: Invocation) -> None:
    """BUS_CREATOR_INFO: a `kdbus_info` with the bus's id, flags and name, and about who made it. Raises PoolFull,
    BadAddress."""
    bus = connection.bus
    behaviour, grant = connection.behaviour, connection.behaviour.grant
    flags = grant.told(_wanted(invocation), bus.attach_flags_owner, bus.domain)
    items = behaviour.revision.build(Kind.MAKE_NAME, bus.name_bytes + b"\0") if behaviour.creator_has_name else b""
    reader = grant.reader(connection, invocation.caller)
    items += behaviour.export(bus.metadata, ConnectionMetadata(), reader, flags, behaviour, False)
    _publish(connection, invocation, struct.pack("<3Q", 24 + len(items), bus.id, bus.flags) + items, "info_size")
