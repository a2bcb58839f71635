# SPDX-License-Identifier: GPL-2.0-or-later
"""What a call says, as lines that are equal when two calls say the same, and that a person can read where they differ.

Left out is what differs by nature: addresses, times, deadlines, what the kernel filled in, sizes of structures, and the
numbers that a program counts itself (cookies of messages and matches; the serial of D-Bus, which is one of them).
Ids of connections, in members and in D-Bus's unique names (":1.7"), are those of the recording, and buses and endpoints
have no user's number in front. What else differs each time, a date in a payload say, a mask of the user's covers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from kdbus.abi.decode import COMMANDS, Flags, Item, Members, Named, Value
from tracing import payload
from tracing.escaping import quoted
from tracing.record import Phase, Record
from tracing.shown import Shown, items_of, show
from tracing.text import Style, TextWriter

_NATURAL = frozenset(
    "size msg_address address timeout_ns cookie cookie_reply src_id kernel_flags kernel_msg_flags offset fd"
    " return_flags start id128".split()
)
"""Members that differ by nature."""
_IDS = frozenset(("id", "dst_id", "owner_id"))
_UNIQUE = re.compile(r":1\.(\d+)")
_OWN = re.compile(r'^(MAKE_NAME ")\d+-')
_CHUNK = 80
_LONGEST = 1 << 20
_WRITER = TextWriter(Style(payload=_LONGEST))

Renumber = Callable[[int], int]
"""The id that a connection had when it was recorded."""


def same(number: int) -> int:
    """The `Renumber` of what was recorded."""
    return number


def lines(record: Record, renumber: Renumber, masks: Sequence[re.Pattern[str]]) -> list[str]:
    """The lines of a call. `masks`: what is not to be compared."""
    shown = show(record, _LONGEST)
    found = [f"{record.command}{_addressee(shown, renumber)}"]
    found += [f"    {_covered(line, masks)}" for line in _content(shown, renumber)]
    return found


def _addressee(shown: Shown, renumber: Renumber) -> str:
    if shown.record.command != "SEND":
        return ""
    for item in items_of(shown.message):
        if item.name == "DST_NAME":
            return f" to {_WRITER.value(item.value)[1:-1]}"
    to = shown.message.get("dst_id")
    if isinstance(to, Named):
        return " to all"
    return f" to connection {renumber(to)}" if isinstance(to, int) and to else ""


def _content(shown: Shown, renumber: Renumber) -> Iterator[str]:
    record = shown.record
    if record.command != "SEND":
        results = COMMANDS[record.command].results if record.command in COMMANDS else ()
        wanted = ("attach_flags_send", "attach_flags_recv", "flags")
        skipped = frozenset(name for name in results if name not in wanted)
        yield from _members({name: each for name, each in shown.arguments.items() if name not in skipped}, renumber)
        return
    for name, value in shown.message.items():
        if name == "flags" and isinstance(value, Flags) and value.value:
            yield f"flags {_WRITER.value(value)}"
    answers = shown.message.get("cookie_reply")
    if answers and not _expects_reply(shown.message):
        yield "a reply"
    rest: Members = {name: value for name, value in shown.message.items() if name not in ("flags", "dst_id")}
    yield from _members(rest, renumber)
    yield from _payload(shown, renumber)


def _expects_reply(message: Members) -> bool:
    return "KDBUS_MSG_EXPECT_REPLY" in getattr(message.get("flags"), "names", ())


def _members(members: Members, renumber: Renumber) -> Iterator[str]:
    for name, value in members.items():
        if name in _NATURAL or (isinstance(value, int) and value == 0):
            continue
        if name == "items":
            for item in value if isinstance(value, list) else []:
                if isinstance(item, Item) and item.name not in ("DST_NAME", "CANCEL_FD"):
                    yield from _item(item, renumber)
        elif not (isinstance(value, Flags) and not value.value):
            yield f"{name} {_WRITER.value(_renumbered(value, renumber, name), name)}"


def _item(item: Item, renumber: Renumber) -> Iterator[str]:
    name = item.name or f"item {item.number}"
    if name == "FDS":
        yield f"FDS, {max(0, item.size - 16) // 4} descriptors"
        return
    if isinstance(item.value, dict) and name.startswith("PAYLOAD_"):
        if name == "PAYLOAD_MEMFD":
            yield f"PAYLOAD_MEMFD, {item.value.get('size')} bytes"
        return
    text = _WRITER.value(_renumbered(item.value, renumber, "id" if name == "ID" else ""))
    yield _OWN.sub(r"\1", f"{name} {text}")


def _renumbered(value: Value, renumber: Renumber, name: str) -> Value:
    """A value without what differs by nature, and with the ids of the recording."""
    if isinstance(value, dict):
        return {key: _renumbered(each, renumber, key) for key, each in value.items()}
    if name in _IDS and isinstance(value, int):
        return renumber(value)
    return value


def _payload(shown: Shown, renumber: Renumber) -> Iterator[str]:
    record = shown.record
    if shown.dbus is not None:
        found = payload.as_object(shown.dbus, payload.dbus_version(record.payload))
        body = found.pop("body")
        for name, value in found.items():
            if name not in ("cookie", "reply_cookie", "sender"):
                yield f"D-Bus {name} {_unique(str(value), renumber)}"
        for value in body:
            yield from _chunks("D-Bus argument ", _unique(str(value), renumber))
    elif record.payload_size:
        cut = "" if len(record.payload) >= record.payload_size else ", cut"
        yield from _chunks(f"payload, {record.payload_size} bytes{cut}: ", quoted(record.payload, _LONGEST))


def _unique(text: str, renumber: Renumber) -> str:
    return _UNIQUE.sub(lambda found: f":1.{renumber(int(found[1]))}", text.encode("unicode_escape").decode())


def _chunks(front: str, text: str) -> Iterator[str]:
    """Long text in lines, so that a difference shows where it is."""
    yield front + text[:_CHUNK]
    for start in range(_CHUNK, len(text), _CHUNK):
        yield "    " + text[start : start + _CHUNK]


def _covered(line: str, masks: Sequence[re.Pattern[str]]) -> str:
    for mask in masks:
        line = mask.sub("*", line)
    return line


def failed_reply(record: Record) -> bool:
    """Whether a SEND that has waited for its reply got none."""
    return record.phase is Phase.RESUMED and bool(record.errno) and record.command == "SEND"
