# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy databases: who is granted what, what an entry must look like, and whose entries replace whose."""

from __future__ import annotations

import errno

import pytest

from broker import limits
from broker.errors import BadArgument, BadItem, BadName, DuplicateItem, TooManyPolicies
from broker.interfaces import Credentials
from broker.item import Item, parse
from broker.policy import NO_ACCESS, PolicyDatabase
from kdbus.abi import revision3 as abi
from tests.support.world import (
    FakeIds,
    World,
    access_item,
    credentials,
    fails,
    item,
    name_item,
    words_item,
    world_access,
)

NAME = b"org.example.Name"
SEE, TALK, OWN = abi.POLICY_SEE, abi.POLICY_TALK, abi.POLICY_OWN
USER, GROUP, WORLD = abi.POLICY_ACCESS_USER, abi.POLICY_ACCESS_GROUP, abi.POLICY_ACCESS_WORLD

ANYBODY = credentials(4711)


def fill(
    database: PolicyDatabase,
    *items: bytes,
    owner: object = "owner",
    ids: FakeIds | None = None,
    single: bool = False,
    wildcards: bool = True,
) -> None:
    database.set(parse(b"".join(items)), ids or FakeIds(), owner, single=single, wildcards=wildcards)


def database(*items: bytes, ids: FakeIds | None = None) -> PolicyDatabase:
    made = PolicyDatabase()
    fill(made, *items, ids=ids)
    return made


def test_name_without_entry_grants_nothing() -> None:
    assert PolicyDatabase().query(ANYBODY, NAME) == NO_ACCESS
    assert database(name_item(b"org.example.Other"), world_access(OWN)).query(ANYBODY, NAME) == NO_ACCESS


def test_entry_without_access_grants_nothing() -> None:
    assert database(name_item(NAME)).query(ANYBODY, NAME) == NO_ACCESS


@pytest.mark.parametrize("access", [SEE, TALK, OWN])
def test_world(access: int) -> None:
    assert database(name_item(NAME), world_access(access)).query(ANYBODY, NAME) == access


def test_user_is_the_effective_one() -> None:
    made = database(name_item(NAME), access_item(USER, 5, TALK))
    assert made.query(Credentials(1, 5, 1, 1, 1, 1, 1, 1), NAME) == TALK
    assert made.query(Credentials(5, 1, 5, 5, 5, 5, 5, 5, (5,)), NAME) == NO_ACCESS


def test_group_is_the_effective_one_or_a_supplementary_one() -> None:
    made = database(name_item(NAME), access_item(GROUP, 5, TALK))
    assert made.query(Credentials(1, 1, 1, 1, 1, 5, 1, 1), NAME) == TALK
    assert made.query(Credentials(1, 1, 1, 1, 1, 1, 1, 1, (3, 5)), NAME) == TALK
    assert made.query(Credentials(5, 5, 5, 5, 5, 1, 5, 5, (3,)), NAME) == NO_ACCESS


def test_highest_access_of_all_entries_counts() -> None:
    made = database(name_item(NAME), access_item(USER, 5, OWN), access_item(GROUP, 5, TALK), world_access(SEE))
    assert made.query(credentials(5), NAME) == OWN
    assert made.query(credentials(1, 5), NAME) == TALK
    assert made.query(credentials(1), NAME) == SEE


def test_wildcard_serves_names_one_element_below() -> None:
    made = database(name_item(b"org.example.*"), world_access(OWN))
    assert made.query(ANYBODY, b"org.example.Name") == OWN
    assert made.query(ANYBODY, b"org.example") == NO_ACCESS
    assert made.query(ANYBODY, b"org.example.Name.More") == NO_ACCESS
    assert made.query(ANYBODY, b"org.examples.Name") == NO_ACCESS
    assert made.query(ANYBODY, b"org.Name") == NO_ACCESS


