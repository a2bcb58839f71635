# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as a timeline for Perfetto (ui.perfetto.dev): each call a slice on its thread's track, and arrows from
each request over those who receive and answer it to whoever gets the answer.

The form is the JSON of Chrome's trace viewer ("Trace Event Format"), which Perfetto imports: complete slices ("X"),
arrows as flow events ("s", "t", "f") that bind to the slice which encloses them, names of tracks as metadata ("M").
Times are in microseconds there, so fractions keep the nanoseconds. Perfetto's own form is protobuf, which would need
its library and say no more.

Weakness: a request and its answer are told by the requester's id and the cookie, so a program that uses a cookie again
while its first request is open gets arrows that cross.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from kdbus.abi.decode import Named, Value
from tracing import json_lines
from tracing.record import Event, Phase, Record
from tracing.shown import Shown, show
from tracing.text import errno_name

_SHOWN = 256
"""Bytes of a payload in the arguments of a slice."""


def lines(records: Iterable[Record]) -> Iterator[str]:
    """The text of the timeline, piece by piece."""
    yield '{"displayTimeUnit":"ns","traceEvents":[\n'
    separator = ""
    for event in _Timeline().events(records):
        yield separator + json.dumps(event, separators=(",", ":"), allow_nan=False)
        separator = ",\n"
    yield "\n]}\n"


class _Timeline:
    def __init__(self) -> None:
        self._named: set[tuple[int, int]] = set()
        self._waiting: dict[tuple[int, int], Shown] = {}
        """Calls that wait, by process and thread."""
        self._flows: dict[tuple[str, int, int], int] = {}
        """Open requests: which bus, whose, with which cookie; and the number of their arrows."""
        self._last_flow = 0
        self._end_ns = 0

    def events(self, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        """The events, in the order of the records; names of tracks before their first slice."""
        for record in records:
            self._end_ns = max(self._end_ns, record.monotonic_ns + (record.duration_ns or 0))
            yield from self._record(show(record))
        for shown in self._waiting.values():
            yield self._slice(shown, self._end_ns - shown.record.monotonic_ns, {"ended": "never"})

    def _record(self, shown: Shown) -> Iterator[dict[str, Any]]:
        record = shown.record
        track = record.pid, record.tid
        if record.tid and track not in self._named:
            self._named.add(track)
            for name, text in (("process_name", record.comm), ("thread_name", record.comm)):
                yield {"ph": "M", "name": name, "pid": record.pid, "tid": record.tid, "args": {"name": text}}
        if record.phase is Phase.WAITS:
            self._waiting[track] = shown
            yield from self._arrows(shown)
        elif record.event in (Event.CALL, Event.OPEN, Event.MAP):
            first = self._waiting.pop(track, None) if record.phase is Phase.RESUMED else None
            yield self._slice(first or shown, record.duration_ns or 0, self._outcome(shown))
            yield from self._arrows(shown)
        else:
            yield {
                "ph": "i",
                "s": "g",
                "name": _title(record),
                "ts": record.monotonic_ns / 1000,
                "pid": record.pid,
                "tid": record.tid,
                "args": _arguments(shown),
            }

    @staticmethod
    def _outcome(shown: Shown) -> dict[str, Any]:
        record = shown.record
        found: dict[str, Any] = {"result": errno_name(record.errno) if record.errno else record.value}
        if record.error:
            found |= {"error": record.error, "reason": record.reason}
        if record.phase is Phase.RESUMED and shown.message:
            found["reply"] = json_lines.as_value(shown.message)
        return found

    def _slice(self, shown: Shown, duration_ns: int, outcome: dict[str, Any]) -> dict[str, Any]:
        record = shown.record
        return {
            "ph": "X",
            "cat": "kdbus",
            "name": _title(record),
            "ts": record.monotonic_ns / 1000,
            "dur": max(0, duration_ns) / 1000,
            "pid": record.pid,
            "tid": record.tid,
            "args": {**_arguments(shown), **outcome},
        }

    def _arrows(self, shown: Shown) -> Iterator[dict[str, Any]]:
        """What a call means for the arrows of a request: begins them, goes on, or ends them."""
        record, message = shown.record, shown.message
        if record.errno or not message or record.connection is None:
            return
        expects = "KDBUS_MSG_EXPECT_REPLY" in getattr(message.get("flags"), "names", ())
        sends = record.command == "SEND" and record.phase is not Phase.RESUMED
        bus = record.node.partition("/")[0]
        end_ns = record.monotonic_ns + (record.duration_ns or 0)
        if expects:
            requester = record.connection if sends else _number(message.get("src_id"))
            key = bus, requester, _number(message.get("cookie"))
            if sends:
                self._last_flow += 1
                self._flows[key] = self._last_flow
            if key in self._flows:
                yield _arrow("s" if sends else "t", self._flows[key], record, end_ns)
        elif cookie := _number(message.get("cookie_reply")):
            requester = _number(message.get("dst_id")) if sends else record.connection
            key = bus, requester, cookie
            number = self._flows.get(key) if sends else self._flows.pop(key, None)
            if number is not None:
                yield _arrow("t" if sends else "f", number, record, end_ns)


def _arrow(kind: str, number: int, record: Record, end_ns: int) -> dict[str, Any]:
    """One end of an arrow: at the begin of who sends, at the end of who receives."""
    received = record.command == "RECV" or record.phase is Phase.RESUMED
    found = {
        "ph": kind,
        "cat": "kdbus",
        "name": "request",
        "id": number,
        "ts": (end_ns if received else record.monotonic_ns) / 1000,
        "pid": record.pid,
        "tid": record.tid,
    }
    return {**found, "bp": "e"}


def _title(record: Record) -> str:
    return record.command or record.event.value


def _arguments(shown: Shown) -> dict[str, Any]:
    found = json_lines.as_object(shown, _SHOWN)
    wanted = ("node", "connection", "peer", "descriptor", "arguments", "results", "message", "dbus", "payload", "notes")
    return {name: found[name] for name in (*wanted, "count", "sequence") if name in found}


def _number(value: Value | None) -> int:
    return value.value if isinstance(value, Named) else value if isinstance(value, int) else 0
