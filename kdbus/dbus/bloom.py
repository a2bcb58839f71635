# SPDX-License-Identifier: GPL-2.0-or-later
"""Bloom filters as sd-bus makes them, so that its matches fit our signals and ours fit its.

Source: what sd-bus did (systemd 209 to 231, bus-bloom.c and bus-kernel.c). kdbus compares filters and masks bit by bit
and does not know what they mean, so clients had to agree; GLib and libdbus took over what sd-bus had.

*Hashing.* An entry is a text such as "member:Changed". For each of k bits, the next w bytes (w: as many as can count
the filter's bits, two for the usual 512) are taken from a stream, big-endian, modulo the filter's size in bits. The
stream is the entry's SipHash-2-4 with the first of eight fixed keys, eight bytes in SipHash's own little-endian order,
then that with the second key, and so on. With 64 bytes and 8 hashes, which sd-bus's buses have, two keys are used. Bit
n of a filter is bit n % 64 of its 64-bit word n // 64; in bytes, bit n % 8 of byte n // 8.

*Entries* of a signal, each once:

    message-type:signal
    interface:I   member:M   path:P   path-slash-prefix:X   for P and everything that a slash ends or follows in it
    argN:S   argN-dot-prefix:X   argN-slash-prefix:X        for each leading argument that is a string, path, signature
    argN-has:S                                              for each element, if it is an array of those

up to the first argument of another type, and 64 of them. "/a/b" has the prefixes "/a/b", "/a/", "/a" and "/".

*A difference.* The sd-bus of 2015 stops after the first argument that is a string, by mistake (an `else` at the wrong
`if`). Here all of them are entries, as was meant: a filter with more bits fits all masks that one with fewer fits. For
the same mistake, masks should not ask for later arguments (`kdbus.dbus.rule` does not).

SipHash comes from the package siphash24, which the extra `dbus` installs; it is imported when the first entry is
hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from kdbus.dbus.errors import InvalidValue
from kdbus.dbus.message import Message, MessageType
from kdbus.dbus.signature import STRINGS, split

SIZE: Final = 64
"""Bytes of a filter on the buses that sd-bus made."""
HASHES: Final = 8
"""Bits per entry there."""
MAX_ARGUMENTS: Final = 64

_KEYS: Final = tuple(
    bytes.fromhex(key)
    for key in (
        "b9660bf0467047c18875c49c54b9bd15",
        "aaa154a2e0714b39bfe1dd2e9fc54a3b",
        "63fdaebecd824812a16e4126cbfaa0c8",
        "23be452932d2462d82035228fe3717f5",
        "563bbfee5a4f4339afaa9408dff0fc10",
        "3180c873c7ea46d3aa25750f9e4c0929",
        "7df7184b7ba444d5853c06e06553966d",
        "f277e96f93b54e719a0c34883925bf35",
    )
)
_HASH_SIZE: Final = 8

TYPE_NAMES: Final = {
    MessageType.METHOD_CALL: "method_call",
    MessageType.METHOD_RETURN: "method_return",
    MessageType.ERROR: "error",
    MessageType.SIGNAL: "signal",
}
"""What match rules and filters call the types of messages."""


def _width(size: int, hashes: int) -> int:
    """Bytes of the stream per bit. Raises InvalidValue if there are no such filters."""
    if size > 0 and hashes > 0 and size % 8 == 0:
        width = ((size * 8).bit_length() - 1 + 7) // 8
        if hashes * width <= len(_KEYS) * _HASH_SIZE:
            return width
    raise InvalidValue(f"sd-bus has no bloom filters of {size} bytes with {hashes} hashes")


@lru_cache(maxsize=4096)
def _bits(entry: bytes, size: int, hashes: int) -> int:
    """The bits of one entry, as a number whose bit n is bit n of the filter."""
    try:
        from siphash24 import siphash24
    except ImportError as error:
        raise ImportError("bloom filters need siphash24; install kdbus-interposer[dbus]") from error
    width = _width(size, hashes)
    needed = -(-hashes * width // _HASH_SIZE)
    stream = b"".join(siphash24(entry, key=key).digest() for key in _KEYS[:needed])
    bits = 0
    for start in range(0, hashes * width, width):
        bits |= 1 << (int.from_bytes(stream[start : start + width], "big") & (size * 8 - 1))
    return bits


def filter_of_entries(entries: Iterable[str], *, size: int = SIZE, hashes: int = HASHES) -> bytes:
    """The filter or mask with all these entries; `size` in bytes.

    Raises InvalidValue for parameters that sd-bus would refuse: a size of no whole words, or more hashes than the eight
    keys can give; ImportError without siphash24.
    """
    _width(size, hashes)
    bits = 0
    for entry in entries:
        bits |= _bits(entry.encode(), size, hashes)
    return bits.to_bytes(size, "little")


def _prefixes(text: str, separator: str) -> Iterator[str]:
    """The text, and each part of it from the start that a separator ends, or stands behind."""
    yield text
    position = text.rfind(separator)
    while position >= 0:
        yield text[: position + 1]
        if not position:
            return
        yield text[:position]
        position = text.rfind(separator, 0, position)


def entries_of(message: Message) -> Iterator[str]:
    """The entries of a message; some may come twice."""
    yield f"message-type:{TYPE_NAMES[message.type]}"
    if message.interface:
        yield f"interface:{message.interface}"
    if message.member:
        yield f"member:{message.member}"
    if message.path:
        yield f"path:{message.path}"
        yield from (f"path-slash-prefix:{prefix}" for prefix in _prefixes(message.path, "/"))
    arguments = zip(split(message.signature), message.body, strict=True)
    for number, (kind, value) in zip(range(MAX_ARGUMENTS), arguments, strict=False):
        if kind.code in STRINGS:
            yield f"arg{number}:{value}"
            yield from (f"arg{number}-dot-prefix:{prefix}" for prefix in _prefixes(value, "."))
            yield from (f"arg{number}-slash-prefix:{prefix}" for prefix in _prefixes(value, "/"))
        elif kind.code == "a" and kind.items[0].code in STRINGS:
            yield from (f"arg{number}-has:{element}" for element in value)
        else:
            return


def filter_of(message: Message, *, size: int = SIZE, hashes: int = HASHES) -> bytes:
    """The filter of a signal, for a bus with filters of that size and number of hashes. Raises as
    `filter_of_entries`."""
    return filter_of_entries(entries_of(message), size=size, hashes=hashes)
