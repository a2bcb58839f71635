# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be sent as payload, and how it becomes the parts of a message.

Bytes are sent from where they lie: the bus copies them while SEND runs, so they are held until then and no longer. What
cannot be pointed at (a read-only view of something that is not `bytes`) is copied first. Large payloads, or such as go
to many receivers, are better sent as a `Memfd`, which nobody copies.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypedDict

from kdbus.errors import failure
from kdbus.flags import MessageFlag
from kdbus.message import MemfdRange, Memory
from kdbus.owned import OwnsDescriptor

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Zeros:
    """That many zero bytes, which are not stored anywhere."""

    size: int


class Memfd(OwnsDescriptor):
    """A sealed file in memory, which can be sent any number of times, to anybody, in whole or in part.

    It owns its descriptor: use it as a context manager, or close it, or forget it. Receivers have descriptors of their
    own.
    """

    def __init__(self, content: bytes | bytearray | memoryview, name: str = "kdbus") -> None:
        """A new one with that content; `name` is for debugging (memfd_create(2)). Raises Error."""
        self.size = memoryview(content).nbytes
        try:
            self._descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with open(self._descriptor, "wb", closefd=False) as file:
                file.write(content)
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            raise failure("memfd_create", error.errno or 0, name) from None

    def part(self, start: int, size: int) -> MemfdRange:
        """A part of it, to be sent while this is open."""
        return MemfdRange(self.fileno(), start, size)

    def fileno(self) -> int:
        """Its descriptor. ValueError: it is closed."""
        if self._descriptor < 0:
            raise ValueError("the memfd is closed")
        return self._descriptor


Payload: TypeAlias = bytes | bytearray | memoryview | Zeros | Memfd | MemfdRange
"""A part of a payload."""


class Options(TypedDict, total=False):
    """What may be said about any message besides destination and payload."""

    cookie: int
    """A number for it; without, the connection counts."""
    flags: MessageFlag
    """NO_AUTO_START, say. The other two are set by what is called."""
    payload_type: int
    """PAYLOAD_DBUS unless told otherwise; 0 is the kernel's."""
    priority: int
    """Lower is more urgent."""
    descriptors: Sequence[int]
    """Descriptors to pass; the receiver gets copies."""
    owner: int
    """The id that the owner of the destination's name must have."""


def pieces(payload: Sequence[Payload]) -> tuple[list[Memory | MemfdRange], list[object]]:
    """The parts of a message, and what has to stay alive until it was sent. Empty parts, which the bus refuses, are
    left out."""
    found: list[Memory | MemfdRange] = []
    held: list[object] = []
    for part in payload:
        if isinstance(part, Zeros):
            piece: Memory | MemfdRange = Memory(0, part.size)
        elif isinstance(part, Memfd):
            piece = part.part(0, part.size)
        elif isinstance(part, MemfdRange):
            piece = part
        else:
            address, size, holder = _address(part)
            piece = Memory(address, size)
            held.append(holder)
        if piece.size:
            found.append(piece)
    return found, held


def _address(part: bytes | bytearray | memoryview) -> tuple[int, int, object]:
    """Address and size in bytes of what is to be sent, and an object that keeps it there."""
    if not isinstance(part, bytes):
        view = memoryview(part)
        if view.nbytes and not view.readonly and view.c_contiguous:
            first = ctypes.c_char.from_buffer(view)
            return ctypes.addressof(first), view.nbytes, first
        part = view.tobytes()
    pointer = ctypes.c_char_p(part)
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0, len(part), part
