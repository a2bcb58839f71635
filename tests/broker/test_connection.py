# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections: the kinds, faked identities, updates, and the order in which one ends.

HELLO has its own file, `test_connection_hello.py`.
"""

from __future__ import annotations

import errno
import gc
import struct
import weakref

import pytest

from broker.errors import (
    AlreadyDisconnected,
    BadAddress,
    BadArgument,
    BadItem,
    Disconnected,
    MessagesPending,
    NoSuchConnection,
    PeerGone,
    WrongConnectionKind,
)
from kdbus.abi import revision3 as abi
from tests.support.world import (
    SECOND,
    FakeFile,
    World,
    credentials,
    descriptors_item,
    fails,
    item,
    name_item,
    notices,
    string_item,
    words_item,
    world_access,
)

NAME = b"org.example.Name"
ACTIVATOR, HOLDER, MONITOR = abi.HELLO_ACTIVATOR, abi.HELLO_POLICY_HOLDER, abi.HELLO_MONITOR
FAKED = item(abi.ITEM_CREDS, struct.pack("<8I", 1, 2, 3, 4, 5, 6, 7, 8))
FAKED_PIDS = words_item(abi.ITEM_PIDS, 1, 1, 0)
FAKED_LABEL = string_item(abi.ITEM_SECLABEL, b"fake")
SEND_FLAGS, RECEIVE_FLAGS = abi.ITEM_ATTACH_FLAGS_SEND, abi.ITEM_ATTACH_FLAGS_RECV


def description(text: bytes) -> bytes:
    return string_item(abi.ITEM_CONN_DESCRIPTION, text)


# Kinds


def test_special_kinds_cannot_be_addressed_by_id() -> None:
    world = World()
    peer = world.connect()
    for special in (world.activator(NAME), world.policy_holder(b"b.b"), world.monitor()):
        with fails(NoSuchConnection, errno.ENXIO):
            peer.send(special, b"x")


COMMANDS = {
    "BYEBYE": (),
    "SEND": (),
    "RECV": (ACTIVATOR, MONITOR),
    "FREE": (ACTIVATOR, MONITOR),
    "NAME_ACQUIRE": (),
    "NAME_RELEASE": (),
    "NAME_LIST": (ACTIVATOR, HOLDER, MONITOR),
    "CONN_INFO": (ACTIVATOR, HOLDER, MONITOR),
    "BUS_CREATOR_INFO": (ACTIVATOR, HOLDER, MONITOR),
    "CONN_UPDATE": (HOLDER, MONITOR),
    "MATCH_ADD": (),
    "MATCH_REMOVE": (),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_special_kinds(command: str) -> None:
    world = World()
    kinds = {ACTIVATOR: world.activator(NAME), HOLDER: world.policy_holder(b"b.b"), MONITOR: world.monitor()}
    for kind, peer in kinds.items():
        # A misaligned pointer shows that the command is known; who may issue it comes before.
        allowed = kind in COMMANDS[command]
        with fails(BadAddress if allowed else WrongConnectionKind):
            peer.ioctl(command, 3)


def test_monitor_sees_everything_first_and_nobody_sees_it() -> None:
    world = World()
    monitor = world.monitor()
    alice, bob = world.connect(), world.connect()
    bob.match()
    monitor.received()
    alice.send(bob, b"unicast")
    alice.signal(payload=b"signal")
    alice.request(bob, 5)
    bob.received()
    bob.reply(alice, 5, b"reply")
    messages = monitor.received()
    assert [(message["src_id"], message["dst_id"]) for message in messages] == [
        (alice.id, bob.id),
        (alice.id, abi.DESTINATION_BROADCAST),
        (alice.id, bob.id),
        (bob.id, alice.id),
    ]
    assert [message.payload for message in messages] == [b"unicast", b"signal", b"", b"reply"]
    assert not monitor.connection.queue.entries()


def test_monitor_gets_metadata_by_its_own_flags() -> None:
    world = World()
    monitor = world.monitor(attach_flags_recv=abi.ATTACH_CREDS)
    alice, bob = world.connect(), world.connect()
    monitor.received()
    alice.send(bob)
    assert monitor.recv().types == [abi.ITEM_CREDS]
    assert bob.recv().types == []


def test_monitor_that_refuses_descriptors_counts_them_as_lost() -> None:
    world = World()
    monitor = world.connect(flags=MONITOR)
    alice, bob = world.connect(), world.connect()
    monitor.received()
    alice.send(bob, items=[descriptors_item(alice.caller.open(FakeFile()))])
    assert monitor.connection.lost_count == 1 and len(bob.connection.queue) == 1


# Faked identity


def test_faked_connection_tells_the_fake_and_sends_nothing_about_its_process() -> None:
    world = World()
    receiver = world.connect(attach_flags_recv=abi.ATTACH_ALL)
    faker = world.connect(items=[FAKED, FAKED_PIDS, FAKED_LABEL, description(b"fake")])
    told = dict(receiver.info(faker).items)
    assert told == {
        abi.ITEM_CREDS: struct.pack("<8I", 1, 2, 3, 4, 5, 6, 7, 8),
        abi.ITEM_PIDS: struct.pack("<3Q", 1, 1, 0),
        abi.ITEM_SECLABEL: b"fake\0",
        abi.ITEM_CONN_DESCRIPTION: b"fake\0",
    }
    faker.send(receiver)
    assert receiver.recv().types == [abi.ITEM_CONN_DESCRIPTION, abi.ITEM_TIMESTAMP]


def test_last_of_several_fakes_counts() -> None:
    world = World()
    other = item(abi.ITEM_CREDS, struct.pack("<8I", *(9,) * 8))
    faker = world.connect(items=[FAKED, other])
    assert dict(world.connect().info(faker).items) == {abi.ITEM_CREDS: struct.pack("<8I", *(9,) * 8)}


def test_fake_does_not_change_what_the_connection_may_do() -> None:
    world = World()
    faker = world.connect(items=[FAKED])
    assert faker.connection.credentials == credentials(1000)


# CONN_UPDATE


def test_update_of_attach_flags() -> None:
    world = World()
    peer = world.connect()
    everything = words_item(RECEIVE_FLAGS, abi.ATTACH_ANY)
    assert peer.update(words_item(SEND_FLAGS, 3), everything, words_item(SEND_FLAGS, 1))["return_flags"] == 0
    assert (peer.connection.attach_flags_send, peer.connection.attach_flags_recv) == (1, abi.ATTACH_ALL)
    peer.update()
    assert peer.connection.attach_flags_send == 1
    with fails(BadArgument, errno.EINVAL):
        peer.update(words_item(SEND_FLAGS, 2), words_item(RECEIVE_FLAGS, 1 << 14))
    assert peer.connection.attach_flags_send == 1


def test_update_of_a_monitor() -> None:
    monitor = World().monitor()
    monitor.update(words_item(SEND_FLAGS, 1), words_item(RECEIVE_FLAGS, 2))
    assert (monitor.connection.attach_flags_send, monitor.connection.attach_flags_recv) == (1, 2)


def test_update_of_what_the_kind_does_not_have() -> None:
    world = World()
    holder = world.policy_holder(NAME)
    for flags in (SEND_FLAGS, RECEIVE_FLAGS):
        with fails(WrongConnectionKind, errno.EOPNOTSUPP):
            holder.update(words_item(flags, 1))
    for peer in (world.connect(), world.monitor()):
        for policy in (name_item(NAME), world_access(abi.POLICY_OWN)):
            with fails(WrongConnectionKind, errno.EOPNOTSUPP):
                peer.update(policy)


@pytest.mark.parametrize("refused", [description(b"new"), words_item(abi.ITEM_ID, 1), FAKED, item(99)])
def test_update_refuses_other_items(refused: bytes) -> None:
    peer = World().connect()
    with fails(BadItem, errno.EINVAL):
        peer.update(words_item(SEND_FLAGS, 0), refused)
    assert peer.connection.attach_flags_send == abi.ATTACH_ALL


# The end


def test_byebye() -> None:
    world = World()
    peer, other = world.connect(), world.connect()
    other.send(peer, b"x")
    with fails(MessagesPending, errno.EBUSY):
        peer.bye()
    peer.recv()
    peer.bye()
    assert peer.events.hung_up
    with fails(AlreadyDisconnected, errno.EALREADY):
        peer.bye()
    for command in ("SEND", "RECV", "FREE", "NAME_LIST", "HELLO"):
        with fails(Disconnected, errno.ECONNRESET):
            peer.ioctl(command, 3)
    with fails(NoSuchConnection, errno.ENXIO):
        other.send(peer, b"x")
    peer.close()


def test_pollers_are_told_once() -> None:
    peer = World().connect()
    peer.bye()
    peer.close()
    assert peer.events.log == ["disconnected"]


def test_close_frees_messages_and_memory() -> None:
    world = World()
    peer, other = world.connect(), world.connect()
    file = FakeFile()
    other.send(peer, b"x", items=[descriptors_item(other.caller.open(file))])
    assert file.pinned == 1
    memory = peer.memory
    peer.close()
    assert file.pinned == 0 and memory.closed


def test_synchronous_requests_end_on_both_sides() -> None:
    world = World()
    client, service = world.connect(), world.connect()
    sent = client.request(service, 1, sync=True)
    service.close()
    with fails(PeerGone, errno.EPIPE):
        sent.finish()
    other = world.connect()
    sent = client.request(other, 2, sync=True)
    client.received()
    client.bye()  # by another thread
    with fails(Disconnected, errno.ECONNRESET):
        sent.finish()


def test_unread_synchronous_request_also_leaves_a_notification() -> None:
    # The kernel does not look whether the thrown away request was a synchronous one.
    world = World()
    client, service = world.connect(), world.connect()
    sent = client.request(service, 1, sync=True)
    service.close()
    assert notices(client) == [(abi.ITEM_REPLY_DEAD, 1)]
    assert sent.woken == 1


def test_policy_entries_end_before_the_name_is_released() -> None:
    world = World()
    activator = world.activator(NAME, world_access(abi.POLICY_OWN))
    policy = world.default_bus().bus.policy
    assert policy.query(credentials(5), NAME) == abi.POLICY_OWN
    activator.close()
    assert policy.query(credentials(5), NAME) == -1


def test_matches_end_with_the_connection() -> None:
    world = World()
    bus = world.default_bus().bus
    listener, speaker = world.connect(), world.connect()
    listener.match()
    listener.close()
    assert len(bus.subscribers) == 0
    speaker.signal(payload=b"x")


def test_pending_replies_of_others_are_forgotten() -> None:
    world = World()
    client, service = world.connect(), world.connect()
    client.request(service, 1)
    client.close()
    assert not service.connection.owed
    service.received()
    world.expire(2 * SECOND)


def test_what_has_ended_is_not_kept_by_whoever_wrote_to_it() -> None:
    """A row of connections, each of which writes to the one before it, which then goes."""
    world = World()
    last = world.connect()
    gone = []
    for _ in range(5):
        newcomer = world.connect()
        newcomer.send(last, b"x")
        last.close()
        gone.append(weakref.ref(last.connection))
        last = newcomer
    gc.collect()
    # The very last one may remember whom it wrote to.
    assert [one() is None for one in gone[:-1]] == [True] * 4
