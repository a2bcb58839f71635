# SPDX-License-Identifier: GPL-2.0-or-later
"""Matches: which broadcasts, signals and notifications a connection wants.

A match is a cookie and a list of rules. A message fits a match when all its rules hold, and reaches the connection
when any match fits; a match without rules fits everything. Rules about senders (bloom mask, id, name) never hold for
notifications, and rules about notifications never hold for messages of connections.

Bloom filters: a signal carries a bit field that its sender made of the signal's properties, and a *generation*
number. A rule carries one mask per generation; the one of the signal's generation, or else the last, must be
contained in the filter. What bits mean is between programs; the bus knows only the size, which is fixed when the bus
is made.

For whom a message is looked at in this way is in `broker.subscribers`: each rule names, next to what it holds for, one
*trait* without which it does not. Reference: ipc/kdbus/match.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, NamedTuple

from broker import bounds
from broker.errors import BadItem, BadName, BloomSizeMismatch, NoSuchMatch, TooManyMatches
from broker.item import Item
from broker.naming import is_valid_name
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.connection import Connection
    from broker.message import Message
    from broker.subscribers import Subscribers

NOTIFICATION_TYPE, SENDER_ID, SENDER_NAME, BLOOM_BIT = range(4)
"""Kinds of traits: those that fewer messages have come first."""


class Trait(NamedTuple):
    """Something that a message may have: by its kind, an item type, an id, a name, or the number of a bit."""

    kind: int
    number: int = 0
    name: bytes = b""


@dataclass(frozen=True, slots=True)
class BloomRule:
    """The message's filter contains the mask of its generation."""

    masks: tuple[int, ...]

    @property
    def trait(self) -> Trait | None:
        common = reduce(and_, self.masks)
        return Trait(BLOOM_BIT, (common & -common).bit_length() - 1) if common else None

    def holds(self, message: Message, source: Connection) -> bool:
        if message.bloom_filter is None:
            return False
        mask = self.masks[min(message.bloom_generation, len(self.masks) - 1)]
        return message.bloom_filter & mask == mask


@dataclass(frozen=True, slots=True)
class SourceIdRule:
    """The message comes from a connection of that id."""

    id: int

    @property
    def trait(self) -> Trait | None:
        return None if self.id == abi.MATCH_ANY_ID else Trait(SENDER_ID, self.id)

    def holds(self, message: Message, source: Connection) -> bool:
        return self.id in (source.id, abi.MATCH_ANY_ID)


@dataclass(frozen=True, slots=True)
class DestinationIdRule:
    """The message is addressed to that id, as it was sent: a broadcast to the highest, one to a name to 0."""

    id: int

    @property
    def trait(self) -> Trait | None:
        return None

    def holds(self, message: Message, source: Connection) -> bool:
        return self.id in (message.destination, abi.MATCH_ANY_ID)


@dataclass(frozen=True, slots=True)
class SourceNameRule:
    """The message comes from the owner of the name."""

    name: bytes

    @property
    def trait(self) -> Trait:
        return Trait(SENDER_NAME, name=self.name)

    def holds(self, message: Message, source: Connection) -> bool:
        return self.name in source.names


@dataclass(frozen=True, slots=True)
class NotificationRule:
    """A notification of that item type, about these connections and this name; None stands for any."""

    type: int
    old_id: int | None
    new_id: int | None
    name: bytes | None

    @property
    def trait(self) -> Trait:
        return Trait(NOTIFICATION_TYPE, self.type)

    def holds(self, message: Message) -> bool:
        about = message.notification
        return (
            about is not None
            and about.type == self.type
            and self.old_id in (None, about.old_id)
            and self.new_id in (None, about.new_id)
            and (self.name is None or about.name is None or self.name == about.name)
        )


Rule = BloomRule | SourceIdRule | DestinationIdRule | SourceNameRule | NotificationRule


def _specific(number: int) -> int | None:
    return None if number == abi.MATCH_ANY_ID else number


def _bloom_rule(entry: Item, bloom_size: int) -> BloomRule:
    payload = entry.payload
    if len(payload) < bloom_size or len(payload) % bloom_size:
        raise BloomSizeMismatch(item=entry, kind=entry.type, count=len(payload), limit=bloom_size)
    starts = range(0, len(payload), bloom_size)
    return BloomRule(tuple(int.from_bytes(payload[start : start + bloom_size], "little") for start in starts))


