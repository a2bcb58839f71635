# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of a domain to whoever watches it: everything that is there, as it is, and changed by nothing."""

from __future__ import annotations

import json

from broker.snapshot import MOST, Facts, flag_names, text, walk
from kdbus.abi import revision3 as abi
from tests.support.final_peer import FinalPeer, make_bus
from tests.support.world import (
    FakeCaller,
    FakeProcess,
    World,
    access_item,
    bloom_mask_item,
    credentials,
    name_item,
    string_item,
    world_access,
)

NAMESPACE = 1
"""The pid namespace of the fakes."""
NAME = b"org.example.Name"


def facts(world: World) -> dict[str, list[Facts]]:
    """All sheets by what they are about."""
    found: dict[str, list[Facts]] = {"domain": [], "bus": [], "endpoint": [], "policy": [], "connection": []}
    for sheet in walk(world.domain, NAMESPACE):
        found[str(sheet.pop("record"))].append(sheet)
    json.dumps(found)
    return found


def one(world: World, record: str, **wanted: object) -> Facts:
    """The only sheet of that kind which says so."""
    (found,) = [sheet for sheet in facts(world)[record] if wanted.items() <= sheet.items()]
    return found


def test_empty_domain() -> None:
    assert facts(World()) == {
        "domain": [{"messages": 0, "buses": 0}],
        "bus": [],
        "endpoint": [],
        "policy": [],
        "connection": [],
    }


def test_tree() -> None:
    world = World()
    bus = world.bus("x", flags=0)
    world.endpoint("door", name_item(NAME), world_access(abi.POLICY_TALK), bus=bus)
    world.connect(bus)
    world.connect(bus, endpoint="1000-door")
    assert facts(world)["domain"] == [{"messages": 2, "buses": 1}], "both were announced"
    about = one(world, "bus")
    assert {"bus": "1000-x", "id": 1, "uid": 1000, "mode": "0500", "revision": "3", "connections": 2}.items() <= (
        about.items()
    )
    doors = facts(world)["endpoint"]
    assert [(door["endpoint"], door["custom"], door["connections"]) for door in doors] == [
        ("bus", False, 1),
        ("1000-door", True, 1),
    ]
    assert [sheet["endpoint"] for sheet in facts(world)["connection"]] == ["bus", "1000-door"]


def test_who_it_is() -> None:
    world = World()
    process = FakeProcess(who=credentials(1000, 100))
    peer = world.connect(
        caller=FakeCaller(process), items=[string_item(abi.ITEM_CONN_DESCRIPTION, b"what\xff")], attach_flags_send=1
    )
    about = one(world, "connection", id=peer.connection.id)
    assert about["pid"] == process.pids()[0].number_in(NAMESPACE) != 0
    assert (about["uid"], about["gid"]) == (1000, 100)
    assert about["command"] == process.process_name().decode()
    assert about["description"] == "what\\xff"
    assert (about["kind"], about["hello_flags"]) == ("ordinary", ["ACCEPT_FD"])
    assert (about["attach_flags_send"], about["attach_flags_recv"]) == (["TIMESTAMP"], [])


def test_names() -> None:
    world = World()
    owner, waiter = world.connect(), world.connect()
    activator = world.activator(b"org.example.Started")
    owner.acquire(NAME, abi.NAME_ALLOW_REPLACEMENT)
    owner.acquire(b"org.example.Started")
    waiter.acquire(NAME, abi.NAME_QUEUE)
    about = one(world, "connection", id=owner.connection.id)
    assert about["names"] == [
        {"name": "org.example.Name", "flags": ["ALLOW_REPLACEMENT"], "waiting": 1},
        {"name": "org.example.Started", "flags": [], "waiting": 0},
    ]
    about = one(world, "connection", id=waiter.connection.id)
    assert (about["names"], about["names_count"]) == ([], 0)
    assert about["waits_for_names"] == [{"name": "org.example.Name", "flags": ["QUEUE"], "waiting": 1}]
    about = one(world, "connection", id=activator.connection.id)
    assert (about["kind"], about["activates"], about["names"]) == ("activator", "org.example.Started", [])


