# SPDX-License-Identifier: GPL-2.0-or-later
"""`broker.flow` and `broker.lending`: what may be lent, what a flow is, and that state survives the way out and back.

The words are not checked one by one: what matters is that the broker goes on as if nothing had been lent. So each
test lends, takes back at once what it lent, and looks at what programs would see.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import pytest

from broker import flow as flow_module
from broker.errors import TimedOut
from broker.flow import SLICES, Flow, flow, is_lendable, lendable, reply_flow
from broker.interfaces import File
from broker.lending import LENT_COUNTERS, LentWait, hand_out, take_back
from broker.metadata import ConnectionMetadata, ProcessMetadata
from broker.origin import Origins
from kdbus.abi import revision3 as abi
from tests.support.building import cancel_item, string_item
from tests.support.fakes import FakeFile
from tests.support.lending import Descriptors, lend_and_take_back
from tests.support.world import (
    SECOND,
    Peer,
    Received,
    World,
    charged,
    descriptors_item,
    memfd,
    memfd_item,
    vector_item,
)


def pair(world: World) -> tuple[Peer, Peer]:
    """Two connections that want no metadata."""
    return world.connect(attach_flags_recv=0), world.connect(attach_flags_recv=0)


def test_waiting_messages_survive() -> None:
    world = World()
    alice, bob = pair(world)
    alice.send(bob, b"first", priority=5)
    alice.send(bob, b"second", priority=-5)
    lend_and_take_back(world, alice, bob)
    assert bob.recv(abi.RECV_USE_PRIORITY, priority=0).payload == b"second"
    assert bob.recv().payload == b"first"


def test_what_is_the_same_for_all_receivers_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    speaker = world.connect()
    listeners = [world.connect() for _ in range(5)]
    for number, listener in enumerate(listeners):
        listener.match()
        for _ in range(number):
            speaker.send(listener, b"before")
    packed: list[int] = []
    number_of = Origins.number_of

    def counted(self: Origins, process: ProcessMetadata, connection: ConnectionMetadata) -> int:
        packed.append(id(process))
        return number_of(self, process, connection)

    monkeypatch.setattr(Origins, "number_of", counted)
    speaker.signal(payload=b"to all")
    lend_and_take_back(world, *listeners)
    assert len(packed) == len(set(packed)) == 1 + sum(range(5))
    for number, listener in enumerate(listeners):
        received = listener.received()
        assert [message.payload for message in received] == [b"before"] * number + [b"to all"]
        assert {message["src_id"] for message in received} == {speaker.id}


def test_a_message_by_name_still_says_so() -> None:
    world = World()
    alice, bob = pair(world)
    bob.acquire(b"org.example.Bob")
    alice.send(b"org.example.Bob", b"x")
    lend_and_take_back(world, alice, bob)
    assert bob.recv().item(abi.ITEM_DST_NAME) == b"org.example.Bob\0"


def test_zeros_that_are_not_stored_have_no_place() -> None:
    world = World()
    alice, bob = pair(world)
    alice.send(bob, items=[vector_item(0, 16)])
    lend_and_take_back(world, alice, bob)
    assert bob.recv().item(abi.ITEM_PAYLOAD_OFF)[8:] == b"\xff" * 8


def test_slices_survive() -> None:
    world = World()
    alice, bob = pair(world)
    alice.send(bob, b"x" * 100)
    alice.send(bob, b"y" * 50)
    received = bob.recv(free=False)
    before = [(part.offset, part.size, part.free) for part in bob.connection.pool.slices()]
    lend_and_take_back(world, alice, bob)
    assert [(part.offset, part.size, part.free) for part in bob.connection.pool.slices()] == before
    bob.free(received.offset)
    bob.free(bob.recv(free=False).offset)
    assert bob.connection.pool.busy == 0


def test_an_expected_reply_survives() -> None:
    world = World()
    alice, bob = pair(world)
    alice.request(bob, 7)
    lend_and_take_back(world, alice, bob)
    assert bob.recv()["cookie"] == 7
    bob.reply(alice, 7, b"answer")
    assert alice.recv().payload == b"answer"
    assert alice.connection.request_count == 0


def test_a_deadline_survives() -> None:
    world = World()
    alice, bob = pair(world)
    alice.request(bob, 7, timeout=SECOND)
    lend_and_take_back(world, alice, bob)
    world.expire(2 * SECOND)
    assert alice.recv().types[0] == abi.ITEM_REPLY_TIMEOUT


def test_charges_survive() -> None:
    world = World()
    alice, bob = pair(world)
    for _ in range(20):
        alice.send(bob, b"x")
    lend_and_take_back(world, alice, bob)
    assert charged(bob.connection) == {alice.connection.user: 4}
    for _ in range(20):
        bob.recv()
    assert charged(bob.connection) == {}


def test_the_sequence_goes_on() -> None:
    world = World()
    alice, bob = pair(world)
    before = world.domain.messages.latest
    lend_and_take_back(world, alice, bob)
    assert world.domain.messages.latest == before


def test_a_memfd_survives() -> None:
    world = World()
    alice, bob = pair(world)
    file = memfd(64)
    alice.send(bob, items=[memfd_item(alice.caller.open(file), size=16, start=8)])
    lend_and_take_back(world, alice, bob)
    assert file.pinned == 1
    received = bob.recv()
    assert received.item(abi.ITEM_PAYLOAD_MEMFD)[:16] == struct.pack("<QQ", 8, 16)
    assert file.pinned == 0


def test_what_cannot_be_given_stays() -> None:
    world = World()
    alice, bob = pair(world)
    file = memfd(64)
    alice.send(bob, b"first")
    alice.send(bob, items=[memfd_item(alice.caller.open(file), size=16)])

    def refuse(file: File) -> int:
        raise OSError

    with pytest.raises(OSError):
        peers = [(0, alice.connection, False), (1, bob.connection, False)]
        hand_out(peers, [world.domain.messages], lambda user: 0, Origins(), refuse, {})
    assert bob.recv().payload == b"first"
    assert file.pinned == 1


def test_a_request_that_moved_after_its_time_keeps_its_receiver_here() -> None:
    world = World()
    alice, bob = pair(world)
    world.activator(b"org.example.Bob")
    alice.request(b"org.example.Bob", 7)
    world.expire(SECOND)
    bob.acquire(b"org.example.Bob")
    assert not is_lendable(bob.connection)
    assert lendable([alice.connection, bob.connection], {}) == []
    alice.recv()
    bob.recv()
    assert is_lendable(bob.connection)


def test_a_request_counts_while_its_receiver_is_lent() -> None:
    """Alice's call, whose time is over, is referred to by the queue of Bob alone, who is lent without her."""
    world = World()
    alice, bob = pair(world)
    wait = alice.request(bob, 7, sync=True).wait
    assert wait is not None
    world.expire(SECOND)
    with pytest.raises(TimedOut):
        wait.finish(alice.caller)
    lend_and_take_back(world, bob, unchanged=(alice,))
    lend_and_take_back(world, bob, unchanged=(alice,))
    assert alice.connection.request_count == 1
    bob.recv()
    assert alice.connection.request_count == 0
    alice.connection.close()
    assert alice.connection.user.connections == 1


