# SPDX-License-Identifier: GPL-2.0-or-later
"""What a watched call was asked and what it has stored, as the bytes of a record.

Everything is bounded: a program chooses the sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from broker.connection import Connection
from broker.errors import KdbusError
from broker.inbox import TwoSlices
from broker.interfaces import PoolMemory
from interposer.target.caller import TargetCaller
from interposer.target.files import TargetFile
from interposer.traps.exactly_once import HeldCaller
from kdbus.abi.decode import Item, decode_items, struct_of
from kdbus.abi.layout import U64, Struct
from kdbus.abi.revision import Revision
from tracing.native_calls import MOST_NAMES
from tracing.record import Phase, Record

_MOST_READ = 64 << 10
"""Bytes of a command, a message or a list that a record has at most."""
_POOL_SIZES = {
    "HELLO": "items_size",
    "LIST": "list_size",
    "NAME_LIST": "list_size",
    "CONN_INFO": "info_size",
    "BUS_CREATOR_INFO": "info_size",
}
"""Which member of a command has the size of what it left in the pool, at its `offset`."""


_OFFSETS = {"RECV": "offset", "SEND": "offset_reply"}
"""Where version 2 tells of a message that has come, whose size it does not tell."""


class Watching:
    """What a caller's memory was asked for, and given."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.reads: list[tuple[int, bytes]] = []
        self.writes: list[tuple[int, bytes]] = []

    def read(self, address: int, size: int) -> bytes:
        with _telling(address=address, size=size):
            data: bytes = super().read(address, size)  # type: ignore[misc]
        self.reads.append((address, data))
        return data

    def write(self, address: int, data: bytes) -> None:
        with _telling(address=address, size=len(data)):
            super().write(address, data)  # type: ignore[misc]
        self.writes.append((address, data))

    def file(self, descriptor: int) -> TargetFile:
        with _telling(descriptor=descriptor):
            file: TargetFile = super().file(descriptor)  # type: ignore[misc]
        return file


@contextmanager
def _telling(**facts: int) -> Iterator[None]:
    """An error of the block tells also these facts."""
    try:
        yield
    except KdbusError as error:
        error.facts = {**facts, **error.facts}
        raise


class WatchedCaller(Watching, TargetCaller):
    """A `TargetCaller` that is watched."""


class WatchedHeldCaller(Watching, HeldCaller):
    """A `HeldCaller` that is watched."""


def take_arguments(record: Record, revision: Revision, caller: TargetCaller, limit: int) -> None:
    """What the caller passed: the command, and of a SEND the message with up to `limit` bytes of its payload."""
    layout = struct_of(revision, record.command)
    if layout is None:
        return
    record.before = _longest(caller, record.address)
    if len(record.before) < layout.size:
        # It failed before that was looked at, and may still be looked at by whoever wants to know.
        record.before = _sized(caller, record.address) or record.before
    record.after = patched(record.before, record.address, caller)
    if record.command != "SEND" or len(record.before) < layout.size:
        return
    # In version 2 the message is the command.
    address = layout.get(record.before, "msg_address") if "msg_address" in layout.members else record.address
    record.message = _longest(caller, address)
    if len(record.message) < revision.structs["kdbus_msg"].size:
        record.message = _sized(caller, address) or record.message
    items = decode_items(revision, record.message[revision.structs["kdbus_msg"].size :])
    record.payload_size = _payload_size(items)
    for item in items:
        if item.name == "PAYLOAD_VEC" and isinstance(item.value, dict):
            wanted = min(limit - len(record.payload), _number(item.value["size"]))
            where = item.value["address"]
            record.payload += _vector(caller, getattr(where, "value", 0), wanted)


