# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer that speaks version 2, for tests of the pure broker; `World` makes everything else.

Commands are built here from the tables of that revision, not with the broker's helpers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from broker.connection import Connection
from broker.handle import ControlHandle, EndpointHandle, open_node
from broker.send import Wait
from kdbus.abi import revision2
from tests.support.fakes import FakeCaller, FakeEvents
from tests.support.world import BusMaker, World, item, parse_items, string_item

CONSTANTS = revision2.CONSTANTS
ITEM = {
    name.removeprefix("KDBUS_ITEM_"): number for name, number in CONSTANTS.items() if name.startswith("KDBUS_ITEM_")
}
ATTACH = {
    name.removeprefix("KDBUS_ATTACH_"): number for name, number in CONSTANTS.items() if name.startswith("KDBUS_ATTACH_")
}
EXPECT_REPLY, SYNC_REPLY, NO_AUTO_START = 1, 2, 4
BROADCAST = (1 << 64) - 1
_HEADER = struct.Struct("<QQQqQQQQQ")
BLOOM_SIZE = 64
STRUCT = {
    "BUS_MAKE": "kdbus_cmd_make",
    "ENDPOINT_MAKE": "kdbus_cmd_make",
    "ENDPOINT_UPDATE": "kdbus_cmd_update",
    "HELLO": "kdbus_cmd_hello",
    "CONN_UPDATE": "kdbus_cmd_update",
    "MSG_SEND": "kdbus_msg",
    "MSG_RECV": "kdbus_cmd_recv",
    "MSG_CANCEL": "kdbus_cmd_cancel",
    "FREE": "kdbus_cmd_free",
    "CONN_INFO": "kdbus_cmd_info",
    "BUS_CREATOR_INFO": "kdbus_cmd_info",
    "NAME_LIST": "kdbus_cmd_name_list",
    "NAME_ACQUIRE": "kdbus_cmd_name",
    "NAME_RELEASE": "kdbus_cmd_name",
    "MATCH_ADD": "kdbus_cmd_match",
    "MATCH_REMOVE": "kdbus_cmd_match",
}


def command(struct_name: str, items: Sequence[bytes] = (), /, **members: int) -> bytes:
    """A structure with its members and items; with its size, if it has one."""
    layout = revision2.STRUCTS[struct_name]
    tail = b"".join(items)
    data = bytearray(layout.size)
    if "size" in layout.members:
        members.setdefault("size", layout.size + len(tail))
    for member, value in members.items():
        layout.put(data, member, value & (1 << 64) - 1)
    return bytes(data) + tail


class Issuer:
    """Somebody who issues commands of version 2 on a handle."""

    def __init__(self, handle: ControlHandle | EndpointHandle, caller: FakeCaller) -> None:
        self.handle = handle
        self.caller = caller
        self.address = 0
        self.after = b""
        self.wait: Wait | None = None

    def issue(self, name: str, items: Sequence[bytes] = (), **members: int) -> dict[str, int]:
        """Issue a command; returns the members of its structure afterwards, which `after` holds also if it fails."""
        return self.raw(name, command(STRUCT[name], items, **members))

    def raw(self, name: str, data: bytes) -> dict[str, int]:
        """The same with just those bytes."""
        self.address = self.caller.memory.put(data)
        try:
            self.wait = self.handle.ioctl(revision2.REQUESTS["KDBUS_CMD_" + name], self.address, self.caller)
        finally:
            self.after = self.caller.memory.read(self.address, len(data))
        return self.members(name)

    def members(self, name: str) -> dict[str, int]:
        """Every integer of the command's structure as it is in memory now."""
        layout = revision2.STRUCTS[STRUCT[name]]
        after = self.caller.memory.read(self.address, layout.size)
        return {field.name: layout.get(after, field.name) for field in layout.fields if field.size == 8}

    @property
    def kernel_flags(self) -> int:
        """What the last command, of a structure that has this word third, was told that there is."""
        return int.from_bytes(self.after[16:24], "little")


