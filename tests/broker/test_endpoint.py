# SPDX-License-Identifier: GPL-2.0-or-later
"""Endpoints: making custom ones, their policy, and their end."""

from __future__ import annotations

import errno

import pytest

from broker import limits
from broker.errors import (
    AlreadyDisconnected,
    BadArgument,
    BadName,
    BadPoolSize,
    Disconnected,
    DuplicateItem,
    HandleInUse,
    KdbusError,
    MissingItem,
    NameTooLong,
    NodeExists,
    NodeShutDown,
    NoSuchName,
    NotPermitted,
    TooManyConnections,
    UnknownFlags,
    WrongConnectionKind,
    WrongState,
)
from kdbus.abi import revision3 as abi
from tests.support.world import (
    FakeIds,
    FakeNode,
    World,
    access_item,
    command_bytes,
    credentials,
    fails,
    name_item,
    notices,
    string_item,
    words_item,
    world_access,
)

NAME = b"org.example.Name"
MAKE = abi.REQUESTS["KDBUS_CMD_ENDPOINT_MAKE"]


def make(world: World, *items: bytes) -> None:
    """ENDPOINT_MAKE with just these items, on a new handle."""
    opened, _ = world.open()
    opened.call("ENDPOINT_MAKE", "kdbus_cmd_make", items)


def make_name(name: bytes) -> bytes:
    return string_item(abi.ITEM_MAKE_NAME, name)


def test_default_endpoint_belongs_to_the_buss_maker() -> None:
    world = World()
    world.bus(caller=world.caller(1000, gid=50), flags=abi.MAKE_ACCESS_GROUP)
    assert world.nodes.nodes["1000-bus", "bus"] == FakeNode(False, 0o660, 1000, 50)


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (0, 0o600),
        (abi.MAKE_ACCESS_GROUP, 0o660),
        (abi.MAKE_ACCESS_WORLD, 0o666),
        (abi.MAKE_ACCESS_GROUP | abi.MAKE_ACCESS_WORLD, 0o666),
    ],
)
def test_node_of_a_custom_endpoint(flags: int, mode: int) -> None:
    world = World()
    world.bus()
    caller = world.caller(1000, gid=60)
    world.endpoint("door", caller=caller, flags=flags)
    assert world.nodes.nodes["1000-bus", "1000-door"] == FakeNode(False, mode, 1000, 60)


def test_maker_is_the_effective_user() -> None:
    world = World()
    world.bus()
    caller = world.caller(1000)
    caller.process.privileges.add(15)
    opened, _ = world.open(caller=caller)
    caller.process.who = credentials(1001, 70)
    opened.call("ENDPOINT_MAKE", "kdbus_cmd_make", [make_name(b"1001-door")])
    assert world.nodes.nodes["1000-bus", "1001-door"] == FakeNode(False, 0o600, 1001, 70)


def test_only_privileged_handles_make_endpoints_which_comes_before_everything() -> None:
    world = World()
    opened, _ = world.open(caller=world.caller(1001))
    with fails(NotPermitted, errno.EPERM):
        opened.ioctl("ENDPOINT_MAKE", 3)
    world.endpoint("door")
    inside, _ = world.open(endpoint="1000-door")
    with fails(NotPermitted, errno.EPERM):
        inside.ioctl("ENDPOINT_MAKE", 3)


def test_endpoint_of_an_existing_name() -> None:
    world = World()
    first = world.endpoint("door")
    with fails(NodeExists, errno.EEXIST):
        world.endpoint("door")
    first.close()
    world.endpoint("door")


def test_same_name_on_another_bus() -> None:
    world = World()
    world.endpoint("door")
    world.endpoint("door", bus=world.bus("other"))
    assert ("1000-other", "1000-door") in world.nodes.nodes


def test_exactly_one_name() -> None:
    world = World()
    with fails(MissingItem, errno.EBADMSG):
        make(world)
    with fails(DuplicateItem, errno.EEXIST):
        make(world, make_name(b"1000-a"), make_name(b"1000-b"))


@pytest.mark.parametrize("name", [b"door", b"1001-door", b"1000door", b"100-door", b"bus", b"1000-a/b", b"1000-"])
def test_name_begins_with_the_makers_uid(name: bytes) -> None:
    with fails(BadName, errno.EINVAL):
        make(World(), make_name(name))


