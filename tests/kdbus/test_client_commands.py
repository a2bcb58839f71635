# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands as bytes. What is expected was put together by hand from the headers, not with the project's tables."""

from __future__ import annotations

import struct

import pytest

from kdbus import matches, negotiation
from kdbus.abi.revision import FINAL, REVISION219, VERSION2, VERSION3, Kind
from kdbus.commands import Command, Commands
from kdbus.flags import Access, AccessType, Attach, HelloFlag, ListFlag, MakeFlag, NameFlag, ReceiveFlag
from kdbus.message import BloomFilter, MemfdRange, Memory, Outgoing
from kdbus.values import BloomParameters, Credentials, Listed, Pids, Policy, Rule

OLD = Commands(VERSION3)
NEW = Commands(FINAL)
EVERYBODY = 0xFFFFFFFFFFFFFFFF


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def check(command: Command, request: int, data: bytes) -> None:
    assert (hex(command.request), bytes(command.data)) == (hex(request), data)


NAME_OLD = words(22, 14) + b"a.bcd\0\0\0"
NAME_NEW = words(22, 15) + b"a.bcd\0\0\0"


def test_bus_make() -> None:
    old = words(32, 6, 64, 8) + words(21, 10) + b"0-ab\0\0\0\0" + words(24, 11, 2) + words(24, 12, 1)
    make = OLD.bus_make("0-ab", BloomParameters(64, 8), MakeFlag.ACCESS_WORLD, Attach.CREDS, Attach.TIMESTAMP)
    check(make, 0x40209500, words(32 + len(old), 2, 0, 0) + old)
    new = words(32, 7, 64, 8) + words(21, 11) + b"0-ab\0\0\0\0" + words(24, 12, 2)
    make = NEW.bus_make("0-ab", BloomParameters(64, 8), MakeFlag.ACCESS_GROUP, Attach.CREDS)
    check(make, 0x40189500, words(24 + len(new), 1, 0) + new)
    with pytest.raises(ValueError, match="cannot require metadata"):
        NEW.bus_make("0-ab", BloomParameters(), MakeFlag(0), required=Attach.CREDS)


def test_endpoint_make_and_update() -> None:
    check(OLD.endpoint_make("0-ep", MakeFlag(0)), 0x40209510, words(56, 0, 0, 0, 21, 10) + b"0-ep\0\0\0\0")
    check(NEW.endpoint_make("0-ep", MakeFlag(0)), 0x40189510, words(48, 0, 0, 21, 11) + b"0-ep\0\0\0\0")
    policy = [Policy("a.bcd", (Rule(Access.OWN, AccessType.USER, 7), Rule(Access.TALK)))]
    rules = words(40, 0x2000, 1, 2, 7) + words(40, 0x2000, 3, 1, 0)
    check(OLD.endpoint_update(policy), 0x40209561, words(136, 0, 0, 0) + NAME_OLD + rules)
    check(NEW.endpoint_update(policy), 0x40189511, words(128, 0, 0) + NAME_NEW + rules)


def test_hello() -> None:
    check(
        OLD.hello(HelloFlag.ACCEPT_FD, 4096, Attach.ALL, Attach.PIDS),
        0xC0689520,
        words(104, 1, 0, 0, 0x3FFF, 4, 0, 0, 4096, 0, 0, 0, 0),
    )
    creds = Credentials(1, 2, 3, 4, 5, 6, 7, 8)
    new = NEW.hello(
        HelloFlag.ACTIVATOR, 4096, Attach(0), Attach(0), description="x", policies=[Policy("a.bcd")], creds=creds,
        pids=Pids(9, 10, 11), seclabel="l",
    )  # fmt: skip
    expected = NAME_NEW + words(18, 0x100D) + b"x\0\0\0\0\0\0\0" + words(80, 0x1001, 1, 2, 3, 4, 5, 6, 7, 8)
    expected += words(40, 0x1002, 9, 10, 11) + words(18, 0x100B) + b"l\0\0\0\0\0\0\0"
    check(new, 0xC0609580, words(96 + len(expected), 2, 0, 0, 0, 0, 0, 4096, 0, 0, 0, 0) + expected)
    faked = bytes(OLD.hello(HelloFlag(0), 4096, Attach(0), Attach(0), creds=creds).data[104:])
    assert faked == words(48, 0x1001) + struct.pack("<8I", 1, 2, 3, 4, 5, 6, 7, 8)


def test_hello_is_read() -> None:
    command = NEW.hello(HelloFlag(0), 4096, Attach(0), Attach(0))
    command.data[40:] = words(3, 77, 4096, 16, 32) + bytes(range(16))
    hello = NEW.read_hello(command)
    assert (hello.bus_flags, hello.id, hello.offset, hello.size) == (3, 77, 16, 32)
    assert hello.bus_id == bytes(range(16))
    assert NEW.read_bloom(memoryview(words(32, 7, 64, 8))) == BloomParameters(64, 8)
    assert OLD.read_bloom(memoryview(words(40, 32, 6, 128, 3))) == BloomParameters(128, 3)


