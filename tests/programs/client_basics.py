# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections, names, lists and messages through the client library."""

from __future__ import annotations

import errno
import gc
import select
import threading

import kdbus
from kdbus import Attach, HelloFlag, NameFlag
from kdbus.abi.revision import Kind
from kdbus.flags import ListFlag, MessageFlag
from tests.programs.client_support import PATIENCE, Scene, case, fails, main


@case
def connections_have_ids_and_know_their_bus(scene: Scene) -> None:
    first, second = scene.connect(), scene.connect()
    assert first.id != second.id
    assert first.bus_id == second.bus_id and len(first.bus_id) == 16
    assert first.bloom == kdbus.BloomParameters(64, 8)


@case
def the_newest_revision_is_found(scene: Scene) -> None:
    newest = kdbus.FINAL if scene.revision is kdbus.VERSION3 else scene.revision
    for bus in (scene.bus.name, f"/sys/fs/kdbus/{scene.bus.name}/bus"):
        with kdbus.connect(bus) as connection:
            assert connection.revision is newest
            assert connection.info(connection.id).id == connection.id


@case
def what_is_not_there_is_named(scene: Scene) -> None:
    error = fails(kdbus.Error, errno.ENOENT, lambda: kdbus.connect("0-nothing", revision=scene.revision))
    assert "/sys/fs/kdbus/0-nothing/bus" in str(error)
    fails(kdbus.Exists, errno.EEXIST, lambda: kdbus.Bus(scene.bus.name, revision=scene.revision))
    error = fails(kdbus.NotFound, errno.ESRCH, lambda: scene.connect().send("org.example.Nobody", b"x"))
    assert "SEND (org.example.Nobody): nobody owns the name" in str(error)
    fails(kdbus.NotFound, errno.ENXIO, lambda: scene.connect().send(987654, b"x"))


