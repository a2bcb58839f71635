# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains: the control node, users, counters, and the end of everything at once."""

from __future__ import annotations

import errno

import pytest

from broker.errors import BadName, NodeShutDown, NoMapping, WrongState
from broker.handle import open_node
from broker.interfaces import INVALID_ID
from kdbus.abi import revision3 as abi
from tests.support.world import FakeEvents, FakeIds, FakeNode, World, fails


def test_control_is_there_for_everybody() -> None:
    world = World()
    assert world.nodes.nodes == {("control",): FakeNode(False, 0o666, 0, 0)}
    assert (world.domain.mode, world.domain.uid, world.domain.gid) == (0o555, 0, 0)
    world.bus(caller=world.caller(4711))


def test_control_takes_one_command() -> None:
    world = World()
    control = world.control()
    for command in abi.REQUESTS:
        if command != "KDBUS_CMD_BUS_MAKE":
            with fails(WrongState, errno.ENOTTY):
                control.ioctl(command.removeprefix("KDBUS_CMD_"), 3)
    with fails(NoMapping, errno.ENODEV):
        control.handle.map(4096, writable=False)
    control.close()


@pytest.mark.parametrize("path", [(), ("nothing",), ("1000-bus",), ("1000-bus", "nothing"), ("control", "x")])
def test_what_cannot_be_opened(path: tuple[str, ...]) -> None:
    world = World()
    world.bus()
    with fails(NodeShutDown, errno.ESHUTDOWN):
        open_node(world.domain, path, world.caller(), FakeEvents())


def test_users_are_accounts_by_uid() -> None:
    domain = World().domain
    assert domain.user(5) is domain.user(5)
    assert domain.user(5) is not domain.user(6)
    first, second = domain.anonymous_user(), domain.anonymous_user()
    assert first is not second and first.uid == INVALID_ID
    assert domain.user(INVALID_ID) not in (first, second)


def test_sequence_numbers_count_all_buses_and_notifications() -> None:
    world = World()
    before = world.domain.messages.next()
    peer = world.connect(world.bus("a"))  # its coming
    stranger = world.connect(world.bus("b"))  # its coming
    peer.send(peer)
    stranger.signal()
    assert world.domain.messages.next() == before + 5


def test_domains_count_for_themselves() -> None:
    first, second = World(), World()
    first.bus("a")
    first.connect()
    assert second.bus("b").bus.id == 1
    assert second.domain.messages.next() == 1
    assert second.domain.user(1000).connections == 0


def test_module_parameter_is_read_each_time() -> None:
    world = World()
    for mask in (0, 5, abi.ATTACH_ANY):
        world.attach_flags_mask = mask
        assert world.domain.exported(abi.ATTACH_ALL) == abi.ATTACH_ALL & mask


def test_uid_prefix() -> None:
    domain = World(ids=FakeIds(users={1000: 0, 1001: 12})).domain
    domain.check_uid_prefix(b"0-x", 1000)
    domain.check_uid_prefix(b"12-", 1001)
    for name, uid in ((b"1000-x", 1000), (b"1-x", 1001), (b"12x", 1001), (b"00-x", 1000), (b"0-x", 5)):
        with fails(BadName, errno.EINVAL):
            domain.check_uid_prefix(name, uid)


def test_end_of_the_domain_ends_everything() -> None:
    world = World()
    control = world.control()
    bus, other = world.bus("a"), world.bus("b")
    peers = [world.connect(bus), world.connect(other)]
    owner = world.endpoint("door", bus=bus)
    guest = world.connect(bus, endpoint="1000-door")
    world.domain.deactivate()
    assert all(peer.events.hung_up for peer in (*peers, guest))
    assert list(world.nodes.nodes) in ([], [()])
    assert world.domain.user(1000).buses == 0
    with fails(NodeShutDown, errno.ESHUTDOWN):  # even for a command that control does not know
        control.ioctl("HELLO", 3)
    with fails(NodeShutDown, errno.ESHUTDOWN):
        world.control()
    for handle in (*peers, guest, owner, bus, other, control):
        handle.close()
    assert world.domain.user(1000).connections == 0
