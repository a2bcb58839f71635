# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages: which ones are well-formed, and in which order the rules are looked at (reference: message.c)."""

from __future__ import annotations

import errno
import struct

import pytest

from broker.errors import (
    BadAddress,
    BadArgument,
    BadDescriptor,
    BadItem,
    BadMessage,
    BadName,
    BeyondFile,
    BloomNotAligned,
    BloomSizeMismatch,
    CommandChanged,
    DescriptorNotPassable,
    DuplicateItem,
    KdbusError,
    MissingDestination,
    NotForBroadcasts,
    NotSealable,
    NotSealed,
    PayloadTooLarge,
    TooManyDescriptors,
    TooManyItems,
    UnknownFlags,
)
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from tests.support.world import (
    BROADCAST,
    FakeFile,
    Peer,
    World,
    bloom_filter_item,
    command_bytes,
    descriptors_item,
    fails,
    item,
    memfd,
    memfd_item,
    message_bytes,
    string_item,
    vector_item,
)

EXPECT, NO_AUTO_START, SIGNAL = 1, 2, 4


@pytest.fixture
def alice() -> Peer:
    return World().connect()


@pytest.fixture
def bob(alice: Peer) -> Peer:
    return alice.world.connect()


def send_at(peer: Peer, address: int) -> int:
    """SEND of the message at `address`; returns where the command is."""
    command = peer.caller.memory.put(command_bytes("kdbus_cmd_send", msg_address=address))
    peer.ioctl("SEND", command)
    return command


@pytest.mark.parametrize("address", [0, 8, 0xFFFF_0000, U64 & ~7])
def test_a_wild_message_pointer_is_efault(alice: Peer, address: int) -> None:
    with fails(BadAddress, errno.EFAULT):
        send_at(alice, address)


def test_an_unaligned_message_is_efault(alice: Peer, bob: Peer) -> None:
    address = alice.caller.memory.put(bytes(4) + message_bytes(dst_id=bob.id))
    with fails(BadAddress, errno.EFAULT):
        send_at(alice, address + 4)


@pytest.mark.parametrize("size", [0, 63, 8193, 1 << 32, U64])
def test_a_message_of_a_wrong_size_is_einval(alice: Peer, bob: Peer, size: int) -> None:
    """Also over the limit, where commands answer EMSGSIZE."""
    with fails(BadArgument, errno.EINVAL):
        alice.send(bob, size=size)


def test_a_message_that_ends_before_its_size_is_efault(alice: Peer, bob: Peer) -> None:
    with fails(BadAddress, errno.EFAULT):
        alice.send(bob, size=72)


def test_the_largest_message_is_8_kib(alice: Peer, bob: Peer) -> None:
    numbers = [alice.caller.open(FakeFile()) for _ in range(253)]
    filler = descriptors_item(*numbers)  # 1032 bytes
    vectors = [vector_item(0, 1)] * 127
    alice.send(bob, items=[filler, *vectors])
    assert len(bob.recv().items) == 128
    room = 8192 - 64
    with fails(BadItem, errno.EINVAL):  # read completely, and then refused for its type
        alice.send(bob, items=[item(0x7777, bytes(room - 16))])


def test_a_size_that_changes_while_it_is_read_is_einval(alice: Peer, bob: Peer) -> None:
    message = alice.caller.memory.put(message_bytes(dst_id=bob.id) + bytes(64))
    command = alice.caller.memory.put(command_bytes("kdbus_cmd_send", msg_address=message))

    def grow(address: int, size: int) -> None:
        if (address, size) == (message, 64):
            alice.caller.memory.write(message, struct.pack("<Q", 128))

    alice.caller.memory.before_read = grow
    with fails(CommandChanged, errno.EINVAL):
        alice.ioctl("SEND", command)


def test_items_that_change_while_they_are_read_are_used_as_read(alice: Peer, bob: Peer) -> None:
    """The payload's place is what was checked, whatever stands in memory when it is copied."""
    good = alice.caller.memory.put(b"good")
    message = alice.caller.memory.put(message_bytes([vector_item(good, 4)], dst_id=bob.id))

    def scribble(address: int, size: int) -> None:
        if address == good:
            alice.caller.memory.write(message + 64, vector_item(8, 1 << 40))

    alice.caller.memory.before_read = scribble
    send_at(alice, message)
    assert bob.recv().payload == b"good"


