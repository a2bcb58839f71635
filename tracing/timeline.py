# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as a timeline for Perfetto (ui.perfetto.dev): each call a slice on its thread's track, and arrows from
each request over those who receive and answer it to whoever gets the answer.

The form is Perfetto's own (perfetto_trace.proto): packets of track descriptors, which name processes and threads, and
of track events, which begin and end slices; what a call says are their debug annotations, and arrows are flows, by
number. Alternative: the JSON of Chrome's trace viewer, which Perfetto imports, but for which there is no schema to
check it by, and in which flows bind to slices by their times alone.

Times are those of CLOCK_MONOTONIC. A snapshot of two clocks at the beginning tells what time of day that was. There it
is called BOOTTIME, the clock that packets have if they say nothing else; the two differ only by the time that a machine
was suspended.

Weakness: a request and its answer are told by the requester's id and the cookie, so a program that uses a cookie again
while its first request is open gets arrows that cross.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kdbus.abi.decode import Named, Value
from tracing import json_lines
from tracing.errnos import errno_name
from tracing.protobuf import double, field, fixed64
from tracing.record import CALLS, Phase, Record
from tracing.shown import Shown, show

_SHOWN = 256
"""Bytes of a payload in the arguments of a slice."""
_BEGIN, _END, _INSTANT = 1, 2, 3
"""TrackEvent.Type."""
_REALTIME, _BOOTTIME = 1, 6
"""BuiltinClock."""
_SEQUENCE = 1
"""Of packets; there is one."""
_BUSES = 1
"""The track of what nobody does: ends of connections, records that are missing."""


def pieces(records: Iterable[Record]) -> Iterator[bytes]:
    """The timeline, packet by packet."""
    timeline = _Timeline()
    for packet in timeline.packets(records):
        yield field(1, packet + field(10, _SEQUENCE))


class _Timeline:
    def __init__(self) -> None:
        self._tracks: dict[tuple[int, int], int] = {}
        """By process and thread; thread 0 for the process itself."""
        self._waiting: dict[tuple[int, int], Shown] = {}
        """Calls that wait, by process and thread."""
        self._flows: dict[tuple[str, int, int], int] = {}
        """Open requests: which bus, whose, with which cookie; and the number of their arrows."""
        self._last_flow = 0
        self._end_ns = 0

    def packets(self, records: Iterable[Record]) -> Iterator[bytes]:
        """The packets, in the order of the records; descriptors of tracks before their first event."""
        for record in records:
            if not self._end_ns:
                yield _snapshot(record)
            self._end_ns = max(self._end_ns, record.monotonic_ns + (record.duration_ns or 0))
            yield from self._record(show(record))
        for shown in self._waiting.values():
            track = self._tracks[shown.record.pid, shown.record.tid]
            yield _event(_END, track, self._end_ns, arguments={"ended": "never"})

    def _record(self, shown: Shown) -> Iterator[bytes]:
        record = shown.record
        thread = record.pid, record.tid
        yield from self._described(record)
        track = self._tracks.get(thread, _BUSES)
        end_ns = record.monotonic_ns + max(0, record.duration_ns or 0)
        flow, last = self._flow(shown)
        if record.phase is Phase.WAITS:
            self._waiting[thread] = shown
            yield _event(_BEGIN, track, record.monotonic_ns, _title(record), _arguments(shown), flow)
        elif record.phase is Phase.RESUMED:
            if self._waiting.pop(thread, None) is not None:
                yield _event(_END, track, end_ns, arguments=_outcome(shown), flow=flow, last=last)
        elif record.event in CALLS:
            arguments = {**_arguments(shown), **_outcome(shown)}
            yield _event(_BEGIN, track, record.monotonic_ns, _title(record), arguments, flow, last)
            yield _event(_END, track, end_ns)
        else:
            yield _event(_INSTANT, track, record.monotonic_ns, _title(record), _arguments(shown))

    def _described(self, record: Record) -> Iterator[bytes]:
        """Descriptors of the tracks that a record needs and that were not there before."""
        thread = record.pid, record.tid
        if not record.tid:
            if (0, 0) not in self._tracks:
                self._tracks[0, 0] = _BUSES
                yield _descriptor(field(1, _BUSES) + field(2, "kdbus"))
            return
        if thread in self._tracks:
            return
        process = record.pid, 0
        if process not in self._tracks:
            self._tracks[process] = len(self._tracks) + 2
            yield _descriptor(
                field(1, self._tracks[process]) + field(3, field(1, record.pid) + field(6, record.comm))
            )
        self._tracks[thread] = len(self._tracks) + 2
        of_thread = field(1, record.pid) + field(2, record.tid) + field(5, record.comm)
        yield _descriptor(
            field(1, self._tracks[thread]) + field(5, self._tracks[process]) + field(4, of_thread)
        )

    def _flow(self, shown: Shown) -> tuple[int, bool]:
        """The arrows of a request that a call is part of, 0 for none, and whether they end here."""
        record, message = shown.record, shown.message
        if record.errno or not message or record.connection is None:
            return 0, False
        expects = "KDBUS_MSG_EXPECT_REPLY" in getattr(message.get("flags"), "names", ())
        sends = record.command == "SEND" and record.phase is not Phase.RESUMED
        bus = record.node.partition("/")[0]
        if expects:
            requester = record.connection if sends else _number(message.get("src_id"))
            key = bus, requester, _number(message.get("cookie"))
            if sends:
                self._last_flow += 1
                self._flows[key] = self._last_flow
            return self._flows.get(key, 0), False
        if cookie := _number(message.get("cookie_reply")):
            requester = _number(message.get("dst_id")) if sends else record.connection
            key = bus, requester, cookie
            return (self._flows.get(key, 0), False) if sends else (self._flows.pop(key, 0), True)
        return 0, False


