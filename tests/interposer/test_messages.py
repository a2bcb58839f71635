# SPDX-License-Identifier: GPL-2.0-or-later
"""The tap: a record of each message, as it was, whatever became of it; bounded, and without any effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from broker.errors import KdbusError, NoSuchName, QueueFull
from broker.flow import is_lendable
from interposer.supervisor import messages
from interposer.supervisor.messages import MessageTap, Subscription
from interposer.watching import filters, wire
from interposer.watching.wire import Nonsense, Record
from kdbus.abi import revision3 as abi
from tests.support.final_peer import FinalPeer
from tests.support.world import Peer, World, fails, vector_item

NAME = b"org.example.Name"


class Watcher:
    """A domain that is watched."""

    def __init__(self, wanted: dict[str, object] | None = None, preview: int = 64) -> None:
        self.world = World()
        self.tap = MessageTap()
        self.news = 0
        self.subscription = Subscription(filters.predicate(wanted or {}), preview, self._count)
        self.tap.subscriptions[self.subscription] = None
        self.world.domain.tap = self.tap

    def _count(self) -> None:
        self.news += 1

    def seen(self) -> list[Record]:
        """What has come since this was last asked."""
        self.tap.settle()
        return list(iter(self.subscription.take, None))

    def peers(self) -> tuple[Peer, Peer]:
        """Two connections, whose coming has been seen."""
        found = self.world.connect(), self.world.connect()
        self.seen()
        return found


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


def shape(record: Record, *keys: str) -> tuple[Any, ...]:
    return tuple(record[key] for key in keys)


def test_call_and_reply(watcher: Watcher) -> None:
    client, service = watcher.peers()
    service.acquire(NAME)
    watcher.seen()
    client.request(NAME, 7)
    service.reply(client, 7, b"answer")
    call, reply = watcher.seen()
    ids = client.connection.id, service.connection.id
    keys = "kind", "from", "to", "to_name", "cookie", "reply_to", "size", "failed"
    assert shape(call, *keys) == ("call", *ids, "org.example.Name", 7, None, call["size"], None)
    assert shape(reply, *keys) == ("reply", *reversed(ids), None, reply["cookie"], 7, 6, None)
    assert reply["from_names"] == ["org.example.Name"] and call["flags"] == ["EXPECT_REPLY"]
    assert reply["payload"] == b"answer"
    assert call["took_ns"] is None and reply["took_ns"] >= 0
    assert call["sequence"] + 1 == reply["sequence"]


def test_final_revision(watcher: Watcher) -> None:
    """And between the two."""
    old, new = watcher.world.connect(), FinalPeer(watcher.world)
    new.acquire(NAME)
    watcher.seen()
    old.request(NAME, 7)
    new.send(old.connection.id, b"ans", b"wer", cookie=1, cookie_reply=7)
    call, reply = watcher.seen()
    assert shape(call, "kind", "from", "to", "cookie") == ("call", old.connection.id, new.id, 7)
    assert shape(reply, "kind", "from", "reply_to", "size", "parts") == ("reply", new.id, 7, 6, 2)
    assert reply["payload"] == b"answer" and reply["took_ns"] is not None
    with pytest.raises(KdbusError):
        new.send(99, b"x", cookie=2)
    (record,) = watcher.seen()
    assert shape(record, "to", "to_name") == (99, None)
    assert record["failed"] == {"errno": "ENXIO", "reason": "there is no connection 99"}


def test_signals_and_notifications(watcher: Watcher) -> None:
    first, _ = watcher.peers()
    first.signal(payload=b"x")
    first.acquire(NAME)
    first.close()
    told = [shape(record, "kind", "from", "to") for record in watcher.seen()]
    assert told == [("signal", first.connection.id, None), *[("notification", 0, None)] * 3]
    world = watcher.world
    world.connect()
    (record,) = watcher.seen()
    assert record["notification"] == {"type": "ID_ADD", "old": None, "new": 3, "name": None}


def test_failure_before_delivery(watcher: Watcher) -> None:
    first, _ = watcher.peers()
    with fails(NoSuchName):
        first.send(NAME)
    (record,) = watcher.seen()
    assert shape(record, "to", "to_name") == (None, "org.example.Name")
    assert record["failed"] == {"errno": "ESRCH", "reason": "nobody owns org.example.Name"}


def test_failure_at_delivery_is_told_with_the_message(watcher: Watcher) -> None:
    first, second = watcher.peers()
    with fails(QueueFull):
        while True:
            first.send(second, b"x")
    records = watcher.seen()
    assert [record["failed"] for record in records[:-1]] == [None] * (len(records) - 1)
    assert records[-1]["failed"]["errno"] == "ENOBUFS"
    assert "user 1000 has 16 of 16 messages in the queue of connection 2" in records[-1]["failed"]["reason"]
    traffic = watcher.tap.traffic_told((id(watcher.world.domain), "1000-bus", first.connection.id))
    assert (traffic["sent"], traffic["failed"]) == (len(records), 1)


def test_payload_is_cut_and_what_cannot_be_read_left_out() -> None:
    watcher = Watcher(preview=4)
    first, second = watcher.peers()
    first.send(second, b"longer")
    with pytest.raises(KdbusError):
        first.send(second, items=[vector_item(0x7000_0000, 8)])
    whole, broken = watcher.seen()
    assert wire.with_payload(whole, 4)["payload"] == "bG9uZw=="
    assert wire.with_payload(whole, 2)["payload"] == "bG8="
    assert broken["payload"] == b"" and broken["size"] == 8 and broken["failed"]["errno"] == "EFAULT"


def test_nobody_can_tell(watcher: Watcher) -> None:
    """Receivers get the same bytes, and nobody is in the list but who was."""
    plain = World()
    results = []
    for world in (plain, watcher.world):
        first, second = world.connect(), world.connect(attach_flags_recv=abi.ATTACH_ALL)
        first.send(second, b"hello")
        results.append((second.recv().payload, len(second.names(abi.LIST_UNIQUE)), bytes(second.memory.data[:4096])))
    assert results[0][:2] == results[1][:2]
    assert results[0][2] == results[1][2]


def test_who_watches_is_no_reason_to_lend_nothing(watcher: Watcher) -> None:
    first, _ = watcher.peers()
    assert is_lendable(first.connection)


def test_too_many_are_dropped_and_counted(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MOST", 3)
    first, second = watcher.peers()
    for _ in range(7):
        first.send(second, b"x")
        second.recv()
    records = watcher.seen()
    assert [record["record"] for record in records] == ["message"] * 3 + ["dropped"]
    assert records[-1]["count"] == 4
    first.send(second, b"x")
    assert [record["record"] for record in watcher.seen()] == ["message"]


def test_large_ones_are_dropped_as_well(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_MOST_BYTES", 100)
    first, second = watcher.peers()
    for _ in range(3):
        first.send(second, b"x" * 64)
    assert [record["record"] for record in watcher.seen()] == ["message", "dropped"]


def test_requests_are_not_remembered_for_ever(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_REQUESTS", 2)
    client, service = watcher.peers()
    for cookie in (1, 2, 3):
        client.request(service, cookie)
    for cookie in (1, 2, 3):
        service.reply(client, cookie)
    assert [record["took_ns"] is None for record in watcher.seen()[3:]] == [True, False, False]


def test_traffic(watcher: Watcher) -> None:
    client, service = watcher.peers()
    for cookie in (1, 2):
        client.request(service, cookie)
        service.reply(client, cookie, b"12345")
    bus = id(watcher.world.domain), "1000-bus"
    asked = watcher.tap.traffic_told((*bus, client.connection.id))
    answered = watcher.tap.traffic_told((*bus, service.connection.id))
    assert (asked["sent"], asked["received"], asked["replies"]) == (2, 2, 0)
    assert (answered["sent"], answered["sent_bytes"], answered["replies"]) == (2, 10, 2)
    assert 0 < answered["longest_reply_ns"] <= answered["reply_ns"]
    watcher.tap.keep([(*bus, client.connection.id)])
    assert watcher.tap.traffic_told((*bus, service.connection.id))["sent"] == 0


def filtered(**wanted: object) -> Iterator[tuple[int, int]]:
    watcher = Watcher(wanted)
    client, service = watcher.peers()
    service.acquire(NAME)
    client.request(NAME, 1)
    service.reply(client, 1)
    client.signal()
    with fails(NoSuchName):
        client.send(b"org.example.Nobody")
    for record in watcher.seen():
        yield record["from"], record["cookie"]


@pytest.mark.parametrize(
    ("wanted", "senders"),
    [
        ({"bus": "1000-bus"}, [0, 1, 2, 1, 1]),
        ({"bus": "1000-other"}, []),
        ({"from": "1"}, [1, 1, 1]),
        ({"from": "org.example.Name"}, [2]),
        ({"to": "org.example.Name"}, [1]),
        ({"with": "org.example.Name"}, [1, 2]),
        ({"with": "2"}, [1, 2]),
        ({"kinds": ["call", "reply"]}, [1, 2]),
        ({"kinds": ["notification"]}, [0]),
        ({"failed": True}, [1]),
        ({"from": "1", "kinds": ["signal"]}, [1]),
    ],
)
def test_filters(wanted: dict[str, object], senders: list[int]) -> None:
    assert [source for source, _ in filtered(**wanted)] == senders


@pytest.mark.parametrize("wanted", [1, {"bus": 1}, {"kinds": ["rely"]}, {"kinds": "call"}, {"failed": 1}, {"x": ""}])
def test_nonsense_is_no_filter(wanted: object) -> None:
    with pytest.raises(Nonsense):
        filters.predicate(wanted)
