# SPDX-License-Identifier: GPL-2.0-or-later
"""That the library has all of the API: each command, flag and item of the tables of a revision that it speaks."""

from __future__ import annotations

import inspect
import re
import struct
from enum import IntEnum, IntFlag

import pytest

from kdbus import flags, items, matches, negotiation, nodes, peer, pool
from kdbus.abi.revision import Kind, Revision
from kdbus.commands import Command, Commands
from kdbus.dialect import DIALECTS
from kdbus.message import BloomFilter, MemfdRange, Memory, Outgoing, read
from kdbus.values import BloomParameters, Credentials, Pids, Policy, Rule

GROUPS: tuple[tuple[str, type[IntEnum | IntFlag]], ...] = (
    ("KDBUS_MAKE_", flags.MakeFlag),
    ("KDBUS_HELLO_", flags.HelloFlag),
    ("KDBUS_ATTACH_", flags.Attach),
    ("KDBUS_MSG_", flags.MessageFlag),
    ("KDBUS_RECV_", flags.ReceiveFlag),
    ("KDBUS_NAME_LIST_", flags.ListFlag),
    ("KDBUS_LIST_", flags.ListFlag),
    ("KDBUS_NAME_", flags.NameFlag),
    ("KDBUS_POLICY_ACCESS_", flags.AccessType),
    ("KDBUS_POLICY_", flags.Access),
)
"""Flags by how their names begin in the header; the longer beginning first."""
ELSEWHERE = {
    "KDBUS_SRC_ID_KERNEL": flags.KERNEL,
    "KDBUS_DST_ID_NAME": 0,  # what Outgoing has for a name
    "KDBUS_DST_ID_BROADCAST": flags.BROADCAST,
    "KDBUS_MATCH_ID_ANY": flags.ANY,
    "KDBUS_PAYLOAD_DBUS": flags.PAYLOAD_DBUS,
    "KDBUS_PAYLOAD_KERNEL": 0,  # Message.notification
    "KDBUS_FLAG_NEGOTIATE": negotiation.FLAG,
    "KDBUS_SEND_SYNC_REPLY": 1,  # Commands.send(synchronous=True)
    "KDBUS_MATCH_REPLACE": 1,  # Commands.match_add(replace=True)
    "KDBUS_RECV_RETURN_INCOMPLETE_FDS": 1,  # Place.incomplete
    "KDBUS_RECV_RETURN_DROPPED_MSGS": 2,  # Peer.lost
}
NOT_FOR_PROGRAMS = {"KDBUS_IOCTL_MAGIC", "KDBUS_FLAG_KERNEL"}
"""What is in the requests' numbers; and what the kernel of version 3 sets in an item's flags of its own."""
NOTHING = flags.HelloFlag.NONE
EACH = pytest.mark.parametrize("revision", DIALECTS, ids=lambda revision: revision.name)
ANY = 7


@EACH
def test_flags(revision: Revision) -> None:
    for name, number in revision.constants.items():
        if name.startswith(("_", "KDBUS_ITEM_")) or name in NOT_FOR_PROGRAMS:
            continue
        if name in ELSEWHERE:
            assert ELSEWHERE[name] == number, name
            continue
        prefix, kind = next(group for group in GROUPS if name.startswith(group[0]))
        assert kind[name.removeprefix(prefix)] == number, name


def commands_of(revision: Revision) -> list[Command]:
    """Each command, with all that it can be told."""
    make = Commands(revision)
    policies = [Policy("a.b", (Rule(flags.Access.OWN, flags.AccessType.WORLD),))]
    required = flags.Attach.CREDS if make.dialect.requires_metadata else flags.Attach.NONE
    rules: list[matches.MatchRule] = [
        matches.Bloom([bytes(64)]),
        matches.FromId(1),
        matches.FromName("a.b"),
        matches.NameAppears("a.b"),
        matches.NameVanishes("a.b"),
        matches.NameChangesHands("a.b"),
        matches.IdAppears(),
        matches.IdLeaves(),
    ]
    if revision.number_of(Kind.DST_ID) is not None:
        rules.append(matches.ToId(1))
    return [
        make.bus_make("0-a", BloomParameters(), flags.MakeFlag.NONE, flags.Attach.ALL, required),
        make.endpoint_make("0-a", flags.MakeFlag.NONE),
        make.endpoint_update(policies),
        make.hello(
            NOTHING,
            4096,
            flags.Attach.ALL,
            flags.Attach.ALL,
            description="a",
            policies=policies,
            creds=Credentials(*[0] * 8),
            pids=Pids(1, 1, 1),
            seclabel="a",
        ),
        make.update(flags.Attach.ALL, flags.Attach.ALL, policies),
        make.byebye(),
        make.free(0),
        make.send(0, synchronous=True, cancel_fd=3),
        make.receive(flags.ReceiveFlag.PEEK),
        make.name_acquire("a.b", flags.NameFlag.NONE),
        make.name_release("a.b"),
        make.list_names(flags.ListFlag.NAMES),
        make.connection_info(1, flags.Attach.ALL),
        make.creator_info(flags.Attach.ALL),
        make.match_add(1, rules, replace=True),
        make.match_remove(1),
    ]


