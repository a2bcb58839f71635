# SPDX-License-Identifier: GPL-2.0-or-later
"""Well-known names: what a name may look like, who owns it, and what happens when it changes hands."""

from __future__ import annotations

import errno

import pytest

from broker import limits
from broker.errors import (
    BadItem,
    BadName,
    CommandTooLarge,
    NameAlreadyOwned,
    NameTaken,
    NoSuchName,
    NotNameOwner,
    NotPermitted,
    TooManyNames,
    UnknownFlags,
    WrongConnectionKind,
)
from broker.naming import is_valid_name
from kdbus.abi import revision3 as abi
from tests.support.world import World, fails, name_item, notices, owner, world_access

NAME = b"org.example.Name"
REPLACE, ALLOW, QUEUE = abi.NAME_REPLACE_EXISTING, abi.NAME_ALLOW_REPLACEMENT, abi.NAME_QUEUE
CHANGE, ADD, REMOVE = abi.ITEM_NAME_CHANGE, abi.ITEM_NAME_ADD, abi.ITEM_NAME_REMOVE


@pytest.mark.parametrize(
    "name",
    [
        b"a.b",
        b"org.example.Name-1._x",
        b"-.-",
        b"_._",
        b"A.b9",
        b"a.\xc0\xff",  # the kernel's isalpha() takes Latin-1 letters
        b"a." + b"b" * (limits.NAME_LENGTH - 2),
    ],
)
def test_valid_names(name: bytes) -> None:
    assert is_valid_name(name, wildcard=False)
    assert is_valid_name(name, wildcard=True)


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b".",
        b"a",
        b".a",
        b"a.",
        b"a..b",
        b"a.b.",
        b"1a.b",
        b"a.1b",
        b"a.b c",
        b"a.b/c",
        b"a.\xd7",
        b"a.\xf7",
        b"a.\x80",
        b"*",
        b".*",
        b"a.*b",
        b"a.b*",
        b"*.a",
        b"a.*.b",
        b"a.**",
        b"a." + b"b" * (limits.NAME_LENGTH - 1),
    ],
)
def test_invalid_names(name: bytes) -> None:
    assert not is_valid_name(name, wildcard=False)
    assert not is_valid_name(name, wildcard=True)


def test_wildcard_only_where_it_is_allowed() -> None:
    assert is_valid_name(b"a.*", wildcard=True)
    assert is_valid_name(b"a.b.*", wildcard=True)
    assert not is_valid_name(b"a.*", wildcard=False)
    world = World()
    with fails(BadName, errno.EINVAL):
        world.connect().acquire(b"org.example.*")


def test_name_at_and_over_the_length_limit() -> None:
    peer = World().connect()
    longest = b"a." + b"b" * 253
    assert peer.acquire(longest) == 0
    assert owner(peer, longest) == peer.id
    with fails(CommandTooLarge, errno.EMSGSIZE):
        peer.acquire(longest + b"b")


def test_acquire_takes_exactly_one_name() -> None:
    peer = World().connect()
    for items in ([], [name_item(NAME), name_item(b"a.b")]):
        for command in ("NAME_ACQUIRE", "NAME_RELEASE"):
            with fails(BadItem, errno.EINVAL):
                peer.call(command, "kdbus_cmd_name", items)


def test_acquire_ignores_other_items() -> None:
    peer = World().connect()
    peer.call("NAME_ACQUIRE", "kdbus_cmd_name", [world_access(abi.POLICY_OWN), name_item(NAME)])
    assert owner(peer) == peer.id


def test_acquire_refuses_flags_that_only_the_bus_sets() -> None:
    peer = World().connect()
    for flag in (abi.NAME_IN_QUEUE, abi.NAME_ACTIVATOR):
        with fails(UnknownFlags, errno.EINVAL):
            peer.acquire(NAME, flag)


def test_acquire_writes_the_whole_command_back_as_it_was_read() -> None:
    # So kernel_flags, stored on the way, is overwritten again by what the program had there.
    peer = World().connect()
    outcome = peer.call("NAME_ACQUIRE", "kdbus_cmd_name", [name_item(NAME)], flags=ALLOW, kernel_flags=5)
    assert (outcome["flags"], outcome["kernel_flags"], outcome["return_flags"]) == (ALLOW, 5, 0)


def test_second_acquisition_by_the_owner() -> None:
    peer = World().connect()
    peer.acquire(NAME)
    with fails(NameAlreadyOwned, errno.EALREADY):
        peer.acquire(NAME, REPLACE | QUEUE)


@pytest.mark.parametrize(("mine", "others"), [(0, 0), (ALLOW, 0), (0, REPLACE), (QUEUE, REPLACE)])
def test_name_is_taken_unless_both_sides_agree(mine: int, others: int) -> None:
    world = World()
    first, second = world.connect(), world.connect()
    first.acquire(NAME, mine)
    with fails(NameTaken, errno.EEXIST):
        second.acquire(NAME, others)
    assert owner(first) == first.id


def test_replacement() -> None:
    world = World()
    watcher, first, second = world.connect(), world.connect(), world.connect()
    first.acquire(NAME, ALLOW)
    watcher.match()
    assert second.acquire(NAME, REPLACE) == REPLACE
    assert owner(first) == second.id
    assert notices(watcher) == [(CHANGE, first.id, ALLOW, second.id, REPLACE, NAME)]
    with fails(NotNameOwner, errno.ESRCH):  # the old owner did not ask for queuing, so it does not wait
        first.release(NAME)


