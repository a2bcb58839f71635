# SPDX-License-Identifier: GPL-2.0-or-later
"""NAME_LIST, CONN_INFO and BUS_CREATOR_INFO: what they tell, to whom, and their bytes in the pool."""

from __future__ import annotations

import errno
import struct

import pytest

from broker.errors import (
    BadAddress,
    BadItem,
    BadName,
    CommandTooLarge,
    NoSuchConnection,
    NoSuchName,
    NoSuchSlice,
    PoolFull,
    UnknownFlags,
)
from kdbus.abi import revision3 as abi
from tests.support.world import (
    FakeCaller,
    FakeIds,
    FakeProcess,
    Peer,
    World,
    command_bytes,
    credentials,
    fails,
    item,
    name_item,
    string_item,
    words_item,
    world_access,
)

NAME = b"org.example.Name"
UNIQUE, NAMES, ACTIVATORS, QUEUED = abi.LIST_UNIQUE, abi.LIST_NAMES, abi.LIST_ACTIVATORS, abi.LIST_QUEUED
ACCEPT = abi.HELLO_ACCEPT_FD
PROCESS_ITEMS = [
    abi.ITEM_CREDS,
    abi.ITEM_PIDS,
    abi.ITEM_AUXGROUPS,
    abi.ITEM_TID_COMM,
    abi.ITEM_PID_COMM,
    abi.ITEM_EXE,
    abi.ITEM_CMDLINE,
    abi.ITEM_CGROUP,
    abi.ITEM_CAPS,
    abi.ITEM_SECLABEL,
    abi.ITEM_AUDIT,
]


# NAME_LIST


@pytest.fixture
def crowd() -> tuple[Peer, ...]:
    """Ids 1 to 5: an observer without names; the owner of a.a and b.b; one that waits for a.a; the activator of b.b;
    the activator of c.c."""
    world = World()
    observer, owner, waiter = world.connect(), world.connect(), world.connect()
    owner.acquire(b"a.a", abi.NAME_ALLOW_REPLACEMENT)
    owner.acquire(b"b.b")
    waiter.acquire(b"a.a", abi.NAME_QUEUE)
    return observer, owner, waiter, world.activator(b"b.b"), world.activator(b"c.c")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, []),
        (UNIQUE, [(1, None), (2, None), (3, None)]),
        (NAMES, [(2, b"a.a"), (2, b"b.b")]),
        (UNIQUE | NAMES, [(1, None), (2, b"a.a"), (2, b"b.b"), (3, None)]),
        (ACTIVATORS, [(4, b"b.b"), (5, b"c.c")]),
        (UNIQUE | ACTIVATORS, [(1, None), (4, b"b.b"), (3, None), (4, None), (5, b"c.c")]),
        (NAMES | ACTIVATORS, [(2, b"a.a"), (4, b"b.b"), (2, b"b.b"), (5, b"c.c")]),
        (QUEUED, [(3, b"a.a")]),
        (UNIQUE | QUEUED, [(1, None), (2, None), (3, b"a.a")]),
        (NAMES | QUEUED, [(2, b"a.a"), (2, b"b.b"), (3, b"a.a")]),
        (
            UNIQUE | NAMES | ACTIVATORS | QUEUED,
            [(1, None), (2, b"a.a"), (4, b"b.b"), (2, b"b.b"), (3, b"a.a"), (4, None), (5, b"c.c")],
        ),
    ],
)
def test_what_is_listed(crowd: tuple[Peer, ...], flags: int, expected: list[tuple[int, bytes | None]]) -> None:
    assert [(entry.owner, entry.name) for entry in crowd[0].names(flags)] == expected


def test_flags_are_the_owners_and_the_names(crowd: tuple[Peer, ...]) -> None:
    listed = {(entry.owner, entry.name): entry for entry in crowd[0].names(NAMES | ACTIVATORS | QUEUED)}
    assert listed[2, b"a.a"].name_flags == abi.NAME_ALLOW_REPLACEMENT
    assert listed[3, b"a.a"].name_flags == abi.NAME_ALLOW_REPLACEMENT  # those of the owner, not of who waits
    assert listed[5, b"c.c"].name_flags == abi.NAME_ACTIVATOR
    assert listed[5, b"c.c"].connection_flags == abi.HELLO_ACTIVATOR | ACCEPT
    assert listed[2, b"b.b"].connection_flags == ACCEPT


