# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 3 of the kdbus ABI (January 2015): numbers and layouts, as data.

Nothing here decides anything. Reference: include/uapi/linux/kdbus.h; a test compares this module with the project's
own C header, and both with the reference header where that is at hand.

`CONSTANTS`, `REQUESTS` and `STRUCTS` are complete and keyed by the C names. The rest of the broker uses the short
Python names that follow, one line each, so that a reader of a rule sees `ITEM_NAME` and not a dictionary look-up.
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
    "KDBUS_FLAG_KERNEL": 1 << 63,
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
    "KDBUS_RECV_RETURN_INCOMPLETE_FDS": 1,
    "KDBUS_SEND_SYNC_REPLY": 1,
    "KDBUS_MATCH_REPLACE": 1,
    **numbered(
        "KDBUS_ITEM_",
        1,
        "PAYLOAD_VEC PAYLOAD_OFF PAYLOAD_MEMFD FDS CANCEL_FD BLOOM_PARAMETER BLOOM_FILTER BLOOM_MASK DST_NAME"
        " MAKE_NAME ATTACH_FLAGS_SEND ATTACH_FLAGS_RECV ID NAME",
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
    **numbered("KDBUS_POLICY_ACCESS_", 1, "USER GROUP WORLD"),
    **numbered("KDBUS_POLICY_", 0, "SEE TALK OWN"),
    **bits("KDBUS_HELLO_", "ACCEPT_FD ACTIVATOR POLICY_HOLDER MONITOR"),
    **bits(
        "KDBUS_ATTACH_",
        "TIMESTAMP CREDS PIDS AUXGROUPS NAMES TID_COMM PID_COMM EXE CMDLINE CGROUP CAPS SECLABEL AUDIT"
        " CONN_DESCRIPTION",
    ),
    **bits("KDBUS_MAKE_ACCESS_", "GROUP WORLD"),
    **bits("KDBUS_NAME_", "REPLACE_EXISTING ALLOW_REPLACEMENT QUEUE IN_QUEUE ACTIVATOR"),
    **bits("KDBUS_NAME_LIST_", "UNIQUE NAMES ACTIVATORS QUEUED"),
}
"""Every constant of the header but the request numbers."""

_COMMAND = "size@0:8 flags@8:8 kernel_flags@16:8 return_flags@24:8 "

STRUCTS: Final[dict[str, Struct]] = {
    struct.name: struct
    for struct in (
        Struct("kdbus_notify_id_change", 16, "id@0:8 flags@8:8"),
        Struct("kdbus_notify_name_change", 32, "old_id@0:16 new_id@16:16 name@32:0"),
        Struct(
            "kdbus_creds",
            32,
            "uid@0:4 euid@4:4 suid@8:4 fsuid@12:4 gid@16:4 egid@20:4 sgid@24:4 fsgid@28:4",
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
            48,
            "size@0:8 type@8:8 data@16:0 data32@16:0 data64@16:0 str@16:0 id@16:8 vec@16:16 creds@16:32 pids@16:24"
            " audit@16:8 caps@16:4 timestamp@16:24 name@16:8 bloom_parameter@16:16 bloom_filter@16:8 memfd@16:24"
            " fds@16:0 name_change@16:32 id_change@16:16 policy_access@16:24",
        ),
        Struct("kdbus_item_list", 8, "size@0:8 items@8:0"),
        Struct(
            "kdbus_msg",
            64,
            "size@0:8 flags@8:8 priority@16:8 dst_id@24:8 src_id@32:8 payload_type@40:8 cookie@48:8 timeout_ns@56:8"
            " cookie_reply@56:8 items@64:0",
        ),
        Struct("kdbus_msg_info", 24, "offset@0:8 msg_size@8:8 return_flags@16:8"),
        Struct(
            "kdbus_cmd_send",
            72,
            "size@0:8 flags@8:8 kernel_flags@16:8 kernel_msg_flags@24:8 return_flags@32:8 msg_address@40:8 reply@48:24"
            " items@72:0",
        ),
        Struct(
            "kdbus_cmd_recv",
            72,
            _COMMAND + "priority@32:8 dropped_msgs@40:8 msg@48:24 items@72:0",
        ),
        Struct(
            "kdbus_cmd_free",
            40,
            "size@0:8 offset@8:8 flags@16:8 kernel_flags@24:8 return_flags@32:8 items@40:0",
        ),
        Struct(
            "kdbus_cmd_hello",
            104,
            _COMMAND + "attach_flags_send@32:8 attach_flags_recv@40:8 bus_flags@48:8 id@56:8 pool_size@64:8 offset@72:8"
            " items_size@80:8 id128@88:16 items@104:0",
        ),
        Struct("kdbus_cmd_make", 32, _COMMAND + "items@32:0"),
        Struct("kdbus_cmd_name", 32, _COMMAND + "items@32:0"),
        Struct("kdbus_name_info", 24, "size@0:8 conn_flags@8:8 owner_id@16:8 items@24:0"),
        Struct("kdbus_name_list", 8, "size@0:8 names@8:0"),
        Struct("kdbus_cmd_name_list", 48, _COMMAND + "offset@32:8 list_size@40:8 items@48:0"),
        Struct("kdbus_info", 24, "size@0:8 id@8:8 flags@16:8 items@24:0"),
        Struct("kdbus_cmd_info", 56, _COMMAND + "id@32:8 offset@40:8 info_size@48:8 items@56:0"),
        Struct("kdbus_cmd_update", 32, _COMMAND + "items@32:0"),
        Struct(
            "kdbus_cmd_match",
            40,
            "size@0:8 cookie@8:8 flags@16:8 kernel_flags@24:8 return_flags@32:8 items@40:0",
        ),
    )
}
"""Every structure of the header."""

