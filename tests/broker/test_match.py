# SPDX-License-Identifier: GPL-2.0-or-later
"""Matches: which rule holds for what, and what a match must look like."""

from __future__ import annotations

import errno
import struct

import pytest

from broker import limits
from broker.errors import (
    BadItem,
    BadName,
    BloomSizeMismatch,
    CommandTooLarge,
    NoSuchMatch,
    NotPermitted,
    TooManyMatches,
    UnknownFlags,
    WrongConnectionKind,
)
from kdbus.abi import revision3 as abi
from tests.support.world import (
    BLOOM_SIZE,
    Peer,
    World,
    bloom_filter_item,
    bloom_mask_item,
    fails,
    item,
    name_item,
    notices,
    string_item,
    words_item,
)

NAME = b"org.example.Name"
ANY = abi.MATCH_ANY_ID
CHANGE, ADD, REMOVE = abi.ITEM_NAME_CHANGE, abi.ITEM_NAME_ADD, abi.ITEM_NAME_REMOVE


def name_rule(item_type: int, old: int = ANY, new: int = ANY, name: bytes | None = None) -> bytes:
    """A rule about names; the flags in it are not looked at."""
    payload = struct.pack("<4Q", old, 0xAAAA, new, 0xBBBB)
    return item(item_type, payload + (b"" if name is None else name + b"\0"))


def id_rule(item_type: int, number: int = ANY) -> bytes:
    return words_item(item_type, number, 0xCCCC)


def hears(listener: Peer, speaker: Peer, *bits: int) -> bool:
    """Whether a broadcast of `speaker` reaches `listener`."""
    speaker.signal(bits=bits)
    return bool(listener.received())


@pytest.fixture
def pair() -> tuple[Peer, Peer]:
    world = World()
    return world.connect(), world.connect()


def test_without_match_nothing_comes(pair: tuple[Peer, Peer]) -> None:
    assert not hears(*pair)