def test_name_at_and_over_the_limit() -> None:
    world = World()
    name = b"1000-" + b"x" * (limits.NODE_NAME_LENGTH - 5)
    make(world, make_name(name))
    with fails(NameTooLong, errno.ENAMETOOLONG):
        make(world, make_name(name + b"x"))


def test_uid_is_that_of_the_domains_namespace() -> None:
    world = World(ids=FakeIds(users={1000: 0}))
    opened = world.control()
    items = [make_name(b"0-bus"), words_item(abi.ITEM_BLOOM_PARAMETER, 64, 1)]
    opened.call("BUS_MAKE", "kdbus_cmd_make", items)
    assert ("0-bus",) in world.nodes.nodes


def test_flags_and_write_back() -> None:
    world = World()
    opened, _ = world.open()
    data = command_bytes("kdbus_cmd_make", [make_name(b"1000-x")], flags=4, return_flags=9)
    address = opened.caller.memory.put(data)
    with fails(UnknownFlags, errno.EINVAL):
        opened.ioctl("ENDPOINT_MAKE", address)
    after = opened.caller.memory.read(address, 32)
    layout = abi.STRUCTS["kdbus_cmd_make"]
    assert layout.get(after, "return_flags") == 0  # stored before the flags are looked at
    assert layout.get(after, "kernel_flags") == abi.FLAG_KERNEL | 3


def test_unknown_items_are_ignored() -> None:
    world = World()
    make(world, words_item(abi.ITEM_ID, 5), make_name(b"1000-door"))
    assert ("1000-bus", "1000-door") in world.nodes.nodes


@pytest.mark.parametrize(
    ("items", "error", "number"),
    [
        ([world_access(abi.POLICY_OWN)], BadArgument, errno.EINVAL),
        ([name_item(NAME), world_access(9)], BadArgument, errno.EINVAL),
        ([name_item(b"noname")], BadName, errno.EINVAL),
        ([name_item(NAME), name_item(NAME)], DuplicateItem, errno.EEXIST),
    ],
)
def test_bad_policy_leaves_no_endpoint(items: list[bytes], error: type[KdbusError], number: int) -> None:
    world = World()
    opened, _ = world.open()
    with fails(error, number):
        opened.call("ENDPOINT_MAKE", "kdbus_cmd_make", [make_name(b"1000-door"), *items])
    assert ("1000-bus", "1000-door") not in world.nodes.nodes
    opened.call("ENDPOINT_MAKE", "kdbus_cmd_make", [make_name(b"1000-door")])


def test_handle_of_an_owner_takes_only_updates() -> None:
    world = World()
    owner = world.endpoint("door")
    for command in ("HELLO", "ENDPOINT_MAKE", "BYEBYE", "SEND", "CONN_UPDATE", "BUS_MAKE"):
        with fails(WrongState, errno.ENOTTY):
            owner.ioctl(command, 0)


def test_update_replaces_the_policy() -> None:
    world = World()
    owner = world.endpoint("door", name_item(NAME), world_access(abi.POLICY_OWN))
    peer = world.connect(endpoint="1000-door")
    other = world.connect()
    other.acquire(NAME)
    assert peer.info(NAME).id == other.id
    assert owner.update(name_item(b"a.*"), world_access(abi.POLICY_SEE), name_item(b"b.b"))["return_flags"] == 0
    with fails(NoSuchName, errno.ESRCH):
        peer.info(NAME)
    other.acquire(b"a.b")
    assert peer.info(b"a.b").id == other.id


def test_failing_update_changes_nothing() -> None:
    world = World()
    owner = world.endpoint("door", name_item(NAME), world_access(abi.POLICY_OWN))
    with fails(DuplicateItem, errno.EEXIST):
        owner.update(name_item(b"a.b"), name_item(b"a.b"))
    with fails(UnknownFlags, errno.EINVAL):
        owner.call("ENDPOINT_UPDATE", "kdbus_cmd_update", flags=1)
    assert owner.endpoint.policy.query(credentials(5), NAME) == abi.POLICY_OWN


def test_policy_without_items_grants_nothing() -> None:
    world = World()
    owner = world.endpoint("door", name_item(NAME), world_access(abi.POLICY_OWN))
    owner.update()
    assert owner.endpoint.policy.query(credentials(5), NAME) == -1


