# SPDX-License-Identifier: GPL-2.0-or-later
"""What the clients of a socket share: guards, monitors, and what statistics are made of.

Statistics are those of `org.freedesktop.DBus.Debug.Stats`, which dbus-daemon has beside the D-Bus Specification. They
count the clients of the socket, as programs that speak kdbus add their matches elsewhere. Of what waits for a client,
its own queue is counted, not what waits in the bus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol

from bridge.failures import FAILED
from bridge.guard import Guards
from bridge.rules import Policy
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import Message
from kdbus.dbus.rule import Rule
from kdbus.dbus.values import Variant


class Watcher(Protocol):
    """One that is shown what the driver is told, and says."""

    def show(self, message: Message) -> None:
        """Take a message."""


class Queue(Protocol):
    """What a client has not read yet."""

    unread: int
    most_unread: int

    @property
    def messages(self) -> int: ...


class Record:
    """What is counted of a client: its match rules, the names that it owns or waits for, what it has not read."""

    def __init__(self, name: str, rules: Collection[Rule], claims: Collection[str], queue: Queue) -> None:
        """`rules`, `claims` and `queue` are looked at when they are counted."""
        self.name = name
        self.rules = rules
        self.claims = claims
        self.queue = queue
        self.most_rules = 0
        self.most_names = 1
        self.largest = 0

    def count(self) -> None:
        """Note the peaks."""
        self.most_rules = max(self.most_rules, len(self.rules))
        self.most_names = max(self.most_names, 1 + len(self.claims))

    def statistics(self) -> dict[str, Variant]:
        """For people, by dbus-daemon's names. Nothing of what the client sends waits here."""
        numbers = {
            "Serial": 0,
            "MatchRules": len(self.rules),
            "PeakMatchRules": self.most_rules,
            "BusNames": 1 + len(self.claims),
            "PeakBusNames": self.most_names,
        }
        queue = self.queue
        sizes = {
            "IncomingMessages": 0,
            "IncomingBytes": 0,
            "IncomingFDs": 0,
            "PeakIncomingBytes": self.largest,
            "PeakIncomingFDs": 0,
            "OutgoingMessages": queue.messages,
            "OutgoingBytes": queue.unread,
            "OutgoingFDs": 0,
            "PeakOutgoingBytes": queue.most_unread,
            "PeakOutgoingFDs": 0,
        }
        return _counted(numbers) | {"UniqueName": Variant("s", self.name)} | _counted(sizes)


class House:
    """Of one socket. `users`: how many clients each user has; `strangers`: how many have not said Hello;
    `listeners`: the match rules of each client, by the id of its connection."""

    def __init__(
        self,
        policy: Policy | None = None,
        reread: Callable[[], Policy] | None = None,
        reload_services: Callable[[], None] = lambda: None,
    ) -> None:
        """`reread`: reads the policy once more, or raises an exception whose text says why it cannot be;
        `reload_services`: has what is started for names read once more, and may raise Error."""
        self.guards = None if policy is None else Guards(policy)
        self.users: Counter[int] = Counter()
        self.strangers = 0
        self.watchers: list[Watcher] = []
        self.listeners: dict[int, list[Rule]] = {}
        self._reread = reread
        self._reload_services = reload_services
        self._records: dict[str, Record] = {}
        self._most: Counter[str] = Counter()

    def may_want(self, identifier: int, message: Message, owned: Collection[str]) -> bool:
        """Whether a connection may want a signal to all: clients if they have a rule for it, others in any case."""
        rules = self.listeners.get(identifier)
        return rules is None or any(rule.fits(message, owned) for rule in rules)

    def show(self, message: Message) -> None:
        """Show a message, which does not pass over the bus, to those who watch."""
        for watcher in self.watchers:
            watcher.show(message)

    def reload(self) -> None:
        """Read the policy once more, and what is started for names. Raises ErrorReply, and then all stays as it was;
        and Error."""
        if self.guards is not None and self._reread is not None:
            try:
                policy = self._reread()
            except Exception as error:
                raise ErrorReply(FAILED, str(error)) from error
            self.guards.replace(policy)
        self._reload_services()

    # ---- statistics

    def add(self, record: Record) -> None:
        """A new client."""
        self._records[record.name] = record
        self.count(record)

    def remove(self, record: Record) -> None:
        """It has gone."""
        del self._records[record.name]

    def count(self, record: Record) -> None:
        """Its rules or names have changed."""
        record.count()
        for name, number in self._sums().items():
            self._most[name] = max(self._most[name], number)

    def statistics(self) -> dict[str, Variant]:
        """Of all clients."""
        sums, records = self._sums(), self._records.values()
        return _counted(
            {
                "Serial": 0,
                # Memory that dbus-daemon has for lists.
                **dict.fromkeys(("ListMemPoolUsedBytes", "ListMemPoolCachedBytes", "ListMemPoolAllocatedBytes"), 0),
                "ActiveConnections": len(records),
                "IncompleteConnections": self.strangers,
                "MatchRules": sums["MatchRules"],
                "PeakMatchRules": self._most["MatchRules"],
                "PeakMatchRulesPerConnection": max((record.most_rules for record in records), default=0),
                "BusNames": sums["BusNames"],
                "PeakBusNames": self._most["BusNames"],
                "PeakBusNamesPerConnection": max((record.most_names for record in records), default=0),
            }
        )

    def record(self, name: str) -> Record | None:
        """Of the client with a unique name."""
        return self._records.get(name)

    def match_rules(self) -> dict[str, list[str]]:
        """By the client's unique name, its match rules, the newest first."""
        return {name: [str(rule) for rule in reversed([*record.rules])] for name, record in self._records.items()}

    def _sums(self) -> dict[str, int]:
        records = self._records.values()
        return {
            "MatchRules": sum(len(record.rules) for record in records),
            "BusNames": sum(1 + len(record.claims) for record in records),
        }


def _counted(numbers: dict[str, int]) -> dict[str, Variant]:
    return {name: Variant("u", number) for name, number in numbers.items()}
