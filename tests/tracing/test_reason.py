# SPDX-License-Identifier: GPL-2.0-or-later
"""Every error of the broker can be said in words, and where a person needs to know which or whose, the words tell."""

from __future__ import annotations

import string
import struct
from collections.abc import Callable

import pytest

from broker import errors
from broker.errors import KdbusError
from kdbus.abi import revision3 as abi
from tests.support.building import item, string_item, vector_item
from tests.support.fakes import FakeFile, memfd
from tests.support.final_peer import BROADCAST, ITEM, FinalPeer, make_bus
from tests.support.world import Peer, World
from tracing.reason import FORMS, reason

ERRORS = sorted(
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, KdbusError) and kind is not KdbusError
)


@pytest.mark.parametrize("error", ERRORS)
def test_each_error_has_words_even_without_facts(error: str) -> None:
    assert not list(fields(FORMS[error][-1]))
    assert reason(error, {}) == FORMS[error][-1]


def fields(form: str) -> list[str]:
    """The facts that a form tells."""
    return [name for _, name, _, _ in string.Formatter().parse(form) if name]


def test_no_words_are_kept_for_errors_that_are_gone() -> None:
    assert sorted(FORMS) == ERRORS


def why(act: Callable[[], object]) -> str:
    """The reason for which `act` fails."""
    with pytest.raises(KdbusError) as caught:
        act()
    return reason(type(caught.value).__name__, caught.value.facts)


def vector(size: int, address: int = 0) -> bytes:
    return vector_item(address, size)


def test_which_item_of_a_message_is_malformed() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    items = [vector(8), vector(0), vector(8)]
    assert why(lambda: alice.send(bob, items=items)) == "item 2 of 3, PAYLOAD_VEC: size 0"


def test_which_item_of_a_final_message_is_malformed() -> None:
    world = World()
    alice, bob = FinalPeer(world), FinalPeer(world)
    items = [item(ITEM["PAYLOAD_VEC"], struct.pack("<2Q", size, 0)) for size in (8, 0, 8)]
    assert why(lambda: alice.send(bob.id, items=items)) == "item 2 of 3, PAYLOAD_VEC: size 0"


def test_which_item_is_not_taken() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    items = [vector(8), item(abi.ITEM_ID, bytes(8))]
    assert why(lambda: alice.send(bob, items=items)) == "item 2 of 2, ID: not taken in a message"
    peer = FinalPeer(world)
    items = [string_item(ITEM["NAME"], b"org.example.A"), item(ITEM["ID"], bytes(8))]
    assert why(lambda: peer.issue("NAME_ACQUIRE", items)) == "item 2 of 2, ID: NAME_ACQUIRE does not take it"


@pytest.mark.parametrize("revision", ["3", "final"])
def test_which_item_is_at_no_address(revision: str) -> None:
    world = World()
    sender: Peer | FinalPeer = FinalPeer(world) if revision == "final" else world.connect()
    receiver = FinalPeer(world) if revision == "final" else world.connect()
    good = sender.caller.memory.put(b"fine!")
    number = ITEM["PAYLOAD_VEC"] if revision == "final" else abi.ITEM_PAYLOAD_VEC
    items = [item(number, struct.pack("<2Q", 5, address)) for address in (0, good, 0x1000)]
    words = "item 3 of 3, PAYLOAD_VEC: the caller cannot access 5 bytes at 0x1000"
    assert why(lambda: sender.send(receiver.id, items=items)) == words


def test_which_item_does_not_fit_in() -> None:
    world = World()
    alice = world.connect()
    items = [string_item(abi.ITEM_NAME, b"org.example.A"), struct.pack("<2Q", 99, abi.ITEM_NAME)]
    assert why(lambda: alice.match(*items)) == "item at byte 32: size 99 with 16 bytes left"
    items = [struct.pack("<2Q", 12, abi.ITEM_NAME)]
    assert why(lambda: alice.match(*items)) == "item at byte 0: size 12 is less than its header of 16 bytes"


def test_which_rule_of_a_match_is_refused() -> None:
    world = World()
    alice = world.connect()
    rules = [item(abi.ITEM_ID, bytes(8)), item(abi.ITEM_BLOOM_MASK, bytes(63))]
    assert why(lambda: alice.match(*rules)) == "item 2 of 2, BLOOM_MASK: 63 bytes, where the bus has 64"
    rules = [string_item(abi.ITEM_NAME, b"not a name\n")]
    assert why(lambda: alice.match(*rules)) == r'item 1 of 1, NAME: "not a name\n" breaks the rules for names'
    rules = [item(abi.ITEM_TIMESTAMP, bytes(24))]
    assert why(lambda: alice.match(*rules)) == "item 1 of 1, TIMESTAMP: not a rule of a match"
    assert why(lambda: alice.unmatch(7)) == "no match has cookie 7"