def test_a_wait_that_stays_counts_when_nothing_comes_back() -> None:
    world = World()
    alice, bob = pair(world)
    wait = alice.request(bob, 7, sync=True).wait
    bob.recv()
    _, kept = hand_out([(0, bob.connection, False)], [world.domain.messages], id, Origins(), Descriptors().give, {})
    take_back([], [world.domain.messages], {0: bob.connection}, {}, kept, Origins(), Descriptors().open)
    assert wait is not None
    bob.reply(alice, 7)
    assert alice.connection.request_count == 1
    wait.finish(alice.caller)
    assert alice.connection.request_count == 0


def test_a_pool_in_many_pieces_is_not_lent() -> None:
    """The native side has no room for it, and would refuse everybody's."""
    world = World()
    alice = world.connect()
    pool = alice.connection.pool
    slices = [pool.allocate(8) for _ in range(SLICES - 1)]
    assert len(pool) == SLICES, "with what is left"
    assert is_lendable(alice.connection)
    pool.allocate(8)
    assert not is_lendable(alice.connection)
    slices[0].release()
    slices[1].release()
    assert is_lendable(alice.connection), "they are one piece"


def test_descriptors_are_not_lent() -> None:
    world = World()
    alice, bob = world.connect(attach_flags_recv=0), world.connect(attach_flags_recv=0)
    number = alice.caller.open(memfd(8))
    alice.send(bob, items=[descriptors_item(number)])
    assert not is_lendable(bob.connection)
    assert is_lendable(alice.connection)