REQUESTS: Final[dict[str, int]] = {
    "KDBUS_CMD_BUS_MAKE": request(WRITE, 0x00, STRUCTS["kdbus_cmd_make"].size),
    "KDBUS_CMD_ENDPOINT_MAKE": request(WRITE, 0x10, STRUCTS["kdbus_cmd_make"].size),
    "KDBUS_CMD_HELLO": request(READ | WRITE, 0x20, STRUCTS["kdbus_cmd_hello"].size),
    "KDBUS_CMD_BYEBYE": request(0, 0x21, 0),
    "KDBUS_CMD_SEND": request(READ | WRITE, 0x30, STRUCTS["kdbus_cmd_send"].size),
    "KDBUS_CMD_RECV": request(READ | WRITE, 0x31, STRUCTS["kdbus_cmd_recv"].size),
    "KDBUS_CMD_FREE": request(WRITE, 0x32, STRUCTS["kdbus_cmd_free"].size),
    "KDBUS_CMD_NAME_ACQUIRE": request(READ | WRITE, 0x40, STRUCTS["kdbus_cmd_name"].size),
    "KDBUS_CMD_NAME_RELEASE": request(WRITE, 0x41, STRUCTS["kdbus_cmd_name"].size),
    "KDBUS_CMD_NAME_LIST": request(READ | WRITE, 0x42, STRUCTS["kdbus_cmd_name_list"].size),
    "KDBUS_CMD_CONN_INFO": request(READ | WRITE, 0x50, STRUCTS["kdbus_cmd_info"].size),
    "KDBUS_CMD_CONN_UPDATE": request(WRITE, 0x51, STRUCTS["kdbus_cmd_update"].size),
    "KDBUS_CMD_BUS_CREATOR_INFO": request(READ | WRITE, 0x52, STRUCTS["kdbus_cmd_info"].size),
    "KDBUS_CMD_ENDPOINT_UPDATE": request(WRITE, 0x61, STRUCTS["kdbus_cmd_update"].size),
    "KDBUS_CMD_MATCH_ADD": request(WRITE, 0x70, STRUCTS["kdbus_cmd_match"].size),
    "KDBUS_CMD_MATCH_REMOVE": request(WRITE, 0x71, STRUCTS["kdbus_cmd_match"].size),
}
"""Every ioctl request number of the header."""

SOURCE_KERNEL: Final = 0
DESTINATION_NAME: Final = 0
DESTINATION_BROADCAST: Final = U64
MATCH_ANY_ID: Final = U64
FLAG_KERNEL: Final = 1 << 63
PAYLOAD_KERNEL: Final = 0