def test_special_connections_are_listed_as_unique() -> None:
    world = World()
    peer, holder, monitor = world.connect(), world.policy_holder(NAME), world.monitor()
    listed = [(entry.owner, entry.connection_flags) for entry in peer.names(UNIQUE)]
    assert listed == [
        (peer.id, ACCEPT),
        (holder.id, abi.HELLO_POLICY_HOLDER),
        (monitor.id, abi.HELLO_MONITOR | ACCEPT),
    ]


def test_list_byte_by_byte() -> None:
    world = World()
    peer = world.connect()
    peer.acquire(b"a.bc", abi.NAME_QUEUE)
    outcome = peer.call("NAME_LIST", "kdbus_cmd_name_list", flags=NAMES | UNIQUE, return_flags=9)
    entry = struct.pack("<Q", abi.NAME_QUEUE) + b"a.bc\0"
    expected = struct.pack("<4Q", 64, 56, ACCEPT, peer.id) + item(abi.ITEM_OWNED_NAME, entry)
    assert (outcome["list_size"], outcome["return_flags"]) == (64, 0)
    assert peer.memory.read(outcome["offset"], 64) == expected


def test_empty_list_has_a_header() -> None:
    peer = World().connect()
    outcome = peer.call("NAME_LIST", "kdbus_cmd_name_list")
    assert peer.memory.read(outcome["offset"], outcome["list_size"]) == struct.pack("<Q", 8)
    peer.free(outcome["offset"])
    with fails(NoSuchSlice, errno.ENXIO):
        peer.free(outcome["offset"])


def test_list_takes_no_items_and_no_other_flags() -> None:
    peer = World().connect()
    with fails(BadItem, errno.EINVAL):
        peer.call("NAME_LIST", "kdbus_cmd_name_list", [name_item(NAME)])
    with fails(UnknownFlags, errno.EINVAL):
        peer.names(16)


def test_list_that_does_not_fit() -> None:
    world = World()
    peer, owner = world.connect(pool_size=4096), world.connect()
    for number in range(100):
        owner.acquire(b"a.b%d" % number)
    with fails(PoolFull, errno.ENOBUFS):
        peer.names()
    assert peer.connection.pool.busy == 0


def test_result_that_cannot_be_stored_costs_a_slice() -> None:
    # The slice was given out before; the program does not learn where. As in the original.
    world = World()
    peer = world.connect()
    start = peer.caller.memory.put(command_bytes("kdbus_cmd_name_list", flags=UNIQUE))
    write = peer.caller.memory.write

    def refuse_the_end(address: int, data: bytes) -> None:
        if address >= start + 32:
            raise BadAddress
        write(address, data)

    peer.caller.memory.write = refuse_the_end  # type: ignore[method-assign]
    with fails(BadAddress, errno.EFAULT):
        peer.ioctl("NAME_LIST", start)
    assert peer.connection.pool.busy


def test_custom_endpoint_lists_connections_but_only_names_that_it_may_see() -> None:
    world = World()
    owner, waiter = world.connect(), world.connect()
    world.endpoint("door", name_item(b"a.a"), world_access(abi.POLICY_SEE), name_item(b"b.b"))
    peer = world.connect(endpoint="1000-door")
    for name in (b"a.a", b"b.b", b"c.c"):
        owner.acquire(name)
        waiter.acquire(name, abi.NAME_QUEUE)
    assert [(entry.owner, entry.name) for entry in peer.names(NAMES | QUEUED | UNIQUE)] == [
        (owner.id, b"a.a"),
        (waiter.id, b"a.a"),
        (peer.id, None),
    ]
    assert [entry.owner for entry in peer.names(UNIQUE)] == [owner.id, waiter.id, peer.id]


# CONN_INFO


def test_info_by_id_and_by_name() -> None:
    world = World()
    peer, other = world.connect(), world.connect()
    other.acquire(NAME)
    assert peer.info(other, 0) == (other.id, ACCEPT, [])
    assert peer.info(NAME, 0) == (other.id, ACCEPT, [])
    assert peer.info(peer, 0).id == peer.id


def test_info_about_special_connections() -> None:
    world = World()
    peer = world.connect()
    for special in (world.activator(NAME), world.policy_holder(b"b.b"), world.monitor()):
        assert peer.info(special, 0).flags == special.connection.flags
        assert special.connection.active
    assert peer.info(NAME, 0).flags & abi.HELLO_ACTIVATOR


