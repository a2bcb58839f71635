# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands, items and messages as bytes, and back.

They are built here and not with the broker's own helpers, so that a mistake there cannot hide. Only the layout tables
are shared; those have tests of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker.send import Wait
from kdbus.abi import revision3 as abi

PAYLOAD_DBUS = abi.CONSTANTS["KDBUS_PAYLOAD_DBUS"]
BLOOM_SIZE = 64
"""Bytes, of the buses that `World.bus` makes."""


def item(item_type: int, payload: bytes = b"") -> bytes:
    """An item: size, type, payload, padding."""
    size = 16 + len(payload)
    return struct.pack("<QQ", size, item_type) + payload + b"\0" * ((8 - size % 8) % 8)


def string_item(item_type: int, text: bytes) -> bytes:
    """An item with a terminated string."""
    return item(item_type, text + b"\0")


def name_item(name: bytes) -> bytes:
    """KDBUS_ITEM_NAME."""
    return string_item(abi.ITEM_NAME, name)


def words_item(item_type: int, *words: int) -> bytes:
    """An item of unsigned 64-bit words."""
    return item(item_type, struct.pack(f"<{len(words)}Q", *words))


def vector_item(address: int, size: int) -> bytes:
    """KDBUS_ITEM_PAYLOAD_VEC."""
    return words_item(abi.ITEM_PAYLOAD_VEC, size, address)


def memfd_item(descriptor: int, size: int, start: int = 0) -> bytes:
    """KDBUS_ITEM_PAYLOAD_MEMFD."""
    return item(abi.ITEM_PAYLOAD_MEMFD, struct.pack("<QQiI", start, size, descriptor, 0))


def descriptors_item(*descriptors: int) -> bytes:
    """KDBUS_ITEM_FDS."""
    return item(abi.ITEM_FDS, struct.pack(f"<{len(descriptors)}i", *descriptors))


def cancel_item(descriptor: int) -> bytes:
    """KDBUS_ITEM_CANCEL_FD."""
    return item(abi.ITEM_CANCEL_FD, struct.pack("<i", descriptor))


def bloom_filter_item(*bits: int, generation: int = 0, size: int = BLOOM_SIZE) -> bytes:
    """KDBUS_ITEM_BLOOM_FILTER with these bits set."""
    return item(abi.ITEM_BLOOM_FILTER, struct.pack("<Q", generation) + bloom_bits(*bits, size=size))


def bloom_mask_item(*generations: tuple[int, ...], size: int = BLOOM_SIZE) -> bytes:
    """KDBUS_ITEM_BLOOM_MASK: one tuple of bits per generation."""
    return item(abi.ITEM_BLOOM_MASK, b"".join(bloom_bits(*bits, size=size) for bits in generations))


def bloom_bits(*bits: int, size: int = BLOOM_SIZE) -> bytes:
    """A bit field of `size` bytes; bit n is bit n % 8 of byte n / 8."""
    data = bytearray(size)
    for bit in bits:
        data[bit // 8] |= 1 << bit % 8
    return bytes(data)


def access_item(kind: int, number: int, access: int) -> bytes:
    """KDBUS_ITEM_POLICY_ACCESS."""
    return words_item(abi.ITEM_POLICY_ACCESS, kind, access, number)


def world_access(access: int) -> bytes:
    """KDBUS_ITEM_POLICY_ACCESS for everybody."""
    return access_item(abi.POLICY_ACCESS_WORLD, 0, access)


def command_bytes(struct_name: str, items: Sequence[bytes] = (), **members: int) -> bytes:
    """A structure with its members and items; `size` is what it is unless given. The items' last padding counts."""
    layout = abi.STRUCTS[struct_name]
    tail = b"".join(items)
    data = bytearray(layout.size)
    members.setdefault("size", layout.size + len(tail))
    for member, value in members.items():
        layout.put(data, member, value)
    return bytes(data) + tail


def message_bytes(items: Sequence[bytes] = (), **members: int) -> bytes:
    """A `kdbus_msg` with its items. `payload_type` is D-Bus unless given."""
    members.setdefault("payload_type", PAYLOAD_DBUS)
    return command_bytes("kdbus_msg", items, **members)


def parse_items(data: bytes) -> list[tuple[int, bytes]]:
    """(type, payload) of all items; fails unless they are aligned, padded with zeros and end with `data`."""
    found: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        size, item_type = struct.unpack_from("<QQ", data, position)
        assert size >= 16
        end = position + size
        position += (size + 7) & ~7
        assert position <= len(data)
        assert not any(data[end:position]), "padding is not zero"
        found.append((item_type, data[end - size + 16 : end]))
    return found


@dataclass
class Outcome:
    """A finished command: the structure as it stands in the caller's memory now."""

    struct_name: str
    data: bytes
    wait: Wait | None = None

    def __getitem__(self, member: str) -> int:
        return abi.STRUCTS[self.struct_name].get(self.data, member)

    def words(self, member: str) -> tuple[int, ...]:
        """A member that is a structure itself, as 64-bit words."""
        start, end = abi.STRUCTS[self.struct_name].span(member)
        return struct.unpack(f"<{(end - start) // 8}Q", self.data[start:end])


@dataclass
class Received:
    """A message as a receiver finds it in its pool."""

    offset: int
    size: int
    return_flags: int
    header: dict[str, int]
    items: list[tuple[int, bytes]]
    payload: bytes
    """What all PAYLOAD_OFF items point at, one after the other; zeros where nothing is stored."""
    raw: bytes
    """Header and items."""

    def __getitem__(self, member: str) -> int:
        return self.header[member]

    @property
    def types(self) -> list[int]:
        """The items' types, in order."""
        return [item_type for item_type, _ in self.items]

    def item(self, item_type: int) -> bytes:
        """The payload of the only item of that type."""
        found = self.all(item_type)
        assert len(found) == 1, f"{len(found)} items of type {item_type:#x}"
        return found[0]

    def all(self, item_type: int) -> list[bytes]:
        """The payloads of all items of that type."""
        return [payload for found, payload in self.items if found == item_type]

    def descriptors(self) -> list[int]:
        """The numbers in the FDS item."""
        payload = self.item(abi.ITEM_FDS)
        return list(struct.unpack(f"<{len(payload) // 4}i", payload))


class ListedName(NamedTuple):
    """One entry of NAME_LIST."""

    owner: int
    connection_flags: int
    name: bytes | None
    name_flags: int


class Info(NamedTuple):
    """What CONN_INFO or BUS_CREATOR_INFO tells."""

    id: int
    flags: int
    items: list[tuple[int, bytes]]
