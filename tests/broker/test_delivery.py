# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery: what a receiver can take, broadcasts, and monitors (reference: connection.c, bus.c)."""

from __future__ import annotations

import errno

import pytest

from broker.errors import (
    BadAddress,
    CallerGone,
    DescriptorsRefused,
    NoSuchName,
    NotPermitted,
    PoolFull,
    PoolShareExceeded,
    QueueFull,
)
from kdbus.abi import revision3 as abi
from tests.support.world import (
    BROADCAST,
    FakeFile,
    Peer,
    World,
    bloom_filter_item,
    bloom_mask_item,
    charged,
    descriptors_item,
    fails,
    memfd,
    memfd_item,
    notices,
    vector_item,
    words_item,
    world_access,
)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> Peer:
    return world.connect()


# The pool


@pytest.mark.parametrize(
    ("size", "error", "number"),
    [(2048, None, 0), (2049, PoolShareExceeded, errno.EXFULL), (4095, PoolShareExceeded, errno.EXFULL)],
)
def test_a_message_takes_at_most_half_of_what_is_free(
    world: World, alice: Peer, size: int, error: type[PoolShareExceeded] | None, number: int
) -> None:
    bob = world.connect(pool_size=4096)
    if error is None:
        alice.send(bob, bytes(size))
        return
    with fails(error, number):
        alice.send(bob, bytes(size))
    assert bob.connection.pool.busy == 0


def test_a_message_of_just_what_is_free_is_taken(world: World, alice: Peer) -> None:
    """The rule of the half is for sizes between half and all of what is free."""
    bob = world.connect(pool_size=4096)
    alice.send(bob, bytes(4096))
    assert bob.connection.pool.remaining == 0


def test_a_message_larger_than_what_is_free_is_enobufs(world: World, alice: Peer) -> None:
    bob = world.connect(pool_size=4096)
    with fails(PoolFull, errno.ENOBUFS):
        alice.send(bob, bytes(4097))


def test_the_half_counts_free_bytes_in_all_pieces(world: World, alice: Peer) -> None:
    bob = world.connect(pool_size=4096)
    alice.send(bob, bytes(1024))
    with fails(PoolShareExceeded, errno.EXFULL):
        alice.send(bob, bytes(1537))
    alice.send(bob, bytes(1536))


def test_a_message_without_payload_needs_no_pool_until_it_is_received(world: World, alice: Peer) -> None:
    bob = world.connect(pool_size=4096)
    alice.send(bob, bytes(4096))
    alice.send(bob)
    with fails(PoolFull, errno.ENOBUFS):
        bob.recv()
    bob.drop()
    bob.recv()


def test_descriptors_are_refused_before_the_pool_is_looked_at(world: World, alice: Peer) -> None:
    deaf = world.connect(flags=0, pool_size=4096)
    with fails(DescriptorsRefused, errno.ECOMM):
        alice.send(deaf, bytes(3000), items=[descriptors_item(alice.caller.open(FakeFile()))])


def test_memfds_are_taken_by_those_who_refuse_descriptors(world: World, alice: Peer) -> None:
    deaf = world.connect(flags=0)
    alice.send(deaf, items=[memfd_item(alice.caller.open(memfd(8)), 8)])
    assert deaf.recv().types == [abi.ITEM_PAYLOAD_MEMFD]


def test_the_users_share_is_looked_at_last(world: World, alice: Peer) -> None:
    deaf = world.connect(flags=0, pool_size=4096)
    number = alice.caller.open(FakeFile())
    for _ in range(32):
        alice.send(deaf)
    with fails(DescriptorsRefused, errno.ECOMM):
        alice.send(deaf, items=[descriptors_item(number)])
    with fails(PoolShareExceeded, errno.EXFULL):
        alice.send(deaf, bytes(3000))
    with fails(BadAddress, errno.EFAULT):
        alice.send(deaf, items=[vector_item(1, 1)])
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(deaf)


def test_a_full_queue_is_told_before_anything_else(world: World, alice: Peer) -> None:
    deaf = world.connect(flags=0)
    deaf.match()
    for _ in range(128):
        world.connect().bye()
    assert len(deaf.connection.queue) == 256
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(deaf, items=[descriptors_item(alice.caller.open(FakeFile())), vector_item(1, 1)])


# Broadcasts


def test_a_broadcast_reaches_those_whose_match_fits(world: World, alice: Peer) -> None:
    both, one, other, none = (world.connect() for _ in range(4))
    both.match()
    one.match(bloom_mask_item((1,)))
    other.match(bloom_mask_item((2,)))
    alice.signal(bits=[1], payload=b"x")
    assert [len(peer.received()) for peer in (both, one, other, none, alice)] == [1, 1, 0, 0, 0]


