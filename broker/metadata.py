# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata: who sent a message, as the bus itself knows it.

A receiver asks for metadata with its attach flags, a sender agrees to what it lets out with its own, and what both
want is *collected* from the sending thread when it sends. It is *exported*, as items behind the payload, when the
message is received: masked by what the receiver asks for then and by the module parameter `attach_flags_mask`, and
translated into the receiver's namespaces. What cannot be translated is left out or replaced, item by item, as the
rules in `ProcessMetadata.export` say.

Two kinds are kept apart. Facts about the process (`ProcessMetadata`) may be faked by a privileged connection at
HELLO, and then are never collected from the thread. Facts about the connection (`ConnectionMetadata`: names,
description, timestamp) are always true.

One message may go to many receivers and is collected for each of them into the same objects: what was collected for
one may be exported to another, if that one asks for it. Reference: ipc/kdbus/metadata.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import Protocol

from broker.errors import BadArgument
from broker.interfaces import INVALID_ID, Caller, Capabilities, Clock, Credentials, Ids, Pid, Process
from broker.item import Item
from kdbus.abi import final
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from kdbus.abi.revision import Kind, Revision


class Reader(Protocol):
    """What of a `broker.behaviour.Behaviour` counts here: metadata is written in the layout of who reads it."""

    @property
    def revision(self) -> Revision:
        """The numbers and layouts of items."""
        ...

    @property
    def claim_states(self) -> bool:
        """Whether flags of a name say if its claim is the first."""
        ...


PROCESS_FLAGS = (
    abi.ATTACH_CREDS
    | abi.ATTACH_PIDS
    | abi.ATTACH_AUXGROUPS
    | abi.ATTACH_TID_COMM
    | abi.ATTACH_PID_COMM
    | abi.ATTACH_EXE
    | abi.ATTACH_CMDLINE
    | abi.ATTACH_CGROUP
    | abi.ATTACH_CAPS
    | abi.ATTACH_SECLABEL
    | abi.ATTACH_AUDIT
)
"""What is collected of the process at HELLO and BUS_MAKE."""
START_TIME = 1 << 32
"""Not a KDBUS_ATTACH_*: that readers of version 2 are also told when the thread was started, if it can be known."""


def sanitize_attach_flags(flags: int) -> int:
    """Attach flags as given by a program: "any" means all; unknown ones raise BadArgument."""
    if flags == abi.ATTACH_ANY:
        return abi.ATTACH_ALL
    if flags & ~abi.ATTACH_ALL:
        raise BadArgument(rule=f"unknown attach flags {flags & ~abi.ATTACH_ALL:#x}")
    return flags


