# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata: the bytes of all fourteen attach flags, what masks them, and how namespaces translate them."""

from __future__ import annotations

import errno
import struct
from itertools import pairwise

import pytest

from broker.errors import AttachFlagsRefused, BadArgument
from broker.interfaces import Capabilities, Credentials, Pid
from broker.metadata import PROCESS_FLAGS, ConnectionMetadata, ProcessMetadata, sanitize_attach_flags
from broker.version3 import VERSION3
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import FINAL
from tests.support.world import (
    SECOND,
    FakeCaller,
    FakeIds,
    FakeProcess,
    Peer,
    Received,
    World,
    fails,
    item,
    parse_items,
    string_item,
    words_item,
)

ALL = abi.ATTACH_ALL
NAME = b"org.example.Name"

WHO = Credentials(1, 1000, 3, 4, 5, 6, 7, 8, (30, 20, 10))
CAPS = Capabilities(40, 1 << 40 | 1, 1 << 41 | 2, 3, (1 << 64) - 1, 1)

CREDS_BYTES = struct.pack("<8I", 1, 1000, 3, 4, 5, 6, 7, 8)
CAPS_BYTES = struct.pack("<I8I", 40, 1, 1 << 8, 2, 0, 3, 0, 0xFFFFFFFF, 0x1FF)

EXPECTED = [
    (abi.ATTACH_CREDS, abi.ITEM_CREDS, CREDS_BYTES),
    (abi.ATTACH_PIDS, abi.ITEM_PIDS, struct.pack("<3Q", 100, 101, 1)),
    (abi.ATTACH_AUXGROUPS, abi.ITEM_AUXGROUPS, struct.pack("<3I", 30, 20, 10)),
    (abi.ATTACH_TID_COMM, abi.ITEM_TID_COMM, b"thread\0"),
    (abi.ATTACH_PID_COMM, abi.ITEM_PID_COMM, b"leader\0"),
    (abi.ATTACH_EXE, abi.ITEM_EXE, b"/usr/bin/program\0"),
    (abi.ATTACH_CMDLINE, abi.ITEM_CMDLINE, b"program\0"),
    (abi.ATTACH_CGROUP, abi.ITEM_CGROUP, b"/user.slice\0"),
    (abi.ATTACH_CAPS, abi.ITEM_CAPS, CAPS_BYTES),
    (abi.ATTACH_SECLABEL, abi.ITEM_SECLABEL, b"label\0"),
    (abi.ATTACH_AUDIT, abi.ITEM_AUDIT, struct.pack("<2I", 7, 1000)),
    (abi.ATTACH_NAMES, abi.ITEM_OWNED_NAME, struct.pack("<Q", abi.NAME_QUEUE) + NAME + b"\0"),
    (abi.ATTACH_CONN_DESCRIPTION, abi.ITEM_CONN_DESCRIPTION, b"description\0"),
    (abi.ATTACH_TIMESTAMP, abi.ITEM_TIMESTAMP, struct.pack("<3Q", 4, 1000 * SECOND, 5000 * SECOND)),
]
"""Flag, item type and bytes, in the order of export. Three notifications of the domain went before the message."""

EACH_FLAG = pytest.mark.parametrize(("flag", "item_type", "payload"), EXPECTED, ids=[hex(row[0]) for row in EXPECTED])

LOCAL = FakeIds()


def sender(world: World, attach_flags_send: int = ALL) -> Peer:
    """A connection with everything that can be told."""
    world.default_bus()
    caller = FakeCaller(FakeProcess(who=WHO, caps=CAPS))
    description = string_item(abi.ITEM_CONN_DESCRIPTION, b"description")
    peer = world.connect(caller=caller, items=[description], attach_flags_send=attach_flags_send)
    peer.acquire(NAME, abi.NAME_QUEUE)
    return peer


