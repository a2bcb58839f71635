# SPDX-License-Identifier: GPL-2.0-or-later
"""Handles: what each kind takes in each state, and in which order refusals come (reference: handle.c)."""

from __future__ import annotations

import errno

import pytest

from broker.errors import (
    AlreadyDisconnected,
    BadAddress,
    BadItem,
    BadPoolSize,
    CommandTooSmall,
    Disconnected,
    HandleInUse,
    MappingTooLarge,
    MessagesPending,
    NodeShutDown,
    NoMapping,
    NotMappable,
    NotPermitted,
    UnknownCommand,
    WrongConnectionKind,
    WrongState,
)
from broker.handle import Handle, open_node
from kdbus.abi import revision3 as abi
from tests.support.world import (
    SECOND,
    Calling,
    FakeEvents,
    Peer,
    World,
    command_bytes,
    fails,
    item,
    name_item,
    string_item,
    vector_item,
    words_item,
)

COMMANDS = [name.removeprefix("KDBUS_CMD_") for name in abi.REQUESTS]
CONNECTED = set(COMMANDS) - {"BUS_MAKE", "ENDPOINT_MAKE", "HELLO", "ENDPOINT_UPDATE"}


def is_known(calling: Calling, name: str) -> bool:
    """Whether the handle knows the command: with a wild pointer it then fails otherwise than with ENOTTY."""
    try:
        calling.ioctl(name, 0)
    except (UnknownCommand, WrongState):
        return False
    except Exception:
        return True
    return True


def unknown_requests(calling: Calling) -> None:
    for request in (0, 0x95FF, abi.REQUESTS["KDBUS_CMD_SEND"] ^ 1 << 16, 1 << 31):
        with fails(UnknownCommand, errno.ENOTTY):
            calling.handle.ioctl(request, 0, calling.caller)


def test_a_control_node_makes_buses_and_nothing_else() -> None:
    control = World().control()
    unknown_requests(control)
    assert [name for name in COMMANDS if is_known(control, name)] == ["BUS_MAKE"]


def test_an_open_endpoint_becomes_a_connection_or_an_endpoints_owner() -> None:
    opened, _ = World().open()
    unknown_requests(opened)
    assert {name for name in COMMANDS if is_known(opened, name)} == {"HELLO", "ENDPOINT_MAKE"}


def test_a_connection_takes_the_commands_of_connections() -> None:
    world = World()
    peer = world.connect()
    unknown_requests(peer)
    assert {name for name in COMMANDS if is_known(world.connect(), name)} == CONNECTED


def test_an_endpoints_owner_only_updates_it() -> None:
    owner = World().endpoint("custom")
    unknown_requests(owner)
    assert {name for name in COMMANDS if is_known(owner, name)} == {"ENDPOINT_UPDATE"}


def test_a_second_bus_on_one_handle_is_ebadfd_before_anything_is_read() -> None:
    maker = World().bus()
    with fails(HandleInUse, errno.EBADFD):
        maker.ioctl("BUS_MAKE", 1)


def test_a_failed_bus_make_leaves_the_handle_usable() -> None:
    world = World()
    control = world.control()
    with fails(BadAddress, errno.EFAULT):
        control.ioctl("BUS_MAKE", 0)
    parts = [string_item(abi.ITEM_MAKE_NAME, b"1000-x"), words_item(abi.ITEM_BLOOM_PARAMETER, 8, 1)]
    control.call("BUS_MAKE", "kdbus_cmd_make", parts)


def test_bus_make_writes_nothing_but_kernel_flags() -> None:
    control = World().control()
    parts = [string_item(abi.ITEM_MAKE_NAME, b"1000-x"), words_item(abi.ITEM_BLOOM_PARAMETER, 8, 1)]
    before = command_bytes("kdbus_cmd_make", parts, return_flags=5)
    after = command_bytes("kdbus_cmd_make", parts, return_flags=5, kernel_flags=3 | 1 << 63)
    assert control.raw("BUS_MAKE", before) == after


def test_closing_the_makers_handle_ends_the_bus() -> None:
    world = World()
    maker = world.bus()
    peer = world.connect(maker)
    opened, _ = world.open(maker)
    maker.close()
    assert peer.events.hung_up
    with fails(Disconnected, errno.ECONNRESET):
        peer.names()
    with fails(NodeShutDown, errno.ESHUTDOWN):
        opened.call("HELLO", "kdbus_cmd_hello", pool_size=4096)
    with fails(NodeShutDown, errno.ESHUTDOWN):
        world.open(maker)
    with fails(NodeShutDown, errno.ESHUTDOWN):
        opened.call("ENDPOINT_MAKE", "kdbus_cmd_make", [string_item(abi.ITEM_MAKE_NAME, b"1000-x")])


