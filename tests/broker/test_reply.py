# SPDX-License-Identifier: GPL-2.0-or-later
"""Expected replies: how they come about, how they end, and how long they count (reference: reply.c)."""

from __future__ import annotations

import errno

import pytest

from broker.errors import NoSuchConnection, ReplyNotExpected, TooManyRequests
from broker.reply import Deadlines
from kdbus.abi import revision3 as abi
from tests.support.world import SECOND, Peer, World, fails, notices

DEAD, TIMEOUT = abi.ITEM_REPLY_DEAD, abi.ITEM_REPLY_TIMEOUT


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> Peer:
    return world.connect()


@pytest.fixture
def bob(alice: Peer) -> Peer:
    return alice.world.connect()


def test_a_request_and_its_reply(world: World, alice: Peer, bob: Peer) -> None:
    alice.request(bob, 5)
    request = bob.recv()
    assert (request["flags"], request["cookie"]) == (abi.MESSAGE_EXPECT_REPLY, 5)
    assert request["timeout_ns"] == world.clock.monotonic + SECOND
    bob.reply(alice, 5, b"answer")
    reply = alice.recv()
    assert (reply["cookie_reply"], reply.payload) == (5, b"answer")
    assert (alice.connection.replies, bob.connection.owed) == ([], set())


def test_a_timeout_is_told_with_the_cookie(world: World, alice: Peer, bob: Peer) -> None:
    alice.request(bob, 5, timeout=SECOND)
    world.expire(SECOND - 1)
    assert notices(alice) == []
    world.expire(1)
    message = alice.recv()
    assert message.items == [(TIMEOUT, b"")]
    assert (message["src_id"], message["dst_id"], message["cookie_reply"]) == (0, alice.id, 5)
    assert (message["payload_type"], message["cookie"], message["size"]) == (0, 0, 80)
    with fails(ReplyNotExpected, errno.EPERM):
        bob.reply(alice, 5)


def test_a_deadline_in_the_past_times_out_at_once(world: World, alice: Peer, bob: Peer) -> None:
    alice.request(bob, 5, timeout=-SECOND)
    world.expire()
    assert notices(alice) == [(TIMEOUT, 5)]
    assert len(bob.received()) == 1


def test_a_timeout_is_told_once_and_not_after_a_reply(world: World, alice: Peer, bob: Peer) -> None:
    alice.request(bob, 5)
    bob.reply(alice, 5)
    alice.recv()
    world.expire(2 * SECOND)
    assert notices(alice) == []
    assert world.domain.deadlines.next_ns() is None