def test_entry_of_the_name_itself_hides_the_wildcard() -> None:
    made = database(name_item(b"org.example.*"), world_access(OWN), name_item(NAME), world_access(SEE))
    assert made.query(ANYBODY, NAME) == SEE
    fill(made, name_item(b"org.example.*"), world_access(OWN), name_item(NAME))
    assert made.query(ANYBODY, NAME) == NO_ACCESS


def test_name_and_wildcard_of_the_same_text_are_different_entries() -> None:
    made = database(name_item(b"org.example"), world_access(SEE), name_item(b"org.example.*"), world_access(OWN))
    assert made.query(ANYBODY, b"org.example") == SEE
    assert made.query(ANYBODY, b"org.example.x") == OWN


def test_ids_are_those_of_the_callers_namespace() -> None:
    ids = FakeIds(users={100005: 5}, groups={200005: 5})
    made = database(name_item(NAME), access_item(USER, 5, TALK), access_item(GROUP, 5, SEE), ids=ids)
    assert made.query(credentials(100005), NAME) == TALK
    assert made.query(credentials(1, 200005), NAME) == SEE
    assert made.query(credentials(5), NAME) == NO_ACCESS


def test_id_is_cut_to_32_bits() -> None:
    made = database(name_item(NAME), access_item(USER, 1 << 32 | 5, TALK))
    assert made.query(credentials(5), NAME) == TALK


@pytest.mark.parametrize("kind", [USER, GROUP])
def test_id_that_is_not_mapped(kind: int) -> None:
    with fails(BadArgument, errno.EINVAL):
        database(name_item(NAME), access_item(kind, 5, TALK), ids=FakeIds(users={}, groups={}))


def test_world_needs_no_id() -> None:
    made = database(name_item(NAME), access_item(WORLD, 5, TALK), ids=FakeIds(users={}, groups={}))
    assert made.query(ANYBODY, NAME) == TALK


@pytest.mark.parametrize("access", [3, 1 << 8, 1 << 32, (1 << 64) - 1])
def test_access_that_does_not_exist(access: int) -> None:
    with fails(BadArgument, errno.EINVAL):
        database(name_item(NAME), world_access(access))


@pytest.mark.parametrize("kind", [0, 4, 1 << 8 | WORLD])
def test_kind_that_does_not_exist(kind: int) -> None:
    with fails(BadArgument, errno.EINVAL):
        database(name_item(NAME), access_item(kind, 0, TALK))


def test_access_without_a_name() -> None:
    with fails(BadArgument, errno.EINVAL):
        database(world_access(TALK))
    with fails(BadArgument, errno.EINVAL):
        database(world_access(TALK), name_item(NAME))


def test_access_item_of_the_wrong_size() -> None:
    with fails(BadItem, errno.EINVAL):
        database(name_item(NAME), item(abi.ITEM_POLICY_ACCESS, bytes(16)))


def test_wildcard_where_none_is_allowed() -> None:
    with fails(BadArgument, errno.EINVAL):
        fill(PolicyDatabase(), name_item(b"org.example.*"), wildcards=False)


@pytest.mark.parametrize("name", [b"noname", b"*", b".*", b"org.*.x", b"org.x*"])
def test_bad_name(name: bytes) -> None:
    with fails(BadName, errno.EINVAL):
        database(name_item(name))


def test_second_name_where_one_is_allowed() -> None:
    # Counted before it is looked at.
    with fails(TooManyPolicies, errno.E2BIG):
        fill(PolicyDatabase(), name_item(b"a.b"), name_item(b"noname"), single=True)