def parse_rule(entry: Item, bloom_size: int) -> Rule:
    """The rule that one item of MATCH_ADD describes.

    Raises BloomSizeMismatch, BadName, or BadItem for a type that is no rule.
    """
    if entry.type == Kind.BLOOM_MASK:
        return _bloom_rule(entry, bloom_size)
    if entry.type == Kind.NAME:
        if not is_valid_name(entry.text(), wildcard=False):
            raise BadName(item=entry, kind=entry.type, name=entry.text())
        return SourceNameRule(entry.text())
    if entry.type == Kind.ID:
        return SourceIdRule(entry.u64())
    if entry.type == Kind.DST_ID:
        return DestinationIdRule(entry.u64())
    if entry.type in (Kind.NAME_ADD, Kind.NAME_REMOVE, Kind.NAME_CHANGE):
        # struct kdbus_notify_name_change: old id, old flags, new id, new flags, name
        name = entry.payload[32:].rstrip(b"\0") if len(entry.payload) > 32 else None
        return NotificationRule(entry.type, _specific(entry.u64(0)), _specific(entry.u64(2)), name)
    if entry.type == Kind.ID_ADD:
        return NotificationRule(entry.type, None, _specific(entry.u64()), None)
    if entry.type == Kind.ID_REMOVE:
        return NotificationRule(entry.type, _specific(entry.u64()), None, None)
    raise BadItem(item=entry, kind=entry.type, rule="not a rule of a match")


class Rules:
    """What one match asks for. Equal are those that were described by the same items.

    `trait`: one of all messages that fit, and of as few others as possible; None if there is none.
    """

    __slots__ = ("_described", "_rules", "size", "trait")

    def __init__(self, items: list[Item], bloom_size: int) -> None:
        """`size`: their bytes as items. Raises what `parse_rule` raises."""
        self._rules = [parse_rule(entry, bloom_size) for entry in items]
        self.size = sum(len(entry.payload) for entry in items)
        # Compared as bytes: their hash is not for programs to foresee, while they can choose numbers of equal hashes.
        self._described = tuple(items)
        self.trait = min((trait for trait in (rule.trait for rule in self._rules) if trait is not None), default=None)

    def __len__(self) -> int:
        return len(self._rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self._described == other._described

    def __hash__(self) -> int:
        return hash(self._described)

    def fit(self, message: Message, source: Connection | None) -> bool:
        """Whether all hold for `message` from `source` (None: a notification of the bus)."""
        return all(_holds(rule, message, source) for rule in self._rules)


def _holds(rule: Rule, message: Message, source: Connection | None) -> bool:
    if isinstance(rule, NotificationRule):
        return source is None and rule.holds(message)
    return source is not None and rule.holds(message, source)


class Match(NamedTuple):
    """Rules that were added together."""

    cookie: int
    rules: Rules


class MatchDatabase:
    """The matches of one connection, in the order in which they were added."""

    def __init__(self, connection: Connection, subscribers: Subscribers) -> None:
        """`subscribers` is told of all that come and go."""
        self._connection = connection
        self._subscribers = subscribers
        self._matches: list[Match] = []

    def __len__(self) -> int:
        return len(self._matches)

    def add(self, cookie: int, items: list[Item], bloom_size: int, *, replace: bool) -> None:
        """Add a match; with `replace`, remove those of the same cookie first.

        Raises what `parse_rule` raises, and TooManyMatches; nothing has changed then.
        """
        added = Match(cookie, Rules(items, bloom_size))
        gone = self._of(cookie) if replace else []
        wanted = [*(match for match in self._matches if not (replace and match.cookie == cookie)), added]
        limit = self._connection.behaviour.matches_per_connection
        if len(wanted) > limit:
            raise TooManyMatches(count=len(wanted), limit=limit, unit="matches")
        count = sum(len(match.rules) for match in wanted)
        if count > bounds.RULES_PER_CONNECTION:
            raise TooManyMatches(count=count, limit=bounds.RULES_PER_CONNECTION, unit="rules")
        count = sum(match.rules.size for match in wanted)
        if count > bounds.RULE_BYTES_PER_CONNECTION:
            raise TooManyMatches(count=count, limit=bounds.RULE_BYTES_PER_CONNECTION, unit="bytes of rules")
        for match in gone:
            self._subscribers.remove(self._connection, match.rules)
        self._subscribers.add(self._connection, added.rules)
        self._matches = wanted

    def remove(self, cookie: int) -> None:
        """Remove all matches of that cookie. Raises NoSuchMatch."""
        gone = self._of(cookie)
        if not gone:
            raise NoSuchMatch(cookie=cookie)
        for match in gone:
            self._subscribers.remove(self._connection, match.rules)
        self._matches = [match for match in self._matches if match.cookie != cookie]

    def _of(self, cookie: int) -> list[Match]:
        return [match for match in self._matches if match.cookie == cookie]

    def clear(self) -> None:
        """Remove all matches: the connection has ended."""
        for match in self._matches:
            self._subscribers.remove(self._connection, match.rules)
        self._matches = []

    def fits(self, message: Message, source: Connection | None) -> bool:
        """Whether any match fits `message` from `source` (None: a notification of the bus)."""
        return any(match.rules.fit(message, source) for match in self._matches)
