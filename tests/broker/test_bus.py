# SPDX-License-Identifier: GPL-2.0-or-later
"""Buses: what BUS_MAKE takes, what a bus counts, and how a bus ends."""

from __future__ import annotations

import errno

import pytest

from broker import limits
from broker.errors import (
    BadArgument,
    BadItem,
    BadName,
    DuplicateItem,
    HandleInUse,
    MissingItem,
    NameTooLong,
    NodeExists,
    NodeShutDown,
    TooManyBuses,
    UnknownFlags,
)
from broker.interfaces import Credentials
from kdbus.abi import revision3 as abi
from tests.support.world import (
    FakeIds,
    FakeNode,
    World,
    command_bytes,
    fails,
    item,
    string_item,
    words_item,
)

NAME = string_item(abi.ITEM_MAKE_NAME, b"1000-bus")
BLOOM = words_item(abi.ITEM_BLOOM_PARAMETER, 64, 1)
OWNER_FLAGS, REQUIRED_FLAGS = abi.ITEM_ATTACH_FLAGS_SEND, abi.ITEM_ATTACH_FLAGS_RECV


def make(world: World, *items: bytes, uid: int = 1000) -> None:
    """BUS_MAKE with just these items, on a new handle."""
    world.control(world.caller(uid)).call("BUS_MAKE", "kdbus_cmd_make", items)


# BUS_MAKE


def test_name_and_bloom_parameters_are_needed() -> None:
    world = World()
    for items in ([], [NAME], [BLOOM]):
        with fails(MissingItem, errno.EBADMSG):
            make(world, *items)


@pytest.mark.parametrize("twice", [NAME, BLOOM, words_item(OWNER_FLAGS, 1), words_item(REQUIRED_FLAGS, 1)])
def test_item_given_twice(twice: bytes) -> None:
    with fails(DuplicateItem, errno.EEXIST):
        make(World(), twice, twice)


def test_other_items_are_refused_in_their_order() -> None:
    with fails(BadItem, errno.EINVAL):
        make(World(), NAME, BLOOM, item(99))
    with fails(DuplicateItem, errno.EEXIST):
        make(World(), NAME, NAME, item(99))
    with fails(BadItem, errno.EINVAL):
        make(World(), item(99), NAME, NAME)


@pytest.mark.parametrize(("size", "hashes"), [(8, 1), (16, 8), (limits.BLOOM_SIZE, 1), (64, (1 << 64) - 1)])
def test_bloom_parameters(size: int, hashes: int) -> None:
    world = World()
    bus = world.bus(bloom=(size, hashes)).bus
    assert (bus.bloom_size, bus.bloom) == (size, words_item(0, size, hashes)[16:])


@pytest.mark.parametrize(
    ("size", "hashes"),
    [(0, 1), (4, 1), (7, 1), (12, 1), (4097, 1), (limits.BLOOM_SIZE + 8, 1), ((1 << 64) - 8, 1), (64, 0)],
)
def test_bad_bloom_parameters(size: int, hashes: int) -> None:
    with fails(BadArgument, errno.EINVAL):
        make(World(), NAME, words_item(abi.ITEM_BLOOM_PARAMETER, size, hashes))


def test_attach_flags() -> None:
    world = World()
    bus = world.bus(items=[words_item(OWNER_FLAGS, abi.ATTACH_ANY), words_item(REQUIRED_FLAGS, 5)]).bus
    assert (bus.attach_flags_owner, bus.attach_flags_required) == (abi.ATTACH_ALL, 5)
    plain = world.bus("plain").bus
    assert (plain.attach_flags_owner, plain.attach_flags_required) == (0, 0)
    for item_type in (OWNER_FLAGS, REQUIRED_FLAGS):
        with fails(BadArgument, errno.EINVAL):
            world.bus("other", items=[words_item(item_type, 1 << 14)])


@pytest.mark.parametrize("name", [b"bus", b"1001-bus", b"100-bus", b"1000bus", b"-1000-bus", b"1000-", b"1000-a/b"])
def test_name_begins_with_the_makers_uid(name: bytes) -> None:
    with fails(BadName, errno.EINVAL):
        make(World(), string_item(abi.ITEM_MAKE_NAME, name), BLOOM)


def test_name_at_and_over_the_limit() -> None:
    world = World()
    name = b"1000-" + b"x" * (limits.NODE_NAME_LENGTH - 5)
    make(world, string_item(abi.ITEM_MAKE_NAME, name), BLOOM)
    with fails(NameTooLong, errno.ENAMETOOLONG):
        make(world, string_item(abi.ITEM_MAKE_NAME, name + b"x"), BLOOM)


def test_uid_in_the_name_is_that_of_the_domains_namespace() -> None:
    world = World(ids=FakeIds(users={1000: 0}))
    make(world, string_item(abi.ITEM_MAKE_NAME, b"0-bus"), BLOOM)
    with fails(BadName, errno.EINVAL):
        make(world, NAME, BLOOM)
    with fails(BadName, errno.EINVAL):  # a user whom the domain does not know
        make(world, string_item(abi.ITEM_MAKE_NAME, b"4294967295-bus"), BLOOM, uid=1001)


def test_maker_is_the_effective_user_but_the_budget_is_the_real_ones() -> None:
    world = World()
    caller = world.caller()
    caller.process.who = Credentials(7, 1000, 8, 9, 10, 50, 11, 12)
    bus = world.bus(caller=caller).bus
    assert world.nodes.nodes["1000-bus",] == FakeNode(True, 0o555, 1000, 50)
    assert bus.creator is world.domain.user(7) and bus.creator.buses == 1


def test_name_that_exists() -> None:
    world = World()
    first = world.bus()
    with fails(NodeExists, errno.EEXIST):
        world.bus()
    first.close()
    world.bus()


