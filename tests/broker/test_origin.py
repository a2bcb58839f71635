# SPDX-License-Identifier: GPL-2.0-or-later
"""Origins: when two messages come from the same one, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import origin
from broker.message import Message
from broker.origin import Origins, shown, timestamp_of
from broker.version3 import VERSION3
from kdbus.abi import revision3 as abi
from tests.support.fakes import FakeProcess
from tests.support.world import SECOND, Peer, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> Peer:
    world.attach_flags_mask = abi.ATTACH_ANY
    return world.connect()


@pytest.fixture
def bob(world: World, alice: Peer) -> Peer:
    return world.connect(attach_flags_recv=abi.ATTACH_ALL)


def sent(alice: Peer, bob: Peer) -> Message:
    """A message from `alice`, as it waits at `bob`."""
    alice.send(bob)
    return bob.connection.queue.entries()[-1].message


def process_of(peer: Peer) -> FakeProcess:
    process = peer.caller.process
    assert isinstance(process, FakeProcess)
    return process


def number_of(origins: Origins, message: Message) -> int:
    return origins.number_of(message.process, message.connection)


def test_the_same_sender_is_the_same_origin_at_any_time(world: World, alice: Peer, bob: Peer) -> None:
    origins = Origins()
    first = number_of(origins, sent(alice, bob))
    world.clock.monotonic += SECOND
    assert number_of(origins, sent(alice, bob)) == first != 0


@pytest.mark.parametrize(
    "change",
    [
        lambda alice: setattr(process_of(alice), "thread", b"renamed"),
        lambda alice: setattr(process_of(alice), "exe", b"/bin/other"),
        lambda alice: alice.acquire(b"org.example.Alice"),
    ],
)
def test_whatever_is_told_makes_it_another(alice: Peer, bob: Peer, change: Callable[[Peer], object]) -> None:
    origins = Origins()
    first = number_of(origins, sent(alice, bob))
    change(alice)
    second = number_of(origins, sent(alice, bob))
    assert second not in (0, first)


def test_nothing_told_is_no_origin(world: World, alice: Peer) -> None:
    origins = Origins()
    assert number_of(origins, sent(alice, world.connect())) == 0
    timed = sent(alice, world.connect(attach_flags_recv=abi.ATTACH_TIMESTAMP))
    assert number_of(origins, timed) == 0
    assert timestamp_of(timed.connection) == (world.clock.monotonic, world.clock.realtime)


def test_what_is_shown_is_what_the_message_would_show(alice: Peer, bob: Peer) -> None:
    message, ids = sent(alice, bob), bob.caller.ids
    for flags in (abi.ATTACH_CREDS, abi.ATTACH_NAMES | abi.ATTACH_EXE, abi.ATTACH_ALL & ~abi.ATTACH_TIMESTAMP, 0):
        expected = message.process.export(ids, flags, VERSION3.revision) + message.connection.export(flags, VERSION3)
        without, timed = (shown(message, ids, flags | time, VERSION3) for time in (0, abi.ATTACH_TIMESTAMP))
        assert without.items == timed.items == expected
        assert (without.timestamp, timed.timestamp) == (False, True)


def test_a_restored_message_shows_the_same(alice: Peer, bob: Peer) -> None:
    origins = Origins()
    message = sent(alice, bob)
    restored = Message(message.destination, message.source, message.payload_type)
    restored.sequence = message.sequence
    origins.restore(restored, number_of(origins, message), timestamp_of(message.connection))
    ids = bob.caller.ids
    of_process, of_connection = (ids, abi.ATTACH_ALL, VERSION3.revision), (abi.ATTACH_ALL, VERSION3)
    assert restored.process.export(*of_process) == message.process.export(*of_process) != b""
    assert restored.connection.export(*of_connection) == message.connection.export(*of_connection) != b""


def test_names_and_description_are_told_apart(world: World) -> None:
    origins = Origins()
    alice, bob = world.connect(), world.connect()
    none = origins.of_connection(alice.connection)
    assert origins.of_connection(bob.connection) == none
    alice.acquire(b"org.example.Alice")
    one = origins.of_connection(alice.connection)
    alice.acquire(b"org.example.Second")
    assert len({none, one, origins.of_connection(alice.connection)}) == 3


def test_numbers_end(monkeypatch: pytest.MonkeyPatch, alice: Peer, bob: Peer) -> None:
    monkeypatch.setattr(origin, "LIMIT", 1)
    origins = Origins()
    assert not origins.is_full
    number_of(origins, sent(alice, bob))
    assert origins.is_full
    origins.clear()
    assert not origins.is_full
