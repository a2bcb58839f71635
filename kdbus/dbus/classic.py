# SPDX-License-Identifier: GPL-2.0-or-later
"""Values in D-Bus's classic form, which version 1 of the wire format is made of: bytes to values and back.

Source: D-Bus Specification, "Type System" (marshalling). Every value is aligned, counted from the start of the message
(the body's own start is aligned to 8, so it may count from there).

A program sends few signatures, and each of them often. So a signature is turned once into functions, one for each type
in it, which know their alignment, `struct` format and elements; the functions of the last signatures are remembered.
Arrays of numbers are read and written as a whole. That is some three times as fast as asking each value for its type.

Bytes may be anybody's, so reading is bounded: values stand in the bytes that are there, arrays move on with every
element, and containers are at most 64 within each other. Readers raise Malformed, `struct.error` or IndexError (both:
the bytes end too early); writers raise what `version1.build` translates.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Final, TypeAlias

from kdbus.dbus.errors import InvalidValue, Malformed
from kdbus.dbus.gvariant import PREFIXES, Order
from kdbus.dbus.names import check_path
from kdbus.dbus.signature import Type, single, split
from kdbus.dbus.values import Variant

MAX_ARRAY: Final = 1 << 26
"""Bytes."""
MAX_DEPTH: Final = 64
_FORMATS: Final = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGNMENTS: Final = {"n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "y": 1, "g": 1, "v": 1, "(": 8, "{": 8}
"""Those that are not 4."""
_REMEMBERED: Final = 256
"""Signatures: of the longest, each takes some 50 KB of functions."""


class Source:
    """Bytes, and how far they have been read."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position


Reader: TypeAlias = Callable[[Source, int], Any]
"""Takes the next value; the number is how many containers it is in."""
Writer: TypeAlias = Callable[[bytearray, Any, int], None]
"""Appends a value; the number likewise."""


def _alignment(kind: Type) -> int:
    return _ALIGNMENTS.get(kind.code, 4)


def align(source: Source, alignment: int) -> None:
    """Go on behind padding, which must be zeros."""
    start = source.position
    end = (start + alignment - 1) & -alignment
    if end != start:
        if any(source.data[start:end]):
            raise Malformed(f"padding that is not zero before byte {end}")
        source.position = end


def _too_deep() -> Malformed:
    return Malformed(f"more than {MAX_DEPTH} containers within each other")


# ---- reading


@lru_cache(maxsize=_REMEMBERED)
def readers(signature: str, order: Order) -> tuple[Reader, ...]:
    """Readers of the complete types in a signature. Raises InvalidSignature."""
    return tuple(_reader(kind, order) for kind in split(signature))


@lru_cache(maxsize=_REMEMBERED)
def reader(signature: str, order: Order) -> Reader:
    """The reader of one complete type. Raises InvalidSignature."""
    return _reader(single(signature), order)


def _reader(kind: Type, order: Order) -> Reader:
    code = kind.code
    if code == "a":
        return _array_reader(kind.items[0], order)
    if code in "({":
        return _structure_reader(tuple(_reader(item, order) for item in kind.items))
    return _basic_reader(code, order)


@cache
def _basic_reader(code: str, order: Order) -> Reader:
    """Of a basic type, or of variants."""
    if code == "v":
        return _variant_reader(order)
    if code == "g":
        return _signature
    if code in "so":
        return _string_reader(order, check_path if code == "o" else None)
    if code == "b":
        return _boolean_reader(_basic_reader("u", order))
    return _number_reader(PREFIXES[order] + _FORMATS[code])


def _number_reader(form: str) -> Reader:
    unpack, size = struct.Struct(form).unpack_from, struct.calcsize(form)

    def read(source: Source, depth: int) -> Any:
        if source.position & (size - 1):
            align(source, size)
        at = source.position
        source.position = at + size
        return unpack(source.data, at)[0]

    return read


def _boolean_reader(number: Reader) -> Reader:
    def read(source: Source, depth: int) -> bool:
        found = number(source, depth)
        if found > 1:
            raise Malformed(f"a boolean of {found}, before byte {source.position}")
        return bool(found)

    return read


