# SPDX-License-Identifier: GPL-2.0-or-later
"""The one step that checks every command: sizes, flags, write-backs, items, in the kernel's order."""

from __future__ import annotations

import errno
import struct

import pytest

from broker import command
from broker.command import Command, Invocation
from broker.errors import (
    BadAddress,
    BadItem,
    CommandChanged,
    CommandTooLarge,
    CommandTooSmall,
    NameTaken,
    NoSuchSlice,
    UnknownFlags,
)
from broker.version3 import VERSION3
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from tests.support.world import FakeCaller, World, command_bytes, fails, item, name_item

ALL = [known for known in VERSION3.commands.values() if known.struct.size]
"""BYEBYE has no argument."""
TAKE_ITEMS = [known for known in ALL if known.maximum >= known.struct.size + 16]
"""MATCH_REMOVE has room for nothing but its structure, which is then read once."""
BAD_ITEM = item(abi.ITEM_ID, b"")
"""Malformed, of whatever command."""


def of(name: str) -> Command:
    return VERSION3.commands[abi.REQUESTS["KDBUS_CMD_" + name]]


def receive(known: Command, caller: FakeCaller, address: int) -> Invocation:
    """The one step."""
    return command.receive(known, VERSION3, caller, address)


def prepared(known: Command, items: list[bytes] | None = None, **members: int) -> tuple[FakeCaller, int]:
    """A caller with this command in its memory, and its address."""
    caller = FakeCaller()
    return caller, caller.memory.put(command_bytes(known.struct.name, items or [], **members))


def member(known: Command, caller: FakeCaller, address: int, name: str) -> int:
    return known.struct.get(caller.memory.read(address, known.struct.size), name)


def test_every_request_is_in_the_table() -> None:
    assert set(VERSION3.commands) == set(abi.REQUESTS.values())


def test_what_each_command_knows() -> None:
    """Limits and flags, against the tables of handle.c and limits.h."""
    large, small = 32 << 10, 8 << 10
    assert {known.name: (known.maximum, known.flags) for known in ALL} == {
        "BUS_MAKE": (large, 3),
        "ENDPOINT_MAKE": (large, 3),
        "HELLO": (large, 15),
        "SEND": (large, 1),
        "RECV": (large, 7),
        "FREE": (small, 0),
        "NAME_ACQUIRE": (32 + 16 + 256, 7),
        "NAME_RELEASE": (32 + 16 + 256, 0),
        "LIST": (small, 15),
        "CONN_INFO": (56 + 256, (1 << 14) - 1),
        "BUS_CREATOR_INFO": (56 + 256, (1 << 14) - 1),
        "UPDATE": (large, 0),
        "ENDPOINT_UPDATE": (large, 0),
        "MATCH_ADD": (large, 1),
        "MATCH_REMOVE": (40, 0),
    }


@pytest.fixture(params=ALL, ids=[known.name for known in ALL])
def known(request: pytest.FixtureRequest) -> Command:
    assert isinstance(request.param, Command)
    return request.param


def test_a_wild_pointer_is_efault(known: Command) -> None:
    for address in (0, 8, 0x7FFF_FFFF_F000, U64 & ~7):
        with fails(BadAddress, errno.EFAULT):
            receive(known, FakeCaller(), address)


@pytest.mark.parametrize("offset", range(1, 8))
def test_an_unaligned_pointer_is_efault(known: Command, offset: int) -> None:
    caller = FakeCaller()
    address = caller.memory.put(bytes(offset) + command_bytes(known.struct.name))
    with fails(BadAddress, errno.EFAULT):
        receive(known, caller, address + offset)


def test_a_size_below_the_structure_is_einval_even_if_no_more_is_readable(known: Command) -> None:
    for size in (0, 8, known.struct.size - 1):
        caller = FakeCaller()
        with fails(CommandTooSmall, errno.EINVAL):
            receive(known, caller, caller.memory.put(struct.pack("<Q", size)))


def test_a_size_over_the_limit_is_emsgsize_even_if_no_more_is_readable(known: Command) -> None:
    for size in (known.maximum + 1, 1 << 40, U64):
        caller = FakeCaller()
        with fails(CommandTooLarge, errno.EMSGSIZE):
            receive(known, caller, caller.memory.put(struct.pack("<Q", size)))


def test_a_size_past_the_end_of_memory_is_efault(known: Command) -> None:
    caller, address = prepared(known)
    caller.memory.truncate(address, known.struct.size - 8)
    with fails(BadAddress, errno.EFAULT):
        receive(known, caller, address)


def test_the_largest_size_is_taken(known: Command) -> None:
    room = known.maximum - known.struct.size
    items = [item(0x7777, bytes(room - 16))] if room >= 16 else []
    caller, address = prepared(known, items)
    assert len(receive(known, caller, address).items) == len(items)


@pytest.mark.parametrize("known", TAKE_ITEMS, ids=[known.name for known in TAKE_ITEMS])
def test_a_size_that_changes_while_it_is_read_is_einval(known: Command) -> None:
    caller, address = prepared(known, [item(0x7777)])
    reads = []

    def shrink(_address: int, _size: int) -> None:
        reads.append(_size)
        if len(reads) == 2:
            caller.memory.write(address, struct.pack("<Q", known.struct.size))

    caller.memory.before_read = shrink
    with fails(CommandChanged, errno.EINVAL):
        receive(known, caller, address)


