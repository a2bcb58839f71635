# SPDX-License-Identifier: GPL-2.0-or-later
"""The final revision against the pure broker: what a program sees of each rule that differs from version 3."""

from __future__ import annotations

import errno
import struct

import pytest

from broker import bounds
from broker.errors import (
    BadArgument,
    BadItem,
    DescriptorsRefused,
    Disconnected,
    DuplicateItem,
    KdbusError,
    MissingItem,
    NameTaken,
    NodeShutDown,
    NoMessage,
    NoSuchConnection,
    NoSuchMatch,
    NoSuchName,
    NoSuchSlice,
    NotNameOwner,
    NotPermitted,
    QueueFull,
    RepeatedItem,
    ReplyNotExpected,
    TimedOut,
    TooManyMatches,
    UnknownCommand,
    UnknownFlags,
    WrongConnectionKind,
    WrongState,
    errno_of,
)
from broker.handle import ControlHandle
from broker.item import Item
from broker.match import Match, Rules
from kdbus.abi import final, revision3
from kdbus.abi.revision import Kind
from tests.support.final_peer import BROADCAST, ITEM, NEGOTIATE, Caller, FinalPeer, activator, command, make_bus
from tests.support.world import (
    FakeFile,
    Peer,
    World,
    bloom_bits,
    fails,
    item,
    memfd,
    parse_items,
    string_item,
    words_item,
    world_access,
)

NAME = b"org.example.Name"
PRIMARY, ACQUIRED, IN_QUEUE = 0x20, 0x40, 8
REPLACE, ALLOW, QUEUE = 1, 2, 4
SECOND = 1_000_000_000


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> FinalPeer:
    return FinalPeer(world)


@pytest.fixture
def bob(world: World) -> FinalPeer:
    return FinalPeer(world)


def control(world: World) -> Caller:
    opened = world.control()
    assert isinstance(opened.handle, ControlHandle)
    return Caller(opened.handle, opened.caller)


# Commands


def test_a_probe_tells_what_is_supported_and_makes_nothing(world: World) -> None:
    probe = control(world)
    assert probe.issue("BUS_MAKE", flags=NEGOTIATE)["flags"] == 3
    assert isinstance(probe.handle, ControlHandle) and probe.handle.bus is None
    # It pins nothing: the handle may still make a bus, of another revision even.
    assert probe.handle.behaviour is None


@pytest.mark.parametrize(
    ("name", "flags"), [("HELLO", 0xF), ("LIST", 0xF), ("RECV", 7), ("NAME_ACQUIRE", 7), ("MATCH_ADD", 1), ("FREE", 0)]
)
def test_flags_reported_by_negotiation(world: World, name: str, flags: int) -> None:
    caller: Caller = FinalPeer(world)
    if name == "HELLO":
        opened, _ = world.open()
        caller = Caller(opened.handle, opened.caller)
    assert caller.issue(name, flags=NEGOTIATE, return_flags=7)["flags"] == flags
    assert caller.members("kdbus_cmd")["return_flags"] == 7


def test_an_unknown_flag_is_not_negotiated_away(world: World) -> None:
    probe = control(world)
    with fails(UnknownFlags, errno.EINVAL):
        probe.issue("BUS_MAKE", flags=NEGOTIATE | 1 << 20, return_flags=7)
    assert probe.members("kdbus_cmd")["return_flags"] == 0


def test_item_numbers_are_negotiated_and_the_command_is_done(alice: FinalPeer) -> None:
    numbers = words_item(ITEM["NEGOTIATE"], ITEM["NAME"], 0x999, ITEM["NEGOTIATE"], ITEM["FDS"])
    alice.issue("NAME_ACQUIRE", [numbers, string_item(ITEM["NAME"], NAME)])
    assert alice.after[24 + 16 : 24 + 48] == struct.pack("<4Q", ITEM["NAME"], 0, ITEM["NEGOTIATE"], 0)
    assert NAME in alice.connection.names


