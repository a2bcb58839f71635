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

from broker import item
from broker.access import may_see, may_see_name
from broker.command import Invocation
from broker.connection import Connection
from broker.errors import BadItem, BadName, DuplicateItem, MissingItem, NoSuchConnection, NoSuchName
from broker.item import Item
from broker.metadata import ConnectionMetadata, owned_name
from broker.names import NameEntry, is_valid_name
from kdbus.abi import revision3 as abi


def required_name(items: list[Item]) -> bytes:
    """The name in the only NAME item of a command. Raises BadItem (none, or several) or BadName."""
    try:
        name = item.unique(items, abi.ITEM_NAME).text()
    except (MissingItem, DuplicateItem) as error:
        raise BadItem from error
    if not is_valid_name(name, wildcard=False):
        raise BadName
    return name


def _publish(connection: Connection, invocation: Invocation, data: bytes, size_member: str) -> None:
    slice_ = connection.pool.store(data)
    invocation.put("offset", slice_.offset)
    invocation.put(size_member, slice_.size)
    slice_.publish()
    slice_.release()
    invocation.finish()


def name_list(connection: Connection, invocation: Invocation) -> None:
    """NAME_LIST: a `kdbus_name_list` with an entry per name or connection that the flags ask for.

    Connections come in the order of their ids. Raises BadItem (it takes no items), PoolFull or BadAddress.
    """
    if invocation.items:
        raise BadItem
    flags = invocation.get("flags")
    who = invocation.caller.credentials()
    parts = [b""]
    for owner, entry in _listed(connection, flags):
        if entry is None:
            name = b""
        elif may_see_name(connection, who, entry.name):
            name = owned_name(entry.name, entry.flags)
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


def connection_info(connection: Connection, invocation: Invocation) -> None:
    """CONN_INFO: a `kdbus_info` about a connection, given by id or, with id 0, by a name that it owns.

    Raises BadItem or BadName (no usable name), NoSuchName or NoSuchConnection (also when it may not be seen),
    PoolFull, BadAddress.
    """
    who = invocation.caller.credentials()
    wanted = invocation.get("id")
    if wanted == 0:
        name = required_name(invocation.items)
        entry = connection.bus.names.find(name)
        if entry is None or not may_see_name(connection, who, name):
            raise NoSuchName
        peer = entry.owner
    else:
        found = connection.bus.connections.get(wanted)
        if found is None or not may_see(connection, who, found):
            raise NoSuchConnection
        peer = found
    flags = invocation.get("flags") & peer.attach_flags_send
    current = ConnectionMetadata()
    current.collect(((name, entry.flags) for name, entry in peer.names.items()), peer.description, flags)
    flags = connection.bus.domain.exported(flags)
    items = peer.metadata.export(invocation.caller.ids, flags) + current.export(flags)
    _publish(connection, invocation, struct.pack("<3Q", 24 + len(items), peer.id, peer.flags) + items, "info_size")


def bus_creator_info(connection: Connection, invocation: Invocation) -> None:
    """BUS_CREATOR_INFO: a `kdbus_info` with the bus's id, flags and name, and about who made it. Raises PoolFull,
    BadAddress."""
    bus = connection.bus
    flags = bus.domain.exported(invocation.get("flags") & bus.attach_flags_owner)
    items = item.build(abi.ITEM_MAKE_NAME, bus.name_bytes + b"\0") + bus.metadata.export(invocation.caller.ids, flags)
    _publish(connection, invocation, struct.pack("<3Q", 24 + len(items), bus.id, bus.flags) + items, "info_size")
