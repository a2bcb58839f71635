# SPDX-License-Identifier: GPL-2.0-or-later
"""RECV: taking, peeking, dropping, and what is told when messages were lost (reference: connection.c, queue.c)."""

from __future__ import annotations

import errno
import struct

import pytest

from broker.errors import (
    BadAddress,
    BadItem,
    MessagesLost,
    NoMessage,
    NoMessageOfPriority,
    NoSuchSlice,
    PoolFull,
    SliceNotHandedOut,
)
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from tests.support.world import (
    SECOND,
    FakeFile,
    Peer,
    World,
    command_bytes,
    descriptors_item,
    fails,
    item,
    memfd,
    memfd_item,
    notices,
    vector_item,
)

PEEK, DROP, BY_PRIORITY = abi.RECV_PEEK, abi.RECV_DROP, abi.RECV_USE_PRIORITY


@pytest.fixture
def alice() -> Peer:
    return World().connect()


@pytest.fixture
def bob(alice: Peer) -> Peer:
    return alice.world.connect()


def lose(alice: Peer, bob: Peer, count: int) -> None:
    """Let bob lose so many broadcasts of alice; 32 messages then wait."""
    bob.match()
    for _ in range(32 - len(bob.connection.queue) + count):
        alice.signal()
    assert bob.connection.lost_count == count


def refuse_all_but(peer: Peer, allowed: int) -> None:
    """Let writes into the caller's memory fail, except at one address."""

    def refuse(address: int, _data: bytes) -> None:
        if address != allowed:
            raise BadAddress

    peer.caller.memory.before_write = refuse


def test_an_empty_queue_is_eagain(bob: Peer) -> None:
    for flags in (0, PEEK, DROP, BY_PRIORITY, PEEK | DROP | BY_PRIORITY):
        with fails(NoMessage, errno.EAGAIN):
            bob.recv(flags)


def test_the_results_are_written_back(alice: Peer, bob: Peer) -> None:
    alice.send(bob, b"x")
    outcome = bob.call("RECV", "kdbus_cmd_recv", dropped_msgs=9, return_flags=9, priority=5)
    assert (outcome["dropped_msgs"], outcome["return_flags"], outcome["priority"]) == (0, 0, 5)
    offset, size, flags = outcome.words("msg")
    assert (offset, size, flags) == (8, 96, 0)
    assert outcome["kernel_flags"] == 7 | 1 << 63


def test_what_stands_in_msg_before_does_not_matter(alice: Peer, bob: Peer) -> None:
    alice.send(bob)
    layout = abi.STRUCTS["kdbus_cmd_recv"]
    data = bytearray(command_bytes("kdbus_cmd_recv"))
    start, end = layout.span("msg")
    data[start:end] = b"\xff" * (end - start)
    result = bob.raw("RECV", bytes(data))
    assert struct.unpack("<3Q", result[start:end]) == (0, 64, 0)


def test_items_are_looked_at_only_for_their_form(alice: Peer, bob: Peer) -> None:
    alice.send(bob)
    with fails(BadItem, errno.EINVAL):
        bob.call("RECV", "kdbus_cmd_recv", [item(abi.ITEM_ID)])
    bob.call("RECV", "kdbus_cmd_recv", [item(0x7777, b"anything")])


def test_a_failure_writes_nothing_but_kernel_flags(bob: Peer) -> None:
    data = command_bytes("kdbus_cmd_recv", dropped_msgs=9, return_flags=9)
    address = bob.caller.memory.put(data)
    with fails(NoMessage):
        bob.ioctl("RECV", address)
    expected = command_bytes("kdbus_cmd_recv", dropped_msgs=9, return_flags=9, kernel_flags=7 | 1 << 63)
    assert bob.caller.memory.read(address, len(data)) == expected


def test_a_message_is_received_once(alice: Peer, bob: Peer) -> None:
    alice.send(bob, b"1")
    alice.send(bob, b"2")
    assert bob.events.log == ["queued", "queued"]
    assert [message.payload for message in bob.received()] == [b"1", b"2"]
    assert bob.events.log == ["queued", "queued", "drained"]
    with fails(NoMessage):
        bob.recv()


