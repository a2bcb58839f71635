# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages: what can be one (D-Bus Specification, "Message Types" and "Header Fields")."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdbus.dbus.errors import DBusError
from kdbus.dbus.message import Flag, Message, MessageType, error, method_call, method_return, signal

CALL = method_call("org.example.A", "/a", "org.example.I", "M", "su", ("x", 1))


@pytest.mark.parametrize(
    "change",
    [
        {"path": None}, {"member": None}, {"path": "a"}, {"path": "/org/freedesktop/DBus/Local"}, {"member": "a.b"},
        {"interface": "org"}, {"interface": "org.freedesktop.DBus.Local"}, {"destination": "org"}, {"sender": ":1"},
        {"error_name": "x"}, {"reply_cookie": 1}, {"cookie": -1}, {"cookie": 1 << 64}, {"signature": "s"},
        {"signature": "z"}, {"body": ()}, {"descriptors": -1}, {"type": MessageType.METHOD_RETURN},
        {"type": MessageType.ERROR}, {"type": MessageType.SIGNAL, "interface": None},
        {"type": MessageType.ERROR, "reply_cookie": 1},
    ],
)  # fmt: skip
def test_what_cannot_be_a_message_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DBusError):
        replace(CALL, **change)


def test_a_call_needs_no_interface_and_no_destination() -> None:
    assert replace(CALL, interface=None, destination=None).expects_reply


def test_replies_go_back_to_the_caller() -> None:
    call = replace(CALL, cookie=7, sender=":1.3")
    for reply in (method_return(call, "s", ("y",)), error(call, "org.example.Error.No", "no")):
        assert (reply.destination, reply.reply_cookie) == (":1.3", 7)
        assert reply.flags == Flag.NO_REPLY_EXPECTED and not reply.expects_reply
    assert error(call, "org.example.Error.No", "no").body == ("no",)


def test_who_expects_a_reply() -> None:
    assert CALL.expects_reply
    assert not replace(CALL, flags=Flag.NO_REPLY_EXPECTED).expects_reply
    assert not signal("/a", "org.example.I", "S").expects_reply


@pytest.mark.parametrize("cookie", [0, 1 << 64])
def test_a_reply_refers_to_a_cookie(cookie: int) -> None:
    with pytest.raises(DBusError):
        Message(type=MessageType.METHOD_RETURN, reply_cookie=cookie)