def test_metadata_survive() -> None:
    def conversation(*, lend: bool) -> list[Received]:
        world = World()
        alice = world.connect(items=[string_item(abi.ITEM_CONN_DESCRIPTION, b"alice")])
        bob = world.connect(attach_flags_recv=abi.ATTACH_ALL)
        alice.acquire(b"org.example.Alice")
        for cookie in range(3):
            world.clock.monotonic += SECOND
            alice.send(bob, cookie=cookie)
        if lend:
            lend_and_take_back(world, alice, bob)
            lend_and_take_back(world, bob)
        return [bob.recv() for _ in range(3)]

    assert conversation(lend=True) == conversation(lend=False)
    assert len({received.items[-1] for received in conversation(lend=True)}) == 3, "each has its own timestamp"


def test_losses_are_reported_first() -> None:
    world = World()
    alice = world.connect(attach_flags_recv=0)
    alice.connection.lost_count = 1
    assert not is_lendable(alice.connection)


def test_monitors_see_everything() -> None:
    world = World()
    alice = world.connect(attach_flags_recv=0)
    assert is_lendable(alice.connection)
    world.monitor()
    assert not is_lendable(alice.connection)


def test_both_ends_of_a_request_are_lent_together() -> None:
    world = World()
    alice, bob = pair(world)
    alice.request(bob, 7)
    assert lendable([alice.connection], {}) == []
    assert lendable([bob.connection], {}) == []
    assert len(lendable([alice.connection, bob.connection], {})) == 2


def test_a_waiting_call_may_stay_with_the_broker() -> None:
    world = World()
    alice, bob = pair(world)
    wait = alice.request(bob, 7, sync=True).wait
    assert lendable([alice.connection, bob.connection], {}) == [bob.connection]
    lend_and_take_back(world, bob)
    bob.recv()
    assert lendable([alice.connection, bob.connection], {}) == [bob.connection]
    lend_and_take_back(world, bob)
    bob.reply(alice, 7)
    assert wait is not None
    wait.finish(alice.caller)
    assert lendable([alice.connection, bob.connection], {}) == [alice.connection, bob.connection]


def test_a_waiting_call_may_wait_elsewhere() -> None:
    world = World()
    alice, bob = pair(world)
    sent = alice.request(bob, 7, sync=True)
    assert sent.wait is not None and sent.wait.command is not None
    command = sent.wait.command
    notification = tuple(range(15))
    returned = lend_and_take_back(world, alice, bob, waits={sent.wait.reply: LentWait(sent.wait, notification)})
    assert (returned.waits[0].notification, returned.waits[0].command) == (notification, command)
    wait = alice.handle.resume(returned.waits[0].reply, sent.address, command, alice.caller)
    bob.recv()
    bob.reply(alice, 7, b"answer")
    wait.finish(alice.caller)
    assert not alice.connection.request_count and not bob.connection.owed