def test_nodes_that_are_not_there_are_eshutdown() -> None:
    world = World()
    maker = world.bus()
    for path in ((), ("nothing",), (maker.name,), (maker.name, "nothing"), ("control", "x")):
        with fails(NodeShutDown, errno.ESHUTDOWN):
            open_node(world.domain, path, world.caller(), FakeEvents())


def test_a_domain_that_has_ended_answers_eshutdown() -> None:
    world = World()
    control = world.control()
    world.domain.deactivate()
    with fails(NodeShutDown, errno.ESHUTDOWN):
        control.ioctl("HELLO", 0)
    with fails(NodeShutDown, errno.ESHUTDOWN):
        world.control()


@pytest.mark.parametrize("pool_size", [0, 1, 4095, 4097, (1 << 64) - 1])
def test_a_pool_of_no_whole_pages_is_efault(pool_size: int) -> None:
    opened, _ = World().open()
    with fails(BadPoolSize, errno.EFAULT):
        opened.call("HELLO", "kdbus_cmd_hello", pool_size=pool_size)
    with fails(BadItem, errno.EINVAL):  # items are looked at before
        opened.call("HELLO", "kdbus_cmd_hello", [item(abi.ITEM_ID)], pool_size=pool_size)


def test_a_failed_hello_leaves_the_handle_usable_and_nothing_behind() -> None:
    world = World()
    opened, _ = world.open()
    address = opened.caller.memory.put(command_bytes("kdbus_cmd_hello", pool_size=4096))

    def refuse(_address: int, data: bytes) -> None:
        if len(data) > 8:
            raise BadAddress

    opened.caller.memory.before_write = refuse
    with fails(BadAddress, errno.EFAULT):
        opened.ioctl("HELLO", address)
    assert [pool.closed for pool in opened.caller.pools] == [True]
    bus = world.default_bus().bus
    assert not bus.connections
    assert world.domain.user(1000).connections == 0
    opened.caller.memory.before_write = None
    opened.ioctl("HELLO", address)
    assert list(bus.connections) == [2], "the id of the failed one is used up"


@pytest.mark.parametrize("privileged", [False, True])
def test_privilege_is_decided_when_the_endpoint_is_opened(privileged: bool) -> None:
    world = World()
    world.bus(caller=world.caller(1000))
    caller = world.caller(2000)
    if privileged:
        caller.process.privileges.add(15)
    opened, _ = world.open(caller=caller)
    caller.process.privileges ^= {15}
    parts = [string_item(abi.ITEM_MAKE_NAME, b"2000-x")]
    if privileged:
        opened.call("ENDPOINT_MAKE", "kdbus_cmd_make", parts)
    else:
        with fails(NotPermitted, errno.EPERM):  # before anything is read
            opened.ioctl("ENDPOINT_MAKE", 1)


def test_nobody_is_privileged_on_a_custom_endpoint() -> None:
    world = World()
    owner = world.endpoint("custom")
    caller = world.caller(1000)
    caller.process.privileges.add(15)
    opened, _ = world.open(endpoint=owner.name, caller=caller)
    with fails(NotPermitted, errno.EPERM):
        opened.ioctl("ENDPOINT_MAKE", 0)


ALLOWED = {
    "ordinary": CONNECTED,
    "activator": {"RECV", "FREE", "NAME_LIST", "CONN_INFO", "BUS_CREATOR_INFO"},
    "policy holder": {"NAME_LIST", "CONN_INFO", "BUS_CREATOR_INFO", "CONN_UPDATE"},
    "monitor": {"RECV", "FREE", "NAME_LIST", "CONN_INFO", "BUS_CREATOR_INFO", "CONN_UPDATE"},
}


def special(world: World, kind: str) -> Peer:
    if kind == "activator":
        return world.activator(b"com.example")
    if kind == "policy holder":
        return world.policy_holder(b"com.example")
    return world.monitor() if kind == "monitor" else world.connect()


