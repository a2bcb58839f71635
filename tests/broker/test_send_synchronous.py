# SPDX-License-Identifier: GPL-2.0-or-later
"""Synchronous SEND: the wait, how it ends, and what a signal does to it (reference: connection.c, reply.c)."""

from __future__ import annotations

import errno

import pytest

from broker.errors import (
    BadArgument,
    BadDescriptor,
    CallerGone,
    Cancelled,
    DescriptorsRefused,
    Disconnected,
    DuplicateItem,
    NoSuchConnection,
    PeerGone,
    PoolFull,
    ReplyNotExpected,
    ReplyRefused,
    TimedOut,
)
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from tests.support.world import (
    SECOND,
    FakeFile,
    Peer,
    Sent,
    World,
    cancel_item,
    descriptors_item,
    fails,
    notices,
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


def finish(sent: Sent, receiver: Peer) -> bytes:
    """End the wait; returns the reply's payload and frees it."""
    offset, size, flags = sent.finish()
    assert flags == 0
    payload = receiver.parse(offset, size).payload
    receiver.free(offset)
    return payload


def untouched(sent: Sent) -> bool:
    """Whether nothing of a reply was written back."""
    return sent.command.words("reply") == (0, 0, 0)


def test_a_synchronous_request_gets_its_answer_directly(alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    assert (sent.woken, untouched(sent)) == (0, True)
    assert bob.recv()["cookie"] == 5
    bob.reply(alice, 5, b"answer")
    assert sent.woken == 1
    assert len(alice.connection.queue) == 0
    assert not alice.events.readable
    offset, size, flags = sent.finish()
    received = alice.parse(offset, size, flags)
    assert (received.payload, received["cookie_reply"], received["src_id"]) == (b"answer", 5, bob.id)
    assert sent.command["return_flags"] == 0
    alice.free(offset)
    assert alice.connection.pool.busy == 0
    assert alice.connection.request_count == 0
    assert not alice.connection.replies


def test_an_answer_brings_descriptors(alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    file = FakeFile()
    bob.reply(alice, 5, items=[descriptors_item(bob.caller.open(file))])
    offset, size, flags = sent.finish()
    assert alice.caller.descriptors[alice.parse(offset, size, flags).descriptors()[0]] is file
    assert file.pinned == 0


def test_descriptors_that_cannot_be_installed_are_told(alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    alice.caller.descriptor_limit = 0
    bob.reply(alice, 5, items=[descriptors_item(bob.caller.open(FakeFile()))])
    offset, size, flags = sent.finish()
    assert flags == abi.RECV_RETURN_INCOMPLETE_FDS
    assert alice.parse(offset, size, flags).descriptors() == [-errno.EMFILE]


def test_refused_descriptors_in_an_answer_fail_both_sides_differently(world: World, bob: Peer) -> None:
    deaf = world.connect(flags=0)
    sent = deaf.request(bob, 5, sync=True)
    file = FakeFile()
    with fails(DescriptorsRefused, errno.ECOMM):
        bob.reply(deaf, 5, items=[descriptors_item(bob.caller.open(file))])
    with fails(ReplyRefused, errno.EREMOTEIO):
        sent.finish()
    assert file.pinned == 0
    assert untouched(sent)
    bob.recv()
    assert deaf.connection.request_count == 0


def test_an_answer_too_large_for_the_pool_fails_both_sides_alike(world: World, bob: Peer) -> None:
    small = world.connect(pool_size=4096)
    sent = small.request(bob, 5, sync=True)
    with fails(PoolFull, errno.ENOBUFS):
        bob.reply(small, 5, bytes(8192))
    with fails(PoolFull, errno.ENOBUFS):
        sent.finish()


def test_an_answer_whose_header_does_not_fit_fails_the_requester(world: World, bob: Peer) -> None:
    small = world.connect(pool_size=4096)
    sent = small.request(bob, 5, sync=True)
    bob.reply(small, 5, bytes(2048))
    for size in (1024, 512, 256, 128, 64):
        bob.send(small, bytes(size))
    assert small.connection.pool.remaining == 64
    with fails(PoolFull, errno.ENOBUFS):
        sent.finish()
    assert small.connection.pool.remaining == 64 + 2048


def test_an_answer_is_not_limited_by_the_queue(alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    for _ in range(32):
        bob.send(alice)
    bob.reply(alice, 5, b"answer")
    assert finish(sent, alice) == b"answer"


def test_a_deadline_ends_the_wait(world: World, alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True, timeout=SECOND)
    world.expire(SECOND - 1)
    assert sent.woken == 0
    world.expire(1)
    assert sent.woken == 1
    with fails(ReplyNotExpected, errno.EPERM):  # too late, even before the waiting call has noticed
        bob.reply(alice, 5)
    with fails(TimedOut, errno.ETIMEDOUT):
        sent.finish()
    assert len(bob.received()) == 1
    assert alice.connection.request_count == 0
    assert not alice.events.readable, "no notification"


def test_a_deadline_that_has_passed_is_etimedout_after_the_message_was_queued(world: World, bob: Peer) -> None:
    alice = world.connect()
    for timeout in (0, -SECOND):
        with fails(TimedOut, errno.ETIMEDOUT):
            alice.request(bob, 5, sync=True, timeout=timeout)
    assert len(bob.received()) == 2
    assert alice.connection.request_count == 0
    assert not alice.connection.replies
    with fails(ReplyNotExpected, errno.EPERM):
        bob.reply(alice, 5)


@pytest.mark.parametrize("deadline", [1 << 63, U64])
def test_a_deadline_over_63_bits_has_passed_when_synchronous(alice: Peer, bob: Peer, deadline: int) -> None:
    """The kernel's time is signed there, while an asynchronous request may wait as long as it likes."""
    with fails(TimedOut, errno.ETIMEDOUT):
        alice.send(bob, flags=EXPECT, cookie=1, timeout_ns=deadline, sync=True)
    alice.send(bob, flags=EXPECT, cookie=2, timeout_ns=deadline)
    alice.world.expire(SECOND)
    assert not alice.events.readable


def test_the_peers_end_is_epipe(world: World, alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    bob.recv()
    bob.bye()
    with fails(PeerGone, errno.EPIPE):
        sent.finish()
    assert alice.connection.request_count == 0


def test_dropping_the_request_is_epipe(alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    bob.drop()
    assert sent.woken == 1
    with fails(PeerGone, errno.EPIPE):
        sent.finish()
    assert alice.connection.request_count == 0


def test_ones_own_end_is_econnreset(alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    alice.bye()
    assert sent.woken == 1
    with fails(Disconnected, errno.ECONNRESET):
        sent.finish()
    assert len(bob.received()) == 1


def test_an_answer_before_ones_own_end_is_kept(alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    bob.reply(alice, 5, b"in time")
    alice.bye()
    offset, size, _ = sent.finish()
    assert alice.parse(offset, size).payload == b"in time"


def test_cancelling(alice: Peer, bob: Peer) -> None:
    file = FakeFile()
    deadline = alice.world.clock.monotonic + SECOND
    number = alice.caller.open(file)
    sent = alice.send(
        bob, flags=EXPECT, cookie=5, timeout_ns=deadline, sync=True, command_items=[cancel_item(number)]
    )  # fmt: skip
    assert sent.wait is not None and sent.wait.cancel_file is not None
    assert file.pinned == 1
    sent.wait.cancel()
    assert sent.woken == 1
    with fails(ReplyNotExpected, errno.EPERM):
        bob.reply(alice, 5)
    with fails(Cancelled, errno.ECANCELED):
        sent.finish()
    assert file.pinned == 0
    bob.recv()
    assert alice.connection.request_count == 0


def test_cancelling_too_late_changes_nothing(alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    bob.reply(alice, 5, b"answer")
    assert sent.wait is not None
    sent.wait.cancel()
    assert sent.woken == 1
    assert finish(sent, alice) == b"answer"


@pytest.mark.parametrize(
    ("files", "error", "number"),
    [
        ([None], BadDescriptor, errno.EBADF),
        ([FakeFile(can_poll=False)], BadArgument, errno.EINVAL),
        ([FakeFile(is_path=True, can_poll=False)], BadDescriptor, errno.EBADF),
        ([FakeFile(), FakeFile()], DuplicateItem, errno.EEXIST),
        ([FakeFile(), None], DuplicateItem, errno.EEXIST),
    ],
    ids=["not open", "cannot be polled", "O_PATH", "two", "two, one not open"],
)
def test_bad_cancel_descriptors(
    alice: Peer, bob: Peer, files: list[FakeFile | None], error: type[Exception], number: int
) -> None:
    items = [cancel_item(-1 if file is None else alice.caller.open(file)) for file in files]
    with fails(error, number):  # type: ignore[arg-type]
        alice.send(bob, flags=EXPECT, cookie=5, timeout_ns=U64 >> 1, sync=True, command_items=items)
    assert [file.pinned for file in files if file is not None] == [0] * sum(file is not None for file in files)
    assert len(bob.connection.queue) == 0
    assert alice.connection.request_count == 0


def test_a_failing_synchronous_send_lets_its_cancel_descriptor_go(alice: Peer) -> None:
    file = FakeFile()
    with fails(NoSuchConnection, errno.ENXIO):
        alice.send(
            99, flags=EXPECT, cookie=5, timeout_ns=U64 >> 1, sync=True,
            command_items=[cancel_item(alice.caller.open(file))],
        )  # fmt: skip
    assert file.pinned == 0


# Interrupted by a signal, and restarted with the same arguments


def interrupted(alice: Peer, bob: Peer) -> Sent:
    sent = alice.request(bob, 5, sync=True, timeout=SECOND)
    assert sent.wait is not None
    sent.wait.interrupt()
    return sent


def test_a_restarted_call_waits_on_without_sending_again(alice: Peer, bob: Peer) -> None:
    interrupted(alice, bob)
    again = alice.request(bob, 5, sync=True, timeout=SECOND)
    assert len(bob.received()) == 1
    bob.reply(alice, 5, b"answer")
    assert finish(again, alice) == b"answer"
    assert alice.connection.request_count == 0


def test_an_answer_during_the_signal_handler_is_found_by_the_restarted_call(alice: Peer, bob: Peer) -> None:
    """In the original it was lost, and the request sent a second time."""
    interrupted(alice, bob)
    bob.reply(alice, 5, b"answer")
    with fails(ReplyNotExpected, errno.EPERM):
        bob.reply(alice, 5, b"again")
    again = alice.request(bob, 5, sync=True)
    assert again.woken == 1
    assert finish(again, alice) == b"answer"
    assert len(bob.received()) == 1
    assert alice.connection.request_count == 0


def test_a_call_that_is_never_restarted_is_forgotten_at_its_deadline(world: World, alice: Peer, bob: Peer) -> None:
    for answer in (False, True):
        interrupted(alice, bob)
        bob.recv()
        if answer:
            bob.reply(alice, 5, b"answer")
        assert alice.connection.request_count == 1
        world.expire(SECOND)
        assert alice.connection.request_count == 0
        assert alice.connection.pool.busy == 0
        assert not alice.events.readable, "no notification"


def test_an_answer_that_the_caller_left_before_being_told_is_kept(world: World, alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    bob.reply(alice, 5, b"answer")
    assert sent.wait is not None
    sent.wait.interrupt()
    again = alice.request(bob, 5, sync=True)
    assert finish(again, alice) == b"answer"
    assert len(bob.received()) == 1
    assert alice.connection.request_count == 0


def test_an_answer_that_nobody_takes_goes_at_the_deadline(world: World, alice: Peer, bob: Peer) -> None:
    """Even while the request itself waits unread."""
    interrupted(alice, bob)
    file = FakeFile()
    bob.reply(alice, 5, b"answer", items=[descriptors_item(bob.caller.open(file))])
    world.expire(SECOND)
    assert alice.connection.pool.busy == 0
    assert file.pinned == 0


def test_a_restarted_call_still_has_its_deadline(world: World, alice: Peer, bob: Peer) -> None:
    interrupted(alice, bob)
    again = alice.request(bob, 5, sync=True, timeout=SECOND)
    world.expire(SECOND)
    with fails(TimedOut, errno.ETIMEDOUT):
        again.finish()
    bob.recv()
    assert alice.connection.request_count == 0


def test_another_cookie_is_another_request(alice: Peer, bob: Peer) -> None:
    interrupted(alice, bob)
    alice.request(bob, 6, sync=True)
    assert len(bob.received()) == 2


def test_a_request_that_waits_is_not_taken_for_an_interrupted_one(alice: Peer, bob: Peer) -> None:
    alice.request(bob, 5, sync=True)
    alice.request(bob, 5, sync=True)
    assert len(bob.received()) == 2


def test_an_interrupted_request_that_is_dropped_is_sent_again(alice: Peer, bob: Peer) -> None:
    interrupted(alice, bob)
    bob.drop()
    assert alice.connection.request_count == 0
    alice.request(bob, 5, sync=True)
    assert len(bob.received()) == 1


def test_a_closed_bus_ends_all_waits(world: World, alice: Peer, bob: Peer) -> None:
    sent = alice.request(bob, 5, sync=True)
    world.default_bus().close()
    assert sent.woken
    with fails(Disconnected, errno.ECONNRESET):
        sent.finish()


def vanish(*_: object) -> None:
    """Instead of copying a payload: its sender is killed, or interrupted."""
    raise CallerGone


@pytest.mark.parametrize("sync", [False, True])
def test_who_is_killed_while_replying_has_not_replied(
    monkeypatch: pytest.MonkeyPatch, world: World, alice: Peer, bob: Peer, sync: bool
) -> None:
    """The requester gets no error of somebody else's memory, and is told when the replier's connection ends."""
    sent = alice.request(bob, 5, sync=sync)
    bob.recv()

    with monkeypatch.context() as patch:
        patch.setattr(bob.caller, "copy", vanish)
        for _ in range(2):
            with fails(CallerGone):
                bob.reply(alice, 5, b"answer")
    assert (sent.woken, alice.connection.request_count, len(bob.connection.owed)) == (0, 1, 1)
    bob.close()
    assert notices(alice) == ([] if sync else [(abi.ITEM_REPLY_DEAD, 5)])
    if sync:
        with fails(PeerGone, errno.EPIPE):
            sent.finish()
    assert alice.connection.request_count == 0


@pytest.mark.parametrize("sync", [False, True])
def test_who_is_interrupted_while_replying_replies_again(
    monkeypatch: pytest.MonkeyPatch, world: World, alice: Peer, bob: Peer, sync: bool
) -> None:
    sent = alice.request(bob, 5, sync=sync)
    bob.recv()

    with monkeypatch.context() as patch:
        patch.setattr(bob.caller, "copy", vanish)
        with fails(CallerGone):
            bob.reply(alice, 5, b"answer")
    bob.reply(alice, 5, b"answer")
    assert (finish(sent, alice) if sync else alice.recv().payload) == b"answer"
    assert alice.connection.request_count == 0
    world.expire(2 * SECOND)
    assert notices(alice) == []
