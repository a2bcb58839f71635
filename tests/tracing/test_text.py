# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of a trace, from records written by hand."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from kdbus.abi.revision import FINAL, Kind
from tests.support.building import item
from tracing.record import Event, Left, Phase, Record
from tracing.shown import show
from tracing.text import Style, TextWriter

REALTIME = 1_000_000_000 * 1_600_000_000 + 123_456_789


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def call(command: str, before: bytes, **members: object) -> Record:
    record = Record(Event.CALL, 1, REALTIME, 5_000_000_000, 42_999, pid=10, tid=11, comm="client")
    record.descriptor, record.node, record.connection, record.revision = 3, "0-x/bus", 7, "final"
    record.command, record.before, record.after = command, before, before
    for name, value in members.items():
        setattr(record, name, value)
    return record


def line(record: Record, style: Style | None = None) -> str:
    return TextWriter(style or Style()).lines(show(record))


FREE = call("FREE", words(32, 0, 0, 64))


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (Style(), "[pid    11] FREE(3<0-x/bus 7>, {offset=64}) = 0 <0.000042>\n"),
        (Style(brackets=False), "11 FREE(3<0-x/bus 7>, {offset=64}) = 0 <0.000042>\n"),
        (Style(thread=False), "FREE(3<0-x/bus 7>, {offset=64}) = 0 <0.000042>\n"),
        (Style(thread=False, precise=True), "FREE(3<0-x/bus 7>, {offset=64}) = 0 <0.000042999>\n"),
        (Style(thread=False, clock=3), "1600000000.123456 FREE(3<0-x/bus 7>, {offset=64}) = 0 <0.000042>\n"),
        (
            Style(thread=False, everything=True),
            "FREE(3<0-x/bus 7>, {size=32, flags=0, return_flags=0, offset=64} => {return_flags=0}) = 0 <0.000042>\n",
        ),
    ],
)
def test_styles(style: Style, expected: str) -> None:
    assert line(FREE, style) == expected


def test_time_since_the_record_before() -> None:
    writer = TextWriter(Style(thread=False, relative=True))
    assert writer.lines(show(FREE)).startswith("     0.000000 FREE")
    later = replace(FREE, monotonic_ns=6_500_001_000)
    assert writer.lines(show(later)).startswith("     1.500001 FREE")


def test_names_of_both_sides() -> None:
    message = words(64, 1, 0, 9, 0, 0x4442757344427573, 5, 7_000_000_000) + item(2, words(3, 0x1000))
    record = call("SEND", words(56, 0, 0, 0x2000, 0, 0, 0), message=message, payload=b"abc", payload_size=3)
    record.names = {7: ["org.example.Me"], 9: ["org.example.A", "org.example.B"]}
    assert line(record, Style(thread=False, names=True)) == (
        "SEND(3<0-x/bus 7 org.example.Me>, {msg={flags=KDBUS_MSG_EXPECT_REPLY, dst_id=9<org.example.A org.example.B>,"
        " payload_type=KDBUS_PAYLOAD_DBUS, cookie=5, timeout_ns=7000000000 /* in 2.000 s */, items=[PAYLOAD_VEC"
        ' {size=3, address=0x1000}]}}, 3 "abc") = 0 <0.000042>\n'
    )
    assert "dst_id=9," in line(record)


def test_payload_is_shortened_and_escaped() -> None:
    record = call("SEND", words(56, 0, 0, 0, 0, 0, 0), payload=b'a"\n\x00\xff', payload_size=5)
    assert r'5 "a\"\n\0\377")' in line(record)
    assert r'5 "a\""...)' in line(record, Style(payload=2))
    assert r'5 "\x61\x22\x0a\x00\xff")' in line(record, Style(hexadecimal=1))
    record.payload, record.payload_size = b"abc", 900
    assert '900 "abc"...)' in line(record)
    assert r'900 "\x61\x62\x63"...)' in line(record, Style(hexadecimal=2))
    assert '900 "abc"...)' in line(record, Style(hexadecimal=1))


def test_names_are_whole() -> None:
    name = FINAL.build(Kind.NAME, b"org.example.Name\0")
    record = call("NAME_ACQUIRE", words(24 + len(name), 0, 0) + name)
    assert '[NAME "org.example.Name"]' in line(record, Style(payload=3))


def test_failures_have_names_and_reasons() -> None:
    record = call("RECV", words(64, 0, 0, 0, 0, 0, 0, 0), errno=11, error="NoMessage", reason="the queue is empty")
    assert line(record, Style(thread=False)) == "RECV(3<0-x/bus 7>, {}) = -1 EAGAIN (the queue is empty) <0.000042>\n"
    red = line(record, Style(thread=False, colour=True))
    assert "\x1b[31m-1 EAGAIN\x1b[0m" in red


def test_a_call_that_waits_has_two_lines() -> None:
    before = words(56, 1, 0, 0x2000, 0, 0, 0)
    first = call("SEND", before, phase=Phase.WAITS, duration_ns=None, notes=["waits until connection 9 replies"])
    assert line(first, Style(thread=False)) == (
        "SEND(3<0-x/bus 7>, {flags=KDBUS_SEND_SYNC_REPLY, msg_address=0x2000} <unfinished ...>\n"
        "    # waits until connection 9 replies\n"
    )
    after = words(56, 1, 0, 0x2000, 128, 72, 0)
    over = call("SEND", before, phase=Phase.RESUMED, after=after)
    assert line(over, Style(thread=False)) == (
        "<... SEND resumed> 3<0-x/bus 7> => {reply={offset=128, msg_size=72}}) = 0 <0.000042>\n"
    )


def test_what_is_no_command_is_shown_raw() -> None:
    record = call("0x12345678", b"", address=0x40, errno=25, error="UnknownCommand", revision="")
    assert "0x12345678(3<0-x/bus 7>, 0x40) = -1 ENOTTY" in line(record)


def test_events() -> None:
    record = Record(Event.OPEN, 1, REALTIME, 0, 1000, pid=1, tid=1, node="0-x/bus", value=5)
    assert line(record) == '[pid     1] open("0-x/bus") = 5<0-x/bus> <0.000001>\n'
    record = Record(Event.MAP, 1, REALTIME, 0, 1000, pid=1, tid=1, descriptor=5, node="0-x/bus", connection=2)
    record.length = 4096
    assert line(record) == "[pid     1] mmap(5<0-x/bus 2>, 4096) = mapped <0.000001>\n"
    record = Record(Event.CLOSE, 1, REALTIME, 0, node="0-x/bus", connection=2)
    assert line(record) == "+++ <0-x/bus 2> closed +++\n"
    record.left = [Left(17, 5, 1, 3)]
    told = "\n    # still open: descriptor 5 of process 17, which came with cookie 3 of connection 1\n"
    assert line(record) == f"+++ <0-x/bus 2> closed +++{told}"
    record.left, record.unknown = [], 2
    told = "its process was killed: whether that had closed 2 descriptors that came with messages is not known"
    assert line(record) == f"+++ <0-x/bus 2> closed +++\n    # {told}\n"
    record = Record(Event.DROPPED, 1, REALTIME, 0, count=3)
    assert line(record) == "+++ 3 records dropped: whoever reads the trace is too slow +++\n"


def test_nothing_in_a_record_moves_the_cursor() -> None:
    evil = "\x1b[2J\n"
    record = call("SEND", evil.encode() * 9, payload=evil.encode(), payload_size=5, errno=1, reason=evil, node=evil)
    record.names, record.notes = {7: [evil]}, [evil]
    found = line(record, Style(names=True))
    assert "\x1b" not in found and found.count("\n") == 2
