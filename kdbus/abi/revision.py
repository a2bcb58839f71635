# SPDX-License-Identifier: GPL-2.0-or-later
"""A revision of the ABI as one value, and the kinds of items that all revisions share.

The same item has different numbers in different revisions: NEGOTIATE, which came late, moved thirteen others up by one.
So rules speak of *kinds*, and numbers exist only where bytes are read or written. `Revision.kind_of` and
`Revision.number_of` are the two ways between them; a number that no kind has stands for itself.

The value of a kind means nothing. It happens to be version 3's number, and below zero for what that does not have, so
that no number from outside can be taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from kdbus.abi import final, revision2, revision3, revision219
from kdbus.abi.layout import Struct

_ITEM_HEADER = struct.Struct("<QQ")


class Kind(IntEnum):
    """What an item is, whatever its number."""

    DST_ID = -2
    NEGOTIATE = -1
    PAYLOAD_VEC = 1
    PAYLOAD_OFF = 2
    PAYLOAD_MEMFD = 3
    FDS = 4
    CANCEL_FD = 5
    BLOOM_PARAMETER = 6
    BLOOM_FILTER = 7
    BLOOM_MASK = 8
    DST_NAME = 9
    MAKE_NAME = 10
    ATTACH_FLAGS_SEND = 11
    ATTACH_FLAGS_RECV = 12
    ID = 13
    NAME = 14
    TIMESTAMP = 0x1000
    CREDS = 0x1001
    PIDS = 0x1002
    AUXGROUPS = 0x1003
    OWNED_NAME = 0x1004
    TID_COMM = 0x1005
    PID_COMM = 0x1006
    EXE = 0x1007
    CMDLINE = 0x1008
    CGROUP = 0x1009
    CAPS = 0x100a
    SECLABEL = 0x100b
    AUDIT = 0x100c
    CONN_DESCRIPTION = 0x100d
    POLICY_ACCESS = 0x2000
    NAME_ADD = 0x8000
    NAME_REMOVE = 0x8001
    NAME_CHANGE = 0x8002
    ID_ADD = 0x8003
    ID_REMOVE = 0x8004
    REPLY_TIMEOUT = 0x8005
    REPLY_DEAD = 0x8006


class Revision:
    """The numbers and layouts of one revision.

    `requests` are keyed by the C name without its prefix ("SEND"; nor is there the MSG_ that version 2 has in some),
    `structs` by the C name ("kdbus_cmd_send"). Where a command was renamed, revisions keep their own names.
    """

    __slots__ = ("_kinds", "_numbers", "constants", "name", "requests", "structs")

    def __init__(
        self, name: str, constants: Mapping[str, int], requests: Mapping[str, int], structs: Mapping[str, Struct]
    ) -> None:
        """`name`: what programs call it, such as "3" or "final"."""
        self.name = name
        self.constants = constants
        self.requests = {
            command.removeprefix("KDBUS_CMD_").removeprefix("MSG_"): number for command, number in requests.items()
        }
        self.structs = structs
        self._numbers = {
            kind: constants[f"KDBUS_ITEM_{kind.name}"] for kind in Kind if f"KDBUS_ITEM_{kind.name}" in constants
        }
        self._kinds = {number: kind for kind, number in self._numbers.items()}

    def kind_of(self, number: int) -> int:
        """The kind of items of that number; the number itself if there is none."""
        return self._kinds.get(number, number)

    def number_of(self, kind: int) -> int | None:
        """The number of items of that kind; None if this revision has no such item."""
        return self._numbers.get(Kind(kind))

    def build(self, kind: Kind, payload: bytes) -> bytes:
        """An item as bytes: size (header included, padding not) and number, 64 bits each; payload; zeros up to a
        multiple of 8. Nothing if this revision has no such item."""
        number = self._numbers.get(kind)
        if number is None:
            return b""
        return _ITEM_HEADER.pack(16 + len(payload), number) + payload + bytes(-len(payload) & 7)


VERSION2: Final = Revision("2", revision2.CONSTANTS, revision2.REQUESTS, revision2.STRUCTS)
VERSION3: Final = Revision("3", revision3.CONSTANTS, revision3.REQUESTS, revision3.STRUCTS)
FINAL: Final = Revision("final", final.CONSTANTS, final.REQUESTS, final.STRUCTS)

REVISION219: Final = Revision("219", revision219.CONSTANTS, revision219.REQUESTS, revision219.STRUCTS)

REVISIONS: Final = (VERSION2, VERSION3, REVISION219, FINAL)
"""All revisions that are served, in the order in which they came."""
