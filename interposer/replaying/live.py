# SPDX-License-Identifier: GPL-2.0-or-later
"""What the live side has done so far, against what it did when it was recorded.

Its connections get new ids, so each is paired with a recorded one when it connects: of the same bus, and of the same
process name and description if there is one, else the first that is left. What is not a connection's (making buses and
endpoints) is one stream of its own.

For each stream, calls that change something are kept as lines, to be compared at the end, and counted, so that the
player can wait for as many as came before when it was recorded. Messages of the bus itself are not counted: whether
they come depends on who was there first. For the same reason a call that failed, as it often does until somebody is
there, is kept only if no call of that kind failed so when it was recorded, and if the live side did not succeed later
with the same call.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from interposer.replaying.likeness import Renumber, failed_reply, lines, same
from interposer.replaying.script import (
    INTERRUPTED,
    Key,
    Script,
    bus_of,
    is_change,
    is_notification,
    is_received,
    items_of,
)
from kdbus.abi.revision import Kind
from tracing.record import Event, Record

ELSE: Key = ("", 0)
"""The stream of what is no connection's."""
RECEIVED, CLOSED = "RECV", "close"
_CONTEXT = 3


@dataclass(slots=True)
class Entry:
    """One call: its lines, and how it failed."""

    lines: list[str]
    failure: tuple[str, int] | None = None
    reason: str = ""


@dataclass(slots=True)
class Request:
    """A request that the live side has sent, until it is answered."""

    said: list[str]
    cookie: int
    peer: int | None


@dataclass(slots=True)
class Stream:
    """What one connection has done."""

    title: str = ""
    entries: list[Entry] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)


def description(record: Record) -> bytes:
    """What a HELLO says of its connection."""
    return next((content for kind, content in items_of(record) if kind == Kind.CONN_DESCRIPTION), b"")


class Side:
    """One side of the comparison: the live program's calls, then or now."""

    def __init__(self, masks: Sequence[re.Pattern[str]]) -> None:
        self._masks = masks
        self.streams: dict[Key, Stream] = {ELSE: Stream("what the live side did without a connection")}

    def stream(self, key: Key) -> Stream:
        return self.streams.setdefault(key, Stream())

    def take(self, record: Record, key: Key, renumber: Renumber) -> list[str]:
        """Count and keep a record of a stream; the lines of its call, if it is one."""
        stream = self.stream(key)
        if record.event is Event.CLOSE:
            stream.count[CLOSED] += 1
        elif is_received(record):
            if not is_notification(record):
                stream.count[RECEIVED] += 1
        elif failed_reply(record):
            if record.errno != INTERRUPTED:
                self._fail(stream, record, ["SEND waits for its reply"])
        elif is_change(record):
            said = lines(record, renumber, self._masks)
            if record.errno:
                self._fail(stream, record, said)
            else:
                stream.entries.append(Entry(said))
                stream.count[record.command] += 1
                return said
        return []

    @staticmethod
    def _fail(stream: Stream, record: Record, said: list[str]) -> None:
        stream.entries.append(Entry(said, (record.command, record.errno), record.reason))


class Recorded(Side):
    """What the live side did when it was recorded."""

    def __init__(self, script: Script, played: set[Key], masks: Sequence[re.Pattern[str]]) -> None:
        super().__init__(masks)
        self.hellos: dict[Key, Record] = {}
        self.requests: dict[tuple[Key, int], list[str]] = {}
        """What was said in the latest request, by who sent it and its cookie."""
        for key, peer in script.peers.items():
            if key not in played:
                self.stream(key).title = str(peer)

    def take(self, record: Record, key: Key, renumber: Renumber = same) -> list[str]:
        """The next record. To be called for all records, in their order."""
        if record.command == "HELLO" and not record.errno:
            self.hellos[key] = record
        said = super().take(record, key, renumber)
        if record.command == "SEND" and said:
            self.requests[key, cookie_of(record)] = said
        return said

    def failures(self, key: Key) -> set[tuple[str, int]]:
        """How calls of a stream have failed."""
        return {entry.failure for entry in self.stream(key).entries if entry.failure is not None}