class ProcessMetadata:
    """Facts about a process, as of the moment each was collected."""

    __slots__ = (
        "audit",
        "capabilities",
        "collected",
        "credentials",
        "pids",
        "root_directory",
        "start_time",
        "strings",
        "valid",
    )

    def __init__(self) -> None:
        self.collected = 0
        self.valid = 0
        self.credentials = _NOBODY
        self.pids: tuple[Pid, Pid, Pid] = (Pid(), Pid(), Pid())
        self.strings: dict[int, bytes] = {}
        self.capabilities: Capabilities | None = None
        self.audit = (0, 0)
        self.root_directory: object = None
        self.start_time = 0
        """When the thread was started, in ns since the system was; 0 if that was not asked for."""

    def collect(self, caller: Caller, flags: int) -> None:
        """Collect from the calling thread what `flags` ask for and is not there yet."""
        missing = flags & (PROCESS_FLAGS | START_TIME) & ~self.collected
        if not missing:
            return
        process = caller.process
        self.collected |= missing
        if missing & (abi.ATTACH_CREDS | abi.ATTACH_AUXGROUPS):
            found = process.credentials()
            groups = found.groups if missing & abi.ATTACH_AUXGROUPS else self.credentials.groups
            kept = found if missing & abi.ATTACH_CREDS else self.credentials
            self.credentials = Credentials(*_ids_of(kept), groups)
            self.valid |= missing & (abi.ATTACH_CREDS | abi.ATTACH_AUXGROUPS)
        if missing & abi.ATTACH_PIDS:
            self.pids = process.pids()
            self.valid |= abi.ATTACH_PIDS
        if missing & START_TIME:
            self.start_time = process.start_time_ns()
        for flag, read in _STRINGS:
            if missing & flag:
                text = read(process)
                if text is not None:
                    self.strings[flag] = text
                    self.valid |= flag
        if missing & abi.ATTACH_EXE:
            self.root_directory = caller.ids.root_directory
        if missing & abi.ATTACH_CAPS:
            self.capabilities = process.capabilities()
            self.valid |= abi.ATTACH_CAPS
        if missing & abi.ATTACH_AUDIT:
            audit = process.audit()
            if audit is not None:
                self.audit = audit
                self.valid |= abi.ATTACH_AUDIT

    def key(self) -> Hashable:
        """Equal for objects that export the same items to everybody."""
        pids = tuple(tuple(pid.numbers.items()) for pid in self.pids)
        strings = tuple(self.strings.items())
        facts = (self.credentials, pids, strings, self.capabilities, self.audit, self.root_directory, self.start_time)
        return self.valid, *facts

    def fake(self, caller: Caller, creds: bytes | None, pids: bytes | None, label: bytes | None) -> None:
        """Take what a privileged program claims instead, resolved in its own namespaces.

        `creds`: eight ids of 32 or 64 bits, 2^32 - 1 for "none", or what version 2 has there (`broker.metadata2`);
        `pids`: three 64-bit numbers, 0 for "none". Raises BadArgument for ids that are not mapped and processes that do
        not exist.
        """
        if creds is not None and len(creds) == 40:
            uid, gid, process, thread, self.start_time = struct.unpack("<5Q", creds)
            creds = struct.pack("<8Q", *(uid,) * 4, *(gid,) * 4)
            self.pids = (_found(caller, process), _found(caller, thread), Pid())
            self.valid |= abi.ATTACH_PIDS
        if creds is not None:
            numbers = struct.unpack("<8I" if len(creds) == 32 else "<8Q", creds)
            uid, euid, suid, fsuid = (_make_id(caller.ids.make_uid, number) for number in numbers[:4])
            gid, egid, sgid, fsgid = (_make_id(caller.ids.make_gid, number) for number in numbers[4:])
            self.credentials = Credentials(uid, euid, suid, fsuid, gid, egid, sgid, fsgid)
            self.valid |= abi.ATTACH_CREDS
        if pids is not None:
            process, thread, parent = struct.unpack("<3Q", pids)
            self.pids = (_find(caller, process), _find(caller, thread), _find(caller, parent))
            self.valid |= abi.ATTACH_PIDS
        if label is not None:
            self.strings[abi.ATTACH_SECLABEL] = label
            self.valid |= abi.ATTACH_SECLABEL
        self.collected |= self.valid

    def export(self, ids: Ids, mask: int, revision: Revision, *, blank_capabilities: bool = False) -> bytes:
        """The items that `mask` asks for and that are known, for a reader whose namespaces are `ids`.

        - users and groups that the reader's user namespace does not map show as the overflow ids;
        - processes that its pid namespace does not see show as 0;
        - capabilities are left out unless both are in the same user namespace, as sets of one mean nothing in
          another; or, with `blank_capabilities`, they are shown as what they are worth in the reader's: the same in a
          namespace below theirs, all in one that their owner has made, none anywhere else;
        - the executable is left out unless both have the same root directory.
        """
        mask &= self.valid
        capabilities = self.capabilities
        if capabilities is not None and capabilities.user_namespace != ids.user_namespace:
            capabilities = _seen_from(ids, capabilities)
            if not blank_capabilities:
                mask &= ~abi.ATTACH_CAPS
        if mask & abi.ATTACH_EXE and self.root_directory != ids.root_directory:
            mask &= ~abi.ATTACH_EXE
        if not mask:
            return b""
        parts: list[bytes] = []
        word = "I" if revision.structs["kdbus_creds"].size == 32 else "Q"
        if mask & abi.ATTACH_CREDS:
            who = self.credentials
            users = (shown_id(ids.from_uid, uid, ids.overflow_uid) for uid in (who.uid, who.euid, who.suid, who.fsuid))
            groups = (shown_id(ids.from_gid, gid, ids.overflow_gid) for gid in (who.gid, who.egid, who.sgid, who.fsgid))
            parts.append(revision.build(Kind.CREDS, struct.pack("<8" + word, *users, *groups)))
        if mask & abi.ATTACH_PIDS:
            numbers = (pid.number_in(ids.pid_namespace) for pid in self.pids)
            parts.append(revision.build(Kind.PIDS, struct.pack("<3Q", *numbers)))
        if mask & abi.ATTACH_AUXGROUPS:
            local = [_munge(ids.from_gid(gid), ids.overflow_gid) for gid in self.credentials.groups]
            parts.append(revision.build(Kind.AUXGROUPS, struct.pack(f"<{len(local)}{word}", *local)))
        for flag, item_type in _STRING_ITEMS:
            if mask & flag:
                parts.append(revision.build(item_type, self.strings[flag] + b"\0"))
        if mask & abi.ATTACH_CAPS and capabilities is not None:
            parts.append(revision.build(Kind.CAPS, _pack_capabilities(capabilities)))
        if mask & abi.ATTACH_SECLABEL:
            parts.append(revision.build(Kind.SECLABEL, self.strings[abi.ATTACH_SECLABEL] + b"\0"))
        if mask & abi.ATTACH_AUDIT:
            session, login = self.audit
            local_login = ids.from_uid(login)
            packed = struct.pack("<2I", session, INVALID_ID if local_login is None else local_login)
            parts.append(revision.build(Kind.AUDIT, packed))
        return b"".join(parts)


