# SPDX-License-Identifier: GPL-2.0-or-later
"""The second version of D-Bus's wire format: messages in GVariant's form, as sd-bus put them on kdbus.

Sources: GVARIANT-SERIALIZATION in systemd's sources (2014 to 2023), GLib's wiki page GDBus/Version2, and what sd-bus
accepted. A message is one GVariant of the type (yyyyuta{tv}v):

    y  byte order, 'l' or 'B'          y  message type
    y  flags                           y  version, 2
    u  reserved, 0                     t  cookie, not 0
    a{tv}  header fields, by number    v  the body: a structure of the arguments

which ends with one framing offset, the end of the header fields. Numbers of fields are those of version 1, except that
SIGNATURE (8) is gone, since the body's variant has it, and that a reply's cookie (5) is a `t`. Fields come in the order
in which sd-bus wrote them, so that the bytes are the same.

The size of a message is told by what carries it. On kdbus it comes in parts, of which any may be a memfd, but the
header with its fields has to be in the first part, the end of the body in the last, and neither in a memfd; hence
`Parts`.

Reading is strict: what is not in normal form, what has a field twice, of another type, or without the fields that its
type demands, is Malformed. So it was with sd-bus, which then ignored the message. One thing is taken that sd-bus did
not: the other byte order. Nobody sends it on kdbus.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final, NamedTuple

from kdbus.dbus.errors import DBusError, InvalidValue, Malformed
from kdbus.dbus.gvariant import FORMATS, PREFIXES, Order, framed, marshal, offset_width
from kdbus.dbus.message import FLAGS, MAX_SIZE, TYPES, Message, MessageType
from kdbus.dbus.signature import MAX_LENGTH, Type, aligned, split
from kdbus.dbus.unmarshal import unmarshal
from kdbus.dbus.values import Variant

VERSION: Final = 2
_HEADER: Final[dict[Order, struct.Struct]] = {order: struct.Struct(f"{PREFIXES[order]}4BIQ") for order in PREFIXES}
_HEADER_SIZE: Final = 16
_ORDERS: Final[dict[int, Order]] = {ord("l"): "little", ord("B"): "big"}
_LETTERS: Final[dict[Order, int]] = {order: letter for letter, order in _ORDERS.items()}

_FIELDS: Final[dict[int, tuple[str, str]]] = {
    1: ("path", "o"),
    2: ("interface", "s"),
    3: ("member", "s"),
    4: ("error_name", "s"),
    5: ("reply_cookie", "t"),
    6: ("destination", "s"),
    7: ("sender", "s"),
    9: ("descriptors", "u"),
}
"""Header fields by number: attribute of Message, and type."""
_SIGNATURE: Final = 8
_WORD: Final[dict[Order, struct.Struct]] = {order: struct.Struct(f"{PREFIXES[order]}Q") for order in PREFIXES}

_CALL_ORDER: Final = (1, 3, 2, 6, 7, 9)
_SIGNAL_ORDER: Final = (1, 2, 3, 6, 7, 9)
_REPLY_ORDER: Final = (5, 6, 4, 7, 9)
_ORDER: Final = {
    MessageType.METHOD_CALL: _CALL_ORDER,
    MessageType.SIGNAL: _SIGNAL_ORDER,
    MessageType.METHOD_RETURN: _REPLY_ORDER,
    MessageType.ERROR: _REPLY_ORDER,
}
_REMEMBERED: Final = 256
_LONGEST_REMEMBERED: Final = 512
"""Bytes of header fields."""


@lru_cache(maxsize=_REMEMBERED)
def _structure(signature: str) -> Type:
    """The type of a body. Raises InvalidSignature."""
    return Type("(", split(signature))


class Parts(NamedTuple):
    """A message in the three parts that kdbus's clients expect: only the middle one may be sent as a memfd."""

    head: bytes
    body: bytes
    tail: bytes


def build_parts(message: Message, *, order: Order = "little") -> Parts:
    """The bytes of a message, in normal form.

    Raises InvalidValue if the body does not fit its signature, if the cookie is 0, or the message is larger than D-Bus
    allows.
    """
    if not message.cookie:
        raise InvalidValue("a message without a cookie")
    fixed = (_LETTERS[order], message.type, message.flags, VERSION, 0, message.cookie)
    head = _HEADER[order].pack(*fixed) + _packed_fields(message, order)
    end = len(head)
    head += bytes(aligned(end, 8) - end)
    body = marshal(_structure(message.signature), message.body, order=order, dbus=True)
    tail = f"\0({message.signature})".encode()
    size = len(head) + len(body) + len(tail)
    width = offset_width(size, 1)
    if size + width > MAX_SIZE:
        raise InvalidValue(f"a message of {size + width} bytes; D-Bus allows {MAX_SIZE}")
    return Parts(head, body, tail + end.to_bytes(width, "little"))


def _packed_fields(message: Message, order: Order) -> bytes:
    """The header fields as an a{tv}. They were checked when the message was made."""
    prefix = PREFIXES[order]
    packed = bytearray()
    ends = []
    for number in _ORDER[message.type]:
        name, kind = _FIELDS[number]
        value = getattr(message, name)
        if value:
            packed += bytes(-len(packed) & 7)
            packed += struct.pack(f"{prefix}Q", number)
            packed += value.encode() + b"\0" if kind in "so" else struct.pack(prefix + FORMATS[kind], value)
            packed += b"\0" + kind.encode()
            ends.append(len(packed))
    return framed(packed, ends)


