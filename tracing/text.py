# SPDX-License-Identifier: GPL-2.0-or-later
"""Records as lines for people, in the form that strace has taught them.

    [pid  4711] SEND(3<0-system/bus 7>, {msg={flags=KDBUS_MSG_EXPECT_REPLY, dst_id=1, ...}}, 5 "hello") = 0 <0.000042>

Thread, command, the descriptor with what it stands for, the argument with its flags and items by name, the payload, and
behind `=>` what the kernel has stored; the result, and for a failed call the reason. Members that are zero, and sizes
of structures, are left out unless everything is asked for.

Whatever a program chooses (names, payloads, items) is escaped, so no program forges a line or moves a cursor.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdbus.abi.decode import COMMANDS, Address, Flags, Item, Members, Named, Text, Value
from kdbus.abi.layout import signed64
from tracing import payload
from tracing.errnos import errno_name
from tracing.escaping import LONGEST_NAME, count_of, harmless, quoted
from tracing.record import CALLS, Event, Frame, Left, Phase, Record
from tracing.shown import Shown

_BYTES_SHOWN = 16
"""How much is shown of bytes that have no meaning of their own, such as bloom filters."""
_RED, _DIM, _PLAIN = "\x1b[31m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Style:
    """How lines look."""

    payload: int = 32
    """Bytes of payloads and strings that are shown."""
    hexadecimal: int = 0
    """1: strings that are not printable as `\\xNN`, 2: all."""
    names: bool = False
    """Well-known names behind the ids of peers."""
    clock: int = 0
    """Time of day: 1 in seconds, 2 with microseconds, 3 as seconds since 1970."""
    relative: bool = False
    """Time since the record before."""
    precise: bool = False
    """Durations in nanoseconds."""
    everything: bool = False
    """Members that are zero as well."""
    thread: bool = True
    """The thread in front."""
    brackets: bool = True
    """As `[pid N]`."""
    colour: bool = False
    stacks: bool = False
    """Who has made a call, if that is known."""


class TextWriter:
    """Makes lines of records, one after the other."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._last_ns: int | None = None
        self._names: Mapping[int, Sequence[str]] = {}
        """Those of the present record, if they are wanted."""
        self._now_ns = 0

    def lines(self, shown: Shown) -> str:
        """The lines of a record, with newlines."""
        record = shown.record
        self._names = record.names if self._style.names else {}
        self._now_ns = record.monotonic_ns
        line = self._front(record) + self._body(shown) + self._end(record)
        stack = "".join(f"\n {self._dim('> ' + _frame(frame))}" for frame in record.stack if self._style.stacks)
        notes = "".join(f"\n    {self._dim('# ' + harmless(note))}" for note in record.notes)
        left = "".join(f"\n    {self._dim('# still open: ' + said(each))}" for each in record.left)
        if record.unknown:
            left += f"\n    {self._dim('# ' + unknown(record.unknown))}"
        return line + stack + notes + left + "\n"

    def value(self, value: Value | Item, name: str = "") -> str:
        """A decoded value, as it stands in a line; `name`: of the member."""
        return self._value(value, name)

    def _dim(self, text: str) -> str:
        return f"{_DIM}{text}{_PLAIN}" if self._style.colour else text

    def _front(self, record: Record) -> str:
        style = self._style
        parts = []
        if style.thread and record.tid:
            parts.append(f"[pid {record.tid:5}]" if style.brackets else f"{record.tid}")
        seconds, rest = divmod(record.realtime_ns, 1_000_000_000)
        if style.clock == 3:
            parts.append(f"{seconds}.{rest // 1000:06}")
        elif style.clock:
            text = time.strftime("%H:%M:%S", time.localtime(seconds))
            parts.append(text if style.clock == 1 else f"{text}.{rest // 1000:06}")
        if style.relative:
            since = 0 if self._last_ns is None else max(0, record.monotonic_ns - self._last_ns)
            parts.append(f"{since // 1_000_000_000:6}.{since % 1_000_000_000 // 1000:06}")
            self._last_ns = record.monotonic_ns
        return "".join(f"{part} " for part in parts)

    def _body(self, shown: Shown) -> str:
        record = shown.record
        if record.event is Event.CALL:
            return self._call(shown)
        if record.event is Event.OPEN:
            return f'open("{harmless(record.node)}")'
        if record.event is Event.MAP:
            return f"mmap({self._handle(record)}, {record.length})"
        if record.event is Event.MOUNT:
            return f'mount("{harmless(record.path)}", "kdbusfs")'
        if record.event is Event.UMOUNT:
            return f'umount("{harmless(record.path)}")'
        if record.event is Event.DROPPED:
            return f"+++ {count_of(record.count, 'record')} dropped: whoever reads the trace is too slow +++"
        what = "closed" if record.event is Event.CLOSE else "hung up"
        return f"+++ {self._handle(record)} {what} +++"

    def _call(self, shown: Shown) -> str:
        record = shown.record
        results = self._results(shown)
        if record.phase is Phase.RESUMED:
            front = f"<... {record.command} resumed>"
            return f"{front} {self._handle(record)}{' => ' + results if results else ''})"
        parts = [self._handle(record)]
        sent = {name: value for name, value in shown.message.items() if (name, value) != _FROM_NOBODY}
        results_only = COMMANDS[record.command].results if record.command in COMMANDS else ()
        given = {
            name: value
            for name, value in shown.arguments.items()
            if not (name in results_only and _is_nothing(value)) and (name, value) != _FROM_NOBODY
        }
        members = self._members(given, sent if record.command == "SEND" else {})
        if record.before or members != "{}":
            parts.append(members)
        elif record.address:
            parts.append(f"{record.address:#x}")
        if record.command == "SEND" and record.payload_size:
            parts.append(self._payload(shown))
        arguments = ", ".join(parts) + (f" => {results}" if results else "")
        end = " <unfinished ...>" if record.phase is Phase.WAITS else ")"
        return f"{record.command}({arguments}{end}"

    def _handle(self, record: Record) -> str:
        number = "" if record.descriptor is None else str(record.descriptor)
        what = [harmless(record.node)] if record.node else []
        if record.connection is not None:
            what.append(str(record.connection))
            what += [harmless(name) for name in record.names.get(record.connection, ())]
        return f"{number}<{' '.join(what)}>" if what else number or "?"

    def _results(self, shown: Shown) -> str:
        record = shown.record
        parts = []
        members = self._members(shown.results)
        if members != "{}":
            parts.append(members)
        if record.command != "SEND" or record.phase is Phase.RESUMED:
            if shown.message:
                parts.append(self._members(shown.message))
            if record.payload_size:
                parts.append(self._payload(shown))
        parts += [self._value(each) for each in shown.pool]
        return ", ".join(parts)

    def _payload(self, shown: Shown) -> str:
        record = shown.record
        if shown.dbus is not None:
            return f"{record.payload_size} D-Bus {payload.text(shown.dbus, self._style.payload)}"
        text = self._string(record.payload)
        whole = len(record.payload) >= record.payload_size or text.endswith("...")
        return f"{record.payload_size} {text}{'' if whole else '...'}"

    def _string(self, data: bytes, name: str = "") -> str:
        style = self._style
        limit = max(style.payload, LONGEST_NAME) if name in _NAMES else style.payload
        hexadecimal = style.hexadecimal == 2 or (style.hexadecimal == 1 and bool(data.translate(None, _PRINTABLE)))
        return quoted(data, limit, hexadecimal=hexadecimal)

    def _end(self, record: Record) -> str:
        if record.event not in CALLS or record.phase is Phase.WAITS:
            return ""
        if record.errno or record.error:
            result = "? " if record.errno == 512 else "-1 " if record.errno else "?"
            text = f"{result}{errno_name(record.errno) if record.errno else ''}"
            reason = f" ({harmless(record.reason)})" if record.reason else ""
            result = f"{_RED}{text}{_PLAIN}{reason}" if self._style.colour else text + reason
        else:
            result = str(record.value)
            if record.event is Event.OPEN:
                result += f"<{harmless(record.node)}>"
            elif record.event is Event.MAP:
                result = "mapped"
        return f" = {result}{self._duration(record)}"

    def _duration(self, record: Record) -> str:
        if record.duration_ns is None:
            return ""
        seconds, rest = divmod(record.duration_ns, 1_000_000_000)
        return f" <{seconds}.{rest:09}>" if self._style.precise else f" <{seconds}.{rest // 1000:06}>"

    def _members(self, members: Members, message: Members | None = None, *, whole: bool = True) -> str:
        """A structure. `message`: what its msg_address points at. `whole`: it begins with its own size."""
        parts = []
        for name, value in members.items():
            if name == "msg_address" and message:
                parts.append(f"msg={self._members(message)}")
            elif self._style.everything or name == "offset" or not ((name == "size" and whole) or _is_nothing(value)):
                parts.append(f"{name}={self._value(value, name)}")
        return "{" + ", ".join(parts) + "}"

    def _value(self, value: Value | Item, name: str = "") -> str:
        if isinstance(value, Flags):
            parts = [*value.names, *([f"{value.rest:#x}"] if value.rest or not value.value else [])]
            return "|".join(parts) if value.value else "0"
        if isinstance(value, Named):
            return value.name
        if isinstance(value, Address):
            return f"{value.value:#x}" if value.value else "NULL"
        if isinstance(value, Text):
            return self._string(value.data, name)
        if isinstance(value, bytes):
            short = value.rstrip(b"\0") if len(value) > _BYTES_SHOWN else value
            shown = short[:_BYTES_SHOWN].hex() + ("..." if len(short) > _BYTES_SHOWN else "")
            return f"<{len(value)} bytes{': ' + shown if shown else ''}>"
        if isinstance(value, dict):
            return self._members(value)
        if isinstance(value, Item):
            return self._item(value)
        if isinstance(value, int):
            names = self._names.get(value) if name in _IDS else None
            owned = f"<{' '.join(harmless(each) for each in names)}>" if names else ""
            if name == "timeout_ns" and value:
                return f"{value} /* in {(signed64(value) - self._now_ns) / 1e9:.3f} s */"
            return hex(value) if name in _HEXADECIMAL else f"{value}{owned}"
        return "[" + ", ".join(self._value(each) for each in value) + "]"

    def _item(self, item: Item) -> str:
        if item.name is None and item.number is None:
            return f"no item: {self._value(item.value)}"
        name = item.name or f"type {item.number:#x}"
        if isinstance(item.value, dict):
            return f"{name} {self._members(item.value, whole=False)}"
        return name if item.value == b"" else f"{name} {self._value(item.value, name)}"


