# SPDX-License-Identifier: GPL-2.0-or-later
"""GVariant's form: the examples of its specification, values there and back, and bytes of any kind."""

from __future__ import annotations

import struct
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdbus.dbus.errors import DBusError, InvalidValue, Malformed
from kdbus.dbus.gvariant import marshal
from kdbus.dbus.unmarshal import unmarshal
from kdbus.dbus.values import Just, Variant
from tests.support.dbus_values import signatures, typed_values

ORDERS = st.sampled_from(("little", "big"))

NORMAL: list[tuple[str, Any, bytes]] = [
    # GVariant Specification, section 2.6.
    ("s", "hello world", b"hello world\0"),
    ("ms", Just("hello world"), b"hello world\0\0"),
    ("ab", [True, False, False, True, True], b"\1\0\0\1\1"),
    ("(si)", ("foo", -1), b"foo\0\xff\xff\xff\xff\4"),
    ("a(si)", [("hi", -2), ("bye", -1)], b"hi\0\0\xfe\xff\xff\xff\3\0\0\0bye\0\xff\xff\xff\xff\4\t\x15"),
    ("as", ["i", "can", "has", "strings?"], b"i\0can\0has\0strings?\0\2\6\n\x13"),
    ("((ys)as)", ((ord("i"), "can"), ["has", "strings?"]), b"ican\0has\0strings?\0\4\r\5"),
    ("(yy)", (0x70, 0x80), b"\x70\x80"),
    ("(iy)", (96, 0x70), b"\x60\0\0\0\x70\0\0\0"),
    ("(yi)", (0x70, 96), b"\x70\0\0\0\x60\0\0\0"),
    ("a(iy)", [(96, 0x70), (648, 0xF7)], b"\x60\0\0\0\x70\0\0\0\x88\2\0\0\xf7\0\0\0"),
    ("ay", b"\4\5\6\7", b"\4\5\6\7"),
    ("ai", [4, 258], b"\4\0\0\0\2\1\0\0"),
    ("{si}", ("a key", 514), b"a key\0\0\0\2\2\0\0\6"),
    # By hand, from the rules.
    ("()", (), b"\0"),
    ("mi", None, b""),
    ("mi", Just(1), b"\1\0\0\0"),
    ("mms", Just(None), b"\0"),
    ("v", Variant("u", 7), b"\7\0\0\0\0u"),
    ("v", Variant("v", Variant("s", "x")), b"x\0\0s\0v"),
    ("a{sv}", {"a": Variant("y", 1)}, b"a\0\0\0\0\0\0\0\1\0y\2\x0c"),
    ("a{yq}", {1: 2, 3: 4}, b"\1\0\2\0\3\0\4\0"),
    ("as", [], b""),
    ("aay", [b"", b""], b"\0\0"),
    ("d", 1.0, struct.pack("<d", 1.0)),
    ("o", "/org/example", b"/org/example\0"),
    ("g", "a{sv}", b"a{sv}\0"),
    # 254 bytes of string leave one for one offset of one byte; one byte more, and offsets need two.
    ("as", ["x" * 253], b"x" * 253 + b"\0\xfe"),
    ("as", ["x" * 254], b"x" * 254 + b"\0\xff\0"),
]


@pytest.mark.parametrize(("signature", "value", "data"), NORMAL)
def test_normal_form(signature: str, value: Any, data: bytes) -> None:
    assert marshal(signature, value) == data
    assert unmarshal(signature, data, strict=True) == value
    assert unmarshal(signature, data) == value


def test_the_structure_array_of_the_specification_ends_with_the_end_of_its_last_element() -> None:
    """The specification prints this example without its last byte, which its own rules demand."""
    assert marshal("a(si)", [("hi", -2), ("bye", -1)])[-2:] == b"\x09\x15"


@pytest.mark.parametrize(
    ("signature", "value", "data"),
    [
        ("(nu)", (1, 2), b"\0\1\0\0\0\0\0\2"),
        ("ax", [-2], b"\xff" * 7 + b"\xfe"),
        ("(si)", ("foo", 1), b"foo\0\0\0\0\1\4"),
        ("as", ["x" * 300], b"x" * 300 + b"\0\x2d\x01"),
    ],
)
def test_big_endian_swaps_numbers_and_not_offsets(signature: str, value: Any, data: bytes) -> None:
    assert marshal(signature, value, order="big") == data
    assert unmarshal(signature, data, order="big", strict=True) == value


