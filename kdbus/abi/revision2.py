# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 2 of the kdbus ABI (November 2014): numbers and layouts, as data.

Commands tell nothing but what they were asked for: there are neither `return_flags` nor sizes of results, and some
structures have no size of their own. A message is its own command, MSG_SEND; a synchronous call is a flag of the
message, and ended by a command, MSG_CANCEL. Without CANCEL_FD and PIDS, which version 3 added, items and attach flags
behind these have other numbers, so these are counted anew here; what did not change is taken from version 3.
"""

from __future__ import annotations

from typing import Final

from kdbus.abi import revision3
from kdbus.abi.layout import READ, WRITE, Struct, bits, numbered, request

_METADATA: Final = (
    "TIMESTAMP CREDS AUXGROUPS {names} TID_COMM PID_COMM EXE CMDLINE CGROUP CAPS SECLABEL AUDIT CONN_DESCRIPTION"
)
_CHANGED: Final = ("KDBUS_ITEM_CANCEL_FD", "KDBUS_ITEM_PIDS", "KDBUS_ATTACH_PIDS")
_CHANGED_GROUPS: Final = ("KDBUS_MSG_", "KDBUS_SEND_", "KDBUS_RECV_RETURN_")

CONSTANTS: Final[dict[str, int]] = {
    **{
        name: number
        for name, number in revision3.CONSTANTS.items()
        if name not in _CHANGED and not name.startswith(_CHANGED_GROUPS)
    },
    **numbered(
        "KDBUS_ITEM_",
        1,
        "PAYLOAD_VEC PAYLOAD_OFF PAYLOAD_MEMFD FDS BLOOM_PARAMETER BLOOM_FILTER BLOOM_MASK DST_NAME MAKE_NAME"
        " ATTACH_FLAGS_SEND ATTACH_FLAGS_RECV ID NAME",
    ),
    **numbered("KDBUS_ITEM_", 0x1000, _METADATA.format(names="OWNED_NAME")),
    **bits("KDBUS_ATTACH_", _METADATA.format(names="NAMES")),
    "_KDBUS_ATTACH_ALL": (1 << 13) - 1,
    **bits("KDBUS_MSG_", "EXPECT_REPLY SYNC_REPLY NO_AUTO_START"),
}
"""Every constant of the header but the request numbers."""

_UNCHANGED_STRUCTS: Final = (
    "kdbus_notify_id_change",
    "kdbus_notify_name_change",
    "kdbus_caps",
    "kdbus_timestamp",
    "kdbus_vec",
    "kdbus_bloom_parameter",
    "kdbus_bloom_filter",
    "kdbus_name",
    "kdbus_policy_access",
    "kdbus_name_info",
    "kdbus_name_list",
    "kdbus_info",
)

_COMMAND: Final = "size@0:8 flags@8:8 kernel_flags@16:8 "

STRUCTS: Final[dict[str, Struct]] = {
    **{name: revision3.STRUCTS[name] for name in _UNCHANGED_STRUCTS},
    **{
        struct.name: struct
        for struct in (
            Struct("kdbus_creds", 40, "uid@0:8 gid@8:8 pid@16:8 tid@24:8 starttime@32:8"),
            Struct("kdbus_audit", 16, "sessionid@0:8 loginuid@8:8"),
            Struct("kdbus_memfd", 16, "size@0:8 fd@8:4 __pad@12:4"),
            Struct(
                "kdbus_item",
                56,
                "size@0:8 type@8:8 data@16:0 data32@16:0 data64@16:0 str@16:0 id@16:8 vec@16:16 creds@16:40 audit@16:16"
                " caps@16:4 timestamp@16:24 name@16:8 bloom_parameter@16:16 bloom_filter@16:8 memfd@16:16 fds@16:0"
                " name_change@16:32 id_change@16:16 policy_access@16:24",
            ),
            Struct(
                "kdbus_msg",
                72,
                _COMMAND + "priority@24:8 dst_id@32:8 src_id@40:8 payload_type@48:8 cookie@56:8 timeout_ns@64:8"
                " cookie_reply@64:8 offset_reply@64:8 items@72:0",
            ),
            Struct("kdbus_cmd_recv", 32, "flags@0:8 kernel_flags@8:8 priority@16:8 offset@24:8 dropped_msgs@24:8"),
            Struct("kdbus_cmd_cancel", 16, "cookie@0:8 flags@8:8"),
            Struct("kdbus_cmd_free", 24, "offset@0:8 flags@8:8 kernel_flags@16:8"),
            Struct(
                "kdbus_cmd_hello",
                96,
                _COMMAND + "attach_flags_send@24:8 attach_flags_recv@32:8 bus_flags@40:8 id@48:8 pool_size@56:8"
                " bloom@64:16 id128@80:16 items@96:0",
            ),
            Struct("kdbus_cmd_make", 24, _COMMAND + "items@24:0"),
            Struct("kdbus_cmd_update", 24, _COMMAND + "items@24:0"),
            Struct("kdbus_cmd_name", 24, _COMMAND + "items@24:0"),
            Struct("kdbus_cmd_name_list", 24, "flags@0:8 kernel_flags@8:8 offset@16:8"),
            Struct("kdbus_cmd_info", 40, _COMMAND + "id@24:8 offset@32:8 items@40:0"),
            Struct("kdbus_cmd_match", 32, "size@0:8 cookie@8:8 flags@16:8 kernel_flags@24:8 items@32:0"),
        )
    },
}
"""Every structure of the header."""


def _write(number: int, struct: str) -> int:
    return request(WRITE, number, STRUCTS[struct].size)


def _both(number: int, struct: str) -> int:
    return request(READ | WRITE, number, STRUCTS[struct].size)


REQUESTS: Final[dict[str, int]] = {
    "KDBUS_CMD_BUS_MAKE": _write(0x00, "kdbus_cmd_make"),
    "KDBUS_CMD_ENDPOINT_MAKE": _write(0x10, "kdbus_cmd_make"),
    "KDBUS_CMD_HELLO": _both(0x20, "kdbus_cmd_hello"),
    "KDBUS_CMD_BYEBYE": request(0, 0x21, 0),
    "KDBUS_CMD_MSG_SEND": _both(0x30, "kdbus_msg"),
    "KDBUS_CMD_MSG_RECV": _both(0x31, "kdbus_cmd_recv"),
    "KDBUS_CMD_MSG_CANCEL": _write(0x32, "kdbus_cmd_cancel"),
    "KDBUS_CMD_FREE": _write(0x33, "kdbus_cmd_free"),
    "KDBUS_CMD_NAME_ACQUIRE": _both(0x40, "kdbus_cmd_name"),
    "KDBUS_CMD_NAME_RELEASE": _write(0x41, "kdbus_cmd_name"),
    "KDBUS_CMD_NAME_LIST": _both(0x42, "kdbus_cmd_name_list"),
    "KDBUS_CMD_CONN_INFO": _both(0x50, "kdbus_cmd_info"),
    "KDBUS_CMD_CONN_UPDATE": _write(0x51, "kdbus_cmd_update"),
    "KDBUS_CMD_BUS_CREATOR_INFO": _both(0x52, "kdbus_cmd_info"),
    "KDBUS_CMD_ENDPOINT_UPDATE": _write(0x61, "kdbus_cmd_update"),
    "KDBUS_CMD_MATCH_ADD": _write(0x70, "kdbus_cmd_match"),
    "KDBUS_CMD_MATCH_REMOVE": _write(0x71, "kdbus_cmd_match"),
}
"""Every ioctl request number of the header."""
