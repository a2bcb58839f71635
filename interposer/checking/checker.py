# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker: follows each connection from HELLO to its last close, and says what is wrong.

What a connection holds (slices, requests to be replied to, names, matches) is known from its calls that succeeded, so
it is known however the program ends: by itself, by a signal, or without cleaning up. A connection that is still open
when everything ends, or that the end of its bus has cut off, had no chance to give back what it holds, and is not
judged; unless its own process has closed the bus, as each does that ends, and which of its descriptors the kernel
closes first says nothing.

A process that forks shares its connections: what one of them frees is freed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.recognition import named
from interposer.checking import differences
from interposer.checking.findings import Findings
from kdbus.abi.decode import Flags, Named, Text, struct_of
from kdbus.abi.layout import U64, align8
from kdbus.abi.revision import REVISIONS
from tracing.errnos import errno_name
from tracing.record import Event, Phase, Record
from tracing.shown import Shown, items_of, show
from tracing.text import said

_REVISIONS = {revision.name: revision for revision in REVISIONS}
_HEADER = 16
_MOST_TOLD = 3
_ASKED_AGAIN = "one_claim_per_name"
_MOST_KEPT = 1 << 16
"""Requests and names that are remembered: a program chooses how many there are."""
_EXPECTED = frozenset(("NoMessage", "NoMessageOfPriority", "Interrupted", "UnknownCommand", "MessagesLost"))
"""Failures that are the usual way to learn something, and what has a rule of its own."""


@dataclass(slots=True)
class _Held:
    """What a connection has."""

    where: str
    bus: str
    slices: dict[int, tuple[str, int]] = field(default_factory=dict)
    """By offset: the command that gave it out, and its size in bytes."""
    requests: set[tuple[int, int]] = field(default_factory=set)
    """Requester and cookie."""
    names: set[str] = field(default_factory=set)
    matches: Counter[int] = field(default_factory=Counter)
    left: bool = False
    """It has said BYEBYE."""
    of_maker: bool = False
    """Its process has made the bus."""