def take_results(record: Record, revision: Revision, connection: Connection, limit: int) -> None:
    """What lies in the connection's pool once its command has succeeded."""
    layout = struct_of(revision, record.command)
    if layout is None or len(record.after) < layout.size:
        return
    pool = connection.pool.memory
    if record.command in _POOL_SIZES:
        if "offset" not in layout.members:
            return
        offset = layout.get(record.after, "offset")
        size = _told(layout, record, _POOL_SIZES[record.command], pool, offset)
        if size:
            record.pool = pool.read(offset, min(size, _MOST_READ))
        return
    member = {"RECV": "msg", "SEND": "reply"}.get(record.command, "")
    if member in layout.members:
        start, end = layout.span(member)
        offset, size = (int.from_bytes(record.after[start + at : start + at + 8], "little") for at in (0, 8))
        if size == 0 or end > len(record.after):
            return
    elif connection.last_received is not None and record.command in _OFFSETS:
        offset = layout.get(record.after, _OFFSETS[record.command])
        size = int.from_bytes(pool.read(offset, 8), "little")
    else:
        return
    header = revision.structs["kdbus_msg"].size
    length = int.from_bytes(pool.read(offset, 8), "little")
    record.message = pool.read(offset, min(length, size, _MOST_READ))
    items = decode_items(revision, record.message[header:])
    record.payload_size, record.payload = _payload_size(items), b""
    base = 0 if isinstance(connection.behaviour.inbox, TwoSlices) else offset
    for item in items:
        if item.name == "PAYLOAD_OFF" and isinstance(item.value, dict):
            wanted = min(limit - len(record.payload), _number(item.value["size"]))
            place = item.value["offset"]
            stored = isinstance(place, int)
            record.payload += pool.read(base + _number(place), wanted) if stored and wanted else bytes(wanted)


def _told(layout: Struct, record: Record, member: str, pool: PoolMemory, offset: int) -> int:
    """The size of a result: of what its command says, or else of what the result itself begins with."""
    if member in layout.members:
        return layout.get(record.after, member)
    return int.from_bytes(pool.read(offset, 8), "little")


def _longest(caller: TargetCaller, address: int) -> bytes:
    """The longest that the broker has read at an address."""
    assert isinstance(caller, Watching)
    return max((data for where, data in caller.reads if where == address), key=len, default=b"")[:_MOST_READ]


def patched(before: bytes, address: int, caller: TargetCaller) -> bytes:
    """The bytes at an address with what the broker has written there."""
    assert isinstance(caller, Watching)
    after = bytearray(before)
    for where, data in caller.writes:
        start = where - address
        if start >= 0 and start + len(data) <= len(after):
            after[start : start + len(data)] = data
    return bytes(after)


def _sized(caller: TargetCaller, address: int) -> bytes:
    """A structure that begins with its size, if the caller has one there."""
    with suppress(Exception):
        size = int.from_bytes(caller.read(address, 8), "little")
        return caller.read(address, min(size, _MOST_READ))
    return b""


def _vector(caller: TargetCaller, address: int, size: int) -> bytes:
    if size <= 0 or not address:
        return bytes(max(0, size))
    with suppress(Exception):
        return caller.read(address, size)
    return b""


def _payload_size(items: Sequence[Item]) -> int:
    sizes = (each.value["size"] for each in items if each.name in _PAYLOADS and isinstance(each.value, dict))
    return sum(_number(size) for size in sizes) & U64


_PAYLOADS = frozenset(("PAYLOAD_VEC", "PAYLOAD_OFF", "PAYLOAD_MEMFD"))


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def names_of(connection: Connection) -> list[str]:
    """The well-known names of a connection."""
    return [name.decode("ascii", "backslashreplace") for name in connection.names]


def add_names(record: Record, connection: Connection) -> None:
    """Note the well-known names of a connection."""
    names = names_of(connection)[:MOST_NAMES]
    if names:
        record.names[connection.id] = names


def add_peer(record: Record, revision: Revision, connection: Connection) -> None:
    """Who is on the other side of a message."""
    layout = revision.structs["kdbus_msg"]
    if len(record.message) < layout.size:
        return
    bus = connection.bus
    received = record.command == "RECV" or record.phase is Phase.RESUMED
    peer = bus.connections.get(layout.get(record.message, "src_id" if received else "dst_id"))
    if peer is None and not received:
        for item in decode_items(revision, record.message[layout.size :]):
            if item.name == "DST_NAME":
                entry = bus.names.find(getattr(item.value, "data", b""))
                peer = None if entry is None else entry.owner
    if peer is not None:
        record.peer = peer.id
        add_names(record, peer)
