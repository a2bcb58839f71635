# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures, parsed into types that know how GVariant lays them out.

Two grammars share one parser. D-Bus's (D-Bus Specification, "Type System") is what messages are made of: no `m`, no
empty structure, dictionary entries as elements of arrays only. GVariant's (GVariant Specification 1.0, section 1) has
all of these. Basic types as keys are demanded by both.

Limits: 255 characters, 32 arrays (and maybes) within each other, 32 structures (and dictionary entries) likewise, which
are D-Bus's. GVariant itself has none, but a type string can come out of a peer's bytes, and whatever is parsed here is
remembered. So these limits hold for both grammars.

What GVariant needs of a type is computed once, when it is parsed: the alignment, and the size if all values of the type
have the same (section 2.5 there). Weakness: a type is remembered by its text, so two equal types parsed from different
signatures are two objects; they compare by what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from kdbus.dbus.errors import InvalidSignature

MAX_LENGTH: Final = 255
"""Characters in a signature (D-Bus Specification, "Valid Signatures")."""
MAX_ARRAYS: Final = 32
"""Arrays within each other in one type."""
MAX_STRUCTURES: Final = 32
"""Structures and dictionary entries within each other in one type."""

FIXED_SIZES: Final = {"y": 1, "b": 1, "n": 2, "q": 2, "i": 4, "u": 4, "h": 4, "x": 8, "t": 8, "d": 8}
"""Bytes of a value in GVariant's form; a boolean has one there (and four in D-Bus's classic form)."""
STRINGS: Final = frozenset("sog")
BASIC: Final = frozenset(FIXED_SIZES) | STRINGS
CONTAINERS: Final = frozenset("am({v")


@dataclass(frozen=True, slots=True)
class Type:
    """One complete type.

    `code` is its first character; `items` are the types inside: none, an array's or maybe's element, the two of a
    dictionary entry, or the members of a structure. `alignment` is in bytes; `size` is in bytes, 0 if values differ in
    size. `weight` is the number of values, this one and those inside, of the type's default value; `depth` the number
    of containers within each other, this one included.
    """

    code: str
    items: tuple[Type, ...] = ()
    alignment: int = field(init=False, compare=False)
    size: int = field(init=False, compare=False)
    weight: int = field(init=False, compare=False)
    depth: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        size, weight = FIXED_SIZES.get(self.code, 0), 1
        depth = (self.code in CONTAINERS) + max((item.depth for item in self.items), default=0)
        alignment = max(1, size)
        if self.code == "v":
            alignment, weight = 8, 2
        elif self.code in "am":
            alignment = self.items[0].alignment
        elif self.code in "({":
            alignment = max((item.alignment for item in self.items), default=1)
            weight += sum(item.weight for item in self.items)
            size = _fixed_size(self.items, alignment)
        object.__setattr__(self, "alignment", alignment)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "depth", depth)

    def __str__(self) -> str:
        """The signature of this type."""
        inner = "".join(map(str, self.items))
        if self.code == "(":
            return f"({inner})"
        return f"{{{inner}}}" if self.code == "{" else self.code + inner


def aligned(position: int, alignment: int) -> int:
    """`position` rounded up to a multiple of `alignment`, which is a power of two."""
    return (position + alignment - 1) & -alignment


def _fixed_size(items: tuple[Type, ...], alignment: int) -> int:
    """The size of a structure whose members all have one (one byte if there are none), else 0."""
    position = 0
    for item in items:
        if not item.size:
            return 0
        position = aligned(position, item.alignment) + item.size
    return aligned(position, alignment) or 1


class _Parser:
    """Walks over one signature; the depth of its recursion is bounded by the limits above."""

    def __init__(self, text: str, gvariant: bool) -> None:
        self._text = text
        self._gvariant = gvariant
        self._position = 0

    def all(self) -> Iterator[Type]:
        while self._position < len(self._text):
            yield self._one(0, 0)

    def _one(self, arrays: int, structures: int, *, element: bool = False) -> Type:
        code = self._take()
        if code in BASIC or code == "v":
            return Type(code)
        if code == "a" or (code == "m" and self._gvariant):
            if arrays == MAX_ARRAYS:
                raise self._wrong(f"more than {MAX_ARRAYS} arrays within each other")
            return Type(code, (self._one(arrays + 1, structures, element=code == "a"),))
        if code in "({" and structures == MAX_STRUCTURES:
            raise self._wrong(f"more than {MAX_STRUCTURES} structures within each other")
        if code == "(":
            items = []
            while not self._at(")"):
                items.append(self._one(arrays, structures + 1))
            self._take()
            if not items and not self._gvariant:
                raise self._wrong("an empty structure")
            return Type(code, tuple(items))
        if code == "{" and (element or self._gvariant):
            key = self._one(arrays, structures + 1)
            if key.code not in BASIC:
                raise self._wrong("a key that is no basic type")
            value = self._one(arrays, structures + 1)
            if self._take() != "}":
                raise self._wrong("a dictionary entry of more than a key and a value")
            return Type(code, (key, value))
        if code == "{":
            raise self._wrong("a dictionary entry outside of an array")
        raise self._wrong(f"{code!r}, which starts no type")

    def _at(self, character: str) -> bool:
        return self._text.startswith(character, self._position)

    def _take(self) -> str:
        if self._position == len(self._text):
            raise InvalidSignature(f"the signature {self._text!r} ends within a type")
        self._position += 1
        return self._text[self._position - 1]

    def _wrong(self, reason: str) -> InvalidSignature:
        return InvalidSignature(f"the signature {self._text!r} has {reason}, before character {self._position}")


@lru_cache(maxsize=1024)
def _parsed(text: str, gvariant: bool) -> tuple[Type, ...]:
    return tuple(_Parser(text, gvariant).all())


def split(signature: str, *, gvariant: bool = False) -> tuple[Type, ...]:
    """The complete types of a signature such as "sa{sv}", in order; none for the empty one.

    `gvariant` admits what GVariant has and D-Bus has not. Raises InvalidSignature.
    """
    if len(signature) > MAX_LENGTH:
        raise InvalidSignature(f"a signature of {len(signature)} characters; D-Bus allows {MAX_LENGTH}")
    return _parsed(signature, gvariant)


def single(signature: str, *, gvariant: bool = False) -> Type:
    """The type of a signature that is one complete type. Raises InvalidSignature, also for none and for several."""
    types = split(signature, gvariant=gvariant)
    if len(types) != 1:
        raise InvalidSignature(f"the signature {signature!r} is not one complete type")
    return types[0]
