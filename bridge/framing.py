# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of D-Bus's first version in a stream of bytes, beside which descriptors come.

Source: D-Bus Specification, "Message Format"; unix(7) for what beside means. The first 16 bytes of a message tell how
long it is. Nothing is kept for what it merely claims: the buffer grows with what came, and a claim above the limit ends
the conversation at once.

Descriptors come with bytes of the message that they belong to, and wait here until it is whole. Some that are left when
no byte is belong to nothing: nobody would ever fetch them, so that ends the conversation, too.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import Final

from kdbus.dbus.errors import Malformed
from kdbus.dbus.gvariant import PREFIXES, Order
from kdbus.dbus.signature import aligned
from kdbus.dbus.version1 import check_unknown
from kdbus.received import Descriptor

_HEADER: Final = 16
_ORDERS: Final[dict[int, Order]] = {ord("l"): "little", ord("B"): "big"}
_LAST_TYPE: Final = 4


class Framing:
    """Cuts what one client sends into messages."""

    def __init__(self, longest: int, most_descriptors: int) -> None:
        """`longest`: bytes of a message; `most_descriptors`: that wait for theirs."""
        self._longest = longest
        self._most = most_descriptors
        self._buffer = bytearray()
        self._descriptors: deque[Descriptor] = deque()

    @property
    def waits_with_descriptors(self) -> bool:
        """Whether descriptors wait for the rest of their message."""
        return bool(self._descriptors)

    def feed(self, data: bytes, descriptors: Sequence[Descriptor] = ()) -> None:
        """What has come. Raises Malformed for too many descriptors."""
        self._buffer += data
        self._descriptors += descriptors
        if len(self._descriptors) > self._most:
            raise Malformed(f"{len(self._descriptors)} descriptors wait for their message")

    def next(self) -> bytes | None:
        """The bytes of the next message, None if it is not whole. Raises Malformed.

        One of a type that D-Bus does not know is left out, as it has to be, if it is a message at all.
        """
        while True:
            size = self._size()
            if size is None or size > len(self._buffer):
                if not self._buffer and self._descriptors:
                    raise Malformed("descriptors that belong to no message")
                return None
            data = bytes(memoryview(self._buffer)[:size])
            del self._buffer[:size]
            if data[1] <= _LAST_TYPE:
                return data
            check_unknown(data)

    def claim(self, count: int) -> list[Descriptor]:
        """The descriptors of the message that was taken last. Raises Malformed if there are fewer."""
        if count > len(self._descriptors):
            raise Malformed(f"a message with {count} descriptors, of which {len(self._descriptors)} came")
        return [self._descriptors.popleft() for _ in range(count)]

    def close(self) -> None:
        """Close what waits. Idempotent."""
        while self._descriptors:
            self._descriptors.pop().close()

    def _size(self) -> int | None:
        """Bytes of the message at the front, None if that cannot be known yet."""
        buffer = self._buffer
        if not buffer:
            return None
        order = _ORDERS.get(buffer[0])
        if order is None or (len(buffer) > 3 and buffer[3] != 1):
            raise Malformed("not a message of D-Bus version 1")
        if len(buffer) < _HEADER:
            return None
        body: int
        fields: int
        body, _, fields = struct.unpack_from(PREFIXES[order] + "3I", buffer, 4)
        size = aligned(_HEADER + fields, 8) + body
        if size > self._longest:
            raise Malformed(f"a message that claims to have {size} bytes; {self._longest} are allowed")
        return size
