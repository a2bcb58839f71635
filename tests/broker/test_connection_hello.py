# SPDX-License-Identifier: GPL-2.0-or-later
"""HELLO: what it returns, all its errors, and their order."""

from __future__ import annotations

import errno
import struct

import pytest

from broker import limits
from broker.errors import (
    AttachFlagsRefused,
    BadAddress,
    BadArgument,
    BadItem,
    BadName,
    BadPoolSize,
    NameTooLong,
    NotPermitted,
    OutOfMemory,
    TooManyConnections,
    UnknownFlags,
    WrongState,
)
from broker.interfaces import Credentials
from kdbus.abi import revision3 as abi
from tests.support.world import (
    World,
    command_bytes,
    fails,
    item,
    name_item,
    notices,
    string_item,
    words_item,
    world_access,
)

NAME = b"org.example.Name"
ACTIVATOR, HOLDER, MONITOR = abi.HELLO_ACTIVATOR, abi.HELLO_POLICY_HOLDER, abi.HELLO_MONITOR
FAKED = item(abi.ITEM_CREDS, struct.pack("<8I", 1, 2, 3, 4, 5, 6, 7, 8))
FAKED_PIDS = words_item(abi.ITEM_PIDS, 1, 1, 0)
FAKED_LABEL = string_item(abi.ITEM_SECLABEL, b"fake")
SEND_FLAGS, RECEIVE_FLAGS = abi.ITEM_ATTACH_FLAGS_SEND, abi.ITEM_ATTACH_FLAGS_RECV


def description(text: bytes) -> bytes:
    return string_item(abi.ITEM_CONN_DESCRIPTION, text)


def test_what_hello_returns() -> None:
    world = World()
    bus = world.bus(flags=abi.MAKE_ACCESS_GROUP, bloom=(72, 3))
    opened, _ = world.open(bus)
    hello = opened.call("HELLO", "kdbus_cmd_hello", pool_size=8192, flags=1, return_flags=9, kernel_flags=5, id=77)
    assert hello["id"] == 1
    assert hello["bus_flags"] == abi.MAKE_ACCESS_GROUP
    assert hello["attach_flags_send"] == abi.FLAG_KERNEL
    assert (hello["flags"], hello["pool_size"], hello["return_flags"]) == (1, 8192, 0)
    assert hello["kernel_flags"] == 5  # the whole structure is written back as it was read
    assert hello.data[88:104] == bus.bus.id128
    assert (hello["offset"], hello["items_size"]) == (0, 40)
    stored = opened.caller.pools[0].read(0, 40)
    assert stored == struct.pack("<Q", 40) + words_item(abi.ITEM_BLOOM_PARAMETER, 72, 3)


def test_slice_of_hello_must_be_freed_by_the_program() -> None:
    world = World()
    holder = world.policy_holder(NAME)
    assert holder.connection.pool.busy == 40
    assert world.connect().connection.pool.busy == 0


def test_ids_count_up_and_are_never_used_again() -> None:
    world = World()
    first, second = world.connect(), world.connect()
    second.close()
    assert world.connect().id == first.id + 2


def test_id_is_used_up_by_a_hello_that_fails_late() -> None:
    world = World()
    first = world.connect()
    with fails(BadArgument):
        world.connect(items=[words_item(abi.ITEM_PIDS, 999, 0, 0)])
    with fails(NotPermitted):
        world.connect(uid=1001, items=[FAKED])
    assert world.connect().id == first.id + 2


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, (1 << 64) - 1])
def test_pool_size_is_a_multiple_of_the_page_and_comes_first(size: int) -> None:
    with fails(BadPoolSize, errno.EFAULT):
        World().connect(pool_size=size, flags=ACTIVATOR | MONITOR)


def test_pool_that_no_file_could_hold() -> None:
    with fails(BadArgument, errno.EINVAL):
        World().connect(pool_size=1 << 63)