def _text(source: Source, start: int, size: int) -> str:
    """The text of so many bytes, and a zero behind it."""
    data, end = source.data, start + size
    source.position = end + 1
    raw = data[start:end]
    if data[end] or b"\0" in raw:
        raise Malformed(f"a string that does not end with its only zero, before byte {end + 1}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"a string that is no UTF-8, before byte {end + 1}") from error


def _string_reader(order: Order, check: Callable[[str], str] | None) -> Reader:
    unpack = struct.Struct(PREFIXES[order] + "I").unpack_from

    def read(source: Source, depth: int) -> str:
        if source.position & 3:
            align(source, 4)
        at = source.position
        text = _text(source, at + 4, unpack(source.data, at)[0])
        return text if check is None else check(text)

    return read


def _signature(source: Source, depth: int) -> str:
    at = source.position
    text = _text(source, at + 1, source.data[at])
    split(text)
    return text


def _variant_reader(order: Order) -> Reader:
    def read(source: Source, depth: int) -> Variant:
        at = source.position
        signature = _text(source, at + 1, source.data[at])
        inner = reader(signature, order)
        if depth >= MAX_DEPTH:
            raise _too_deep()
        return Variant(signature, inner(source, depth + 1))

    return read


def _structure_reader(items: tuple[Reader, ...]) -> Reader:
    def read(source: Source, depth: int) -> tuple[Any, ...]:
        if source.position & 7:
            align(source, 8)
        if depth >= MAX_DEPTH:
            raise _too_deep()
        return tuple([item(source, depth + 1) for item in items])

    return read


def _array_reader(element: Type, order: Order) -> Reader:
    unpack, prefix = struct.Struct(PREFIXES[order] + "I").unpack_from, PREFIXES[order]
    alignment, code = _alignment(element), element.code
    form = _FORMATS.get(code)
    item, width = _reader(element, order), struct.calcsize(prefix + (form or ""))

    def read(source: Source, depth: int) -> Any:
        align(source, 4)
        at = source.position
        size: int = unpack(source.data, at)[0]
        if size > MAX_ARRAY:
            raise Malformed(f"an array of {size} bytes; D-Bus allows {MAX_ARRAY}")
        source.position = at + 4
        align(source, alignment)
        start = source.position
        end = start + size
        if end > len(source.data):
            raise Malformed(f"an array at byte {at} that ends behind the message")
        if depth >= MAX_DEPTH and size:
            raise _too_deep()
        if code == "y":
            source.position = end
            return source.data[start:end]
        if form is not None:
            source.position = end
            if size % width:
                raise Malformed(f"an array that does not end with an element, at byte {end}")
            return list(struct.unpack_from(f"{prefix}{size // width}{form}", source.data, start))
        found = []
        # Every type takes at least a byte, as D-Bus has no empty structures.
        while source.position < end:
            found.append(item(source, depth + 1))
        if source.position != end:
            raise Malformed(f"an array that does not end with an element, at byte {end}")
        return dict(found) if code == "{" else found

    return read


# ---- writing


@lru_cache(maxsize=_REMEMBERED)
def writers(signature: str, order: Order) -> tuple[Writer, ...]:
    """Writers of the complete types in a signature. Raises InvalidSignature."""
    return tuple(_writer(kind, order) for kind in split(signature))


@lru_cache(maxsize=_REMEMBERED)
def _writer_of(signature: str, order: Order) -> Writer:
    return _writer(single(signature), order)


def _writer(kind: Type, order: Order) -> Writer:
    code = kind.code
    if code == "a":
        return _array_writer(kind.items[0], order)
    if code in "({":
        return _structure_writer(tuple(_writer(item, order) for item in kind.items))
    return _basic_writer(code, order)


@cache
def _basic_writer(code: str, order: Order) -> Writer:
    """Of a basic type, or of variants."""
    if code == "v":
        return _variant_writer(order)
    if code in "sog":
        return _string_writer(code, PREFIXES[order])
    return _number_writer(PREFIXES[order] + _FORMATS.get(code, "I"), boolean=code == "b")


def _number_writer(form: str, *, boolean: bool) -> Writer:
    pack, size = struct.Struct(form).pack, struct.calcsize(form)

    def write(out: bytearray, value: Any, depth: int) -> None:
        if boolean and not isinstance(value, bool):
            raise InvalidValue(f"{value!r} is no boolean")
        out += bytes(-len(out) % size)
        out += pack(value)

    return write


def _string_writer(code: str, prefix: str) -> Writer:
    length = struct.Struct("B" if code == "g" else f"{prefix}I")
    checks: dict[str, Callable[[str], object]] = {"o": check_path, "g": split}
    check = checks.get(code)

    def write(out: bytearray, value: str, depth: int) -> None:
        text = value.encode() + b"\0"
        if text.find(0) != len(text) - 1:
            raise InvalidValue(f"{value!r} has a zero character")
        if check is not None:
            check(value)
        out += bytes(-len(out) % length.size)
        out += length.pack(len(text) - 1)
        out += text

    return write


def _variant_writer(order: Order) -> Writer:
    signature = _string_writer("g", PREFIXES[order])

    def write(out: bytearray, value: Variant, depth: int) -> None:
        signature(out, value.signature, depth)
        inner = _writer_of(value.signature, order)
        if depth >= MAX_DEPTH:
            raise _unfit_depth()
        inner(out, value.value, depth + 1)

    return write


def _structure_writer(items: tuple[Writer, ...]) -> Writer:
    def write(out: bytearray, value: Any, depth: int) -> None:
        out += bytes(-len(out) & 7)
        if depth >= MAX_DEPTH:
            raise _unfit_depth()
        for item, each in zip(items, value, strict=True):
            item(out, each, depth + 1)

    return write


def _array_writer(element: Type, order: Order) -> Writer:
    pack_size, prefix = struct.Struct(PREFIXES[order] + "I").pack, PREFIXES[order]
    alignment, code = _alignment(element), element.code
    form, item = _FORMATS.get(code), _writer(element, order)

    def write(out: bytearray, value: Any, depth: int) -> None:
        if isinstance(value, str | int):
            raise InvalidValue(f"{value!r} is no array")
        out += bytes(-len(out) & 3)
        place = len(out)
        out += bytes(4)
        out += bytes(-len(out) % alignment)
        start = len(out)
        if code == "y":
            out += bytes(value)
        elif form is not None:
            values = list(value)
            out += struct.pack(f"{prefix}{len(values)}{form}", *values)
        else:
            for each in value.items() if code == "{" else value:
                if depth >= MAX_DEPTH:
                    raise _unfit_depth()
                item(out, each, depth + 1)
        size = len(out) - start
        if size > MAX_ARRAY:
            raise InvalidValue(f"an array of {size} bytes; D-Bus allows {MAX_ARRAY}")
        out[place : place + 4] = pack_size(size)

    return write


def _unfit_depth() -> InvalidValue:
    return InvalidValue(f"more than {MAX_DEPTH} containers within each other")