def test_buses_per_user() -> None:
    world = World()
    buses = [world.bus(f"b{number}") for number in range(limits.BUSES_PER_USER)]
    with fails(NodeExists, errno.EEXIST):  # the name is taken first
        world.bus("b0")
    with fails(TooManyBuses, errno.EMFILE):
        world.bus("more")
    assert ("1000-more",) not in world.nodes.nodes
    assert world.domain.user(1000).buses == limits.BUSES_PER_USER
    world.bus("more", caller=world.caller(1001))
    buses[3].close()
    world.bus("more")


@pytest.mark.parametrize("path", [("1000-bus",), ("1000-bus", "bus")])
def test_a_bus_that_cannot_be_shown_leaves_nothing(monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    """Something that cannot be removed stands where its node should, see `interposer.nodes.filesystem`."""
    world = World()
    show = world.nodes.node_added

    def refuse(shown: tuple[str, ...], is_directory: bool, mode: int, uid: int, gid: int) -> None:
        if shown == path:
            raise NodeShutDown
        show(shown, is_directory, mode, uid, gid)

    with monkeypatch.context() as patch:
        patch.setattr(world.nodes, "node_added", refuse)
        with fails(NodeShutDown, errno.ESHUTDOWN):
            make(world, NAME, BLOOM)
    assert world.domain.user(1000).buses == 0
    assert list(world.nodes.nodes) == [("control",)]
    make(world, NAME, BLOOM)


def test_ids_count_up_and_failed_names_use_none() -> None:
    world = World()
    first = world.bus("a").bus
    with fails(BadName):
        make(world, string_item(abi.ITEM_MAKE_NAME, b"bad"), BLOOM)
    assert world.bus("b").bus.id == first.id + 1
    with fails(NodeExists):  # this one does, as the original counts before it links
        world.bus("a")
    assert world.bus("c").bus.id == first.id + 3


def test_uuid_is_random_and_marked_as_such() -> None:
    world = World()
    first, second = world.bus("a").bus.id128, world.bus("b").bus.id128
    assert first != second
    for found in (first, second):
        assert len(found) == 16 and found[6] >> 4 == 4 and found[8] >> 6 == 2


def test_flags_and_write_back() -> None:
    world = World()
    control = world.control()
    data = command_bytes("kdbus_cmd_make", [NAME, BLOOM], flags=4, return_flags=9)
    address = control.caller.memory.put(data)
    with fails(UnknownFlags, errno.EINVAL):
        control.ioctl("BUS_MAKE", address)
    layout = abi.STRUCTS["kdbus_cmd_make"]
    after = control.caller.memory.read(address, layout.size)
    assert layout.get(after, "kernel_flags") == abi.FLAG_KERNEL | 3
    assert layout.get(after, "return_flags") == 9  # this command does not touch it


@pytest.mark.parametrize("handle_is_used", [False, True])
def test_handle_makes_one_bus(handle_is_used: bool) -> None:
    world = World()
    control = world.control()
    if not handle_is_used:
        with fails(MissingItem):
            control.call("BUS_MAKE", "kdbus_cmd_make")
    control.call("BUS_MAKE", "kdbus_cmd_make", [NAME, BLOOM])
    with fails(HandleInUse, errno.EBADFD):
        control.call("BUS_MAKE", "kdbus_cmd_make", [string_item(abi.ITEM_MAKE_NAME, b"1000-b"), BLOOM])


@pytest.mark.parametrize(
    ("flags", "folder", "door"),
    [
        (0, 0o500, 0o600),
        (abi.MAKE_ACCESS_GROUP, 0o550, 0o660),
        (abi.MAKE_ACCESS_WORLD, 0o555, 0o666),
        (abi.MAKE_ACCESS_GROUP | abi.MAKE_ACCESS_WORLD, 0o555, 0o666),
    ],
)
def test_nodes(flags: int, folder: int, door: int) -> None:
    world = World()
    bus = world.bus(flags=flags).bus
    assert bus.flags == flags
    assert world.nodes.nodes["1000-bus",] == FakeNode(True, folder, 1000, 1000)
    assert world.nodes.nodes["1000-bus", "bus"] == FakeNode(False, door, 1000, 1000)


# The end


def test_end_of_the_bus() -> None:
    world = World()
    bus = world.bus()
    opened, _ = world.open(bus)
    peers = [world.connect(bus) for _ in range(3)]
    before = len(world.nodes.log)
    bus.close()
    assert all(peer.events.hung_up for peer in peers)
    assert world.nodes.log[before:] == ["-1000-bus/bus", "-1000-bus"]
    assert world.domain.user(1000).buses == 0
    with fails(NodeShutDown, errno.ESHUTDOWN):
        opened.call("HELLO", "kdbus_cmd_hello", pool_size=4096)
    with fails(NodeShutDown, errno.ESHUTDOWN):
        world.open(bus)
    for peer in peers:
        peer.close()
    assert world.domain.user(1000).connections == 0


def test_buses_do_not_hear_of_each_other() -> None:
    world = World()
    first, second = world.bus("a"), world.bus("b")
    listener, speaker = world.connect(first), world.connect(second)
    assert listener.id == speaker.id == 1
    listener.match()
    speaker.signal()
    speaker.acquire(b"a.b")
    speaker.close()
    assert not listener.received()


def test_every_connection_is_found_by_its_id() -> None:
    world = World()
    peers = [world.connect(), world.monitor(), world.activator(b"a.b")]
    bus = world.default_bus().bus
    assert list(bus.connections) == [peer.id for peer in peers]
    assert list(bus.monitors) == [peers[1].connection]
    peers[1].close()
    assert not bus.monitors and peers[1].id not in bus.connections