def test_no_memory_for_the_pool() -> None:
    world = World()
    caller = world.caller()
    caller.out_of_memory = True
    with fails(OutOfMemory, errno.ENOMEM):
        world.connect(caller=caller, items=[words_item(abi.ITEM_PIDS, 999, 0, 0)])
    assert world.domain.user(1000).connections == 0


def test_pool_is_named_after_the_description() -> None:
    world = World()
    assert world.connect().memory.name == b"kdbus-conn"
    assert world.connect(items=[description(b"my-service")]).memory.name == b"kdbus-conn:my-service"


@pytest.mark.parametrize("flags", [ACTIVATOR | HOLDER, ACTIVATOR | MONITOR, HOLDER | MONITOR, 14])
def test_only_one_special_kind(flags: int) -> None:
    with fails(BadArgument, errno.EINVAL):  # even before privilege
        World().connect(uid=1001, flags=flags, items=[name_item(NAME)])


def test_unknown_flag() -> None:
    with fails(UnknownFlags, errno.EINVAL):
        World().connect(flags=16)


@pytest.mark.parametrize("flags", [ACTIVATOR, HOLDER, MONITOR])
def test_special_kinds_need_privilege(flags: int) -> None:
    with fails(NotPermitted, errno.EPERM):
        World().connect(uid=1001, flags=flags)


@pytest.mark.parametrize("flags", [ACTIVATOR, HOLDER])
def test_activators_and_policy_holders_need_exactly_one_name(flags: int) -> None:
    world = World()
    with fails(BadArgument, errno.EINVAL):
        world.connect(flags=flags)
    with fails(BadArgument, errno.EINVAL):
        world.connect(flags=flags, items=[name_item(NAME), name_item(b"a.b")])
    with fails(BadName, errno.EINVAL):
        world.connect(flags=flags, items=[name_item(b"noname")])


@pytest.mark.parametrize("flags", [0, MONITOR])
def test_others_have_no_name(flags: int) -> None:
    with fails(BadArgument, errno.EINVAL):
        World().connect(flags=flags, items=[name_item(NAME)])


@pytest.mark.parametrize("faked", [FAKED, FAKED_PIDS, FAKED_LABEL])
def test_faked_identity_needs_privilege(faked: bytes) -> None:
    world = World()
    world.connect(items=[faked])
    with fails(NotPermitted, errno.EPERM):
        world.connect(uid=1001, items=[faked])
    world.endpoint("door")
    with fails(NotPermitted, errno.EPERM):
        world.connect(endpoint="1000-door", items=[faked])


def test_faked_items_of_the_wrong_size() -> None:
    world = World()
    with fails(BadItem, errno.EINVAL):
        world.connect(items=[item(abi.ITEM_CREDS, bytes(28))])
    for size in (0, 16, 32):
        with fails(BadArgument, errno.EINVAL):
            world.connect(items=[item(abi.ITEM_PIDS, bytes(size))])


def test_description_once_and_within_its_limit() -> None:
    world = World()
    longest = b"x" * limits.NODE_NAME_LENGTH
    assert world.connect(items=[description(longest)]).connection.description == longest
    with fails(NameTooLong, errno.ENAMETOOLONG):
        world.connect(items=[description(longest + b"x")])
    with fails(BadArgument, errno.EINVAL):
        world.connect(items=[description(b"a"), description(b"a")])
    with fails(BadItem, errno.EINVAL):
        world.connect(items=[description(b"")])
    for bad in (b"-a", b"a.", b"a b"):
        with fails(BadName, errno.EINVAL):
            world.connect(items=[description(bad)])


@pytest.mark.parametrize(
    "accepted",
    [
        world_access(abi.POLICY_SEE),
        item(abi.ITEM_BLOOM_MASK),
        words_item(abi.ITEM_ID, 1),
        item(abi.ITEM_NAME_ADD, bytes(32)),
        item(abi.ITEM_NAME_REMOVE, bytes(32)),
        item(abi.ITEM_NAME_CHANGE, bytes(32)),
        item(abi.ITEM_ID_ADD, bytes(16)),
        item(abi.ITEM_ID_REMOVE, bytes(16)),
    ],
)
def test_items_that_hello_accepts_and_ignores(accepted: bytes) -> None:
    assert not len(World().connect(items=[accepted]).connection.matches)


