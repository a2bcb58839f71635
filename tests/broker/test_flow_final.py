# SPDX-License-Identifier: GPL-2.0-or-later
"""What is lent of the final revision, alone and between revisions: a message in one slice, its share of the pool, and
what has to be known again when it moves on."""

from __future__ import annotations

import struct

import pytest

from broker.errors import KdbusError, QueueFull
from broker.final import FINAL
from broker.flow import layout
from broker.lending import LentWait
from broker.version2 import VERSION2
from broker.version3 import VERSION3
from kdbus.abi import final
from kdbus.abi import revision3 as abi
from tests.support.fakes import memfd
from tests.support.final_peer import ITEM, FinalPeer, activator
from tests.support.lending import lend_and_take_back
from tests.support.world import SECOND, Peer, World, item, string_item, vector_item, world_access

NAME = b"org.example.Name"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> FinalPeer:
    return FinalPeer(world)


@pytest.fixture
def bob(world: World) -> FinalPeer:
    return FinalPeer(world)


def test_a_message_is_received_as_it_was_sent(world: World, alice: FinalPeer, bob: FinalPeer) -> None:
    sealed = alice.caller.open(memfd(16))
    parts = [item(ITEM["PAYLOAD_MEMFD"], struct.pack("<QQiI", 0, 13, sealed, 77))]
    for _ in range(2):
        alice.send(bob.id, b"one", b"two", items=parts, cookie=7, priority=-3)
    expected = bob.recv()
    lend_and_take_back(world, alice, bob)
    received = bob.recv()
    memfds = [(number, payload[:16], payload[20:]) for number, payload in received.items[:1]]
    assert memfds == [(ITEM["PAYLOAD_MEMFD"], struct.pack("<QQ", 0, 13), struct.pack("<I", 77))]
    assert received.items[1:] == expected.items[1:]
    assert (received.payload, received.cookie, received.priority) == (b"onetwo", 7, -3)
    assert struct.unpack("<i", received.items[0][1][16:20])[0] >= 0


def test_a_share_of_the_pool_survives(world: World, alice: FinalPeer) -> None:
    small = FinalPeer(world, pool_size=4096 * 4)
    sent = 0
    with pytest.raises(QueueFull):
        while True:
            alice.send(small.id, b"x" * 100)
            sent += 1
    quota = small.connection.quota
    lend_and_take_back(world, alice, small)
    with pytest.raises(QueueFull):
        alice.send(small.id, b"x" * 100)
    for _ in range(sent):
        small.recv()
    lend_and_take_back(world, alice, small)
    assert small.connection.quota is quota
    for _ in range(sent):
        alice.send(small.id, b"x" * 100)


def test_a_bus_that_counts_by_itself_goes_on(world: World, alice: FinalPeer, bob: FinalPeer) -> None:
    before = bob.connection.bus.messages.latest
    alice.send(bob.id, b"x")
    lend_and_take_back(world, alice, bob)
    assert bob.connection.bus.messages.latest == before + 1


@pytest.mark.parametrize("sender", ["3", "final"])
@pytest.mark.parametrize("waiting", ["3", "final"])
def test_a_message_that_was_lent_goes_back_to_the_activator_as_it_was(
    world: World, bob: FinalPeer, sender: str, waiting: str
) -> None:
    """Also what only the pool remembers: the order of items, and their padding."""
    first: Peer | FinalPeer = world.activator(NAME, world_access(1)) if waiting == "3" else activator(world, NAME)
    bob.acquire(NAME)
    if sender == "3":
        old = world.connect(attach_flags_recv=0)
        words = vector_item(old.caller.memory.put(b"hello"), 5)
        old.send(0, items=[words, string_item(abi.ITEM_DST_NAME, NAME)], dst_id=0)
        lend_and_take_back(world, old, bob)
    else:
        new = FinalPeer(world)
        name = string_item(ITEM["DST_NAME"], NAME)[:-1] + b"!"
        vector = item(ITEM["PAYLOAD_VEC"], struct.pack("<2Q", 5, new.caller.memory.put(b"hello")))
        new.send(0, items=[vector, name])
        lend_and_take_back(world, new, bob)
    bob.issue("NAME_RELEASE", [string_item(ITEM["NAME"], NAME)])
    if not isinstance(first, FinalPeer):
        assert first.recv().payload == b"hello"
        return
    first.issue("RECV")
    offset, size, _ = first.info("kdbus_cmd_recv", "msg")
    items = item(ITEM["PAYLOAD_OFF"], struct.pack("<2Q", 5, 64 + 32 + 40)) + string_item(ITEM["DST_NAME"], NAME)
    assert first.memory(offset, size)[64:] == items[:-1] + (b"\0" if sender == "3" else b"!") + b"hello\0\0\0"


def test_a_message_of_version_3_that_was_lent_moves_into_one_slice(world: World) -> None:
    """Its payload, which only the pool still has, moves with it."""
    waiting = activator(world, NAME)
    owner = world.connect(attach_flags_recv=0)
    owner.acquire(NAME)
    alice = world.connect(attach_flags_recv=0)
    alice.send(NAME, b"hello there")
    lend_and_take_back(world, alice, owner)
    owner.release(NAME)
    assert waiting.recv(flags=1).payload == b"hello there"


