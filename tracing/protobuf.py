# SPDX-License-Identifier: GPL-2.0-or-later
"""Protocol Buffers, as far as a writer needs them ("Encoding", protobuf.dev): fields, one behind the other.

A field is a number and a kind, as a varint, and a value: a varint, 8 bytes, or bytes with their length in front, which
are text, or a message of fields again. Alternative: Google's library, for which every message would have to be compiled
beforehand, and which `kdbus show` would need for this alone.
"""

from __future__ import annotations

import struct

_VARINT, _FIXED64, _BYTES = 0, 1, 2


def _varint(number: int) -> bytes:
    """A number from -2**63 to 2**64-1; negative ones as their two's complement of 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: int | str | bytes) -> bytes:
    """A field: an integer or a bool, or text, or bytes, or a message."""
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    data = value.encode("utf-8", "backslashreplace") if isinstance(value, str) else value
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def fixed64(number: int, value: int) -> bytes:
    """A field of kind fixed64."""
    return _varint(number << 3 | _FIXED64) + struct.pack("<Q", value)


def double(number: int, value: float) -> bytes:
    """A field of kind double."""
    return _varint(number << 3 | _FIXED64) + struct.pack("<d", value)