def test_the_match_too_many() -> None:
    alice = World().connect()
    for cookie in range(256):
        alice.match(cookie=cookie)
    assert why(alice.match) == "257 matches would be over the limit of 256"


def test_whose_messages_fill_a_queue() -> None:
    world = World()
    alice, twin, bob = world.connect(), world.connect(), world.connect()
    for number in range(32):
        (alice, twin)[number % 4 == 0].send(bob)
    assert why(lambda: alice.send(bob)) == (
        f"user 1000 has 16 of 16 messages in the queue of connection {bob.id}, beside the first 16, which count"
        f" for nobody (waiting there: 24 of connection {alice.id}, 8 of connection {twin.id})"
    )


def test_whose_messages_fill_a_final_pool() -> None:
    world = World()
    alice, bob = FinalPeer(world), FinalPeer(world, pool_size=4096)

    def flood() -> None:
        for _ in range(100):
            alice.send(bob.id, bytes(100))

    assert why(flood) == (
        f"user 1000 would have over 682 bytes in the pool of connection {bob.id} (it has 600, and the message takes"
        f" 200; waiting there: 3 of connection {alice.id})"
    )


def test_what_does_not_fit_into_a_pool() -> None:
    world = World()
    alice, bob = world.connect(), world.connect(pool_size=4096)
    assert why(lambda: alice.send(bob, bytes(3000))) == (
        f"the payload of 3000 bytes is over 2048, half of what is free in the pool of connection {bob.id}"
    )
    assert why(lambda: alice.send(bob, bytes(5000))) == (
        "no free slice of 5000 bytes in the pool (4096 of 4096 bytes are free)"
    )


def stranger(world: World) -> Peer:
    return world.connect(caller=world.caller(2000))


def test_which_access_a_policy_does_not_give() -> None:
    world = World()
    alice, bob = stranger(world), world.connect()
    bus = world.default_bus().name
    assert why(lambda: alice.send(bob)) == (f"no TALK to connection {bob.id} (which owns no name), policy of bus {bus}")
    bob.acquire(b"org.example.Bob")
    assert why(lambda: alice.send(b"org.example.Bob")) == (
        f"no TALK to connection {bob.id} (org.example.Bob), policy of bus {bus}"
    )
    assert why(lambda: alice.acquire(b"org.example.Alice")) == f"no OWN to org.example.Alice, policy of bus {bus}"


def test_the_policy_of_a_custom_endpoint() -> None:
    world = World()
    owner = world.endpoint("custom")
    alice, bob = world.connect(endpoint=owner.name), world.connect()
    assert why(lambda: alice.send(bob)) == (
        f"no TALK to connection {bob.id} (which owns no name), policy of endpoint 1000-custom"
    )


def test_who_owns_a_name() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    bob.acquire(b"org.example.A")
    assert why(lambda: alice.acquire(b"org.example.A")) == (
        f"org.example.A is owned by connection {bob.id}, which does not allow replacement"
    )
    bob.release(b"org.example.A")
    bob.acquire(b"org.example.A", abi.NAME_ALLOW_REPLACEMENT)
    assert why(lambda: alice.acquire(b"org.example.A")) == (
        f"org.example.A is owned by connection {bob.id}, which allows replacement, but REPLACE_EXISTING was not asked"
        " for"
    )
    assert why(lambda: alice.release(b"org.example.A")) == (
        f"org.example.A is owned by connection {bob.id}, and this one does not wait for it"
    )
    assert why(lambda: bob.acquire(b"org.example.A")) == "the connection owns org.example.A already"
    assert why(lambda: alice.release(b"org.example.B")) == "nobody owns org.example.B"
    assert why(lambda: alice.send(b"org.example.B")) == "nobody owns org.example.B"
    assert why(lambda: alice.send(b"org.example.A", dst_id=99)) == (
        f"org.example.A is owned by connection {bob.id}, not by 99"
    )
    assert why(lambda: alice.send(99)) == "there is no connection 99"


def test_who_does_not_reply() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    sent = alice.request(bob, 5, sync=True)
    world.expire(10**9)
    assert why(sent.finish) == f"connection {bob.id} has not replied to cookie 5 in time"
    sent = alice.request(bob, 6, sync=True)
    bob.close()
    assert why(sent.finish) == f"connection {bob.id} will not reply: it has ended"
    assert why(lambda: alice.request(alice, 0)) == "EXPECT_REPLY with cookie 0"


