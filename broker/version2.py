# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 2 (November 2014), the oldest that is served: its commands, and what it means by them.

`VERSION2` is the whole of it: version 3 with other numbers and layouts, and what differs besides. How it reads commands
is in `broker.form2`, how messages lie in its pools in `broker.inbox2`, and how it tells of processes in
`broker.metadata2`. Where it is not known in a point, it is as version 3. What of it is not imitated, and why, is in
docs/differences.md. Reference: final-revision.md, 6.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import replace

from broker import errors, item, limits, metadata2
from broker.command import Command, ItemRule
from broker.connection_kind import MONITOR, ORDINARY
from broker.form2 import admit, read_message
from broker.inbox2 import Version2Inbox
from broker.receive import receive_offset
from broker.version3 import COMMANDS as VERSION3_COMMANDS
from broker.version3 import VERSION3
from kdbus.abi import revision2 as abi
from kdbus.abi.revision import VERSION2 as REVISION
from kdbus.abi.revision import Kind

_NAMES = {"UPDATE": "CONN_UPDATE", "LIST": "NAME_LIST"}
"""Commands that were renamed later, with their names of this revision."""
_STRUCTS = {"SEND": "kdbus_msg"}
"""Those whose structure has another name than version 3's."""


def _items(kinds: Iterable[Kind]) -> dict[int, ItemRule]:
    return dict.fromkeys(kinds, ItemRule(repeats=True))


_CHANGES: dict[str, dict[str, object]] = {
    "HELLO": {
        "items": _items((Kind.NAME, Kind.CREDS, Kind.SECLABEL, Kind.CONN_DESCRIPTION, Kind.POLICY_ACCESS)),
    },
    "SEND": {
        "maximum": limits.MESSAGE_SIZE,
        "flags": sum(abi.CONSTANTS[f"KDBUS_MSG_{flag}"] for flag in ("EXPECT_REPLY", "SYNC_REPLY", "NO_AUTO_START")),
        "write_back": (),
        "items": _items((Kind.PAYLOAD_VEC, Kind.PAYLOAD_MEMFD, Kind.FDS, Kind.BLOOM_FILTER, Kind.DST_NAME)),
    },
    "RECV": {"kinds": frozenset((ORDINARY, MONITOR)), "write_back": ("offset",)},
    "FREE": {"kinds": frozenset((ORDINARY, MONITOR)), "write_back": ()},
    "LIST": {"write_back": ("offset",)},
    "CONN_INFO": {"flags": metadata2.ALL, "write_back": ("offset",)},
    "BUS_CREATOR_INFO": {"flags": metadata2.ALL, "write_back": ("offset",)},
    "UPDATE": {"write_back": ()},
    "ENDPOINT_UPDATE": {"write_back": ()},
    "MATCH_ADD": {"kinds": frozenset((ORDINARY, MONITOR)), "write_back": ()},
    "MATCH_REMOVE": {
        "maximum": abi.STRUCTS["kdbus_cmd_match"].size,
        "kinds": frozenset((ORDINARY, MONITOR)),
        "write_back": (),
    },
}
"""What differs from version 3 besides the numbers and structures. There are no return flags to be cleared anywhere."""


def _changed(command: Command) -> tuple[int, Command]:
    struct = command.struct
    if struct.size:
        struct = abi.STRUCTS[_STRUCTS.get(command.name, struct.name)]
    number = REVISION.requests[_NAMES.get(command.name, command.name)]
    return number, replace(
        command, struct=struct, clears_return_flags=False, **_CHANGES.get(command.name, {})  # type: ignore[arg-type]
    )


COMMANDS: dict[int, Command] = dict(_changed(command) for command in VERSION3_COMMANDS.values())
"""Every command by its request number."""
COMMANDS[REVISION.requests["CANCEL"]] = Command(
    "CANCEL", abi.STRUCTS["kdbus_cmd_cancel"], 0, kinds=frozenset((ORDINARY,))
)

VERSION2 = replace(
    VERSION3,
    revision=REVISION,
    commands=COMMANDS,
    errnos={errors.SliceNotHandedOut: errno.EINVAL},
    item_checks={
        **item.VERSION3_CHECKS,
        Kind.PAYLOAD_MEMFD: item.memfd_without_start,
        Kind.CREDS: item.exactly(40),
        Kind.AUXGROUPS: item.multiple_of_8,
        Kind.AUDIT: item.exactly(16),
    },
    admit=admit,
    read_message=read_message,
    receive=receive_offset,
    inbox=Version2Inbox(),
    grant=metadata2.AgreedAtSend(),
    export=metadata2.export,
    read_attach_flags=metadata2.read_attach_flags,
    write_attach_flags=metadata2.write_attach_flags,
    tells_of_maker=metadata2.TELLS_OF_MAKER,
    endpoints_hide=True,
    creator_has_name=False,
    results_as_list=False,
    names_per_connection=64,
    connections_per_user=256,
    replies_need_requests=False,
    timer_ends_calls=True,
    answer_member="offset_reply",
    sends_claims=True,
    needs_all_files=True,
    peek_hands_out=False,
    monitors_match=True,
    hears_ids_everywhere=True,
    timestamp_first=True,
)