def test_by_priority(alice: Peer, bob: Peer) -> None:
    for cookie, priority in ((1, 10), (2, U64), (3, 10), (4, 0)):
        alice.send(bob, cookie=cookie, priority=priority)
    with fails(NoMessageOfPriority, errno.ENOMSG):
        bob.recv(BY_PRIORITY, priority=-2)
    order = [bob.recv(BY_PRIORITY, priority=10)["cookie"] for _ in range(3)]
    assert order == [2, 4, 1]
    assert bob.recv()["cookie"] == 3


def test_without_the_flag_priority_means_nothing(alice: Peer, bob: Peer) -> None:
    alice.send(bob, cookie=1, priority=10)
    assert bob.recv(priority=-5)["cookie"] == 1


# Freeing


def test_freeing_gives_everything_back_once(alice: Peer, bob: Peer) -> None:
    alice.send(bob, b"x" * 100)
    received = bob.recv(free=False)
    assert bob.connection.pool.busy == 104 + received.size
    for wrong in (received.offset + 8, received.offset - 8, U64):
        with fails(NoSuchSlice, errno.ENXIO):
            bob.free(wrong)
    with fails(SliceNotHandedOut, errno.ENXIO):
        bob.free(0)
    bob.free(received.offset)
    assert bob.connection.pool.busy == 0
    with fails(NoSuchSlice, errno.ENXIO):
        bob.free(received.offset)


def test_a_waiting_message_cannot_be_freed(alice: Peer, bob: Peer) -> None:
    alice.send(bob, b"x" * 100)
    with fails(SliceNotHandedOut, errno.ENXIO):
        bob.free(0)
    assert bob.recv().payload == b"x" * 100


# Peeking


def test_a_peek_leaves_the_message_and_makes_a_slice_of_its_own(alice: Peer, bob: Peer) -> None:
    """Each slice is freed by itself; in the original, peeked ones stayed for good."""
    alice.send(bob, b"payload")
    first, second = bob.recv(PEEK, free=False), bob.recv(PEEK, free=False)
    assert first.offset != second.offset
    assert first.raw == second.raw
    bob.free(first.offset)
    taken = bob.recv(free=False)
    bob.free(second.offset)
    assert bob.parse(taken.offset, taken.size).payload == b"payload"
    bob.free(taken.offset)
    assert bob.connection.pool.busy == 0
    assert bob.events.log == ["queued", "drained"]


def test_a_peeked_slice_outlives_a_drop(alice: Peer, bob: Peer) -> None:
    alice.send(bob, b"payload")
    peeked = bob.recv(PEEK, free=False)
    bob.drop()
    assert bob.parse(peeked.offset, peeked.size).payload == b"payload"
    bob.free(peeked.offset)
    assert bob.connection.pool.busy == 0


def test_a_peek_installs_no_descriptors(alice: Peer, bob: Peer) -> None:
    file, sealed = FakeFile(), memfd(8)
    alice.send(
        bob, items=[memfd_item(alice.caller.open(sealed), 8), descriptors_item(*[alice.caller.open(file)] * 2)]
    )  # fmt: skip
    peeked = bob.recv(PEEK)
    assert peeked.return_flags == 0
    assert peeked.descriptors() == [-1, -1]
    assert peeked.item(abi.ITEM_PAYLOAD_MEMFD) == struct.pack("<QQiI", 0, 8, -1, 0)
    assert bob.caller.descriptors == {}
    taken = bob.recv()
    assert taken.descriptors() == [1, 2]


def test_a_peek_by_priority(alice: Peer, bob: Peer) -> None:
    alice.send(bob, cookie=1, priority=2)
    alice.send(bob, cookie=2, priority=1)
    assert bob.recv(PEEK)["cookie"] == 1
    assert bob.recv(PEEK | BY_PRIORITY, priority=2)["cookie"] == 2
    with fails(NoMessageOfPriority, errno.ENOMSG):
        bob.recv(PEEK | BY_PRIORITY, priority=0)


# Dropping


def test_a_drop_frees_everything_and_closes_files(alice: Peer, bob: Peer) -> None:
    """In the original the payload stayed in the pool."""
    file = FakeFile()
    alice.send(bob, b"x" * 100, items=[descriptors_item(alice.caller.open(file))])
    outcome = bob.call("RECV", "kdbus_cmd_recv", flags=DROP, dropped_msgs=9)
    assert outcome.words("msg") == (0, 0, 0)
    assert outcome["dropped_msgs"] == 0
    assert (file.pinned, bob.connection.pool.busy, bob.caller.descriptors) == (0, 0, {})
    assert bob.events.log == ["queued", "drained"]