@pytest.mark.parametrize(
    ("items", "error"),
    [
        ([], MissingItem),
        ([string_item(ITEM["NAME"], NAME)] * 2, RepeatedItem),
        ([item(ITEM["FDS"])], BadItem),
        ([item(0x7777)], BadItem),
    ],
)
def test_nearly_every_fault_of_an_item_is_einval(alice: FinalPeer, items: list[bytes], error: type[KdbusError]) -> None:
    with fails(error, errno.EINVAL):
        alice.issue("NAME_ACQUIRE", items, return_flags=7)
    assert alice.members("kdbus_cmd")["return_flags"] == 0


def test_a_dead_connection_knows_which_commands_are_its_own(alice: FinalPeer) -> None:
    alice.issue("BYEBYE")
    for name in ("BUS_MAKE", "ENDPOINT_MAKE", "ENDPOINT_UPDATE", "HELLO"):
        with fails(WrongState, errno.EBADFD):
            alice.issue(name)
    for name in ("BYEBYE", "UPDATE", "LIST", "MATCH_REMOVE"):
        with fails(Disconnected, errno.ECONNRESET):
            alice.issue(name)


def test_as_many_matches_as_there_may_be(alice: FinalPeer) -> None:
    """Each with a rule: bounds of our own, on rules, must not come before."""
    rules = [words_item(ITEM["ID"], alice.id)]
    limit = alice.connection.behaviour.matches_per_connection
    assert limit == 4096 <= bounds.RULES_PER_CONNECTION
    alice.connection.matches._matches.extend(  # one by one they take some time
        Match(cookie, Rules([Item(Kind.ID, alice.id.to_bytes(8, "little"))], 8)) for cookie in range(1, limit)
    )
    alice.issue("MATCH_ADD", rules)
    with fails(TooManyMatches, errno.EMFILE):
        alice.issue("MATCH_ADD", rules)


def test_wrong_state_is_not_an_unknown_number(world: World, alice: FinalPeer) -> None:
    with fails(WrongState, errno.EBADFD):
        alice.issue("HELLO")
    with fails(WrongState, errno.EBADFD):
        control(world).issue("SEND")
    with fails(UnknownCommand, errno.ENOTTY):
        alice.handle.ioctl(0x40189599, 0, alice.caller)
    # A handle speaks one revision.
    with fails(UnknownCommand, errno.ENOTTY):
        alice.handle.ioctl(revision3.REQUESTS["KDBUS_CMD_FREE"], 0, alice.caller)


def test_what_systemd_220_sends_makes_a_bus(world: World) -> None:
    maker = make_bus(world, words_item(ITEM["ATTACH_FLAGS_RECV"], BROADCAST), words_item(ITEM["ATTACH_FLAGS_SEND"], 1))
    assert maker.bus.attach_flags_required == 0


def test_hello_returns_one_item_and_leaves_the_flags(alice: FinalPeer) -> None:
    hello = alice.hello
    assert hello["items_size"] == 32 and hello["attach_flags_send"] == BROADCAST
    [(number, payload)] = parse_items(alice.memory(hello["offset"], 32))
    assert number == ITEM["BLOOM_PARAMETER"] and struct.unpack("<2Q", payload) == (64, 1)
    alice.issue("FREE", offset=hello["offset"])
    with fails(NoSuchSlice, errno.ENXIO):
        alice.issue("FREE", offset=hello["offset"])
    alice.issue("FREE", offset=alice.hello["pool_size"])


def test_ids_of_a_bus_of_the_final_revision_are_the_domains(world: World) -> None:
    bus = make_bus(world)
    assert [FinalPeer(world, bus).id for _ in range(2)] == [bus.bus.id + 1, bus.bus.id + 2]


# Messages


def test_a_message_is_one_slice_with_the_senders_items(alice: FinalPeer, bob: FinalPeer) -> None:
    bob.acquire(NAME)
    alice.send(NAME, b"hello", b"world!", cookie=5)
    received = bob.recv()
    assert [number for number, _ in received.items] == [ITEM["DST_NAME"], ITEM["PAYLOAD_OFF"], ITEM["PAYLOAD_OFF"]]
    assert received.payload == b"helloworld!"
    first = struct.unpack("<2Q", received.items[1][1])
    second = struct.unpack("<2Q", received.items[2][1])
    assert first == (5, received.size + 7 & ~7) and second == (6, first[1] + 5)
    assert received.slice_size == (received.size + 7 & ~7) + 16
    assert (received.src_id, received.dst_id, received.cookie) == (alice.id, 0, 5)