@pytest.mark.parametrize("flags", [8, 1 << 63, U64])
def test_unknown_flags_are_einval_and_known_ones_are_told(alice: Peer, bob: Peer, flags: int) -> None:
    address = alice.caller.memory.put(message_bytes(dst_id=bob.id, flags=flags))
    command = alice.caller.memory.put(command_bytes("kdbus_cmd_send", msg_address=address))
    with fails(UnknownFlags, errno.EINVAL):
        alice.ioctl("SEND", command)
    layout = abi.STRUCTS["kdbus_cmd_send"]
    data = alice.caller.memory.read(command, layout.size)
    assert layout.get(data, "kernel_msg_flags") == 7 | 1 << 63
    assert layout.get(data, "kernel_flags") == 1 | 1 << 63


def test_flags_come_before_items(alice: Peer, bob: Peer) -> None:
    with fails(UnknownFlags):
        alice.send(bob, flags=8, items=[item(abi.ITEM_ID)])
    with fails(BadItem):
        alice.send(bob, payload_type=0, items=[item(abi.ITEM_ID)])


def test_only_the_bus_sends_payload_type_0(alice: Peer, bob: Peer) -> None:
    with fails(BadArgument, errno.EINVAL):
        alice.send(bob, payload_type=0)
    alice.send(bob, payload_type=1)
    assert bob.recv()["payload_type"] == 1


@pytest.mark.parametrize(
    ("error", "number", "members"),
    [
        (BadArgument, errno.EINVAL, {"cookie": 1}),
        (BadArgument, errno.EINVAL, {"timeout_ns": 1}),
        (BadArgument, errno.EINVAL, {"dst_id": BROADCAST}),
        (NotForBroadcasts, errno.ENOTUNIQ, {"cookie": 1, "timeout_ns": 1, "dst_id": BROADCAST}),
        (BadArgument, errno.EINVAL, {"cookie": 1, "timeout_ns": 1, "flags": EXPECT | SIGNAL}),
    ],
    ids=["no deadline", "no cookie", "neither comes before broadcast", "broadcast", "signal"],
)
def test_requests_need_deadline_cookie_and_one_receiver(
    alice: Peer, error: type[KdbusError], number: int, members: dict[str, int]
) -> None:
    with fails(error, number):
        send_at(alice, alice.caller.memory.put(message_bytes((), **{"flags": EXPECT, **members})))


def test_a_synchronous_send_must_be_a_request(alice: Peer, bob: Peer) -> None:
    for flags in (0, SIGNAL, NO_AUTO_START):
        with fails(BadArgument, errno.EINVAL):
            alice.send(bob, sync=True, flags=flags)


def test_a_source_must_be_0_or_the_sender(alice: Peer, bob: Peer) -> None:
    alice.send(bob, src_id=alice.id)
    assert bob.recv()["src_id"] == alice.id
    with fails(BadArgument, errno.EINVAL):
        alice.send(bob, src_id=bob.id)
    with fails(MissingDestination):  # items come first
        alice.send(0, src_id=bob.id)


@pytest.mark.parametrize("count", [128, 129])
def test_the_129th_item_is_e2big(alice: Peer, bob: Peer, count: int) -> None:
    items = [vector_item(0, 8)] * (count - 1)
    if count == 128:
        alice.send(bob, items=[*items, vector_item(0, 8)])
        return
    with fails(TooManyItems, errno.E2BIG):  # before its type is looked at
        alice.send(bob, items=[*items, item(0x7777)])


@pytest.mark.parametrize(
    "bad",
    [abi.ITEM_PAYLOAD_OFF, abi.ITEM_NAME, abi.ITEM_CANCEL_FD, abi.ITEM_TIMESTAMP, 0, 0x7777],
)
def test_items_that_no_message_has_are_einval(alice: Peer, bob: Peer, bad: int) -> None:
    payloads = {abi.ITEM_PAYLOAD_OFF: struct.pack("<QQ", 1, 0), abi.ITEM_NAME: b"a.b\0", abi.ITEM_CANCEL_FD: bytes(4)}
    payloads[abi.ITEM_TIMESTAMP] = bytes(24)
    with fails(BadItem, errno.EINVAL):
        alice.send(bob, items=[item(bad, payloads.get(bad, b""))])


