# SPDX-License-Identifier: GPL-2.0-or-later
"""Notifications: their bytes, who gets them, and in which order they come."""

from __future__ import annotations

import struct

from broker import limits
from broker.errors import DuplicateItem, NameAlreadyOwned
from kdbus.abi import revision3 as abi
from tests.support.world import (
    SECOND,
    Peer,
    Received,
    World,
    fails,
    item,
    name_item,
    notices,
    words_item,
    world_access,
)

NAME = b"org.example.Name"
ACCEPT = abi.HELLO_ACCEPT_FD


def header(message: Received) -> tuple[int, ...]:
    members = ("size", "flags", "priority", "dst_id", "src_id", "payload_type", "cookie", "cookie_reply")
    return tuple(message[member] for member in members)


def padded(item_type: int, payload: bytes) -> bytes:
    """An item whose size counts its padding, as only notifications have it."""
    return item(item_type, payload + bytes(-len(payload) % 8))


def watching(world: World, *, uid: int = 1000, attach_flags_recv: int = 0) -> Peer:
    peer = world.connect(uid=uid, attach_flags_recv=attach_flags_recv)
    peer.match()
    return peer


def test_connection_comes_and_goes() -> None:
    world = World()
    watcher = watching(world)
    peer = world.connect(flags=0)
    peer.close()
    for message, item_type in zip(watcher.received(), (abi.ITEM_ID_ADD, abi.ITEM_ID_REMOVE), strict=True):
        assert header(message) == (96, 0, 0, abi.DESTINATION_BROADCAST, 0, 0, 0, 0)
        assert message.raw[64:] == item(item_type, struct.pack("<QQ", peer.id, 0))


def test_name_is_padded_within_the_item() -> None:
    world = World()
    watcher, peer = watching(world), world.connect()
    watcher.received()
    for name in (b"a.b", b"a.bbbbb", b"a.bbbbbb"):
        peer.acquire(name, abi.NAME_QUEUE)
        message = watcher.recv()
        expected = padded(abi.ITEM_NAME_ADD, struct.pack("<4Q", 0, 0, peer.id, abi.NAME_QUEUE) + name + b"\0")
        assert message.raw[64:] == expected
        assert header(message) == (64 + len(expected), 0, 0, abi.DESTINATION_BROADCAST, 0, 0, 0, 0)


def test_reply_comes_too_late() -> None:
    world = World()
    client, service = world.connect(), world.connect()
    client.request(service, 7)
    world.expire(SECOND)
    message = client.recv()
    assert header(message) == (80, 0, 0, client.id, 0, 0, 0, 7)
    assert message.raw[64:] == item(abi.ITEM_REPLY_TIMEOUT)


def test_reply_never_comes() -> None:
    world = World()
    client, service = world.connect(), world.connect()
    client.request(service, 7)
    service.recv()
    service.close()
    message = client.recv()
    assert header(message) == (80, 0, 0, client.id, 0, 0, 0, 7)
    assert message.raw[64:] == item(abi.ITEM_REPLY_DEAD)


def test_unread_request_is_reported_dead_twice() -> None:
    # Once for the message that is thrown away, once for the reply that was still expected; as in the original.
    world = World()
    client, service = world.connect(), world.connect()
    client.request(service, 7)
    service.close()
    assert notices(client) == [(abi.ITEM_REPLY_DEAD, 7)] * 2


def test_notifications_have_timestamps_of_their_own() -> None:
    world = World()
    watcher = watching(world, attach_flags_recv=abi.ATTACH_ALL)
    peer = world.connect()
    peer.acquire(NAME)
    first, second = watcher.received()
    number, *times = struct.unpack("<3Q", first.item(abi.ITEM_TIMESTAMP))
    assert times == [world.clock.monotonic, world.clock.realtime]
    assert struct.unpack("<3Q", second.item(abi.ITEM_TIMESTAMP))[0] == number + 1
    assert first.types == [abi.ITEM_ID_ADD, abi.ITEM_TIMESTAMP]


def test_timestamp_only_if_asked_for_and_let_through() -> None:
    world = World()
    watcher = watching(world, attach_flags_recv=abi.ATTACH_TIMESTAMP)
    world.connect()
    world.attach_flags_mask = abi.ATTACH_ALL & ~abi.ATTACH_TIMESTAMP
    assert watcher.recv().types == [abi.ITEM_ID_ADD]


def test_order_relative_to_messages() -> None:
    world = World()
    watcher, peer = watching(world), world.connect()
    peer.send(watcher)
    peer.acquire(NAME)
    peer.signal()
    peer.release(NAME)
    peer.bye()
    assert [notice[0] for notice in notices(watcher)] == [
        abi.ITEM_ID_ADD,
        0,
        abi.ITEM_NAME_ADD,
        0,
        abi.ITEM_NAME_REMOVE,
        abi.ITEM_ID_REMOVE,
    ]