def told(send: int = ALL, receive: int = ALL, mask: int = abi.ATTACH_ANY) -> Received:
    """A message with metadata, as its receiver finds it."""
    world = World()
    receiver = world.connect(attach_flags_recv=receive)
    peer = sender(world, attach_flags_send=send)
    world.attach_flags_mask = mask
    peer.send(receiver)
    return receiver.recv()


def test_fourteen_flags() -> None:
    assert [flag for flag, _, _ in EXPECTED] != sorted(flag for flag, _, _ in EXPECTED)
    assert sum(flag for flag, _, _ in EXPECTED) == ALL == (1 << 14) - 1


def test_everything_in_order_and_byte_by_byte() -> None:
    message = told()
    assert message.raw[64:] == b"".join(item(item_type, payload) for _, item_type, payload in EXPECTED)


@EACH_FLAG
def test_each_flag_alone(flag: int, item_type: int, payload: bytes) -> None:
    for message in (told(send=flag), told(receive=flag), told(mask=flag)):
        assert message.items == [(item_type, payload)]


@EACH_FLAG
def test_each_flag_left_out(flag: int, item_type: int, payload: bytes) -> None:
    rest = [(kind, found) for _, kind, found in EXPECTED if kind != item_type]
    for message in (told(send=ALL & ~flag), told(receive=ALL & ~flag), told(mask=~flag & ALL)):
        assert message.items == rest


def test_module_parameter_counts_when_the_message_is_received() -> None:
    world = World()
    receiver, peer = world.connect(attach_flags_recv=ALL), sender(world)
    world.attach_flags_mask = 0
    peer.send(receiver)
    world.attach_flags_mask = abi.ATTACH_CREDS
    assert receiver.recv().types == [abi.ITEM_CREDS]


def test_receiver_may_ask_for_less_until_it_receives_but_not_for_more() -> None:
    world = World()
    receiver, peer = world.connect(attach_flags_recv=abi.ATTACH_CREDS | abi.ATTACH_PIDS), sender(world)
    peer.send(receiver)
    receiver.update(words_item(abi.ITEM_ATTACH_FLAGS_RECV, abi.ATTACH_PIDS | abi.ATTACH_EXE))
    assert receiver.recv().types == [abi.ITEM_PIDS]


def test_sender_that_changes_its_mind_after_sending() -> None:
    world = World()
    receiver, peer = world.connect(attach_flags_recv=abi.ATTACH_CREDS), sender(world)
    peer.send(receiver)
    peer.update(words_item(abi.ITEM_ATTACH_FLAGS_SEND, 0))
    peer.send(receiver)
    assert [message.types for message in receiver.received()] == [[abi.ITEM_CREDS], []]


def test_metadata_are_of_the_sending_thread_at_the_moment_of_sending() -> None:
    world = World()
    receiver, peer = world.connect(attach_flags_recv=ALL), sender(world)
    other = FakeCaller(FakeProcess(pid=200, tid=201, ppid=202, thread=b"other"))
    peer.send(receiver, caller=other)
    other.process.thread = b"later"
    message = receiver.recv()
    assert message.item(abi.ITEM_PIDS) == struct.pack("<3Q", 200, 201, 202)
    assert message.item(abi.ITEM_TID_COMM) == b"other\0"


def test_what_was_collected_for_one_receiver_may_reach_another() -> None:
    # The objects are shared by all receivers of a broadcast, in the original as well. The one that asks for more is
    # served first here, and the other one asks for as much before it receives.
    world = World()
    first = world.connect(attach_flags_recv=abi.ATTACH_CREDS)
    second = world.connect()
    peer = sender(world)
    first.match()
    second.match()
    peer.signal()
    second.update(words_item(abi.ITEM_ATTACH_FLAGS_RECV, ALL))
    assert second.recv().types == [abi.ITEM_CREDS]


