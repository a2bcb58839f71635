# SPDX-License-Identifier: GPL-2.0-or-later
"""Quotas: of a user in a domain, and of a user in a receiver's queue (reference: limits.h, connection.c)."""

from __future__ import annotations

import errno

import pytest

from broker import limits
from broker.errors import QueueFull, TooManyBuses, TooManyConnections
from broker.quota import Charge, QueueQuota, User
from tests.support.world import Peer, World, charged, fails

CAP_IPC_OWNER = 15


def stranger(world: World, uid: int) -> Peer:
    """A connection of another user who may talk to everybody."""
    caller = world.caller(uid)
    caller.process.privileges.add(CAP_IPC_OWNER)
    return world.connect(caller=caller)


def test_the_limits_are_those_of_version_3() -> None:
    assert (limits.MESSAGES_PER_CONNECTION, limits.MESSAGES_UNACCOUNTED, limits.MESSAGES_PER_USER) == (256, 16, 16)
    assert (limits.REQUESTS_PER_CONNECTION, limits.CONNECTIONS_PER_USER, limits.BUSES_PER_USER) == (128, 1024, 16)


def test_the_17th_bus_of_a_user_is_emfile() -> None:
    user = User(1)
    for _ in range(16):
        user.add_bus()
    with fails(TooManyBuses, errno.EMFILE):
        user.add_bus()
    assert user.buses == 16


def test_the_1025th_connection_of_a_user_is_emfile() -> None:
    user = User(1)
    for _ in range(1024):
        user.add_connection()
    with fails(TooManyConnections, errno.EMFILE):
        user.add_connection()
    assert user.connections == 1024


def test_nothing_is_charged_while_fewer_than_16_wait() -> None:
    quota, user = QueueQuota(), User(1)
    assert [quota.charge(user, waiting, 0, 0) for waiting in range(16)] == [None] * 16
    assert quota.charged == {}


def test_the_17th_charge_of_a_user_is_enobufs() -> None:
    quota, user, other = QueueQuota(), User(1), User(2)
    charges = [quota.charge(user, 16 + count, 0, 0) for count in range(16)]
    with fails(QueueFull, errno.ENOBUFS):
        quota.charge(user, 32, 0, 0)
    assert quota.charge(other, 32, 0, 0) is not None
    first = charges[0]
    assert isinstance(first, Charge)
    first.give_back()
    first.give_back()
    assert quota.charged == {user: 15, other: 1}


def test_users_are_counted_apart_even_with_equal_ids() -> None:
    """Anonymous users of custom endpoints have no id of their own."""
    quota = QueueQuota()
    for _ in range(16):
        quota.charge(User(5), 16, 0, 0)
    assert len(quota.charged) == 16


def test_the_bus_itself_is_never_charged() -> None:
    assert QueueQuota().charge(None, 200, 0, 0) is None


def test_the_33rd_message_of_a_user_is_enobufs() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    for _ in range(32):
        alice.send(bob)
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(bob)
    bob.recv()  # one of those that were not charged
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(bob)


def test_connections_of_one_user_share_the_quota() -> None:
    world = World()
    alice, twin, bob = world.connect(), world.connect(), world.connect()
    for number in range(32):
        (alice, twin)[number % 2].send(bob)
    for sender in (alice, twin, bob):
        with fails(QueueFull, errno.ENOBUFS):
            sender.send(bob)


def test_17_users_fill_a_queue_and_the_257th_message_is_enobufs() -> None:
    world = World()
    bob = world.connect()
    senders = [stranger(world, 2000 + number) for number in range(16)]
    for number in range(256):
        senders[0 if number < 16 else (number - 16) // 16].send(bob)
    with fails(QueueFull, errno.ENOBUFS):
        senders[15].send(bob)
    with fails(QueueFull, errno.ENOBUFS):
        stranger(world, 3000).send(bob)
    assert len(bob.connection.queue) == 256


def test_charges_return_when_messages_leave() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    for _ in range(32):
        alice.send(bob, b"x")
    assert charged(bob.connection) == {alice.connection.user: 16}
    for _ in range(16):
        bob.recv()
    assert charged(bob.connection) == {alice.connection.user: 16}
    for _ in range(8):
        bob.recv()
    for _ in range(8):
        bob.drop()
    assert charged(bob.connection) == {}
    assert bob.connection.pool.busy == 0


def test_a_refused_message_leaves_nothing_in_the_pool() -> None:
    """In the original its payload stayed there for good."""
    world = World()
    alice, bob = world.connect(), world.connect()
    for _ in range(32):
        alice.send(bob)
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(bob, b"payload")
    assert bob.connection.pool.busy == 0


def test_charges_return_when_the_receiver_goes() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    for _ in range(20):
        alice.send(bob)
    bob.close()
    assert charged(bob.connection) == {}


def test_moved_messages_are_not_charged_again() -> None:
    world = World()
    activator = world.activator(b"com.example")
    alice, bob = world.connect(), world.connect()
    for _ in range(20):
        alice.send(b"com.example")
    assert charged(activator.connection) == {alice.connection.user: 4}
    bob.acquire(b"com.example")
    assert charged(activator.connection) == {}
    assert charged(bob.connection) == {}
    assert len(bob.received()) == 20


def test_connections_count_until_their_handle_is_closed() -> None:
    world = World()
    alice = world.connect()
    user = alice.connection.user
    assert user.connections == 1
    alice.bye()
    assert user.connections == 1
    alice.close()
    assert user.connections == 0


@pytest.mark.parametrize("uids", [(7, 7), (7, 8)])
def test_connections_count_for_the_real_user(uids: tuple[int, int]) -> None:
    world = World()
    first, second = (world.connect(uid=uid) for uid in uids)
    assert (first.connection.user is second.connection.user) == (uids[0] == uids[1])
