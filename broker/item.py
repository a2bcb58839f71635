# SPDX-License-Identifier: GPL-2.0-or-later
"""Items: the chained pieces of data that commands and messages are made of.

An item is a header of two 64-bit words, its size (header included, padding not) and its type, then its payload,
padded with zeros to a multiple of 8 bytes. A list of items ends exactly where its container does, rounded up to 8;
nothing marks the last one.

Before any command runs, `parse` walks the whole list once and checks each item against the table of its type. Later
code may then rely on sizes and terminated strings. Types that the table does not name pass: whether a command takes
them is that command's rule. This order is visible: a malformed item of an irrelevant type answers EINVAL before the
command looks at anything else.

Reference: ipc/kdbus/item.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from broker import limits
from broker.errors import BadDescriptor, BadItem, DuplicateItem, KdbusError, MissingItem, NameTooLong
from broker.naming import check_node_name
from kdbus.abi.layout import align8
from kdbus.abi.revision import VERSION3, Kind, Revision

HEADER_SIZE = 16

_HEADER = struct.Struct("<QQ")


class Item(NamedTuple):
    """One item as it stands in the caller's command: its type and its payload without padding."""

    type: int
    """A `kdbus.abi.revision.Kind`, or a number that has none."""
    payload: bytes
    padding: bytes = b""
    """What stands between it and the next one, where that matters: up to 7 bytes."""

    def u64(self, index: int = 0) -> int:
        """The payload's 64-bit word number `index`."""
        return int.from_bytes(self.payload[8 * index : 8 * index + 8], "little")

    def text(self) -> bytes:
        """The payload as a string, without what follows its first zero."""
        return self.payload.split(b"\0", 1)[0]


def is_terminated(payload: bytes) -> bool:
    """Whether the payload is a string with just one zero, at its end (`kdbus_str_valid`)."""
    return payload.find(b"\0") == len(payload) - 1 and bool(payload)


def exactly(size: int) -> Callable[[bytes], None]:
    """A check of a payload of just that many bytes. It raises BadItem, as others do unless they say otherwise."""

    def check(payload: bytes) -> None:
        if len(payload) != size:
            raise BadItem(rule=f"{len(payload)} bytes of payload instead of {size}")

    return check


def _multiple_of_4(payload: bytes) -> None:
    if len(payload) % 4:
        raise BadItem(rule=f"{len(payload)} bytes of payload are no multiple of 4")


def _string(payload: bytes) -> None:
    if not is_terminated(payload):
        raise BadItem(rule="no string with just one zero, at its end")


_of_16_bytes = exactly(16)
_of_24_bytes = exactly(24)


def _not_empty(size: bytes) -> None:
    if size == bytes(8):
        raise BadItem(rule="size 0")


def _vector(payload: bytes) -> None:
    _of_16_bytes(payload)
    _not_empty(payload[:8])


def _memfd(payload: bytes) -> None:
    _of_24_bytes(payload)
    _not_empty(payload[8:16])
    if payload[19] & 0x80:
        raise BadDescriptor(descriptor=int.from_bytes(payload[16:20], "little", signed=True))


def memfd_without_start(payload: bytes) -> None:
    """A check of a PAYLOAD_MEMFD of version 2, which has no start. It may also raise BadDescriptor."""
    if len(payload) != 16:
        raise BadItem(rule=f"{len(payload)} bytes of payload instead of 16")
    _memfd(bytes(8) + payload)


def _node_name(payload: bytes) -> None:
    if len(payload) < 2:
        raise BadItem(rule="no name")
    if len(payload) > limits.NODE_NAME_LENGTH + 1:
        raise NameTooLong(count=len(payload) - 1, limit=limits.NODE_NAME_LENGTH)
    _string(payload)
    check_node_name(payload[:-1])


def _bloom_filter(payload: bytes) -> None:
    if len(payload) < 8:
        raise BadItem(rule=f"{len(payload)} bytes of payload are less than the generation's 8")


def _name_change(payload: bytes) -> None:
    if len(payload) < 32:
        raise BadItem(rule=f"{len(payload)} bytes of payload instead of at least 32")
    if len(payload) > 32:
        _string(payload[32:])


def multiple_of_8(payload: bytes) -> None:
    """A check of an array of 64-bit numbers."""
    if len(payload) % 8:
        raise BadItem(rule=f"{len(payload)} bytes of payload are no multiple of 8")


Checks = Mapping[int, Callable[[bytes], None]]