def test_a_drop_with_peek_drops(alice: Peer, bob: Peer) -> None:
    alice.send(bob)
    assert bob.call("RECV", "kdbus_cmd_recv", flags=DROP | PEEK).words("msg") == (0, 0, 0)
    assert len(bob.connection.queue) == 0


def test_dropping_a_request_tells_the_requester_at_once(alice: Peer, bob: Peer) -> None:
    alice.request(bob, 77)
    bob.drop()
    assert notices(alice) == [(abi.ITEM_REPLY_DEAD, 77)]
    assert alice.connection.request_count == 0
    alice.world.expire(SECOND)
    assert notices(alice) == []


def test_dropping_a_request_that_is_over_tells_nobody(alice: Peer, bob: Peer) -> None:
    alice.request(bob, 77)
    bob.reply(alice, 77)
    alice.recv()
    bob.drop()
    assert notices(alice) == []
    assert alice.connection.request_count == 0


def test_dropping_the_most_urgent(alice: Peer, bob: Peer) -> None:
    alice.send(bob, cookie=1, priority=2)
    alice.send(bob, cookie=2, priority=1)
    bob.call("RECV", "kdbus_cmd_recv", flags=DROP | BY_PRIORITY, priority=2)
    assert [message["cookie"] for message in bob.received()] == [1]


# Lost broadcasts


def test_lost_broadcasts_are_told_once_instead_of_a_message(alice: Peer, bob: Peer) -> None:
    lose(alice, bob, 3)
    address = bob.caller.memory.put(command_bytes("kdbus_cmd_recv", return_flags=9))
    with fails(MessagesLost, errno.EOVERFLOW):
        bob.ioctl("RECV", address)
    layout = abi.STRUCTS["kdbus_cmd_recv"]
    data = bob.caller.memory.read(address, layout.size)
    assert (layout.get(data, "dropped_msgs"), layout.get(data, "return_flags")) == (3, 0)
    assert data[48:] == bytes(24)
    assert len(bob.received()) == 32


def test_a_peek_is_told_too(alice: Peer, bob: Peer) -> None:
    lose(alice, bob, 1)
    with fails(MessagesLost):
        bob.recv(PEEK)
    bob.recv(PEEK)


def test_a_drop_comes_before_the_report(alice: Peer, bob: Peer) -> None:
    lose(alice, bob, 2)
    bob.drop()
    assert bob.connection.lost_count == 2
    with fails(MessagesLost):
        bob.recv()


def test_an_empty_queue_comes_before_the_report(alice: Peer, bob: Peer) -> None:
    lose(alice, bob, 2)
    for _ in range(32):
        bob.drop()
    with fails(NoMessage, errno.EAGAIN):
        bob.recv()
    alice.send(bob, cookie=5)
    with fails(NoMessageOfPriority, errno.ENOMSG):
        bob.recv(BY_PRIORITY, priority=-1)
    with fails(MessagesLost, errno.EOVERFLOW):
        bob.recv()
    assert bob.recv()["cookie"] == 5


def test_the_report_is_lost_if_it_cannot_be_written(alice: Peer, bob: Peer) -> None:
    lose(alice, bob, 2)
    address = bob.caller.memory.put(command_bytes("kdbus_cmd_recv"))
    refuse_all_but(bob, address + 16)
    with fails(BadAddress, errno.EFAULT):
        bob.ioctl("RECV", address)
    assert bob.connection.lost_count == 0


# What cannot be taken


def test_a_full_pool_is_enobufs_and_the_message_waits(alice: Peer) -> None:
    bob = alice.world.connect(pool_size=4096)
    file = FakeFile()
    for size in (2048, 1024, 512, 256, 128):
        alice.send(bob, bytes(size))
    alice.send(bob, b"x" * 64, items=[descriptors_item(alice.caller.open(file))])
    for flags in (0, PEEK):
        with fails(PoolFull, errno.ENOBUFS):
            bob.recv(flags | BY_PRIORITY)
    assert bob.caller.descriptors == {}, "none was installed for a message that was not received"
    assert len(bob.connection.queue) == 6
    bob.drop()
    assert len(bob.received()) == 5
    assert file.pinned == 0
    assert bob.connection.pool.busy == 0


