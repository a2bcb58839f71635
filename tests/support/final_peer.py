# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer that speaks the final revision, or one with the same item numbers, for tests of the pure broker; `World` makes
everything else.

Commands are built here from the tables of that revision, not with the broker's helpers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.connection import Connection
from broker.handle import ControlHandle, EndpointHandle, open_node
from broker.send import Wait
from kdbus.abi import final
from kdbus.abi.layout import Struct
from tests.support.fakes import FakeEvents
from tests.support.world import BusMaker, FakeCaller, World, item, parse_items, string_item

ITEM = {
    name.removeprefix("KDBUS_ITEM_"): number
    for name, number in final.CONSTANTS.items()
    if name.startswith("KDBUS_ITEM_")
}
STRUCT = {
    "BUS_MAKE": "kdbus_cmd",
    "ENDPOINT_MAKE": "kdbus_cmd",
    "ENDPOINT_UPDATE": "kdbus_cmd",
    "HELLO": "kdbus_cmd_hello",
    "UPDATE": "kdbus_cmd",
    "BYEBYE": "kdbus_cmd",
    "FREE": "kdbus_cmd_free",
    "CONN_INFO": "kdbus_cmd_info",
    "BUS_CREATOR_INFO": "kdbus_cmd_info",
    "LIST": "kdbus_cmd_list",
    "SEND": "kdbus_cmd_send",
    "RECV": "kdbus_cmd_recv",
    "NAME_ACQUIRE": "kdbus_cmd",
    "NAME_RELEASE": "kdbus_cmd",
    "MATCH_ADD": "kdbus_cmd_match",
    "MATCH_REMOVE": "kdbus_cmd_match",
}
BROADCAST = (1 << 64) - 1
NEGOTIATE = 1 << 63


class Tables(Protocol):
    """A module such as `kdbus.abi.final`."""

    @property
    def STRUCTS(self) -> dict[str, Struct]: ...

    @property
    def REQUESTS(self) -> dict[str, int]: ...


def command(struct_name: str, items: Sequence[bytes] = (), tables: Tables = final, /, **members: int) -> bytes:
    """A structure of that revision with its members and items."""
    layout = tables.STRUCTS[struct_name]
    tail = b"".join(items)
    data = bytearray(layout.size)
    members.setdefault("size", layout.size + len(tail))
    for member, value in members.items():
        layout.put(data, member, value & (1 << 64) - 1)
    return bytes(data) + tail


class Caller:
    """Somebody who issues commands of that revision on a handle."""

    tables: Tables = final

    def __init__(self, handle: ControlHandle | EndpointHandle, caller: FakeCaller) -> None:
        self.handle = handle
        self.caller = caller
        self.after = b""
        self.wait: Wait | None = None

    def issue(self, name: str, items: Sequence[bytes] = (), **members: int) -> dict[str, int]:
        """Issue a command; returns the members of its structure afterwards, which `after` holds also if it fails."""
        layout = self.tables.STRUCTS[STRUCT[name]]
        data = command(layout.name, items, self.tables, **members)
        address = self.caller.memory.put(data)
        try:
            self.wait = self.handle.ioctl(self.tables.REQUESTS["KDBUS_CMD_" + name], address, self.caller)
        finally:
            self.after = self.caller.memory.read(address, len(data))
        return self.members(layout.name)

    def members(self, struct_name: str) -> dict[str, int]:
        """Every integer of the structure as it is after the last command."""
        layout = self.tables.STRUCTS[struct_name]
        return {field.name: layout.get(self.after, field.name) for field in layout.fields if field.size == 8}

    def info(self, struct_name: str, member: str) -> tuple[int, int, int]:
        """(offset, size, return flags) of a `kdbus_msg_info` in it."""
        start, end = self.tables.STRUCTS[struct_name].span(member)
        offset, size, flags = struct.unpack("<3Q", self.after[start:end])
        return offset, size, flags


@dataclass
class Message:
    """A received message: offset and size of the slice, the header's words, items as (number, payload), payload."""

    offset: int
    slice_size: int
    size: int
    flags: int
    priority: int
    dst_id: int
    src_id: int
    payload_type: int
    cookie: int
    cookie_reply: int
    items: list[tuple[int, bytes]]
    payload: bytes
    lost: int
    return_flags: int


