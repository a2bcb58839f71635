# SPDX-License-Identifier: GPL-2.0-or-later
"""The reading half of GVariant: bytes to values. What holds for both halves, and why, stands in `gvariant.py`.

Everything that the specification calls an abnormality passes through `_Reader._fault`, which raises if reading is
strict and returns otherwise; the lines behind it then do what section 2.7.3 says. So the list of abnormalities is the
list of its callers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from kdbus.dbus.errors import InvalidSignature, Malformed
from kdbus.dbus.gvariant import FORMATS, MAX_DEPTH, PREFIXES, Order, offset_width
from kdbus.dbus.names import is_path
from kdbus.dbus.signature import MAX_LENGTH, STRINGS, Type, aligned, single, split
from kdbus.dbus.values import Just, Variant

WORK_PER_BYTE: Final = 80
"""Values and bytes of strings that one byte may cost. In normal form one byte is at most a structure of one byte in 32
others in 32 arrays, and each byte belongs to one string at most."""
WORK: Final = 1024
"""What reading may cost in any case; a type's default value has at most as many values as its signature characters."""

_DEFAULTS: Final = {"b": False, "d": 0.0, "s": "", "o": "/", "g": ""}


class _Reader:
    """Reads values out of one sequence of bytes. Positions are absolute; a container's offsets are not."""

    def __init__(self, data: memoryview, order: Order, strict: bool, dbus: bool) -> None:
        self._data = data
        self._prefix = PREFIXES[order]
        self._strict = strict
        self._gvariant = not dbus
        self._work = WORK + WORK_PER_BYTE * len(data)

    def value(self, kind: Type, start: int, end: int, room: int) -> Any:
        """The value of that type in the bytes from `start` to `end`; `room` as in marshalling."""
        self._spend(1)
        code = kind.code
        if kind.size and end - start != kind.size:
            return self._default(kind, f"{end - start} bytes", start)
        if code in FORMATS:
            return struct.unpack_from(self._prefix + FORMATS[code], self._data, start)[0]
        if code == "b":
            return self._boolean(self._data[start], start)
        if code in STRINGS:
            return self._string(kind, start, end)
        if code == "a":
            return self._array(kind, start, end, room - 1)
        if code == "v":
            return self._variant(kind, start, end, room - 1)
        if code == "m":
            return self._maybe(kind, start, end, room - 1)
        return self._structure(kind, start, end, room - 1)

    def _spend(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise Malformed("overlapping or empty values cost more than their bytes can be worth")

    def _fault(self, reason: str, position: int) -> None:
        if self._strict:
            raise Malformed(f"byte {position}: {reason}; not GVariant's normal form")

    def _default(self, kind: Type, reason: str, position: int) -> Any:
        self._fault(f"{reason} where a value of the type {str(kind)!r} was expected", position)
        self._spend(kind.weight)
        return _default_of(kind)

    def _padding(self, start: int, end: int) -> None:
        if self._strict and any(self._data[start:end]):
            self._fault("padding that is not zero", start)

    def _boolean(self, byte: int, position: int) -> bool:
        if byte > 1:
            self._fault(f"a boolean of {byte}", position)
        return byte != 0

    def _string(self, kind: Type, start: int, end: int) -> str:
        self._spend(end - start)
        if end == start or self._data[end - 1]:
            return str(self._default(kind, "bytes without a zero at their end", start))
        raw = bytes(self._data[start : end - 1])
        zero = raw.find(0)
        if zero >= 0 and kind.code == "s":
            self._fault("a string with a zero byte inside", start + zero)
            raw = raw[:zero]
        try:
            text = raw.decode()
            if kind.code == "g":
                split(text)
        except (UnicodeDecodeError, InvalidSignature):
            return str(self._default(kind, "other bytes", start))
        if kind.code == "o" and not is_path(text):
            return str(self._default(kind, "another string", start))
        return text

    def _array(self, kind: Type, start: int, end: int, room: int) -> Any:
        element = kind.items[0]
        size = end - start
        if not element.size:
            values = list(self._elements(element, start, end, room))
            return dict(values) if element.code == "{" else values
        if size % element.size:
            return self._default(kind, f"{size} bytes", start)
        if element.code == "y":
            self._spend(size)
            return bytes(self._data[start:end])
        count = size // element.size
        if element.code in FORMATS:
            self._spend(count)
            return list(struct.unpack_from(f"{self._prefix}{count}{FORMATS[element.code]}", self._data, start))
        values = [self.value(element, at, at + element.size, room) for at in range(start, end, element.size)]
        return dict(values) if element.code == "{" else values

    def _elements(self, element: Type, start: int, end: int, room: int) -> Iterator[Any]:
        """The elements of an array that has framing offsets."""
        size = end - start
        if not size:
            return
        width = offset_width(size, 0)
        last = self._offset(end - width, width)
        count, rest = divmod(size - last, width)
        if count <= 0 or rest:
            self._fault("framing offsets of an array that do not fit its size", end - width)
            return
        if offset_width(last, count) != width:
            self._fault("framing offsets larger than they need to be", end - width)
        position = 0
        for index in range(count):
            begin = aligned(position, element.alignment)
            stop = self._offset(start + last + index * width, width)
            if begin <= stop <= size:
                self._padding(start + position, start + begin)
                yield self.value(element, start + begin, start + stop, room)
            else:
                yield self._default(element, "boundaries out of order", start + last + index * width)
            position = stop

    def _offset(self, position: int, width: int) -> int:
        return int.from_bytes(self._data[position : position + width], "little")

    def _structure(self, kind: Type, start: int, end: int, room: int) -> tuple[Any, ...]:
        size = end - start
        width = offset_width(size, 0)
        tail = size if kind.size else size - width * sum(not item.size for item in kind.items[:-1])
        slot = size
        position = 0
        values = []
        for index, item in enumerate(kind.items):
            begin = aligned(position, item.alignment)
            if item.size:
                stop = begin + item.size
            elif index == len(kind.items) - 1:
                stop = tail
            else:
                slot -= width
                # Where an offset is missing, nothing behind it can be found.
                stop = self._offset(start + slot, width) if slot >= 0 else size + 1
            if begin <= stop <= size:
                self._padding(start + position, start + begin)
                values.append(self.value(item, start + begin, start + stop, room))
            else:
                values.append(self._default(item, "boundaries out of order", start))
            position = stop
        if kind.size:
            self._padding(start + position, end)
        elif position != tail or offset_width(tail, (size - tail) // width) != width:
            self._fault("a structure whose size is not that of its members", start)
        return tuple(values)

    def _maybe(self, kind: Type, start: int, end: int, room: int) -> Just | None:
        child = kind.items[0]
        if start == end:
            return None
        if not child.size:
            self._padding(end - 1, end)
            return Just(self.value(child, start, end - 1, room))
        if end - start != child.size:
            self._fault(f"{end - start} bytes where a value of the type {str(kind)!r} was expected", start)
            return None
        return Just(self.value(child, start, end, room))

    def _variant(self, kind: Type, start: int, end: int, room: int) -> Variant:
        window = max(start, end - MAX_LENGTH - 1)
        text = bytes(self._data[window:end])
        zero = text.rfind(0)
        try:
            if zero < 0:
                raise InvalidSignature("no zero byte before a signature")
            signature = text[zero + 1 :].decode("latin-1")
            child = single(signature, gvariant=self._gvariant)
            if child.depth > room:
                raise InvalidSignature(f"more than {MAX_DEPTH} containers within each other")
        except InvalidSignature as error:
            variant = self._default(kind, f"a variant that is none ({error})", start)
            assert isinstance(variant, Variant)
            return variant
        return Variant(signature, self.value(child, start, window + zero, room))


def _default_of(kind: Type) -> Any:
    """A type's default value (GVariant Specification, section 2.7.2)."""
    if kind.code == "a":
        return {} if kind.items[0].code == "{" else b"" if kind.items[0].code == "y" else []
    if kind.code == "m":
        return None
    if kind.code == "v":
        return Variant("()", ())
    if kind.code in "({":
        return tuple(_default_of(item) for item in kind.items)
    return _DEFAULTS.get(kind.code, 0)


def unmarshal(
    signature: str | Type,
    data: bytes | bytearray | memoryview,
    *,
    order: Order = "little",
    strict: bool = False,
    dbus: bool = False,
) -> Any:
    """The value of the type `signature`, one complete type (or that type, parsed before), in exactly these bytes.

    `strict` refuses what is not in normal form, `dbus` types that D-Bus has not (inside variants, where they are as
    wrong as an unknown letter). Raises InvalidSignature for `signature` itself, and Malformed: with `strict` for every
    deviation, without it only where the budget is exceeded. Nothing of `data` is kept: strings and bytes are copies.
    """
    view = memoryview(data).cast("B")
    reader = _Reader(view, order, strict, dbus)
    kind = single(signature, gvariant=not dbus) if isinstance(signature, str) else signature
    return reader.value(kind, 0, len(view), MAX_DEPTH)
