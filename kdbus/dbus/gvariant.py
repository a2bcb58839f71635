# SPDX-License-Identifier: GPL-2.0-or-later
"""GVariant's serialised form: values to bytes and back, in both byte orders.

Source: GVariant Specification 1.0, chapter 2. The points that everything here follows from:

* A byte sequence means nothing without its length and type; both come from outside, or from the container.
* Fixed-size values stand at multiples of their alignment, strings end with a zero byte, padding is zeros.
* Where the end of a child cannot be known from its type, its container ends with *framing offsets*: for an array one
  per element, in order; for a structure one per child that has no fixed size and is not the last, in reverse order.
  Each is the end of a child, counted from the container's start. All have the smallest of 1, 2, 4 and 8 bytes that can
  express the size of the whole container, themselves included, and they are little-endian in both byte orders.
* A variant is its value, a zero byte, and the signature. A maybe is nothing, or its value (and a zero byte after it, if
  its size is not fixed).

**Out** goes normal form, always: there is one for each value.

**In** comes anything. The specification gives a value to every sequence of bytes (section 2.7.3), and without `strict`
this is what happens: whatever is wrong leads to default values. With `strict`, what is not in normal form raises
Malformed; messages are read so, as sd-bus did, and as two readers who disagree on a value are a hole in any filter.

The default rules have a price: children may overlap, and overlapping within overlapping grows exponentially; an element
whose one byte is wrong becomes a default structure of two hundred values. So reading has a budget, in proportion to the
number of bytes, that no normal form can exceed; what does raises Malformed, strict or not. Depth is bounded as well:
`MAX_DEPTH` containers within each other, variants included. A variant that goes beyond holds the unit, or raises if
`strict`. Weakness: the specification knows neither bound, so the deepest values of GLib are refused (its own limit is
128); and GLib of today gives defaults to all children that follow one out of order, where the specification does not.

`unmarshal` stands in `unmarshal.py`, as reading is the longer half; it is exported here.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Mapping
from typing import Any, Final, Literal

from kdbus.dbus.errors import InvalidSignature, InvalidValue
from kdbus.dbus.names import is_path
from kdbus.dbus.signature import STRINGS, Type, aligned, single, split
from kdbus.dbus.values import Just, Variant

Order = Literal["little", "big"]
"""A byte order, in the words of `sys.byteorder`."""

MAX_DEPTH: Final = 64
"""Containers within each other, variants included (D-Bus Specification, "Invalid Messages": 64 in total)."""

FORMATS: Final = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "h": "I", "x": "q", "t": "Q", "d": "d"}
"""`struct` format of each number; `h` counts descriptors, so it has no sign."""
PREFIXES: Final[Mapping[Order, str]] = {"little": "<", "big": ">"}


def offset_width(size: int, offsets: int) -> int:
    """Bytes of one framing offset in a container of `size` bytes of children and that many offsets."""
    for width in (1, 2, 4):
        if size + offsets * width < 1 << 8 * width:
            return width
    return 8


class _Writer:
    """Marshals values in one byte order; every method gives the bytes of one value, its start being aligned."""

    def __init__(self, order: Order, dbus: bool) -> None:
        self._prefix = PREFIXES[order]
        self._gvariant = not dbus

    def value(self, kind: Type, value: Any, room: int) -> bytes:
        """`room`: how many containers may still be within each other."""
        code = kind.code
        if code in FORMATS:
            try:
                return struct.pack(self._prefix + FORMATS[code], value)
            except (struct.error, OverflowError, TypeError) as error:
                raise _unfit(kind, value) from error
        if code == "b":
            if not isinstance(value, bool):
                raise _unfit(kind, value)
            return b"\1" if value else b"\0"
        if code in STRINGS:
            return self._string(kind, value)
        if code == "a":
            return self._array(kind, value, room - 1)
        if code == "v":
            return self._variant(kind, value, room - 1)
        if code == "m":
            return self._maybe(kind, value, room - 1)
        return self._structure(kind, value, room - 1)

    def _string(self, kind: Type, value: Any) -> bytes:
        if not isinstance(value, str) or "\0" in value:
            raise _unfit(kind, value)
        try:
            if kind.code == "o" and not is_path(value):
                raise _unfit(kind, value)
            if kind.code == "g":
                split(value)
            return value.encode() + b"\0"
        except (UnicodeEncodeError, InvalidSignature) as error:
            raise _unfit(kind, value) from error

    def _array(self, kind: Type, value: Any, room: int) -> bytes:
        element = kind.items[0]
        if element.code == "y" and isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if isinstance(value, Mapping) and element.code == "{":
            value = list(value.items())
        if isinstance(value, (str, Mapping)):
            raise _unfit(kind, value)
        try:
            values = list(value)
        except TypeError as error:
            raise _unfit(kind, value) from error
        if element.code in FORMATS:
            try:
                return struct.pack(f"{self._prefix}{len(values)}{FORMATS[element.code]}", *values)
            except (struct.error, OverflowError, TypeError) as error:
                raise _unfit(kind, values) from error
        body = bytearray()
        ends = []
        for item in values:
            body += bytes(aligned(len(body), element.alignment) - len(body))
            body += self.value(element, item, room)
            ends.append(len(body))
        return bytes(body) if element.size else framed(body, ends)

    def _structure(self, kind: Type, value: Any, room: int) -> bytes:
        if not isinstance(value, (tuple, list)) or len(value) != len(kind.items):
            raise _unfit(kind, value)
        body = bytearray()
        ends = []
        for item, member in zip(kind.items, value, strict=True):
            body += bytes(aligned(len(body), item.alignment) - len(body))
            body += self.value(item, member, room)
            if not item.size:
                ends.append(len(body))
        if kind.size:
            return bytes(body) + bytes(kind.size - len(body))
        if not kind.items[-1].size:
            ends.pop()
        return framed(body, ends[::-1])

    def _maybe(self, kind: Type, value: Any, room: int) -> bytes:
        if value is None:
            return b""
        if not isinstance(value, Just):
            raise _unfit(kind, value)
        child = kind.items[0]
        return self.value(child, value.value, room) + (b"" if child.size else b"\0")

    def _variant(self, kind: Type, value: Any, room: int) -> bytes:
        if not isinstance(value, Variant):
            raise _unfit(kind, value)
        child = single(value.signature, gvariant=self._gvariant)
        if child.depth > room:
            raise InvalidValue(f"more than {MAX_DEPTH} containers within each other")
        return self.value(child, value.value, room) + b"\0" + value.signature.encode()


def framed(body: bytearray, ends: list[int]) -> bytes:
    """`body` with these framing offsets behind it."""
    width = offset_width(len(body), len(ends))
    return bytes(body) + b"".join(end.to_bytes(width, "little") for end in ends)


def _unfit(kind: Type, value: Any) -> InvalidValue:
    return InvalidValue(f"{reprlib.repr(value)} is not a value of the type {str(kind)!r}")


def marshal(signature: str | Type, value: Any, *, order: Order = "little", dbus: bool = False) -> bytes:
    """The normal form of a value whose type is `signature`, one complete type (or that type, parsed before).

    `dbus` refuses what D-Bus has not: maybes, empty structures, dictionary entries outside of arrays, also inside
    variants. Raises InvalidSignature, and InvalidValue for what the signature cannot hold.
    """
    kind = single(signature, gvariant=not dbus) if isinstance(signature, str) else signature
    return _Writer(order, dbus).value(kind, value, MAX_DEPTH)