def test_bus_requirement_must_be_met_at_hello_and_update() -> None:
    world = World()
    needed = abi.ATTACH_CREDS | abi.ATTACH_EXE
    bus = world.bus(items=[words_item(abi.ITEM_ATTACH_FLAGS_RECV, needed)])
    with fails(AttachFlagsRefused, errno.ECONNREFUSED):
        world.connect(bus, attach_flags_send=abi.ATTACH_CREDS)
    peer = world.connect(bus, attach_flags_send=needed)
    assert peer.hello["attach_flags_send"] == needed | abi.FLAG_KERNEL
    with fails(BadArgument, errno.EINVAL):
        peer.update(words_item(abi.ITEM_ATTACH_FLAGS_SEND, abi.ATTACH_CREDS))
    assert peer.connection.attach_flags_send == needed
    peer.update(words_item(abi.ITEM_ATTACH_FLAGS_SEND, needed | abi.ATTACH_PIDS))


def test_attach_flags_any_means_all_and_unknown_ones_are_refused() -> None:
    assert sanitize_attach_flags(abi.ATTACH_ANY) == ALL
    assert sanitize_attach_flags(0) == 0
    for flags in (1 << 14, 1 << 63, abi.ATTACH_ANY - 1, abi.ATTACH_ANY >> 1):
        with fails(BadArgument, errno.EINVAL):
            sanitize_attach_flags(flags)


# Namespaces


def collected(process: FakeProcess | None = None, ids: FakeIds | None = None) -> ProcessMetadata:
    metadata = ProcessMetadata()
    metadata.collect(FakeCaller(process or FakeProcess(who=WHO, caps=CAPS), ids), PROCESS_FLAGS)
    return metadata


def exported(metadata: ProcessMetadata, ids: FakeIds) -> dict[int, bytes]:
    return dict(parse_items(metadata.export(ids, ALL, VERSION3.revision)))


def test_users_and_groups_are_those_of_the_readers_namespace() -> None:
    ids = FakeIds(2, users={1: 501, 1000: 502}, groups={5: 601, 6: 602, 20: 603}, overflow_uid=77, overflow_gid=88)
    items = exported(collected(), ids)
    assert items[abi.ITEM_CREDS] == struct.pack("<8I", 501, 502, 77, 77, 601, 602, 88, 88)
    assert items[abi.ITEM_AUXGROUPS] == struct.pack("<3I", 88, 603, 88)
    assert items[abi.ITEM_AUDIT] == struct.pack("<2I", 7, 502)


def test_unmapped_login_uid_shows_as_none() -> None:
    assert exported(collected(), FakeIds(users={}))[abi.ITEM_AUDIT] == struct.pack("<2I", 7, 0xFFFFFFFF)


def test_processes_are_those_of_the_readers_pid_namespace() -> None:
    metadata = collected()
    metadata.pids = (Pid({1: 10, 2: 20}), Pid({1: 11}), Pid({1: 12, 2: 0}))
    assert exported(metadata, FakeIds(pid_namespace=2))[abi.ITEM_PIDS] == struct.pack("<3Q", 20, 0, 0)
    assert exported(metadata, FakeIds(pid_namespace=3))[abi.ITEM_PIDS] == bytes(24)
    assert exported(metadata, LOCAL)[abi.ITEM_PIDS] == struct.pack("<3Q", 10, 11, 12)


@pytest.mark.parametrize(
    ("makers", "expected"),
    [
        ({}, (0, 0, 0, 0)),  # beside, or above
        ({1: 1000}, (1, 2, 4, 8)),  # below, made by somebody else
        ({1: 77}, (0, (1 << 41) - 1, (1 << 41) - 1, (1 << 41) - 1)),  # made by their owner
    ],
)
def test_capabilities_are_shown_as_what_they_are_worth(
    makers: dict[int, int], expected: tuple[int, int, int, int]
) -> None:
    """In the final revision; up to version 3 they are left out in all of these cases."""
    metadata = ProcessMetadata()
    metadata.capabilities = Capabilities(40, 1, 2, 4, 8, 1, euid=77)
    metadata.valid = abi.ATTACH_CAPS
    ids = FakeIds(user_namespace=2, makers=makers)
    shown = metadata.export(ids, abi.ATTACH_CAPS, FINAL, blank_capabilities=True)
    assert struct.unpack("<QQI4Q", shown[:52]) == (52, 0x100A, 40, *expected)
    assert metadata.export(ids, abi.ATTACH_CAPS, FINAL) == b""


