# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 2 in the pure broker.

The facts are those of final-revision.md, 6; numbers are written down by hand where they are the point.
"""

from __future__ import annotations

import errno
import struct

import pytest

from broker.behaviour import Behaviour
from broker.errors import (
    AttachFlagsRefused,
    BadArgument,
    BadItem,
    BadMessage,
    Cancelled,
    DescriptorNotPassable,
    Disconnected,
    HiddenByEndpoint,
    KdbusError,
    MessageOfBadSize,
    MessagesLost,
    NoFreeDescriptor,
    NoMessage,
    NoMessageOfPriority,
    NoSuchCall,
    NoSuchConnection,
    NoSuchSlice,
    NotForBroadcasts,
    NotPermitted,
    PoolShareExceeded,
    QueueFull,
    SliceNotHandedOut,
    TimedOut,
    TooManyConnections,
    TooManyNames,
    UnknownCommand,
    UnknownFlags,
    WrongConnectionKind,
    WrongState,
)
from broker.final import FINAL
from broker.flow import is_lendable
from broker.recognition import spoken
from broker.send import Wait
from broker.version2 import VERSION2
from broker.version3 import VERSION3
from kdbus.abi import final, revision2
from tests.support.fakes import FakeCaller, FakeFile, memfd
from tests.support.final_peer import FinalPeer
from tests.support.final_peer import make_bus as make_final_bus
from tests.support.version2_peer import (
    ATTACH,
    BLOOM_SIZE,
    BROADCAST,
    EXPECT_REPLY,
    ITEM,
    NO_AUTO_START,
    SYNC_REPLY,
    Issuer,
    Version2Peer,
    command,
    make_bus,
)
from tests.support.world import (
    SECOND,
    BusMaker,
    World,
    bloom_bits,
    fails,
    item,
    memfd_item,
    parse_items,
    string_item,
    words_item,
)

NAME = b"org.example.Name"
KERNEL = 1 << 63
ALL = 0x1FFF


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def bus(world: World) -> BusMaker:
    return make_bus(world)


@pytest.fixture
def alice(world: World, bus: BusMaker) -> Version2Peer:
    return Version2Peer(world, bus)


@pytest.fixture
def bob(world: World, bus: BusMaker, alice: Version2Peer) -> Version2Peer:
    """After `alice`."""
    return Version2Peer(world, bus)


def filter_of(*bits: int) -> bytes:
    return item(ITEM["BLOOM_FILTER"], bytes(8) + bloom_bits(*bits, size=BLOOM_SIZE))


def mask_of(*bits: int) -> bytes:
    return item(ITEM["BLOOM_MASK"], bloom_bits(*bits, size=BLOOM_SIZE))


def allow(world: World, bus: BusMaker) -> None:
    """Everybody may talk to whoever has the name."""
    access = words_item(ITEM["POLICY_ACCESS"], 3, 1, 0)
    Version2Peer(world, bus, flags=4, items=[string_item(ITEM["NAME"], NAME), access])


def memfd_of(peer: Version2Peer, size: int) -> bytes:
    return item(ITEM["PAYLOAD_MEMFD"], struct.pack("<QiI", size, peer.caller.open(memfd(size)), 0))


# Which revision it is


def test_it_is_recognised_and_lendable(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    assert bus.handle.behaviour is alice.handle.behaviour is VERSION2
    assert world.domain.spoken == {"2"}
    assert is_lendable(alice.connection)


def make_command(kind: str, size: int, number: int) -> tuple[int, bytes]:
    name = string_item(number, b"1000-some")
    bloom = item(ITEM["BLOOM_PARAMETER"], struct.pack("<2Q", 64, 8))
    return revision2.REQUESTS[f"KDBUS_CMD_{kind}"], struct.pack("<3Q", size or 24 + len(name) + 32, 2, 0) + bloom + name


@pytest.mark.parametrize(
    ("kind", "size", "number", "found"),
    [
        ("BUS_MAKE", 0, 9, VERSION2),
        ("BUS_MAKE", 0, 11, FINAL),
        ("BUS_MAKE", 24, 9, FINAL),  # no item
        ("BUS_MAKE", 60, 9, FINAL),  # the name's item begins but does not end
        ("BUS_MAKE", 1 << 40, 9, FINAL),
        ("ENDPOINT_MAKE", 0, 9, VERSION2),
        ("ENDPOINT_MAKE", 0, 11, FINAL),
    ],
)
def test_a_shared_number_is_told_by_the_name(kind: str, size: int, number: int, found: Behaviour) -> None:
    caller = FakeCaller()
    request, data = make_command(kind, size, number)
    address = caller.memory.put(data)
    assert spoken(request, None, address, caller) is found
    assert spoken(request, FINAL, address, caller) is FINAL
    assert spoken(request, VERSION2, address, caller) is VERSION2
    assert spoken(request, None, 12, caller) is FINAL  # nothing can be read there


def test_send_has_version_3s_number(alice: Version2Peer) -> None:
    request = revision2.REQUESTS["KDBUS_CMD_MSG_SEND"]
    assert request in VERSION3.commands
    assert spoken(request, VERSION2, 0, FakeCaller()) is VERSION2
    assert spoken(request, None, 0, FakeCaller()) is VERSION3


def test_other_revisions_numbers_are_unknown(alice: Version2Peer) -> None:
    with fails(UnknownCommand, errno.ENOTTY):
        alice.handle.ioctl(final.REQUESTS["KDBUS_CMD_RECV"], 0, alice.caller)
    with fails(WrongState, errno.ENOTTY):
        alice.issue("HELLO", pool_size=4096)


def test_what_is_forced_is_spoken(world: World) -> None:
    world.domain.forced = VERSION2
    with pytest.raises(KdbusError):
        make_final_bus(world)
    assert Version2Peer(world, make_bus(world)).handle.behaviour is VERSION2


# Commands


def test_hello_returns_bloom_parameters_in_the_structure(alice: Version2Peer, bob: Version2Peer) -> None:
    assert alice.bloom == (64, 8)
    assert alice.hello["bus_flags"] == 2 and (alice.id, bob.id) == (1, 2)
    assert alice.hello["attach_flags_send"] == KERNEL
    assert alice.connection.pool.busy == 0
    assert alice.connection.bus.id128 in alice.said_hello


@pytest.mark.parametrize(
    ("name", "known"),
    [("CONN_UPDATE", 0), ("CONN_INFO", ALL), ("NAME_ACQUIRE", 7), ("MSG_SEND", 7)],
)
def test_kernel_flags_are_stored_before_flags_are_looked_at(alice: Version2Peer, name: str, known: int) -> None:
    with fails(UnknownFlags, errno.EINVAL):
        alice.issue(name, flags=1 << 40)
    assert alice.kernel_flags == known | KERNEL


def test_kernel_flags_of_structures_without_size(alice: Version2Peer) -> None:
    for name, known in (("MSG_RECV", 7), ("NAME_LIST", 15), ("FREE", 0)):
        with fails(UnknownFlags, errno.EINVAL):
            alice.issue(name, flags=1 << 40)
        assert alice.members(name)["kernel_flags"] == known | KERNEL
    with fails(UnknownFlags, errno.EINVAL):
        alice.issue("MSG_CANCEL", flags=1)


def test_hello_ignores_what_it_does_not_know(world: World, bus: BusMaker) -> None:
    Version2Peer(world, bus, items=[words_item(0x77, 1), mask_of(1)])
    with fails(BadItem, errno.EINVAL):
        Version2Peer(world, bus, items=[item(ITEM["CREDS"], bytes(32))])


def test_attach_flags_have_other_bits(world: World) -> None:
    """A bus asks for CREDS, which version 3 tells as two items."""
    bus = make_bus(world, words_item(ITEM["ATTACH_FLAGS_RECV"], ATTACH["CREDS"] | ATTACH["AUDIT"]))
    with fails(AttachFlagsRefused, errno.ECONNREFUSED):
        Version2Peer(world, bus, attach_flags_send=ATTACH["CREDS"])
    peer = Version2Peer(world, bus, attach_flags_send=ATTACH["CREDS"] | 0x800)
    assert peer.hello["attach_flags_send"] == 0x802 | KERNEL
    assert bus.bus.attach_flags_required == 0x1000 | 2 | 4
    with fails(AttachFlagsRefused, errno.ECONNREFUSED):
        world.connect(bus, attach_flags_send=2 | 0x1000)
    with fails(BadArgument, errno.EINVAL):
        Version2Peer(world, bus, attach_flags_recv=0x2000)
    peer.issue("CONN_UPDATE", [words_item(ITEM["ATTACH_FLAGS_RECV"], ATTACH["TID_COMM"])])
    assert peer.connection.attach_flags_recv == 0x40


def test_names(alice: Version2Peer, bob: Version2Peer) -> None:
    assert alice.acquire(NAME) == 0
    assert bob.acquire(NAME, 4) == 4 | 8
    listed = alice.issue("NAME_LIST", flags=2 | 8)
    raw = alice.memory(listed["offset"], 8)
    size = int.from_bytes(raw, "little")
    entries = alice.memory(listed["offset"], size)[8:]
    assert struct.unpack_from("<3Q", entries) == (24 + 16 + 8 + 24, 1, alice.id)
    assert parse_items(entries[24:72]) == [(0x1003, bytes(8) + NAME + b"\0")]
    alice.free(listed["offset"])
    alice.issue("NAME_RELEASE", [string_item(ITEM["NAME"], NAME)])
    assert NAME in bob.connection.names


def test_a_connection_has_64_names(alice: Version2Peer) -> None:
    for number in range(64):
        alice.acquire(b"org.example.Name%d" % number)
    with fails(TooManyNames, errno.E2BIG):
        alice.acquire(NAME)


def test_a_user_has_256_connections(world: World, bus: BusMaker) -> None:
    for _ in range(256):
        Version2Peer(world, bus, pool_size=4096)
    with fails(TooManyConnections, errno.EMFILE):
        Version2Peer(world, bus, pool_size=4096)
    assert FinalPeer(world, bus).id  # later revisions take more


def test_an_endpoint_is_made(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    opened, _ = world.open(bus)
    maker = Issuer(opened.handle, opened.caller)
    access = words_item(ITEM["POLICY_ACCESS"], 3, 1, 0)
    name = string_item(ITEM["NAME"], NAME)
    maker.issue("ENDPOINT_MAKE", [string_item(ITEM["MAKE_NAME"], b"1000-door"), name, access], flags=2)
    assert maker.handle.behaviour is VERSION2
    visitor = Version2Peer(world, bus, uid=2000, endpoint="1000-door")
    alice.acquire(NAME)
    with fails(NotPermitted, errno.EPERM):  # the bus has no policy
        visitor.send(alice.id, b"x")
    allow(world, bus)
    visitor.send(alice.id, b"x")
    visitor.issue("CONN_INFO", id=alice.id)
    maker.issue("ENDPOINT_UPDATE", [])
    with fails(HiddenByEndpoint, errno.ENOENT):
        visitor.send(NAME, b"x")
    with fails(HiddenByEndpoint, errno.ENOENT):
        visitor.issue("CONN_INFO", id=alice.id)
    with fails(HiddenByEndpoint, errno.ENOENT):
        visitor.issue("CONN_INFO", [string_item(ITEM["NAME"], NAME)])
    with fails(NoSuchConnection, errno.ENXIO):
        visitor.issue("CONN_INFO", id=99)


# Messages


def test_a_message_is_one_slice(alice: Version2Peer, bob: Version2Peer) -> None:
    number = alice.caller.open(FakeFile())
    bob.acquire(NAME)
    fds = item(ITEM["FDS"], struct.pack("<i", number))
    alice.send(NAME, b"hello", items=[fds], cookie=3, priority=-2, kernel_flags=99, flags=NO_AUTO_START)
    received = bob.recv()
    assert received.numbers == [ITEM["DST_NAME"], ITEM["PAYLOAD_OFF"], ITEM["FDS"]]
    assert received.payload == b"hello"
    assert dict(received.items)[ITEM["PAYLOAD_OFF"]] == struct.pack("<2Q", 5, received.size)
    assert (received.flags, received.kernel_flags, received.priority, received.cookie) == (4, 99, -2, 3)
    assert (received.src_id, received.dst_id) == (alice.id, 0)
    bob.free(received.offset)
    assert bob.connection.pool.busy == 0


def test_zeros_and_memfds(alice: Version2Peer, bob: Version2Peer) -> None:
    zeros = item(ITEM["PAYLOAD_VEC"], struct.pack("<2Q", 13, 0))
    alice.send(bob.id, b"a", items=[zeros, memfd_of(alice, 4096)])
    received = bob.recv()
    assert received.numbers == [ITEM["PAYLOAD_OFF"], ITEM["PAYLOAD_MEMFD"], ITEM["PAYLOAD_OFF"]]
    assert received.items[0][1] == struct.pack("<2Q", 13, BROADCAST)
    size, number = struct.unpack("<Qi4x", received.items[1][1])
    assert size == 4096 and bob.caller.descriptors[number].size == 4096


def test_a_message_must_have_a_fitting_size(alice: Version2Peer, bob: Version2Peer) -> None:
    for size in (0, 64, 71):
        with fails(MessageOfBadSize, errno.EMSGSIZE):
            alice.raw("MSG_SEND", command("kdbus_msg", dst_id=bob.id, size=size))
    with fails(MessageOfBadSize, errno.EMSGSIZE):
        alice.send(bob.id, items=[item(0x77, bytes(8192))])


def test_unknown_items_are_ignored(alice: Version2Peer, bob: Version2Peer) -> None:
    alice.send(bob.id, b"x", items=[words_item(0x77, 1), words_item(0x1000, 1, 2, 3)])
    assert bob.recv().numbers == [ITEM["PAYLOAD_OFF"]]


def test_broadcasts_have_a_filter_and_nothing_else_has(alice: Version2Peer, bob: Version2Peer) -> None:
    bob.match(mask_of(1))
    alice.send(BROADCAST, b"signal", items=[filter_of(1, 2)])
    alice.send(BROADCAST, b"other", items=[filter_of(2)])
    received = bob.recv()
    assert (received.payload, received.flags, received.dst_id) == (b"signal", 0, BROADCAST)
    assert ITEM["BLOOM_FILTER"] not in received.numbers
    with fails(NoMessage, errno.EAGAIN):
        bob.recv()
    with fails(BadMessage, errno.EBADMSG):
        alice.send(BROADCAST, b"x")
    with fails(BadMessage, errno.EBADMSG):
        alice.send(bob.id, b"x", items=[filter_of(1)])
    with fails(NotForBroadcasts, errno.ENOTUNIQ):
        alice.send(BROADCAST, items=[filter_of(1)], flags=EXPECT_REPLY, cookie=1, timeout_ns=1)


def test_257_messages_fit(world: World, bus: BusMaker, alice: Version2Peer, bob: Version2Peer) -> None:
    allow(world, bus)
    bob.acquire(NAME)
    for _ in range(32):
        alice.send(bob.id, b"x")
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(bob.id, b"x")
    senders = [Version2Peer(world, bus, uid=uid) for uid in range(2000, 2015)]
    for sent in range(225):
        senders[sent // 16].send(bob.id, b"x")
    assert len(bob.connection.queue) == 257
    with fails(QueueFull, errno.ENOBUFS):
        senders[14].send(bob.id, b"x")


def test_a_message_takes_half_of_what_is_left(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    small = Version2Peer(world, bus, pool_size=4096)
    with fails(PoolShareExceeded, errno.EXFULL):
        alice.send(small.id, b"x" * 2100)
    alice.send(small.id, b"x" * 1900)


# Receiving


def test_receiving_is_told_an_offset_only(world: World, bus: BusMaker, alice: Version2Peer, bob: Version2Peer) -> None:
    with fails(NoMessage, errno.EAGAIN):
        bob.recv()
    alice.send(bob.id, b"x", priority=5)
    with fails(BadArgument, errno.EINVAL):
        bob.issue("MSG_RECV", offset=8)
    with fails(NoMessageOfPriority, errno.ENOMSG):
        bob.recv(flags=4, priority=1)
    bob.issue("MSG_RECV", flags=2)
    assert len(bob.connection.queue) == 0 and bob.connection.pool.busy == 0


def test_peeking_hands_nothing_out(alice: Version2Peer, bob: Version2Peer) -> None:
    number = alice.caller.open(FakeFile())
    alice.send(bob.id, b"x", items=[item(ITEM["FDS"], struct.pack("<i", number))])
    peeked = bob.recv(flags=1)
    assert peeked.payload == b"x" and dict(peeked.items)[ITEM["FDS"]] == b"\xff" * 4
    with fails(SliceNotHandedOut, errno.EINVAL):
        bob.free(peeked.offset)
    with fails(NoSuchSlice, errno.ENXIO):
        bob.free(8)
    received = bob.recv()
    assert received.offset == peeked.offset
    bob.free(received.offset)
    with fails(NoSuchSlice, errno.ENXIO):
        bob.free(received.offset)


def test_losses_are_an_error_without_a_number(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    small = Version2Peer(world, bus, pool_size=4096)
    small.match(mask_of())
    for _ in range(3):
        alice.send(BROADCAST, b"x" * 1500, items=[filter_of(1)])
    with fails(MessagesLost, errno.EOVERFLOW):
        small.recv()
    assert small.members("MSG_RECV")["dropped_msgs"] == 0
    assert small.recv().payload == b"x" * 1500


def test_descriptors_that_do_not_fit_lose_the_message(alice: Version2Peer, bob: Version2Peer) -> None:
    file = FakeFile()
    alice.send(bob.id, b"x", items=[item(ITEM["FDS"], struct.pack("<i", alice.caller.open(file)))])
    bob.caller.descriptor_limit = 0
    with fails(NoFreeDescriptor, errno.EMFILE):
        bob.recv()
    assert len(bob.connection.queue) == 0 and bob.connection.pool.busy == 0


def test_activators_neither_receive_nor_free(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    activator = Version2Peer(world, bus, flags=2, items=[string_item(ITEM["NAME"], NAME)])
    alice.send(NAME, b"x")
    for name in ("MSG_RECV", "FREE"):
        with fails(WrongConnectionKind, errno.EOPNOTSUPP):
            activator.issue(name)
    alice.acquire(NAME)
    assert alice.recv().payload == b"x"


# Calls


def call(world: World, peer: Version2Peer, to: int, cookie: int = 7, deadline: int | None = None) -> Wait:
    timeout = world.clock.monotonic + SECOND if deadline is None else deadline
    peer.send(to, b"?", flags=EXPECT_REPLY | SYNC_REPLY, cookie=cookie, timeout_ns=timeout)
    assert peer.wait is not None
    return peer.wait


def test_a_call(world: World, alice: Version2Peer, bob: Version2Peer) -> None:
    wait = call(world, alice, bob.id)
    request = bob.recv()
    assert (request.payload, request.flags) == (b"?", 3)
    bob.send(alice.id, b"!", cookie_reply=7)
    wait.finish(alice.caller)
    offset = alice.members("MSG_SEND")["offset_reply"]
    assert alice.parse(offset).payload == b"!"
    alice.free(offset)
    assert alice.connection.pool.busy == 0


def test_offset_reply_is_written_only_with_a_reply(world: World, alice: Version2Peer, bob: Version2Peer) -> None:
    deadline = world.clock.monotonic + SECOND
    assert alice.send(bob.id, b"?", flags=EXPECT_REPLY, cookie=7, timeout_ns=deadline)["offset_reply"] == deadline
    wait = call(world, alice, bob.id, 8, deadline)
    world.expire(2 * SECOND)
    with fails(TimedOut, errno.ETIMEDOUT):
        wait.finish(alice.caller)
    assert alice.members("MSG_SEND")["offset_reply"] == deadline


def test_only_the_timer_ends_a_call(world: World, alice: Version2Peer, bob: Version2Peer) -> None:
    call(world, alice, bob.id, 1, BROADCAST)
    late = call(world, alice, bob.id, 2, 1)
    world.expire()
    with fails(TimedOut, errno.ETIMEDOUT):
        late.finish(alice.caller)
    assert [reply.cookie for reply in alice.connection.replies] == [1]


def test_a_call_is_cancelled_by_its_cookie(world: World, alice: Version2Peer, bob: Version2Peer) -> None:
    wait = call(world, alice, bob.id)
    with fails(NoSuchCall, errno.ENOENT):
        alice.issue("MSG_CANCEL", cookie=8)
    with fails(NoSuchCall, errno.ENOENT):
        bob.issue("MSG_CANCEL", cookie=7)
    alice.issue("MSG_CANCEL", cookie=7)
    with fails(NoSuchCall, errno.ENOENT):
        alice.issue("MSG_CANCEL", cookie=7)
    with fails(Cancelled, errno.ECANCELED):
        wait.finish(alice.caller)
    assert not alice.connection.replies


def test_what_does_not_wait_cannot_be_cancelled(world: World, alice: Version2Peer, bob: Version2Peer) -> None:
    alice.send(bob.id, b"?", flags=EXPECT_REPLY, cookie=7, timeout_ns=world.clock.monotonic + SECOND)
    with fails(NoSuchCall, errno.ENOENT):
        alice.issue("MSG_CANCEL", cookie=7)


def test_sync_needs_a_request(alice: Version2Peer, bob: Version2Peer) -> None:
    with fails(BadArgument, errno.EINVAL):
        alice.send(bob.id, b"?", flags=SYNC_REPLY, cookie=7)


def test_a_reply_nobody_waits_for_is_a_message(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    """Judged by policy like any other."""
    bob = Version2Peer(world, bus)
    stranger = Version2Peer(world, bus, uid=2000)
    alice.send(bob.id, b"!", cookie_reply=9)
    assert bob.recv().cookie_reply == 9
    with fails(NotPermitted, errno.EPERM):
        stranger.send(bob.id, b"!", cookie_reply=9)
    bob.send(stranger.id, b"?", flags=EXPECT_REPLY, cookie=9, timeout_ns=world.clock.monotonic + SECOND)
    stranger.send(bob.id, b"!", cookie_reply=9)


def test_the_end_of_a_connection(world: World, alice: Version2Peer, bob: Version2Peer) -> None:
    wait = call(world, alice, bob.id)
    alice.handle.ioctl(revision2.REQUESTS["KDBUS_CMD_BYEBYE"], 0, alice.caller)
    with fails(Disconnected, errno.ECONNRESET):
        wait.finish(alice.caller)
    with fails(Disconnected, errno.ECONNRESET):
        alice.recv()


# Metadata


def test_metadata_have_an_order_and_forms_of_their_own(world: World, bus: BusMaker) -> None:
    description = string_item(ITEM["CONN_DESCRIPTION"], b"sender")
    alice = Version2Peer(world, bus, items=[description])
    alice.acquire(NAME)
    bob = Version2Peer(world, bus, attach_flags_recv=BROADCAST)
    alice.send(bob.id, b"x")
    received = bob.recv()
    assert received.numbers == [2, *(0x1000, 0x1001, 0x1002, 0x1003, 0x1004, 0x1005, 0x1006, 0x1007), *TAIL]
    found = dict(received.items)
    assert struct.unpack("<5Q", found[0x1001]) == (1000, 1000, 100, 101, 5_000_000_000)
    assert found[0x1002] == b"" and found[0x1003] == bytes(8) + NAME + b"\0"
    assert (found[0x1004], found[0x1005]) == (b"leader\0", b"thread\0")
    assert struct.unpack("<2Q", found[0x100B]) == (7, 1000)
    assert found[0x100C] == b"sender\0"


TAIL = (0x1009, 0x1008, 0x100B, 0x100A, 0x100C)
"""CAPS, CGROUP, AUDIT, SECLABEL, CONN_DESCRIPTION."""


@pytest.mark.parametrize(("flag", "number", "text"), [("TID_COMM", 0x1004, b"leader"), ("PID_COMM", 0x1005, b"thread")])
def test_names_of_threads_are_exchanged(world: World, bus: BusMaker, flag: str, number: int, text: bytes) -> None:
    alice = Version2Peer(world, bus)
    bob = Version2Peer(world, bus, attach_flags_recv=ATTACH[flag])
    alice.send(bob.id)
    assert bob.recv().items == [(number, text + b"\0")]


def test_both_sides_must_want_it(world: World, bus: BusMaker) -> None:
    alice = Version2Peer(world, bus, attach_flags_send=ATTACH["EXE"])
    bob = Version2Peer(world, bus, attach_flags_recv=ATTACH["EXE"] | ATTACH["CREDS"])
    alice.send(bob.id)
    assert bob.recv().items == [(ITEM["EXE"], b"/usr/bin/program\0")]


def test_no_module_parameter(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    world.attach_flags_mask = 0
    bob = Version2Peer(world, bus, attach_flags_recv=ATTACH["TID_COMM"])
    alice.send(bob.id)
    assert bob.recv().numbers == [ITEM["TID_COMM"]]


def test_who_claims_an_identity_sends_it(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    creds = words_item(ITEM["CREDS"], 7, 8, 1, 99, 123)
    faker = Version2Peer(world, bus, items=[creds, string_item(ITEM["SECLABEL"], b"lie")])
    alice.issue("CONN_UPDATE", [words_item(ITEM["ATTACH_FLAGS_RECV"], BROADCAST)])
    faker.acquire(NAME)
    faker.send(alice.id)
    found = alice.recv()
    assert found.numbers == [ITEM["CREDS"], ITEM["OWNED_NAME"], ITEM["SECLABEL"]]
    assert struct.unpack("<5Q", dict(found.items)[ITEM["CREDS"]]) == (7, 8, 1, 0, 123)


def test_information(world: World, bus: BusMaker, alice: Version2Peer, bob: Version2Peer) -> None:
    alice.acquire(NAME)
    found = bob.issue("CONN_INFO", flags=ATTACH["CREDS"] | ATTACH["NAMES"], id=alice.id)
    size, owner, flags = struct.unpack("<3Q", bob.memory(found["offset"], 24))
    assert (owner, flags) == (alice.id, 1)
    items = dict(parse_items(bob.memory(found["offset"], size)[24:]))
    assert struct.unpack("<5Q", items[ITEM["CREDS"]]) == (1000, 1000, 100, 101, 5_000_000_000)
    assert items[ITEM["OWNED_NAME"]] == bytes(8) + NAME + b"\0"
    by_name = bob.issue("CONN_INFO", [string_item(ITEM["NAME"], NAME)])
    assert struct.unpack("<3Q", bob.memory(by_name["offset"], 24)) == (24, alice.id, 1)


def test_about_the_bus(alice: Version2Peer) -> None:
    found = alice.issue("BUS_CREATOR_INFO", flags=ALL)
    size, _, flags = struct.unpack("<3Q", alice.memory(found["offset"], 24))
    numbers = [number for number, _ in parse_items(alice.memory(found["offset"], size)[24:])]
    assert flags == 2 and ITEM["CREDS"] in numbers
    assert ITEM["MAKE_NAME"] not in numbers and ITEM["AUXGROUPS"] not in numbers


# Notifications and monitors


def test_notifications(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    bob = Version2Peer(world, bus, attach_flags_recv=BROADCAST)
    bob.match(words_item(ITEM["NAME_ADD"], BROADCAST, 0, BROADCAST, 0))
    alice.acquire(b"org.example.Od")
    received = bob.recv()
    assert received.items == [(0x8000, struct.pack("<4Q", 0, 0, alice.id, 0) + b"org.example.Od\0\0")]
    assert (received.flags, received.src_id, received.payload_type) == (0, 0, 0)
    bob.send(alice.id, flags=EXPECT_REPLY, cookie=3, timeout_ns=world.clock.monotonic + SECOND)
    alice.issue("MSG_RECV", flags=2)
    dead = bob.recv()
    assert dead.items == [(ITEM["REPLY_DEAD"], b"")] and dead.cookie_reply == 3


def test_a_monitor_gets_what_is_delivered(world: World, bus: BusMaker, alice: Version2Peer, bob: Version2Peer) -> None:
    alice.match(words_item(ITEM["ID_ADD"], BROADCAST, 0))
    monitor = Version2Peer(world, bus, flags=8 | 1)
    assert alice.recv().items == [(ITEM["ID_ADD"], struct.pack("<2Q", monitor.id, 9))]
    alice.send(bob.id, b"plain")
    alice.send(BROADCAST, b"unwanted", items=[filter_of(1)])
    assert monitor.recv().payload == b"plain"
    with fails(NoMessage):
        monitor.recv()
    monitor.match(mask_of(2))
    alice.send(BROADCAST, b"wanted", items=[filter_of(2)])
    with pytest.raises(KdbusError):
        alice.send(bob.id, b"refused", items=[filter_of(1)])
    assert monitor.recv().payload == b"wanted"
    with fails(NoMessage):
        monitor.recv()


# With others on one bus


def test_to_and_from_version_3(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    other = world.connect(bus, attach_flags_recv=2 | 4)
    deadline = world.clock.monotonic + SECOND
    number = alice.caller.open(FakeFile())
    fds = item(ITEM["FDS"], struct.pack("<i", number))
    alice.send(other.connection.id, b"hello", items=[memfd_of(alice, 16), fds], cookie=5, timeout_ns=deadline, flags=5)
    received = other.recv()
    assert received["flags"] == 1 | 2 and received["cookie"] == 5 and received.payload[-5:] == b"hello"
    numbers = [number for number, _ in received.items]
    assert numbers == [3, 2, 4, 0x1001, 0x1002]  # with PIDS
    start, size, _ = struct.unpack("<QQi4x", dict(received.items)[3])
    assert (start, size) == (0, 16)
    alice.issue("CONN_UPDATE", [words_item(ITEM["ATTACH_FLAGS_RECV"], ATTACH["CREDS"])])
    other.request(alice.id, 6, sync=True)
    request = alice.recv()
    assert request.flags == EXPECT_REPLY | SYNC_REPLY and request.cookie == 6
    assert struct.unpack("<5Q", dict(request.items)[ITEM["CREDS"]])[:4] == (1000, 1000, 100, 101)


def test_broadcasts_with_version_3(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    other = world.connect(bus)
    mask = bloom_bits(1, size=BLOOM_SIZE)
    other.match(item(8, mask))
    alice.match(mask_of(1))
    alice.send(BROADCAST, b"two", items=[filter_of(1)])
    received = other.recv()
    assert received.payload == b"two" and received["flags"] == 4
    other.send(BROADCAST, b"three", items=[item(7, bytes(8) + mask)], flags=4)
    assert (alice.recv().payload, alice.connection.lost_count) == (b"three", 0)


def test_a_part_of_a_memfd_cannot_be_told(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    other = world.connect(bus)
    file = other.caller.open(memfd(64))
    with fails(DescriptorNotPassable, errno.EOPNOTSUPP):
        other.send(alice.id, items=[memfd_item(file, 32, 16)])
    assert len(alice.connection.queue) == 0 and alice.connection.pool.busy == 0
    other.send(alice.id, items=[memfd_item(file, 32)])
    assert struct.unpack("<Qi4x", dict(alice.recv().items)[ITEM["PAYLOAD_MEMFD"]])[0] == 32


def test_to_and_from_the_final_revision(world: World) -> None:
    bus = make_final_bus(world)
    alice, other = Version2Peer(world, bus), FinalPeer(world, bus, attach_flags_recv=2)
    assert alice.handle.behaviour is VERSION2 and other.handle.behaviour is FINAL
    alice.send(other.id, b"hello", items=[words_item(0x77, 1), memfd_of(alice, 8)], flags=NO_AUTO_START, kernel_flags=5)
    received = other.recv()
    assert received.payload == b"hello" and received.flags == 2
    assert [number for number, _ in received.items] == [4, 3, 0x1001]
    assert received.items[0][1][:16] == struct.pack("<2Q", 0, 8)
    other.send(alice.id, b"back", flags=2)
    back = alice.recv()
    assert (back.payload, back.flags, back.kernel_flags) == (b"back", NO_AUTO_START, 0)


def test_what_an_activator_keeps_moves_between_revisions(world: World, bus: BusMaker, alice: Version2Peer) -> None:
    """It is rebuilt, from any revision to any."""
    activator = world.connect(bus, flags=2 | 1, items=[string_item(14, NAME)])
    alice.send(NAME, b"one", items=[memfd_of(alice, 8)])
    third = world.connect(bus)
    third.send(NAME, b"two")
    bob = Version2Peer(world, bus)
    bob.acquire(NAME)
    assert [bob.recv().payload, bob.recv().payload] == [b"one", b"two"]
    bob.issue("NAME_RELEASE", [string_item(ITEM["NAME"], NAME)])
    other = FinalPeer(world, bus)
    alice.send(NAME, b"three", items=[memfd_of(alice, 8)])
    assert len(activator.connection.queue) == 1
    other.acquire(NAME)
    assert other.recv().payload == b"three"