def test_a_waiting_call_comes_back_with_its_command(world: World, alice: FinalPeer, bob: FinalPeer) -> None:
    alice.send(bob.id, b"?", cookie=5, command_flags=1, flags=1, timeout_ns=world.clock.monotonic + SECOND)
    wait = alice.wait
    assert wait is not None and wait.command is not None
    command = wait.command
    returned = lend_and_take_back(world, alice, bob, waits={wait.reply: LentWait(wait, tuple(range(15)))})
    assert returned.waits[0].command == command
    assert len(command) == final.STRUCTS["kdbus_cmd_send"].size


def test_what_failed_to_be_read_is_no_hint(world: World, alice: FinalPeer, bob: FinalPeer) -> None:
    """Or what is repeated would be taken from the message before, of which other metadata were asked."""
    alice.send(bob.id, b"x")
    assert alice.connection.last_sent is not None
    with pytest.raises(KdbusError):
        alice.issue("SEND", flags=1 << 20)
    assert alice.connection.last_sent is None
    bob.recv()
    assert bob.connection.last_received is not None
    with pytest.raises(KdbusError):
        bob.issue("RECV", flags=1 << 20)
    assert bob.connection.last_received is None


def test_places_are_those_of_the_headers() -> None:
    """Written down by hand, from the headers of the three revisions."""
    assert layout(VERSION3) == {
        "whole": 0,
        "keeps_order": 0,
        "takes_half": 1,
        "shares_memory": 0,
        "writes_no_message": 0,
        "keeps_padding": 0,
        "writes_empty_reply": 0,
        "empty_is_pool_size": 0,
        "message_is_command": 0,
        "only_offsets": 0,
        "needs_all_files": 0,
        "timestamp_first": 0,
        "item_vector": 1,
        "item_offset": 2,
        "item_memfd": 3,
        "item_name": 9, "item_filter": 7,
        "item_timestamp": 0x1000,
        "send": 0xC0489530,
        "send_words": 9,
        "send_flags": 1,
        "send_kernel_flags": 2,
        "send_return_flags": 4,
        "send_address": 5,
        "send_reply": 6,
        "recv": 0xC0489531,
        "recv_words": 9,
        "recv_flags": 1,
        "recv_kernel_flags": 2,
        "recv_return_flags": 3,
        "recv_priority": 4,
        "recv_dropped": 5,
        "recv_message": 6,
        "free": 0x40289532,
        "free_words": 5,
        "free_flags": 2,
        "free_kernel_flags": 3,
        "free_return_flags": 4,
        "free_offset": 1,
    }
    assert layout(FINAL) == {
        "whole": 1,
        "keeps_order": 1,
        "takes_half": 0,
        "shares_memory": 1,
        "writes_no_message": 1,
        "keeps_padding": 1,
        "writes_empty_reply": 1,
        "empty_is_pool_size": 1,
        "message_is_command": 0,
        "only_offsets": 0,
        "needs_all_files": 0,
        "timestamp_first": 0,
        "item_vector": 2,
        "item_offset": 3,
        "item_memfd": 4,
        "item_name": 10, "item_filter": 8,
        "item_timestamp": 0x1000,
        "send": 0x40389590,
        "send_words": 7,
        "send_flags": 1,
        "send_kernel_flags": 0,
        "send_return_flags": 2,
        "send_address": 3,
        "send_reply": 4,
        "recv": 0x80409591,
        "recv_words": 8,
        "recv_flags": 1,
        "recv_kernel_flags": 0,
        "recv_return_flags": 2,
        "recv_priority": 3,
        "recv_dropped": 4,
        "recv_message": 5,
        "free": 0x40209583,
        "free_words": 4,
        "free_flags": 1,
        "free_kernel_flags": 0,
        "free_return_flags": 2,
        "free_offset": 3,
    }
    assert layout(VERSION2) == {
        "whole": 1,
        "keeps_order": 0,
        "takes_half": 1,
        "shares_memory": 0,
        "writes_no_message": 0,
        "keeps_padding": 0,
        "writes_empty_reply": 0,
        "empty_is_pool_size": 0,
        "message_is_command": 1,
        "only_offsets": 1,
        "needs_all_files": 1,
        "timestamp_first": 1,
        "item_vector": 1,
        "item_offset": 2,
        "item_memfd": 3,
        "item_name": 8, "item_filter": 6,
        "item_timestamp": 0x1000,
        "send": 0xC0489530,
        "send_words": 9,
        "send_flags": 1,
        "send_kernel_flags": 2,
        "send_return_flags": 0,
        "send_address": 0,
        "send_reply": 8,
        "recv": 0xC0209531,
        "recv_words": 4,
        "recv_flags": 0,
        "recv_kernel_flags": 1,
        "recv_return_flags": 0,
        "recv_priority": 2,
        "recv_dropped": 3,
        "recv_message": 3,
        "free": 0x40189533,
        "free_words": 3,
        "free_flags": 1,
        "free_kernel_flags": 2,
        "free_return_flags": 0,
        "free_offset": 0,
    }