def test_capabilities_only_within_one_user_namespace() -> None:
    metadata = collected()
    assert abi.ITEM_CAPS not in exported(metadata, FakeIds(user_namespace=2))
    assert exported(metadata, FakeIds(user_namespace=1))[abi.ITEM_CAPS] == CAPS_BYTES


def test_executable_only_with_the_same_root() -> None:
    metadata = collected(ids=FakeIds(root_directory="/jail"))
    assert abi.ITEM_EXE not in exported(metadata, LOCAL)
    assert exported(metadata, FakeIds(root_directory="/jail"))[abi.ITEM_EXE] == b"/usr/bin/program\0"


def test_message_is_translated_for_the_receiving_thread() -> None:
    world = World()
    receiver, peer = world.connect(attach_flags_recv=ALL), sender(world)
    peer.send(receiver)
    elsewhere = FakeCaller(ids=FakeIds(2, 2, "/jail", users={}, groups={}))
    message = receiver.recv(caller=elsewhere, free=False)
    assert message.item(abi.ITEM_CREDS) == struct.pack("<8I", *(65534,) * 8)
    assert message.item(abi.ITEM_PIDS) == bytes(24)
    assert not message.all(abi.ITEM_CAPS) and not message.all(abi.ITEM_EXE)
    assert message.item(abi.ITEM_SECLABEL) == b"label\0"


# What is not there


@pytest.mark.parametrize(
    ("member", "item_type"),
    [
        ("exe", abi.ITEM_EXE),
        ("cmdline", abi.ITEM_CMDLINE),
        ("cgroup", abi.ITEM_CGROUP),
        ("label", abi.ITEM_SECLABEL),
        ("audit_ids", abi.ITEM_AUDIT),
    ],
)
def test_unavailable_fact_is_left_out(member: str, item_type: int) -> None:
    process = FakeProcess()
    setattr(process, member, None)
    metadata = collected(process)
    assert item_type not in exported(metadata, LOCAL)
    metadata.collect(FakeCaller(), PROCESS_FLAGS)  # it is not looked for again
    assert item_type not in exported(metadata, LOCAL)


def test_process_without_supplementary_groups_has_an_empty_item() -> None:
    items = exported(collected(FakeProcess(who=Credentials(1, 1, 1, 1, 1, 1, 1, 1))), LOCAL)
    assert items[abi.ITEM_AUXGROUPS] == b""


def test_capability_bits_above_the_last_one_are_cleared() -> None:
    everything = Capabilities(3, 0xFF, 0xFF, 0xFF, (1 << 64) - 1, 1)
    items = exported(collected(FakeProcess(caps=everything)), LOCAL)
    assert items[abi.ITEM_CAPS] == struct.pack("<I4Q", 3, 15, 15, 15, 15)


def test_collected_is_what_was_asked_for_and_only_once() -> None:
    process = FakeProcess(who=WHO)
    metadata = ProcessMetadata()
    metadata.collect(FakeCaller(process), abi.ATTACH_AUXGROUPS)
    assert set(exported(metadata, LOCAL)) == {abi.ITEM_AUXGROUPS}
    process.who = Credentials(9, 9, 9, 9, 9, 9, 9, 9, (9,))
    metadata.collect(FakeCaller(process), abi.ATTACH_AUXGROUPS | abi.ATTACH_CREDS)
    items = exported(metadata, LOCAL)
    assert items[abi.ITEM_AUXGROUPS] == struct.pack("<3I", 30, 20, 10)
    assert items[abi.ITEM_CREDS] == struct.pack("<8I", *(9,) * 8)


def test_connection_without_names_and_description_has_no_items() -> None:
    metadata = ConnectionMetadata()
    metadata.collect([], None, ALL)
    assert metadata.export(ALL, VERSION3) == b""


