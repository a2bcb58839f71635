# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 1 of the wire format: bytes of another implementation, messages there and back, and bytes of any kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kdbus.dbus import version1, version2
from kdbus.dbus.errors import InvalidValue, Malformed
from kdbus.dbus.message import Flag, Message, MessageType, method_call, signal
from kdbus.dbus.signature import single
from kdbus.dbus.values import Just, Variant
from kdbus.dbus.version1 import build, parse
from tests.support.dbus_values import signatures, typed_values, values

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


NOTHING = replace(signal("/a", "a.b", "S"), cookie=1)


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("y", 256), ("b", 1), ("i", 1.5), ("s", 1), ("s", "a\0"), ("s", "\ud800"), ("o", "x"), ("g", "z"), ("as", "x"),
        ("ay", [256]), ("ay", "x"), ("a{si}", {1: 1}), ("(ii)", (1,)), ("v", 1), ("v", Variant("()", ())), ("as", None),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(signature: str, value: Any) -> None:
    with pytest.raises(InvalidValue):
        version1.build(replace(NOTHING, signature=signature, body=(value,)))


def test_large_arrays_are_refused() -> None:
    with pytest.raises(InvalidValue):
        version1.build(replace(NOTHING, signature="ay", body=(bytes((1 << 26) + 1),)))
    with pytest.raises(InvalidValue):
        version1.build(replace(NOTHING, signature="ayay", body=(bytes(1 << 26), bytes(1 << 26))))


def test_a_value_within_itself_is_refused() -> None:
    inner: list[Variant] = []
    inner.append(Variant("av", inner))
    with pytest.raises(InvalidValue):
        version1.build(replace(NOTHING, signature="av", body=(inner,)))


@pytest.mark.parametrize(
    ("signature", "value", "right", "wrong"),
    [
        ("b", True, b"\1\0\0\0", b"\2\0\0\0"),
        ("o", "/a", b"/a\0", b"a/\0"),
        ("g", "s", b"\1s\0", b"\1z\0"),
        ("s", "a", b"a\0", b"\xff\0"),
        ("s", "a", b"a\0", b"aa"),
    ],
)
def test_values_that_lie_are_malformed(signature: str, value: Any, right: bytes, wrong: bytes) -> None:
    data = version1.build(replace(NOTHING, signature=signature, body=(value,)))
    assert data.endswith(right)
    with pytest.raises(Malformed):
        version1.parse(data[: -len(wrong)] + wrong)


def as_jeepney_has_it(value: Any) -> Any:
    """The value in jeepney's types: a variant is a pair there."""
    if isinstance(value, Variant):
        return (value.signature, as_jeepney_has_it(value.value))
    if isinstance(value, list):
        return [as_jeepney_has_it(each) for each in value]
    if isinstance(value, tuple):
        return tuple(as_jeepney_has_it(each) for each in value)
    if isinstance(value, dict):
        return {key: as_jeepney_has_it(each) for key, each in value.items()}
    return value


@given(typed_values(dbus=True), st.sampled_from(("little", "big")))
def test_jeepney_writes_the_same_bytes(typed: tuple[str, Any], order: Literal["little", "big"]) -> None:
    jeepney = pytest.importorskip("jeepney.low_level")
    signature, value = typed
    # jeepney has descriptors where an index is here.
    assume("h" not in signature and "'h'" not in repr(value))
    message = replace(NOTHING, signature=signature, body=(value,))
    endianness = jeepney.Endianness[order]
    number = jeepney.HeaderFields
    fields = {number.path: "/a", number.interface: "a.b", number.member: "S", number.signature: signature}
    header = jeepney.Header(endianness, jeepney.MessageType.signal, message.flags, 1, -1, 1, fields)
    data = version1.build(message, order=order)
    assert data == jeepney.Message(header, as_jeepney_has_it((value,))).serialise()
    assert version1.parse(data) == message


@given(typed_values(dbus=True))
def test_both_versions_say_the_same(typed: tuple[str, Any]) -> None:
    message = replace(NOTHING, signature=typed[0], body=(typed[1],))
    assert version2.parse(version2.build(version1.parse(version1.build(message)))) == message


def test_a_header_field_of_the_number_0_is_malformed() -> None:
    place = JEEPNEY.index(b"\x01\x01o")
    with pytest.raises(Malformed):
        version1.parse(JEEPNEY[:place] + b"\0" + JEEPNEY[place + 1 :])
