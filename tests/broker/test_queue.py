# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue: order of arrival, order of priority, and the bytes of a received message (reference: queue.c)."""

from __future__ import annotations

import errno
import struct

from hypothesis import given
from hypothesis import strategies as st

from broker.errors import NoMessage, NoMessageOfPriority
from broker.message import Message
from broker.queue import Queue, QueueEntry
from broker.version3 import VERSION3
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from tests.support.world import FakeFile, World, descriptors_item, fails, memfd, memfd_item, vector_item

LOWEST = -(1 << 63)


def entry(priority: int = 0) -> QueueEntry:
    message = Message(1, 2, 3)
    message.priority = priority
    return QueueEntry(message, None, VERSION3)


def test_an_empty_queue_is_eagain() -> None:
    for priority in (None, 0, LOWEST):
        with fails(NoMessage, errno.EAGAIN):
            Queue().peek(priority)


def test_messages_leave_in_order_of_arrival() -> None:
    queue, entries = Queue(), [entry(priority) for priority in (3, 1, 2)]
    for current in entries:
        queue.add(current)
    assert queue.entries() == entries
    for current in entries:
        assert queue.peek(None) is current
        queue.remove(current)
    assert len(queue) == 0


def test_all_leave_together_in_order_of_arrival() -> None:
    queue = Queue()
    entries = [entry(priority) for priority in (3, -1, 2)]
    for each in entries:
        queue.add(each)
    assert queue.take_all() == entries
    assert not len(queue) and queue.take_all() == []
    queue.add(entries[0])
    assert queue.peek(None) is queue.peek(3) is entries[0]


def test_by_priority_the_lowest_number_comes_first_and_then_the_oldest() -> None:
    queue = Queue()
    entries = [entry(priority) for priority in (5, -1, 5, -1, LOWEST)]
    for current in entries:
        queue.add(current)
    found = []
    while len(queue):
        found.append(queue.peek(100))
        queue.remove(found[-1])
    assert found == [entries[index] for index in (4, 1, 3, 0, 2)]


def test_nothing_urgent_enough_is_enomsg() -> None:
    queue = Queue()
    queue.add(entry(1))
    with fails(NoMessageOfPriority, errno.ENOMSG):
        queue.peek(0)
    assert queue.peek(1) is queue.peek(None)


@given(st.lists(st.one_of(st.integers(-3, 3), st.none(), st.just("first")), max_size=80))
def test_both_orders_agree_with_sorting(steps: list[int | str | None]) -> None:
    queue = Queue()
    model: list[QueueEntry] = []
    for step in steps:
        if isinstance(step, int):
            model.append(entry(step))
            queue.add(model[-1])
        elif model:
            urgent = min(model, key=lambda current: current.message.priority)
            chosen = urgent if step == "first" else model[0]
            assert queue.peek(1 << 62 if step == "first" else None) is chosen
            queue.remove(chosen)
            model.remove(chosen)
        assert queue.entries() == model
        assert len(queue) == len(model)


def test_the_order_of_items_is_name_payload_descriptors_metadata() -> None:
    world = World()
    alice, bob = world.connect(), world.connect(attach_flags_recv=abi.ATTACH_CREDS | abi.ATTACH_TIMESTAMP)
    bob.acquire(b"com.example")
    memory = alice.caller.memory.put(b"abcdefgh")
    items = [
        descriptors_item(alice.caller.open(FakeFile())),
        memfd_item(alice.caller.open(memfd(16)), 16),
        vector_item(memory, 8),
    ]
    alice.send(b"com.example", items=items)
    assert bob.recv().types == [
        abi.ITEM_DST_NAME,
        abi.ITEM_PAYLOAD_MEMFD,
        abi.ITEM_PAYLOAD_OFF,
        abi.ITEM_FDS,
        abi.ITEM_CREDS,
        abi.ITEM_TIMESTAMP,
    ]


def test_a_message_byte_for_byte() -> None:
    """Header, name padded with zeros, a vector that is stored and one of zeros that is not."""
    world = World()
    alice, bob = world.connect(), world.connect()
    bob.acquire(b"a.b")
    memory = alice.caller.memory.put(b"0123456789")
    alice.send(
        b"a.b", items=[vector_item(memory, 10), vector_item(0, 19), vector_item(memory, 1)],
        priority=U64, cookie=0x1234,
    )  # fmt: skip
    received = bob.recv(free=False)
    base = 0  # the payload's slice came first: 10 bytes, 3 zeros, 1 byte
    expected = struct.pack("<8Q", 200, 0, U64, 0, alice.id, 0x4442757344427573, 0x1234, 0)
    expected += struct.pack("<QQ", 20, abi.ITEM_DST_NAME) + b"a.b\0" + bytes(4)
    expected += struct.pack("<4Q", 32, abi.ITEM_PAYLOAD_OFF, 10, base)
    expected += struct.pack("<4Q", 32, abi.ITEM_PAYLOAD_OFF, 19, U64)
    expected += struct.pack("<4Q", 32, abi.ITEM_PAYLOAD_OFF, 1, base + 13)
    expected = struct.pack("<Q", len(expected)) + expected[8:]
    assert received.raw == expected
    assert (received.offset, received.size) == (16, len(expected))
    assert bob.memory.read(base, 16) == b"0123456789\0\0\0000\0\0"


def test_memfds_and_descriptors_byte_for_byte() -> None:
    """A memfd of uneven size is followed by padding in the pool, so that what follows keeps its alignment."""
    world = World()
    alice, bob = world.connect(), world.connect()
    memory = alice.caller.memory.put(b"abc")
    first, second = alice.caller.open(memfd(100)), alice.caller.open(FakeFile())
    alice.send(bob, items=[memfd_item(first, 21, start=7), vector_item(memory, 3), descriptors_item(second, second)])
    received = bob.recv(free=False)
    assert received.item(abi.ITEM_PAYLOAD_MEMFD) == struct.pack("<QQiI", 7, 21, 0, 0)
    assert received.item(abi.ITEM_PAYLOAD_OFF) == struct.pack("<QQ", 3, 5)
    assert received.item(abi.ITEM_FDS) == struct.pack("<2i", 1, 2)
    assert bob.memory.read(0, 8) == bytes(5) + b"abc"


def test_a_message_without_payload_takes_one_slice() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    alice.send(bob, items=[vector_item(0, 64)])
    assert bob.connection.pool.busy == 0
    received = bob.recv(free=False)
    assert received.items == [(abi.ITEM_PAYLOAD_OFF, struct.pack("<QQ", 64, U64))]
    assert bob.connection.pool.busy == received.size == 96