def build(message: Message, *, order: Order = "little") -> bytes:
    """The bytes of a message, in one piece; else as `build_parts`."""
    return b"".join(build_parts(message, order=order))


def parse(data: bytes | bytearray | memoryview, *, sender: str | None = None) -> Message:
    """The message in exactly these bytes, which are all parts of one kdbus message put together.

    `sender`: what kdbus says of it; without, it is what the sender claims. Raises Malformed if it is none.
    """
    view = memoryview(data).cast("B")
    if not _HEADER_SIZE < len(view) <= MAX_SIZE:
        raise Malformed(f"a message of {len(view)} bytes")
    order = _ORDERS.get(view[0])
    if order is None or view[3] != VERSION:
        raise Malformed(f"byte order {view[0]:#x} and version {view[3]}; not a message of D-Bus version {VERSION}")
    _, kind, flags, _, _, cookie = _HEADER[order].unpack_from(view)
    if not cookie or kind not in TYPES:
        raise Malformed(f"a message of the type {kind} with the cookie {cookie}")
    width = offset_width(len(view), 0)
    tail = len(view) - width
    end = int.from_bytes(view[tail:], "little")
    start = aligned(end, 8)
    if end < _HEADER_SIZE or start > tail or offset_width(tail, 1) != width or any(view[end:start]):
        raise Malformed(f"header fields that end at byte {end} of {len(view)}")
    signature, body = _body(view[start:tail], order)
    header = bytes(view[_HEADER_SIZE:end])
    # A reply begins with what it refers to, and no two are the same.
    look_at = _remembered_fields if len(header) < _LONGEST_REMEMBERED and header[:1] != b"\5" else _known_fields
    known = look_at(header, order)
    if known is not None:
        fields = dict(known)
    else:
        fields = _fields(unmarshal("a(tv)", view[_HEADER_SIZE:end], order=order, strict=True, dbus=True))
    if sender is not None:
        fields["sender"] = sender
    try:
        return Message(
            type=TYPES[kind], flags=FLAGS[flags & 7], cookie=cookie, signature=signature, body=body, **fields
        )
    except DBusError as error:
        raise Malformed(str(error)) from error


def _known_fields(data: bytes, order: Order) -> dict[str, Any] | None:
    """Header fields, by attribute of Message, if all are known and in normal form; else None: then `_fields` looks at
    them, which takes six times as long, and tells what is wrong, if anything is."""
    size = len(data)
    if not size:
        return {}
    width = offset_width(size, 0)
    last = int.from_bytes(data[-width:], "little")
    count, rest = divmod(size - last, width)
    if count <= 0 or rest or offset_width(last, count) != width:
        return None
    found: dict[str, Any] = {}
    position = 0
    for place in range(last, size, width):
        begin, end = (position + 7) & -8, int.from_bytes(data[place : place + width], "little")
        # The number, a value, a zero, and the type of it.
        if not begin + 10 < end <= last or any(data[position:begin]) or data[end - 2]:
            return None
        name, kind = _FIELDS.get(_WORD[order].unpack_from(data, begin)[0], ("", ""))
        if not name or name in found or data[end - 1] != ord(kind):
            return None
        value = data[begin + 8 : end - 2]
        if kind in "so":
            if value.find(0) != len(value) - 1:
                return None
            try:
                found[name] = value[:-1].decode()
            except UnicodeDecodeError:
                return None
        elif len(value) != (8 if kind == "t" else 4):
            return None
        else:
            found[name] = int.from_bytes(value, order)
        position = end
    return found


_remembered_fields = lru_cache(maxsize=_REMEMBERED)(_known_fields)
"""The same: who sends, sends with the same header again and again."""


def _fields(pairs: list[tuple[int, Variant]]) -> dict[str, Any]:
    """Header fields, by attribute of Message. Read as structures: a dictionary would hide what is there twice."""
    found: dict[str, Any] = {}
    for number, variant in pairs:
        if number in (0, _SIGNATURE):
            raise Malformed(f"a header field {number}")
        if number not in _FIELDS:
            continue  # "Unknown fields must be ignored" (D-Bus Specification, "Header Fields").
        name, kind = _FIELDS[number]
        if name in found or variant.signature != kind:
            raise Malformed(f"a header field {number} ({name}) twice, or of the type {variant.signature!r}")
        found[name] = variant.value
    return found


def _body(view: memoryview, order: Order) -> tuple[str, tuple[Any, ...]]:
    """Signature and values of a variant that is the body. Its signature may be longer than any other by its brackets,
    so it is not left to `unmarshal`."""
    window = max(0, len(view) - MAX_LENGTH - 3)
    text = bytes(view[window:])
    zero = text.rfind(0)
    whole = text[zero + 1 :].decode("latin-1")
    if zero < 0 or not (whole.startswith("(") and whole.endswith(")")):
        raise Malformed("a body that is not a structure")
    try:
        kind = _structure(whole[1:-1])
    except DBusError as error:
        raise Malformed(str(error)) from error
    value = unmarshal(kind, view[: window + zero], order=order, strict=True, dbus=True)
    return whole[1:-1], value