def test_zeros_are_told_and_keep_the_alignment(alice: FinalPeer, bob: FinalPeer) -> None:
    zeros = item(ITEM["PAYLOAD_VEC"], struct.pack("<2Q", 11, 0))
    alice.send(bob.id, b"abc", items=[zeros])
    received = bob.recv()
    assert struct.unpack("<2Q", received.items[0][1]) == (11, BROADCAST)
    assert struct.unpack("<2Q", received.items[1][1])[1] % 8 == 11 % 8
    assert received.payload == bytes(11) + b"abc"


def test_a_message_without_items_is_its_header(alice: FinalPeer, bob: FinalPeer) -> None:
    sent = alice.send(bob.id)
    assert sent["return_flags"] == 0
    assert alice.info("kdbus_cmd_send", "reply") == (alice.hello["pool_size"], 0, 0)
    received = bob.recv()
    assert (received.size, received.slice_size) == (64, 64)


def test_an_empty_queue_is_told_with_the_empty_offset(bob: FinalPeer) -> None:
    with fails(NoMessage, errno.EAGAIN):
        bob.issue("RECV", dropped_msgs=9)
    assert bob.info("kdbus_cmd_recv", "msg") == (bob.hello["pool_size"], 0, 0)
    assert bob.members("kdbus_cmd_recv")["dropped_msgs"] == 0


def test_peeking_hands_out_the_same_slice(alice: FinalPeer, bob: FinalPeer) -> None:
    alice.send(bob.id, b"x")
    peeked = bob.recv(flags=1)
    bob.issue("FREE", offset=peeked.offset)
    received = bob.recv()
    assert received.offset == peeked.offset
    bob.issue("FREE", offset=received.offset)
    with fails(NoSuchSlice, errno.ENXIO):
        bob.issue("FREE", offset=received.offset)


def test_losses_are_told_by_a_flag(world: World, alice: FinalPeer) -> None:
    bob = FinalPeer(world, pool_size=4096)
    bob.issue("MATCH_ADD", [words_item(ITEM["ID"], BROADCAST)])
    bloom = item(ITEM["BLOOM_FILTER"], bytes(8) + bloom_bits(1))
    for _ in range(5):
        alice.send(BROADCAST, bytes(100), items=[bloom], flags=4)
    assert bob.connection.lost_count
    lost = bob.connection.lost_count
    received = bob.recv()
    assert received.lost == lost and bob.members("kdbus_cmd_recv")["return_flags"] == 2
    assert ITEM["BLOOM_FILTER"] in dict(received.items)


def test_a_user_gets_a_third_of_half_the_pool(alice: FinalPeer, bob: FinalPeer) -> None:
    pool = bob.hello["pool_size"]
    most = pool // 2 // 3
    head = 64 + 32
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(bob.id, bytes(most - head + 8))
    alice.send(bob.id, bytes((most & ~7) - head))
    with fails(QueueFull, errno.ENOBUFS):
        alice.send(bob.id)
    bob.recv()
    alice.send(bob.id)


def test_own_broadcasts_are_heard(alice: FinalPeer) -> None:
    alice.issue("MATCH_ADD", [words_item(ITEM["ID"], alice.id)])
    alice.send(BROADCAST, items=[item(ITEM["BLOOM_FILTER"], bytes(8) + bloom_bits(1))], flags=4)
    assert alice.recv().src_id == alice.id


def test_unicast_signals_that_nobody_wants_are_dropped_silently(alice: FinalPeer, bob: FinalPeer) -> None:
    bloom = item(ITEM["BLOOM_FILTER"], bytes(8) + bloom_bits(1))
    alice.send(bob.id, items=[bloom], flags=4)
    with fails(NoMessage):
        bob.recv()
    bob.issue("MATCH_ADD", [words_item(ITEM["DST_ID"], bob.id)])
    alice.send(bob.id, items=[bloom], flags=4)
    assert bob.recv().flags == 4