@pytest.mark.parametrize(
    "twice",
    [descriptors_item(), bloom_filter_item(), string_item(abi.ITEM_DST_NAME, b"a.b")],
    ids=["FDS", "BLOOM_FILTER", "DST_NAME"],
)
def test_items_given_twice_are_eexist(alice: Peer, bob: Peer, twice: bytes) -> None:
    with fails(DuplicateItem, errno.EEXIST):
        alice.send(bob, items=[twice, twice])


# Vectors


def test_2_mib_are_taken_and_not_a_byte_more(alice: Peer) -> None:
    bob = alice.world.connect(pool_size=8 << 20)
    memory = alice.caller.memory.put(b"\x55" * (2 << 20))
    alice.send(bob, items=[vector_item(memory, 1 << 20), vector_item(memory + (1 << 20), 1 << 20)])
    assert bob.recv().payload == b"\x55" * (2 << 20)
    for extra in (memory, 0):
        with fails(PayloadTooLarge, errno.EMSGSIZE):
            alice.send(bob, items=[vector_item(memory, 2 << 20), vector_item(extra, 1)])
    with fails(PayloadTooLarge, errno.EMSGSIZE):
        alice.send(bob, items=[vector_item(0, (2 << 20) + 1)])
    with fails(PayloadTooLarge, errno.EMSGSIZE):
        alice.send(bob, items=[vector_item(memory, 1), vector_item(memory, U64)])


def test_memfds_do_not_count_for_the_limit_of_vectors(alice: Peer, bob: Peer) -> None:
    descriptor = alice.caller.open(memfd(4 << 20))
    alice.send(bob, items=[memfd_item(descriptor, 4 << 20), vector_item(0, 2 << 20)])
    assert len(bob.recv().items) == 2


def test_unreadable_payload_is_efault_and_takes_nothing(alice: Peer, bob: Peer) -> None:
    memory = alice.caller.memory.put(b"abc")
    for bad in (vector_item(memory, 4), vector_item(1, 1), vector_item(U64, 2)):
        with fails(BadAddress, errno.EFAULT):
            alice.send(bob, items=[vector_item(memory, 3), bad])
    assert bob.connection.pool.busy == 0
    assert len(bob.connection.queue) == 0
    assert not bob.events.readable


def test_payload_is_copied_once_and_may_be_unaligned_and_overlapping(alice: Peer, bob: Peer) -> None:
    memory = alice.caller.memory.put(b"0123456789")
    alice.send(bob, items=[vector_item(memory + 1, 5), vector_item(memory + 3, 5), vector_item(0, 3)])
    assert alice.caller.copies == 1
    assert bob.recv().payload == b"1234534567\0\0\0"


@pytest.mark.parametrize("size", range(1, 18))
def test_zeros_are_stored_only_as_far_as_alignment_needs(alice: Peer, bob: Peer, size: int) -> None:
    memory = alice.caller.memory.put(b"x")
    alice.send(bob, items=[vector_item(0, size), vector_item(memory, 1)])
    received = bob.recv(free=False)
    first, second = received.all(abi.ITEM_PAYLOAD_OFF)
    assert struct.unpack("<QQ", first) == (size, U64)
    assert struct.unpack("<QQ", second) == (1, size % 8)
    assert received.payload == bytes(size) + b"x"


# Memfds


def test_a_sealed_memfd_is_passed_without_copying(alice: Peer, bob: Peer) -> None:
    file = memfd(4096)
    alice.send(bob, items=[memfd_item(alice.caller.open(file), 4096)])
    assert file.pinned == 1
    received = bob.recv()
    start, size, number, _ = struct.unpack("<QQiI", received.item(abi.ITEM_PAYLOAD_MEMFD))
    assert (start, size) == (0, 4096)
    assert bob.caller.descriptors[number] is file
    assert file.pinned == 0
    assert alice.caller.copies == 0