def test_items_over_their_limit() -> None:
    entries = [Item(abi.ITEM_NAME, b"a.b\0")] + [Item(0x7777, bytes(8))] * (limits.POLICY_SIZE // 24)
    with fails(TooManyPolicies, errno.E2BIG):
        PolicyDatabase().set(entries, FakeIds(), "owner", single=False, wildcards=True)


def test_other_items_are_ignored() -> None:
    made = database(name_item(NAME), words_item(abi.ITEM_ID, 5), world_access(TALK))
    assert made.query(ANYBODY, NAME) == TALK


def test_name_given_twice() -> None:
    with fails(DuplicateItem, errno.EEXIST):
        database(name_item(NAME), name_item(NAME))


def test_name_of_another_owner() -> None:
    made = database(name_item(NAME), world_access(SEE))
    with fails(DuplicateItem, errno.EEXIST):
        fill(made, name_item(NAME), world_access(OWN), owner="other")
    assert made.query(ANYBODY, NAME) == SEE


def test_setting_replaces_what_the_owner_had_and_nothing_else() -> None:
    made = database(name_item(b"a.a"), world_access(OWN), name_item(b"b.b"), world_access(OWN))
    fill(made, name_item(b"c.c"), world_access(TALK), owner="other")
    fill(made, name_item(b"b.b"), world_access(SEE))
    assert [made.query(ANYBODY, name) for name in (b"a.a", b"b.b", b"c.c")] == [NO_ACCESS, SEE, TALK]


@pytest.mark.parametrize(
    "items",
    [
        [name_item(b"a.b"), world_access(7)],
        [name_item(b"a.b"), name_item(b"c.c")],
        [name_item(b"a.b"), name_item(b"noname")],
    ],
)
def test_failing_set_changes_nothing(items: list[bytes]) -> None:
    made = database(name_item(NAME), world_access(SEE))
    fill(made, name_item(b"c.c"), owner="other")
    with pytest.raises((BadArgument, BadName, DuplicateItem)):
        fill(made, *items)
    assert made.query(ANYBODY, NAME) == SEE
    fill(made, name_item(b"a.b"), owner="third")


def test_entries_go_with_their_owner() -> None:
    made = database(name_item(NAME), world_access(OWN))
    fill(made, name_item(b"c.c"), world_access(TALK), owner="other")
    made.remove_owner("owner")
    assert [made.query(ANYBODY, name) for name in (NAME, b"c.c")] == [NO_ACCESS, TALK]


# As commands


def test_hello_of_a_policy_holder_may_have_a_wildcard_and_that_of_an_activator_not() -> None:
    world = World()
    holder = world.policy_holder(b"org.example.*", world_access(OWN))
    owner = world.connect(uid=1001)
    owner.acquire(NAME)
    holder.close()
    with fails(BadArgument, errno.EINVAL):
        world.activator(b"org.other.*", world_access(OWN))


def test_hello_with_an_access_before_the_name() -> None:
    with fails(BadArgument, errno.EINVAL):
        World().connect(flags=abi.HELLO_POLICY_HOLDER, items=[world_access(OWN), name_item(NAME)])


def test_failing_policy_ends_the_hello() -> None:
    world = World()
    world.policy_holder(NAME)
    bus = world.default_bus().bus
    connections, budget = len(bus.connections), bus.creator.connections
    with fails(DuplicateItem, errno.EEXIST):
        world.policy_holder(NAME)
    assert (len(bus.connections), bus.creator.connections) == (connections, budget)


def test_update_of_a_policy_holder_replaces_its_entry() -> None:
    world = World()
    holder = world.policy_holder(NAME, world_access(SEE))
    policy = world.default_bus().bus.policy
    holder.update(name_item(b"a.*"), world_access(TALK))
    assert (policy.query(ANYBODY, NAME), policy.query(ANYBODY, b"a.b")) == (NO_ACCESS, TALK)
    with fails(TooManyPolicies, errno.E2BIG):
        holder.update(name_item(b"a.*"), name_item(b"b.b"))
    with fails(BadArgument, errno.EINVAL):
        holder.update(world_access(OWN))
    assert policy.query(ANYBODY, b"a.b") == TALK
    holder.close()
    assert policy.query(ANYBODY, b"a.b") == NO_ACCESS