def test_several_names_are_items_in_the_order_of_acquisition() -> None:
    world = World()
    receiver, peer = world.connect(attach_flags_recv=abi.ATTACH_NAMES), world.connect()
    peer.acquire(b"b.b", abi.NAME_ALLOW_REPLACEMENT)
    peer.acquire(b"a.a")
    peer.send(receiver)
    peer.release(b"a.a")
    expected = [struct.pack("<Q", abi.NAME_ALLOW_REPLACEMENT) + b"b.b\0", bytes(8) + b"a.a\0"]
    assert receiver.recv().all(abi.ITEM_OWNED_NAME) == expected


def test_timestamps_count_the_messages_of_the_domain() -> None:
    world = World()
    receiver = world.connect(attach_flags_recv=abi.ATTACH_TIMESTAMP)
    peer = world.connect()
    other_bus = world.bus("other")
    stranger = world.connect(other_bus)
    found = []
    for _ in range(3):
        world.clock.advance(SECOND)
        stranger.signal()
        peer.send(receiver)
        sent = world.clock.monotonic, world.clock.realtime
        world.clock.advance(SECOND)
        number, *times = struct.unpack("<3Q", receiver.recv().item(abi.ITEM_TIMESTAMP))
        assert tuple(times) == sent
        found.append(number)
    assert [later - earlier for earlier, later in pairwise(found)] == [2, 2]


# Faked metadata


def faked(creds: bytes | None = None, pids: bytes | None = None, label: bytes | None = None) -> dict[int, bytes]:
    metadata = ProcessMetadata()
    metadata.fake(FakeCaller(ids=FakeIds(users={1005: 5}, groups={1006: 6})), creds, pids, label)
    return exported(metadata, LOCAL)


def test_faked_ids_are_those_of_the_faking_namespace() -> None:
    none = 0xFFFFFFFF
    items = faked(creds=struct.pack("<8I", 5, none, 5, none, 6, none, none, 6))
    assert items == {abi.ITEM_CREDS: struct.pack("<8I", 1005, none, 1005, none, 1006, none, none, 1006)}


@pytest.mark.parametrize("position", range(8))
def test_faked_id_that_is_not_mapped(position: int) -> None:
    numbers = [5, 5, 5, 5, 6, 6, 6, 6]
    numbers[position] = 7
    with fails(BadArgument, errno.EINVAL):
        faked(creds=struct.pack("<8I", *numbers))


def test_faked_ids_have_32_bits() -> None:
    """Of 64 in the command; and none is one that says so in all 64."""
    none = 0xFFFFFFFF
    items = faked(creds=struct.pack("<8Q", 1 << 32 | 5, none, 5, none, 6, none, none, 6))
    assert items == {abi.ITEM_CREDS: struct.pack("<8I", 1005, none, 1005, none, 1006, none, none, 1006)}
    with fails(BadArgument, errno.EINVAL):
        faked(creds=struct.pack("<8Q", (1 << 64) - 1, *(none,) * 7))


def test_faked_processes() -> None:
    assert faked(pids=struct.pack("<3Q", 100, 0, 1)) == {abi.ITEM_PIDS: struct.pack("<3Q", 100, 0, 1)}
    # The kernel looks for 32 bits of the number.
    assert faked(pids=struct.pack("<3Q", 1 << 32 | 100, 0, 0)) == {abi.ITEM_PIDS: struct.pack("<3Q", 100, 0, 0)}


@pytest.mark.parametrize("numbers", [(9, 0, 0), (0, 9, 0), (0, 0, 9), (1 << 32, 0, 0)])
def test_faked_process_that_does_not_exist(numbers: tuple[int, int, int]) -> None:
    with fails(BadArgument, errno.EINVAL):
        faked(pids=struct.pack("<3Q", *numbers))


def test_faked_label() -> None:
    assert faked(label=b"somebody") == {abi.ITEM_SECLABEL: b"somebody\0"}
    assert faked(label=b"") == {abi.ITEM_SECLABEL: b"\0"}
