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

from interposer.checking import differences
from interposer.checking.answers import differing, queued, waits_in_queue
from interposer.checking.findings import Findings
from interposer.checking.held import Held
from interposer.checking.members import flags, kinds, number, texts
from kdbus.abi.decode import Text, struct_of
from kdbus.abi.layout import align8
from kdbus.abi.revision import REVISIONS
from tracing.errnos import errno_name
from tracing.escaping import count_of
from tracing.record import Event, Phase, Record
from tracing.shown import Shown, items_of, show
from tracing.text import said, unknown

_REVISIONS = {revision.name: revision for revision in REVISIONS}
_HEADER = 16
_MOST_TOLD = 3
_MOST_KEPT = 1 << 16
"""Requests and names that are remembered: a program chooses how many there are."""
_EXPECTED = frozenset(("NoMessage", "NoMessageOfPriority", "Interrupted", "UnknownCommand", "MessagesLost"))
"""Failures that are the usual way to learn something, and what has a rule of its own: no `failed-call`."""


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
        self._connections: dict[tuple[str, int], Held] = {}
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
            self._makers.update(dict.fromkeys(texts(shown.arguments, "MAKE_NAME"), record.pid))
        held = None if record.connection is None else self._connection(shown, (record.node, record.connection))
        if record.revision:
            for text in differing(shown, held, self._connections):
                self.findings.add("answer-differs", where if held is None else held.where, text)
        if held is not None:
            self._losses(shown, held)
            if record.command == "SEND":
                # Also if it fails: that it has tried is all that can be asked of it.
                held.requests.discard(
                    (number(shown.message.get("dst_id")), number(shown.message.get("cookie_reply")))
                )
            if not record.errno:
                self._succeeded(shown, held)

    def _connection(self, shown: Shown, place: tuple[str, int]) -> Held | None:
        record, given = shown.record, shown.arguments
        if record.command == "HELLO" and not record.errno:
            held = Held(_where(record), _bus(record), record.revision, flags(given), number(given.get("pool_size")))
            held.of_maker = self._makers.get(held.bus) == record.pid
            self._connections[place] = held
        return self._connections.get(place)

    def _count(self, shown: Shown) -> None:
        record, program = shown.record, _program(shown.record)
        if not record.revision:
            return
        self.used["commands"][record.command] += 1
        self.used["revisions"][record.revision] += 1
        found = [f"KDBUS_CMD_{record.command}"]
        for members in (shown.arguments, shown.message if record.command == "SEND" else {}):
            items = [f"KDBUS_ITEM_{item.name}" for item in items_of(members) if item.name]
            names = list(flags(members))
            self.used["items"].update(items)
            self.used["flags"].update(names)
            found += items + names
        if not record.errno:
            self._look_at_items(shown, program)
        for name in dict.fromkeys(found):
            if lacking := differences.lacking(name):
                self.findings.add("one-revision", program, f"{name} is not in {_and(lacking)}")
        if others := differences.other_numbers(record.command, record.revision):
            text = f"KDBUS_CMD_{record.command} of {record.revision} has another number in {_and(others)}"
            self.findings.add("one-revision", program, text)

    def _look_at_items(self, shown: Shown, program: str) -> None:
        command, revision = shown.record.command, shown.record.revision
        for kind, count in Counter(kinds(shown.arguments)).items():
            if others := differences.refusing(command, kind, revision):
                text = f"KDBUS_CMD_{command} with an item {kind} is refused in {_and(others)}"
                self.findings.add("foreign-item", program, text)
            if count > 1 and (others := differences.refusing_two(command, kind, revision)):
                text = f"KDBUS_CMD_{command} with two items {kind} is refused in {_and(others)}"
                self.findings.add("foreign-item", program, text)

    def _failed(self, shown: Shown, where: str) -> None:
        record = shown.record
        name = errno_name(record.errno)
        if record.error == "NoSuchName":
            for item in items_of(shown.message):
                if item.name == "DST_NAME" and isinstance(item.value, Text) and len(self._awaited) < _MOST_KEPT:
                    self._awaited.add((_bus(record), item.value.data.decode("utf-8", "replace"), where))
        if record.error not in _EXPECTED:
            self.findings.add("failed-call", where, f"{record.command}: {name} ({record.reason})")
        if not record.revision:
            return
        if others := differences.other_errnos(record.error, record.errno, record.revision, record.command):
            told = _and(f"{errno_name(other)} in {_and(names)}" for other, names in others.items())
            self.findings.add("errno-differs", where, f"{record.command}: {name} in {record.revision} is {told}")

    def _losses(self, shown: Shown, held: Held) -> None:
        if shown.record.command == "RECV" and (count := number(shown.results.get("dropped_msgs"))):
            self.findings.add("lost-messages", held.where, f"{count_of(count, 'message')} lost, as its queue was full")

    def _succeeded(self, shown: Shown, held: Held) -> None:
        record, given, stored = shown.record, shown.arguments, shown.results
        match record.command:
            case "FREE":
                held.slices.pop(number(given.get("offset")), None)
            case "RECV" if record.message and "KDBUS_RECV_DROP" not in flags(given):
                self._received(shown, held, "msg", "offset")
                source = number(shown.message.get("src_id"))
                if held.waiting[source] and "KDBUS_RECV_PEEK" not in flags(given):
                    held.waiting[source] -= 1
                is_request = "KDBUS_MSG_EXPECT_REPLY" in flags(shown.message)
                if is_request and "KDBUS_RECV_PEEK" not in flags(given) and len(held.requests) < _MOST_KEPT:
                    held.requests.add((number(shown.message.get("src_id")), number(shown.message.get("cookie"))))
            case "RECV":
                held.waiting.clear()
            case "SEND" if waits_in_queue(shown):
                self._sent(record)
            case "SEND" if record.phase is Phase.RESUMED:
                self._received(shown, held, "reply", "offset_reply")
            case "NAME_ACQUIRE":
                self._acquired(shown, held)
            case "NAME_RELEASE":
                for name in texts(given):
                    held.names.pop(name, None)
            case "MATCH_ADD":
                held.matches[number(given.get("cookie"))] += 1
            case "MATCH_REMOVE":
                held.matches.pop(number(given.get("cookie")), None)
            case "BYEBYE":
                held.left = True
            case _ if record.pool:
                held.slices[number(stored.get("offset"))] = record.command, len(record.pool)

    def _sent(self, record: Record) -> None:
        receiver = self._connections.get((record.node, record.peer or 0))
        if record.connection is not None and receiver is not None and "KDBUS_HELLO_ACTIVATOR" not in receiver.flags:
            receiver.waiting[record.connection] += 1

    def _received(self, shown: Shown, held: Held, member: str, offset: str) -> None:
        """A message lies in the pool: where, `member` says, or in version 2 the number `offset`."""
        command, place = shown.record.command, shown.results.get(member)
        if isinstance(place, Mapping):
            held.slices[number(place.get("offset"))] = command, number(place.get("msg_size"))
        else:
            at = shown.results.get(offset, shown.arguments.get(offset))
            held.slices[number(at)] = command, len(shown.record.message)

    def _acquired(self, shown: Shown, held: Held) -> None:
        for name in texts(shown.arguments):
            held.names[name] = queued(shown)
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
            for place in _badly_padded(data):
                text = f"{record.command}: what stands behind item {place} of the {what} is not zero"
                self.findings.add("padding", where, text)

    # ---- ends ----

    def _hang_up(self, place: tuple[str, int], record: Record) -> None:
        held = self._connections.get(place)
        if held is not None and held.of_maker and self._bus_closed:
            self._close(place, record)
        elif held is not None and not held.left:
            self._cut_off(self._connections.pop(place), "its bus, or all of kdbus, ended before it")

    def _cut_off(self, held: Held, why: str) -> None:
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
            text = f"never received: {count_of(record.length, 'message')} in its queue"
            self.findings.add("unread-messages", held.where, text)
        if record.left:
            told = [said(each) for each in record.left[:_MOST_TOLD]]
            more = [f"{len(record.left) - _MOST_TOLD} more"] if len(record.left) > _MOST_TOLD else []
            self.findings.add("descriptors-left", held.where, f"still open: {'; '.join([*told, *more])}")
        if record.unknown:
            self.findings.add("not-judged", held.where, unknown(record.unknown))
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