def test_activator_comes_and_goes() -> None:
    world = World()
    watcher = watching(world)
    activator = world.activator(NAME)
    activator.close()
    flags = abi.HELLO_ACTIVATOR | ACCEPT
    assert notices(watcher) == [
        (abi.ITEM_ID_ADD, activator.id, flags),
        (abi.ITEM_NAME_ADD, 0, 0, activator.id, abi.NAME_ACTIVATOR, NAME),
        (abi.ITEM_NAME_REMOVE, activator.id, abi.NAME_ACTIVATOR, 0, 0, NAME),
        (abi.ITEM_ID_REMOVE, activator.id, flags),
    ]


def test_policy_holder_comes_and_goes() -> None:
    world = World()
    watcher = watching(world)
    holder = world.policy_holder(NAME)
    holder.close()
    flags = abi.HELLO_POLICY_HOLDER
    assert notices(watcher) == [(abi.ITEM_ID_ADD, holder.id, flags), (abi.ITEM_ID_REMOVE, holder.id, flags)]


def test_nobody_hears_of_a_monitor() -> None:
    world = World()
    watcher = watching(world)
    world.monitor().close()
    assert notices(watcher) == []


def test_end_of_a_connection_in_order() -> None:
    # Names, then those who wait for a reply in the order of their ids and each one's latest request first, then the
    # id; and everybody but itself hears of it.
    world = World()
    watcher = watching(world)
    late, early = world.connect(), world.connect()
    service = world.connect()
    service.acquire(NAME)
    early.request(service, 1)
    late.request(service, 2)
    late.request(service, 3)
    service.received()
    watcher.received()
    monitor = world.monitor()
    service.close()
    assert notices(monitor) == [
        (abi.ITEM_NAME_REMOVE, service.id, 0, 0, 0, NAME),
        (abi.ITEM_REPLY_DEAD, 3),
        (abi.ITEM_REPLY_DEAD, 2),
        (abi.ITEM_REPLY_DEAD, 1),
        (abi.ITEM_ID_REMOVE, service.id, ACCEPT),
    ]
    assert notices(watcher) == [
        (abi.ITEM_NAME_REMOVE, service.id, 0, 0, 0, NAME),
        (abi.ITEM_ID_REMOVE, service.id, ACCEPT),
    ]


def test_failed_hello_is_seen_to_come_and_go() -> None:
    world = World()
    world.policy_holder(NAME)
    watcher = watching(world)
    with fails(DuplicateItem):
        world.activator(NAME)
    number, flags = watcher.id + 1, abi.HELLO_ACTIVATOR | ACCEPT
    assert notices(watcher) == [
        (abi.ITEM_ID_ADD, number, flags),
        (abi.ITEM_NAME_ADD, 0, 0, number, abi.NAME_ACTIVATOR, NAME),
        (abi.ITEM_NAME_REMOVE, number, abi.NAME_ACTIVATOR, 0, 0, NAME),
        (abi.ITEM_ID_REMOVE, number, flags),
    ]


def test_lost_broadcast_notification_is_counted() -> None:
    world = World()
    watcher, peer = watching(world), world.connect()
    for _ in range(limits.MESSAGES_PER_CONNECTION // 2 + 5):
        peer.acquire(NAME)
        peer.release(NAME)
    assert len(watcher.connection.queue) == limits.MESSAGES_PER_CONNECTION
    assert watcher.connection.lost_count == 11  # with the one about the connection itself


def test_lost_reply_notification_is_not_counted() -> None:
    world = World()
    client, service, peer = world.connect(), world.connect(), world.connect()
    client.request(service, 7)
    client.match(words_item(abi.ITEM_ID_ADD, abi.MATCH_ANY_ID, 0))
    for _ in range(limits.MESSAGES_PER_CONNECTION):
        world.connect().close()
    peer.close()
    world.expire(SECOND)
    assert len(client.connection.queue) == limits.MESSAGES_PER_CONNECTION and client.connection.lost_count == 0


def test_requester_that_is_gone_is_not_notified_and_nobody_else_is() -> None:
    world = World()
    monitor = world.monitor()
    client, service = world.connect(), world.connect()
    client.request(service, 7)
    client.close()
    monitor.received()
    service.close()
    assert notices(monitor) == [(abi.ITEM_ID_REMOVE, service.id, ACCEPT)]


def test_custom_endpoint_hears_of_names_that_it_may_see_and_of_no_connections() -> None:
    world = World()
    world.endpoint("door", name_item(NAME), world_access(abi.POLICY_SEE))
    watcher = watching(world, uid=1001)
    inside = world.connect(endpoint="1000-door", uid=1001)
    inside.match()
    peer = world.connect()
    peer.acquire(NAME)
    peer.acquire(b"org.example.Hidden")
    peer.close()
    assert notices(inside) == [
        (abi.ITEM_NAME_ADD, 0, 0, peer.id, 0, NAME),
        (abi.ITEM_NAME_REMOVE, peer.id, 0, 0, 0, NAME),
    ]
    assert len(watcher.received()) == 7


def test_nothing_is_left_to_flush() -> None:
    world = World()
    peer = world.connect()
    peer.acquire(NAME)
    with fails(NameAlreadyOwned):
        peer.acquire(NAME)
    watcher = watching(world)
    peer.send(watcher)
    assert notices(watcher) == [(0, peer.id)]
