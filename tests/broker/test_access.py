# SPDX-License-Identifier: GPL-2.0-or-later
"""Access: how privilege, the bus's policy and the endpoint's policy decide together.

Users: 1000 makes the bus and is privileged on its default endpoint; 1001 and 1002 are strangers.
"""

from __future__ import annotations

import errno

import pytest

from broker.domain import CAP_IPC_OWNER
from broker.errors import NotPermitted
from broker.interfaces import Credentials
from kdbus.abi import revision3 as abi
from tests.support.world import Peer, World, access_item, credentials, fails, name_item, world_access

NAME = b"org.example.Name"
SEE, TALK, OWN = abi.POLICY_SEE, abi.POLICY_TALK, abi.POLICY_OWN
USER = abi.POLICY_ACCESS_USER


def may(peer: Peer, other: Peer) -> bool:
    """Whether `peer` may send to `other`."""
    try:
        peer.send(other)
    except NotPermitted:
        return False
    other.received()
    return True


# Privilege


def test_who_is_privileged() -> None:
    world = World()
    world.default_bus()
    effective, real, capable = world.caller(5), world.caller(5), world.caller(5)
    effective.process.who = Credentials(5, 1000, 5, 5, 5, 5, 5, 5)
    real.process.who = Credentials(1000, 5, 1000, 1000, 5, 5, 5, 5)
    capable.process.privileges.add(CAP_IPC_OWNER)
    assert world.connect(caller=effective).connection.privileged
    assert not world.connect(caller=real).connection.privileged
    assert world.connect(caller=capable).connection.privileged
    capable.process.privileges = {CAP_IPC_OWNER - 1, CAP_IPC_OWNER + 1}
    assert not world.connect(caller=capable).connection.privileged


def test_nobody_is_privileged_on_a_custom_endpoint() -> None:
    world = World()
    world.endpoint("door")
    caller = world.caller(1000)
    caller.process.privileges.add(CAP_IPC_OWNER)
    assert not world.connect(endpoint="1000-door", caller=caller).connection.privileged


def test_privilege_is_that_of_the_opener() -> None:
    world = World()
    opened, _ = world.open(caller=world.caller(1000))
    stranger = world.caller(1001)
    opened.call("HELLO", "kdbus_cmd_hello", caller=stranger, pool_size=4096)
    assert world.default_bus().bus.connections[1].privileged
    opened, _ = world.open(caller=world.caller(1001))
    opened.call("HELLO", "kdbus_cmd_hello", caller=world.caller(1000), pool_size=4096)
    assert not world.default_bus().bus.connections[2].privileged


# Owning


def test_privileged_connection_owns_whatever_it_likes() -> None:
    world = World()
    world.policy_holder(NAME, access_item(USER, 1001, OWN))
    world.connect().acquire(NAME)


@pytest.mark.parametrize(("access", "allowed"), [(SEE, False), (TALK, False), (OWN, True)])
def test_stranger_owns_what_the_bus_grants(access: int, allowed: bool) -> None:
    world = World()
    world.policy_holder(NAME, access_item(USER, 1001, access))
    if allowed:
        world.connect(uid=1001).acquire(NAME)
    for uid in (1002,) if allowed else (1001, 1002):
        with fails(NotPermitted, errno.EPERM):
            world.connect(uid=uid).acquire(NAME)


def test_own_is_asked_for_the_calling_thread() -> None:
    world = World()
    world.policy_holder(NAME, access_item(USER, 1001, OWN))
    peer = world.connect(uid=1002)
    peer.acquire(NAME, caller=world.caller(1001))


def test_custom_endpoint_must_grant_own_as_well() -> None:
    world = World()
    owner = world.endpoint("door", name_item(NAME), world_access(TALK))
    peer = world.connect(endpoint="1000-door", uid=1001)
    world.policy_holder(NAME, world_access(OWN))
    with fails(NotPermitted, errno.EPERM):
        peer.acquire(NAME)
    owner.update(name_item(NAME), world_access(OWN))
    peer.acquire(NAME)
    with fails(NotPermitted, errno.EPERM):  # the endpoint's grant alone is not enough
        owner.update(name_item(b"a.b"), world_access(OWN))
        peer.acquire(b"a.b")


def test_policy_is_asked_only_when_a_name_is_acquired() -> None:
    world = World()
    holder = world.policy_holder(NAME, world_access(OWN))
    peer = world.connect(uid=1001)
    peer.acquire(NAME)
    holder.update(name_item(NAME))
    assert world.default_bus().bus.names.find(NAME) is not None
    peer.release(NAME)
    with fails(NotPermitted, errno.EPERM):
        peer.acquire(NAME)


# Talking


def test_privileged_connection_talks_to_everybody_and_strangers_to_their_own_user() -> None:
    world = World()
    owner, first, second = world.connect(), world.connect(uid=1001), world.connect(uid=1002)
    assert may(owner, first)
    assert not may(first, owner)
    assert not may(first, second)
    assert may(first, world.connect(uid=1001))


def test_same_user_means_my_effective_and_its_real_one() -> None:
    world = World()
    caller = world.caller(5)
    caller.process.who = Credentials(1001, 1002, 5, 5, 5, 5, 5, 5)
    mixed = world.connect(caller=caller)
    first, second = world.connect(uid=1001), world.connect(uid=1002)
    assert may(mixed, second) and not may(mixed, first)
    assert may(first, mixed) and not may(second, mixed)


