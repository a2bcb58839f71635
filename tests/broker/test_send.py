# SPDX-License-Identifier: GPL-2.0-or-later
"""SEND: where a message goes, and who may send it (reference: connection.c)."""

from __future__ import annotations

import errno

import pytest

from broker.errors import (
    BadItem,
    BadMessage,
    DescriptorsRefused,
    NameOwnerChanged,
    NoSuchConnection,
    NoSuchName,
    NotPermitted,
    OnlyActivator,
    QueueFull,
    ReplyNotExpected,
    TooManyRequests,
)
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from tests.support.world import (
    BROADCAST,
    FakeFile,
    Peer,
    World,
    bloom_filter_item,
    bloom_mask_item,
    cancel_item,
    descriptors_item,
    fails,
    item,
    vector_item,
    world_access,
)

EXPECT = abi.MESSAGE_EXPECT_REPLY


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> Peer:
    return world.connect()


@pytest.fixture
def bob(alice: Peer) -> Peer:
    return alice.world.connect()


# Destination


def test_by_id(alice: Peer, bob: Peer) -> None:
    alice.send(bob, b"hello", cookie=7, priority=3)
    received = bob.recv()
    assert (received["src_id"], received["dst_id"], received["cookie"], received["flags"]) == (alice.id, bob.id, 7, 0)
    assert (received["priority"], received["payload_type"], received.payload) == (3, 0x4442757344427573, b"hello")


def test_to_oneself(alice: Peer) -> None:
    alice.send(alice, b"me")
    assert alice.recv()["src_id"] == alice.id


def test_by_name_and_by_name_with_id(alice: Peer, bob: Peer) -> None:
    bob.acquire(b"com.example")
    alice.send(b"com.example", b"1")
    alice.send(b"com.example", b"2", dst_id=bob.id)
    first, second = bob.received()
    assert (first["dst_id"], second["dst_id"]) == (0, bob.id)
    assert first.item(abi.ITEM_DST_NAME) == b"com.example\0"


def test_an_unknown_id_is_enxio(alice: Peer) -> None:
    for number in (99, U64 - 1):
        with fails(NoSuchConnection, errno.ENXIO):
            alice.send(number)


def test_a_name_without_owner_is_esrch(alice: Peer, bob: Peer) -> None:
    for number in (0, bob.id, 99):
        with fails(NoSuchName, errno.ESRCH):
            alice.send(b"com.example", dst_id=number)


def test_a_name_of_another_owner_is_eremchg(alice: Peer, bob: Peer) -> None:
    bob.acquire(b"com.example")
    for number in (alice.id, 99):
        with fails(NameOwnerChanged, errno.EREMCHG):
            alice.send(b"com.example", dst_id=number)


def test_a_connection_that_is_gone_is_enxio(alice: Peer, bob: Peer) -> None:
    bob.acquire(b"com.example")
    bob.bye()
    with fails(NoSuchConnection, errno.ENXIO):
        alice.send(bob)
    with fails(NoSuchName, errno.ESRCH):
        alice.send(b"com.example")


def test_special_connections_have_no_address(world: World, alice: Peer) -> None:
    activator = world.activator(b"com.example")
    for peer in (activator, world.monitor(), world.policy_holder(b"com.other")):
        with fails(NoSuchConnection, errno.ENXIO):
            alice.send(peer)
    alice.send(b"com.example", dst_id=activator.id)
    assert len(activator.connection.queue) == 1


def test_no_auto_start_stops_at_an_activator(world: World, alice: Peer, bob: Peer) -> None:
    activator = world.activator(b"com.example")
    with fails(OnlyActivator, errno.EADDRNOTAVAIL):
        alice.send(b"com.example", flags=abi.MESSAGE_NO_AUTO_START)
    with fails(NameOwnerChanged, errno.EREMCHG):  # comes first
        alice.send(b"com.example", flags=abi.MESSAGE_NO_AUTO_START, dst_id=alice.id)
    assert len(activator.connection.queue) == 0
    bob.acquire(b"com.example")
    alice.send(b"com.example", flags=abi.MESSAGE_NO_AUTO_START)
    assert bob.recv()["flags"] == abi.MESSAGE_NO_AUTO_START


# Permission


def test_other_users_need_talk_access(world: World) -> None:
    service = world.connect(uid=1000)
    service.acquire(b"com.example")
    client = world.connect(uid=2000)
    for to in (service, b"com.example"):
        with fails(NotPermitted, errno.EPERM):
            client.send(to)
        with fails(NotPermitted, errno.EPERM):
            client.request(to, 1)
    world.policy_holder(b"com.example", world_access(abi.POLICY_TALK))
    client.send(service)
    client.request(b"com.example", 1)
    assert len(service.received()) == 2
    service.reply(client, 1)
    assert client.recv()["cookie_reply"] == 1


def test_permission_comes_before_the_limit_of_requests(world: World, alice: Peer) -> None:
    client = world.connect(uid=2000)
    client.connection.request_count = 128
    with fails(NotPermitted, errno.EPERM):
        client.request(alice, 1)