class ConnectionMetadata:
    """Facts about the sending connection and the message. `timestamp`: sequence number, then CLOCK_MONOTONIC and
    CLOCK_REALTIME in ns, 64 bits each."""

    __slots__ = ("collected", "description", "names", "timestamp", "valid")

    def __init__(self) -> None:
        self.collected = 0
        self.valid = 0
        self.names: tuple[tuple[bytes, int], ...] = ()
        """(name, KDBUS_NAME_* flags of the claim)."""
        self.description = b""
        self.timestamp = b""

    def collect_timestamp(self, clock: Clock, sequence: int, flags: int) -> None:
        """Note when, and as which message of the domain, this one was sent."""
        if flags & abi.ATTACH_TIMESTAMP and not self.collected & abi.ATTACH_TIMESTAMP:
            self.timestamp = struct.pack("<3Q", sequence, clock.monotonic_ns(), clock.realtime_ns())
            self.collected |= abi.ATTACH_TIMESTAMP
            self.valid |= abi.ATTACH_TIMESTAMP

    def collect(self, names: Iterable[tuple[bytes, int]], description: bytes | None, flags: int) -> None:
        """Note the names owned, with their flags, and the description."""
        missing = flags & ~self.collected
        if missing & abi.ATTACH_NAMES:
            self.collected |= abi.ATTACH_NAMES
            self.names = tuple(names)
            if self.names:
                self.valid |= abi.ATTACH_NAMES
        if missing & abi.ATTACH_CONN_DESCRIPTION:
            self.collected |= abi.ATTACH_CONN_DESCRIPTION
            if description is not None:
                self.description = description
                self.valid |= abi.ATTACH_CONN_DESCRIPTION

    def export(self, mask: int, reader: Reader) -> bytes:
        """The items that `mask` asks for and that are known."""
        mask &= self.valid
        parts: list[bytes] = []
        if mask & abi.ATTACH_NAMES:
            parts += (owned_name(name, claim_flags(reader, flags), reader) for name, flags in self.names)
        if mask & abi.ATTACH_CONN_DESCRIPTION:
            parts.append(reader.revision.build(Kind.CONN_DESCRIPTION, self.description + b"\0"))
        if mask & abi.ATTACH_TIMESTAMP:
            parts.append(reader.revision.build(Kind.TIMESTAMP, self.timestamp))
        return b"".join(parts)


def export(
    process: ProcessMetadata,
    connection: ConnectionMetadata,
    ids: Ids,
    mask: int,
    reader: Reader,
    blank_capabilities: bool,
) -> bytes:
    """The items that `mask` asks for, as from version 3 on: of the process (`ProcessMetadata.export`), then of the
    connection."""
    items = process.export(ids, mask, reader.revision, blank_capabilities=blank_capabilities)
    return items + connection.export(mask, reader)


def _seen_from(ids: Ids, capabilities: Capabilities) -> Capabilities:
    """What they are worth in another user namespace, that of `ids` (final-revision.md, 4.10)."""
    maker = ids.owner_below(capabilities.user_namespace)
    if maker is None:
        return replace(capabilities, inheritable=0, permitted=0, effective=0, bounding=0)
    if maker == capabilities.euid:
        return replace(capabilities, inheritable=0, permitted=U64, effective=U64, bounding=U64)
    return capabilities