def cookie_of(record: Record) -> int:
    """The cookie of a message that is sent."""
    return int.from_bytes(record.message[48:56], "little")


class Live(Side):
    """What the live side does now."""

    def __init__(
        self,
        waiting: Sequence[tuple[Key, Record]],
        masks: Sequence[re.Pattern[str]],
        bus_then: Callable[[str], str],
    ) -> None:
        """`waiting`: the HELLOs of the recorded live side, in their order. `bus_then`: a bus's name when recorded."""
        super().__init__(masks)
        self._waiting = list(waiting)
        self._bus_then = bus_then
        self._then: dict[Key, Key] = {}
        self._now: dict[Key, int] = {}
        self._connected: set[Key] = set()
        """Live connections, by their ids of now. Nobody's number comes with a close."""

    def pair(self, key: Key, number: int) -> None:
        """A recorded connection has the id `number` now."""
        self._now[key] = number
        self._then[key[0], number] = key

    def now(self, key: Key) -> int | None:
        """The id that a recorded connection has now; None if it is not there."""
        return self._now.get(key)

    def hear(self, record: Record) -> None:
        """The next record of the live side."""
        bus = self._bus_then(bus_of(record))
        key = ELSE
        if record.event is Event.CLOSE and (bus, record.connection) not in self._connected:
            return
        if record.connection is not None:
            place = bus, record.connection
            if record.command == "HELLO" and not record.errno:
                self._connect(place, record)
            key = self._then.get(place, place)
        said = self.take(record, key, lambda number: self._then.get((bus, number), (bus, number))[1])
        if said and record.command == "SEND" and int.from_bytes(record.message[8:16], "little") & 1:
            self.stream(key).requests.append(Request(said, cookie_of(record), record.peer))

    def _connect(self, place: Key, record: Record) -> None:
        """Pair a new connection."""
        self._connected.add(place)
        left = [(key, hello) for key, hello in self._waiting if key[0] == place[0]]
        alike = [(key, hello) for key, hello in left if hello.comm == record.comm]
        exact = [(key, hello) for key, hello in alike if description(hello) == description(record)]
        found = next(iter(exact or alike or left), None)
        if found is None:
            self._then[place] = place[0], -place[1]
            self.stream(self._then[place]).title = f"connection {place[1]} on {place[0]} ({record.comm}), a new one"
            return
        self._waiting.remove(found)
        self.pair(found[0], place[1])

    def request(self, key: Key, said: Sequence[str], peer: int) -> int | None:
        """The cookie of a request of a stream to `peer` that is not answered yet: one that says the same as was
        recorded, or else the first; None if there is none."""
        requests = self.stream(key).requests
        mine = [request for request in requests if request.peer == peer]
        found = next((request for request in mine if request.said == said), None) or next(iter(mine), None)
        if found is None:
            return None
        requests.remove(found)
        return found.cookie


def differences(recorded: Recorded, live: Live) -> Iterator[tuple[str, list[str]]]:
    """Where the two differ: whose calls, and the lines of a unified diff."""
    for key in [*recorded.streams, *(key for key in live.streams if key not in recorded.streams)]:
        then, now = recorded.stream(key), live.stream(key)
        known = recorded.failures(key)
        before = [line for entry in then.entries if entry.failure is None for line in entry.lines]
        after = list(_kept(now.entries, known))
        if before != after:
            found = list(difflib.unified_diff(before, after, "recorded", "now", n=_CONTEXT, lineterm=""))
            yield then.title or now.title, found


def _kept(entries: Sequence[Entry], known: set[tuple[str, int]]) -> Iterator[str]:
    succeeded = [entry.lines for entry in entries if entry.failure is None]
    for entry in entries:
        if entry.failure is None:
            yield from entry.lines
        elif entry.failure not in known and entry.lines not in succeeded:
            yield from entry.lines
            yield f"    fails: {entry.reason}"
