# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 1 of the wire format: bytes of another implementation, messages there and back, and bytes of any kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbus.dbus.errors import InvalidValue, Malformed
from kdbus.dbus.message import Flag, Message, MessageType, method_call
from kdbus.dbus.signature import single
from kdbus.dbus.values import Just, Variant
from kdbus.dbus.version1 import build, parse
from tests.support.dbus_values import signatures, values

CALL = replace(
    method_call("org.x.Y", "/a/b", "org.x.I", "Foo", "sa{sv}(iu)ay", ("hi", {"k": Variant("d", 0.5)}, (1, 2), b"ab")),
    cookie=5,
)
JEEPNEY = (
    b"l\x01\x00\x016\x00\x00\x00\x05\x00\x00\x00R\x00\x00\x00\x01\x01o\x00\x04\x00\x00\x00/a/b\x00\x00\x00\x00\x02\x01s"
    b"\x00\x07\x00\x00\x00org.x.I\x00\x03\x01s\x00\x03\x00\x00\x00Foo\x00\x00\x00\x00\x00\x06\x01s\x00\x07\x00\x00\x00"
    b"org.x.Y\x00\x08\x01g\x00\x0csa{sv}(iu)ay\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00hi\x00\x00\x18\x00\x00\x00"
    b"\x00\x00\x00\x00\x01\x00\x00\x00k\x00\x01d\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xe0?\x01\x00"
    b"\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00ab"
)
"""The same as jeepney 0.9.0 marshals it."""


def test_bytes_of_another_implementation() -> None:
    assert build(CALL) == JEEPNEY
    assert parse(JEEPNEY) == CALL


def test_the_other_byte_order() -> None:
    data = (
        b"B\x02\x01\x01\x00\x00\x00\x04\x00\x00\x00\x07\x00\x00\x00\x0f\x05\x01u\x00\x00\x00\x00\x03\x08\x01g\x00\x01i"
        b"\x00\x00\xff\xff\xff\xfe"
    )
    assert parse(data) == Message(
        type=MessageType.METHOD_RETURN,
        flags=Flag.NO_REPLY_EXPECTED,
        cookie=7,
        reply_cookie=3,
        signature="i",
        body=(-2,),
    )


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kinds = draw(st.lists(signatures(dbus=True), max_size=3))
    body: tuple[Any, ...] = tuple(draw(values(single(kind), dbus=True)) for kind in kinds)
    return replace(
        method_call(":1.7", "/a", "a.b", "C", "".join(kinds), body), cookie=draw(st.integers(1, (1 << 32) - 1))
    )


@given(messages())
def test_there_and_back(message: Message) -> None:
    data = build(message)
    assert build(parse(data)) == data  # compared as bytes, as no two NaN are equal
    for cut in range(0, len(data), 7):
        with pytest.raises(Malformed):
            parse(data[:cut])


@given(st.binary(max_size=200), st.integers(0, len(JEEPNEY)))
def test_no_bytes_do_harm(data: bytes, start: int) -> None:
    for each in (b"l\1\0\1" + data, JEEPNEY[:start] + data + JEEPNEY[start + len(data) :]):
        try:
            parse(each)
        except Malformed:
            continue


def test_variants_within_variants_have_an_end() -> None:
    inner = b"\1v\0" * 100
    data = b"l\4\0\1" + (len(inner)).to_bytes(4, "little") + b"\1\0\0\0" + b"\x07\0\0\0\x08\1g\0\1v\0" + bytes(1)
    with pytest.raises(Malformed, match="more than 64 containers"):
        parse(data + inner)


def test_cookies_lose_their_upper_half() -> None:
    assert parse(build(replace(CALL, cookie=(9 << 32) + 3))).cookie == 3
    assert parse(build(replace(CALL, cookie=9 << 32))).cookie == 1


def test_what_does_not_fit() -> None:
    with pytest.raises(InvalidValue):
        build(replace(CALL, signature="y", body=(256,)))
    with pytest.raises(InvalidValue):
        build(replace(CALL, signature="v", body=(Variant("mi", Just(1)),)))


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        ("b", b"\1\0\0\0", b"\2\0\0\0"),
        ("o", b"\2\0\0\0/a\0", b"\2\0\0\0a/\0"),
        ("g", b"\2ai\0", b"\2aa\0"),
    ],
)
def test_values_that_their_types_do_not_have(kind: str, good: bytes, bad: bytes) -> None:
    value = {"b": True, "o": "/a", "g": "ai"}[kind]
    data = build(replace(method_call("a.b", "/", "c.d", "E", kind, (value,)), cookie=1))
    assert data.endswith(good)
    with pytest.raises(Malformed):
        parse(data[: -len(bad)] + bad)


def test_a_header_field_that_has_the_number_of_none() -> None:
    place = JEEPNEY.index(b"\x01\x01o")
    with pytest.raises(Malformed):
        parse(JEEPNEY[:place] + b"\0" + JEEPNEY[place + 1 :])


def test_an_array_that_is_too_long_is_not_built() -> None:
    with pytest.raises(InvalidValue, match="array"):
        build(replace(method_call("a.b", "/", "c.d", "E", "ay", (bytes((1 << 26) + 1),)), cookie=1))