@pytest.mark.parametrize(
    ("signature", "data", "value"),
    [
        # GVariant Specification, section 2.7.4.
        ("i", b"\x07\x33\x90", 0),
        ("(yi)", b"\x55\x66\x77\x88\2\1\0\0", (0x55, 258)),
        ("ab", b"\1\0\3\4\0\1\xff\x80\0", [True, False, True, True, False, True, True, True, False]),
        ("as", b"hello world\0\x0b\x0c", ["", ""]),
        ("s", b"foo\0bar\0", "foo"),
        ("s", b"foo\0bar", ""),
        ("mi", b"\x33\x44\x55\x66\x77\x88", None),
        ("a(yy)", b"\3\4\5\6\7", []),
        ("as", b"foo\0bar\0baz\0\x04\x10\x0c", ["foo", "", ""]),
        ("as", b"foo\0bar\0baz\0\x04\x00\x0c", ["foo", "", "foo"]),
        ("(ayayayayay)", b"\3\2\1", (b"\3", b"\2", b"\1", b"", b"")),
        # By hand, from the rules of section 2.7.3.
        ("o", b"org\0", "/"),
        ("o", b"/a\0b\0", "/"),
        ("g", b"a{vs}\0", ""),
        ("s", b"\xff\0", ""),
        ("v", b"", Variant("()", ())),
        ("v", b"\0u", Variant("u", 0)),
        ("v", b"\1\0z", Variant("()", ())),
        ("as", b"x\0\3", []),
        ("aay", b"\1\2\0\5", []),
        ("ms", b"x\0\1", Just("x")),
        ("(su)", b"", ("", 0)),
        ("(si)", b"foo\0\1\0\0\0\0\0\4", ("foo", 1)),
        ("()", b"\1", ()),
        ("as", b"x" * 250 + b"\0\xfb\0\xfb\0\xfb\0", ["x" * 250, "", ""]),
    ],
)  # fmt: skip
def test_deviations_have_a_value_and_are_refused_if_strict(signature: str, data: bytes, value: Any) -> None:
    assert unmarshal(signature, data) == value
    with pytest.raises(Malformed):
        unmarshal(signature, data, strict=True)


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("y", 256), ("y", -1), ("n", 1 << 15), ("t", 1 << 64), ("i", "1"), ("i", 1.5), ("b", 1), ("d", "1"),
        ("s", b"x"),
        ("s", "a\0b"), ("s", "\ud800"), ("o", "x"), ("g", "z"), ("as", "x"), ("as", 1), ("ay", "x"), ("ay", [256]),
        ("ai", [1 << 40]), ("a{sv}", {"a": 1}), ("a{si}", {1: 1}), ("(ii)", (1,)), ("(ii)", 1), ("v", 1), ("mi", 1),
        ("as", {"a": 1}),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(signature: str, value: Any) -> None:
    with pytest.raises(InvalidValue):
        marshal(signature, value)


def test_d_bus_has_fewer_types() -> None:
    with pytest.raises(DBusError):
        marshal("v", Variant("ms", None), dbus=True)
    with pytest.raises(Malformed):
        unmarshal("v", b"\0()", strict=True, dbus=True)
    assert unmarshal("v", b"\0\0()", strict=True) == Variant("()", ())


def test_depth_is_bounded_both_ways() -> None:
    value, data = Variant("y", 1), b"\1\0y"
    for _ in range(63):
        value, data = Variant("v", value), data + b"\0v"
    assert marshal("v", value) == data
    assert unmarshal("v", data, strict=True) == value
    with pytest.raises(InvalidValue):
        marshal("v", Variant("v", value))
    with pytest.raises(Malformed):
        unmarshal("v", data + b"\0v", strict=True)
    deepest = unmarshal("v", data + b"\0v" * 5000)
    for _ in range(63):
        deepest = deepest.value
    assert deepest == Variant("()", ())


def test_a_value_within_itself_is_refused() -> None:
    inner: list[Variant] = []
    inner.append(Variant("av", inner))
    with pytest.raises(InvalidValue):
        marshal("av", inner)


def overlapping(levels: int, elements: int) -> bytes:
    """An array of arrays and so on, in which each element is all that stands before the offsets."""
    data = b"x\0"
    for _ in range(levels):
        size = len(data)
        width = 1 if size + 2 * elements < 256 else 2
        data += b"".join(end.to_bytes(width, "little") for _ in range(elements) for end in (0, size))
    return data


def test_what_overlaps_is_bounded() -> None:
    """Eight levels of sixteen elements each would be four thousand million strings."""
    signature = "a" * 8 + "s"
    with pytest.raises(Malformed, match="cost more"):
        unmarshal(signature, overlapping(8, 16))
    with pytest.raises(Malformed, match="normal form"):
        unmarshal(signature, overlapping(8, 16), strict=True)


def test_defaults_are_bounded() -> None:
    """Each of these bytes is an element that is wrong, and would be 250 values."""
    with pytest.raises(Malformed, match="cost more"):
        unmarshal("a(" + "s" * 250 + ")", b"\1" + bytes(100) + b"\1" * 100)


@given(typed_values(), ORDERS)
@example(("a()", [(), ()]), "little")
def test_there_and_back(typed: tuple[str, Any], order: Literal["little", "big"]) -> None:
    signature, value = typed
    data = marshal(signature, value, order=order)
    assert unmarshal(signature, data, order=order, strict=True) == value
    assert unmarshal(signature, data, order=order) == value


@given(signatures(), st.binary(max_size=300), ORDERS)
@settings(max_examples=400)
def test_any_bytes_are_a_value_and_strict_ones_are_its_normal_form(
    signature: str, data: bytes, order: Literal["little", "big"]
) -> None:
    try:
        value = unmarshal(signature, data, order=order)
    except Malformed:
        return
    normal = marshal(signature, value, order=order)
    try:
        strict = unmarshal(signature, data, order=order, strict=True)
    except Malformed:
        return
    assert repr(strict) == repr(value)
    assert normal == data or "{" in signature or b"{" in data


@given(typed_values(), st.data())
def test_damaged_bytes_raise_nothing_else(typed: tuple[str, Any], data: st.DataObject) -> None:
    signature, value = typed
    damaged = bytearray(marshal(signature, value))
    for _ in range(data.draw(st.integers(1, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for strict in (False, True):
        try:
            unmarshal(signature, damaged, strict=strict)
        except Malformed:
            continue
