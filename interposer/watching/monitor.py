# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus monitor`: the messages that pass, one line for each, as they pass.

A line says when, on which bus, from whom, to whom, what it is (a reply: how long it took), how large, and how it
begins; where D-Bus is spoken, instead of that the path, interface, member and arguments. A SEND that fails has a second
line, with the reason in the broker's words.

With --json a line is one record as it came (docs/watching.md).
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Iterator
from typing import TYPE_CHECKING

from interposer.errors import printable
from interposer.watching import ask, wire
from interposer.watching.show import Facts, label
from interposer.watching.table import Style, size_of, style_of, time_of
from interposer.watching.wire import Record

if TYPE_CHECKING:
    from kdbus.dbus.message import Message

_PREVIEW = 4096
"""Bytes of payload that are asked for: more than most messages of D-Bus have."""
_SHOWN = 48
"""Characters of it that are shown."""
_DBUS = int.from_bytes(b"DBusDBus", "big")
"""KDBUS_PAYLOAD_DBUS."""


def lines(
    domain: str | None, process: int | None, wanted: dict[str, object], count: int | None, *, as_json: bool
) -> Iterator[str]:
    """What `kdbus monitor` prints, as it comes: at most `count` messages.

    `wanted`: a filter (`interposer.watching.filters`). Raises NothingToWatch.
    """
    style = style_of()
    with ask.watch(domain, process) as watching:
        if "bus" in wanted:
            Facts(watching.ask(wire.FACTS), str(wanted["bus"]))
        stream = watching.stream(wire.MESSAGES, preview=_PREVIEW, filter=wanted)
        about = next(stream)
        if as_json:
            yield json.dumps(about) + "\n"
        else:
            yield style.minor(f"watching process {about.get('pid')}; what passes is shown until Ctrl-C") + "\n"
        for record in stream:
            yield json.dumps(record) + "\n" if as_json else "".join(f"{line}\n" for line in shown(record, style))
            if record["record"] == "message" and count is not None:
                count -= 1
                if not count:
                    return
        if not as_json:
            yield style.minor("the kdbus has ended") + "\n"


def shown(record: Record, style: Style) -> list[str]:
    """One record for people."""
    if record["record"] == "dropped":
        return [style.bad(f"... {record['count']} messages are missing: they came faster than they were read")]
    if record["record"] != "message":
        return []
    when = time.strftime("%H:%M:%S", time.localtime(record["time_ns"] // 10**9))
    start = f"{when}.{record['time_ns'] // 1000 % 10**6:06}  {label(record)}"
    found = [f"{start}  {_whom(record, 'from')} -> {_whom(record, 'to')}  {_what(record, style)}"]
    if record["failed"] is not None:
        failure = f"{record['failed']['errno']}: {record['failed']['reason']}"
        found.append("    " + style.bad(f"failed with {printable(failure)}"))
    return found


def _whom(record: Record, side: str) -> str:
    number, command = record[side], record[f"{side}_command"]
    names = [name for name in ([record["to_name"]] if side == "to" else record["from_names"]) if name is not None]
    if side == "from" and not number:
        return "the bus"
    words = "all" if number is None and not names else "" if number is None else str(number)
    words = " ".join([words, *map(printable, names)]).lstrip()
    return f"{words} ({printable(command)})" if command is not None else words


def _what(record: Record, style: Style) -> str:
    notification = record["notification"]
    if notification is not None:
        return style.minor(_notice(record, notification))
    kind = style.heading(record["kind"])
    words = f"{kind} to {record['reply_to']}" if record["kind"] == "reply" else f"{kind} {record['cookie']}"
    if record["took_ns"] is not None:
        words += f" after {time_of(record['took_ns'])}"
    extra = "".join(f", {record[key]} {key}" for key in ("memfds", "descriptors") if record[key])
    return f"{words}, {size_of(record['size'])} bytes{extra}  {_content(record, style)}".rstrip()


def _notice(record: Record, notification: Record) -> str:
    words = [notification["type"]]
    if notification["name"] is not None:
        words.append(printable(notification["name"]))
    if notification["type"].startswith("NAME"):
        words.append(f"{notification['old'] or 'nobody'} -> {notification['new'] or 'nobody'}")
    elif notification["type"].startswith("ID"):
        words.append(str(notification["old"] or notification["new"]))
    elif record["reply_to"]:
        words.append(f"to cookie {record['reply_to']}")
    return " ".join(words)


def _content(record: Record, style: Style) -> str:
    data = b64decode(record["payload"])
    if record["payload_type"] == _DBUS and len(data) == record["size"]:
        message = _as_dbus(data)
        if message is not None:
            return _call(message, style)
    if not data:
        return ""
    from tracing.escaping import quoted

    return style.minor(quoted(data, _SHOWN))


def _as_dbus(data: bytes) -> Message | None:
    """The message of D-Bus that these bytes are, None if they are none."""
    from kdbus.dbus.errors import DBusError
    from kdbus.dbus.version2 import parse

    try:
        return parse(data)
    except DBusError:
        return None


def _call(message: Message, style: Style) -> str:
    """A message of D-Bus, as D-Feet and busctl name its parts."""
    member = ".".join(part for part in (message.interface, message.member) if part)
    words = [message.path or "", style.name(printable(member)), printable(message.error_name or "")]
    arguments = ", ".join(_argument(value) for value in message.body)
    return " ".join(word for word in words if word) + (f"({arguments})" if message.signature or member else "")


def _argument(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