def test_a_call_that_comes_back_stores_that_it_has_succeeded() -> None:
    """What the program had in `return_flags` counts for nothing (handle.c, KDBUS_CMD_SEND)."""
    world = World()
    alice, bob = pair(world)
    sent = alice.request(bob, 7, sync=True)
    assert sent.wait is not None and sent.wait.command is not None
    first, last = abi.STRUCTS["kdbus_cmd_send"].span("return_flags")
    command = sent.wait.command[:first] + b"\xff" * 8 + sent.wait.command[last:]
    returned = lend_and_take_back(world, alice, bob, waits={sent.wait.reply: LentWait(sent.wait, tuple(range(15)))})
    wait = alice.handle.resume(returned.waits[0].reply, sent.address, command, alice.caller)
    bob.recv()
    bob.reply(alice, 7)
    wait.finish(alice.caller)
    assert alice.caller.read(sent.address + first, 8) == bytes(8)


def test_a_wait_with_a_cancel_descriptor_stays() -> None:
    world = World()
    alice, bob = pair(world)
    cancel = cancel_item(alice.caller.open(FakeFile()))
    deadline = world.clock.monotonic + SECOND
    sent = alice.send(
        bob, flags=abi.MESSAGE_EXPECT_REPLY, cookie=7, timeout_ns=deadline, sync=True, command_items=[cancel]
    )
    assert sent.wait is not None and sent.wait.command is None


def test_a_flow_says_what_the_answer_depends_on() -> None:
    world = World()
    alice, bob = pair(world)
    eve = world.connect(caller=world.caller(uid=2000), attach_flags_recv=0)
    curious = world.connect(attach_flags_recv=abi.ATTACH_CREDS)
    who, stranger = alice.connection.credentials, eve.connection.credentials
    assert flow(alice.connection, bob.connection, stranger) == Flow(0, talks=True, depends=False)
    assert flow(alice.connection, curious.connection, who) == Flow(abi.ATTACH_CREDS, talks=True, depends=False)
    assert flow(eve.connection, bob.connection, stranger) == Flow(0, talks=False, depends=False)
    assert flow(eve.connection, bob.connection, who) == Flow(0, talks=True, depends=True)


def test_answers_need_nobodys_permission() -> None:
    world = World()
    alice, bob = world.connect(attach_flags_recv=abi.ATTACH_CREDS), world.connect()
    assert reply_flow(bob.connection, alice.connection) == Flow(abi.ATTACH_CREDS, talks=False, depends=False)


def test_there_is_no_flow_to_another_bus() -> None:
    world = World()
    alice, _ = pair(world)
    elsewhere = World().connect(attach_flags_recv=0)
    assert flow(alice.connection, elsewhere.connection, alice.connection.credentials) is None


def test_the_domain_limit_is_padded() -> None:
    world = World()
    alice, bob = pair(world)
    words, kept = hand_out(
        [(0, alice.connection, True), (1, bob.connection, False)],
        [world.domain.messages],
        id,
        Origins(),
        Descriptors().give,
        {},
    )
    assert words[0] == world.domain.messages.latest
    assert words[1:LENT_COUNTERS] == [0] * (LENT_COUNTERS - 1)
    assert words[LENT_COUNTERS : LENT_COUNTERS + 2] == [2, 0]
    with pytest.raises(EOFError):
        peers = {0: alice.connection, 1: bob.connection}
        take_back(words[:-1], [world.domain.messages], peers, {}, kept, Origins(), Descriptors().open)


def test_a_chain_that_cannot_be_lent_costs_what_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each expects a reply of the next one, and the last one cannot be lent: they fall one after the other."""
    world = World()
    peers = [world.connect(attach_flags_recv=0) for _ in range(100)]
    for peer, following in pairwise(peers):
        peer.request(following, 7)
    number = peers[0].caller.open(memfd(8))
    peers[0].send(peers[-1], items=[descriptors_item(number)])
    looks = []
    judge = flow_module._is_closed

    def counted(*arguments: Any) -> bool:
        looks.append(arguments)
        return judge(*arguments)

    monkeypatch.setattr(flow_module, "_is_closed", counted)
    assert lendable([peer.connection for peer in peers], {}) == []
    assert len(looks) <= len(peers)
