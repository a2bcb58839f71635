# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kdbus replay` makes of records: which calls say the same, and whose they are."""

from __future__ import annotations

import re
import struct

import pytest

from interposer.replaying.likeness import lines, same
from interposer.replaying.live import Live, Recorded, differences
from interposer.replaying.script import Script, Unplayable
from kdbus.abi.revision import FINAL, Kind
from tracing.record import Event, Record

EXPECT_REPLY = 1


def call(sequence: int, connection: int, command: str, **members: object) -> Record:
    """A call of the final revision on a bus, by process 10 if the connection's number is odd, else by 20."""
    pid = 20 - connection % 2 * 10
    record = Record(Event.CALL, sequence, 0, sequence * 1000, pid=pid, comm=f"p{pid}", revision="final")
    record.node, record.connection, record.command = "5-x/bus", connection, command
    for name, value in members.items():
        setattr(record, name, value)
    return record


def hello(sequence: int, connection: int) -> Record:
    data = bytearray(FINAL.structs["kdbus_cmd_hello"].size)
    struct.pack_into("<Q", data, 0, len(data))
    return call(sequence, connection, "HELLO", before=bytes(data))


def send(
    sequence: int, connection: int, to: int, payload: bytes, *, cookie: int = 1, flags: int = 0, last: int = 0
) -> Record:
    item = FINAL.build(Kind.PAYLOAD_VEC, struct.pack("<2Q", len(payload), 0x1000 + sequence))
    message = struct.pack("<8Q", 64 + len(item), flags, 0, to, 0, 0, cookie, last) + item
    command = bytearray(FINAL.structs["kdbus_cmd_send"].size)
    struct.pack_into("<Q", command, 0, len(command))
    return call(
        sequence,
        connection,
        "SEND",
        before=bytes(command),
        message=message,
        payload=payload,
        payload_size=len(payload),
        peer=to,
    )


def test_what_differs_by_nature_is_not_in_the_lines() -> None:
    first = send(1, 2, 7, b"text", cookie=5, flags=EXPECT_REPLY, last=1000)
    second = send(9, 2, 3, b"text", cookie=6, flags=EXPECT_REPLY, last=2000)
    assert lines(first, same, ()) == lines(second, lambda number: {3: 7}[number], ())
    assert lines(first, same, ())[0] == "SEND to connection 7"


@pytest.mark.parametrize(
    "other",
    [
        send(1, 2, 8, b"text"),
        send(1, 2, 7, b"test"),
        send(1, 2, 7, b"text", flags=EXPECT_REPLY, last=1),
        send(1, 2, 7, b"text", last=1),
    ],
)
def test_what_a_message_says_is(other: Record) -> None:
    assert lines(send(1, 2, 7, b"text"), same, ()) != lines(other, same, ())


def test_masks_cover_parts_of_lines() -> None:
    masks = [re.compile(r"\d+ o'clock")]
    assert lines(send(1, 2, 7, b"at 7 o'clock"), same, masks) == lines(send(1, 2, 7, b"at 9 o'clock"), same, masks)


def sides(*recorded: Record) -> tuple[Recorded, Live]:
    """Both sides, where process 10 is live."""
    script = Script()
    for record in recorded:
        script.take(record)
    played = script.all_but("p10")
    then = Recorded(script, played, ())
    for record in recorded:
        if (key := ("5-x", record.connection or 0)) not in played:
            then.take(record, key)
    return then, Live(list(then.hellos.items()), (), lambda bus: bus)


def test_connections_are_paired_and_have_their_old_numbers() -> None:
    then, live = sides(hello(1, 1), hello(2, 2), send(3, 1, 2, b"hello", flags=EXPECT_REPLY, cookie=4))
    live.pair(("5-x", 2), 8)
    live.hear(hello(1, 9))
    live.hear(send(2, 9, 8, b"hello", flags=EXPECT_REPLY, cookie=77))
    assert live.now(("5-x", 1)) == 9
    assert not list(differences(then, live))
    said = then.requests[("5-x", 1), 4]
    assert live.request(("5-x", 1), said, 8) == 77
    assert live.request(("5-x", 1), said, 8) is None


def test_a_request_is_answered_that_says_the_same() -> None:
    then, live = sides(
        hello(1, 1),
        hello(2, 2),
        send(3, 1, 2, b"a", flags=EXPECT_REPLY, cookie=1),
        send(4, 1, 2, b"b", flags=EXPECT_REPLY, cookie=2),
    )
    live.pair(("5-x", 2), 2)
    live.hear(hello(1, 1))
    live.hear(send(2, 1, 2, b"b", flags=EXPECT_REPLY, cookie=8))
    live.hear(send(3, 1, 2, b"a", flags=EXPECT_REPLY, cookie=9))
    assert live.request(("5-x", 1), then.requests[("5-x", 1), 1], 2) == 9
    assert len(list(differences(then, live))) == 1


def test_failures_count_only_if_they_are_new_and_last() -> None:
    then, live = sides(hello(1, 1), hello(2, 2), send(3, 1, 2, b"a"))
    live.pair(("5-x", 2), 2)
    live.hear(hello(1, 1))
    refused = send(2, 1, 2, b"a")
    refused.errno, refused.reason = 105, "it is full"
    live.hear(refused)
    assert "+    fails: it is full" in next(differences(then, live))[1]
    live.hear(send(3, 1, 2, b"a"))
    assert not list(differences(then, live))


def test_connections_that_were_not_there_are_differences() -> None:
    then, live = sides(hello(1, 1), hello(2, 2))
    live.hear(hello(1, 1))
    live.hear(hello(2, 3))
    ((title, found),) = differences(then, live)
    assert "a new one" in title and "+HELLO" in found


def test_who_is_there_is_told() -> None:
    script = Script()
    for record in (hello(1, 1), hello(2, 2)):
        script.take(record)
    with pytest.raises(Unplayable, match="nobody in it is 'x'") as caught:
        script.chosen(["x"])
    assert "connection 2 on 5-x (p20)" in caught.value.advice
    with pytest.raises(Unplayable, match="nobody is left to be live"):
        script.check(script.chosen(["1", "p20"]))
    with pytest.raises(Unplayable, match="3 records missing"):
        script.take(Record(Event.DROPPED, 3, 0, 0, count=3))
    script.check(script.chosen(["5-x/1"]))
    assert script.given_buses == ["5-x"]
