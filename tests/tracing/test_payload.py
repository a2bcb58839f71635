# SPDX-License-Identifier: GPL-2.0-or-later
"""Payloads that are D-Bus are shown as D-Bus, in both versions of its wire format, and stay bytes if they are not."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbus.dbus import version1, version2
from kdbus.dbus.message import Message, error, method_call
from kdbus.dbus.values import Variant
from tests.support.building import item
from tests.tracing.test_text import call, line, words
from tracing import json_lines
from tracing.payload import MOST, as_object, dbus_version, parse, text
from tracing.record import Record
from tracing.shown import show
from tracing.text import Style

BODY = ("a\n" * 20, {"k": Variant("d", float("inf"))}, b"\0\1", True, {1: (2, -3)})
CALL = replace(method_call("org.x.Y", "/a", "org.x.I", "Do", "sa{sv}ayba{u(ui)}", BODY), cookie=5)
FAILURE = replace(error(CALL, "org.x.Failed", "no"), cookie=6)
each_version = pytest.mark.parametrize("build", [version1.build, version2.build], ids=["1", "2"])


def sent(payload: bytes, kind: int = 0x4442757344427573, size: int | None = None) -> Record:
    message = words(64, 0, 0, 9, 0, kind, 5, 0) + item(2, struct.pack("<2Q", len(payload), 0x1000))
    size = len(payload) if size is None else size
    return call("SEND", words(56, 0, 0, 0x2000, 0, 0, 0), message=message, payload=payload, payload_size=size)


@each_version
def test_for_people(build: Callable[[Message], bytes]) -> None:
    data = build(CALL)
    assert line(sent(data), Style(thread=False, payload=6)).split("}]}}, ")[1] == (
        rf'{len(data)} D-Bus {{METHOD_CALL, destination="org.x.Y", path="/a", interface="org.x.I", member="Do",'
        r' signature="sa{sv}ayba{u(ui)}", body=["a\na\na\n"..., {"k": <d inf>}, "\0\1", true, {1: (2, -3)}]})'
        " = 0 <0.000042>\n"
    )


@each_version
def test_for_programs(build: Callable[[Message], bytes]) -> None:
    data = build(CALL)
    found = json.loads(json_lines.line(show(sent(data)), 4))
    assert found["payload"] == {"size": len(data), "hex": data[:4].hex()}
    assert found["dbus"] == {
        "version": 1 if build is version1.build else 2,
        "type": "METHOD_CALL",
        "cookie": 5,
        "destination": "org.x.Y",
        "path": "/a",
        "interface": "org.x.I",
        "member": "Do",
        "signature": "sa{sv}ayba{u(ui)}",
        "body": [
            "a\n" * 20,
            {"k": {"signature": "d", "value": "inf"}},
            {"hex": "0001"},
            True,
            [[1, [2, -3]]],
        ],
    }


@each_version
def test_errors_say_what_they_answer(build: Callable[[Message], bytes]) -> None:
    parsed = parse(build(FAILURE))
    assert parsed is not None
    assert text(parsed, 32) == '{ERROR, error_name="org.x.Failed", reply_cookie=5, signature="s", body=["no"]}'


def test_what_is_not_dbus_stays_bytes() -> None:
    data = version2.build(CALL)
    for record in (sent(data, kind=1), sent(data, size=len(data) + 1), sent(data[:-1]), sent(b"hello")):
        assert "D-Bus" not in line(record)
        assert "dbus" not in json.loads(json_lines.line(show(record)))
    assert parse(b"l\1\0\2" + bytes(MOST)) is None


@given(st.sampled_from([b"l\1\0\1", b"l\1\0\2", b"B\4\0\1", b""]), st.binary(max_size=100))
def test_no_payload_makes_it_fail(start: bytes, rest: bytes) -> None:
    parsed = parse(start + rest)
    if parsed is not None:
        text(parsed, 10)
        json.dumps(as_object(parsed, dbus_version(start + rest)), allow_nan=False)