class Checker:
    """A reader of records (`tracing.record.Tracer`)."""

    payload_limit = 0
    waits = False
    stacks = False
    left = True

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.used: dict[str, Counter[str]] = {kind: Counter() for kind in ("commands", "flags", "items", "revisions")}
        """How often what was used."""
        self._connections: dict[tuple[str, int], _Held] = {}
        self._makers: dict[str, int] = {}
        """The process that has made a bus."""
        self._bus_closed = False
        """Whether the last close of a bus was the last thing that happened, but for the hang-ups that it made."""
        self._awaited: set[tuple[str, str, str]] = set()
        """Who has sent to which name of which bus in vain."""

    def take(self, record: Record) -> None:
        """A record, in the order of what happened."""
        if record.event is Event.CALL:
            self._call(show(record, 0))
        elif record.connection is not None and record.event is Event.HANG_UP:
            self._hang_up((record.node, record.connection), record)
        elif record.connection is not None and record.event is Event.CLOSE:
            self._close((record.node, record.connection), record)
        if record.event is not Event.HANG_UP:
            self._bus_closed = record.event is Event.CLOSE and record.connection is None

    def close(self) -> None:
        """There are no more."""
        for held in self._connections.values():
            self._cut_off(held, "it was still open at the end")
        self._connections.clear()

    # ---- calls ----

    def _call(self, shown: Shown) -> None:
        record = shown.record
        where = _where(record)
        if record.phase is not Phase.RESUMED:
            self._count(shown)
            if record.revision:
                self._look_at_padding(record, where)
        if record.phase is Phase.WAITS:
            return
        if record.errno:
            self._failed(shown, where)
        if record.command == "BUS_MAKE" and not record.errno and len(self._makers) < _MOST_KEPT:
            self._makers.update(dict.fromkeys(_names(shown.arguments, "MAKE_NAME"), record.pid))
        if record.connection is None:
            return
        place = record.node, record.connection
        if record.command == "HELLO" and not record.errno:
            of_maker = self._makers.get(_bus(record)) == record.pid
            self._connections[place] = _Held(where, _bus(record), of_maker=of_maker)
        held = self._connections.get(place)
        if held is not None:
            self._losses(shown, held)
            if record.command == "SEND":
                # Also if it fails: that it has tried is all that can be asked of it.
                held.requests.discard(
                    (_number(shown.message.get("dst_id")), _number(shown.message.get("cookie_reply")))
                )
            if not record.errno and record.revision:
                self._answered_otherwise(shown, held)
            if not record.errno:
                self._succeeded(shown, held)

    def _count(self, shown: Shown) -> None:
        record, program = shown.record, _program(shown.record)
        if not record.revision:
            return
        self.used["commands"][record.command] += 1
        self.used["revisions"][record.revision] += 1
        found = [f"KDBUS_CMD_{record.command}"]
        for members in (shown.arguments, shown.message if record.command == "SEND" else {}):
            items = [f"KDBUS_ITEM_{item.name}" for item in items_of(members) if item.name]
            flags = list(_flags(members))
            self.used["items"].update(items)
            self.used["flags"].update(flags)
            found += items + flags
        if not record.errno:
            for item in items_of(shown.arguments):
                if item.name and (others := differences.refusing(record.command, item.name, record.revision)):
                    text = f"KDBUS_CMD_{record.command} with an item {item.name} is refused in {_and(others)}"
                    self.findings.add("foreign-item", program, text)
        for name in dict.fromkeys(found):
            if lacking := differences.lacking(name):
                self.findings.add("one-revision", program, f"{name} is not in {_and(lacking)}")
        if others := differences.other_numbers(record.command, record.revision):
            text = f"KDBUS_CMD_{record.command} of {record.revision} has another number in {_and(others)}"
            self.findings.add("one-revision", program, text)

    def _failed(self, shown: Shown, where: str) -> None:
        record = shown.record
        name = errno_name(record.errno)
        if record.error == "NoSuchName":
            for item in items_of(shown.message):
                if item.name == "DST_NAME" and isinstance(item.value, Text) and len(self._awaited) < _MOST_KEPT:
                    self._awaited.add((_bus(record), item.value.data.decode("utf-8", "replace"), where))
        if record.error in _EXPECTED:
            return
        self.findings.add("failed-call", where, f"{record.command}: {name} ({record.reason})")
        if record.error == "NameAlreadyOwned" and (forgiving := differences.unlike(_ASKED_AGAIN, record.revision)):
            text = f"NAME_ACQUIRE of a name that it has: {name} here, success in {_and(forgiving)}"
            self.findings.add("answer-differs", where, text)
        if others := differences.other_errnos(record.error, record.errno, record.revision):
            told = _and(f"{errno_name(number)} in {_and(names)}" for number, names in others.items())
            self.findings.add("errno-differs", where, f"{record.command}: {name} in {record.revision} is {told}")

    def _answered_otherwise(self, shown: Shown, held: _Held) -> None:
        """Look for what has succeeded, and means something else in other revisions."""
        record, given, revision = shown.record, shown.arguments, shown.record.revision
        text = meaning = ""
        if record.command == "NAME_ACQUIRE" and held.names.intersection(_names(given)):
            meaning, text = _ASKED_AGAIN, "NAME_ACQUIRE of a name that it has: success here, EALREADY"
        elif record.command == "CONN_INFO" and _number(given.get("id")) and _names(given):
            meaning, text = "name_beats_id", "CONN_INFO with an id and a name: here the name counts, the id"
            if not getattr(named(revision), meaning):
                text = "CONN_INFO with an id and a name: here the id counts, the name"
        elif record.command == "RECV" and shown.message.get("dst_id") is not None:
            to_all = _number(shown.message.get("dst_id")) == U64
            if to_all and _number(shown.message.get("src_id")) == record.connection:
                meaning, text = "own_broadcasts", "RECV of a broadcast of its own: here it comes, nothing does"
        if meaning and (others := differences.unlike(meaning, revision)):
            self.findings.add("answer-differs", held.where, f"{text} in {_and(others)}")

    def _losses(self, shown: Shown, held: _Held) -> None:
        if shown.record.command == "RECV" and (count := _number(shown.results.get("dropped_msgs"))):
            self.findings.add("lost-messages", held.where, f"{count} messages were lost, as its queue was full")

    def _succeeded(self, shown: Shown, held: _Held) -> None:
        record, given, stored = shown.record, shown.arguments, shown.results
        match record.command:
            case "FREE":
                held.slices.pop(_number(given.get("offset")), None)
            case "RECV" if record.message and "KDBUS_RECV_DROP" not in _flags(given):
                self._received(shown, held, "msg", "offset")
                is_request = "KDBUS_MSG_EXPECT_REPLY" in _flags(shown.message)
                if is_request and "KDBUS_RECV_PEEK" not in _flags(given) and len(held.requests) < _MOST_KEPT:
                    held.requests.add((_number(shown.message.get("src_id")), _number(shown.message.get("cookie"))))
            case "SEND" if record.phase is Phase.RESUMED:
                self._received(shown, held, "reply", "offset_reply")
            case "NAME_ACQUIRE":
                self._acquired(shown, held)
            case "NAME_RELEASE":
                held.names.difference_update(_names(given))
            case "MATCH_ADD":
                held.matches[_number(given.get("cookie"))] += 1
            case "MATCH_REMOVE":
                held.matches.pop(_number(given.get("cookie")), None)
            case "BYEBYE":
                held.left = True
            case _ if record.pool:
                held.slices[_number(stored.get("offset"))] = record.command, len(record.pool)

    def _received(self, shown: Shown, held: _Held, member: str, offset: str) -> None:
        """A message lies in the pool: where, `member` says, or in version 2 the number `offset`."""
        command, place = shown.record.command, shown.results.get(member)
        if isinstance(place, Mapping):
            held.slices[_number(place.get("offset"))] = command, _number(place.get("msg_size"))
        else:
            at = shown.results.get(offset, shown.arguments.get(offset))
            held.slices[_number(at)] = command, len(shown.record.message)

    def _acquired(self, shown: Shown, held: _Held) -> None:
        for name in _names(shown.arguments):
            held.names.add(name)
            for bus, awaited, where in sorted(self._awaited):
                if (bus, awaited) == (held.bus, name):
                    self._awaited.discard((bus, awaited, where))
                    text = f"it sent to {name} before anybody owned it; {held.where} acquired it later"
                    self.findings.add("name-race", where, text)

    def _look_at_padding(self, record: Record, where: str) -> None:
        revision = _REVISIONS[record.revision]
        layout = struct_of(revision, record.command)
        parts = [] if layout is None else [("command", record.before[layout.size :])]
        if record.command == "SEND" and (layout is None or layout.name != "kdbus_msg"):
            parts.append(("message", record.message[revision.structs["kdbus_msg"].size :]))
        for what, data in parts:
            for number in _badly_padded(data):
                text = f"{record.command}: what stands behind item {number} of the {what} is not zero"
                self.findings.add("padding", where, text)

    # ---- ends ----

    def _hang_up(self, place: tuple[str, int], record: Record) -> None:
        held = self._connections.get(place)
        if held is not None and held.of_maker and self._bus_closed:
            self._close(place, record)
        elif held is not None and not held.left:
            self._cut_off(self._connections.pop(place), "its bus, or all of kdbus, ended before it")

    def _cut_off(self, held: _Held, why: str) -> None:
        if held.slices or held.requests:
            holds = f"{len(held.slices)} slices and {len(held.requests)} requests"
            self.findings.add(
                "not-judged", held.where, f"{why}, so whether it would have given back {holds} is not known"
            )

    def _close(self, place: tuple[str, int], record: Record) -> None:
        held = self._connections.pop(place, None)
        for other in self._connections.values():
            # Nobody waits for that any more.
            other.requests = {request for request in other.requests if held is None or request[0] != place[1]}
        if held is None:
            return
        if held.slices:
            told = [f"{size} bytes of {name} at {at}" for at, (name, size) in sorted(held.slices.items())[:_MOST_TOLD]]
            more = [f"{len(held.slices) - _MOST_TOLD} more"] if len(held.slices) > _MOST_TOLD else []
            self.findings.add("slice-leak", held.where, f"never freed: {_and([*told, *more])}")
        if held.requests:
            told = [f"cookie {cookie} of connection {source}" for source, cookie in sorted(held.requests)[:_MOST_TOLD]]
            more = [f"{len(held.requests) - _MOST_TOLD} more"] if len(held.requests) > _MOST_TOLD else []
            self.findings.add("unanswered-request", held.where, f"received and not replied to: {_and([*told, *more])}")
        if record.length:
            text = f"{record.length} messages in its queue were never received"
            self.findings.add("unread-messages", held.where, text)
        if record.left:
            told = [said(each) for each in record.left[:_MOST_TOLD]]
            more = [f"{len(record.left) - _MOST_TOLD} more"] if len(record.left) > _MOST_TOLD else []
            self.findings.add("descriptors-left", held.where, f"still open: {'; '.join([*told, *more])}")
        if held.names and not held.left:
            self.findings.add("names-left", held.where, f"still owned or waited for: {_and(sorted(held.names))}")
        if held.matches and not held.left:
            self.findings.add("matches-left", held.where, f"{held.matches.total()} matches were still there")