def test_descriptors_that_cannot_be_installed_are_told(alice: Peer, bob: Peer) -> None:
    """Their numbers are the negative errno, and what could be installed is there."""
    sealed, files = memfd(8), [FakeFile(), FakeFile(), FakeFile()]
    items = [memfd_item(alice.caller.open(sealed), 8)]
    items.append(descriptors_item(*[alice.caller.open(file) for file in files]))
    alice.send(bob, items=items)
    bob.caller.descriptor_limit = 2
    received = bob.recv()
    assert received.return_flags == abi.RECV_RETURN_INCOMPLETE_FDS
    assert received.item(abi.ITEM_PAYLOAD_MEMFD) == struct.pack("<QQiI", 0, 8, 0, 0)
    assert received.descriptors() == [1, -errno.EMFILE, -errno.EMFILE]
    assert [file.pinned for file in files] == [0, 0, 0]


def test_a_memfd_that_cannot_be_installed_is_told(alice: Peer, bob: Peer) -> None:
    alice.send(bob, items=[memfd_item(alice.caller.open(memfd(8)), 8)])
    bob.caller.descriptor_limit = 0
    received = bob.recv()
    assert received.return_flags == abi.RECV_RETURN_INCOMPLETE_FDS
    assert received.item(abi.ITEM_PAYLOAD_MEMFD) == struct.pack("<QQiI", 0, 8, -errno.EMFILE, 0)


def test_a_result_that_cannot_be_written_loses_the_message(alice: Peer, bob: Peer) -> None:
    """As in the original, the message has left the queue by then."""
    alice.send(bob, b"payload")
    address = bob.caller.memory.put(command_bytes("kdbus_cmd_recv"))
    refuse_all_but(bob, address + 16)
    with fails(BadAddress, errno.EFAULT):
        bob.ioctl("RECV", address)
    assert len(bob.connection.queue) == 0
    assert not bob.events.readable


# By whom


def test_monitors_and_activators_receive(alice: Peer) -> None:
    monitor = alice.world.monitor()
    activator = alice.world.activator(b"com.example")
    alice.send(b"com.example", b"x")
    assert activator.recv().payload == b"x"
    assert monitor.received()[-1].payload == b"x"


def test_another_thread_receives_descriptors_and_metadata_for_itself(alice: Peer, bob: Peer) -> None:
    bob.update(item(abi.ITEM_ATTACH_FLAGS_RECV, struct.pack("<Q", abi.ATTACH_PIDS)))
    file = FakeFile()
    alice.send(bob, items=[descriptors_item(alice.caller.open(file))])
    other = alice.world.caller()
    other.ids.pid_namespace = 99
    received = bob.recv(caller=other)
    assert other.descriptors[received.descriptors()[0]] is file
    assert bob.caller.descriptors == {}
    assert received.item(abi.ITEM_PIDS) == bytes(24)


def test_metadata_are_masked_when_received(alice: Peer, bob: Peer) -> None:
    """By the flags that the receiver has then, and by the module parameter as it is then."""
    alice.world.attach_flags_mask = abi.ATTACH_ALL
    bob.update(item(abi.ITEM_ATTACH_FLAGS_RECV, struct.pack("<Q", abi.ATTACH_PIDS | abi.ATTACH_CREDS)))
    for _ in range(3):
        alice.send(bob)
    assert bob.recv().types == [abi.ITEM_CREDS, abi.ITEM_PIDS]
    alice.world.attach_flags_mask = abi.ATTACH_PIDS
    assert bob.recv().types == [abi.ITEM_PIDS]
    bob.update(item(abi.ITEM_ATTACH_FLAGS_RECV, struct.pack("<Q", 0)))
    assert bob.recv().types == []


def test_two_vectors_of_zeros_have_no_place(alice: Peer, bob: Peer) -> None:
    alice.send(bob, items=[vector_item(0, 8), vector_item(0, 16)])
    received = bob.recv(free=False)
    assert received.size == 128
    assert bob.connection.pool.busy == 128