def test_systemd_219_is_told_by_the_result_of_hello() -> None:
    guessed = Commands(FINAL, guessed=True)
    later, earlier = memoryview(words(32, 7, 64, 8)), memoryview(words(40, 32, 7, 64, 8))
    assert guessed.settled(later) is guessed
    assert guessed.settled(earlier).revision is REVISION219
    assert guessed.settled(earlier).read_bloom(earlier) == BloomParameters(64, 8)
    assert NEW.settled(earlier) is NEW


def test_revision_that_is_not_spoken() -> None:
    with pytest.raises(ValueError, match="does not speak revision 2 of kdbus"):
        Commands(VERSION2)


def test_update_and_byebye() -> None:
    check(OLD.update(Attach.CREDS, Attach.PIDS), 0x40209551, words(80, 0, 0, 0, 24, 11, 2, 24, 12, 4))
    check(NEW.update(receive=Attach.PIDS), 0x40189581, words(48, 0, 0, 24, 13, 4))
    check(OLD.byebye(), 0x9521, b"")
    check(NEW.byebye(), 0x40189582, words(24, 0, 0))


def test_free() -> None:
    check(OLD.free(4096), 0x40289532, words(40, 4096, 0, 0, 0))
    check(NEW.free(4096), 0x40209583, words(32, 0, 0, 4096))


def test_send() -> None:
    check(OLD.send(0x1000), 0xC0489530, words(72, 0, 0, 0, 0, 0x1000, 0, 0, 0))
    cancel = words(20, 5) + struct.pack("<iI", 9, 0)
    both = OLD.send(0x1000, synchronous=True, cancel_fd=9)
    check(both, 0xC0489530, words(96, 1, 0, 0, 0, 0x1000, 0, 0, 0) + cancel)
    sent = NEW.send(0x1000, synchronous=True)
    check(sent, 0x40389590, words(56, 1, 0, 0x1000, 0, 0, 0))
    sent.data[32:] = words(128, 256, 1)
    place = sent.place("reply")
    assert (place.offset, place.size, place.incomplete) == (128, 256, True)


def test_receive() -> None:
    flags = ReceiveFlag.PEEK | ReceiveFlag.USE_PRIORITY
    check(OLD.receive(flags, -1), 0xC0489531, words(72, 5, 0, 0, EVERYBODY, 0, 0, 0, 0))
    received = NEW.receive(flags, -1)
    check(received, 0x80409591, words(64, 5, 0, EVERYBODY, 0, 0, 0, 0))
    received.data[32:] = words(3, 128, 256, 0)
    assert received["dropped_msgs"] == 3
    assert received.place("msg").offset == 128


def test_names() -> None:
    check(OLD.name_acquire("a.bcd", NameFlag.QUEUE), 0xC0209540, words(56, 4, 0, 0) + NAME_OLD)
    check(NEW.name_acquire("a.bcd", NameFlag.QUEUE), 0x401895A0, words(48, 4, 0) + NAME_NEW)
    check(OLD.name_release("a.bcd"), 0x40209541, words(56, 0, 0, 0) + NAME_OLD)
    check(NEW.name_release("a.bcd"), 0x401895A1, words(48, 0, 0) + NAME_NEW)
    check(OLD.list_names(ListFlag.UNIQUE), 0xC0309542, words(48, 1, 0, 0, 0, 0))
    check(NEW.list_names(ListFlag.QUEUED), 0x80289586, words(40, 8, 0, 0, 0))


@pytest.mark.parametrize(
    ("commands", "place", "answer", "held"),
    [
        (OLD, 8, 0, True),
        (OLD, 8, 4, True),
        (OLD, 8, 4 | 8, False),
        (NEW, 16, 0x20 | 0x40, True),
        (NEW, 16, 4 | 8 | 0x40, False),
        # Out of the queue, as it was asked for again without QUEUE.
        (NEW, 16, 0, False),
    ],
)
def test_name_is_held_or_queued_for(commands: Commands, place: int, answer: int, held: bool) -> None:
    command = commands.name_acquire("a.bcd", NameFlag.QUEUE)
    command.data[place : place + 8] = words(answer)
    assert commands.is_held(command) is held


def test_list_is_read() -> None:
    named = words(30, 0x1004, 0x10) + b"a.bcd\0\0\0"
    expected = [
        Listed(7, HelloFlag.ACTIVATOR, "a.bcd", NameFlag.ACTIVATOR),
        Listed(8, HelloFlag.ACCEPT_FD, None, NameFlag(0)),
    ]
    # Version 3: size of all; entries of size, flags of the connection, id.
    old = words(24 + 32, 2, 7) + named + words(24, 1, 8)
    assert OLD.read_list(memoryview(words(8 + len(old)) + old)) == expected
    # The final revision: entries of size, id, flags of the connection.
    new = words(24 + 32, 7, 2) + named + words(24, 8, 1)
    assert NEW.read_list(memoryview(new)) == expected
    assert NEW.read_list(memoryview(b"")) == []


