# SPDX-License-Identifier: GPL-2.0-or-later
"""Items, out of memory that somebody else filled: walked within their bounds, and read as values.

Nothing is trusted. A size smaller than an item's header or beyond the end, content that is too short for its kind, or a
text without its zero byte raise `Malformed`. Items of a kind that is not known are left out, as the API asks for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from kdbus.abi.layout import align8
from kdbus.abi.revision import Kind, Revision
from kdbus.errors import Malformed
from kdbus.flags import HelloFlag, NameFlag
from kdbus.values import (
    Audit,
    Capabilities,
    Credentials,
    IdChange,
    Metadata,
    NameChange,
    Notification,
    OwnedName,
    Pids,
    ReplyDead,
    ReplyTimeout,
    Timestamp,
)

HEADER: Final = 16
"""Bytes before an item's content: its size, this header included, and its number."""

_TEXTS: Final = {
    Kind.TID_COMM: "tid_comm",
    Kind.PID_COMM: "pid_comm",
    Kind.EXE: "exe",
    Kind.CMDLINE: "cmdline",
    Kind.CGROUP: "cgroup",
    Kind.SECLABEL: "seclabel",
    Kind.CONN_DESCRIPTION: "description",
}


def walk(revision: Revision, data: memoryview, command: str) -> Iterator[tuple[int, memoryview]]:
    """Kind and content of each item in `data`. Raises Malformed, for `command`, at the first that lies."""
    place = 0
    while place < len(data):
        if len(data) - place < HEADER:
            raise Malformed(command, meaning=f"{len(data) - place} bytes behind the last item")
        size, number = struct.unpack_from("<2Q", data, place)
        if not HEADER <= size <= len(data) - place:
            raise Malformed(command, meaning=f"an item claims {size} bytes where {len(data) - place} are left")
        yield revision.kind_of(number), data[place + HEADER : place + size]
        place += align8(size)


def words(content: memoryview, count: int, command: str) -> tuple[int, ...]:
    """The first `count` 64-bit words of an item. Raises Malformed if it has fewer."""
    if len(content) < 8 * count:
        raise Malformed(command, meaning=f"an item of {len(content)} bytes instead of {8 * count}")
    return struct.unpack_from(f"<{count}Q", content)


def text(content: memoryview, command: str) -> str:
    """The text up to its zero byte. Raises Malformed if there is none."""
    found, zero, _ = bytes(content).partition(b"\0")
    if not zero:
        raise Malformed(command, meaning="a text without an end")
    return found.decode(errors="surrogateescape")


class MetadataReader:
    """Collects metadata, item by item."""

    def __init__(self, revision: Revision, command: str) -> None:
        self._command = command
        self._creds = revision.structs["kdbus_creds"]
        self._fields: dict[str, object] = {}
        self._names: list[OwnedName] = []

    def take(self, kind: int, content: memoryview) -> None:
        """Look at one item; those that are no metadata are not heeded. Raises Malformed."""
        if kind in _TEXTS:
            self._fields[_TEXTS[Kind(kind)]] = text(content, self._command)
        elif kind == Kind.TIMESTAMP:
            self._fields["timestamp"] = Timestamp(*words(content, 3, self._command))
        elif kind == Kind.CREDS:
            self._need(content, self._creds.size)
            self._fields["creds"] = Credentials(*(self._creds.get(content, each.name) for each in self._creds.fields))
        elif kind == Kind.PIDS:
            self._fields["pids"] = Pids(*words(content, 3, self._command))
        elif kind == Kind.AUXGROUPS:
            # Groups are as wide as the ids among the credentials.
            form = "<I" if self._creds.fields[0].size == 4 else "<Q"
            whole = len(content) - len(content) % struct.calcsize(form)
            self._fields["auxgroups"] = tuple(group for (group,) in struct.iter_unpack(form, content[:whole]))
        elif kind == Kind.OWNED_NAME:
            (flags,) = words(content, 1, self._command)
            self._names.append(OwnedName(text(content[8:], self._command), NameFlag(flags)))
        elif kind == Kind.CAPS:
            self._fields["caps"] = self._capabilities(content)
        elif kind == Kind.AUDIT:
            self._need(content, 8)
            self._fields["audit"] = Audit(*struct.unpack_from("<2I", content))

    def result(self) -> Metadata:
        """What has been collected."""
        return Metadata(names=tuple(self._names), **self._fields)  # type: ignore[arg-type]

    def _need(self, content: memoryview, size: int) -> None:
        if len(content) < size:
            raise Malformed(self._command, meaning=f"an item of {len(content)} bytes instead of {size}")

    def _capabilities(self, content: memoryview) -> Capabilities:
        self._need(content, 4)
        (last,) = struct.unpack_from("<I", content)
        width = (last // 32 + 1) * 4
        self._need(content, 4 + 4 * width)
        sets = (content[4 + width * index : 4 + width * (index + 1)] for index in range(4))
        return Capabilities(last, *(int.from_bytes(each, "little") for each in sets))


def notification(kind: int, content: memoryview, command: str) -> Notification | None:
    """The notification that an item is; None if it is another. Raises Malformed."""
    if kind in (Kind.NAME_ADD, Kind.NAME_REMOVE, Kind.NAME_CHANGE):
        old, old_flags, new, new_flags = words(content, 4, command)
        return NameChange(text(content[32:], command), old, NameFlag(old_flags), new, NameFlag(new_flags))
    if kind in (Kind.ID_ADD, Kind.ID_REMOVE):
        who, flags = words(content, 2, command)
        return IdChange(who, HelloFlag(flags), kind == Kind.ID_ADD)
    if kind == Kind.REPLY_TIMEOUT:
        return ReplyTimeout()
    if kind == Kind.REPLY_DEAD:
        return ReplyDead()
    return None