VERSION3_CHECKS: Checks = {
    Kind.PAYLOAD_VEC: _vector,
    Kind.PAYLOAD_OFF: _vector,
    Kind.PAYLOAD_MEMFD: _memfd,
    Kind.FDS: _multiple_of_4,
    Kind.CANCEL_FD: exactly(4),
    Kind.BLOOM_PARAMETER: exactly(16),
    Kind.BLOOM_FILTER: _bloom_filter,
    Kind.CONN_DESCRIPTION: _node_name,
    Kind.MAKE_NAME: _node_name,
    Kind.ATTACH_FLAGS_SEND: exactly(8),
    Kind.ATTACH_FLAGS_RECV: exactly(8),
    Kind.ID: exactly(8),
    Kind.TIMESTAMP: exactly(24),
    Kind.CREDS: exactly(32),
    Kind.AUXGROUPS: _multiple_of_4,
    Kind.NAME: _string,
    Kind.DST_NAME: _string,
    Kind.PID_COMM: _string,
    Kind.TID_COMM: _string,
    Kind.EXE: _string,
    Kind.CMDLINE: _string,
    Kind.CGROUP: _string,
    Kind.SECLABEL: _string,
    Kind.AUDIT: exactly(8),
    Kind.POLICY_ACCESS: exactly(24),
    Kind.NAME_ADD: _name_change,
    Kind.NAME_REMOVE: _name_change,
    Kind.NAME_CHANGE: _name_change,
    Kind.ID_ADD: exactly(16),
    Kind.ID_REMOVE: exactly(16),
    Kind.REPLY_TIMEOUT: exactly(0),
    Kind.REPLY_DEAD: exactly(0),
}
"""What the payload of each kind must look like in version 3. Kinds that are not named may carry anything."""

FINAL_CHECKS: Checks = {
    **VERSION3_CHECKS,
    Kind.NEGOTIATE: multiple_of_8,
    Kind.DST_ID: exactly(8),
    Kind.CREDS: exactly(64),
    # The original forgot to check this one, and read beyond the command (docs/differences.md).
    Kind.PIDS: exactly(24),
}
"""The same in the final revision."""


def walk(data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Each item in `data`: where its payload begins, its number, the payload, and what stands up to the next one.

    `data` is what follows the command's fixed part; its length need not be a multiple of 8, as the padding of the
    last item may be missing. As no item may go past the end, the last one's padded end is always that of `data`.
    Raises BadItem when it comes to one that does not fit in.
    """
    position, end = 0, len(data)
    while position < end:
        if end - position < HEADER_SIZE:
            raise BadItem(at_byte=position, rule=f"only {end - position} bytes are left for its header")
        size, number = _HEADER.unpack_from(data, position)
        if size < HEADER_SIZE:
            raise BadItem(at_byte=position, rule=f"size {size} is less than its header of {HEADER_SIZE} bytes")
        if size > end - position:
            raise BadItem(at_byte=position, rule=f"size {size} with {end - position} bytes left")
        start, following = position + HEADER_SIZE, position + align8(size)
        yield start, number, data[start : position + size], data[position + size : following]
        position = following


def parse(data: bytes, checks: Checks = VERSION3_CHECKS, revision: Revision = VERSION3) -> list[Item]:
    """The items in `data`, each checked, of a command of that revision that takes any; see `walk`.

    Raises BadItem, NameTooLong, BadName or BadDescriptor, for the first bad item in the list.
    """
    items: list[Item] = []
    for _, number, payload, _ in walk(data):
        kind = revision.kind_of(number)
        check = checks.get(kind)
        if check is not None:
            try:
                check(payload)
            except KdbusError as error:
                raise place(error, kind, len(items), data) from None
        items.append(Item(kind, payload))
    return items


def place(error: KdbusError, kind: int, before: int, data: bytes) -> KdbusError:
    """`error`, which knows now that it is about the item of that kind that has `before` others before it in `data`."""
    error.facts.update(kind=kind, at=before + 1, of=_count(data))
    return error


def _count(data: bytes) -> int:
    """How many items there are in `data`, up to the first that does not fit in."""
    count = 0
    with suppress(BadItem):
        for _ in walk(data):
            count += 1
    return count


def unique(items: list[Item], item_type: int) -> Item:
    """The only item of that type. Raises MissingItem or DuplicateItem."""
    found = [item for item in items if item.type == item_type]
    if not found:
        raise MissingItem(kind=item_type)
    if len(found) > 1:
        raise DuplicateItem(item=found[1], kind=item_type)
    return found[0]


def build_padded(revision: Revision, kind: Kind, payload: bytes, padding: bytes) -> bytes:
    """The item with the padding that its sender gave it, as far as it goes; nothing where the revision has none."""
    item = revision.build(kind, payload)
    if padding and item:
        start = HEADER_SIZE + len(payload)
        return (item[:start] + padding + bytes(7))[: len(item)]
    return item


def padded_size(payload_size: int) -> int:
    """How many bytes an item with that payload takes."""
    return align8(HEADER_SIZE + payload_size)


def unpadded(items: bytes) -> int:
    """Bytes of a list of items without the padding of the last one."""
    position = last = 0
    while position < len(items):
        last = int.from_bytes(items[position : position + 8], "little")
        position += align8(last)
    return len(items) - (-last & 7)