def test_ids_in_the_policy_are_the_updaters() -> None:
    world = World()
    owner = world.endpoint("door")
    owner.caller.ids = FakeIds(users={100005: 5})
    owner.update(name_item(NAME), access_item(abi.POLICY_ACCESS_USER, 5, abi.POLICY_TALK))
    assert owner.endpoint.policy.query(credentials(100005), NAME) == abi.POLICY_TALK


def test_end_of_the_owner_ends_the_endpoint_and_its_connections() -> None:
    world = World()
    watcher = world.connect()
    owner = world.endpoint("door")
    unconnected, _ = world.open(endpoint="1000-door")
    first, second = world.connect(endpoint="1000-door"), world.connect(endpoint="1000-door")
    watcher.match()
    owner.close()
    assert ("1000-bus", "1000-door") not in world.nodes.nodes
    assert first.events.hung_up and second.events.hung_up and not watcher.events.hung_up
    flags = abi.HELLO_ACCEPT_FD
    assert notices(watcher) == [(abi.ITEM_ID_REMOVE, peer.id, flags) for peer in (first, second)]
    with fails(Disconnected, errno.ECONNRESET):
        first.info(first)
    with fails(AlreadyDisconnected, errno.EALREADY):
        first.bye()
    with fails(NodeShutDown, errno.ESHUTDOWN):
        unconnected.call("HELLO", "kdbus_cmd_hello", pool_size=4096)
    with fails(NodeShutDown, errno.ESHUTDOWN):
        world.open(bus=world.default_bus(), endpoint="1000-door")
    first.close()


def test_end_of_the_bus_ends_all_endpoints() -> None:
    world = World()
    owner, peer = world.endpoint("door"), world.connect()
    guest = world.connect(endpoint="1000-door")
    world.default_bus().close()
    assert peer.events.hung_up and guest.events.hung_up
    assert not [path for path in world.nodes.nodes if path[0] == "1000-bus"]
    assert owner.update()["return_flags"] == 0  # the policy can still be changed, to no effect
    owner.close()


def test_endpoint_on_a_bus_that_has_ended() -> None:
    world = World()
    opened, _ = world.open()
    world.default_bus().close()
    with fails(NodeShutDown, errno.ESHUTDOWN):
        opened.call("ENDPOINT_MAKE", "kdbus_cmd_make", [make_name(b"1000-door")])


def test_connections_count_for_the_endpoint() -> None:
    world = World()
    owner = world.endpoint("door")
    before = world.domain.user(1001).connections
    peer = world.connect(endpoint="1000-door", uid=1001)
    assert world.domain.user(1001).connections == before
    assert owner.endpoint.user is not None and owner.endpoint.user.connections == 1
    owner.endpoint.user.connections = limits.CONNECTIONS_PER_USER
    with fails(TooManyConnections, errno.EMFILE):
        world.connect(endpoint="1000-door", uid=1002)
    world.connect(uid=1001)
    peer.close()
    assert owner.endpoint.user.connections == limits.CONNECTIONS_PER_USER - 1


def test_special_connections_on_custom_endpoints() -> None:
    world = World()
    world.endpoint("door")
    with fails(WrongConnectionKind, errno.EOPNOTSUPP):
        world.connect(endpoint="1000-door", flags=abi.HELLO_MONITOR)
    for flags in (abi.HELLO_ACTIVATOR, abi.HELLO_POLICY_HOLDER):
        with fails(NotPermitted, errno.EPERM):
            world.connect(endpoint="1000-door", flags=flags, items=[name_item(NAME)])


def test_pool_size_comes_before_the_endpoints_end() -> None:
    world = World()
    owner = world.endpoint("door")
    opened, _ = world.open(endpoint="1000-door")
    owner.close()
    with fails(BadPoolSize, errno.EFAULT):
        opened.call("HELLO", "kdbus_cmd_hello", pool_size=4097)


def test_handle_becomes_one_thing() -> None:
    world = World()
    control = world.control()
    items = [make_name(b"1000-a"), words_item(abi.ITEM_BLOOM_PARAMETER, 64, 1)]
    control.call("BUS_MAKE", "kdbus_cmd_make", items)
    with fails(HandleInUse, errno.EBADFD):
        control.ioctl("BUS_MAKE", 3)
    peer = world.connect()
    with fails(WrongState, errno.ENOTTY):
        peer.handle.ioctl(MAKE, 0, peer.caller)


def test_ids_count_up() -> None:
    world = World()
    first = world.endpoint("a")
    second = world.endpoint("b")
    assert second.endpoint.id == first.endpoint.id + 1