@dataclass
class Message:
    """A received message: where it is, the header's words, items as (number, payload), payload."""

    offset: int
    size: int
    flags: int
    kernel_flags: int
    priority: int
    dst_id: int
    src_id: int
    payload_type: int
    cookie: int
    cookie_reply: int
    items: list[tuple[int, bytes]]
    payload: bytes

    @property
    def numbers(self) -> list[int]:
        """The numbers of the items."""
        return [number for number, _ in self.items]


class Version2Peer(Issuer):
    """A connection of version 2."""

    def __init__(
        self,
        world: World,
        bus: BusMaker | None = None,
        *,
        uid: int = 1000,
        flags: int = 1,
        items: Sequence[bytes] = (),
        pool_size: int = 1 << 20,
        attach_flags_send: int = BROADCAST,
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
            attach_flags_send=attach_flags_send,
            attach_flags_recv=attach_flags_recv,
        )
        self.said_hello = self.after
        """The structure as it was afterwards."""
        start, end = revision2.STRUCTS["kdbus_cmd_hello"].span("bloom")
        self.bloom: tuple[int, int] = struct.unpack("<2Q", self.after[start:end])

    @property
    def connection(self) -> Connection:
        assert isinstance(self.handle, EndpointHandle) and self.handle.connection is not None
        return self.handle.connection

    @property
    def id(self) -> int:
        return self.hello["id"]

    def vector(self, data: bytes) -> bytes:
        """An item with that payload."""
        return item(ITEM["PAYLOAD_VEC"], struct.pack("<2Q", len(data), self.caller.memory.put(data)))

    def send(self, to: int | bytes, *pieces: bytes, items: Sequence[bytes] = (), **members: int) -> dict[str, int]:
        """Send `pieces`, each a vector; `items` come before them."""
        parts = [*items, *map(self.vector, pieces)]
        if isinstance(to, bytes):
            parts.insert(0, string_item(ITEM["DST_NAME"], to))
        members.setdefault("payload_type", CONSTANTS["KDBUS_PAYLOAD_DBUS"])
        members.setdefault("dst_id", 0 if isinstance(to, bytes) else to)
        return self.issue("MSG_SEND", parts, **members)

    def recv(self, flags: int = 0, priority: int = 0) -> Message:
        """Receive a message."""
        return self.parse(self.issue("MSG_RECV", flags=flags, priority=priority)["offset"])

    def parse(self, offset: int) -> Message:
        """The message at an offset of the pool."""
        size, flags, kernel, order, to, source, kind, cookie, answered = _HEADER.unpack(self.memory(offset, 72))
        raw = self.memory(offset, size)
        items = parse_items(raw[72:])
        payload = b""
        for number, content in items:
            if number == ITEM["PAYLOAD_OFF"]:
                length, start = struct.unpack("<2Q", content)
                payload += bytes(length) if start == BROADCAST else self.memory(offset + start, length)
        return Message(offset, size, flags, kernel, order, to, source, kind, cookie, answered, items, payload)

    def memory(self, offset: int, size: int) -> bytes:
        """Bytes of the pool."""
        return self.connection.pool.memory.read(offset, size)

    def free(self, offset: int) -> None:
        """Give a slice back."""
        self.issue("FREE", offset=offset)

    def acquire(self, name: bytes, flags: int = 0) -> int:
        """Acquire a name; returns its flags then."""
        return self.issue("NAME_ACQUIRE", [string_item(ITEM["NAME"], name)], flags=flags)["flags"]

    def match(self, *items: bytes, cookie: int = 0) -> None:
        """Add a match."""
        self.issue("MATCH_ADD", items, cookie=cookie)


def make_bus(world: World, *items: bytes, flags: int = 2, uid: int = 1000) -> BusMaker:
    """A bus that is made by version 2."""
    opened = world.control(world.caller(uid))
    assert isinstance(opened.handle, ControlHandle)
    name = string_item(ITEM["MAKE_NAME"], b"%d-version2" % uid)
    bloom = item(ITEM["BLOOM_PARAMETER"], struct.pack("<2Q", BLOOM_SIZE, 8))
    Issuer(opened.handle, opened.caller).issue("BUS_MAKE", [bloom, *items, name], flags=flags)
    return BusMaker(world, opened.handle, opened.caller)