def test_a_reply_that_nobody_waits_for() -> None:
    world = World()
    alice, bob = world.connect(), world.connect()
    assert why(lambda: alice.reply(bob, 9)) == (
        f"connection {bob.id} does not wait for a reply of this connection to cookie 9"
    )


def test_what_is_wrong_with_descriptors() -> None:
    world = World()
    alice, bob = world.connect(), world.connect(flags=0)
    plain = alice.caller.open(FakeFile())
    socket = alice.caller.open(FakeFile(is_unix_socket=True))
    unsealed = alice.caller.open(memfd(8, seals=3))

    def send(*numbers: int) -> str:
        return why(lambda: alice.send(bob, items=[item(abi.ITEM_FDS, struct.pack(f"<{len(numbers)}i", *numbers))]))

    assert send(plain) == f"connection {bob.id} said HELLO without ACCEPT_FD, so it takes no descriptors"
    assert send(plain, socket) == (
        f"item 1 of 1, FDS: descriptor {socket} is a kdbus endpoint or a unix socket, which cannot be passed"
    )
    assert send(-1) == "item 1 of 1, FDS: descriptor -1 is not open"
    part = item(abi.ITEM_PAYLOAD_MEMFD, struct.pack("<QQiI", 0, 8, unsealed, 0))
    assert why(lambda: alice.send(bob, items=[part])) == (
        f"item 1 of 1, PAYLOAD_MEMFD: the memfd of descriptor {unsealed} lacks F_SEAL_GROW|F_SEAL_WRITE"
    )


def test_flags_and_sizes_of_commands() -> None:
    world = World()
    alice = world.connect()
    assert why(lambda: alice.match(flags=6)) == "unknown flags 0x6"
    assert why(lambda: alice.call("MATCH_ADD", "kdbus_cmd_match", size=39)) == (
        "size 39 is less than the 40 bytes of the structure"
    )
    assert why(lambda: alice.ioctl("RECV", 0x10004)) == "address 0x10004 is not aligned to 8 bytes"
    assert why(lambda: alice.ioctl("RECV", 0x10)) == "memory that the caller cannot access"
    assert why(lambda: alice.ioctl("HELLO", 0)) == f"HELLO is not for the connection {alice.id}"
    assert why(lambda: alice.free(64)) == "offset 64 is not one that this connection was given"
    assert why(alice.recv) == "the queue is empty"
    assert why(lambda: world.open()[0].call("NAME_ACQUIRE", "kdbus_cmd_name")) == (
        "NAME_ACQUIRE is not for a handle that is no connection yet"
    )
    alice.bye()
    assert why(alice.recv) == f"connection {alice.id} has ended"


def test_what_has_ended() -> None:
    world = World()
    alice, bob, owner = world.connect(), world.connect(), world.endpoint("custom")
    carol = world.connect(endpoint="1000-custom")
    alice.send(bob)
    assert why(bob.bye) == "messages that wait to be received: 1"
    bus = world.default_bus()
    owner.close()
    words = f"endpoint {bus.name}/1000-custom has ended, and connection {carol.id} with it"
    assert why(carol.recv) == words
    sent = alice.request(bob, 5, sync=True)
    bus.close()
    for act in (alice.recv, sent.finish):
        assert why(act) == f"bus {bus.name} has ended, and connection {alice.id} with it"


def test_what_a_hello_lacks() -> None:
    world = World()
    assert why(lambda: world.connect(pool_size=4097)) == "pool_size 4097 is no multiple of 4096 bytes, or 0"
    assert why(lambda: world.connect(flags=abi.HELLO_ACTIVATOR)) == ("a connection of kind activator needs a NAME item")
    assert why(lambda: world.connect(caller=world.caller(2000), flags=abi.HELLO_MONITOR)) == (
        "only who is privileged on the bus may be a connection of kind monitor"
    )


def test_buses() -> None:
    world = World()
    name = string_item(abi.ITEM_MAKE_NAME, b"1001-wrong")
    bloom = item(abi.ITEM_BLOOM_PARAMETER, struct.pack("<2Q", 64, 1))
    make = world.control().call
    assert why(lambda: make("BUS_MAKE", "kdbus_cmd_make", [name, bloom])) == (
        "1001-wrong does not begin with 1000-, the maker's uid"
    )
    assert why(lambda: make("BUS_MAKE", "kdbus_cmd_make", [name])) == "BLOOM_PARAMETER: needed, and not there"
    make_bus(world)
    assert why(lambda: make_bus(world)) == "bus 1000-final exists already"


def test_broadcasts() -> None:
    world = World()
    alice = FinalPeer(world)
    assert why(lambda: alice.send(BROADCAST, b"x")) == "a broadcast without SIGNAL"
