# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals, matches, notifications, monitors and losses through the client library."""

from __future__ import annotations

import errno

import kdbus
from kdbus import HelloFlag, NameFlag, matches
from tests.programs.client_support import PATIENCE, Scene, case, fails, main

SIZE = 64


def bits(*numbers: int) -> bytes:
    """A filter or mask of the bus's size with these bits."""
    return sum(1 << number for number in numbers).to_bytes(SIZE, "little")


@case
def signals_reach_those_whose_masks_fit(scene: Scene) -> None:
    sender, fitting, other = scene.connect(), scene.connect(), scene.connect()
    fitting.add_match(matches.Bloom([bits(1, 9)]))
    other.add_match(matches.Bloom([bits(1, 10)]))
    cookie = sender.signal(b"news", bloom=bits(1, 9, 200))
    with fitting.receive(PATIENCE) as message:
        assert message.is_broadcast and message.cookie == cookie
        assert bytes(message.payload) == b"news"
        assert message.bloom == (kdbus.BloomFilter(bits(1, 9, 200)) if scene.is_final else None)
    assert other.receive_nowait() is None
    error = fails(kdbus.Error, errno.EDOM, lambda: sender.signal(b"x", bloom=bytes(8)))
    assert "bloom filter is not of the bus's size" in str(error)


@case
def generations_choose_among_masks(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    receiver.add_match(matches.Bloom([bits(1), bits(2)]))
    sender.signal(b"first", bloom=kdbus.BloomFilter(bits(1), 0))
    sender.signal(b"none", bloom=kdbus.BloomFilter(bits(1), 1))
    sender.signal(b"last", bloom=kdbus.BloomFilter(bits(2), 7))
    assert [bytes(receiver.receive(PATIENCE).payload) for _ in range(2)] == [b"first", b"last"]


@case
def matches_tell_senders_apart(scene: Scene) -> None:
    first, second, receiver = scene.connect(), scene.connect(), scene.connect()
    assert second.acquire_name("org.example.Second")
    by_id = receiver.add_match(matches.FromId(first.id))
    by_name = receiver.add_match(matches.FromName("org.example.Second"))
    for sender in (first, second):
        sender.signal(b"x", bloom=bits())
    assert [receiver.receive(PATIENCE).sender for _ in range(2)] == [first.id, second.id]
    receiver.remove_match(by_id)
    number = errno.ENOENT if scene.is_version3 else errno.EBADSLT
    fails(kdbus.Error, number, lambda: receiver.remove_match(by_id))
    # Instead of those with that cookie.
    receiver.add_match(matches.FromId(first.id), cookie=by_name, replace=True)
    for sender in (second, first):
        sender.signal(b"x", bloom=bits())
    assert receiver.receive(PATIENCE).sender == first.id
    assert receiver.receive_nowait() is None


@case
def a_signal_goes_to_one(scene: Scene) -> None:
    sender, receiver, other = scene.connect(), scene.connect(), scene.connect()
    for each in (receiver, other):
        each.add_match(matches.Bloom([bits(3)]))
    sender.signal(b"for you", bloom=bits(3), destination=receiver.id)
    assert bytes(receiver.receive(PATIENCE).payload) == b"for you"
    assert other.receive_nowait() is None
    if scene.is_final:
        other.add_match(matches.ToId(other.id))
        sender.signal(b"y", bloom=bits(), destination=other.id)
        assert bytes(other.receive(PATIENCE).payload) == b"y"
    else:
        try:
            other.add_match(matches.ToId(other.id))
        except ValueError as error:
            assert "no item DST_ID" in str(error)
        else:
            raise AssertionError


@case
def notifications_are_values(scene: Scene) -> None:
    watcher = scene.connect()
    for rule in (matches.NameAppears(), matches.NameVanishes(), matches.NameChangesHands()):
        watcher.add_match(rule)
    watcher.add_match(matches.IdAppears())
    first = scene.connect()
    with watcher.receive(PATIENCE) as message:
        assert message.notification == kdbus.IdChange(first.id, HelloFlag.ACCEPT_FD, True)
    watcher.add_match(matches.IdLeaves(first.id))
    second = scene.connect()
    watcher.receive(PATIENCE).release()
    assert first.acquire_name("org.example.Name", NameFlag.ALLOW_REPLACEMENT)
    assert second.acquire_name("org.example.Name", NameFlag.REPLACE_EXISTING)
    second.release_name("org.example.Name")
    first.close()
    changes = []
    for _ in range(4):
        with watcher.receive(PATIENCE) as message:
            changes.append(message.notification)
    names = [each for each in changes if isinstance(each, kdbus.NameChange)]
    told = [(each.name, each.old_id, each.new_id) for each in names]
    assert told == [
        ("org.example.Name", 0, first.id),
        ("org.example.Name", first.id, second.id),
        ("org.example.Name", second.id, 0),
    ], told
    assert changes[3] == kdbus.IdChange(first.id, HelloFlag.ACCEPT_FD, False)


@case
def monitors_hear_everything(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    monitor = scene.connect(flags=HelloFlag.MONITOR)
    sender.send(receiver.id, b"private")
    sender.signal(b"public", bloom=bits())
    heard = [monitor.receive(PATIENCE) for _ in range(2)]
    assert [(bytes(each.payload), each.destination) for each in heard] == [
        (b"private", receiver.id),
        (b"public", kdbus.BROADCAST),
    ]
    fails(kdbus.Error, errno.EOPNOTSUPP, lambda: monitor.send(receiver.id, b"x"))


@case
def losses_are_counted(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect(pool_size=1 << 14)
    receiver.add_match()
    sent = 40
    for _ in range(sent):
        sender.signal(bytes(1000), bloom=bits())
    received = lost = 0
    while (message := receiver.receive_nowait()) is not None:
        received += 1
        lost += message.lost
    assert 0 < received < sent
    assert receiver.lost == sent - received
    assert lost == receiver.lost


@case
def a_bus_of_its_own_parameters(scene: Scene) -> None:
    name, parameters = kdbus.own_name("small"), kdbus.BloomParameters(8, 1)
    with (
        kdbus.Bus(name, kdbus.MakeFlag.ACCESS_WORLD, bloom=parameters, revision=scene.revision),
        kdbus.connect(name, revision=scene.revision) as connection,
    ):
        assert connection.bloom == parameters
        assert connection.bus_flags == kdbus.MakeFlag.ACCESS_WORLD
        connection.signal(b"x", bloom=bytes(8))


if __name__ == "__main__":
    main()
