# SPDX-License-Identifier: GPL-2.0-or-later
"""Subscribers: whoever has a match that fits is found, and few others are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.connection import Connection
from broker.errors import BadItem, NoSuchMatch, TooManyMatches
from broker.match import Rules
from broker.message import About, Message
from kdbus.abi import revision3 as abi
from tests.support.world import World, bloom_mask_item, fails, item, name_item, words_item

NAMES = (b"org.example.A", b"org.example.B")
PEERS = 5
ANY = abi.MATCH_ANY_ID

bits = st.lists(st.integers(0, 5), max_size=3).map(tuple)
ids = st.sampled_from((1, 2, 3, 0, ANY))
rules = st.one_of(
    st.lists(bits, min_size=1, max_size=3).map(lambda masks: bloom_mask_item(*masks)),
    ids.map(lambda number: words_item(abi.ITEM_ID, number)),
    st.sampled_from(NAMES).map(name_item),
    st.builds(
        lambda kind, number: words_item(kind, number, 0), st.sampled_from((abi.ITEM_ID_ADD, abi.ITEM_ID_REMOVE)), ids
    ),
    st.builds(
        lambda old, new, name: item(abi.ITEM_NAME_ADD, words(old, 0, new, 0) + name),
        ids,
        ids,
        st.sampled_from((b"", *(name + b"\0" for name in NAMES))),
    ),
)
matches = st.tuples(st.integers(0, PEERS - 1), st.integers(0, 2), st.lists(rules, max_size=2))


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


@contextmanager
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Rules]]:
    """The rules that are looked at meanwhile."""
    seen: list[Rules] = []
    fit = Rules.fit

    def note(self: Rules, message: Message, source: Connection | None) -> bool:
        seen.append(self)
        return fit(self, message, source)

    with monkeypatch.context() as patch:
        patch.setattr(Rules, "fit", note)
        yield seen


@given(
    st.lists(st.tuples(matches, st.sampled_from(("add", "replace", "remove"))), max_size=12),
    st.lists(st.integers(0, PEERS - 1), max_size=2),
    st.lists(st.tuples(st.integers(0, PEERS - 1), bits, st.integers(0, 3)), max_size=4),
    st.sampled_from((None, *range(PEERS))),
)
def test_those_are_found_who_have_a_match_that_fits(
    changes: list[tuple[tuple[int, int, list[bytes]], str]],
    owners: list[int],
    sent: list[tuple[int, tuple[int, ...], int]],
    gone: int | None,
) -> None:
    """In the order of their ids, and nobody twice; after any changes of matches."""
    world = World()
    peers = [world.connect() for _ in range(PEERS)]
    for owner, name in zip(owners, NAMES, strict=False):
        peers[owner].acquire(name)
    for (number, cookie, items), change in changes:
        if change == "remove":
            with suppress(NoSuchMatch):
                peers[number].unmatch(cookie)
        else:
            peers[number].match(*items, cookie=cookie, flags=abi.MATCH_REPLACE if change == "replace" else 0)
    if gone is not None:
        peers[gone].close()
    alive = [peer.connection for number, peer in enumerate(peers) if number != gone]
    subscribers = world.default_bus().bus.subscribers
    for number, filled, generation in sent:
        message = Message(abi.DESTINATION_BROADCAST, peers[number].id, 0)
        message.bloom_filter = sum(1 << bit for bit in set(filled))
        message.bloom_generation = generation
        source = peers[number].connection
        assert subscribers.wanting(message, source) == [one for one in alive if one.matches.fits(message, source)]
    for about in (
        About(abi.ITEM_ID_ADD, new_id=2),
        About(abi.ITEM_ID_REMOVE, old_id=3),
        About(abi.ITEM_NAME_ADD, 0, 1, NAMES[0]),
        About(abi.ITEM_NAME_REMOVE, 1, 0, NAMES[1]),
    ):
        notification = Message(abi.DESTINATION_BROADCAST, abi.SOURCE_KERNEL, abi.PAYLOAD_KERNEL)
        notification.notification = about
        assert subscribers.wanting(notification, None) == [one for one in alive if one.matches.fits(notification, None)]


@pytest.mark.parametrize(
    "other",
    [
        bloom_mask_item((5,)),
        bloom_mask_item((5,), (5, 3)),
        words_item(abi.ITEM_ID, 99),
        name_item(NAMES[0]),
        words_item(abi.ITEM_ID_ADD, ANY, 0),
        item(abi.ITEM_NAME_ADD, words(ANY, 0, ANY, 0)),
    ],
    ids=["bit", "bit of any generation", "id", "name", "notification", "notification about names"],
)
def test_who_wants_something_else_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, other: bytes) -> None:
    world = World()
    listener, speaker = world.connect(), world.connect()
    listener.match(bloom_mask_item((3,)))
    for _ in range(20):
        world.connect().match(other, bloom_mask_item((6,)))
        world.connect().match(other)
    with asked(monkeypatch) as looked_at:
        speaker.signal(bits=(3, 4))
    assert len(listener.received()) == 1
    assert len(looked_at) == 1


def test_a_rule_that_is_rarer_than_a_bit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody wants the same kind of signal, and each from somebody else."""
    world = World()
    speaker = world.connect()
    listeners = [world.connect() for _ in range(20)]
    for number, listener in enumerate(listeners, speaker.id):
        listener.match(bloom_mask_item((3,)), words_item(abi.ITEM_ID, number))
    with asked(monkeypatch) as looked_at:
        speaker.signal(bits=(3,))
    assert [len(listener.received()) for listener in listeners] == [1] + [0] * 19
    assert len(looked_at) == 1