def test_everything_in_order_without_timestamp() -> None:
    world = World()
    peer = world.connect()
    other = world.connect(items=[string_item(abi.ITEM_CONN_DESCRIPTION, b"other")])
    other.acquire(b"b.b", abi.NAME_QUEUE)
    other.acquire(b"a.a")
    info = peer.info(other)
    assert [kind for kind, _ in info.items] == [
        *PROCESS_ITEMS,
        abi.ITEM_OWNED_NAME,
        abi.ITEM_OWNED_NAME,
        abi.ITEM_CONN_DESCRIPTION,
    ]
    assert info.items[-3][1] == struct.pack("<Q", abi.NAME_QUEUE) + b"b.b\0"
    assert info.items[-1][1] == b"other\0"


def test_info_byte_by_byte() -> None:
    world = World()
    peer = world.connect()
    outcome = peer.call("CONN_INFO", "kdbus_cmd_info", flags=abi.ATTACH_TID_COMM, id=peer.id, return_flags=9)
    expected = struct.pack("<3Q", 48, peer.id, ACCEPT) + item(abi.ITEM_TID_COMM, b"thread\0")
    assert (outcome["info_size"], outcome["return_flags"]) == (48, 0)
    assert peer.memory.read(outcome["offset"], 48) == expected


@pytest.mark.parametrize("flag", [1 << bit for bit in range(14)])
def test_info_is_masked_by_the_connection_the_command_and_the_module(flag: int) -> None:
    world = World()
    peer = world.connect()
    description = string_item(abi.ITEM_CONN_DESCRIPTION, b"other")
    full = world.connect(items=[description])
    shy = world.connect(items=[description], attach_flags_send=flag)
    full.acquire(b"a.a")
    shy.acquire(b"b.b")
    expected = [] if flag == abi.ATTACH_TIMESTAMP else [0x1000 + flag.bit_length() - 1]
    assert [kind for kind, _ in peer.info(full, flag).items] == expected
    assert [kind for kind, _ in peer.info(shy).items] == expected
    world.attach_flags_mask = flag
    assert [kind for kind, _ in peer.info(full).items] == expected


def test_info_is_of_hello_but_names_and_flags_are_of_now() -> None:
    world = World()
    peer, other = world.connect(), world.connect()
    other.caller.process.who = credentials(7)
    other.caller.process.thread = b"renamed"
    told = dict(peer.info(other).items)
    assert told[abi.ITEM_CREDS] == struct.pack("<8I", *(1000,) * 8)
    assert told[abi.ITEM_TID_COMM] == b"thread\0"
    other.acquire(NAME)
    assert abi.ITEM_OWNED_NAME in dict(peer.info(other).items)
    other.update(words_item(abi.ITEM_ATTACH_FLAGS_SEND, abi.ATTACH_CREDS))
    assert [kind for kind, _ in peer.info(other).items] == [abi.ITEM_CREDS]


def test_info_is_translated_for_the_asking_thread() -> None:
    world = World()
    peer = world.connect()
    elsewhere = FakeCaller(FakeProcess(), FakeIds(2, 2, "/jail", users={1000: 0}, groups={}))
    told = dict(peer.info(peer, caller=elsewhere).items)
    assert told[abi.ITEM_CREDS] == struct.pack("<8I", 0, 0, 0, 0, *(65534,) * 4)
    assert told[abi.ITEM_PIDS] == bytes(24)
    assert abi.ITEM_CAPS not in told and abi.ITEM_EXE not in told


def test_info_about_what_is_not_there() -> None:
    peer = World().connect()
    with fails(NoSuchConnection, errno.ENXIO):
        peer.info(99)
    with fails(NoSuchName, errno.ESRCH):
        peer.info(NAME)
    for name in (b"noname", b"org.example.*"):
        with fails(BadName, errno.EINVAL):
            peer.info(name)


def test_info_by_name_takes_exactly_one_name() -> None:
    peer = World().connect()
    for items in ([], [name_item(b"a.a"), name_item(b"a.a")]):
        with fails(BadItem, errno.EINVAL):
            peer.call("CONN_INFO", "kdbus_cmd_info", items)
    peer.call("CONN_INFO", "kdbus_cmd_info", [name_item(b"noname")], id=peer.id)  # not looked at