ITEM_PAYLOAD_VEC: Final = CONSTANTS["KDBUS_ITEM_PAYLOAD_VEC"]
ITEM_PAYLOAD_OFF: Final = CONSTANTS["KDBUS_ITEM_PAYLOAD_OFF"]
ITEM_PAYLOAD_MEMFD: Final = CONSTANTS["KDBUS_ITEM_PAYLOAD_MEMFD"]
ITEM_FDS: Final = CONSTANTS["KDBUS_ITEM_FDS"]
ITEM_CANCEL_FD: Final = CONSTANTS["KDBUS_ITEM_CANCEL_FD"]
ITEM_BLOOM_PARAMETER: Final = CONSTANTS["KDBUS_ITEM_BLOOM_PARAMETER"]
ITEM_BLOOM_FILTER: Final = CONSTANTS["KDBUS_ITEM_BLOOM_FILTER"]
ITEM_BLOOM_MASK: Final = CONSTANTS["KDBUS_ITEM_BLOOM_MASK"]
ITEM_DST_NAME: Final = CONSTANTS["KDBUS_ITEM_DST_NAME"]
ITEM_MAKE_NAME: Final = CONSTANTS["KDBUS_ITEM_MAKE_NAME"]
ITEM_ATTACH_FLAGS_SEND: Final = CONSTANTS["KDBUS_ITEM_ATTACH_FLAGS_SEND"]
ITEM_ATTACH_FLAGS_RECV: Final = CONSTANTS["KDBUS_ITEM_ATTACH_FLAGS_RECV"]
ITEM_ID: Final = CONSTANTS["KDBUS_ITEM_ID"]
ITEM_NAME: Final = CONSTANTS["KDBUS_ITEM_NAME"]
ITEM_TIMESTAMP: Final = CONSTANTS["KDBUS_ITEM_TIMESTAMP"]
ITEM_CREDS: Final = CONSTANTS["KDBUS_ITEM_CREDS"]
ITEM_PIDS: Final = CONSTANTS["KDBUS_ITEM_PIDS"]
ITEM_AUXGROUPS: Final = CONSTANTS["KDBUS_ITEM_AUXGROUPS"]
ITEM_OWNED_NAME: Final = CONSTANTS["KDBUS_ITEM_OWNED_NAME"]
ITEM_TID_COMM: Final = CONSTANTS["KDBUS_ITEM_TID_COMM"]
ITEM_PID_COMM: Final = CONSTANTS["KDBUS_ITEM_PID_COMM"]
ITEM_EXE: Final = CONSTANTS["KDBUS_ITEM_EXE"]
ITEM_CMDLINE: Final = CONSTANTS["KDBUS_ITEM_CMDLINE"]
ITEM_CGROUP: Final = CONSTANTS["KDBUS_ITEM_CGROUP"]
ITEM_CAPS: Final = CONSTANTS["KDBUS_ITEM_CAPS"]
ITEM_SECLABEL: Final = CONSTANTS["KDBUS_ITEM_SECLABEL"]
ITEM_AUDIT: Final = CONSTANTS["KDBUS_ITEM_AUDIT"]
ITEM_CONN_DESCRIPTION: Final = CONSTANTS["KDBUS_ITEM_CONN_DESCRIPTION"]
ITEM_POLICY_ACCESS: Final = CONSTANTS["KDBUS_ITEM_POLICY_ACCESS"]
ITEM_NAME_ADD: Final = CONSTANTS["KDBUS_ITEM_NAME_ADD"]
ITEM_NAME_REMOVE: Final = CONSTANTS["KDBUS_ITEM_NAME_REMOVE"]
ITEM_NAME_CHANGE: Final = CONSTANTS["KDBUS_ITEM_NAME_CHANGE"]
ITEM_ID_ADD: Final = CONSTANTS["KDBUS_ITEM_ID_ADD"]
ITEM_ID_REMOVE: Final = CONSTANTS["KDBUS_ITEM_ID_REMOVE"]
ITEM_REPLY_TIMEOUT: Final = CONSTANTS["KDBUS_ITEM_REPLY_TIMEOUT"]
ITEM_REPLY_DEAD: Final = CONSTANTS["KDBUS_ITEM_REPLY_DEAD"]