def owned_name(name: bytes, flags: int, reader: Reader) -> bytes:
    """An OWNED_NAME: KDBUS_NAME_* flags (64 bits), then the name."""
    return reader.revision.build(Kind.OWNED_NAME, struct.pack("<Q", flags) + name + b"\0")


def faked_items(items: list[Item]) -> tuple[bytes | None, bytes | None, bytes | None]:
    """What a HELLO claims: the payloads of its CREDS and PIDS items and its label; the last of each counts."""
    found = {entry.type: entry for entry in items}
    creds, pids, label = (found.get(kind) for kind in (Kind.CREDS, Kind.PIDS, Kind.SECLABEL))
    return creds and creds.payload, pids and pids.payload, label and label.text()


def claim_flags(reader: Reader, flags: int, *, first: bool = True) -> int:
    """The flags of a claim to a name as `reader` sees them; `first`: it owns the name now."""
    if not reader.claim_states:
        return flags
    kept = flags & (abi.NAME_ALLOW_REPLACEMENT | abi.NAME_QUEUE | abi.NAME_ACTIVATOR)
    return kept | (NAME_PRIMARY if first else abi.NAME_IN_QUEUE)


NAME_PRIMARY = final.CONSTANTS["KDBUS_NAME_PRIMARY"]
NAME_ACQUIRED = final.CONSTANTS["KDBUS_NAME_ACQUIRED"]

_NOBODY = Credentials(*(INVALID_ID,) * 8)

_STRINGS: tuple[tuple[int, Callable[[Process], bytes | None]], ...] = (
    (abi.ATTACH_TID_COMM, lambda process: process.thread_name()),
    (abi.ATTACH_PID_COMM, lambda process: process.process_name()),
    (abi.ATTACH_EXE, lambda process: process.executable()),
    (abi.ATTACH_CMDLINE, lambda process: process.command_line()),
    (abi.ATTACH_CGROUP, lambda process: process.control_group()),
    (abi.ATTACH_SECLABEL, lambda process: process.security_label()),
)

_STRING_ITEMS = (
    (abi.ATTACH_TID_COMM, Kind.TID_COMM),
    (abi.ATTACH_PID_COMM, Kind.PID_COMM),
    (abi.ATTACH_EXE, Kind.EXE),
    (abi.ATTACH_CMDLINE, Kind.CMDLINE),
    (abi.ATTACH_CGROUP, Kind.CGROUP),
)


def _ids_of(who: Credentials) -> tuple[int, int, int, int, int, int, int, int]:
    return who.uid, who.euid, who.suid, who.fsuid, who.gid, who.egid, who.sgid, who.fsgid


def _munge(number: int | None, overflow: int) -> int:
    return overflow if number is None else number


def shown_id(translate: Callable[[int], int | None], number: int, overflow: int) -> int:
    """An id as a reader sees it: `overflow` if it has none; "none" stays that."""
    return INVALID_ID if number == INVALID_ID else _munge(translate(number), overflow)


def _make_id(make: Callable[[int], int | None], number: int) -> int:
    if number == INVALID_ID:
        return INVALID_ID
    low = number & INVALID_ID  # ids have 32 bits
    made = None if low == INVALID_ID else make(low)
    if made is None:
        raise BadArgument(kind=Kind.CREDS, rule=f"id {number} is not mapped in the caller's namespace")
    return made


def _find(caller: Caller, number: int) -> Pid:
    found = _found(caller, number)
    if number and not found.numbers:
        raise BadArgument(kind=Kind.PIDS, rule=f"there is no process {number}")
    return found


def _found(caller: Caller, number: int) -> Pid:
    """The process of that number, or none."""
    found = caller.process.find_pid(number & 0xFFFFFFFF) if number else None  # pid numbers have 32 bits
    return Pid() if found is None else found


def _pack_capabilities(caps: Capabilities) -> bytes:
    valid = (1 << (caps.last_cap + 1)) - 1
    sets = (caps.inheritable, caps.permitted, caps.effective, caps.bounding)
    return struct.pack("<I4Q", caps.last_cap, *(bits & valid for bits in sets))
