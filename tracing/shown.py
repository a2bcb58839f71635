# SPDX-License-Identifier: GPL-2.0-or-later
"""A record with its bytes decoded: what the text, the JSON and the filters have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdbus.abi.decode import (
    Flags,
    Item,
    Members,
    Named,
    Text,
    Value,
    decode_command,
    decode_items,
    decode_message,
    decode_sized,
    flags_of,
    results_of,
)
from kdbus.abi.revision import REVISIONS, Revision
from kdbus.dbus.message import Message
from tracing.payload import MOST, parse
from tracing.record import Event, Record

_DBUS = Named(0x4442757344427573, "KDBUS_PAYLOAD_DBUS")
_REVISIONS = {revision.name: revision for revision in REVISIONS}
_LISTS = frozenset(("LIST", "NAME_LIST"))
_INFORMATION = frozenset(("CONN_INFO", "BUS_CREATOR_INFO"))


@dataclass(slots=True)
class Shown:
    """What there is to say about a record beside what it says itself."""

    record: Record
    arguments: Members = field(default_factory=dict)
    """The command's members, as the caller gave them."""
    results: Members = field(default_factory=dict)
    """Those that the kernel has stored."""
    message: Members = field(default_factory=dict)
    dbus: Message | None = None
    """The payload, if it is D-Bus and all there."""
    pool: Sequence[Value | Item] = ()
    """What else was left in the pool."""


def show(record: Record, most: int = MOST) -> Shown:
    """Decode a record. Never fails: what cannot be decoded is there as bytes. `most`: see `tracing.payload.parse`."""
    shown = Shown(record)
    revision = _REVISIONS.get(record.revision)
    if record.event is not Event.CALL or revision is None:
        if record.before:
            shown.arguments = {"raw": record.before}
        return shown
    shown.arguments = decode_command(revision, record.command, record.before)
    if record.after:
        shown.results = results_of(revision, record.command, record.before, record.after, failed=bool(record.errno))
    if record.message:
        shown.message = decode_message(revision, record.message)
        whole = len(record.payload) == record.payload_size
        if whole and shown.message.get("payload_type") == _DBUS:
            shown.dbus = parse(record.payload, most)
    if record.pool:
        shown.pool = _pool(revision, record)
    return shown


def _pool(revision: Revision, record: Record) -> Sequence[Value | Item]:
    if record.command in _LISTS and "kdbus_name_info" in revision.structs:
        size = int.from_bytes(record.pool[:8], "little")
        return decode_sized(revision, "kdbus_name_info", record.pool[8:size])
    if record.command in _LISTS or record.command in _INFORMATION:
        listed = decode_sized(revision, "kdbus_info", record.pool)
        if record.command == "BUS_CREATOR_INFO":
            _as_bus_flags(revision, listed)
        return listed
    if "kdbus_item_list" in revision.structs:
        return decode_items(revision, record.pool[8 : int.from_bytes(record.pool[:8], "little")])
    return decode_items(revision, record.pool)


def _as_bus_flags(revision: Revision, listed: Sequence[Value]) -> None:
    """Flags of a bus are those that it was made with."""
    for members in listed:
        if isinstance(members, dict) and isinstance(flags := members.get("flags"), Flags):
            members["flags"] = flags_of(revision, flags.value, "KDBUS_MAKE_")


def items_of(members: Mapping[str, object]) -> list[Item]:
    """The items among the members of a command, message or entry."""
    items = members.get("items", [])
    return [each for each in items if isinstance(each, Item)] if isinstance(items, list) else []


def names_in(shown: Shown) -> set[str]:
    """Every well-known name that a record mentions: of both sides, and in items."""
    found = {name for names in shown.record.names.values() for name in names}
    for members in (shown.arguments, shown.message, *(each for each in shown.pool if isinstance(each, dict))):
        for each in items_of(members):
            value = each.value.get("name") if isinstance(each.value, dict) else each.value
            if each.name in _NAMING and isinstance(value, Text):
                found.add(value.data.decode("utf-8", "backslashreplace"))
    return found


_NAMING = frozenset("NAME DST_NAME OWNED_NAME NAME_ADD NAME_REMOVE NAME_CHANGE MAKE_NAME".split())
