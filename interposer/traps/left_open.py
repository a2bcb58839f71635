# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors that came with messages, and which of them are still open when they should not be any more.

A program has to close what a message brings (`KDBUS_ITEM_FDS`, and the memfd of a `KDBUS_ITEM_PAYLOAD_MEMFD`), and
nothing that it does with it passes through here: close(2) is not trapped. So each is remembered with the file that it
stood for when it came, and looked at in two moments: when its process ends by itself, which is trapped for that, while
the process still has all that it has open; and when the connection's last descriptor is closed. If the number stands
for the same file then, it was never closed. Of a process that was killed nothing can be known, and that is told.

Weaknesses: a descriptor that was moved (dup, and close) or handed on is not found; one that is closed, and whose file
the process gets once more under the same number, is found though it came otherwise.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from kdbus.abi.decode import Item, decode_items
from kdbus.abi.revision import REVISIONS, Kind, Revision
from tracing.native_calls import Batch
from tracing.record import Left, Phase, Record

MOST: Final = 4096
"""Descriptors that are remembered for one connection: a program chooses how many there are. What is closed makes room,
as its number is taken again."""
_MEMFD_ITEM = 40
"""The size of the item in the revisions that are served natively, in bytes."""
_REVISIONS = {revision.name: revision for revision in REVISIONS}
_HEADS = {struct.pack("=2Q", _MEMFD_ITEM, each.number_of(Kind.PAYLOAD_MEMFD)) for each in REVISIONS}

Place = tuple[str, int]
"""A connection: the node that its handle was opened from, and its id."""
File = tuple[int, int]
"""What tells files apart: the numbers of device and inode."""


@dataclass(slots=True)
class _Come:
    """What has come to one connection, by process and number."""

    files: dict[tuple[int, int], tuple[File, Left]] = field(default_factory=dict)
    kept: set[tuple[int, int]] = field(default_factory=set)
    """Those that a process still had when it ended by itself."""
    ended: set[int] = field(default_factory=set)
    """Processes that have done so."""


class LeftOpen:
    """The descriptors of all connections that one supervisor serves."""

    def __init__(self) -> None:
        self._connections: dict[Place, _Come] = {}

    def note(self, record: Record) -> None:
        """A call was served: remember what came with its message, if one did."""
        receives = record.command == "RECV" or record.phase is Phase.RESUMED
        revision = _REVISIONS.get(record.revision)
        if record.connection is None or revision is None or record.errno or not (receives and record.message):
            return
        layout = revision.structs["kdbus_msg"]
        for number, is_memfd in _descriptors(revision, record.message[layout.size :]):
            file = _file(record.pid, number)
            if file is None or (is_memfd and not _is_memfd(record.pid, number)):
                continue
            come = self._connections.setdefault((record.node, record.connection), _Come())
            place = record.pid, number
            if place in come.files or len(come.files) < MOST:
                source, cookie = (layout.get(record.message, name) for name in ("src_id", "cookie"))
                come.files[place] = file, Left(*place, source, cookie)
                come.kept.discard(place)
                come.ended.discard(record.pid)

    def note_batch(self, batch: Batch) -> None:
        """Calls were served natively, which passes memfds and no other descriptors."""
        if any(head in batch.data for head in _HEADS):
            for record in batch.made():
                self.note(record)

    def leaving(self, process: int) -> None:
        """A process is about to end by itself."""
        for come in self._connections.values():
            mine = {place for place in come.files if place[0] == process}
            come.kept |= {place for place in mine if self._is_open(come, place)}
            come.ended |= {process for _ in mine}

    def kept(self, place: Place) -> list[Left]:
        """Those that processes had open when they ended, of a connection that has ended and is not closed yet."""
        come = self._connections.get(place, _Come())
        return [come.files[each][1] for each in sorted(come.kept)]

    def closed(self, place: Place) -> tuple[list[Left], int]:
        """The same, and those that are open now, of a connection that is closed; and how many there are of which that
        cannot be known. It is forgotten."""
        come = self._connections.pop(place, _Come())
        left = [each for each in sorted(come.files) if each in come.kept or self._is_open(come, each)]
        killed = {each for each in {process for process, _ in come.files} - come.ended if _has_nothing(each)}
        return [come.files[each][1] for each in left], sum(process in killed for process, _ in come.files)

    @staticmethod
    def _is_open(come: _Come, place: tuple[int, int]) -> bool:
        return _file(*place) == come.files[place][0]


def _file(process: int, number: int) -> File | None:
    """The file that a process has under a number at this moment, None if that cannot be told."""
    try:
        found = os.stat(f"/proc/{process}/fd/{number}")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _has_nothing(process: int) -> bool:
    """Whether a process has no descriptors any more, as it is about to be gone, or is."""
    try:
        return not os.listdir(f"/proc/{process}/fd")
    except OSError:
        return True


def _is_memfd(process: int, number: int) -> bool:
    """Whether it is one still: the process may have closed it since, and opened something else."""
    try:
        return os.readlink(f"/proc/{process}/fd/{number}").startswith("/memfd:")
    except OSError:
        return False


def _descriptors(revision: Revision, items: bytes) -> Iterator[tuple[int, bool]]:
    """The descriptors in a message's items, and whether they are memfds; those that could not be installed are not."""
    for item in decode_items(revision, items):
        for number in _numbers(item):
            if number >= 0:
                yield number, item.name == "PAYLOAD_MEMFD"


def _numbers(item: Item) -> list[int]:
    value = item.value
    if item.name == "FDS" and isinstance(value, list):
        return [each for each in value if isinstance(each, int)]
    number = value.get("fd") if item.name == "PAYLOAD_MEMFD" and isinstance(value, dict) else None
    return [number] if isinstance(number, int) else []