def test_a_reply_needs_to_be_expected(alice: Peer, bob: Peer) -> None:
    with fails(ReplyNotExpected, errno.EPERM):
        bob.reply(alice, 1)
    alice.request(bob, 1)
    for replier, requester, cookie in ((bob, alice, 2), (alice, bob, 1), (bob, bob, 1)):
        with fails(ReplyNotExpected, errno.EPERM):
            replier.reply(requester, cookie)
    bob.reply(alice, 1)
    with fails(ReplyNotExpected, errno.EPERM):
        bob.reply(alice, 1)


def test_a_reply_needs_no_talk_access(world: World) -> None:
    """Not from one who may not talk to the requester otherwise."""
    client = world.connect(uid=1000)
    service = world.connect(uid=2000)
    client.request(service, 1)
    with fails(NotPermitted, errno.EPERM):
        service.send(client)
    service.reply(client, 1)
    with fails(ReplyNotExpected, errno.EPERM):
        service.reply(client, 1)


def test_the_permission_to_reply_is_used_up_even_if_the_reply_cannot_be_queued(alice: Peer, bob: Peer) -> None:
    alice.request(bob, 1)
    for _ in range(32):
        bob.send(alice)
    with fails(QueueFull, errno.ENOBUFS):
        bob.reply(alice, 1)
    with fails(ReplyNotExpected, errno.EPERM):
        bob.reply(alice, 1)


def test_a_unicast_signal_needs_a_match(alice: Peer, bob: Peer) -> None:
    with fails(NotPermitted, errno.EPERM):
        alice.signal(bob, bits=[1])
    bob.match(bloom_mask_item((1,)))
    alice.signal(bob, b"x", bits=[1, 2])
    assert bob.recv().payload == b"x"
    with fails(NotPermitted, errno.EPERM):
        alice.signal(bob, bits=[2])


def test_a_unicast_signal_needs_the_receivers_talk_access_to_the_sender(world: World) -> None:
    alice, stranger = world.connect(uid=1000), world.connect(uid=2000)
    stranger.match()
    alice.match()
    with fails(NotPermitted, errno.EPERM):
        alice.signal(stranger)
    stranger.signal(alice)  # alice is privileged, and so may talk to anybody
    assert len(alice.received()) == 1


def test_a_signal_does_not_answer(alice: Peer, bob: Peer) -> None:
    """Its cookie_reply has no meaning: nothing is taken from those that are expected."""
    alice.request(bob, 1)
    alice.match()
    bob.send(alice, flags=abi.MESSAGE_SIGNAL, items=[bloom_filter_item()], cookie_reply=1)
    bob.reply(alice, 1)
    assert len(alice.received()) == 2


# Descriptors and pools


def test_a_receiver_may_refuse_descriptors(world: World, alice: Peer) -> None:
    deaf = world.connect(flags=0)
    file = FakeFile()
    number = alice.caller.open(file)
    with fails(DescriptorsRefused, errno.ECOMM):
        alice.send(deaf, b"x", items=[descriptors_item(number)])
    assert file.pinned == 0
    assert deaf.connection.pool.busy == 0
    alice.send(deaf, items=[descriptors_item()])


def test_the_command_takes_only_cancel_items(alice: Peer, bob: Peer) -> None:
    for bad in (item(0x7777), vector_item(0, 1)):
        with fails(BadItem, errno.EINVAL):
            alice.send(bob, command_items=[bad])
    with fails(BadMessage):  # the message comes first
        alice.send(BROADCAST, command_items=[item(0x7777)])
    assert len(bob.connection.queue) == 0


def test_a_cancel_descriptor_is_ignored_unless_synchronous(alice: Peer, bob: Peer) -> None:
    alice.send(bob, command_items=[cancel_item(-1), cancel_item(99)])
    assert len(bob.received()) == 1


def test_every_send_takes_a_sequence_number(world: World, alice: Peer, bob: Peer) -> None:
    before = world.domain.messages.next()
    with fails(NoSuchConnection):
        alice.send(99)
    with fails(BadItem):
        alice.send(bob, command_items=[item(0x7777)])
    alice.send(bob)
    assert world.domain.messages.next() == before + 3


def test_an_asynchronous_send_writes_only_return_flags(alice: Peer, bob: Peer) -> None:
    sent = alice.send(bob)
    assert sent.wait is None
    assert sent.command["kernel_flags"] == 1 | 1 << 63
    assert sent.command["kernel_msg_flags"] == 7 | 1 << 63
    assert sent.command.words("reply") == (0, 0, 0)


# Limits


def test_the_129th_request_is_emlink(alice: Peer) -> None:
    peers = [alice.world.connect() for _ in range(9)]
    for number in range(128):
        alice.request(peers[number // 16], number + 1)
    with fails(TooManyRequests, errno.EMLINK):
        alice.request(peers[8], 200)
    peers[0].recv()
    peers[0].reply(alice, 1)
    alice.request(peers[8], 200)


def test_a_failed_request_does_not_count(alice: Peer, bob: Peer) -> None:
    deaf = alice.world.connect(flags=0)
    for sync in (False, True):
        with fails(DescriptorsRefused):
            alice.send(
                deaf, flags=EXPECT, cookie=1, timeout_ns=U64 >> 1, sync=sync,
                items=[descriptors_item(alice.caller.open(FakeFile()))],
            )  # fmt: skip
    assert alice.connection.request_count == 0
    assert not alice.connection.replies
