# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages of a recording as a capture that Wireshark reads (pcapng).

There are two interfaces. The first one is D-Bus (LINKTYPE_DBUS), for which Wireshark has a dissector: each message that
was sent and whose payload is D-Bus, in the first version of the wire format, into which those of the second are
marshalled anew. Its sender and destination are what kdbus knows them to be, `:1.` and the connection's id, unless the
message names its destination itself. The second interface (LINKTYPE_USER0) has every message as it was: `kdbus_msg`
with its items, then the payload, as far as it was recorded.

Each packet has a comment: from whom to whom, and what became of it. Sources: the pcapng draft (IETF, opsawg), and the
list of link types (tcpdump.org/linktypes.html).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace

from kdbus.dbus import version1
from kdbus.dbus.errors import DBusError
from kdbus.dbus.message import Message
from kdbus.dbus.names import unique_name
from tracing.errnos import errno_name
from tracing.record import Event, Phase, Record
from tracing.shown import show

LINKTYPE_DBUS, LINKTYPE_USER0 = 231, 147
_MOST = 1 << 20
"""Bytes of a D-Bus message that is marshalled anew."""
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_COMMENT, _APPLICATION, _NAME, _RESOLUTION = 1, 4, 2, 9
"""Numbers of options: of all blocks, of the section, of interfaces."""


def _option(number: int, value: bytes) -> bytes:
    return struct.pack("<2H", number, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    body += bytes(-len(body) % 4) + options + bytes(4)
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def _interface(link: int, name: bytes) -> bytes:
    options = _option(_NAME, name) + _option(_RESOLUTION, b"\x09")  # nanoseconds
    return _block(_INTERFACE, struct.pack("<2HI", link, 0, 0), options)


def _packet(interface: int, record: Record, data: bytes, size: int, comment: str) -> bytes:
    time = record.realtime_ns
    head = struct.pack("<5I", interface, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, len(data), size & 0xFFFFFFFF)
    return _block(_PACKET, head + data, _option(_COMMENT, comment.encode()))


def blocks(records: Iterable[Record]) -> Iterator[bytes]:
    """The capture, block by block."""
    yield _block(_SECTION, struct.pack("<I2Hq", 0x1A2B3C4D, 1, 0, -1), _option(_APPLICATION, b"kdbus"))
    yield _interface(LINKTYPE_DBUS, b"dbus")
    yield _interface(LINKTYPE_USER0, b"kdbus")
    for record in records:
        if record.event is not Event.CALL or record.command != "SEND" or record.phase is Phase.RESUMED:
            continue
        if not record.message:
            continue
        comment = _comment(record)
        dbus = show(record, _MOST).dbus
        if dbus is not None and not record.errno and (data := _as_version1(dbus, record)):
            yield _packet(0, record, data, len(data), comment)
        raw = record.message + record.payload
        yield _packet(1, record, raw, len(record.message) + record.payload_size, comment)


def _comment(record: Record) -> str:
    to = "all" if record.peer is None else f"connection {record.peer}"
    failed = f", {errno_name(record.errno)}: {record.reason}" if record.errno else ""
    return f"{record.node}: connection {record.connection} to {to}{failed}"


def _as_version1(message: Message, record: Record) -> bytes:
    """In the first version, with those whom kdbus knows to be its ends; nothing for what has no such form."""
    try:
        sender = None if record.connection is None else unique_name(record.connection)
        destination = message.destination
        if destination is None and record.peer is not None:
            destination = unique_name(record.peer)
        return version1.build(replace(message, sender=sender, destination=destination))
    except DBusError:
        return b""
