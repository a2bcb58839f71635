# SPDX-License-Identifier: GPL-2.0-or-later
"""How names are spelt: well-known names, and names of nodes and descriptions.

Whom a well-known name belongs to is in `broker.names`; here are only letters.
"""

from __future__ import annotations

from broker import limits
from broker.errors import BadName

LETTERS = frozenset(range(0x41, 0x5B)) | frozenset(range(0x61, 0x7B)) | frozenset(range(0xC0, 0x100)) - {0xD7, 0xF7}
"""What the kernel's `isalpha` takes: ASCII and Latin-1 letters (lib/ctype.c)."""
DIGITS = frozenset(b"0123456789")


def is_valid_name(name: bytes, *, wildcard: bool) -> bool:
    """Whether `name` is a well-known name.

    Two or more elements of letters (`LETTERS`), digits, `_` and `-`, separated by dots; none is empty or
    begins with a digit; at most 255 bytes in all. With `wildcard`, the last element may be `*`.
    """
    if len(name) > limits.NAME_LENGTH:
        return False
    elements = name.split(b".")
    if len(elements) < 2:
        return False
    if wildcard and elements[-1] == b"*":
        elements.pop()
    return all(_is_element(element) for element in elements)


_FIRST = LETTERS | frozenset(b"_-")
_FURTHER = _FIRST | DIGITS


def _is_element(element: bytes) -> bool:
    return bool(element) and element[0] in _FIRST and _FURTHER.issuperset(element)


def check_node_name(name: bytes) -> None:
    """A bus, endpoint or description: letters, digits and `_`, and inside also `-` and `.`.

    Raises BadName. Reference: `kdbus_sysname_is_valid` in util.c.
    """
    inner = name[1:-1].replace(b"-", b"_").replace(b".", b"_")
    if not name or not (LETTERS | DIGITS | {0x5F}).issuperset(name[:1] + inner + name[-1:]):
        raise BadName(name=name)
