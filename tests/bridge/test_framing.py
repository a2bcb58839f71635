# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages in a stream: whole, in pieces, of both byte orders; claims that are not believed; descriptors."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.framing import Framing
from kdbus.dbus.errors import Malformed
from kdbus.dbus.message import signal
from kdbus.dbus.version1 import build, parse
from kdbus.received import Descriptor

MESSAGE = build(signal("/a", "b.c", "D", "s", ("text",)))
BIG = b"B\2\1\1\0\0\0\4\0\0\0\7\0\0\0\x0f\5\1u\0\0\0\0\3\x08\1g\0\1i\0\0\xff\xff\xff\xfe"
"""A reply in the other byte order."""


def framing() -> Framing:
    return Framing(longest=1 << 20, most_descriptors=3)


def all_of(cut: Framing) -> list[bytes]:
    found = []
    while (data := cut.next()) is not None:
        found.append(data)
    return found


@given(st.lists(st.sampled_from([MESSAGE, BIG]), max_size=5), st.integers(1, 100))
def test_any_pieces(sent: list[bytes], size: int) -> None:
    cut, stream, found = framing(), b"".join(sent), []
    for start in range(0, len(stream), size):
        cut.feed(stream[start : start + size])
        found += all_of(cut)
    assert found == sent


def test_types_that_are_not_known_are_left_out() -> None:
    cut = framing()
    cut.feed(MESSAGE[:1] + b"\7" + MESSAGE[2:] + BIG)
    assert all_of(cut) == [BIG]


@pytest.mark.parametrize("start", [b"x", b"\0", b"l\1\0\2", b"l\1\0\0", b"GET / HTTP/1.1\r\n"])
def test_what_is_no_message_is_told_at_once(start: bytes) -> None:
    cut = framing()
    cut.feed(start)
    with pytest.raises(Malformed):
        cut.next()


@pytest.mark.parametrize("body, fields", [(1 << 27, 0), (0, 1 << 27), (0xFFFFFFFF, 0xFFFFFFFF), (1 << 20, 8)])
@pytest.mark.parametrize("order", ["l<", "B>"])
def test_claims_above_the_limit_are_told_from_the_header_alone(order: str, body: int, fields: int) -> None:
    cut = framing()
    cut.feed(order[:1].encode() + b"\1\0\1" + struct.pack(order[1:] + "3I", body, 1, fields))
    with pytest.raises(Malformed, match="claims"):
        cut.next()


def descriptor() -> Descriptor:
    return Descriptor(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def test_descriptors_go_with_their_message() -> None:
    cut, first, second = framing(), descriptor(), descriptor()
    cut.feed(MESSAGE[:1], [first])
    assert cut.next() is None and cut.waits_with_descriptors
    cut.feed(MESSAGE[1:])
    assert cut.next() == MESSAGE
    assert cut.claim(1) == [first]
    cut.feed(MESSAGE, [second])
    assert cut.next() == MESSAGE
    with pytest.raises(Malformed):
        cut.claim(2)
    cut.close()
    with pytest.raises(ValueError, match="closed"):
        second.fileno()
    first.close()


def test_descriptors_without_a_message_end_it() -> None:
    cut = framing()
    cut.feed(MESSAGE, [descriptor()])
    assert cut.next() == MESSAGE
    with pytest.raises(Malformed, match="no message"):
        cut.next()
    cut.close()


def test_too_many_descriptors_end_it() -> None:
    cut = framing()
    with pytest.raises(Malformed):
        cut.feed(b"l", [descriptor() for _ in range(4)])
    cut.close()


@given(st.lists(st.binary(max_size=60), max_size=8), st.sampled_from([b"", MESSAGE[:16], MESSAGE]))
def test_no_bytes_do_harm(pieces: list[bytes], start: bytes) -> None:
    framing = Framing(1 << 20, 3)
    try:
        for piece in (start, *pieces):
            framing.feed(piece)
            while (data := framing.next()) is not None:
                parse(data)
    except Malformed:
        pass
    assert len(framing._buffer) <= len(start) + sum(map(len, pieces))
