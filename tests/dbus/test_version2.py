# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 2 of the wire format: bytes written by hand, messages there and back, and bytes of any kind."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbus.dbus import version2
from kdbus.dbus.errors import InvalidValue, Malformed
from kdbus.dbus.gvariant import Order, marshal
from kdbus.dbus.message import Flag, Message, MessageType, error, method_call, method_return, signal
from kdbus.dbus.names import is_path
from kdbus.dbus.signature import single
from kdbus.dbus.unmarshal import unmarshal
from kdbus.dbus.values import Variant
from kdbus.dbus.version2 import build, build_parts, parse
from tests.support.dbus_values import signatures, values

SIGNAL = replace(signal("/a", "a.b", "C", "s", ("x",)), cookie=1)
CALL = replace(method_call(":1.7", "/a", "a.b", "C", flags=Flag.NO_AUTO_START), cookie=1 << 40)


def field(number: int, content: bytes) -> bytes:
    """A header field without the padding before it."""
    return struct.pack("<Q", number) + content


def test_a_signal_by_hand() -> None:
    data = (
        b"l\4\1\2" + bytes(4) + struct.pack("<Q", 1)
        + field(1, b"/a\0\0o") + bytes(3)
        + field(2, b"a.b\0\0s") + bytes(2)
        + field(3, b"C\0\0s")
        + bytes((13, 30, 44))  # Ends of the fields, from the array's start at byte 16.
        + bytes(1)
        + b"x\0" + b"\0(s)"
        + bytes((63,))  # The end of the array.
    )  # fmt: skip
    assert build(SIGNAL) == data
    assert parse(data) == SIGNAL


def test_a_call_without_arguments_by_hand() -> None:
    data = (
        b"l\1\2\2" + bytes(4) + struct.pack("<Q", 1 << 40)
        + field(1, b"/a\0\0o") + bytes(3)
        + field(3, b"C\0\0s") + bytes(4)
        + field(2, b"a.b\0\0s") + bytes(2)
        + field(6, b":1.7\0\0s")
        + bytes((13, 28, 46, 63))
        + bytes(5)  # The array ends at byte 16 + 67.
        + b"\0" + b"\0()"  # An empty structure is one byte.
        + bytes((83,))
    )  # fmt: skip
    assert build(CALL) == data
    assert parse(data) == CALL


PRINT = replace(
    method_call("org.example.Printer", "/org/example/Printer", "org.example.Printer", "Print", "su", ("text", 2)),
    cookie=1,
)
CHANGED = (
    "a.b",
    {"Volume": Variant("d", 0.5), "Mode": Variant("(su)", ("x", 1))},
    ["Ink"],
)


ORDERS: tuple[Order, ...] = ("little", "big")
WRITTEN = [
    (
        PRINT,
        "6c01000200000000010000000000000001000000000000002f6f72672f6578616d706c652f5072696e74657200006f00"
        "03000000000000005072696e7400007302000000000000006f72672e6578616d706c652e5072696e7465720000730000"
        "06000000000000006f72672e6578616d706c652e5072696e7465720000731f304e6e0000000000007465787400000000"
        "0200000005002873752982",
    ),
    (
        replace(method_return(PRINT, "u", (7,)), cookie=2),
        "6c020102000000000200000000000000050000000000000001000000000000000074120000000000070000000028752923",
    ),
    (
        replace(error(PRINT, "org.example.Error.No", "no"), cookie=3),
        "6c0301020000000003000000000000000500000000000000010000000000000000740000000000000400000000000000"
        "6f72672e6578616d706c652e4572726f722e4e6f0000731237000000000000006e6f000028732949",
    ),
    (
        replace(signal("/a", "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", CHANGED), cookie=4),
        "6c04010200000000040000000000000001000000000000002f6100006f00000002000000000000006f72672e66726565"
        "6465736b746f702e444275732e50726f70657274696573000073000000000000030000000000000050726f7065727469"
        "65734368616e6765640000730d3a5c00612e620000000000566f6c756d650000000000000000e03f0064070000000000"
        "4d6f646500000000780000000100000002002873752905132f496e6b00043904002873617b73767d6173296f",
    ),
    (
        replace(signal("/", "a.b", "S"), cookie=5),
        "6c04010200000000050000000000000001000000000000002f00006f000000000200000000000000612e620000730000"
        "0300000000000000530000730c1e2c00000028293f",
    ),
]


@pytest.mark.parametrize(
    ("message", "data"),
    WRITTEN,
    ids=["call", "return", "error", "signal", "no arguments"],
)
def test_what_sd_bus_wrote(message: Message, data: str) -> None:
    """Bytes that the sd-bus of systemd 247 made (libsystemd0 of Debian 11, told to use version 2), one of the last that
    had GVariant."""
    assert build(message).hex() == data
    assert parse(bytes.fromhex(data)) == message


def test_it_is_one_value_of_gvariant() -> None:
    data = build(SIGNAL)
    fields = {1: Variant("o", "/a"), 2: Variant("s", "a.b"), 3: Variant("s", "C")}
    whole = (ord("l"), 4, 1, 2, 0, 1, fields, Variant("(s)", ("x",)))
    assert marshal("(yyyyuta{tv}v)", whole) == data
    assert unmarshal("(yyyyuta{tv}v)", data, strict=True) == whole


def test_parts_put_together_are_the_message() -> None:
    parts = build_parts(SIGNAL)
    assert b"".join(parts) == build(SIGNAL)
    assert len(parts.head) % 8 == 0
    assert parts.body == b"x\0"