def test_the_same_rules_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    speaker = world.connect()
    listeners = [world.connect() for _ in range(20)]
    for listener in listeners:
        listener.match(bloom_mask_item((3,)))
    with asked(monkeypatch) as looked_at:
        speaker.signal(bits=(3, 4))
    assert [len(listener.received()) for listener in listeners] == [1] * 20
    assert len(looked_at) == 1


def test_the_same_rules_twice_are_removed_one_by_one() -> None:
    world = World()
    listener, speaker = world.connect(), world.connect()
    for cookie in (1, 2):
        listener.match(bloom_mask_item((3,)), cookie=cookie)
    listener.match(bloom_mask_item((4,)), cookie=3)
    listener.unmatch(1)
    listener.unmatch(3)
    speaker.signal(bits=(3,))
    assert len(listener.received()) == 1
    listener.unmatch(2)
    speaker.signal(bits=(3,))
    assert not listener.received()


def test_nothing_is_left_of_what_has_ended() -> None:
    world = World()
    subscribers = world.default_bus().bus.subscribers
    peers = [world.connect() for _ in range(4)]
    for number, peer in enumerate(peers):
        peer.match(bloom_mask_item((3,)), cookie=1)
        peer.match(bloom_mask_item((number,)), cookie=2)
        peer.match(cookie=3)
    assert len(subscribers) == 5
    peers[0].match(cookie=1, flags=abi.MATCH_REPLACE)
    peers[0].unmatch(2)
    assert len(subscribers) == 4
    for peer in peers[:3]:
        peer.close()
    peers[3].received()
    peers[3].bye()
    assert len(subscribers) == 0
    assert not subscribers._filed and not subscribers._bits


def test_a_match_that_is_refused_subscribes_nobody() -> None:
    world = World()
    peer = world.connect()
    with fails(BadItem):
        peer.match(item(99))
    many = [words_item(abi.ITEM_ID, 1)] * 1100
    for cookie in (1, 2, 3):
        peer.match(*many, cookie=cookie)
    with fails(TooManyMatches):
        peer.match(*many, cookie=4)
    assert len(world.default_bus().bus.subscribers) == 1


def test_a_broadcast_does_not_go_through_all_connections() -> None:
    world = World()
    bus = world.default_bus().bus
    listener, speaker, idle = world.connect(), world.connect(), world.connect()
    listener.match()

    class Unseen(dict[int, object]):
        """Connections that may be looked up, but not gone through."""

        def __iter__(self) -> None:  # type: ignore[override]
            raise AssertionError

        values = items = __iter__  # type: ignore[assignment]

    bus.connections = Unseen(bus.connections)  # type: ignore[assignment]
    speaker.signal(payload=b"x")
    idle.acquire(b"a.b")
    assert [message.payload for message in listener.received()] == [b"x", b""]