def _where(record: Record) -> str:
    program = _program(record)
    return program if record.connection is None else f"{program}, connection {record.connection} of {_bus(record)}"


def _program(record: Record) -> str:
    return f"{record.comm or 'a program'} (process {record.pid})"


def _bus(record: Record) -> str:
    return record.node.partition("/")[0]


def _and(words: Iterable[str]) -> str:
    return ", ".join(words)


def _number(value: object) -> int:
    return value.value if isinstance(value, Named | Flags) else value if isinstance(value, int) else 0


def _flags(members: Mapping[str, object]) -> tuple[str, ...]:
    flags = members.get("flags")
    return flags.names if isinstance(flags, Flags) else ()


def _names(members: Mapping[str, Any], kind: str | None = None) -> list[str]:
    """The texts in items, of one kind or all."""
    items = items_of(members)
    texts = (each.value for each in items if isinstance(each.value, Text) and kind in (None, each.name))
    return [each.data.decode("utf-8", "replace") for each in texts]


def _badly_padded(data: bytes) -> Iterable[int]:
    """Which items, counted from 1, have something else than zeros between them and the next one."""
    position, number = 0, 0
    while position + _HEADER <= len(data):
        size = int.from_bytes(data[position : position + 8], "little")
        if not _HEADER <= size <= len(data) - position:
            return
        number += 1
        end, position = position + size, position + align8(size)
        if any(data[end:position]):
            yield number
