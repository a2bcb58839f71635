# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules of matches: which broadcasts and notifications a connection wants.

A match (`Connection.add_match`) has any number of rules, and all of them must hold. Rules about senders and bloom
filters never hold for notifications, those about notifications never for messages.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kdbus.abi.revision import Kind
from kdbus.flags import ANY


@dataclass(frozen=True, slots=True)
class Bloom:
    """Messages whose bloom filter has all bits of the mask: of the mask whose index is the filter's generation, or of
    the last one. Each mask is as long as the bus's filters."""

    masks: Sequence[bytes]

    @property
    def item(self) -> tuple[Kind, bytes]:
        """Kind and content of the rule's item; so for all rules."""
        return Kind.BLOOM_MASK, b"".join(self.masks)


@dataclass(frozen=True, slots=True)
class FromId:
    """Messages from one connection, or ANY."""

    id: int

    @property
    def item(self) -> tuple[Kind, bytes]:
        return Kind.ID, _u64(self.id)


@dataclass(frozen=True, slots=True)
class FromName:
    """Messages from whoever owns the name at the time."""

    name: str

    @property
    def item(self) -> tuple[Kind, bytes]:
        return Kind.NAME, text(self.name)


@dataclass(frozen=True, slots=True)
class ToId:
    """Signals that were sent to one connection; the final revision only."""

    id: int

    @property
    def item(self) -> tuple[Kind, bytes]:
        return Kind.DST_ID, _u64(self.id)


@dataclass(frozen=True, slots=True)
class NameAppears:
    """Notifications that a name, or any, got an owner."""

    name: str | None = None
    new_id: int = ANY

    @property
    def item(self) -> tuple[Kind, bytes]:
        return Kind.NAME_ADD, _change(ANY, self.new_id, self.name)


@dataclass(frozen=True, slots=True)
class NameVanishes:
    """Notifications that a name, or any, has no owner any more."""

    name: str | None = None
    old_id: int = ANY

    @property
    def item(self) -> tuple[Kind, bytes]:
        return Kind.NAME_REMOVE, _change(self.old_id, ANY, self.name)


@dataclass(frozen=True, slots=True)
class NameChangesHands:
    """Notifications that a name, or any, went from one connection to another."""

    name: str | None = None
    old_id: int = ANY
    new_id: int = ANY

    @property
    def item(self) -> tuple[Kind, bytes]:
        return Kind.NAME_CHANGE, _change(self.old_id, self.new_id, self.name)


@dataclass(frozen=True, slots=True)
class IdAppears:
    """Notifications that a connection, or any, came."""

    id: int = ANY

    @property
    def item(self) -> tuple[Kind, bytes]:
        return Kind.ID_ADD, struct.pack("<2Q", self.id, 0)


@dataclass(frozen=True, slots=True)
class IdLeaves:
    """Notifications that a connection, or any, went."""

    id: int = ANY

    @property
    def item(self) -> tuple[Kind, bytes]:
        return Kind.ID_REMOVE, struct.pack("<2Q", self.id, 0)


MatchRule: TypeAlias = (
    Bloom | FromId | FromName | ToId | NameAppears | NameVanishes | NameChangesHands | IdAppears | IdLeaves
)


def text(value: str) -> bytes:
    """A string as items have it. ValueError: it has a zero character, which would end it early."""
    if "\0" in value:
        raise ValueError(f"a zero character in {value!r}")
    return value.encode(errors="surrogateescape") + b"\0"


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def _change(old: int, new: int, name: str | None) -> bytes:
    return struct.pack("<4Q", old, 0, new, 0) + (b"" if name is None else text(name))