def test_a_broadcast_is_one_message_with_one_number_for_all(world: World, alice: Peer) -> None:
    peers = [world.connect(attach_flags_recv=abi.ATTACH_TIMESTAMP) for _ in range(2)]
    for peer in peers:
        peer.match()
    alice.signal(payload=b"x")
    first, second = (peer.recv() for peer in peers)
    assert first.item(abi.ITEM_TIMESTAMP) == second.item(abi.ITEM_TIMESTAMP)
    assert first["dst_id"] == BROADCAST


def test_nobody_gets_ones_own_broadcast(alice: Peer) -> None:
    alice.match()
    alice.signal()
    assert not alice.events.readable


def test_several_matches_that_fit_deliver_once(world: World, alice: Peer) -> None:
    bob = world.connect()
    bob.match()
    bob.match(cookie=1)
    alice.signal()
    assert len(bob.received()) == 1


def test_a_receiver_needs_talk_access_to_the_sender(world: World, alice: Peer) -> None:
    stranger = world.connect(uid=2000)
    stranger.match(words_item(abi.ITEM_ID, alice.id))
    alice.signal()
    assert notices(stranger) == []
    alice.acquire(b"com.example")
    world.policy_holder(b"com.example", world_access(abi.POLICY_TALK))
    alice.signal()
    assert notices(stranger) == [(0, alice.id)]


def test_anybody_may_send_broadcasts(world: World, alice: Peer) -> None:
    stranger = world.connect(uid=2000)
    alice.match(words_item(abi.ITEM_ID, stranger.id))
    stranger.signal()
    assert notices(alice) == [(0, stranger.id)]


def test_a_broadcast_never_fails_and_losses_are_counted(world: World, alice: Peer) -> None:
    full, small, fine = world.connect(), world.connect(pool_size=4096), world.connect()
    for _ in range(32):
        alice.send(full)
    for peer in (full, small, fine):
        peer.match()
    alice.signal(payload=bytes(5000))
    assert [peer.connection.lost_count for peer in (full, small, fine)] == [1, 1, 0]
    assert len(fine.received()) == 1


def test_a_broadcast_of_unreadable_memory_is_lost_and_succeeds(world: World, alice: Peer) -> None:
    bob = world.connect()
    bob.match()
    alice.send(BROADCAST, flags=abi.MESSAGE_SIGNAL, items=[bloom_filter_item(), vector_item(1, 8)])
    assert bob.connection.lost_count == 1
    assert bob.connection.pool.busy == 0


def test_a_broadcast_is_read_once_and_all_get_the_same(world: World, alice: Peer) -> None:
    """Whatever other threads of the sender do to it meanwhile; and the first receiver's memory tells nothing else."""
    listeners = [world.connect() for _ in range(3)]
    for peer in listeners:
        peer.match()
        peer.connection.pool.memory.write(0, b"x" * 64 if peer is listeners[0] else b"y" * 64)
    busy = [peer.connection.pool.busy for peer in listeners]
    before = alice.caller.copies
    alice.signal(payload=b"abc")
    assert alice.caller.copies == before + 1
    places = [entry.payload for peer in listeners for entry in peer.connection.queue.entries()]
    assert [place and place.holders for place in places] == [1, 1, 1]
    for peer, place, stale in zip(listeners, places, b"xyy", strict=True):
        assert place is not None
        assert peer.connection.pool.memory.read(place.offset, 8) == b"abc" + bytes([stale]) * 5
        assert [message.payload for message in peer.received()] == [b"abc"]
    assert [peer.connection.pool.busy for peer in listeners] == busy


def test_the_first_receiver_of_a_broadcast_may_have_no_room(world: World, alice: Peer) -> None:
    """It is read for the next one then; and what is taken back keeps no room."""
    full, busy, listener = world.connect(), world.connect(), world.connect()
    for peer in (full, busy, listener):
        peer.match()
    full.connection.pool.allocate(full.connection.pool.remaining)
    for _ in range(32):
        alice.send(busy)
    taken = busy.connection.pool.busy
    alice.signal(payload=b"abc")
    assert [peer.connection.lost_count for peer in (full, busy, listener)] == [1, 1, 0]
    assert busy.connection.pool.busy == taken
    assert [message.payload for message in listener.received()] == [b"abc"]


def test_a_broadcast_carries_memfds_to_all(world: World, alice: Peer) -> None:
    peers = [world.connect(), world.connect()]
    for peer in peers:
        peer.match()
    file = memfd(8)
    number = alice.caller.open(file)
    alice.send(BROADCAST, flags=abi.MESSAGE_SIGNAL, items=[bloom_filter_item(), memfd_item(number, 8)])
    assert file.pinned == 1, "one reference for all"
    peers[0].recv()
    assert file.pinned == 1
    peers[1].drop()
    assert file.pinned == 0
    assert peers[0].caller.descriptors[0] is file


def test_a_broadcast_to_nobody_lets_its_files_go(alice: Peer) -> None:
    file = memfd(8)
    number = alice.caller.open(file)
    alice.send(BROADCAST, flags=abi.MESSAGE_SIGNAL, items=[bloom_filter_item(), memfd_item(number, 8)])
    assert file.pinned == 0