def test_replies_nobody_waits_for_and_deadlines_that_have_passed(alice: FinalPeer, bob: FinalPeer) -> None:
    with fails(ReplyNotExpected, errno.EBADSLT):
        bob.send(alice.id, cookie_reply=3)
    with fails(TimedOut, errno.ETIMEDOUT):
        alice.send(bob.id, cookie=1, flags=1, timeout_ns=0 + 1, command_flags=1)
    with fails(NoMessage):
        bob.recv()


def test_a_synchronous_call(world: World, alice: FinalPeer, bob: FinalPeer) -> None:
    alice.send(bob.id, b"?", cookie=7, flags=1, timeout_ns=world.clock.monotonic + SECOND, command_flags=1)
    wait = alice.wait
    assert wait is not None
    assert bob.recv().cookie == 7
    bob.send(alice.id, b"!", cookie_reply=7)
    wait.finish(alice.caller)
    with fails(NoMessage):
        alice.issue("RECV")


def test_a_cookie_of_a_removed_match_is_ebadslt(alice: FinalPeer) -> None:
    alice.issue("MATCH_ADD", cookie=3)
    alice.issue("MATCH_REMOVE", cookie=3)
    with fails(NoSuchMatch, errno.EBADSLT):
        alice.issue("MATCH_REMOVE", cookie=3)


# Names


def test_claims_to_a_name(world: World, alice: FinalPeer, bob: FinalPeer) -> None:
    carol = FinalPeer(world)
    assert alice.acquire(NAME, ALLOW | QUEUE) == ALLOW | QUEUE | PRIMARY | ACQUIRED
    assert alice.acquire(NAME, ALLOW | QUEUE) == ALLOW | QUEUE | PRIMARY
    assert carol.acquire(NAME, QUEUE) == QUEUE | IN_QUEUE | ACQUIRED
    assert carol.acquire(NAME, QUEUE) == QUEUE | IN_QUEUE
    assert bob.acquire(NAME, REPLACE) == PRIMARY | ACQUIRED
    # Who was replaced is the next, before those who waited already.
    bob.issue("NAME_RELEASE", [string_item(ITEM["NAME"], NAME)])
    assert alice.acquire(NAME) == PRIMARY
    assert carol.acquire(NAME) == 0
    with fails(NameTaken, errno.EEXIST):
        carol.acquire(NAME, ALLOW)
    assert carol.members("kdbus_cmd")["return_flags"] == ALLOW
    with fails(NotNameOwner, errno.EADDRINUSE):
        carol.issue("NAME_RELEASE", [string_item(ITEM["NAME"], NAME)])


def test_the_list_has_entries_and_no_header(alice: FinalPeer, bob: FinalPeer) -> None:
    alice.acquire(NAME)
    bob.acquire(NAME, QUEUE)
    found = alice.issue("LIST", flags=1 | 2 | 8)
    data, entries = alice.memory(found["offset"], found["list_size"]), []
    while data:
        size, owner, flags = struct.unpack_from("<3Q", data)
        entries.append((owner, flags, parse_items(data[24:size])))
        data = data[size:]
    assert entries == [
        (alice.id, 1, [(ITEM["OWNED_NAME"], struct.pack("<Q", PRIMARY) + NAME + b"\0")]),
        (bob.id, 1, [(ITEM["OWNED_NAME"], struct.pack("<Q", QUEUE | IN_QUEUE) + NAME + b"\0")]),
    ]
    nothing = alice.issue("LIST", flags=0)
    assert (nothing["offset"], nothing["list_size"]) == (alice.hello["pool_size"], 0)


# Notifications and metadata