def said(left: Left) -> str:
    """In words what a descriptor is that was left open."""
    whose = f"descriptor {left.descriptor} of process {left.pid}"
    return f"{whose}, which came with cookie {left.cookie} of connection {left.source}"


def unknown(count: int) -> str:
    """In words that a process was killed to which so many descriptors had come."""
    return f"its process was killed: whether that had closed {count} descriptors that came with messages is not known"


_PRINTABLE = bytes((*range(0x20, 0x7F), *b"\t\n\r"))
_FROM_NOBODY = ("src_id", Named(0, "KDBUS_SRC_ID_KERNEL"))
"""What stands in a message that is sent, as the kernel fills in the sender."""
_NAMES = frozenset(("name", "NAME", "DST_NAME", "MAKE_NAME"))
"""Members and items that are names, which are not cut."""
_IDS = frozenset(("dst_id", "src_id", "id"))
_HEXADECIMAL = frozenset(("inheritable", "permitted", "effective", "bounding", "payload_type"))


def _frame(frame: Frame) -> str:
    """As strace has it."""
    function = f"({harmless(frame.function)}+{frame.offset:#x}) " if frame.function else " "
    return f"{harmless(frame.file)}{function}[{frame.address:#x}]"


def _is_nothing(value: Value) -> bool:
    if isinstance(value, Flags | Address):
        return value.value == 0
    if isinstance(value, dict):
        return all(_is_nothing(each) for each in value.values())
    return value == 0 or (isinstance(value, bytes) and not any(value))