def test_special_connections_get_no_broadcasts(world: World, alice: Peer) -> None:
    activator = world.activator(b"com.example")
    alice.signal()
    assert not activator.events.readable


# Monitors


def test_a_monitor_sees_everything_before_the_receiver(world: World, alice: Peer) -> None:
    bob, monitor = world.connect(), world.monitor()
    alice.send(bob, b"x", cookie=1)
    alice.signal(payload=b"y")
    bob.acquire(b"com.example")
    seen = monitor.received()
    assert [(message["src_id"], message["dst_id"]) for message in seen] == [
        (alice.id, bob.id),
        (alice.id, BROADCAST),
        (0, BROADCAST),
    ]
    assert [message.payload for message in seen] == [b"x", b"y", b""]


def test_a_monitor_sees_requests_replies_and_notifications(world: World, alice: Peer) -> None:
    bob, monitor = world.connect(), world.monitor()
    sync = alice.request(bob, 1, sync=True)
    bob.reply(alice, 1)
    sync.finish()
    alice.request(bob, 2)
    bob.close()
    assert [(message["src_id"], message["dst_id"]) for message in monitor.received()] == [
        (alice.id, bob.id),
        (bob.id, alice.id),
        (alice.id, bob.id),
        *[(0, alice.id)] * 3,  # of the first request, read by nobody, and of the second twice
        (0, BROADCAST),
    ]


def test_a_monitor_sees_what_the_receiver_cannot_take_but_not_what_is_forbidden(world: World, alice: Peer) -> None:
    deaf, monitor = world.connect(flags=0), world.monitor()
    stranger = world.connect(uid=2000)
    monitor.received()
    number = alice.caller.open(FakeFile())
    with fails(DescriptorsRefused):
        alice.send(deaf, items=[descriptors_item(number)])
    with fails(NotPermitted):
        stranger.send(alice)
    with fails(NoSuchName):
        alice.send(b"com.example")
    assert notices(monitor) == [(0, alice.id)]


def test_a_monitor_gets_the_metadata_that_it_asks_for(world: World, alice: Peer) -> None:
    bob, monitor = world.connect(), world.monitor(attach_flags_recv=abi.ATTACH_PIDS)
    alice.send(bob)
    assert monitor.recv().types == [abi.ITEM_PIDS]
    assert bob.recv().types == []


def test_metadata_collected_for_one_are_there_for_the_next_who_asks(world: World, alice: Peer) -> None:
    """The flags of the time of receiving decide: what was collected for the monitor is there for the receiver."""
    bob, _ = world.connect(), world.monitor(attach_flags_recv=abi.ATTACH_PIDS)
    alice.send(bob)
    bob.update(words_item(abi.ITEM_ATTACH_FLAGS_RECV, abi.ATTACH_PIDS | abi.ATTACH_CREDS))
    assert bob.recv().types == [abi.ITEM_PIDS]


def test_what_a_monitor_cannot_take_is_counted(world: World, alice: Peer) -> None:
    bob, monitor = world.connect(), world.monitor()
    for _ in range(33):
        alice.send(bob)
        bob.recv()
    assert len(monitor.connection.queue) == 32
    assert monitor.connection.lost_count == 1


def test_a_monitor_keeps_files_until_it_has_read(world: World, alice: Peer) -> None:
    bob, monitor = world.connect(), world.monitor()
    file = FakeFile()
    alice.send(bob, items=[descriptors_item(alice.caller.open(file))])
    bob.recv()
    assert file.pinned == 1
    assert monitor.caller.descriptors[monitor.recv().descriptors()[0]] is file
    assert file.pinned == 0


# Notifications


def test_notifications_are_counted_as_lost_only_when_broadcast(world: World, alice: Peer) -> None:
    bob = world.connect()
    for number in range(3):
        alice.request(bob, number + 1)
    alice.match()
    for _ in range(128):
        world.connect().bye()
    assert len(alice.connection.queue) == 256
    world.connect()
    assert alice.connection.lost_count == 1
    bob.close()  # three requests nobody answers, each told twice, and one that bob went
    assert alice.connection.lost_count == 2


def test_notifications_are_charged_to_nobody(world: World, alice: Peer) -> None:
    alice.match()
    for _ in range(20):
        world.connect().bye()
    assert len(alice.connection.queue) == 40
    assert charged(alice.connection) == {}


@pytest.mark.parametrize("to_all", [False, True])
def test_what_a_killed_sender_has_not_sent_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, world: World, alice: Peer, to_all: bool
) -> None:
    listener, monitor = world.connect(), world.monitor()
    listener.match()
    if to_all:
        monitor.close()

    def vanish(*_: object) -> None:
        raise CallerGone

    monkeypatch.setattr(alice.caller, "copy", vanish)
    with fails(CallerGone):
        alice.signal(BROADCAST if to_all else listener, b"x")
    assert [peer.connection.lost_count for peer in (listener, monitor)] == [0, 0]
    assert len(listener.connection.queue) == 0