@pytest.mark.parametrize(
    ("file", "size", "start", "error", "number"),
    [
        (memfd(16, None), 16, 0, NotSealable, 124),
        (memfd(16, 0x7), 16, 0, NotSealed, errno.ETXTBSY),
        (memfd(16, 0xE), 16, 0, NotSealed, errno.ETXTBSY),
        (memfd(16, 0), 16, 0, NotSealed, errno.ETXTBSY),
        (memfd(16), 17, 0, BeyondFile, errno.EBADF),
        (memfd(16), 1, 16, BeyondFile, errno.EBADF),
        (memfd(16), 2, U64, PayloadTooLarge, errno.EMSGSIZE),
        (memfd(16), U64, 1, PayloadTooLarge, errno.EMSGSIZE),
        (memfd(8, None), 17, 0, NotSealable, 124),
        (memfd(8, 0), 17, 0, NotSealed, errno.ETXTBSY),
        (FakeFile(seals=15, size=16, is_path=True), 16, 0, BadDescriptor, errno.EBADF),
    ],
    ids=[
        "no memfd", "no write seal", "no seal seal", "no seals", "past the end", "starts at the end", "range wraps",
        "range wraps from the start", "kind before range", "seals before range", "O_PATH",
    ],
)  # fmt: skip
def test_memfds_that_are_refused(
    alice: Peer, bob: Peer, file: FakeFile, size: int, start: int, error: type[KdbusError], number: int
) -> None:
    good = memfd(8)
    items = [memfd_item(alice.caller.open(good), 8), memfd_item(alice.caller.open(file), size, start)]
    with fails(error, number):
        alice.send(bob, items=items)
    assert (good.pinned, file.pinned) == (0, 0)


def test_further_seals_do_not_hurt(alice: Peer, bob: Peer) -> None:
    alice.send(bob, items=[memfd_item(alice.caller.open(memfd(1, 0x1F)), 1)])


def test_a_memfd_that_is_not_open_is_ebadf(alice: Peer, bob: Peer) -> None:
    with fails(BadDescriptor, errno.EBADF):
        alice.send(bob, items=[memfd_item(99, 1)])
    with fails(BadDescriptor, errno.EBADF):
        alice.send(bob, items=[memfd_item(-1, 1)])


# Descriptors


def test_descriptors_are_installed_in_order(alice: Peer, bob: Peer) -> None:
    files = [FakeFile(), FakeFile(is_path=True), FakeFile(is_path=True, is_unix_socket=True), FakeFile(seals=0)]
    alice.send(bob, items=[descriptors_item(*[alice.caller.open(file) for file in files])])
    assert [file.pinned for file in files] == [1] * 4
    received = bob.recv()
    assert [bob.caller.descriptors[number] for number in received.descriptors()] == files
    assert [file.pinned for file in files] == [0] * 4


def test_one_file_may_be_passed_twice(alice: Peer, bob: Peer) -> None:
    file = FakeFile()
    number = alice.caller.open(file)
    alice.send(bob, items=[descriptors_item(number, number)])
    assert file.pinned == 2
    assert len(bob.recv().descriptors()) == 2
    assert file.pinned == 0


def test_an_empty_array_is_no_item(alice: Peer, bob: Peer) -> None:
    alice.send(bob, items=[descriptors_item()])
    assert bob.recv().items == []


@pytest.mark.parametrize("bad", [-1, -(1 << 31), 99])
def test_a_descriptor_that_is_not_open_is_ebadf(alice: Peer, bob: Peer, bad: int) -> None:
    file = FakeFile()
    with fails(BadDescriptor, errno.EBADF):
        alice.send(bob, items=[descriptors_item(alice.caller.open(file), bad)])
    assert file.pinned == 0


@pytest.mark.parametrize(
    "file", [FakeFile(is_kdbus_endpoint=True), FakeFile(is_unix_socket=True)], ids=["endpoint", "unix socket"]
)
def test_files_that_carry_files_are_eopnotsupp(alice: Peer, bob: Peer, file: FakeFile) -> None:
    good = FakeFile()
    with fails(DescriptorNotPassable, errno.EOPNOTSUPP):
        alice.send(bob, items=[descriptors_item(alice.caller.open(good), alice.caller.open(file))])
    assert (good.pinned, file.pinned) == (0, 0)