def test_notifications_are_signals_of_exact_size(alice: FinalPeer, bob: FinalPeer) -> None:
    alice.issue("MATCH_ADD", [item(ITEM["NAME_ADD"], bytes(32))])
    alice.issue("MATCH_ADD", [item(ITEM["NAME_ADD"], struct.pack("<4Q", BROADCAST, 0, BROADCAST, 0))])
    bob.acquire(NAME)
    received = alice.recv()
    size = 48 + len(NAME) + 1
    assert received.flags == 4 and received.size == 64 + (size + 7 & ~7) + 40
    number, payload = received.items[0]
    assert number == ITEM["NAME_ADD"]
    assert payload == struct.pack("<4Q", 0, 0, bob.id, PRIMARY) + NAME + b"\0"
    assert received.items[1][0] == ITEM["TIMESTAMP"]


def test_credentials_have_64_bits_and_need_no_consent(world: World, bob: FinalPeer) -> None:
    attach = final.CONSTANTS["KDBUS_ATTACH_CREDS"] | final.CONSTANTS["KDBUS_ATTACH_AUXGROUPS"]
    curious = FinalPeer(world, attach_flags_recv=attach)
    bob.issue("UPDATE", [words_item(ITEM["ATTACH_FLAGS_SEND"], 0)])
    bob.send(curious.id)
    items = dict(curious.recv().items)
    assert struct.unpack("<8Q", items[ITEM["CREDS"]]) == (1000,) * 8
    assert len(items[ITEM["AUXGROUPS"]]) % 8 == 0


# Two revisions on one bus


def test_version_3_to_final(world: World, bob: FinalPeer) -> None:
    old: Peer = world.connect()
    old.send(bob.id, b"from version 3", cookie=3)
    received = bob.recv()
    assert received.payload == b"from version 3" and received.src_id == old.connection.id
    assert [number for number, _ in received.items] == [ITEM["PAYLOAD_OFF"]]


def test_final_to_version_3(world: World, alice: FinalPeer) -> None:
    old: Peer = world.connect()
    old.acquire(NAME)
    alice.send(NAME, b"from final", cookie=4)
    received = old.recv()
    assert received.payload == b"from final"
    assert next(number for number, _ in received.items) == revision3.ITEM_DST_NAME


def test_names_are_one_registry(world: World, alice: FinalPeer) -> None:
    old: Peer = world.connect()
    old.acquire(NAME, ALLOW)
    assert alice.acquire(NAME, QUEUE) == QUEUE | IN_QUEUE | ACQUIRED
    with fails(NameTaken, errno.EEXIST):
        world.connect().acquire(NAME)
    old.release(NAME)
    assert alice.acquire(NAME, QUEUE) == QUEUE | PRIMARY


def test_a_message_negotiates(alice: FinalPeer) -> None:
    address = alice.caller.memory.put(command("kdbus_msg", flags=NEGOTIATE))
    assert alice.issue("SEND", flags=NEGOTIATE, msg_address=address)["flags"] == 1
    assert int.from_bytes(alice.caller.memory.read(address + 8, 8), "little") == 7
    asks = alice.caller.memory.put(command("kdbus_msg", flags=NEGOTIATE))
    with fails(UnknownFlags, errno.EINVAL):
        alice.issue("SEND", msg_address=asks)


# Activators, monitors, custom endpoints


def entries(peer: FinalPeer, flags: int) -> list[tuple[int, int | None]]:
    """(id, flags of the claim) of each entry of LIST."""
    found = peer.issue("LIST", flags=flags)
    data, result = peer.memory(found["offset"], found["list_size"]), []
    while data:
        size, owner, _ = struct.unpack_from("<3Q", data)
        names = [struct.unpack_from("<Q", payload)[0] for _, payload in parse_items(data[24:size])]
        result.append((owner, names[0] if names else None))
        data = data[size:]
    return result


def test_messages_wait_with_the_activator_and_move_to_the_owner(world: World, alice: FinalPeer, bob: FinalPeer) -> None:
    waiting = activator(world, NAME)
    alice.send(NAME, b"first", cookie=1)
    alice.send(NAME, b"second", cookie=2, flags=1, timeout_ns=world.clock.monotonic + SECOND)
    assert waiting.recv(flags=1).payload == b"first"
    assert bob.acquire(NAME, QUEUE) == QUEUE | PRIMARY | ACQUIRED
    assert [bob.recv().payload for _ in range(2)] == [b"first", b"second"]
    with fails(NoMessage):
        waiting.recv()
    bob.send(alice.id, b"answer", cookie_reply=2)
    assert alice.recv().payload == b"answer"
    # What the owner has not read goes back with the name.
    alice.send(NAME, b"third")
    bob.issue("NAME_RELEASE", [string_item(ITEM["NAME"], NAME)])
    assert waiting.recv(flags=1).payload == b"third"