@pytest.mark.parametrize("kind", ALLOWED)
def test_what_each_kind_of_connection_may_issue(kind: str) -> None:
    """The kind is looked at before the argument is: EOPNOTSUPP even with a wild pointer."""
    peer = special(World(), kind)
    for name in sorted(CONNECTED - ALLOWED[kind]):
        with fails(WrongConnectionKind, errno.EOPNOTSUPP):
            peer.ioctl(name, 1)
    for name in sorted(ALLOWED[kind] - {"BYEBYE"}):
        with fails(BadAddress, errno.EFAULT):
            peer.ioctl(name, 1)


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_dead_connection_answers_econnreset(kind: str) -> None:
    """To everything that it is asked, even what it never knew; BYEBYE looks at the kind only."""
    world = World()
    peer = special(world, kind)
    peer.connection.disconnect()
    for name in set(COMMANDS) - {"BYEBYE"}:
        with fails(Disconnected, errno.ECONNRESET):
            peer.ioctl(name, 0)
    with fails(Disconnected, errno.ECONNRESET):
        peer.handle.ioctl(0x1234, 0, peer.caller)
    if kind == "ordinary":
        with fails(AlreadyDisconnected, errno.EALREADY):
            peer.bye()
    else:
        with fails(WrongConnectionKind, errno.EOPNOTSUPP):
            peer.bye()


def test_byebye_needs_an_empty_queue() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    alice.send(bob)
    with fails(MessagesPending, errno.EBUSY):
        bob.bye()
    bob.recv()
    bob.bye()
    with fails(AlreadyDisconnected, errno.EALREADY):
        bob.bye()
    assert bob.events.log == ["queued", "drained", "disconnected"]


def test_byebye_does_not_care_for_its_argument() -> None:
    world = World()
    peer = world.connect()
    peer.ioctl("BYEBYE", 12345)


def test_mapping_a_connection() -> None:
    world = World()
    peer = world.connect(pool_size=8192)
    assert peer.handle.map(4096, writable=False) is peer.memory
    assert peer.handle.map(8192, writable=False) is peer.memory
    with fails(MappingTooLarge, errno.EFAULT):
        peer.handle.map(12288, writable=False)
    with fails(NotMappable, errno.EPERM):
        peer.handle.map(4096, writable=True)
    with fails(NotMappable, errno.EPERM):
        peer.handle.map(12288, writable=True)
    peer.bye()
    assert peer.handle.map(4096, writable=False) is peer.memory


def test_mapping_anything_else() -> None:
    world = World()
    opened, _ = world.open()
    owner, control = world.endpoint("custom"), world.control()
    for handle in (opened.handle, owner.handle):
        with fails(NotMappable, errno.EPERM):
            handle.map(4096, writable=False)
    with fails(NoMapping, errno.ENODEV):
        control.handle.map(4096, writable=False)


def test_free_takes_no_items() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    alice.send(bob)
    offset = bob.recv(free=False).offset
    for extra in (name_item(b"a.b"), item(0x7777)):
        with fails(BadItem, errno.EINVAL):
            bob.call("FREE", "kdbus_cmd_free", [extra], offset=offset)
    bob.free(offset)


def test_closing_twice_what_was_never_said_hello_to() -> None:
    world = World()
    opened, events = world.open()
    opened.close()
    assert events.log == []


def test_closing_a_connection_frees_its_pool() -> None:
    world = World()
    peer = world.connect()
    memory = peer.memory
    peer.close()
    assert memory.closed
    assert peer.events.log == ["disconnected"]
    assert world.domain.user(1000).connections == 0


def test_a_waiting_send_keeps_its_handle_open() -> None:
    """As ioctl(2) holds the file, the connection ends when the call does."""
    world = World()
    alice, bob = world.connect(), world.connect()
    sent = alice.request(bob, 5, sync=True)
    alice.close()
    assert alice.connection.active
    bob.recv()
    bob.reply(alice, 5, b"late")
    offset, size, _ = sent.finish()
    assert alice.parse(offset, size).payload == b"late"
    assert not alice.connection.active
    assert alice.memory.closed


def test_an_interrupted_send_lets_its_handle_go() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    sent = alice.request(bob, 5, sync=True)
    alice.close()
    assert sent.wait is not None
    sent.wait.interrupt()
    assert not alice.connection.active
    world.expire(SECOND)


def test_a_callers_memory_is_that_of_the_thread_not_of_the_opener() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    other = world.caller(1000)
    memory = other.memory.put(b"elsewhere")
    alice.send(bob, items=[vector_item(memory, 9)], caller=other)
    assert bob.recv().payload == b"elsewhere"


def test_the_base_class_maps_nothing() -> None:
    handle = Handle(World().domain)
    handle.close()
    with fails(NoMapping, errno.ENODEV):
        handle.map(1, writable=False)


def test_a_short_command_is_einval_on_every_state() -> None:
    world = World()
    peer = world.connect()
    address = peer.caller.memory.put(bytes(8))
    for name in sorted(CONNECTED - {"BYEBYE"}):
        with fails(CommandTooSmall, errno.EINVAL):
            peer.ioctl(name, address)
