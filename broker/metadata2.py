# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata of version 2, where they are told in other words than later.

- There is no PIDS: process and thread are in CREDS, between one user and one group, and with the time at which the
  thread was started; which programs needed to be sure that a number still meant the same process.
- TID_COMM is the name of the process, and PID_COMM that of the thread: so both are exchanged here, and the metadata
  asked for by their flags with them. Rules speak of what is meant.
- Items of processes and connections stand in one order of their own.

What was sent by a later revision that keeps its ids to itself but lets others know its numbers, or the reverse, tells
what it tells: with users there is a CREDS, in which unknown numbers are 0. Reference: final-revision.md, 6.1 and 6.2.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker.errors import BadArgument
from broker.grant import Agreed
from broker.interfaces import INVALID_ID, Caller, Ids
from broker.item import walk
from broker.metadata import START_TIME, ConnectionMetadata, ProcessMetadata, shown_id
from kdbus.abi import revision2
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.behaviour import Behaviour
    from broker.connection import Connection
    from broker.domain import Domain

ALL = revision2.CONSTANTS["_KDBUS_ATTACH_ALL"]
"""All attach flags, in version 2's own numbers, as everything that follows."""
_MEANINGS = tuple(
    (revision2.CONSTANTS[f"KDBUS_ATTACH_{name}"], meaning)
    for name, meaning in {
        "TIMESTAMP": abi.ATTACH_TIMESTAMP,
        "CREDS": abi.ATTACH_CREDS | abi.ATTACH_PIDS,
        "AUXGROUPS": abi.ATTACH_AUXGROUPS,
        "NAMES": abi.ATTACH_NAMES,
        "TID_COMM": abi.ATTACH_PID_COMM,
        "PID_COMM": abi.ATTACH_TID_COMM,
        "EXE": abi.ATTACH_EXE,
        "CMDLINE": abi.ATTACH_CMDLINE,
        "CGROUP": abi.ATTACH_CGROUP,
        "CAPS": abi.ATTACH_CAPS,
        "SECLABEL": abi.ATTACH_SECLABEL,
        "AUDIT": abi.ATTACH_AUDIT,
        "CONN_DESCRIPTION": abi.ATTACH_CONN_DESCRIPTION,
    }.items()
)
_EXCHANGED = {Kind.TID_COMM: Kind.PID_COMM, Kind.PID_COMM: Kind.TID_COMM}
_ORDER = (
    Kind.TIMESTAMP,
    Kind.CREDS,
    Kind.AUXGROUPS,
    Kind.OWNED_NAME,
    Kind.TID_COMM,
    Kind.PID_COMM,
    Kind.EXE,
    Kind.CMDLINE,
    Kind.CAPS,
    Kind.CGROUP,
    Kind.AUDIT,
    Kind.SECLABEL,
    Kind.CONN_DESCRIPTION,
)
TELLS_OF_MAKER = abi.ATTACH_ALL & ~abi.ATTACH_AUXGROUPS
"""What BUS_CREATOR_INFO tells, if it is asked for."""


def read_attach_flags(flags: int) -> int:
    """See `broker.behaviour.Behaviour.read_attach_flags`."""
    if flags == abi.ATTACH_ANY:
        flags = ALL
    if flags & ~ALL:
        raise BadArgument(rule=f"unknown attach flags {flags & ~ALL:#x}")
    found = 0
    for bit, meaning in _MEANINGS:
        if flags & bit:
            found |= meaning
    return found


def write_attach_flags(flags: int) -> int:
    """See `broker.behaviour.Behaviour.write_attach_flags`; CREDS stands for either of what it means."""
    return sum(bit for bit, meaning in _MEANINGS if flags & meaning)


def export(
    process: ProcessMetadata,
    connection: ConnectionMetadata,
    ids: Ids,
    mask: int,
    behaviour: Behaviour,
    blank_capabilities: bool,
) -> bytes:
    """See `broker.behaviour.Behaviour.export`. Capabilities of another user namespace are always missing."""
    revision = behaviour.revision
    asked = mask & process.valid
    found: list[tuple[Kind, bytes]] = []
    user: int | None
    if asked & abi.ATTACH_CREDS:
        who = process.credentials
        user = shown_id(ids.from_uid, who.uid, ids.overflow_uid)
        group = shown_id(ids.from_gid, who.gid, ids.overflow_gid)
        numbers, started = (0, 0), 0
        if asked & abi.ATTACH_PIDS:
            leader, thread, _ = (pid.number_in(ids.pid_namespace) for pid in process.pids)
            numbers, started = (leader, thread), process.start_time
        found.append((Kind.CREDS, struct.pack("<5Q", user, group, *numbers, started)))
    if asked & abi.ATTACH_AUDIT:
        session, login = process.audit
        user = ids.from_uid(login)
        found.append((Kind.AUDIT, struct.pack("<2Q", session, INVALID_ID if user is None else user)))
    same = mask & ~(abi.ATTACH_CREDS | abi.ATTACH_PIDS | abi.ATTACH_AUDIT)
    for _, number, payload, _ in walk(process.export(ids, same, revision) + connection.export(same, behaviour)):
        kind = Kind(revision.kind_of(number))
        found.append((_EXCHANGED.get(kind, kind), payload))
    found.sort(key=lambda entry: _ORDER.index(entry[0]))
    return b"".join(revision.build(kind, payload) for kind, payload in found)


class AgreedAtSend(Agreed):
    """As `Agreed`, but the administrator is not asked, and answers are for the namespaces of who called HELLO."""

    def most(self, source: Connection, destination: Connection) -> int:
        return _with_start_time(super().most(source, destination))

    def told(self, wanted: int, allowed: int, domain: Domain) -> int:
        return wanted & allowed

    def reader(self, connection: Connection, caller: Caller) -> Ids:
        return connection.ids


def _with_start_time(flags: int) -> int:
    return flags | START_TIME if flags & abi.ATTACH_PIDS else flags