def test_an_activator_that_lost_its_name_waits_for_it(world: World, alice: FinalPeer) -> None:
    waiting = activator(world, NAME)
    assert entries(alice, 4) == [(waiting.id, 0x10 | PRIMARY)]
    alice.acquire(NAME)
    assert sorted(entries(alice, 2 | 4)) == sorted([(alice.id, PRIMARY), (waiting.id, 0x10 | IN_QUEUE)])
    assert sorted(entries(alice, 1)) == sorted([(alice.id, None), (waiting.id, None)])


def test_a_name_has_one_policy(world: World) -> None:
    """Unlike a second item where one may be, a second entry has an errno of its own."""
    access = words_item(ITEM["POLICY_ACCESS"], 3, 1, 0)
    FinalPeer(world, flags=4, items=[string_item(ITEM["NAME"], NAME), access])
    with fails(DuplicateItem, errno.EEXIST):
        FinalPeer(world, flags=4, items=[string_item(ITEM["NAME"], NAME), access])


def test_a_second_activator_is_refused(world: World) -> None:
    activator(world, NAME)
    with pytest.raises(KdbusError) as raised:
        activator(world, NAME)
    assert errno_of(raised.value) == errno.EEXIST


def test_messages_between_an_activator_of_version_3_and_an_owner_of_the_final_revision(
    world: World, alice: FinalPeer, bob: FinalPeer
) -> None:
    waiting = world.activator(NAME, world_access(1))
    alice.send(NAME, b"hello", cookie=1)
    bob.acquire(NAME)
    received = bob.recv()
    assert received.payload == b"hello" and received.items[0][0] == ITEM["DST_NAME"]
    alice.send(NAME, b"again", cookie=2)
    bob.issue("NAME_RELEASE", [string_item(ITEM["NAME"], NAME)])
    assert waiting.recv().payload == b"again"


def test_a_monitor_sees_all_and_is_not_listed(world: World, alice: FinalPeer, bob: FinalPeer) -> None:
    monitor = FinalPeer(world, flags=8)
    alice.send(bob.id, b"secret", cookie=1)
    assert monitor.recv().payload == b"secret"
    assert monitor.id not in dict(entries(alice, 1))
    with fails(WrongConnectionKind, errno.EOPNOTSUPP):
        monitor.issue("SEND")


def test_descriptors_are_not_installed_for_who_does_not_accept_them(world: World, alice: FinalPeer) -> None:
    plain = FinalPeer(world, flags=0)
    number = alice.caller.open(FakeFile())
    with fails(DescriptorsRefused, errno.ECOMM):
        alice.send(plain.id, items=[item(ITEM["FDS"], struct.pack("<i", number))])
    sealed = alice.caller.open(memfd(16))
    alice.send(plain.id, items=[item(ITEM["PAYLOAD_MEMFD"], struct.pack("<QQiI", 0, 16, sealed, 0))])
    received = plain.recv()
    assert struct.unpack("<QQiI", received.items[0][1]) == (0, 16, -1, 0)


def test_a_custom_endpoint_hears_of_connections(world: World, alice: FinalPeer) -> None:
    opened, _ = world.open()
    owner = Caller(opened.handle, opened.caller)
    owner.issue("ENDPOINT_MAKE", [string_item(ITEM["MAKE_NAME"], b"1000-door")], flags=2)
    guest = FinalPeer(world, endpoint="1000-door", uid=1001)
    guest.issue("MATCH_ADD", [words_item(ITEM["ID_ADD"], BROADCAST, 0)])
    newcomer = FinalPeer(world)
    assert struct.unpack("<2Q", guest.recv().items[0][1]) == (newcomer.id, 1)
    with fails(NotPermitted, errno.EPERM):
        guest.send(alice.id)


