# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that have an activator: who owns them when, and where the messages are meanwhile."""

from __future__ import annotations

import errno

from broker.errors import DuplicateItem, PoolFull, ReplyNotExpected
from kdbus.abi import revision3 as abi
from tests.support.world import FakeFile, World, descriptors_item, fails, notices, owner

NAME = b"org.example.Name"
REPLACE, ALLOW, QUEUE = abi.NAME_REPLACE_EXISTING, abi.NAME_ALLOW_REPLACEMENT, abi.NAME_QUEUE
CHANGE, ADD, REMOVE = abi.ITEM_NAME_CHANGE, abi.ITEM_NAME_ADD, abi.ITEM_NAME_REMOVE


def test_messages_move_from_the_activator_to_the_implementer() -> None:
    world = World()
    watcher, client, service = (world.connect() for _ in range(3))
    activator = world.activator(NAME)
    client.send(NAME, b"one")
    client.send(NAME, b"two")
    assert activator.events.readable
    watcher.match()
    service.acquire(NAME, ALLOW)
    assert notices(watcher) == [(CHANGE, activator.id, abi.NAME_ACTIVATOR, service.id, ALLOW, NAME)]
    assert not activator.events.readable and service.events.readable
    assert [message.payload for message in service.received()] == [b"one", b"two"]
    assert not activator.connection.queue.entries()


def test_unread_messages_come_back_to_the_activator() -> None:
    # The documentation says so; version 3 forgot to keep the name with the message.
    world = World()
    watcher, client, service = (world.connect() for _ in range(3))
    activator = world.activator(NAME)
    client.send(NAME, b"before")
    service.acquire(NAME)
    client.send(NAME, b"after")
    client.send(service, b"by id")
    watcher.match()
    service.release(NAME)
    assert notices(watcher) == [(CHANGE, service.id, 0, activator.id, abi.NAME_ACTIVATOR, NAME)]
    assert [message.payload for message in activator.received()] == [b"before", b"after"]
    assert [message.payload for message in service.received()] == [b"by id"]


def test_messages_come_back_when_the_implementer_goes() -> None:
    world = World()
    client, service, successor = (world.connect() for _ in range(3))
    world.activator(NAME)
    service.acquire(NAME)
    client.send(NAME, b"unread")
    service.close()
    successor.acquire(NAME)
    assert [message.payload for message in successor.received()] == [b"unread"]


def test_request_moves_with_the_duty_to_reply() -> None:
    world = World()
    client, service = world.connect(), world.connect()
    world.activator(NAME)
    client.request(NAME, 7)
    service.acquire(NAME)
    service.recv()
    service.reply(client, 7, b"answer")
    assert client.recv().payload == b"answer"


def test_queue_goes_before_the_activator() -> None:
    world = World()
    first, second = world.connect(), world.connect()
    activator = world.activator(NAME)
    first.acquire(NAME)
    second.acquire(NAME, QUEUE)
    first.release(NAME)
    assert owner(first) == second.id
    second.release(NAME)
    assert owner(first) == activator.id


def test_activator_comes_for_a_name_that_has_an_owner() -> None:
    world = World()
    watcher, service = world.connect(), world.connect()
    service.acquire(NAME)
    watcher.match()
    activator = world.activator(NAME)
    assert notices(watcher) == [(abi.ITEM_ID_ADD, activator.id, activator.connection.flags)]
    assert owner(service) == service.id
    service.release(NAME)
    assert owner(watcher) == activator.id


def test_second_activator_of_a_name_is_refused() -> None:
    # Because of its policy entry. In the original, the end of a connection that got so far crashed.
    world = World()
    watcher = world.connect()
    first = world.activator(NAME)
    watcher.match()
    with fails(DuplicateItem, errno.EEXIST):
        world.activator(NAME)
    flags = first.connection.flags
    assert notices(watcher) == [(abi.ITEM_ID_ADD, first.id + 1, flags), (abi.ITEM_ID_REMOVE, first.id + 1, flags)]
    assert owner(watcher) == first.id
    first.close()
    assert owner(watcher) is None


def test_activator_that_goes() -> None:
    world = World()
    watcher, service = world.connect(), world.connect()
    activator = world.activator(NAME)
    service.acquire(NAME)
    activator.close()
    watcher.match()
    service.release(NAME)
    assert notices(watcher) == [(REMOVE, service.id, 0, 0, 0, NAME)]


def test_descriptors_that_the_implementer_refuses_are_lost_and_counted() -> None:
    world = World()
    client = world.connect()
    service = world.connect(flags=0)
    world.activator(NAME)
    file = FakeFile()
    client.send(NAME, items=[descriptors_item(client.caller.open(file))])
    client.send(NAME, b"plain")
    service.acquire(NAME)
    assert service.connection.lost_count == 1 and file.pinned == 0
    service.connection.lost_count = 0
    assert [message.payload for message in service.received()] == [b"plain"]


def test_messages_that_do_not_fit_the_implementer_are_lost_and_the_name_stays() -> None:
    world = World()
    client = world.connect()
    service = world.connect(pool_size=4096)
    activator = world.activator(NAME)
    client.send(NAME, bytes(8192))
    with fails(PoolFull, errno.ENOBUFS):
        service.acquire(NAME)
    assert owner(client) == activator.id and service.connection.lost_count == 1
    service.acquire(NAME)


def test_implementer_goes_while_the_activator_has_no_room() -> None:
    # The original leaves the name with the connection that is gone.
    world = World()
    watcher, client, service = (world.connect() for _ in range(3))
    activator = world.activator(NAME, pool_size=4096)
    service.acquire(NAME)
    client.send(NAME, bytes(8192))
    watcher.match()
    service.close()
    assert owner(watcher) == activator.id and activator.connection.lost_count == 1
    assert notices(watcher)[0] == (CHANGE, service.id, 0, activator.id, abi.NAME_ACTIVATOR, NAME)


def test_release_fails_while_the_activator_has_no_room() -> None:
    world = World()
    client, service = world.connect(), world.connect()
    world.activator(NAME, pool_size=4096)
    service.acquire(NAME)
    client.send(NAME, bytes(8192))
    with fails(PoolFull, errno.ENOBUFS):
        service.release(NAME)
    assert owner(client) == service.id


def test_duty_to_reply_goes_back_with_the_name() -> None:
    # Even of requests that the implementer has received: it cannot answer them any more, and when it goes, nobody is
    # told. As in the original.
    world = World()
    client, service, successor = (world.connect() for _ in range(3))
    world.activator(NAME)
    service.acquire(NAME)
    client.request(NAME, 7)
    client.request(service, 8)
    service.received()
    service.release(NAME)
    with fails(ReplyNotExpected, errno.EPERM):
        service.reply(client, 7)
    service.reply(client, 8, b"by id")
    successor.acquire(NAME)
    service.close()
    assert [message.payload for message in client.received()] == [b"by id"]
    successor.reply(client, 7, b"by name")
    assert [message.payload for message in client.received()] == [b"by name"]


def test_requester_keeps_its_duties_towards_itself() -> None:
    # Replies that the old or the new owner itself waits for are not moved.
    world = World()
    service = world.connect()
    activator = world.activator(NAME)
    service.request(NAME, 7)
    service.acquire(NAME)
    assert [reply.replier for reply in service.connection.replies] == [activator.connection]
    assert len(service.received()) == 1
