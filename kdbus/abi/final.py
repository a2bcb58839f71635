# SPDX-License-Identifier: GPL-2.0-or-later
"""The final revision of the kdbus ABI (August 2015): numbers and layouts, as data.

Most programs in the wild were built against it: systemd 221 to 231, libdbus, GLib and ell with their kdbus transports.
Nothing here decides anything; what differs from other revisions in meaning is `broker.behaviour`. The facts, number by
number, are those of the final header and of the kernel's sources; docs/revisions.md says where revisions differ.

`CONSTANTS`, `REQUESTS` and `STRUCTS` are complete and keyed by the C names.
"""

from __future__ import annotations

from typing import Final

from kdbus.abi.layout import MAGIC, READ, U64, WRITE, Struct, bits, numbered, request

CONSTANTS: Final[dict[str, int]] = {
    "KDBUS_IOCTL_MAGIC": MAGIC,
    "KDBUS_SRC_ID_KERNEL": 0,
    "KDBUS_DST_ID_NAME": 0,
    "KDBUS_MATCH_ID_ANY": U64,
    "KDBUS_DST_ID_BROADCAST": U64,
    "KDBUS_FLAG_NEGOTIATE": 1 << 63,
    "KDBUS_PAYLOAD_KERNEL": 0,
    "KDBUS_PAYLOAD_DBUS": 0x4442757344427573,
    "_KDBUS_ITEM_NULL": 0,
    "_KDBUS_ITEM_USER_BASE": 1,
    "_KDBUS_ITEM_ATTACH_BASE": 0x1000,
    "_KDBUS_ITEM_POLICY_BASE": 0x2000,
    "_KDBUS_ITEM_KERNEL_BASE": 0x8000,
    "_KDBUS_POLICY_ACCESS_NULL": 0,
    "_KDBUS_ATTACH_ALL": (1 << 14) - 1,
    "_KDBUS_ATTACH_ANY": U64,
    "KDBUS_SEND_SYNC_REPLY": 1,
    "KDBUS_MATCH_REPLACE": 1,
    **numbered(
        "KDBUS_ITEM_",
        1,
        "NEGOTIATE PAYLOAD_VEC PAYLOAD_OFF PAYLOAD_MEMFD FDS CANCEL_FD BLOOM_PARAMETER BLOOM_FILTER BLOOM_MASK"
        " DST_NAME MAKE_NAME ATTACH_FLAGS_SEND ATTACH_FLAGS_RECV ID NAME DST_ID",
    ),
    **numbered(
        "KDBUS_ITEM_",
        0x1000,
        "TIMESTAMP CREDS PIDS AUXGROUPS OWNED_NAME TID_COMM PID_COMM EXE CMDLINE CGROUP CAPS SECLABEL AUDIT"
        " CONN_DESCRIPTION",
    ),
    **numbered("KDBUS_ITEM_", 0x2000, "POLICY_ACCESS"),
    **numbered(
        "KDBUS_ITEM_",
        0x8000,
        "NAME_ADD NAME_REMOVE NAME_CHANGE ID_ADD ID_REMOVE REPLY_TIMEOUT REPLY_DEAD",
    ),
    **bits("KDBUS_MSG_", "EXPECT_REPLY NO_AUTO_START SIGNAL"),
    **bits("KDBUS_RECV_", "PEEK DROP USE_PRIORITY"),
    **bits("KDBUS_RECV_RETURN_", "INCOMPLETE_FDS DROPPED_MSGS"),
    **numbered("KDBUS_POLICY_ACCESS_", 1, "USER GROUP WORLD"),
    **numbered("KDBUS_POLICY_", 0, "SEE TALK OWN"),
    **bits("KDBUS_HELLO_", "ACCEPT_FD ACTIVATOR POLICY_HOLDER MONITOR"),
    **bits(
        "KDBUS_ATTACH_",
        "TIMESTAMP CREDS PIDS AUXGROUPS NAMES TID_COMM PID_COMM EXE CMDLINE CGROUP CAPS SECLABEL AUDIT"
        " CONN_DESCRIPTION",
    ),
    **bits("KDBUS_MAKE_ACCESS_", "GROUP WORLD"),
    **bits("KDBUS_NAME_", "REPLACE_EXISTING ALLOW_REPLACEMENT QUEUE IN_QUEUE ACTIVATOR PRIMARY ACQUIRED"),
    **bits("KDBUS_LIST_", "UNIQUE NAMES ACTIVATORS QUEUED"),
}
"""Every constant of the header but the request numbers."""

_COMMAND = "size@0:8 flags@8:8 return_flags@16:8 "