def test_queue_and_pool() -> None:
    world = World()
    receiver, chatty, quiet = world.connect(), world.connect(), world.connect()
    for _ in range(3):
        chatty.send(receiver, b"12345678")
    quiet.send(receiver, b"1234")
    about = one(world, "connection", id=receiver.connection.id)
    assert about["queue"] == {
        "messages": 4,
        "payload": 28,
        "senders": [{"id": chatty.connection.id, "messages": 3}, {"id": quiet.connection.id, "messages": 1}],
        "senders_count": 2,
    }
    assert about["pool"] == {"size": 1 << 20, "used": 32}
    receiver.match(bloom_mask_item((1,)))
    assert one(world, "connection", id=receiver.connection.id)["matches"] == 1


def test_final_revision() -> None:
    world = World()
    bus = make_bus(world)
    peer, other = FinalPeer(world, bus), FinalPeer(world, bus)
    peer.acquire(NAME)
    other.send(peer.id, b"1234", b"5678", cookie=1)
    about = one(world, "connection", id=peer.id)
    assert (about["revision"], about["names_count"]) == ("final", 1)
    assert about["queue"] == {
        "messages": 1,
        "payload": 8,
        "senders": [{"id": other.id, "messages": 1}],
        "senders_count": 1,
    }
    (made,) = facts(world)["bus"]
    assert made["revision"] == "final"
    messages = made["messages"]
    assert isinstance(messages, int) and messages > 0
    assert facts(world)["domain"][0]["messages"] == 0, "the bus counts for itself"


def test_replies() -> None:
    world = World()
    client, service = world.connect(), world.connect()
    client.request(service, 7, timeout=5)
    expected = {
        "requester": client.connection.id,
        "replier": service.connection.id,
        "cookie": 7,
        "deadline_ns": world.clock.monotonic_ns() + 5,
        "sync": False,
    }
    assert one(world, "connection", id=client.connection.id)["expects"] == [expected]
    assert one(world, "connection", id=service.connection.id)["owes"] == [expected]
    world.expire(10)
    assert one(world, "connection", id=client.connection.id)["expects_count"] == 0


def test_policies() -> None:
    world = World()
    access = access_item(abi.POLICY_ACCESS_USER, 7, abi.POLICY_OWN)
    holder = world.policy_holder(NAME, world_access(abi.POLICY_SEE), access)
    world.endpoint("door", name_item(b"org.example.*"), access_item(abi.POLICY_ACCESS_GROUP, 8, abi.POLICY_TALK))
    first, second = facts(world)["policy"]
    assert first["access"] == [
        {"to": "world", "id": None, "may": "SEE"},
        {"to": "user", "id": 7, "may": "OWN"},
    ]
    assert (first["name"], first["holder"], first["endpoint"]) == ("org.example.Name", holder.connection.id, None)
    assert (second["name"], second["holder"], second["endpoint"]) == ("org.example.*", None, "1000-door")


def test_long_lists_are_cut_and_counted() -> None:
    world = World()
    owner = world.connect()
    for number in range(MOST + 3):
        owner.acquire(b"org.example.N%d" % number)
    about = one(world, "connection", id=owner.connection.id)
    names = about["names"]
    assert isinstance(names, list)
    assert (len(names), about["names_count"]) == (MOST, MOST + 3)


def test_what_goes_between_two_steps_is_left_out() -> None:
    world = World()
    first, second, third = world.connect(), world.connect(), world.connect()
    walking = walk(world.domain, NAMESPACE)
    seen: list[object] = []
    for sheet in walking:
        if sheet["record"] == "connection":
            seen.append(sheet["id"])
            if second.connection.active:
                second.bye()
    assert seen == [first.connection.id, third.connection.id]


def test_looking_changes_nothing() -> None:
    world = World()
    receiver, sender = world.connect(), world.connect()
    sender.send(receiver, b"hello")
    before = facts(world)
    assert facts(world) == before
    assert receiver.recv().payload == b"hello"


def test_words_for_flags_and_bytes() -> None:
    assert flag_names(0b1101, {1: "A", 4: "C"}) == ["A", "C", "0x8"]
    assert flag_names(0, {1: "A"}) == []
    assert text("ü".encode() + b"\xff") == "ü\\xff"