@case
def a_message_arrives_whole(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    text = bytearray(b"and more")
    parts = b"hello ", b"", kdbus.Zeros(3), text, memoryview(b"read-only"), memoryview(text)[4:]
    cookie = sender.send(receiver.id, *parts, payload_type=0x77, priority=-3)
    with receiver.receive(PATIENCE) as message:
        assert bytes(message.payload) == b"hello \0\0\0and moreread-onlymore"
        assert [bytes(view) for view in message.views][:3] == [b"hello ", b"\0\0\0", b"and more"]
        assert (message.sender, message.destination, message.cookie) == (sender.id, receiver.id, cookie)
        assert (message.payload_type, message.priority, message.reply_to) == (0x77, -3, 0)
        assert not message.expects_reply and not message.is_broadcast and not message.is_notification
    assert receiver.receive_nowait() is None
    sender.send(receiver.id)
    with receiver.receive(PATIENCE) as message:
        assert bytes(message.payload) == b""


@case
def a_message_goes_to_a_name(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    assert receiver.acquire_name("org.example.There")
    sender.send("org.example.There", b"x", owner=receiver.id)
    with receiver.receive(PATIENCE) as message:
        assert message.destination_name == "org.example.There"
    fails(kdbus.Error, errno.EREMCHG, lambda: sender.send("org.example.There", b"x", owner=sender.id))


@case
def messages_are_peeked_at_and_dropped(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    assert not receiver.drop_nowait()
    sender.send(receiver.id, b"first")
    sender.send(receiver.id, b"second", priority=-1)
    peeked = receiver.receive_nowait(peek=True, priority=0)
    assert peeked is not None and bytes(peeked.payload) == b"second"
    again = receiver.receive_nowait(priority=0)
    assert again is not None
    # One part of the pool, given out twice: the second message keeps it when the first is gone.
    peeked.release()
    del peeked
    sender.send(receiver.id, b"differs")
    assert bytes(again.payload) == b"second"
    assert receiver.receive_nowait(priority=-1) is None
    assert receiver.drop_nowait()
    assert bytes(receiver.receive(PATIENCE).payload) == b"differs"


@case
def the_pool_does_not_leak(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect(pool_size=1 << 16)
    held = []
    for number in range(200):
        sender.send(receiver.id, b"%03d" % number + bytes(4000))
        message = receiver.receive(PATIENCE)
        view = message.payload[:3]
        message.release()
        assert bytes(view) == b"%03d" % number
        receiver.list_names()
        receiver.info(sender.id)
        if number in (50, 100):
            held.append(view)
    assert [bytes(view) for view in held] == [b"050", b"100"]


@case
def what_is_hoarded_fills_the_pool(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect(pool_size=1 << 16)
    held = []

    def hoard() -> None:
        while True:
            sender.send(receiver.id, bytes(4000))
            held.append(receiver.receive(PATIENCE))

    try:
        hoard()
    except kdbus.QueueFull as error:
        assert "full" in str(error), error
    assert len(held) > 5
    held.clear()
    gc.collect()
    sender.send(receiver.id, bytes(4000))


@case
def views_outlive_the_connection(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    sender.send(receiver.id, b"still here")
    message = receiver.receive(PATIENCE)
    receiver.close()
    assert bytes(message.payload) == b"still here"
    error = fails(kdbus.Error, errno.EBADF, receiver.receive)
    assert "RECV: it has been closed" in str(error)


@case
def waiting_ends_by_time_or_by_the_bus(scene: Scene) -> None:
    receiver = scene.connect()
    error = fails(kdbus.TimedOut, errno.ETIMEDOUT, lambda: receiver.receive(0))
    assert isinstance(error, TimeoutError)
    thread = threading.Thread(target=scene.bus.close)
    thread.start()
    fails(kdbus.Disconnected, errno.ECONNRESET, lambda: receiver.receive(PATIENCE))
    thread.join()
    assert list(receiver) == []


@case
def a_connection_can_be_polled(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    poll = select.poll()
    poll.register(receiver, select.POLLIN)
    assert poll.poll(0) == []
    sender.send(receiver.id, b"x")
    assert poll.poll(PATIENCE * 1000) == [(receiver.fileno(), select.POLLIN)]


@case
def names_are_acquired_queued_for_and_released(scene: Scene) -> None:
    first, second = scene.connect(), scene.connect()
    assert first.acquire_name("org.example.Name", NameFlag.ALLOW_REPLACEMENT)
    assert first.acquire_name("org.example.Name", NameFlag.ALLOW_REPLACEMENT)
    fails(kdbus.Exists, errno.EEXIST, lambda: second.acquire_name("org.example.Name"))
    assert not second.acquire_name("org.example.Name", NameFlag.QUEUE)
    flags = ListFlag.UNIQUE | ListFlag.NAMES | ListFlag.QUEUED
    listed = {(each.id, each.name) for each in first.list_names(flags)}
    assert listed == {(first.id, "org.example.Name"), (second.id, "org.example.Name")}, listed
    first.release_name("org.example.Name")
    assert first.info("org.example.Name").id == second.id
    assert second.acquire_name("org.example.Other")
    third = scene.connect()
    number = errno.ESRCH if scene.is_version3 else errno.EADDRINUSE
    kind = kdbus.NotFound if scene.is_version3 else kdbus.Error
    fails(kind, number, lambda: third.release_name("org.example.Other"))
    fails(kdbus.NotFound, errno.ESRCH, lambda: third.release_name("org.example.Nobody"))
    fails(kdbus.Error, errno.EINVAL, lambda: third.acquire_name("nodots"))
    assert kdbus.wait_for_name(scene.bus.name, "org.example.Other", PATIENCE) == second.id


@case
def a_name_is_waited_for(scene: Scene) -> None:
    owner = scene.connect()
    timer = threading.Timer(0.05, lambda: owner.acquire_name("org.example.Late"))
    timer.start()
    assert kdbus.wait_for_name(scene.bus.name, "org.example.Late", PATIENCE) == owner.id
    timer.join()
    never = "org.example.Never"
    error = fails(kdbus.TimedOut, errno.ETIMEDOUT, lambda: kdbus.wait_for_name(scene.bus.name, never, 0))
    assert f"({never}): nobody has acquired the name in time" in str(error)


@case
def a_bus_is_waited_for(scene: Scene) -> None:
    name = kdbus.own_name("late")
    made: list[kdbus.Bus] = []
    timer = threading.Timer(0.05, lambda: made.append(kdbus.Bus(name, revision=scene.revision)))
    timer.start()
    kdbus.wait_for_bus(name, PATIENCE)
    timer.join()
    kdbus.wait_for_bus(f"/sys/fs/kdbus/{name}/bus", 0)
    made[0].close()
    error = fails(kdbus.TimedOut, errno.ETIMEDOUT, lambda: kdbus.wait_for_name(name, "org.example.X", 0.01))
    assert "no bus of that name" in str(error)
    fails(kdbus.Error, errno.ENOENT, lambda: kdbus.wait_for_bus(name, root="/nowhere"))


@case
def lists_tell_what_connections_are(scene: Scene) -> None:
    plain = scene.connect(flags=HelloFlag.NONE)
    activator = scene.connect(flags=HelloFlag.ACTIVATOR, policies=[kdbus.Policy("org.example.Lazy")])
    entries = {each.id: each for each in plain.list_names(ListFlag.UNIQUE | ListFlag.ACTIVATORS)}
    assert entries[plain.id] == kdbus.Listed(plain.id, HelloFlag.NONE, None, NameFlag.NONE)
    found = entries[activator.id]
    assert (found.name, found.flags) == ("org.example.Lazy", HelloFlag.ACTIVATOR)
    assert found.name_flags & NameFlag.ACTIVATOR
    sender = scene.connect()
    fails(
        kdbus.Error,
        errno.EADDRNOTAVAIL,
        lambda: sender.send("org.example.Lazy", b"x", flags=MessageFlag.NO_AUTO_START),
    )
    sender.send("org.example.Lazy", b"wake up")
    peeked = activator.receive_nowait(peek=True)
    assert peeked is not None and bytes(peeked.payload) == b"wake up"
    peeked.release()
    assert plain.acquire_name("org.example.Lazy")
    assert bytes(plain.receive(PATIENCE).payload) == b"wake up"


@case
def connections_and_the_bus_are_described(scene: Scene) -> None:
    one = scene.connect(description="a-test")
    assert one.acquire_name("org.example.One")
    info = one.info("org.example.One")
    assert (info.id, info.metadata.description) == (one.id, "a-test")
    assert [name.name for name in info.metadata.names] == ["org.example.One"]
    assert info.metadata.pids is not None and info.metadata.pids.pid > 0
    assert one.info(one.id, Attach.NAMES).metadata.pids is None
    fails(kdbus.NotFound, errno.ESRCH, lambda: one.info("org.example.Nobody"))
    fails(kdbus.NotFound, errno.ENXIO, lambda: one.info(987654))
    creator = one.creator_info()
    assert creator.bus_name == scene.bus.name
    assert creator.metadata.creds is not None


@case
def what_is_supported_is_asked(scene: Scene) -> None:
    connection = scene.connect()
    if scene.is_version3:
        try:
            connection.supported("SEND")
        except ValueError as error:
            assert "no item NEGOTIATE" in str(error)
        else:
            raise AssertionError
        return
    assert connection.supported("SEND") == kdbus.Supported(1, frozenset({Kind.NEGOTIATE, Kind.CANCEL_FD}))
    assert connection.supported("RECV").flags == 7
    message = connection.supported("message")
    assert message.flags == 7 and {Kind.PAYLOAD_VEC, Kind.FDS, Kind.DST_NAME} < message.items
    assert kdbus.supported("HELLO", scene.bus.name).flags == 15
    assert {Kind.MAKE_NAME, Kind.BLOOM_PARAMETER} < kdbus.supported("BUS_MAKE").items
    # Nothing was sent or received.
    assert connection.receive_nowait() is None


@case
def refused_connections_say_why(scene: Scene) -> None:
    number = errno.EFAULT if scene.is_version3 else errno.EINVAL
    error = fails(kdbus.Error, number, lambda: scene.connect(pool_size=1000))
    assert "multiple of" in str(error)
    both = HelloFlag.MONITOR | HelloFlag.ACTIVATOR
    fails(kdbus.Error, errno.EINVAL, lambda: scene.connect(flags=both, policies=[kdbus.Policy("org.example.X")]))
    sender = scene.connect()
    fails(kdbus.Error, errno.EMSGSIZE, lambda: sender.send(sender.id, bytes(3 << 20)))
    if not scene.is_final:
        name = kdbus.own_name("demanding")
        with kdbus.Bus(name, required=Attach.NAMES, revision=scene.revision):
            error = fails(
                kdbus.Error,
                errno.ECONNREFUSED,
                lambda: kdbus.connect(name, attach_send=Attach.PIDS, revision=scene.revision),
            )
            assert "requires more metadata" in str(error)


@case
def byebye_waits_for_an_empty_queue(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    sender.send(receiver.id, b"x")
    fails(kdbus.Error, errno.EBUSY, receiver.byebye)
    receiver.receive(PATIENCE).release()
    receiver.byebye()
    fails(kdbus.Disconnected, errno.ECONNRESET, receiver.receive_nowait)
    fails(kdbus.NotFound, errno.ENXIO, lambda: sender.send(receiver.id, b"x"))


if __name__ == "__main__":
    main()
