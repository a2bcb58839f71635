# SPDX-License-Identifier: GPL-2.0-or-later
"""The first version of D-Bus's wire format: what D-Bus daemons speak, and what libdbus put on kdbus.

Source: D-Bus Specification, "Message Protocol". A message is

    y  byte order, 'l' or 'B'          y  message type
    y  flags                           y  version, 1
    u  bytes of the body               u  serial, not 0
    a(yv)  header fields, by number

padded to 8 bytes, and the body behind it: its values one after the other (`kdbus.dbus.classic`), the types in the
header field 8. What may be wrong with bytes, and how long they may keep a reader busy, is told there.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from kdbus.dbus.classic import MAX_ARRAY, Source, align, reader, readers, writers
from kdbus.dbus.errors import DBusError, InvalidValue, Malformed
from kdbus.dbus.gvariant import PREFIXES, Order
from kdbus.dbus.message import FLAGS, MAX_SIZE, TYPES, Message, MessageType

VERSION: Final = 1
_ORDERS: Final[dict[int, Order]] = {ord("l"): "little", ord("B"): "big"}
_HEADER: Final[dict[Order, struct.Struct]] = {order: struct.Struct(f"{PREFIXES[order]}4B3I") for order in PREFIXES}
"""All before the header fields, and their size."""
_HEADER_SIZE: Final = 16
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
_CONTAINER: Final = "container_instance"
_KNOWN: Final = {**_FIELDS, 10: (_CONTAINER, "o")}
"""Those, and one that daemons alone set (dbus 1.13): it has to be what it says, and is of no interest."""
_STARTS: Final = tuple(
    (name, kind, bytes([number, 1]) + kind.encode() + b"\0") for number, (name, kind) in _FIELDS.items()
)
"""Of each field: attribute, type, and what it begins with."""


def parse(data: bytes | bytearray | memoryview) -> Message:
    """The message in exactly these bytes. Raises Malformed if it is none."""
    return _message(data if isinstance(data, bytes) else bytes(memoryview(data).cast("B")), None)


def check_unknown(data: bytes) -> None:
    """Raises Malformed unless these are the bytes of a message of a type that D-Bus does not know, but for that
    well-formed: such are to be ignored (D-Bus Specification, "Message Types")."""
    if data[1:2] <= bytes([max(TYPES)]):
        raise Malformed(f"a message of the type {data[1:2]!r}, which is known, or is none")
    # As a call that has whatever a call needs.
    _message(data, {"path": "/", "member": "Unknown"})


def _message(whole: bytes, unknown: dict[str, Any] | None) -> Message:
    """The message in these bytes; `unknown`: it may be of any type, is taken for a call, and has this in any case.
    Raises Malformed."""
    if not _HEADER_SIZE <= len(whole) <= MAX_SIZE:
        raise Malformed(f"a message of {len(whole)} bytes")
    order = _ORDERS.get(whole[0])
    if order is None or whole[3] != VERSION:
        raise Malformed(f"byte order {whole[0]:#x} and version {whole[3]}; not a message of D-Bus version {VERSION}")
    _, kind, flags, _, size, serial, fields = _HEADER[order].unpack_from(whole)
    if not serial or (kind not in TYPES and unknown is None):
        raise Malformed(f"a message of the type {kind} with the serial {serial}")
    if fields > MAX_ARRAY:
        raise Malformed(f"an array of {fields} bytes; D-Bus allows {MAX_ARRAY}")
    source = Source(whole, _HEADER_SIZE)
    try:
        members = _members(source, _HEADER_SIZE + fields, order)
        align(source, 8)
        if len(whole) - source.position != size:
            raise Malformed(f"a body of {len(whole) - source.position} bytes that claims to have {size}")
        body = tuple([read(source, 0) for read in readers(members.get("signature", ""), order)])
        if source.position != len(whole):
            raise Malformed(f"{len(whole) - source.position} bytes behind the body")
        if unknown is None:
            return Message(type=TYPES[kind], flags=FLAGS[flags & 7], cookie=serial, body=body, **members)
        if members.pop("reply_cookie", 1) == 0:
            raise Malformed("a reply to the serial 0")
        return Message(type=MessageType.METHOD_CALL, cookie=serial, body=body, **{**unknown, **members})
    except Malformed:
        raise
    except (struct.error, IndexError):
        raise Malformed(f"a value that ends behind the message of {len(whole)} bytes") from None
    except (DBusError, TypeError) as error:
        raise Malformed(str(error)) from error  # TypeError: a key of a dictionary that is no key in Python


def _members(source: Source, end: int, order: Order) -> dict[str, Any]:
    """Header fields, by attribute of Message, up to that byte."""
    found: dict[str, Any] = {}
    data = source.data
    while source.position < end:
        align(source, 8)
        start = source.position
        number, known = data[start], _KNOWN.get(data[start])
        if known is not None and data[start + 1] == 1 and data[start + 2] == ord(known[1]) and not data[start + 3]:
            name, kind = known
            if name in found:
                raise Malformed(f"a header field {number} ({name}) twice")
            source.position = start + 4
            found[name] = reader(kind, order)(source, 3)
        else:
            # "Unknown fields must be ignored" (D-Bus Specification, "Header Fields"), which have to be values.
            source.position = start + 1
            variant = reader("v", order)(source, 2)
            if not number or known is not None:
                raise Malformed(f"a header field {number} of the type {variant.signature!r}")
    if source.position != end:
        raise Malformed(f"header fields that do not end with a field, at byte {end}")
    found.pop(_CONTAINER, None)
    return found


def build(message: Message, *, order: Order = "little") -> bytes:
    """The bytes of a message. Raises InvalidValue, also if D-Bus does not allow so many.

    Serials have 32 bits here: of the cookie, and of the one that a reply refers to, the lower half is taken, or 1 if
    that is 0. Values of types that only GVariant has (maybes, empty structures) are InvalidValue.
    """
    try:
        body = bytearray()
        for write, value in zip(writers(message.signature, order), message.body, strict=True):
            write(body, value, 0)
        prefix = PREFIXES[order]
        header = bytearray(_HEADER_SIZE)
        for name, kind, start in _STARTS:
            value = getattr(message, name)
            if not value:
                continue
            header += bytes(-len(header) & 7)
            header += start
            if kind == "u":
                header += struct.pack(f"{prefix}I", _serial(value) if name == "reply_cookie" else value)
            else:
                # What stands here was checked when the message was made.
                text = value.encode()
                header += struct.pack("B" if kind == "g" else f"{prefix}I", len(text))
                header += text
                header.append(0)
        fields = len(header) - _HEADER_SIZE
        fixed = (ord("l" if order == "little" else "B"), message.type, message.flags, VERSION)
        _HEADER[order].pack_into(header, 0, *fixed, len(body), _serial(message.cookie), fields)
        header += bytes(-len(header) & 7)
    except (DBusError, AttributeError, TypeError, ValueError, struct.error) as error:
        raise InvalidValue(str(error)) from error
    if fields > MAX_ARRAY or len(header) + len(body) > MAX_SIZE:
        raise InvalidValue(f"a message of {len(header) + len(body)} bytes; D-Bus allows {MAX_SIZE}")
    return bytes(header + body)


def _serial(cookie: int) -> int:
    return cookie & 0xFFFFFFFF or 1