MESSAGE_EXPECT_REPLY: Final = CONSTANTS["KDBUS_MSG_EXPECT_REPLY"]
MESSAGE_NO_AUTO_START: Final = CONSTANTS["KDBUS_MSG_NO_AUTO_START"]
MESSAGE_SIGNAL: Final = CONSTANTS["KDBUS_MSG_SIGNAL"]
SEND_SYNC_REPLY: Final = CONSTANTS["KDBUS_SEND_SYNC_REPLY"]
RECV_PEEK: Final = CONSTANTS["KDBUS_RECV_PEEK"]
RECV_DROP: Final = CONSTANTS["KDBUS_RECV_DROP"]
RECV_USE_PRIORITY: Final = CONSTANTS["KDBUS_RECV_USE_PRIORITY"]
RECV_RETURN_INCOMPLETE_FDS: Final = CONSTANTS["KDBUS_RECV_RETURN_INCOMPLETE_FDS"]
POLICY_ACCESS_USER: Final = CONSTANTS["KDBUS_POLICY_ACCESS_USER"]
POLICY_ACCESS_GROUP: Final = CONSTANTS["KDBUS_POLICY_ACCESS_GROUP"]
POLICY_ACCESS_WORLD: Final = CONSTANTS["KDBUS_POLICY_ACCESS_WORLD"]
POLICY_SEE: Final = CONSTANTS["KDBUS_POLICY_SEE"]
POLICY_TALK: Final = CONSTANTS["KDBUS_POLICY_TALK"]
POLICY_OWN: Final = CONSTANTS["KDBUS_POLICY_OWN"]
HELLO_ACCEPT_FD: Final = CONSTANTS["KDBUS_HELLO_ACCEPT_FD"]
HELLO_ACTIVATOR: Final = CONSTANTS["KDBUS_HELLO_ACTIVATOR"]
HELLO_POLICY_HOLDER: Final = CONSTANTS["KDBUS_HELLO_POLICY_HOLDER"]
HELLO_MONITOR: Final = CONSTANTS["KDBUS_HELLO_MONITOR"]
MAKE_ACCESS_GROUP: Final = CONSTANTS["KDBUS_MAKE_ACCESS_GROUP"]
MAKE_ACCESS_WORLD: Final = CONSTANTS["KDBUS_MAKE_ACCESS_WORLD"]
NAME_REPLACE_EXISTING: Final = CONSTANTS["KDBUS_NAME_REPLACE_EXISTING"]
NAME_ALLOW_REPLACEMENT: Final = CONSTANTS["KDBUS_NAME_ALLOW_REPLACEMENT"]
NAME_QUEUE: Final = CONSTANTS["KDBUS_NAME_QUEUE"]
NAME_IN_QUEUE: Final = CONSTANTS["KDBUS_NAME_IN_QUEUE"]
NAME_ACTIVATOR: Final = CONSTANTS["KDBUS_NAME_ACTIVATOR"]
LIST_UNIQUE: Final = CONSTANTS["KDBUS_NAME_LIST_UNIQUE"]
LIST_NAMES: Final = CONSTANTS["KDBUS_NAME_LIST_NAMES"]
LIST_ACTIVATORS: Final = CONSTANTS["KDBUS_NAME_LIST_ACTIVATORS"]
LIST_QUEUED: Final = CONSTANTS["KDBUS_NAME_LIST_QUEUED"]
MATCH_REPLACE: Final = CONSTANTS["KDBUS_MATCH_REPLACE"]

ATTACH_TIMESTAMP: Final = CONSTANTS["KDBUS_ATTACH_TIMESTAMP"]
ATTACH_CREDS: Final = CONSTANTS["KDBUS_ATTACH_CREDS"]
ATTACH_PIDS: Final = CONSTANTS["KDBUS_ATTACH_PIDS"]
ATTACH_AUXGROUPS: Final = CONSTANTS["KDBUS_ATTACH_AUXGROUPS"]
ATTACH_NAMES: Final = CONSTANTS["KDBUS_ATTACH_NAMES"]
ATTACH_TID_COMM: Final = CONSTANTS["KDBUS_ATTACH_TID_COMM"]
ATTACH_PID_COMM: Final = CONSTANTS["KDBUS_ATTACH_PID_COMM"]
ATTACH_EXE: Final = CONSTANTS["KDBUS_ATTACH_EXE"]
ATTACH_CMDLINE: Final = CONSTANTS["KDBUS_ATTACH_CMDLINE"]
ATTACH_CGROUP: Final = CONSTANTS["KDBUS_ATTACH_CGROUP"]
ATTACH_CAPS: Final = CONSTANTS["KDBUS_ATTACH_CAPS"]
ATTACH_SECLABEL: Final = CONSTANTS["KDBUS_ATTACH_SECLABEL"]
ATTACH_AUDIT: Final = CONSTANTS["KDBUS_ATTACH_AUDIT"]
ATTACH_CONN_DESCRIPTION: Final = CONSTANTS["KDBUS_ATTACH_CONN_DESCRIPTION"]
ATTACH_ALL: Final = CONSTANTS["_KDBUS_ATTACH_ALL"]
ATTACH_ANY: Final = CONSTANTS["_KDBUS_ATTACH_ANY"]