def test_deadlines_of_replies_that_came_take_no_room(world: World, alice: Peer, bob: Peer) -> None:
    """Even those behind one that is still waited for, which are not reached for a long time."""
    deadlines = world.domain.deadlines
    alice.request(bob, 1, timeout=SECOND)
    for cookie in range(2, 1000):
        alice.request(bob, cookie, timeout=2 * SECOND)
        bob.recv()
        bob.reply(alice, cookie)
        alice.recv()
        if cookie == 500:
            alice.request(bob, 1000, timeout=SECOND // 2)
    assert len(deadlines) < 100
    world.expire(SECOND // 2)
    world.expire(SECOND // 2)
    assert notices(alice) == [(TIMEOUT, 1000), (TIMEOUT, 1)]
    assert deadlines.next_ns() is None


def test_the_nearest_deadline(world: World, alice: Peer, bob: Peer) -> None:
    deadlines = world.domain.deadlines
    assert deadlines.next_ns() is None
    now = world.clock.monotonic
    for cookie, timeout in ((1, 30), (2, 10), (3, 20)):
        alice.request(bob, cookie, timeout=timeout)
    assert deadlines.next_ns() == now + 10
    bob.reply(alice, 2)
    assert deadlines.next_ns() == now + 20
    world.expire(20)
    assert deadlines.next_ns() == now + 30
    world.expire(10)
    assert deadlines.next_ns() is None
    assert notices(alice) == [(0, bob.id), (TIMEOUT, 3), (TIMEOUT, 1)]


def test_timeouts_found_together_are_told_of_the_latest_request_first(world: World, alice: Peer, bob: Peer) -> None:
    for cookie, timeout in ((1, 20), (2, 10), (3, 10), (4, 50)):
        alice.request(bob, cookie, timeout=timeout)
    world.expire(30)
    assert notices(alice) == [(TIMEOUT, 3), (TIMEOUT, 2), (TIMEOUT, 1)]


def test_no_deadline_but_nothing_to_do(world: World) -> None:
    Deadlines().expire(1 << 63)


def test_the_end_of_the_replier_is_told(alice: Peer, bob: Peer) -> None:
    alice.request(bob, 5)
    bob.recv()
    bob.bye()
    assert notices(alice) == [(DEAD, 5)]
    assert alice.connection.request_count == 0


def test_the_end_of_the_replier_is_told_twice_for_a_request_that_it_has_not_read(alice: Peer, bob: Peer) -> None:
    """Once for the message in its queue, once for the reply that it owes: as in the original."""
    alice.request(bob, 5)
    bob.close()
    assert notices(alice) == [(DEAD, 5), (DEAD, 5)]
    assert alice.connection.request_count == 0


def test_the_end_of_the_replier_is_told_of_the_latest_request_first(alice: Peer, bob: Peer) -> None:
    for cookie in (1, 2, 3):
        alice.request(bob, cookie)
        bob.recv()
    bob.bye()
    assert notices(alice) == [(DEAD, 3), (DEAD, 2), (DEAD, 1)]


def test_other_repliers_still_owe(world: World, alice: Peer, bob: Peer) -> None:
    carol = world.connect()
    alice.request(bob, 1)
    alice.request(carol, 1)
    bob.recv()
    bob.bye()
    carol.reply(alice, 1)
    assert notices(alice) == [(DEAD, 1), (0, carol.id)]


def test_the_end_of_the_requester_is_told_to_nobody(world: World, alice: Peer, bob: Peer) -> None:
    alice.request(bob, 5)
    alice.bye()
    assert bob.connection.owed == set()
    bob.recv()
    assert notices(bob) == []
    world.expire(SECOND)
    with fails(NoSuchConnection, errno.ENXIO):
        bob.reply(alice, 5)


def test_one_cookie_twice_is_answered_latest_first(world: World, alice: Peer, bob: Peer) -> None:
    alice.request(bob, 5, timeout=10)
    alice.request(bob, 5, timeout=20)
    bob.reply(alice, 5)
    world.expire(10)
    assert notices(alice) == [(0, bob.id), (TIMEOUT, 5)]
    with fails(ReplyNotExpected, errno.EPERM):
        bob.reply(alice, 5)


def test_a_request_counts_until_its_message_is_gone(world: World, alice: Peer, bob: Peer) -> None:
    """Even after the deadline: what waits unread in the other's queue refers to it."""
    for cookie in range(1, 17):
        alice.request(bob, cookie)
    world.expire(SECOND)
    assert alice.connection.request_count == 16
    bob.received()
    assert alice.connection.request_count == 0


def test_requests_of_others_do_not_count(world: World, alice: Peer, bob: Peer) -> None:
    alice.connection.request_count = 128
    with fails(TooManyRequests, errno.EMLINK):
        alice.request(bob, 1)
    world.connect().request(bob, 1)


def test_a_request_to_a_name_moves_with_the_name(world: World, alice: Peer, bob: Peer) -> None:
    world.activator(b"com.example")
    alice.request(b"com.example", 5)
    bob.acquire(b"com.example")
    assert {reply.cookie for reply in bob.connection.owed} == {5}
    bob.recv()
    bob.reply(alice, 5)
    assert notices(alice) == [(0, bob.id)]


def test_a_request_to_oneself(alice: Peer) -> None:
    alice.request(alice, 5)
    alice.recv()
    alice.reply(alice, 5)
    assert alice.recv()["cookie_reply"] == 5
    alice.request(alice, 6)
    alice.recv()
    alice.bye()
    assert alice.connection.request_count == 0
    assert alice.connection.owed == set()
