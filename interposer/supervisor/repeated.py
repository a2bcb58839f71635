# SPDX-License-Identifier: GPL-2.0-or-later
"""What is repeated: between whom messages have passed lately, and which signals; bounded, the last ones count.

Whatever is lent, the engine has to be told anew which flows there are (`broker.flow`). That takes time for each of
them, so only those are told that have been used: pairs of connections, whatever the one calls the other; and
signals, by their sender and their topic, which is whom they are for and what their filter says.

Whoever was asked will answer, so the way back is told as well, for replies alone. Or a service of two hundred clients
would need the broker for its first answer to each of them, and each time everything would be taken back.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from broker.connection import Connection
from broker.flow import Flow, Signal, Topic, flow, reply_flow, signal
from broker.interfaces import Credentials

_PER_CONNECTION = 4
"""How many pairs are remembered, for each connection that is busy."""
MOST_PAIRS = 2048
"""How many in all. Each may need two flows: there and back (`LENT_FLOWS`)."""
MOST_SIGNALS = 256
"""How many kinds of signals are remembered, each a sender and a topic."""
MOST_LISTENERS = 4096
"""How many receivers they may have in all, to be told again."""


class Way(NamedTuple):
    """A flow from one lent connection to another; `who`: the sender that it was found for, None for whomever."""

    source: Connection
    destination: Connection
    flow: Flow
    who: Credentials | None


class Kind(NamedTuple):
    """A signal, by its sender and its topic, and who gets it."""

    source: Connection
    topic: Topic
    found: Signal


class Repeated:
    """Pairs and signals."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[Connection, Connection], Credentials] = {}
        """Who sent, by sender and receiver; the one used last is the last."""
        self._signals: dict[tuple[Connection, Topic], None] = {}

    def sent(self, source: Connection, destination: Connection, who: Credentials, busy: int) -> None:
        """`who` has sent a message; `busy`: how many connections there are that were used lately."""
        pair = source, destination
        self._pairs.pop(pair, None)
        self._pairs[pair] = who
        while len(self._pairs) > min(_PER_CONNECTION * (_PER_CONNECTION + busy), MOST_PAIRS):
            del self._pairs[next(iter(self._pairs))]

    def signalled(self, source: Connection, about: Topic) -> None:
        """A signal of that topic was sent."""
        kind = source, about
        self._signals.pop(kind, None)
        self._signals[kind] = None
        if len(self._signals) > MOST_SIGNALS:
            del self._signals[next(iter(self._signals))]

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        for pair in [pair for pair in self._pairs if connection in pair]:
            del self._pairs[pair]
        for kind in [kind for kind in self._signals if kind[0] is connection]:
            del self._signals[kind]

    def ways(self, lent: Container[Connection]) -> list[Way]:
        """The flows between connections that are lent together: for each pair there, and back if that is no pair of its
        own."""
        found: list[Way] = []
        for (source, destination), who in self._pairs.items():
            if source not in lent or destination not in lent:
                continue
            way = flow(source, destination, who)
            if way is None:
                continue
            found.append(Way(source, destination, way, who))
            if (destination, source) not in self._pairs:
                found.append(Way(destination, source, reply_flow(destination, source), None))
        return found

    def kinds(self, lent: Container[Connection]) -> list[Kind]:
        """The signals of which sender and all receivers are lent, as many as may be told."""
        chosen: list[Kind] = []
        room = MOST_LISTENERS
        for source, about in reversed(self._signals):
            if source in lent:
                found = signal(source, about)
                if found is None:
                    continue
                room -= 1 + len(found.receivers)
                if room < 0:
                    break
                if all(receiver in lent for receiver, _ in found.receivers):
                    chosen.append(Kind(source, about, found))
        return chosen
