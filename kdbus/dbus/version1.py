# SPDX-License-Identifier: GPL-2.0-or-later
"""The first version of D-Bus's wire format: what D-Bus daemons speak, and what libdbus put on kdbus.

Source: D-Bus Specification, "Type System" (marshalling) and "Message Protocol". A message is

    y  byte order, 'l' or 'B'          y  message type
    y  flags                           y  version, 1
    u  bytes of the body               u  serial, not 0
    a(yv)  header fields, by number

padded to 8 bytes, and the body behind it: its values one after the other, the types in the header field 8. Every value
is aligned, counted from the start of the message (the body's own start is aligned to 8, so it may count from there).

Bytes may be anybody's, so reading is bounded: values stand in the bytes that are there, arrays move on with every
element, and containers are at most 64 within each other.
"""

from __future__ import annotations

import struct
from typing import Any, Final, cast

from kdbus.dbus.errors import DBusError, InvalidValue, Malformed
from kdbus.dbus.gvariant import PREFIXES, Order
from kdbus.dbus.message import MAX_SIZE, Flag, Message, MessageType
from kdbus.dbus.names import check_path
from kdbus.dbus.signature import Type, aligned, single, split
from kdbus.dbus.values import Variant

VERSION: Final = 1
MAX_ARRAY: Final = 1 << 26
"""Bytes."""
_MAX_DEPTH: Final = 64
_ORDERS: Final[dict[int, Order]] = {ord("l"): "little", ord("B"): "big"}
_FORMATS: Final = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I", "b": "I"}
_ALIGNMENTS: Final = {"n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "y": 1, "g": 1, "v": 1, "(": 8, "{": 8}
"""Those that are not 4."""
_FIELDS: Final = {
    1: ("path", "o"),
    2: ("interface", "s"),
    3: ("member", "s"),
    4: ("error_name", "s"),
    5: ("reply_cookie", "u"),
    6: ("destination", "s"),
    7: ("sender", "s"),
    8: ("signature", "g"),
    9: ("descriptors", "u"),
}
"""Header fields by number: attribute of Message, and type."""
_FIELDS_TYPE: Final = single("a(yv)")


def _alignment(kind: Type) -> int:
    return _ALIGNMENTS.get(kind.code, 4)


def _check(code: str, text: str) -> None:
    """Raises InvalidName or InvalidSignature for a text that is not what its type says."""
    if code == "o":
        check_path(text)
    elif code == "g":
        split(text)


class _Reader:
    """Takes values out of bytes, one after the other."""

    def __init__(self, data: memoryview, order: Order, position: int) -> None:
        self._data = data
        self._prefix = PREFIXES[order]
        self.position = position

    def align(self, alignment: int) -> None:
        """Go on behind padding, which must be zeros."""
        end = aligned(self.position, alignment)
        if any(self._take(end - self.position)):
            raise Malformed(f"padding that is not zero before byte {end}")

    def _take(self, size: int) -> memoryview:
        start, self.position = self.position, self.position + size
        if self.position > len(self._data):
            raise Malformed(f"a value at byte {start} that ends behind the message")
        return self._data[start : self.position]

    def value(self, kind: Type, depth: int = 0) -> Any:
        """The next value, of that type."""
        if depth > _MAX_DEPTH:
            raise Malformed(f"more than {_MAX_DEPTH} containers within each other")
        code = kind.code
        if code in _FORMATS:
            self.align(_alignment(kind))
            form = self._prefix + _FORMATS[code]
            (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
            if code != "b":
                return number
            if number > 1:
                raise Malformed(f"a boolean of {number}, before byte {self.position}")
            return number == 1
        if code in "sog":
            return self._string(code)
        if code == "v":
            inner = single(self._string("g"))
            return Variant(str(inner), self.value(inner, depth + 1))
        if code == "a":
            return self._array(kind.items[0], depth + 1)
        self.align(8)
        return tuple(self.value(item, depth + 1) for item in kind.items)

    def _string(self, code: str) -> str:
        size = self._take(1)[0] if code == "g" else cast(int, self.value(Type("u")))
        data = bytes(self._take(size + 1))
        if data[-1] or b"\0" in data[:-1]:
            raise Malformed(f"a string that does not end with its only zero, before byte {self.position}")
        try:
            text = data[:-1].decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"a string that is no UTF-8, before byte {self.position}") from error
        _check(code, text)
        return text

    def _array(self, element: Type, depth: int) -> Any:
        size = cast(int, self.value(Type("u")))
        if size > MAX_ARRAY:
            raise Malformed(f"an array of {size} bytes; D-Bus allows {MAX_ARRAY}")
        self.align(_alignment(element))
        if element.code == "y":
            return bytes(self._take(size))
        end = self.position + size
        found = []
        # Every type takes at least a byte, as D-Bus has no empty structures.
        while self.position < end:
            found.append(self.value(element, depth))
        if self.position != end:
            raise Malformed(f"an array that does not end with an element, at byte {end}")
        return dict(found) if element.code == "{" else found


def parse(data: bytes | bytearray | memoryview) -> Message:
    """The message in exactly these bytes. Raises Malformed if it is none."""
    view = memoryview(data).cast("B")
    if not 16 <= len(view) <= MAX_SIZE:
        raise Malformed(f"a message of {len(view)} bytes")
    order = _ORDERS.get(view[0])
    if order is None or view[3] != VERSION:
        raise Malformed(f"byte order {view[0]:#x} and version {view[3]}; not a message of D-Bus version {VERSION}")
    kind, flags, size, serial = view[1], view[2], *struct.unpack_from(PREFIXES[order] + "2I", view, 4)
    if not serial or kind not in MessageType.__members__.values():
        raise Malformed(f"a message of the type {kind} with the serial {serial}")
    reader = _Reader(view, order, 12)
    try:
        members = _members(reader.value(_FIELDS_TYPE))
        reader.align(8)
        if len(view) - reader.position != size:
            raise Malformed(f"a body of {len(view) - reader.position} bytes that claims to have {size}")
        body = tuple(reader.value(each) for each in split(members.get("signature", "")))
        if reader.position != len(view):
            raise Malformed(f"{len(view) - reader.position} bytes behind the body")
        known = Flag(flags & (Flag.NO_REPLY_EXPECTED | Flag.NO_AUTO_START | Flag.ALLOW_INTERACTIVE_AUTHORIZATION))
        return Message(type=MessageType(kind), flags=known, cookie=serial, body=body, **members)
    except Malformed:
        raise
    except (DBusError, TypeError) as error:
        raise Malformed(str(error)) from error  # TypeError: a key of a dictionary that is no key in Python


def _members(pairs: list[tuple[int, Variant]]) -> dict[str, Any]:
    """Header fields, by attribute of Message."""
    found: dict[str, Any] = {}
    for number, variant in pairs:
        if number == 0:
            raise Malformed("a header field 0")
        if number not in _FIELDS:
            continue  # "Unknown fields must be ignored" (D-Bus Specification, "Header Fields").
        name, kind = _FIELDS[number]
        if name in found or variant.signature != kind:
            raise Malformed(f"a header field {number} ({name}) twice, or of the type {variant.signature!r}")
        found[name] = variant.value
    return found


class _Writer:
    """Appends values, one after the other. What is no value of its type raises something that `build` translates."""

    def __init__(self, order: Order) -> None:
        self.data = bytearray()
        self._prefix = PREFIXES[order]

    def align(self, alignment: int) -> None:
        self.data += bytes(-len(self.data) % alignment)

    def value(self, kind: Type, value: Any, depth: int = 0) -> None:
        """Append a value. Raises InvalidValue."""
        if depth > _MAX_DEPTH:
            raise InvalidValue(f"more than {_MAX_DEPTH} containers within each other")
        code = kind.code
        self.align(_alignment(kind))
        if code in _FORMATS:
            if code == "b" and not isinstance(value, bool):
                raise InvalidValue(f"{value!r} is no boolean")
            self.data += struct.pack(self._prefix + _FORMATS[code], value)
        elif code in "sog":
            self._string(code, value)
        elif code == "v":
            self.value(Type("g"), value.signature)
            self.value(single(value.signature), value.value, depth + 1)
        elif code == "a":
            self._array(kind.items[0], value, depth + 1)
        else:
            for item, each in zip(kind.items, value, strict=True):
                self.value(item, each, depth + 1)

    def _string(self, code: str, value: str) -> None:
        text = value.encode() + b"\0"
        if text.find(0) != len(text) - 1:
            raise InvalidValue(f"{value!r} has a zero character")
        _check(code, value)
        self.data += struct.pack("B" if code == "g" else f"{self._prefix}I", len(text) - 1) + text

    def _array(self, element: Type, value: Any, depth: int) -> None:
        if isinstance(value, str):
            raise InvalidValue(f"{value!r} is no array")
        place = len(self.data)
        self.data += bytes(4)
        self.align(_alignment(element))
        start = len(self.data)
        if element.code == "y":
            self.data += bytes(value)
        else:
            for each in value.items() if element.code == "{" else value:
                self.value(element, each, depth)
        size = len(self.data) - start
        if size > MAX_ARRAY:
            raise InvalidValue(f"an array of {size} bytes; D-Bus allows {MAX_ARRAY}")
        self.data[place : place + 4] = struct.pack(f"{self._prefix}I", size)


def build(message: Message, *, order: Order = "little") -> bytes:
    """The bytes of a message. Raises InvalidValue, also if D-Bus does not allow so many.

    Serials have 32 bits here: of the cookie, and of the one that a reply refers to, the lower half is taken, or 1 if
    that is 0. Values of types that only GVariant has (maybes, empty structures) are InvalidValue.
    """
    try:
        body, header = _Writer(order), _Writer(order)
        for kind, value in zip(split(message.signature), message.body, strict=True):
            body.value(kind, value)
        fields = []
        for number, (name, code) in _FIELDS.items():
            value = getattr(message, name)
            if value:
                fields.append((number, Variant(code, _serial(value) if name == "reply_cookie" else value)))
        fixed = (ord("l" if order == "little" else "B"), message.type, message.flags, VERSION)
        header.data += struct.pack(PREFIXES[order] + "4B2I", *fixed, len(body.data), _serial(message.cookie))
        header.value(_FIELDS_TYPE, fields)
        header.align(8)
    except (DBusError, AttributeError, TypeError, ValueError, struct.error) as error:
        raise InvalidValue(str(error)) from error
    if len(header.data) + len(body.data) > MAX_SIZE:
        raise InvalidValue(f"a message of {len(header.data) + len(body.data)} bytes; D-Bus allows {MAX_SIZE}")
    return bytes(header.data + body.data)


def _serial(cookie: int) -> int:
    return cookie & 0xFFFFFFFF or 1
