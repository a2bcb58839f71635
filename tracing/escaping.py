# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes of a traced program as text that cannot be taken for anything else.

A trace goes to terminals and into files that are read line by line, and what stands in it is chosen by the programs
that are traced. So nothing of theirs is printed as it is: control characters, newlines, quotes and everything beyond
ASCII are escaped as in a C string, which is what strace does and what people can paste into a test.
"""

from __future__ import annotations

_SHORT = {0x09: "\\t", 0x0A: "\\n", 0x0B: "\\v", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}


_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte not in _SHORT)
"""What stands for itself."""


def _escape(byte: int, following: int) -> str:
    if byte in _SHORT:
        return _SHORT[byte]
    if 0x20 <= byte < 0x7F:
        return chr(byte)
    # A digit that follows would be read as part of a shorter octal number.
    return f"\\{byte:03o}" if 0x30 <= following <= 0x37 else f"\\{byte:o}"


def escaped(data: bytes) -> str:
    """The bytes as the inside of a C string; only printable ASCII comes out."""
    if not data.translate(None, _PLAIN):
        return data.decode("ascii")
    return "".join(_escape(byte, following) for byte, following in zip(data, data[1:] + b"\0", strict=True))


LONGEST_NAME = 255
"""Bytes of a name, of kdbus or of D-Bus, that are shown however little is shown of strings: as many as it may have."""


def quoted(data: bytes, limit: int, *, hexadecimal: bool = False) -> str:
    """The first `limit` bytes as a C string in quotes, with "..." behind it if that is not all.

    `hexadecimal`: every byte as `\\xNN`.
    """
    shown = data[:limit]
    text = "".join(f"\\x{byte:02x}" for byte in shown) if hexadecimal else escaped(shown)
    return f'"{text}"' + ("..." if len(data) > limit else "")


def count_of(count: int, what: str) -> str:
    """ "1 call", "2 calls"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def harmless(text: str) -> str:
    """Text that is escaped already where that matters; what is not printable ASCII is escaped all the same."""
    return "".join(each if " " <= each <= "~" else each.encode("unicode_escape").decode() for each in text)
