# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tables of an ABI revision are written down, and how bytes are read and written with them.

An ABI revision is data: the numbers of its requests, the offsets in its structures, the numbers of its item types.
The tables themselves stand in a module per revision (`revision3`); this module has only their vocabulary. All
integers are in the byte order of the machine, which on the architectures served (x86-64, AArch64) is little-endian.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

U64 = (1 << 64) - 1
MAGIC: Final = 0x95
"""The magic of all kdbus requests."""
WRITE: Final = 1
READ: Final = 2
"""Direction bits of a request number. They mean nothing to kdbus, but are part of the number."""


def numbered(prefix: str, first: int, names: str) -> dict[str, int]:
    """Names that count up from `first`, each with `prefix` in front."""
    return {prefix + name: first + index for index, name in enumerate(names.split())}


def bits(prefix: str, names: str) -> dict[str, int]:
    """Names of flags, from bit 0 up, each with `prefix` in front."""
    return {prefix + name: 1 << index for index, name in enumerate(names.split())}


def request(direction: int, number: int, size: int) -> int:
    """An ioctl request number (include/uapi/asm-generic/ioctl.h): direction, size of the argument, magic, number."""
    return direction << 30 | size << 16 | MAGIC << 8 | number


def align8(size: int) -> int:
    """`size` rounded up to a multiple of 8 bytes."""
    return (size + 7) & ~7


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a structure: name, offset and size in bytes (0 for a flexible array)."""

    name: str
    offset: int
    size: int


class Struct:
    """The layout of one C structure."""

    __slots__ = ("_offsets", "fields", "name", "size")

    def __init__(self, name: str, size: int, members: str) -> None:
        """`members`: words of the form `name@offset:size`."""
        self.name = name
        self.size = size
        parsed: list[Field] = []
        for word in members.split():
            member, _, place = word.partition("@")
            offset, _, length = place.partition(":")
            parsed.append(Field(member, int(offset), int(length)))
        self.fields = tuple(parsed)
        self._offsets = {field.name: (field.offset, field.offset + field.size) for field in parsed}

    @property
    def members(self) -> Container[str]:
        """The names of all members."""
        return self._offsets

    def span(self, member: str) -> tuple[int, int]:
        """(offset, end) of a member in bytes."""
        return self._offsets[member]

    def get(self, data: bytes | bytearray | memoryview, member: str) -> int:
        """The member as an unsigned integer, out of `data` that starts with the structure."""
        start, end = self._offsets[member]
        return int.from_bytes(data[start:end], "little")

    def put(self, data: bytearray, member: str, value: int) -> None:
        """Store an unsigned integer, truncated to the member's size."""
        start, end = self._offsets[member]
        # Flags are made plain numbers first, with which counting is ten times as fast.
        data[start:end] = (int(value) & ((1 << (8 * (end - start))) - 1)).to_bytes(end - start, "little")


def signed64(value: int) -> int:
    """An unsigned 64-bit integer read as a signed one."""
    return value - (1 << 64) if value >> 63 else value
