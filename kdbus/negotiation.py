# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking what a kdbus supports: which flags and items a command takes, without any other effect.

Since systemd 219 a command whose flags have bit 63 does nothing but say which flags it knows, in their place; and of an
item NEGOTIATE, an array of the numbers of items, those that it does not take are overwritten with 0. Messages are asked
in the same way, as part of a SEND. Version 3 has nothing of the kind.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kdbus.abi.layout import Struct
from kdbus.abi.revision import FINAL, Kind, Revision
from kdbus.commands import Command, item
from kdbus.dialect import DIALECTS

FLAG: Final = FINAL.constants["KDBUS_FLAG_NEGOTIATE"]
MESSAGE: Final = "message"
"""What stands for messages where the name of a command is asked for."""


@dataclass(frozen=True, slots=True)
class Supported:
    """What a command takes: its flags, and kinds of items."""

    flags: int
    items: frozenset[Kind]


def probe() -> Command:
    """A BUS_MAKE that succeeds where there is negotiation, on the node `control`."""
    return _ask(FINAL, "BUS_MAKE", b"")


def ask(revision: Revision, name: str) -> Command:
    """The command that asks about a command. ValueError: the revision has no negotiation, or no such command."""
    return _ask(revision, name, _item(revision))


def ask_message(revision: Revision) -> bytearray:
    """A message that asks about messages; it goes with the SEND of `ask`, which is told its address."""
    content = _item(revision)
    message = bytearray(revision.structs["kdbus_msg"].size) + content
    layout = revision.structs["kdbus_msg"]
    layout.put(message, "size", len(message))
    layout.put(message, "flags", FLAG)
    return message


def answer(revision: Revision, layout: Struct, data: bytearray) -> Supported:
    """What the kernel said, in the buffer of a command or message that asked."""
    count = (len(data) - layout.size - 16) // 8
    numbers = struct.unpack_from(f"<{count}Q", data, layout.size + 16)
    kinds = frozenset(Kind(revision.kind_of(number)) for number in numbers if number)
    return Supported(layout.get(data, "flags"), kinds)


def _ask(revision: Revision, name: str, content: bytes) -> Command:
    try:
        request, layout = DIALECTS[revision].layout(name)
    except StopIteration:
        raise ValueError(f"revision {revision.name} of kdbus has no command {name}") from None
    command = Command(name, request, layout, content)
    command["flags"] = FLAG
    return command


def _item(revision: Revision) -> bytes:
    """An item that asks about all kinds of items."""
    numbers = [number for kind in Kind if (number := revision.number_of(kind)) is not None]
    return item(revision, Kind.NEGOTIATE, struct.pack(f"<{len(numbers)}Q", *numbers))