def test_254_descriptors_are_emfile(alice: Peer, bob: Peer) -> None:
    number = alice.caller.open(FakeFile())
    alice.send(bob, items=[descriptors_item(*[number] * 253)])
    with fails(TooManyDescriptors, errno.EMFILE):
        alice.send(bob, items=[descriptors_item(*[-1] * 254)])


def test_descriptors_in_a_broadcast_are_enotuniq(alice: Peer) -> None:
    for number in (alice.caller.open(FakeFile()), -1):
        with fails(NotForBroadcasts, errno.ENOTUNIQ):
            alice.send(BROADCAST, items=[descriptors_item(number)], flags=SIGNAL)


# Names, filters, and what goes together


@pytest.mark.parametrize("name", [b"", b"a", b"a..b", b".a.b", b"a.b.", b"1.b", b"a.*", b"a.b c", b"a." + b"b" * 254])
def test_a_bad_destination_name_is_einval(alice: Peer, name: bytes) -> None:
    with fails(BadName, errno.EINVAL):
        alice.send(name)


def test_nobody_to_send_to_is_edestaddrreq(alice: Peer) -> None:
    with fails(MissingDestination, errno.EDESTADDRREQ):
        alice.send(0)
    with fails(MissingDestination, errno.EDESTADDRREQ):
        alice.send(0, flags=SIGNAL)


def test_broadcasts_have_no_name(alice: Peer) -> None:
    with fails(BadMessage, errno.EBADMSG):
        alice.send(b"a.b", dst_id=BROADCAST, flags=SIGNAL, items=[bloom_filter_item()])


def test_broadcasts_are_signals(alice: Peer) -> None:
    with fails(BadMessage, errno.EBADMSG):
        alice.send(BROADCAST)
    with fails(BadMessage, errno.EBADMSG):
        alice.send(BROADCAST, items=[bloom_filter_item()])


def test_broadcasts_have_no_deadline_and_answer_nothing(alice: Peer) -> None:
    with fails(NotForBroadcasts, errno.ENOTUNIQ):
        alice.send(BROADCAST, flags=SIGNAL, items=[bloom_filter_item()], timeout_ns=1)
    with fails(NotForBroadcasts, errno.ENOTUNIQ):  # before the missing filter
        alice.send(BROADCAST, flags=SIGNAL, cookie_reply=1)


def test_signals_and_only_signals_have_a_filter(alice: Peer, bob: Peer) -> None:
    with fails(BadMessage, errno.EBADMSG):
        alice.send(bob, flags=SIGNAL)
    with fails(BadMessage, errno.EBADMSG):
        alice.send(bob, items=[bloom_filter_item()])


@pytest.mark.parametrize("size", [1, 7, 63, 65])
def test_a_filter_of_no_whole_words_is_efault(alice: Peer, bob: Peer, size: int) -> None:
    with fails(BloomNotAligned, errno.EFAULT):
        alice.send(bob, flags=SIGNAL, items=[bloom_filter_item(size=size)])


@pytest.mark.parametrize("size", [0, 8, 56, 72, 128])
def test_a_filter_of_another_size_is_edom(alice: Peer, bob: Peer, size: int) -> None:
    with fails(BloomSizeMismatch, errno.EDOM):
        alice.send(bob, flags=SIGNAL, items=[bloom_filter_item(size=size)])


def test_the_first_broken_rule_decides_in_the_order_of_items(alice: Peer) -> None:
    """A bad item is told of before a destination that is missing, and the first bad item before the second."""
    small = bloom_filter_item(size=8)
    with fails(BloomSizeMismatch):
        alice.send(0, items=[small, descriptors_item(-1)], flags=SIGNAL)
    with fails(BadDescriptor):
        alice.send(0, items=[descriptors_item(-1), small], flags=SIGNAL)


def test_a_refused_message_pins_no_file(alice: Peer) -> None:
    file, sealed = FakeFile(), memfd(8)
    items = [descriptors_item(alice.caller.open(file)), memfd_item(alice.caller.open(sealed), 8)]
    with fails(MissingDestination):
        alice.send(0, items=items)
    with fails(BadArgument):
        alice.send(7, items=items, src_id=99)
    assert (file.pinned, sealed.pinned) == (0, 0)
    assert len(file.references) == len(sealed.references) == 2
