# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bus tells and is told, as values: metadata, notifications, lists, policies. All of them are immutable.

Ids are those of the receiver's namespaces, as the bus translated them. Times are in nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kdbus.flags import Access, AccessType, HelloFlag, NameFlag


@dataclass(frozen=True, slots=True)
class BloomParameters:
    """Of the bloom filters on a bus: their size in bytes, and how many hash functions set a bit for each word."""

    size: int = 64
    hashes: int = 8


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and group ids: real, effective, saved, and those for file systems."""

    uid: int
    euid: int
    suid: int
    fsuid: int
    gid: int
    egid: int
    sgid: int
    fsgid: int


@dataclass(frozen=True, slots=True)
class Pids:
    """Process, thread and parent; 0 for what is not visible from the receiver's namespace."""

    pid: int
    tid: int
    ppid: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The highest capability that the kernel knows, and four sets with a bit for each (capabilities(7))."""

    last: int
    inheritable: int
    permitted: int
    effective: int
    bounding: int


@dataclass(frozen=True, slots=True)
class Audit:
    """Of the audit system."""

    session: int
    loginuid: int


@dataclass(frozen=True, slots=True)
class Timestamp:
    """When a message was sent: its number on the bus (or in the domain), and the two clocks in ns."""

    sequence: int
    monotonic_ns: int
    realtime_ns: int


@dataclass(frozen=True, slots=True)
class OwnedName:
    """A name that the sender owned, and how."""

    name: str
    flags: NameFlag


@dataclass(frozen=True, slots=True)
class Metadata:
    """What came along about a connection; None (or nothing) for what did not.

    Texts that are no UTF-8 have surrogate escapes for the odd bytes, as `os.fsdecode` makes them.
    """

    timestamp: Timestamp | None = None
    creds: Credentials | None = None
    pids: Pids | None = None
    auxgroups: tuple[int, ...] | None = None
    names: tuple[OwnedName, ...] = ()
    tid_comm: str | None = None
    pid_comm: str | None = None
    exe: str | None = None
    cmdline: str | None = None
    cgroup: str | None = None
    caps: Capabilities | None = None
    seclabel: str | None = None
    audit: Audit | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class NameChange:
    """A name got an owner (`old_id` 0), lost it (`new_id` 0), or went from one to another."""

    name: str
    old_id: int
    old_flags: NameFlag
    new_id: int
    new_flags: NameFlag


@dataclass(frozen=True, slots=True)
class IdChange:
    """A connection came (`appeared`) or went."""

    id: int
    flags: HelloFlag
    appeared: bool


@dataclass(frozen=True, slots=True)
class ReplyTimeout:
    """The reply to the request whose cookie the message has as `reply_to` did not come in time."""


@dataclass(frozen=True, slots=True)
class ReplyDead:
    """The reply to the request whose cookie the message has as `reply_to` will never come."""


Notification: TypeAlias = NameChange | IdChange | ReplyTimeout | ReplyDead
"""What the bus itself has to say."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a list: a connection, its HELLO flags, and a name that it has or waits for, if it is listed for one.
    """

    id: int
    flags: HelloFlag
    name: str | None
    name_flags: NameFlag


@dataclass(frozen=True, slots=True)
class Info:
    """About a connection (`flags`: HELLO flags) or the bus itself (`flags`: those that it was made with, and
    `bus_name`)."""

    id: int
    flags: int
    metadata: Metadata
    bus_name: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may do what. `id` is a user's or a group's, and means nothing for WORLD."""

    access: Access
    type: AccessType = AccessType.WORLD
    id: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for a name, or for all names below one: `org.example.*`."""

    name: str
    rules: tuple[Rule, ...] = ()
