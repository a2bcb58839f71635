# SPDX-License-Identifier: GPL-2.0-or-later
"""The summary counts, and its quantiles are right to within a sixteenth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracing.record import Event, Phase, Record
from tracing.summary import Summary, _class_of, _longest_of


def call(command: str, duration_ns: int | None, errno: int = 0, phase: Phase = Phase.WHOLE) -> Record:
    return Record(Event.CALL, 1, 0, 0, duration_ns, command=command, errno=errno, phase=phase)


def test_table() -> None:
    summary = Summary()
    for number in range(1, 101):
        summary.count(call("RECV", number * 1000, errno=11 if number > 90 else 0))
    summary.count(call("SEND", None, phase=Phase.WAITS))
    summary.count(call("SEND", 2_000_000, phase=Phase.RESUMED))
    summary.count(Record(Event.OPEN, 1, 0, 0, 5000))
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


@given(st.integers(0, 1 << 62))
def test_a_class_holds_what_is_nearly_as_long(duration_ns: int) -> None:
    longest = _longest_of(_class_of(duration_ns))
    assert duration_ns <= longest <= duration_ns + duration_ns // 16
    assert _class_of(longest) == _class_of(duration_ns)
    assert _class_of(longest + 1) == _class_of(duration_ns) + 1