@pytest.mark.parametrize(("access", "allowed"), [(SEE, False), (TALK, True), (OWN, True)])
def test_stranger_talks_to_owners_of_granted_names(access: int, allowed: bool) -> None:
    world = World()
    service, peer = world.connect(), world.connect(uid=1001)
    service.acquire(b"a.b")
    service.acquire(NAME)
    world.policy_holder(NAME, access_item(USER, 1001, access))
    assert may(peer, service) == allowed
    service.release(NAME)
    assert not may(peer, service)


def test_waiting_for_a_granted_name_is_not_enough() -> None:
    world = World()
    service, waiter, peer = world.connect(), world.connect(), world.connect(uid=1001)
    service.acquire(NAME)
    waiter.acquire(NAME, abi.NAME_QUEUE)
    world.policy_holder(NAME, world_access(TALK))
    assert not may(peer, waiter)
    service.release(NAME)
    assert may(peer, waiter) and not may(peer, service)


def test_talk_is_asked_for_the_calling_thread() -> None:
    world = World()
    peer, other = world.connect(uid=1001), world.connect(uid=1002)
    peer.send(other, caller=world.caller(1002))
    with fails(NotPermitted, errno.EPERM):
        peer.send(other)


def test_group_of_the_policy_may_be_a_supplementary_one() -> None:
    world = World()
    service = world.connect()
    service.acquire(NAME)
    world.policy_holder(NAME, access_item(abi.POLICY_ACCESS_GROUP, 50, TALK))
    member = world.connect(caller=world.caller(1001, gid=1, groups=(7, 50)))
    assert may(member, service)
    assert not may(world.connect(caller=world.caller(1001, gid=1, groups=(7,))), service)


def test_custom_endpoint_must_grant_talk_as_well() -> None:
    world = World()
    owner = world.endpoint("door")
    service = world.connect(uid=1001)
    peer = world.connect(endpoint="1000-door", uid=1001)
    assert not may(peer, service)  # though of the same user
    holder = world.policy_holder(NAME, world_access(OWN))
    service.acquire(NAME)
    owner.update(name_item(NAME), world_access(SEE))
    assert not may(peer, service)
    owner.update(name_item(NAME), world_access(TALK))
    assert may(peer, service)
    stranger = world.connect(endpoint="1000-door", uid=1002)
    assert may(stranger, service)
    holder.close()
    assert may(peer, service) and not may(stranger, service)


def test_other_side_of_a_custom_endpoint_is_not_restricted() -> None:
    world = World()
    world.endpoint("door")
    assert may(world.connect(), world.connect(endpoint="1000-door", uid=1001))


# Broadcasts and signals: the receiver needs TALK to the sender, with its credentials at HELLO


def test_broadcast_reaches_those_who_may_talk_to_the_sender() -> None:
    world = World()
    service = world.connect()
    service.acquire(NAME)
    stranger, colleague = world.connect(uid=1001), world.connect()
    stranger.match()
    colleague.match()
    service.signal()
    assert len(colleague.received()) == 1 and not stranger.received()
    holder = world.policy_holder(NAME, access_item(USER, 1001, TALK))
    stranger.received()
    colleague.received()
    service.signal()
    assert len(stranger.received()) == 1
    holder.close()
    assert stranger.connection.lost_count == 0  # what may not be received is not lost


def test_credentials_of_the_receiver_are_those_of_hello() -> None:
    world = World()
    service, stranger = world.connect(), world.connect(uid=1001)
    stranger.match()
    stranger.caller.process.who = credentials(1000)
    service.signal()
    assert not stranger.received()


def test_unicast_signal_needs_the_same() -> None:
    world = World()
    service, stranger = world.connect(), world.connect(uid=1001)
    stranger.match()
    with fails(NotPermitted, errno.EPERM):
        service.signal(stranger)
    service.match()
    stranger.signal(service)
    assert len(service.received()) == 1


def test_custom_endpoint_filters_broadcasts() -> None:
    world = World()
    world.endpoint("door", name_item(NAME), world_access(TALK))
    service, inside = world.connect(), world.connect(endpoint="1000-door")
    inside.match()
    service.signal()
    assert not inside.received()
    service.acquire(NAME)
    inside.received()
    service.signal()
    assert len(inside.received()) == 1


# Seeing


@pytest.mark.parametrize("access", [SEE, TALK, OWN])
def test_every_access_includes_seeing(access: int) -> None:
    world = World()
    world.endpoint("door", name_item(NAME), access_item(USER, 1001, access))
    service = world.connect()
    service.acquire(NAME)
    assert [entry.name for entry in world.connect(endpoint="1000-door", uid=1001).names()] == [NAME]
    assert world.connect(endpoint="1000-door", uid=1002).names() == []


def test_default_endpoint_sees_everything() -> None:
    world = World()
    service, stranger = world.connect(), world.connect(uid=1001)
    service.acquire(NAME)
    assert [entry.name for entry in stranger.names()] == [NAME]
    assert stranger.info(service, 0).id == stranger.info(NAME, 0).id == service.id


def test_wildcard_of_an_endpoint() -> None:
    world = World()
    world.endpoint("door", name_item(b"org.example.*"), world_access(SEE))
    service, peer = world.connect(), world.connect(endpoint="1000-door")
    for name in (NAME, b"org.example.a.b", b"org.other"):
        service.acquire(name)
    assert [entry.name for entry in peer.names()] == [NAME]