def test_known_flags_are_told_even_when_unknown_ones_fail(known: Command) -> None:
    for flags in (1 << 20, 1 << 63, U64, known.flags + 1 << 32):
        caller, address = prepared(known, flags=flags, kernel_flags=5)
        with fails(UnknownFlags, errno.EINVAL):
            receive(known, caller, address)
        assert member(known, caller, address, "kernel_flags") == known.flags | 1 << 63


def test_all_known_flags_are_taken(known: Command) -> None:
    caller, address = prepared(known, flags=known.flags, return_flags=U64)
    invocation = receive(known, caller, address)
    assert invocation.get("flags") == known.flags
    assert invocation.get("return_flags") == 0
    assert member(known, caller, address, "kernel_flags") == known.flags | 1 << 63


def test_who_has_return_flags_cleared_at_once(known: Command) -> None:
    caller, address = prepared(known, flags=1 << 20, return_flags=7)
    with fails(UnknownFlags):
        receive(known, caller, address)
    early = known.name in ("ENDPOINT_MAKE", "NAME_ACQUIRE", "NAME_RELEASE")
    assert member(known, caller, address, "return_flags") == (0 if early else 7)


@pytest.mark.parametrize("known", TAKE_ITEMS, ids=[known.name for known in TAKE_ITEMS])
def test_flags_come_before_items_and_items_are_checked(known: Command) -> None:
    caller, address = prepared(known, [BAD_ITEM], flags=1 << 20)
    with fails(UnknownFlags, errno.EINVAL):
        receive(known, caller, address)
    caller, address = prepared(known, [BAD_ITEM])
    with fails(BadItem, errno.EINVAL):
        receive(known, caller, address)


def test_memory_that_cannot_be_written_is_efault(known: Command) -> None:
    caller, address = prepared(known)

    def refuse(_address: int, _data: bytes) -> None:
        raise BadAddress

    caller.memory.before_write = refuse
    with fails(BadAddress, errno.EFAULT):
        receive(known, caller, address)


def test_hello_gives_the_whole_structure_back() -> None:
    """The copy that is written back was made before `kernel_flags` was told: the old value stands there again."""
    world = World()
    opened, _ = world.open()
    hello = opened.call("HELLO", "kdbus_cmd_hello", pool_size=4096, kernel_flags=77, return_flags=9)
    assert hello["kernel_flags"] == 77
    assert hello["return_flags"] == 0
    assert hello["attach_flags_send"] == 1 << 63
    assert (hello["id"], hello["offset"], hello["items_size"], hello["bus_flags"]) == (1, 0, 40, 2)


def test_hello_does_not_write_behind_its_structure() -> None:
    world = World()
    opened, _ = world.open()
    data = command_bytes("kdbus_cmd_hello", [item(abi.ITEM_CONN_DESCRIPTION, b"x\0")], pool_size=4096)
    assert opened.raw("HELLO", data)[104:] == data[104:]


def test_name_acquire_gives_its_items_back_as_they_were_read() -> None:
    world = World()
    peer = world.connect()
    data = command_bytes("kdbus_cmd_name", [name_item(b"com.example")], kernel_flags=77)
    address = peer.caller.memory.put(data)

    def scribble(where: int, _data: bytes) -> None:
        if where == address + 16:  # kernel_flags, after everything has been read
            peer.caller.memory.write(address + 48, b"net")

    peer.caller.memory.before_write = scribble
    peer.ioctl("NAME_ACQUIRE", address)
    assert peer.caller.memory.read(address, len(data)) == data
    assert list(peer.connection.names) == [b"com.example"]


def test_name_acquire_returns_flags_only_when_it_succeeds() -> None:
    world = World()
    owner, waiter = world.connect(), world.connect()
    owner.acquire(b"com.example")
    assert waiter.acquire(b"com.example", abi.NAME_QUEUE) == abi.NAME_QUEUE | abi.NAME_IN_QUEUE
    third = world.connect()
    data = command_bytes("kdbus_cmd_name", [name_item(b"com.example")], flags=abi.NAME_ALLOW_REPLACEMENT)
    address = third.caller.memory.put(data)
    with fails(NameTaken, errno.EEXIST):
        third.ioctl("NAME_ACQUIRE", address)
    assert third.caller.memory.read(address, 48) == command_bytes(
        "kdbus_cmd_name", [name_item(b"com.example")], flags=2, kernel_flags=7 | 1 << 63
    )[:48]  # fmt: skip


def test_a_failing_free_leaves_return_flags_alone() -> None:
    world = World()
    peer = world.connect()
    address = peer.caller.memory.put(command_bytes("kdbus_cmd_free", offset=8, return_flags=3))
    with fails(NoSuchSlice, errno.ENXIO):
        peer.ioctl("FREE", address)
    assert of("FREE").struct.get(peer.caller.memory.read(address, 40), "return_flags") == 3


def test_a_succeeding_free_clears_return_flags() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    alice.send(bob)
    received = bob.recv(free=False)
    assert bob.call("FREE", "kdbus_cmd_free", offset=received.offset, return_flags=3)["return_flags"] == 0