def test_information() -> None:
    check(OLD.connection_info("a.bcd", Attach.PIDS), 0xC0389550, words(80, 4, 0, 0, 0, 0, 0) + NAME_OLD)
    check(NEW.connection_info(7, Attach.PIDS), 0x80389584, words(56, 0, 0, 7, 4, 0, 0))
    check(OLD.creator_info(Attach.PIDS), 0xC0389552, words(56, 4, 0, 0, 0, 0, 0))
    check(NEW.creator_info(Attach.PIDS), 0x80389585, words(56, 0, 0, 0, 4, 0, 0))
    result = words(80, 7, 1) + words(21, 11) + b"0-ab\0\0\0\0" + words(30, 0x1004, 0) + b"a.bcd\0\0\0"
    info = NEW.read_info(memoryview(result), "CONN_INFO")
    assert (info.id, info.flags, info.bus_name) == (7, 1, "0-ab")
    assert [owned.name for owned in info.metadata.names] == ["a.bcd"]


def test_matches() -> None:
    check(OLD.match_remove(5), 0x40289571, words(40, 5, 0, 0, 0))
    check(NEW.match_remove(5), 0x402095B1, words(32, 0, 0, 5))
    check(OLD.match_add(5, [], replace=True), 0x40289570, words(40, 5, 1, 0, 0))
    rules: list[matches.MatchRule] = [
        matches.Bloom((bytes(8), b"\xff" * 8)),
        matches.FromId(7),
        matches.FromName("a.bcd"),
        matches.ToId(8),
        matches.NameAppears(),
        matches.NameVanishes("a.bcd"),
        matches.NameChangesHands(old_id=3, new_id=4),
        matches.IdAppears(),
        matches.IdLeaves(9),
    ]
    items = words(32, 9, 0, EVERYBODY) + words(24, 14, 7) + NAME_NEW + words(24, 16, 8)
    items += words(48, 0x8000, EVERYBODY, 0, EVERYBODY, 0)
    items += words(54, 0x8001, EVERYBODY, 0, EVERYBODY, 0) + b"a.bcd\0\0\0"
    items += words(48, 0x8002, 3, 0, 4, 0) + words(32, 0x8003, EVERYBODY, 0) + words(32, 0x8004, 9, 0)
    check(NEW.match_add(5, rules), 0x402095B0, words(32 + len(items), 0, 0, 5) + items)
    with pytest.raises(ValueError, match="revision 3 of kdbus has no item DST_ID"):
        OLD.match_add(5, [matches.ToId(8)])


def test_message() -> None:
    message = Outgoing(
        destination="a.bcd",
        pieces=[Memory(0x7000, 9), MemfdRange(5, 16, 100)],
        cookie=3,
        flags=1,
        last_word=10**9,
        payload_type=0x77,
        priority=-2,
        descriptors=(4, 6, 8),
        bloom=BloomFilter(b"\x01" + bytes(7), 2),
        owner=12,
    )
    memfd = struct.pack("<QQiI", 16, 100, 5, 0)
    header = [1, EVERYBODY - 1, 12, 0, 0x77, 3, 10**9]

    def expected(name: int, vector: int, memory: int, descriptors: int, bloom: int) -> bytes:
        items = words(22, name) + b"a.bcd\0\0\0" + words(32, vector, 9, 0x7000) + words(40, memory) + memfd
        items += words(28, descriptors) + struct.pack("<4i", 4, 6, 8, 0) + words(32, bloom, 2, 1)
        return words(64 + len(items), *header) + items

    assert bytes(message.build(VERSION3)) == expected(9, 1, 3, 4, 7)
    assert bytes(message.build(FINAL)) == expected(10, 2, 4, 5, 8)


def test_string_with_a_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="zero character"):
        NEW.name_acquire("a.b\0c", NameFlag(0))


def test_negotiation() -> None:
    check(negotiation.probe(), 0x40189500, words(24, 1 << 63, 0))
    asked = negotiation.ask(FINAL, "MATCH_ADD")
    kinds = len(FINAL_ITEMS)
    assert bytes(asked.data) == words(48 + 8 * kinds, 1 << 63, 0, 0, 16 + 8 * kinds, 1, *FINAL_ITEMS)
    assert asked.layout is not None
    asked.data[8:16] = words(1)
    asked.data[48:] = words(*(number if number in (1, 9, 16) else 0 for number in FINAL_ITEMS))
    expected = negotiation.Supported(1, frozenset({Kind.NEGOTIATE, Kind.BLOOM_MASK, Kind.DST_ID}))
    assert negotiation.answer(FINAL, asked.layout, asked.data) == expected
    with pytest.raises(ValueError, match="revision 3 of kdbus has no item NEGOTIATE"):
        negotiation.ask(VERSION3, "SEND")
    with pytest.raises(ValueError, match="has no command JUMP"):
        negotiation.ask(FINAL, "JUMP")


FINAL_ITEMS = (16, 1, *range(2, 16), *range(0x1000, 0x100E), 0x2000, *range(0x8000, 0x8007))
