# SPDX-License-Identifier: GPL-2.0-or-later
"""Subscribers: which connections of a bus have a match that fits a message.

What fits is decided in `broker.match`. Here it is decided only for whom that has to be asked, as most connections of a
large bus want something else, or nothing, and a broadcast must not look at those:

- Matches of the same rules are kept once, with all who have them. Programs that use the same library ask for the same.
- Each is filed under one trait that a message must have to fit it (`broker.match`): a bit of its bloom filter,
  its sender's id or name, the type of a notification. Only what is filed under the traits of a message is looked at,
  and matches that need no trait.

Alternatives: a tree by all the bits of the masks would look at fewer, but a filter has most traits that its receivers
ask for, or none; deciding once per kind of message, as flows do (`broker.flow`), would need to know which of its
properties the answer depends on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.match import BLOOM_BIT, NOTIFICATION_TYPE, SENDER_ID, SENDER_NAME, Rules, Trait

if TYPE_CHECKING:
    from broker.connection import Connection
    from broker.message import Message

_BY_ID = attrgetter("id")
_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))
"""The numbers of the bits of each byte: a filter of 4 KiB as one number would be gone through in quadratic time."""


class Subscribers:
    """The matches of all connections of one bus.

    Invariant: `_holders` says how often each connection has each list of rules, never 0; `_filed` has every one of
    them once; `_bits` are the bits that it has a file for.
    """

    def __init__(self) -> None:
        self._holders: dict[Rules, dict[Connection, int]] = {}
        self._filed: defaultdict[Trait | None, dict[Rules, None]] = defaultdict(dict)
        self._bits = 0

    def __len__(self) -> int:
        """How many different matches there are."""
        return len(self._holders)

    def add(self, connection: Connection, rules: Rules) -> None:
        """The connection has one more match of these rules."""
        holders = self._holders.get(rules)
        if holders is None:
            holders = self._holders[rules] = {}
            trait = rules.trait
            self._filed[trait][rules] = None
            if trait is not None and trait.kind == BLOOM_BIT:
                self._bits |= 1 << trait.number
        holders[connection] = holders.get(connection, 0) + 1

    def remove(self, connection: Connection, rules: Rules) -> None:
        """It has one less."""
        holders = self._holders[rules]
        holders[connection] -= 1
        if holders[connection]:
            return
        del holders[connection]
        if holders:
            return
        del self._holders[rules]
        trait = rules.trait
        del self._filed[trait][rules]
        if not self._filed[trait]:
            del self._filed[trait]
            if trait is not None and trait.kind == BLOOM_BIT:
                self._bits &= ~(1 << trait.number)

    def wanting(self, message: Message, source: Connection | None) -> list[Connection]:
        """Those with a match that fits `message` from `source` (None: a notification), in the order of their ids."""
        found: set[Connection] = set()
        for trait in self._traits(message, source):
            for rules in self._filed.get(trait, ()):
                if rules.fit(message, source):
                    found.update(self._holders[rules])
        return sorted(found, key=_BY_ID)

    def _traits(self, message: Message, source: Connection | None) -> Iterator[Trait | None]:
        """The traits of a message under which something may be filed, and None."""
        yield None
        if message.notification is not None:
            yield Trait(NOTIFICATION_TYPE, message.notification.type)
        if source is None:
            return
        yield Trait(SENDER_ID, source.id)
        for name in source.names:
            yield Trait(SENDER_NAME, name=name)
        bits = self._bits & (message.bloom_filter or 0)
        for start, byte in enumerate(bits.to_bytes((bits.bit_length() + 7) // 8, "little")):
            for bit in _BITS[byte]:
                yield Trait(BLOOM_BIT, 8 * start + bit)