@pytest.mark.parametrize("refused", [words_item(SEND_FLAGS, 1), words_item(abi.ITEM_BLOOM_PARAMETER, 8, 1), item(99)])
def test_items_that_hello_refuses(refused: bytes) -> None:
    with fails(BadItem, errno.EINVAL):
        World().connect(items=[refused])


def test_order_of_checks() -> None:
    world = World()
    bus = world.bus(items=[words_item(RECEIVE_FLAGS, 1)])
    # items in their order
    with fails(NotPermitted):
        world.connect(bus, uid=1001, items=[FAKED, item(99)])
    with fails(BadItem):
        world.connect(bus, uid=1001, items=[item(99), FAKED])
    # items before attach flags, their form before what the bus requires, and that before the identity
    with fails(BadItem):
        world.connect(bus, items=[item(99)], attach_flags_send=1 << 20)
    with fails(BadArgument):
        world.connect(bus, attach_flags_send=0, attach_flags_recv=1 << 20)
    with fails(AttachFlagsRefused, errno.ECONNREFUSED):
        world.connect(bus, attach_flags_send=0, items=[words_item(abi.ITEM_PIDS, 999, 0, 0)])


def test_result_that_cannot_be_stored_ends_the_connection() -> None:
    world = World()
    watcher = world.connect()
    watcher.match()
    opened, _ = world.open()
    start = opened.caller.memory.put(command_bytes("kdbus_cmd_hello", pool_size=4096))
    written: list[int] = []
    write = opened.caller.memory.write

    def second_write_fails(address: int, data: bytes) -> None:
        if written:
            raise BadAddress
        written.append(address)
        write(address, data)

    opened.caller.memory.write = second_write_fails  # type: ignore[method-assign]
    with fails(BadAddress, errno.EFAULT):
        opened.ioctl("HELLO", start)
    assert [notice[0] for notice in notices(watcher)] == [abi.ITEM_ID_ADD, abi.ITEM_ID_REMOVE]
    assert opened.caller.pools[0].closed
    assert world.domain.user(1000).connections == 1
    opened.caller.memory.write = write  # type: ignore[method-assign]
    opened.call("HELLO", "kdbus_cmd_hello", pool_size=4096)


def test_connections_per_user() -> None:
    world = World()
    user = world.domain.user(1001)
    user.connections = limits.CONNECTIONS_PER_USER - 1
    last = world.connect(uid=1001)
    with fails(TooManyConnections, errno.EMFILE):
        world.connect(uid=1001)
    world.connect(uid=1002)
    last.bye()
    with fails(TooManyConnections, errno.EMFILE):  # the handle counts until it is closed
        world.connect(uid=1001)
    last.close()
    world.connect(uid=1001)


def test_connection_counts_while_its_request_waits_somewhere() -> None:
    # As in the original, where the message keeps the requester's connection.
    world = World()
    client, service = world.connect(uid=1001), world.connect()
    holder = world.policy_holder(NAME, world_access(abi.POLICY_TALK))
    service.acquire(NAME)
    client.request(NAME, 1)
    client.request(NAME, 2)
    client.close()
    user = world.domain.user(1001)
    assert user.connections == 1
    service.recv()
    assert user.connections == 1
    service.recv()
    assert user.connections == 0
    holder.close()


def test_budget_is_the_real_users() -> None:
    world = World()
    caller = world.caller()
    caller.process.who = Credentials(7, 1000, 8, 9, 1, 1, 1, 1)
    world.connect(caller=caller)
    assert [world.domain.user(uid).connections for uid in (7, 8, 9, 1000)] == [1, 0, 0, 0]


def test_handle_is_a_connection_for_good() -> None:
    peer = World().connect()
    for command in ("HELLO", "ENDPOINT_MAKE", "ENDPOINT_UPDATE", "BUS_MAKE"):
        with fails(WrongState, errno.ENOTTY):
            peer.ioctl(command, 3)