STRUCTS: Final[dict[str, Struct]] = {
    struct.name: struct
    for struct in (
        Struct("kdbus_notify_id_change", 16, "id@0:8 flags@8:8"),
        Struct("kdbus_notify_name_change", 32, "old_id@0:16 new_id@16:16 name@32:0"),
        Struct(
            "kdbus_creds",
            64,
            "uid@0:8 euid@8:8 suid@16:8 fsuid@24:8 gid@32:8 egid@40:8 sgid@48:8 fsgid@56:8",
        ),
        Struct("kdbus_pids", 24, "pid@0:8 tid@8:8 ppid@16:8"),
        Struct("kdbus_caps", 4, "last_cap@0:4 caps@4:0"),
        Struct("kdbus_audit", 8, "sessionid@0:4 loginuid@4:4"),
        Struct("kdbus_timestamp", 24, "seqnum@0:8 monotonic_ns@8:8 realtime_ns@16:8"),
        Struct("kdbus_vec", 16, "size@0:8 address@8:8 offset@8:8"),
        Struct("kdbus_bloom_parameter", 16, "size@0:8 n_hash@8:8"),
        Struct("kdbus_bloom_filter", 8, "generation@0:8 data@8:0"),
        Struct("kdbus_memfd", 24, "start@0:8 size@8:8 fd@16:4 __pad@20:4"),
        Struct("kdbus_name", 8, "flags@0:8 name@8:0"),
        Struct("kdbus_policy_access", 24, "type@0:8 access@8:8 id@16:8"),
        Struct(
            "kdbus_item",
            80,
            "size@0:8 type@8:8 data@16:0 data32@16:0 data64@16:0 str@16:0 id@16:8 vec@16:16 creds@16:64 pids@16:24"
            " audit@16:8 caps@16:4 timestamp@16:24 name@16:8 bloom_parameter@16:16 bloom_filter@16:8 memfd@16:24"
            " fds@16:0 name_change@16:32 id_change@16:16 policy_access@16:24",
        ),
        Struct(
            "kdbus_msg",
            64,
            "size@0:8 flags@8:8 priority@16:8 dst_id@24:8 src_id@32:8 payload_type@40:8 cookie@48:8 timeout_ns@56:8"
            " cookie_reply@56:8 items@64:0",
        ),
        Struct("kdbus_msg_info", 24, "offset@0:8 msg_size@8:8 return_flags@16:8"),
        Struct("kdbus_cmd_send", 56, _COMMAND + "msg_address@24:8 reply@32:24 items@56:0"),
        Struct("kdbus_cmd_recv", 64, _COMMAND + "priority@24:8 dropped_msgs@32:8 msg@40:24 items@64:0"),
        Struct("kdbus_cmd_free", 32, _COMMAND + "offset@24:8 items@32:0"),
        Struct(
            "kdbus_cmd_hello",
            96,
            _COMMAND + "attach_flags_send@24:8 attach_flags_recv@32:8 bus_flags@40:8 id@48:8 pool_size@56:8 offset@64:8"
            " items_size@72:8 id128@80:16 items@96:0",
        ),
        Struct("kdbus_cmd", 24, _COMMAND + "items@24:0"),
        Struct("kdbus_info", 24, "size@0:8 id@8:8 flags@16:8 items@24:0"),
        Struct("kdbus_cmd_info", 56, _COMMAND + "id@24:8 attach_flags@32:8 offset@40:8 info_size@48:8 items@56:0"),
        Struct("kdbus_cmd_list", 40, _COMMAND + "offset@24:8 list_size@32:8 items@40:0"),
        Struct("kdbus_cmd_match", 32, _COMMAND + "cookie@24:8 items@32:0"),
    )
}
"""Every structure of the header."""


def _write(number: int, struct: str) -> int:
    return request(WRITE, number, STRUCTS[struct].size)


def _read(number: int, struct: str) -> int:
    return request(READ, number, STRUCTS[struct].size)


REQUESTS: Final[dict[str, int]] = {
    "KDBUS_CMD_BUS_MAKE": _write(0x00, "kdbus_cmd"),
    "KDBUS_CMD_ENDPOINT_MAKE": _write(0x10, "kdbus_cmd"),
    "KDBUS_CMD_ENDPOINT_UPDATE": _write(0x11, "kdbus_cmd"),
    "KDBUS_CMD_HELLO": request(READ | WRITE, 0x80, STRUCTS["kdbus_cmd_hello"].size),
    "KDBUS_CMD_UPDATE": _write(0x81, "kdbus_cmd"),
    "KDBUS_CMD_BYEBYE": _write(0x82, "kdbus_cmd"),
    "KDBUS_CMD_FREE": _write(0x83, "kdbus_cmd_free"),
    "KDBUS_CMD_CONN_INFO": _read(0x84, "kdbus_cmd_info"),
    "KDBUS_CMD_BUS_CREATOR_INFO": _read(0x85, "kdbus_cmd_info"),
    "KDBUS_CMD_LIST": _read(0x86, "kdbus_cmd_list"),
    "KDBUS_CMD_SEND": _write(0x90, "kdbus_cmd_send"),
    "KDBUS_CMD_RECV": _read(0x91, "kdbus_cmd_recv"),
    "KDBUS_CMD_NAME_ACQUIRE": _write(0xA0, "kdbus_cmd"),
    "KDBUS_CMD_NAME_RELEASE": _write(0xA1, "kdbus_cmd"),
    "KDBUS_CMD_MATCH_ADD": _write(0xB0, "kdbus_cmd_match"),
    "KDBUS_CMD_MATCH_REMOVE": _write(0xB1, "kdbus_cmd_match"),
}
"""Every ioctl request number of the header."""
