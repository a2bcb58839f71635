# SPDX-License-Identifier: GPL-2.0-or-later
"""The flags and enumerations of the API, as types. Their numbers are the same in all revisions that are served.

A later revision may know flags that an earlier one refuses (EINVAL), and what the bus returns may have bits that stand
in no header: all of these types keep such bits.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from kdbus.abi.layout import U64

BROADCAST: Final = U64
"""The destination that means everybody whose matches fit."""
ANY: Final = U64
"""In a match: the id of anybody."""
KERNEL: Final = 0
"""The sender of notifications."""
PAYLOAD_DBUS: Final = 0x4442757344427573
"""The payload type of D-Bus messages ("DBusDBus")."""


class MakeFlag(IntFlag):
    """Who besides its maker may open a bus or endpoint."""

    NONE = 0
    ACCESS_GROUP = 1
    ACCESS_WORLD = 2


class HelloFlag(IntFlag):
    """What a connection is. Without ACTIVATOR, POLICY_HOLDER and MONITOR, of which one excludes the others, it is an
    ordinary one."""

    NONE = 0
    ACCEPT_FD = 1
    ACTIVATOR = 2
    POLICY_HOLDER = 4
    MONITOR = 8


class Attach(IntFlag):
    """Kinds of metadata: what a connection tells about itself, and what it wants to be told about others."""

    NONE = 0
    TIMESTAMP = 1
    CREDS = 2
    PIDS = 4
    AUXGROUPS = 8
    NAMES = 0x10
    TID_COMM = 0x20
    PID_COMM = 0x40
    EXE = 0x80
    CMDLINE = 0x100
    CGROUP = 0x200
    CAPS = 0x400
    SECLABEL = 0x800
    AUDIT = 0x1000
    CONN_DESCRIPTION = 0x2000
    ALL = 0x3FFF


class MessageFlag(IntFlag):
    """Of a message."""

    NONE = 0
    EXPECT_REPLY = 1
    NO_AUTO_START = 2
    SIGNAL = 4


class ReceiveFlag(IntFlag):
    """How to receive."""

    NONE = 0
    PEEK = 1
    DROP = 2
    USE_PRIORITY = 4


class NameFlag(IntFlag):
    """The first three ask how to acquire a name; all of them tell how a name is held."""

    NONE = 0
    REPLACE_EXISTING = 1
    ALLOW_REPLACEMENT = 2
    QUEUE = 4
    IN_QUEUE = 8
    ACTIVATOR = 0x10
    PRIMARY = 0x20
    ACQUIRED = 0x40


class ListFlag(IntFlag):
    """What to list."""

    NONE = 0
    UNIQUE = 1
    NAMES = 2
    ACTIVATORS = 4
    QUEUED = 8


class AccessType(IntEnum):
    """Whom a rule of a policy speaks of."""

    USER = 1
    GROUP = 2
    WORLD = 3


class Access(IntEnum):
    """What a rule of a policy allows; each includes those before it."""

    SEE = 0
    TALK = 1
    OWN = 2