def test_conn_info_by_name_and_id(alice: FinalPeer, bob: FinalPeer) -> None:
    bob.acquire(NAME)
    name = string_item(ITEM["NAME"], NAME)
    found = alice.issue("CONN_INFO", [name], attach_flags=1 << 4)
    size, owner, flags = struct.unpack_from("<3Q", alice.memory(found["offset"], found["info_size"]))
    assert (size, owner, flags) == (found["info_size"], bob.id, 1)
    with fails(NoSuchName, errno.ESRCH):
        alice.issue("CONN_INFO", [name], id=alice.id)
    with fails(NoSuchConnection, errno.ENXIO):
        alice.issue("CONN_INFO", id=999)
    with fails(BadArgument, errno.EINVAL):
        alice.issue("CONN_INFO")
    with fails(BadArgument, errno.EINVAL):
        alice.issue("CONN_INFO", id=bob.id, attach_flags=1 << 40)


def test_hello_looks_at_names_before_privilege(world: World) -> None:
    with fails(BadArgument, errno.EINVAL):
        FinalPeer(world, uid=1001, flags=2)
    with fails(NotPermitted, errno.EPERM):
        FinalPeer(world, uid=1001, flags=2, items=[string_item(ITEM["NAME"], NAME)])


def test_a_connection_is_who_opened_its_file(world: World, alice: FinalPeer) -> None:
    opened, _ = world.open()
    other = Caller(opened.handle, world.caller(1001))
    hello = other.issue("HELLO", flags=1, pool_size=1 << 16, attach_flags_send=BROADCAST)
    assert alice.connection.bus.connections[hello["id"]].credentials.uid == 1000


def test_update_looks_at_what_to_send_first_and_changes_nothing_if_it_fails(alice: FinalPeer) -> None:
    before = alice.connection.attach_flags_send
    policy = string_item(ITEM["NAME"], NAME)
    with fails(BadArgument, errno.EINVAL):
        alice.issue("UPDATE", [policy, words_item(ITEM["ATTACH_FLAGS_SEND"], 1 << 40)])
    with fails(WrongConnectionKind, errno.EOPNOTSUPP):
        alice.issue("UPDATE", [words_item(ITEM["ATTACH_FLAGS_SEND"], 0), policy])
    assert alice.connection.attach_flags_send == before


def test_an_ended_endpoint_takes_no_policy(world: World) -> None:
    opened, _ = world.open()
    owner = Caller(opened.handle, opened.caller)
    owner.issue("ENDPOINT_MAKE", [string_item(ITEM["MAKE_NAME"], b"1000-door")])
    world.default_bus().close()
    with fails(NodeShutDown, errno.ESHUTDOWN):
        owner.issue("ENDPOINT_UPDATE")


def test_an_ended_endpoint_makes_nothing(world: World) -> None:
    """Whatever stands in the command; only what it would not make either is told apart."""
    opened, _ = world.open()
    late = Caller(opened.handle, opened.caller)
    world.default_bus().close()
    for name in ("ENDPOINT_MAKE", "HELLO"):
        with fails(NodeShutDown, errno.ESHUTDOWN):
            late.issue(name, flags=1 << 20)
    with fails(WrongState, errno.EBADFD):
        late.issue("SEND")


def test_a_loss_alone_makes_readable_and_is_told_with_eagain(world: World, alice: FinalPeer) -> None:
    """The signal does not fit into what the user may have of so small a pool."""
    bob = FinalPeer(world, pool_size=4096)
    bob.issue("MATCH_ADD", [words_item(ITEM["ID"], BROADCAST)])
    alice.send(BROADCAST, bytes(1000), items=[item(ITEM["BLOOM_FILTER"], bytes(8) + bloom_bits(1))], flags=4)
    assert bob.events.readable
    with fails(NoMessage, errno.EAGAIN):
        bob.issue("RECV")
    assert bob.members("kdbus_cmd_recv")["dropped_msgs"] == 1 and bob.members("kdbus_cmd")["return_flags"] == 2
    assert not bob.events.readable