def test_large_messages_have_wider_offsets() -> None:
    for size in (150, 190, 200, 230, 65400, 65500, 70000):
        for extra in range(12):
            message = replace(SIGNAL, body=("x" * (size + extra),))
            assert parse(build(message)) == message


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(
    "message",
    [
        SIGNAL,
        CALL,
        replace(method_return(replace(CALL, sender=":1.5"), "a{sv}ah", ({"a": Variant("i", -1)}, [0, 1])), cookie=2),
        replace(method_return(CALL, descriptors=2), cookie=(1 << 64) - 1),
        replace(error(CALL, "org.example.Error.No", "no"), cookie=3, sender="org.example.A"),
        replace(CALL, interface=None, destination=None, flags=Flag(7)),
        replace(SIGNAL, signature="y" * 255, body=(7,) * 255),
    ],
)
def test_there_and_back(message: Message, order: Literal["little", "big"]) -> None:
    assert parse(build(message, order=order)) == message


def test_the_cookie_must_be_there() -> None:
    with pytest.raises(InvalidValue):
        build(replace(SIGNAL, cookie=0))


@pytest.mark.parametrize("body", [(1,), ("a\0",), (None,)])
def test_the_body_must_fit(body: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidValue):
        build(replace(SIGNAL, body=body))


BODY = Variant("(s)", ("x",))


def raw(
    fields: list[tuple[int, Variant]], *, kind: int = 4, version: int = 2, letter: str = "l", cookie: int = 1,
    body: Variant = BODY,
) -> bytes:  # fmt: skip
    """A message whose parts are free to be wrong."""
    return marshal("(yyyyuta(tv)v)", (ord(letter), kind, 1, version, 0, cookie, fields, body))


FIELDS = [(1, Variant("o", "/a")), (2, Variant("s", "a.b")), (3, Variant("s", "C"))]


def test_fields_may_come_in_any_order_and_unknown_ones_are_ignored() -> None:
    more = [(300, Variant("as", ["x"])), *reversed(FIELDS), (10, Variant("u", 1))]
    assert parse(raw(more)) == SIGNAL


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(16),
        raw(FIELDS, letter="x"),
        raw(FIELDS, letter="B"),
        raw(FIELDS, version=1),
        raw(FIELDS, version=3),
        raw(FIELDS, kind=0),
        raw(FIELDS, kind=5),
        raw(FIELDS, cookie=0),
        raw(FIELDS[:2]),
        raw([*FIELDS, FIELDS[0]]),
        raw([*FIELDS, (0, Variant("y", 1))]),
        raw([*FIELDS, (5, Variant("t", 1))]),
        raw([*FIELDS, (8, Variant("g", "s"))]),
        raw([*FIELDS, (9, Variant("t", 1))]),
        raw([*FIELDS[:2], (3, Variant("o", "/C"))]),
        raw([*FIELDS[:2], (3, Variant("s", "a.b"))]),
        raw([(1, Variant("o", "/org/freedesktop/DBus/Local")), *FIELDS[1:]]),
        raw([(5, Variant("u", 1))], kind=2),
        raw([(5, Variant("t", 0))], kind=2),
        raw(FIELDS, body=Variant("s", "x")),
        raw(FIELDS, body=Variant("(v)", (Variant("()", ()),))),
        raw(FIELDS, body=Variant("(ms)", (None,))),
        raw([*FIELDS, (300, Variant("()", ()))]),
        build(SIGNAL)[:-1],
        build(SIGNAL) + b"\0",
        build(SIGNAL)[:-1] + b"\xff",
        build(SIGNAL)[:-1] + b"\x0f",
        build(SIGNAL).replace(b"\0(s)", b"\0s)("),
        build(SIGNAL).replace(b"\0(s)", b"\0(z)"),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


def test_brackets_that_do_not_belong_together_are_no_structure() -> None:
    data = build(replace(SIGNAL, signature="ss", body=("x", "y")))
    with pytest.raises(Malformed):
        parse(data.replace(b"(ss)", b"s)(s"))


def test_a_number_that_counts_as_true_is_no_type() -> None:
    assert MessageType(1) in MessageType
    with pytest.raises(Malformed):
        parse(raw(FIELDS, kind=255))


@given(st.lists(signatures(dbus=True), max_size=4), st.data())
def test_any_body_there_and_back(kinds: list[str], data: st.DataObject) -> None:
    body = tuple(data.draw(values(single(kind), dbus=True)) for kind in kinds)
    message = replace(SIGNAL, signature="".join(kinds), body=body)
    assert parse(build(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for start in (b"", b"l\4\1\2" + bytes(4)):
        try:
            message = parse(start + data)
        except Malformed:
            continue
        assert parse(build(message)) == message


@given(st.data())
def test_known_fields_are_what_all_fields_are(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from([message for message, _ in WRITTEN]))
    order: Order = data.draw(st.sampled_from(ORDERS))
    whole = bytearray(version2._packed_fields(message, order))
    for _ in range(data.draw(st.integers(0, 2))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found = version2._known_fields(bytes(whole), order)
    try:
        expected = version2._fields(unmarshal("a(tv)", whole, order=order, strict=True, dbus=True))
    except Malformed:
        # Not a path: nothing but the message itself asks for that.
        assert found is None or not is_path(found.get("path", "/"))
    else:
        assert found is None or found == expected


@given(st.data())
def test_damaged_messages_are_messages_or_malformed(data: st.DataObject) -> None:
    call = replace(CALL, sender=":1.5", signature="a{sv}(ib)", body=({"a": Variant("as", ["x", "y"])}, (1, True)))
    damaged = bytearray(build(call))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(damaged)
    except Malformed:
        return
