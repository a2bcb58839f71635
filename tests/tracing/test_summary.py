# SPDX-License-Identifier: GPL-2.0-or-later
"""The summary counts, and its quantiles are right to within a sixteenth."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from tracing.record import Event, Phase, Record
from tracing.shown import show
from tracing.summary import Summary, _class_of, _longest_of


def call(command: str, duration_ns: int | None, errno: int = 0, phase: Phase = Phase.WHOLE) -> Record:
    return Record(Event.CALL, 1, 0, 0, duration_ns, command=command, errno=errno, phase=phase)


def test_table() -> None:
    summary = Summary()
    for number in range(1, 101):
        summary.count(show(call("RECV", number * 1000, errno=11 if number > 90 else 0)))
    summary.count(show(call("SEND", None, phase=Phase.WAITS)))
    summary.count(show(call("SEND", 2_000_000, phase=Phase.RESUMED)))
    summary.count(show(Record(Event.OPEN, 1, 0, 0, 5000)))
    rows = summary.text().splitlines()
    assert rows[0].split() == "% time seconds calls errors p50 us p95 us p99 us max us command".split()
    recv = rows[2].split()
    assert (recv[0], recv[1], recv[2], recv[3], recv[-2], recv[-1]) == (
        "71.63",
        "0.005050",
        "100",
        "10",
        "100.0",
        "RECV",
    )
    assert 50 <= float(recv[4]) <= 50 * 17 / 16 and 95 <= float(recv[5]) <= 100
    assert rows[3].split() == ["28.37", "0.002000", "1", "2000.0", "2000.0", "2000.0", "2000.0", "SEND"]
    assert rows[5].split() == ["100.00", "0.007050", "101", "10", "total"]


def test_nothing_to_count() -> None:
    assert Summary().text().splitlines()[-1].split() == ["100.00", "0.000000", "0", "total"]


def send(at_us: int, sender: int, receiver: int, *, cookie: int = 0, reply_to: int = 0, errno: int = 0) -> Record:
    """A request, or a reply to the one with the cookie `reply_to`."""
    record = call("SEND", 1000, errno)
    record.node, record.connection, record.peer, record.revision = "0-x/bus", sender, receiver, "final"
    record.monotonic_ns = at_us * 1000
    record.names = {1: ["org.example.Slow"], 2: ["org.example.Fast"]}
    record.message = struct.pack("<8Q", 64, 0 if reply_to else 1, 0, receiver, 0, 0, cookie, reply_to or 1 << 60)
    return record


def test_who_replies_how_fast() -> None:
    summary = Summary()
    at = 0
    for cookie in range(1, 11):
        for replier, time_us in ((1, 800), (2, 100)):
            summary.count(show(send(at, 9, replier, cookie=cookie)))
            summary.count(show(send(at + time_us, replier, 9, reply_to=cookie)))
            at += 1000
    summary.count(show(send(at, 9, 2, cookie=77)))
    summary.count(show(send(at, 2, 9, reply_to=77, errno=1)))  # fails, so it is no answer
    summary.count(show(send(at, 9, 3, cookie=78)))
    rows = summary.text().splitlines()
    assert rows[-5].split()[:2] == ["requests", "unanswered"]
    assert rows[-3].split() == ["1", "1", "-", "-", "-", "-", "0-x", "3"], "who never replies stands on top"
    assert len(rows[-3]) == len(rows[-2].removesuffix(" org.example.Slow"))
    slow, fast = rows[-2].split(), rows[-1].split()
    assert slow[0] == "10" and slow[-3:] == ["0-x", "1", "org.example.Slow"] and slow[-4] == "800.0"
    assert fast[:2] == ["11", "1"] and fast[-3:] == ["0-x", "2", "org.example.Fast"] and fast[-4] == "100.0"


@given(st.integers(0, 1 << 62))
def test_a_class_holds_what_is_nearly_as_long(duration_ns: int) -> None:
    longest = _longest_of(_class_of(duration_ns))
    assert duration_ns <= longest <= duration_ns + duration_ns // 16
    assert _class_of(longest) == _class_of(duration_ns)
    assert _class_of(longest + 1) == _class_of(duration_ns) + 1
