# SPDX-License-Identifier: GPL-2.0-or-later
"""How messages are written for people who watch them."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Any

from interposer.watching.monitor import shown
from interposer.watching.table import Style
from kdbus.dbus import message, version2

PLAIN = Style(coloured=False)
DBUS = int.from_bytes(b"DBusDBus", "big")


def line(**changed: Any) -> list[str]:
    record = {
        "record": "message",
        "domain": 0,
        "bus": "0-x",
        "time_ns": 1_500_000_000_123_456_789,
        "kind": "call",
        "from": 2,
        "from_names": [],
        "from_command": "client",
        "to": 1,
        "to_name": None,
        "to_command": "service",
        "cookie": 7,
        "reply_to": None,
        "took_ns": None,
        "payload_type": 0,
        "size": len(changed.get("payload", b"")),
        "memfds": 0,
        "descriptors": 0,
        "notification": None,
        "failed": None,
        **changed,
    }
    record["payload"] = b64encode(record.get("payload", b"")).decode()
    return [text.partition("  ")[2] for text in shown(record, PLAIN)]


def test_plain_payload() -> None:
    assert line(payload=b"hello\x1b[2J\n") == [r'0-x  2 (client) -> 1 (service)  call 7, 10 bytes  "hello\33[2J\n"']
    assert line(payload=b"x" * 60)[0].endswith('"' + "x" * 48 + '"...')
    assert line(memfds=1, descriptors=2)[0].endswith("call 7, 0 bytes, 1 memfds, 2 descriptors")


def test_dbus() -> None:
    call = message.method_call(None, "/org/x", "org.x.I", "Frob", "su", ("a\n", 5))
    data = version2.build(replace(call, cookie=1))
    (text,) = line(payload=data, payload_type=DBUS)
    assert text.endswith(r"  /org/x org.x.I.Frob('a\n', 5)")
    # What only claims to be it is shown as it is.
    assert line(payload=data[:-3], payload_type=DBUS)[0].endswith('"...')


def test_whoever_sends_and_gets_it() -> None:
    assert line(to=None, to_command=None, kind="signal") == ["0-x  2 (client) -> all  signal 7, 0 bytes"]
    assert line(to_name="org.x") == ["0-x  2 (client) -> 1 org.x (service)  call 7, 0 bytes"]
    assert line(from_names=["org.y", "a.z"]) == ["0-x  2 org.y a.z (client) -> 1 (service)  call 7, 0 bytes"]
    assert line(from_command="\x1b\n") == [r"0-x  2 (\x1b\n) -> 1 (service)  call 7, 0 bytes"]
    assert line(domain=3)[0].startswith("3:0-x  ")


def test_notifications() -> None:
    def notice(**about: object) -> str:
        (text,) = line(**{"from": 0, "from_command": None, "notification": about, "reply_to": 9})
        return text.partition("(service)  ")[2]

    name = {"name": "org.x", "old": None, "new": 4}
    assert notice(type="NAME_ADD", **name) == "NAME_ADD org.x nobody -> 4"
    assert notice(type="ID_REMOVE", name=None, old=4, new=None) == "ID_REMOVE 4"
    assert notice(type="REPLY_DEAD", name=None, old=None, new=None) == "REPLY_DEAD to cookie 9"


def test_failures_and_losses() -> None:
    first, second = line(failed={"errno": "ENOBUFS", "reason": "full\n"})
    assert first.endswith("call 7, 0 bytes")
    assert second == "  failed with ENOBUFS: full\\n"
    assert shown({"record": "dropped", "count": 4}, PLAIN) == [
        "... 4 messages are missing: they came faster than they were read"
    ]
    assert shown({"record": "something new"}, PLAIN) == []
