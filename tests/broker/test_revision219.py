# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd 219 was built for: told from the start, or found out late.

The facts are those of final-revision.md, 5.2 and 5.4; numbers are written down by hand where they are the point.
"""

from __future__ import annotations

import errno
import struct

import pytest

from broker import recognition
from broker.behaviour import Behaviour
from broker.errors import (
    AttachFlagsRefused,
    DuplicateItem,
    KdbusError,
    MessagesLost,
    NameAlreadyOwned,
    NoMessage,
    NoMessageOfPriority,
    PoolShareExceeded,
    QueueFull,
    ReplyNotExpected,
    UnknownCommand,
    UnknownFlags,
)
from broker.final import FINAL
from broker.flow import is_lendable
from broker.quota import QueueQuota
from broker.recognition import NAMES, named
from broker.revision219 import REVISION219
from broker.version3 import VERSION3
from interposer.options import REVISIONS
from kdbus.abi import revision219
from tests.support.fakes import FakeCaller, FakeFile
from tests.support.final_peer import BROADCAST, ITEM, NEGOTIATE, Caller, FinalPeer, command, make_bus
from tests.support.world import SECOND, BusMaker, World, bloom_bits, fails, item, parse_items, string_item, words_item

NAME = b"org.example.Name"
ATTACH_CREDS, ATTACH_AUXGROUPS, ATTACH_ALL = 2, 8, 0x3FFF


class Peer219(FinalPeer):
    """A connection that speaks it."""

    tables = revision219


@pytest.fixture
def world() -> World:
    made = World()
    made.domain.forced = REVISION219
    return made


@pytest.fixture
def bus(world: World) -> BusMaker:
    return make_bus(world)


@pytest.fixture
def alice(world: World, bus: BusMaker) -> Peer219:
    return Peer219(world, bus)


@pytest.fixture
def bob(world: World, bus: BusMaker, alice: Peer219) -> Peer219:
    """After `alice`."""
    return Peer219(world, bus)


def test_hello_leaves_a_list(alice: Peer219) -> None:
    assert alice.hello["items_size"] == 40
    size, item_size, number, *bloom = struct.unpack("<3Q2Q", alice.memory(alice.hello["offset"], 40))
    assert (size, item_size, number, len(bloom)) == (40, 32, ITEM["BLOOM_PARAMETER"], 2)


def test_connections_count_from_one_on_each_bus(alice: Peer219, bob: Peer219) -> None:
    assert (alice.id, bob.id) == (1, 2)


def test_a_message_is_put_together_anew(alice: Peer219, bob: Peer219) -> None:
    """Destination, payload, descriptors, whatever the order; offsets count from the message; its size is rounded up."""
    bob.acquire(NAME)
    number = alice.caller.open(FakeFile())
    parts = [item(ITEM["FDS"], struct.pack("<i", number)), item(ITEM["PAYLOAD_VEC"], vector(alice, b"hello"))]
    alice.send(0, items=[*parts, string_item(ITEM["DST_NAME"], NAME)])
    received = bob.recv()
    assert [number for number, _ in received.items] == [ITEM["DST_NAME"], ITEM["PAYLOAD_OFF"], ITEM["FDS"]]
    assert received.payload == b"hello"
    assert received.size % 8 == 0


def vector(peer: FinalPeer, data: bytes) -> bytes:
    return struct.pack("<2Q", len(data), peer.caller.memory.put(data))


def test_ids_have_32_bits(world: World, bus: BusMaker, alice: Peer219) -> None:
    bob = Peer219(world, bus, attach_flags_recv=ATTACH_CREDS | ATTACH_AUXGROUPS)
    alice.send(bob.id, b"x")
    found = dict(bob.recv().items)
    assert struct.unpack("<8I", found[0x1001]) == (1000,) * 8
    assert len(found[0x1003]) % 4 == 0


def test_the_sender_has_a_say_in_its_metadata(world: World, bus: BusMaker, alice: Peer219) -> None:
    bob = Peer219(world, bus, attach_flags_recv=ATTACH_CREDS)
    alice.issue("UPDATE", [words_item(ITEM["ATTACH_FLAGS_SEND"], 0)])
    alice.send(bob.id, b"x")
    assert [number for number, _ in bob.recv().items] == [ITEM["PAYLOAD_OFF"]]


def test_a_bus_may_require_metadata(world: World) -> None:
    maker = make_bus(world, words_item(ITEM["ATTACH_FLAGS_RECV"], ATTACH_CREDS))
    opened, _ = world.open(maker)
    stingy = Caller(opened.handle, opened.caller)
    with fails(AttachFlagsRefused, errno.ECONNREFUSED):
        stingy.issue("HELLO", pool_size=4096, attach_flags_send=0)


def test_information_is_asked_for_in_the_flags(alice: Peer219, bob: Peer219) -> None:
    assert alice.issue("CONN_INFO", flags=NEGOTIATE)["flags"] == ATTACH_ALL
    with fails(UnknownFlags, errno.EINVAL):
        alice.issue("CONN_INFO", flags=1 << 14, id=bob.id)
    found = alice.issue("CONN_INFO", flags=ATTACH_CREDS, id=bob.id)
    size, owner, _ = struct.unpack("<3Q", alice.memory(found["offset"], 24))
    assert (owner, size) == (bob.id, found["info_size"])
    assert [number for number, _ in parse_items(alice.memory(found["offset"] + 24, size - 24))] == [0x1001]
    assert alice.issue("BUS_CREATOR_INFO", flags=0)["info_size"] > 24


def test_losses_are_an_error(world: World, bus: BusMaker, alice: Peer219, bob: Peer219) -> None:
    bob.issue("MATCH_ADD", [item(ITEM["BLOOM_MASK"], bytes(64))])
    small = Peer219(world, bus, pool_size=4096)
    small.issue("MATCH_ADD", [item(ITEM["BLOOM_MASK"], bytes(64))])
    signal = item(ITEM["BLOOM_FILTER"], bytes(8) + bloom_bits(1, size=64))
    for _ in range(3):
        alice.send(BROADCAST, b"x" * 1500, items=[signal], flags=4)
    assert bob.recv().payload == b"x" * 1500
    with fails(MessagesLost, errno.EOVERFLOW):
        small.recv()
    assert small.members("kdbus_cmd_recv")["dropped_msgs"] > 0
    assert small.recv().return_flags == 0


def test_nothing_to_receive(alice: Peer219) -> None:
    with fails(NoMessage, errno.EAGAIN):
        alice.recv()
    alice.send(alice.id, b"x", priority=5)
    with fails(NoMessageOfPriority, errno.ENOMSG):
        alice.recv(flags=4, priority=1)
    alice.issue("RECV", flags=2 | 4, priority=9)
    assert alice.info("kdbus_cmd_recv", "msg") == (0, 0, 0)


def test_a_queued_name_is_told_in_the_flags(alice: Peer219, bob: Peer219) -> None:
    alice.acquire(NAME)
    bob.acquire(NAME, 4)
    assert bob.members("kdbus_cmd")["flags"] == 4 | 8
    assert bob.members("kdbus_cmd")["return_flags"] == 0
    with fails(NameAlreadyOwned, errno.EALREADY):
        alice.acquire(NAME)


def test_messages_are_counted(world: World, bus: BusMaker, alice: Peer219, bob: Peer219) -> None:
    for _ in range(32):
        alice.send(bob.id, b"x")
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(bob.id, b"x")
    small = Peer219(world, bus, pool_size=4096)
    with fails(PoolShareExceeded, errno.EXFULL):
        alice.send(small.id, b"x" * 2500)


def test_a_message_is_checked_as_in_version_3(alice: Peer219, bob: Peer219) -> None:
    name = string_item(ITEM["DST_NAME"], NAME)
    with fails(DuplicateItem, errno.EEXIST):
        alice.send(bob.id, items=[name, name])
    with fails(ReplyNotExpected, errno.EPERM):
        alice.send(bob.id, cookie_reply=9)
    with fails(UnknownFlags, errno.EINVAL):
        alice.send(bob.id, flags=NEGOTIATE)


def test_notifications_are_signals_of_full_words(world: World, alice: Peer219, bob: Peer219) -> None:
    bob.issue("MATCH_ADD", [words_item(ITEM["NAME_ADD"], BROADCAST, 0, BROADCAST, 0)])
    alice.acquire(b"org.example.Od")
    received = bob.recv()
    assert received.flags == 4 and received.size == 64 + 16 + 32 + 16
    assert received.items[0] == (ITEM["NAME_ADD"], struct.pack("<4Q", 0, 0, alice.id, 0) + b"org.example.Od\0\0")
    alice.send(bob.id, cookie=3, flags=1, timeout_ns=world.clock.monotonic + SECOND)
    bob.issue("RECV", flags=2)
    assert alice.recv().flags == 4


def test_it_is_found_out_by_a_shorter_structure(world: World) -> None:
    """Until then it is served as the final revision."""
    world.domain.forced = None
    bus = make_bus(world)
    late = FinalPeer(world, bus, attach_flags_recv=ATTACH_CREDS)
    other = FinalPeer(world, bus)
    other.send(late.id, b"x")
    assert late.handle.behaviour is FINAL and is_lendable(late.connection)
    assert len(dict(late.recv().items)[0x1001]) == 64
    late.tables = revision219
    late.issue("CONN_INFO", id=other.id, flags=0)
    assert late.handle.behaviour is late.connection.behaviour is REVISION219
    assert world.domain.spoken == {"final", "219"}
    assert is_lendable(late.connection)
    other.send(late.id, b"x")
    assert len(dict(late.recv().items)[0x1001]) == 32


def test_what_waits_when_it_is_found_out(world: World) -> None:
    """It is as it was sent, and nobody has to repeat that: the other may have had it received already. What it costs
    is counted anew: of 20 messages the first 16 nothing."""
    world.domain.forced = None
    bus = make_bus(world)
    late, other = FinalPeer(world, bus), FinalPeer(world, bus)
    for _ in range(20):
        other.send(late.id, b"x")
    late.tables = revision219
    late.issue("CONN_INFO", id=other.id, flags=0)
    assert not is_lendable(late.connection)
    for _ in range(12):
        other.send(late.id, b"x")
    with fails(QueueFull, errno.ENOBUFS):
        other.send(late.id, b"x")
    for _ in range(20):
        late.recv()
    assert is_lendable(late.connection)
    for _ in range(12):
        late.recv()
    assert isinstance(late.connection.quota, QueueQuota) and not late.connection.quota.charged


def test_more_waits_than_it_would_have_let_in(world: World) -> None:
    world.domain.forced = None
    bus = make_bus(world)
    late, other = FinalPeer(world, bus), FinalPeer(world, bus)
    for _ in range(40):
        other.send(late.id, b"x")
    late.tables = revision219
    late.issue("CONN_INFO", id=other.id, flags=0)
    with fails(QueueFull, errno.ENOBUFS):
        other.send(late.id, b"x")
    for _ in range(40):
        late.recv()
    other.send(late.id, b"x")
    assert late.recv().payload == b"x"


def test_what_is_settled_stays() -> None:
    def spoken(request: int, settled: Behaviour | None) -> Behaviour | None:
        return recognition.spoken(request, settled, 0, FakeCaller())

    info = revision219.REQUESTS["KDBUS_CMD_CONN_INFO"]
    hello = {behaviour: behaviour.revision.requests["HELLO"] for behaviour in (VERSION3, FINAL)}
    assert spoken(info, None) is spoken(info, FINAL) is REVISION219
    assert spoken(info, VERSION3) is VERSION3
    assert spoken(hello[FINAL], None) is FINAL and spoken(hello[FINAL], REVISION219) is REVISION219
    assert spoken(hello[VERSION3], FINAL) is FINAL
    assert spoken(0, None) is None


def test_what_is_forced_is_all_that_is_spoken(world: World) -> None:
    world.domain.forced = VERSION3
    with pytest.raises(KdbusError) as raised:
        make_bus(world)
    assert isinstance(raised.value, UnknownCommand)


def test_names_of_revisions() -> None:
    assert REVISIONS == NAMES
    assert [named(name).revision.name for name in NAMES] == ["2", "3", "219", "final", "final"]
    assert command("kdbus_cmd_info", (), revision219)[:8] == struct.pack("<Q", 48)