@EACH
def test_commands(revision: Revision) -> None:
    assert {command.request for command in commands_of(revision)} == set(revision.requests.values())


def test_each_command_is_issued_by_what_users_hold() -> None:
    """A connection, a bus, an endpoint, or what was received."""
    built = {name for name, _ in inspect.getmembers(Commands, inspect.isfunction) if not name.startswith("_")}
    used = set(re.findall(r"\.(\w+)", "".join(map(inspect.getsource, (peer, nodes, pool)))))
    assert len(built) > 16 and built - used == set()


def written(revision: Revision) -> set[int]:
    """Kinds of items that the library writes."""
    found: set[int] = set()
    for command in commands_of(revision):
        if command.layout is not None:
            body = memoryview(command.data)[command.layout.size :]
            found |= {kind for kind, _ in items.walk(revision, body, command.name)}
    message = Outgoing("a.b", [Memory(8, 1), MemfdRange(3, 0, 1)], 1, descriptors=[0], bloom=BloomFilter(bytes(64)))
    found |= {kind for kind, _ in items.walk(revision, memoryview(message.build(revision))[64:], "SEND")}
    if revision.number_of(Kind.NEGOTIATE) is not None:
        asked = negotiation.ask(revision, "HELLO")
        assert asked.layout is not None
        found |= {kind for kind, _ in items.walk(revision, memoryview(asked.data)[asked.layout.size :], "HELLO")}
    return found


def is_read(revision: Revision, kind: Kind) -> bool:
    """Whether a message with such an item is another one to the library than one without."""
    content = struct.pack("<4Q", 0, 0, 0, 0) + b"a.b\0".ljust(64, b"\0")
    built = revision.build(kind, content)
    header = struct.pack("<2Qq5Q", 64 + len(built), 0, 0, ANY, flags.KERNEL, 0, 1, 0)
    bare = struct.pack("<2Qq5Q", 64, 0, 0, ANY, flags.KERNEL, 0, 1, 0)
    dialect = DIALECTS[revision]
    with_it = read(dialect, memoryview(header + built), 0, 64 + len(built))
    without = read(dialect, memoryview(bare), 0, 64)
    return with_it != without


@EACH
def test_items(revision: Revision) -> None:
    kinds = {kind for kind in Kind if revision.number_of(kind) is not None}
    assert {f"KDBUS_ITEM_{kind.name}" for kind in kinds} == {
        name for name in revision.constants if name.startswith("KDBUS_ITEM_")
    }
    writes = written(revision)
    assert {kind.name for kind in kinds if kind not in writes and not is_read(revision, kind)} == set()


@EACH
def test_what_is_received_is_read(revision: Revision) -> None:
    for name in (name for name in revision.constants if name.startswith("KDBUS_ATTACH_")):
        kind = Kind["OWNED_NAME" if name == "KDBUS_ATTACH_NAMES" else name.removeprefix("KDBUS_ATTACH_")]
        assert is_read(revision, kind), name
    told = (Kind.NAME_ADD, Kind.NAME_REMOVE, Kind.NAME_CHANGE, Kind.ID_ADD, Kind.ID_REMOVE)
    for kind in (*told, Kind.REPLY_TIMEOUT, Kind.REPLY_DEAD, Kind.DST_NAME, Kind.FDS, Kind.PAYLOAD_OFF):
        assert is_read(revision, kind), kind