def test_match_without_rules_takes_everything(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match()
    assert hears(listener, speaker)
    speaker.acquire(NAME)
    assert len(listener.received()) == 1


def test_own_broadcasts_do_not_come_back(pair: tuple[Peer, Peer]) -> None:
    listener, _ = pair
    listener.match()
    assert not hears(listener, listener)


def test_bloom_mask_must_be_contained_in_the_filter(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(bloom_mask_item((3, 200)))
    assert hears(listener, speaker, 3, 200)
    assert hears(listener, speaker, 1, 3, 200, 500)
    assert not hears(listener, speaker, 3)
    assert not hears(listener, speaker, 200)
    assert not hears(listener, speaker)


def test_empty_bloom_mask_takes_every_filter(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(bloom_mask_item(()))
    assert hears(listener, speaker)


@pytest.mark.parametrize(("generation", "bit"), [(0, 1), (1, 2), (2, 3), (3, 3), (1 << 63, 3)])
def test_mask_of_the_filters_generation_or_the_last_one(pair: tuple[Peer, Peer], generation: int, bit: int) -> None:
    listener, speaker = pair
    listener.match(bloom_mask_item((1,), (2,), (3,)))
    for tried in (1, 2, 3):
        filter_item = bloom_filter_item(tried, generation=generation)
        speaker.send(abi.DESTINATION_BROADCAST, items=[filter_item], flags=abi.MESSAGE_SIGNAL)
        assert bool(listener.received()) == (tried == bit)


@pytest.mark.parametrize("size", [0, 1, 8, BLOOM_SIZE - 1, BLOOM_SIZE + 8, 2 * BLOOM_SIZE - 1])
def test_bloom_mask_of_the_wrong_size(pair: tuple[Peer, Peer], size: int) -> None:
    with fails(BloomSizeMismatch, errno.EDOM):
        pair[0].match(item(abi.ITEM_BLOOM_MASK, bytes(size)))


def test_sender_by_id(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(words_item(abi.ITEM_ID, speaker.id + 100))
    assert not hears(listener, speaker)
    listener.match(words_item(abi.ITEM_ID, speaker.id))
    assert hears(listener, speaker)


def test_sender_by_any_id_takes_messages_and_no_notifications(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(words_item(abi.ITEM_ID, ANY))
    assert hears(listener, speaker)
    speaker.acquire(NAME)
    assert not listener.received()


def test_sender_by_name(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(name_item(NAME))
    assert not hears(listener, speaker)
    speaker.acquire(NAME)
    assert hears(listener, speaker)
    speaker.release(NAME)
    assert not hears(listener, speaker)


def test_waiting_for_a_name_is_not_owning_it() -> None:
    world = World()
    listener, speaker, owner = world.connect(), world.connect(), world.connect()
    owner.acquire(NAME)
    speaker.acquire(NAME, abi.NAME_QUEUE)
    listener.match(name_item(NAME))
    assert not hears(listener, speaker)


@pytest.mark.parametrize("name", [b"noname", b"org.example.*", b""])
def test_bad_name(pair: tuple[Peer, Peer], name: bytes) -> None:
    with fails(BadName, errno.EINVAL):
        pair[0].match(name_item(name))


def test_all_rules_of_a_match_must_hold(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(words_item(abi.ITEM_ID, speaker.id), bloom_mask_item((1,)))
    assert hears(listener, speaker, 1)
    assert not hears(listener, speaker, 2)


def test_any_match_suffices_and_delivers_once(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(bloom_mask_item((1,)), cookie=1)
    listener.match(bloom_mask_item((2,)), cookie=2)
    assert hears(listener, speaker, 2)
    speaker.signal(bits=(1, 2))
    assert len(listener.received()) == 1


def test_rules_about_senders_and_notifications_exclude_each_other(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(words_item(abi.ITEM_ID, ANY), name_rule(ADD))
    assert not hears(listener, speaker)
    speaker.acquire(NAME)
    assert not listener.received()


# Notifications


def changes(*rules: bytes) -> list[int | bytes]:
    """Item types of the notifications that reach a connection with these matches (one per rule), while `NAME` is
    acquired, handed over, and released, and a connection comes and goes."""
    world = World()
    listener, first, second = world.connect(), world.connect(), world.connect()
    assert (first.id, second.id) == (2, 3)
    for rule in rules:
        listener.match(rule)
    first.acquire(NAME, abi.NAME_ALLOW_REPLACEMENT)
    second.acquire(NAME, abi.NAME_REPLACE_EXISTING)
    second.release(NAME)
    world.connect().close()
    return [notice[0] for notice in notices(listener)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (name_rule(ADD), [ADD]),
        (name_rule(CHANGE), [CHANGE]),
        (name_rule(REMOVE), [REMOVE]),
        (name_rule(ADD, old=0), [ADD]),
        (name_rule(ADD, old=2), []),
        (name_rule(ADD, new=2), [ADD]),
        (name_rule(ADD, new=3), []),
        (name_rule(CHANGE, old=2, new=3), [CHANGE]),
        (name_rule(CHANGE, old=3), []),
        (name_rule(CHANGE, new=2), []),
        (name_rule(REMOVE, old=3, new=0), [REMOVE]),
        (name_rule(REMOVE, new=3), []),
        (name_rule(ADD, name=NAME), [ADD]),
        (name_rule(ADD, name=b"org.example.Other"), []),
        (name_rule(ADD, name=b"org.example.*"), []),  # no wildcards here
        (name_rule(ADD, name=b""), []),
        (name_rule(CHANGE, old=2, new=3, name=NAME), [CHANGE]),
        (id_rule(abi.ITEM_ID_ADD), [abi.ITEM_ID_ADD]),
        (id_rule(abi.ITEM_ID_REMOVE), [abi.ITEM_ID_REMOVE]),
        (id_rule(abi.ITEM_ID_ADD, 4), [abi.ITEM_ID_ADD]),
        (id_rule(abi.ITEM_ID_REMOVE, 4), [abi.ITEM_ID_REMOVE]),
        (id_rule(abi.ITEM_ID_ADD, 3), []),
        (id_rule(abi.ITEM_ID_REMOVE, 3), []),
    ],
)
def test_rules_about_notifications(rule: bytes, expected: list[int]) -> None:
    assert changes(rule) == expected


def test_several_matches_about_notifications() -> None:
    assert changes(name_rule(REMOVE), id_rule(abi.ITEM_ID_ADD)) == [REMOVE, abi.ITEM_ID_ADD]


def test_two_notification_rules_in_one_match_never_hold() -> None:
    world = World()
    listener, peer = world.connect(), world.connect()
    listener.match(name_rule(ADD), name_rule(REMOVE))
    peer.acquire(NAME)
    peer.release(NAME)
    assert not listener.received()


@pytest.mark.parametrize(
    "rule",
    [
        item(ADD, bytes(31)),
        item(CHANGE, bytes(32) + b"no zero"),
        item(REMOVE, bytes(32) + b"a\0b\0"),
        item(abi.ITEM_ID_ADD, bytes(8)),
        item(abi.ITEM_ID_REMOVE, bytes(24)),
        item(abi.ITEM_ID, bytes(4)),
        string_item(abi.ITEM_DST_NAME, NAME),
        item(abi.ITEM_REPLY_DEAD),
        item(0x7777, bytes(8)),
    ],
)
def test_malformed_or_unknown_rule(pair: tuple[Peer, Peer], rule: bytes) -> None:
    listener, speaker = pair
    with fails(BadItem, errno.EINVAL):
        listener.match(words_item(abi.ITEM_ID, ANY), rule)
    assert not hears(listener, speaker)


# Adding and removing


def test_first_bad_rule_decides_the_errno(pair: tuple[Peer, Peer]) -> None:
    small = item(abi.ITEM_BLOOM_MASK, bytes(8))
    with fails(BloomSizeMismatch, errno.EDOM):
        pair[0].match(small, name_item(b"noname"))
    with fails(BadName, errno.EINVAL):
        pair[0].match(name_item(b"noname"), small)


def test_256_matches_and_no_more(pair: tuple[Peer, Peer]) -> None:
    listener, _ = pair
    for cookie in range(limits.MATCHES_PER_CONNECTION):
        listener.match(cookie=cookie)
    with fails(TooManyMatches, errno.EMFILE):
        listener.match(cookie=256)
    with fails(TooManyMatches, errno.EMFILE):  # replaces nothing
        listener.match(cookie=256, flags=abi.MATCH_REPLACE)
    listener.match(cookie=255, flags=abi.MATCH_REPLACE)
    listener.unmatch(7)
    listener.match(cookie=256)


def test_matches_of_one_cookie_add_up_and_are_removed_together(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(bloom_mask_item((1,)), cookie=5)
    listener.match(bloom_mask_item((2,)), cookie=5)
    listener.match(bloom_mask_item((3,)), cookie=6)
    assert hears(listener, speaker, 1) and hears(listener, speaker, 2)
    listener.unmatch(5)
    assert not hears(listener, speaker, 1, 2)
    assert hears(listener, speaker, 3)


def test_replace_removes_all_of_that_cookie(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(bloom_mask_item((1,)), cookie=5)
    listener.match(bloom_mask_item((2,)), cookie=5)
    listener.match(bloom_mask_item((4,)), cookie=6)
    listener.match(bloom_mask_item((3,)), cookie=5, flags=abi.MATCH_REPLACE)
    assert [hears(listener, speaker, bit) for bit in (1, 2, 3, 4)] == [False, False, True, True]


def test_replace_with_a_bad_rule_changes_nothing(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    listener.match(cookie=5)
    with fails(BadName, errno.EINVAL):
        listener.match(name_item(b"noname"), cookie=5, flags=abi.MATCH_REPLACE)
    assert hears(listener, speaker)


def test_remove_of_an_unknown_cookie(pair: tuple[Peer, Peer]) -> None:
    listener, _ = pair
    with fails(NoSuchMatch, errno.ENOENT):
        listener.unmatch(1)
    listener.match(cookie=1)
    listener.unmatch(1)
    with fails(NoSuchMatch, errno.ENOENT):
        listener.unmatch(1)


def test_remove_takes_no_items_and_no_flags(pair: tuple[Peer, Peer]) -> None:
    listener, _ = pair
    with fails(CommandTooLarge, errno.EMSGSIZE):
        listener.call("MATCH_REMOVE", "kdbus_cmd_match", [words_item(abi.ITEM_ID, 1)])
    with fails(UnknownFlags, errno.EINVAL):
        listener.call("MATCH_REMOVE", "kdbus_cmd_match", flags=abi.MATCH_REPLACE)
    with fails(UnknownFlags, errno.EINVAL):
        listener.match(flags=2)


@pytest.mark.parametrize("command", ["MATCH_ADD", "MATCH_REMOVE"])
def test_only_ordinary_connections_have_matches(command: str) -> None:
    world = World()
    for peer in (world.activator(b"a.a"), world.policy_holder(b"b.b"), world.monitor()):
        with fails(WrongConnectionKind, errno.EOPNOTSUPP):
            peer.call(command, "kdbus_cmd_match")


def test_unicast_signal_needs_a_match(pair: tuple[Peer, Peer]) -> None:
    listener, speaker = pair
    with fails(NotPermitted, errno.EPERM):
        speaker.signal(listener, bits=(1,))
    listener.match(bloom_mask_item((1,)))
    speaker.signal(listener, bits=(1,))
    assert len(listener.received()) == 1