def test_name_that_fits_the_command_is_shorter_than_the_limit_of_names() -> None:
    # The limit of the command leaves no room for the item's header.
    peer = World().connect()
    name = b"a." + b"b" * 237
    peer.acquire(name)
    assert peer.info(name, 0).id == peer.id
    with fails(CommandTooLarge, errno.EMSGSIZE):
        peer.info(name + b"b")


def test_unknown_attach_flags() -> None:
    peer = World().connect()
    for flags in (1 << 14, abi.ATTACH_ANY):
        with fails(UnknownFlags, errno.EINVAL):
            peer.info(peer, flags)
        with fails(UnknownFlags, errno.EINVAL):
            peer.creator_info(flags)


def test_custom_endpoint_is_told_that_hidden_peers_do_not_exist() -> None:
    world = World()
    world.endpoint("door", name_item(b"a.a"), world_access(abi.POLICY_SEE))
    owner, peer = world.connect(), world.connect(endpoint="1000-door")
    owner.acquire(b"b.b")
    for whom in (owner, peer):
        with fails(NoSuchConnection, errno.ENXIO):
            peer.info(whom)
    with fails(NoSuchName, errno.ESRCH):
        peer.info(b"b.b")
    owner.acquire(b"a.a")
    assert peer.info(owner, 0).id == peer.info(b"a.a", 0).id == owner.id
    with fails(NoSuchName, errno.ESRCH):
        peer.info(b"b.b")
    assert abi.ITEM_OWNED_NAME in dict(peer.info(owner).items)
    owner.release(b"a.a")
    with fails(NoSuchConnection, errno.ENXIO):
        peer.info(owner)


# BUS_CREATOR_INFO


def test_creator_info() -> None:
    world = World()
    caller = world.caller(1000)
    owner_flags = words_item(abi.ITEM_ATTACH_FLAGS_SEND, abi.ATTACH_ANY)
    bus = world.bus(caller=caller, flags=abi.MAKE_ACCESS_GROUP, items=[owner_flags])
    peer = world.connect(bus)
    caller.process.thread = b"renamed"
    info = peer.creator_info()
    assert (info.id, info.flags) == (bus.bus.id, abi.MAKE_ACCESS_GROUP)
    assert [kind for kind, _ in info.items] == [abi.ITEM_MAKE_NAME, *PROCESS_ITEMS]
    told = dict(info.items)
    assert told[abi.ITEM_MAKE_NAME] == b"1000-bus\0"
    assert told[abi.ITEM_TID_COMM] == b"thread\0"


def test_creator_info_is_masked_by_the_owner_the_command_and_the_module() -> None:
    world = World()
    allowed = abi.ATTACH_CREDS | abi.ATTACH_PIDS
    bus = world.bus(items=[words_item(abi.ITEM_ATTACH_FLAGS_SEND, allowed)])
    peer = world.connect(bus)
    name = abi.ITEM_MAKE_NAME
    assert [kind for kind, _ in peer.creator_info().items] == [name, abi.ITEM_CREDS, abi.ITEM_PIDS]
    assert [kind for kind, _ in peer.creator_info(abi.ATTACH_PIDS).items] == [name, abi.ITEM_PIDS]
    world.attach_flags_mask = abi.ATTACH_CREDS
    assert [kind for kind, _ in peer.creator_info().items] == [name, abi.ITEM_CREDS]
    quiet = world.connect(world.bus("quiet"))
    assert [kind for kind, _ in quiet.creator_info().items] == [name]


def test_creator_info_ignores_id_and_items() -> None:
    world = World()
    peer = world.connect()
    outcome = peer.call("BUS_CREATOR_INFO", "kdbus_cmd_info", [name_item(b"noname")], id=99)
    expected = struct.pack("<3Q", 56, world.default_bus().bus.id, abi.MAKE_ACCESS_WORLD)
    stored = peer.memory.read(outcome["offset"], outcome["info_size"])
    assert stored == expected + item(abi.ITEM_MAKE_NAME, b"1000-bus\0")


@pytest.mark.parametrize("command", ["CONN_INFO", "BUS_CREATOR_INFO"])
def test_info_that_does_not_fit(command: str) -> None:
    world = World()
    peer = world.connect(pool_size=4096)
    while peer.connection.pool.remaining:
        peer.call("NAME_LIST", "kdbus_cmd_name_list")
    with fails(PoolFull, errno.ENOBUFS):
        peer.call(command, "kdbus_cmd_info", id=peer.id)