def test_replaced_owner_that_asked_for_queuing_goes_to_the_end_of_the_queue() -> None:
    world = World()
    first, second, third = (world.connect() for _ in range(3))
    first.acquire(NAME, ALLOW | QUEUE)
    assert third.acquire(NAME, QUEUE) == QUEUE | abi.NAME_IN_QUEUE
    second.acquire(NAME, REPLACE)
    second.release(NAME)
    assert owner(first) == third.id
    third.release(NAME)
    assert owner(first) == first.id


def test_queue_is_in_order_and_keeps_flags() -> None:
    world = World()
    watcher, first, second, third = (world.connect() for _ in range(4))
    first.acquire(NAME)
    assert second.acquire(NAME, QUEUE | ALLOW) == QUEUE | ALLOW | abi.NAME_IN_QUEUE
    third.acquire(NAME, QUEUE)
    watcher.match()
    first.release(NAME)
    second.release(NAME)
    third.release(NAME)
    assert notices(watcher) == [
        (CHANGE, first.id, 0, second.id, QUEUE | ALLOW, NAME),
        (CHANGE, second.id, QUEUE | ALLOW, third.id, QUEUE, NAME),
        (REMOVE, third.id, QUEUE, 0, 0, NAME),
    ]


def test_place_in_the_queue_can_be_given_up() -> None:
    world = World()
    watcher, first, second = (world.connect() for _ in range(3))
    first.acquire(NAME)
    second.acquire(NAME, QUEUE)
    watcher.match()
    second.release(NAME)
    assert notices(watcher) == []
    with fails(NotNameOwner, errno.ESRCH):
        second.release(NAME)
    first.release(NAME)
    assert owner(first) is None


def test_each_acquisition_with_queue_is_a_place_of_its_own() -> None:
    world = World()
    first, second = world.connect(), world.connect()
    first.acquire(NAME)
    second.acquire(NAME, QUEUE)
    second.acquire(NAME, QUEUE)
    second.release(NAME)
    first.release(NAME)
    assert owner(first) == second.id


def test_owner_that_still_waits_for_its_own_name() -> None:
    # The original loops for ever here: the first in the queue is the owner itself.
    world = World()
    first, second, third = (world.connect() for _ in range(3))
    first.acquire(NAME, ALLOW)
    second.acquire(NAME, QUEUE)
    second.acquire(NAME, REPLACE)
    third.acquire(NAME, QUEUE)
    second.release(NAME)
    assert owner(first) == third.id
    assert not second.connection.waiting_for


def test_release_of_what_nobody_or_somebody_else_owns() -> None:
    world = World()
    first, second = world.connect(), world.connect()
    with fails(NoSuchName, errno.ESRCH):
        first.release(NAME)
    first.acquire(NAME)
    with fails(NotNameOwner, errno.ESRCH):
        second.release(NAME)
    with fails(BadName, errno.EINVAL):
        first.release(b"noname")


def test_names_per_connection() -> None:
    peer = World().connect()
    for number in range(limits.NAMES_PER_CONNECTION):
        peer.acquire(b"a.b%d" % number)
    with fails(BadName, errno.EINVAL):  # the name is looked at first
        peer.acquire(b"noname")
    with fails(TooManyNames, errno.E2BIG):
        peer.acquire(b"a.c")
    peer.release(b"a.b0")
    peer.acquire(b"a.c")


def test_limit_of_names_comes_before_the_policy() -> None:
    world = World()
    peer = world.connect(uid=1001)
    with fails(NotPermitted, errno.EPERM):
        peer.acquire(NAME)
    holder = world.policy_holder(b"a.*", world_access(abi.POLICY_OWN))
    for number in range(limits.NAMES_PER_CONNECTION):
        peer.acquire(b"a.b%d" % number)
    with fails(TooManyNames, errno.E2BIG):
        peer.acquire(NAME)
    holder.close()


def test_new_name_is_announced() -> None:
    world = World()
    watcher, peer = world.connect(), world.connect()
    watcher.match()
    peer.acquire(NAME, ALLOW)
    peer.release(NAME)
    assert notices(watcher) == [(ADD, 0, 0, peer.id, ALLOW, NAME), (REMOVE, peer.id, ALLOW, 0, 0, NAME)]


def test_names_of_a_connection_that_goes_are_released_in_the_order_of_acquisition() -> None:
    world = World()
    watcher, peer, waiter = (world.connect() for _ in range(3))
    for name in (b"c.c", b"a.a", b"b.b"):
        peer.acquire(name)
    waiter.acquire(b"a.a", QUEUE)
    peer.acquire(b"d.d")
    peer.release(b"c.c")
    peer.acquire(b"c.c")
    watcher.match()
    peer.close()
    assert notices(watcher) == [
        (CHANGE, peer.id, 0, waiter.id, QUEUE, b"a.a"),
        (REMOVE, peer.id, 0, 0, 0, b"b.b"),
        (REMOVE, peer.id, 0, 0, 0, b"d.d"),
        (REMOVE, peer.id, 0, 0, 0, b"c.c"),
        (abi.ITEM_ID_REMOVE, peer.id, peer.connection.flags),
    ]


def test_connection_that_goes_leaves_the_queues() -> None:
    world = World()
    first, second = world.connect(), world.connect()
    first.acquire(NAME)
    second.acquire(NAME, QUEUE)
    second.close()
    first.release(NAME)
    assert owner(first) is None


@pytest.mark.parametrize("command", ["NAME_ACQUIRE", "NAME_RELEASE"])
def test_only_ordinary_connections_acquire(command: str) -> None:
    world = World()
    for peer in (world.activator(b"a.a"), world.policy_holder(b"b.b"), world.monitor()):
        with fails(WrongConnectionKind, errno.EOPNOTSUPP):
            peer.call(command, "kdbus_cmd_name", [name_item(NAME)])