def _snapshot(record: Record) -> bytes:
    """The two clocks at the moment of a record: that of the packets, and the time of day."""
    clocks = ((_BOOTTIME, record.monotonic_ns), (_REALTIME, record.realtime_ns))
    return field(6, b"".join(field(1, field(1, clock) + field(2, now)) for clock, now in clocks))


def _descriptor(track: bytes) -> bytes:
    return field(60, track)


def _event(
    kind: int,
    track: int,
    when_ns: int,
    title: str = "",
    arguments: dict[str, Any] | None = None,
    flow: int = 0,
    last: bool = False,
) -> bytes:
    """A packet of one track event."""
    event = field(9, kind) + field(11, track)
    if title:
        event += field(23, title) + field(22, "kdbus")
    if flow:
        event += fixed64(48 if last else 47, flow)
    event += b"".join(field(4, field(10, name) + _annotation(value)) for name, value in (arguments or {}).items())
    return field(8, when_ns) + field(11, event)


def _annotation(value: Any) -> bytes:
    """A value, as a DebugAnnotation without its name."""
    if isinstance(value, bool):
        return field(2, value)
    if isinstance(value, int):
        return field(4, value) if value < 1 << 63 else field(3, value)
    if isinstance(value, float):
        return double(5, value)
    if isinstance(value, dict):
        return b"".join(field(11, field(10, str(name)) + _annotation(each)) for name, each in value.items())
    if isinstance(value, list):
        return b"".join(field(12, _annotation(each)) for each in value)
    return field(6, "" if value is None else str(value))


def _outcome(shown: Shown) -> dict[str, Any]:
    record = shown.record
    found: dict[str, Any] = {"result": errno_name(record.errno) if record.errno else record.value}
    if record.error:
        found |= {"error": record.error, "reason": record.reason}
    if record.phase is Phase.RESUMED and shown.message:
        found["reply"] = json_lines.as_value(shown.message)
    return found


def _title(record: Record) -> str:
    return record.command or record.event.value


def _arguments(shown: Shown) -> dict[str, Any]:
    found = json_lines.as_object(shown, _SHOWN)
    return {name: found[name] for name in _WANTED if name in found}


_WANTED = (
    *("node", "path", "connection", "peer", "descriptor", "arguments", "results", "message", "dbus", "payload"),
    *("notes", "count", "sequence"),
)


def _number(value: Value | None) -> int:
    return value.value if isinstance(value, Named) else value if isinstance(value, int) else 0