class FinalPeer(Caller):
    """A connection of the final revision."""

    def __init__(
        self,
        world: World,
        bus: BusMaker | None = None,
        *,
        uid: int = 1000,
        flags: int = 1,
        items: Sequence[bytes] = (),
        pool_size: int = 1 << 20,
        attach_flags_recv: int = 0,
        endpoint: str = "bus",
    ) -> None:
        caller = world.caller(uid)
        self.events = FakeEvents()
        handle = open_node(world.domain, ((bus or world.default_bus()).name, endpoint), caller, self.events)
        assert isinstance(handle, EndpointHandle)
        super().__init__(handle, caller)
        self.world = world
        self.hello = self.issue(
            "HELLO",
            items,
            flags=flags,
            pool_size=pool_size,
            attach_flags_send=BROADCAST,
            attach_flags_recv=attach_flags_recv,
        )

    @property
    def connection(self) -> Connection:
        assert isinstance(self.handle, EndpointHandle) and self.handle.connection is not None
        return self.handle.connection

    @property
    def id(self) -> int:
        return self.hello["id"]

    def memory(self, offset: int, size: int) -> bytes:
        """Bytes of the pool."""
        return self.connection.pool.memory.read(offset, size)

    def send(
        self, to: int | bytes, *pieces: bytes, items: Sequence[bytes] = (), command_flags: int = 0, **members: int
    ) -> dict[str, int]:
        """Send `pieces`, each a vector; `items` come before them."""
        memory = self.caller.memory
        parts = [*items]
        for piece in pieces:
            parts.append(item(ITEM["PAYLOAD_VEC"], struct.pack("<2Q", len(piece), memory.put(piece))))
        if isinstance(to, bytes):
            parts.insert(0, string_item(ITEM["DST_NAME"], to))
        members.setdefault("payload_type", final.CONSTANTS["KDBUS_PAYLOAD_DBUS"])
        members.setdefault("dst_id", 0 if isinstance(to, bytes) else to)
        address = memory.put(command("kdbus_msg", parts, **members))
        return self.issue("SEND", flags=command_flags, msg_address=address)

    def recv(self, flags: int = 0, priority: int = 0) -> Message:
        """Receive a message."""
        members = self.issue("RECV", flags=flags, priority=priority)
        offset, size, return_flags = self.info("kdbus_cmd_recv", "msg")
        raw = self.memory(offset, size)
        size_word, flag_word, order, to, source, kind, cookie, answered = struct.unpack_from("<QQqQQQQQ", raw)
        listed = raw[64 : size_word + 7 & ~7]
        items = parse_items(listed)
        payload = b""
        for number, content in items:
            if number == ITEM["PAYLOAD_OFF"]:
                length, start = struct.unpack("<2Q", content)
                payload += bytes(length) if start == BROADCAST else raw[start : start + length]
        header = {
            "size": size_word,
            "flags": flag_word,
            "priority": order,
            "dst_id": to,
            "src_id": source,
            "payload_type": kind,
            "cookie": cookie,
            "cookie_reply": answered,
        }
        lost = members["dropped_msgs"]
        return Message(offset, size, **header, items=items, payload=payload, lost=lost, return_flags=return_flags)

    def acquire(self, name: bytes, flags: int = 0) -> int:
        """Acquire a name; returns the return flags."""
        return self.issue("NAME_ACQUIRE", [string_item(ITEM["NAME"], name)], flags=flags)["return_flags"]


def make_bus(world: World, *items: bytes, flags: int = 2, uid: int = 1000, **members: int) -> BusMaker:
    """A bus that is made by the final revision."""
    opened = world.control(world.caller(uid))
    assert isinstance(opened.handle, ControlHandle)
    maker = Caller(opened.handle, opened.caller)
    name = string_item(ITEM["MAKE_NAME"], b"%d-final" % uid)
    bloom = item(ITEM["BLOOM_PARAMETER"], struct.pack("<2Q", 64, 8))
    maker.issue("BUS_MAKE", [bloom, *items, name], flags=flags, **members)
    return BusMaker(world, opened.handle, opened.caller)


def activator(world: World, name: bytes, *, pool_size: int = 1 << 20) -> FinalPeer:
    """An activator for the name, which everybody may talk to."""
    access = item(ITEM["POLICY_ACCESS"], struct.pack("<3Q", 3, 1, 0))
    return FinalPeer(world, flags=2, items=[string_item(ITEM["NAME"], name), access], pool_size=pool_size)
