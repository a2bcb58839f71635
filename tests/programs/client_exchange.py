# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls, and all that messages can carry, through the client library."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import kdbus
from kdbus import Attach, HelloFlag
from tests.programs.client_support import PATIENCE, Scene, case, fails, main


def answering(connection: kdbus.Connection, answer: Callable[[kdbus.Message], object]) -> threading.Thread:
    """A thread that takes one message and answers it."""

    def serve() -> None:
        with connection.receive(PATIENCE) as request:
            answer(request)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@case
def a_call_returns_the_reply(scene: Scene) -> None:
    client, service = scene.connect(), scene.connect()
    assert service.acquire_name("org.example.Service")

    def answer(request: kdbus.Message) -> None:
        assert request.expects_reply and request.deadline_ns > time.monotonic_ns()
        service.reply(request, bytes(request.payload).upper())

    thread = answering(service, answer)
    with client.call("org.example.Service", b"question", timeout=PATIENCE) as reply:
        assert bytes(reply.payload) == b"QUESTION"
        assert reply.sender == service.id and reply.reply_to == 1
    thread.join()
    assert client.receive_nowait() is None


@case
def a_call_ends_without_a_reply(scene: Scene) -> None:
    client, service = scene.connect(), scene.connect()
    fails(kdbus.TimedOut, errno.ETIMEDOUT, lambda: client.call(service.id, b"x", timeout=0.02))
    service.receive_nowait()
    thread = answering(service, lambda request: service.close())
    fails(kdbus.PeerGone, errno.EPIPE, lambda: client.call(service.id, b"x", timeout=PATIENCE))
    thread.join()


@case
def a_call_is_cancelled(scene: Scene) -> None:
    client, service = scene.connect(), scene.connect()
    reading, writing = os.pipe()
    thread = answering(service, lambda request: os.write(writing, b"x"))
    fails(
        kdbus.Cancelled,
        errno.ECANCELED,
        lambda: client.call(service.id, b"x", timeout=PATIENCE, cancel_fd=reading),
    )
    thread.join()
    os.close(reading)
    os.close(writing)


@case
def a_request_is_answered_later(scene: Scene) -> None:
    client, service = scene.connect(), scene.connect()
    first, second = client.send(service.id, b"1", timeout=PATIENCE), client.send(service.id, b"2", timeout=PATIENCE)
    requests = [service.receive(PATIENCE), service.receive(PATIENCE)]
    for request in reversed(requests):
        service.reply(request, request.payload)
    replies = {reply.reply_to: bytes(reply.payload) for reply in (client.receive(PATIENCE), client.receive(PATIENCE))}
    assert replies == {first: b"1", second: b"2"}
    number = errno.EBADSLT if scene.is_final else errno.EPERM
    kind = kdbus.Error if scene.is_final else kdbus.Denied
    assert "nobody waits for this reply" in str(fails(kind, number, lambda: service.reply(requests[0], b"again")))


@case
def a_request_dies_or_times_out(scene: Scene) -> None:
    client, service = scene.connect(), scene.connect()
    cookie = client.send(service.id, b"x", timeout=0.01)
    late = client.receive(PATIENCE)
    assert (late.notification, late.reply_to) == (kdbus.ReplyTimeout(), cookie)
    assert late.is_notification and late.sender == kdbus.KERNEL
    cookie = client.send(service.id, b"x", timeout=PATIENCE)
    assert service.drop_nowait() and service.drop_nowait()
    dead = client.receive(PATIENCE)
    assert (dead.notification, dead.reply_to) == (kdbus.ReplyDead(), cookie)


@case
def memfds_are_passed_without_a_copy(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    content = bytes(range(256)) * 32
    with kdbus.Memfd(content) as memfd:
        sender.send(receiver.id, b"head", memfd, memfd.part(5000, 10))
    with receiver.receive(PATIENCE) as message:
        head, whole, part = message.views
        assert (bytes(head), bytes(whole), bytes(part)) == (b"head", content, content[5000:5010])
        assert len(message.payload) == 4 + len(content) + 10
        assert os.fstat(message.memfd(0).fileno()).st_size == len(content)
    # The mapping outlives message and descriptor.
    assert bytes(whole) == content
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.write(unsealed, b"x")
    fails(
        kdbus.Error,
        errno.ETXTBSY,
        lambda: sender.send(receiver.id, kdbus.MemfdRange(unsealed, 0, 1)),
    )
    os.close(unsealed)


@case
def descriptors_are_passed(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    reading, writing = os.pipe()
    sender.send(receiver.id, b"x", descriptors=[writing, writing])
    os.close(writing)
    with receiver.receive(PATIENCE) as message:
        assert not message.incomplete
        taken = message.descriptors[0].take()
    os.write(taken, b"through")
    os.close(taken)
    # Closed with the message, so this is the end of the file.
    assert os.read(reading, 100) == b"through" and os.read(reading, 100) == b""
    os.close(reading)
    deaf = scene.connect(flags=HelloFlag.NONE)
    fails(kdbus.Error, errno.ECOMM, lambda: sender.send(deaf.id, b"x", descriptors=[0]))
    one, other = socket.socketpair()
    with one, other:
        fails(kdbus.Error, errno.EOPNOTSUPP, lambda: sender.send(receiver.id, b"x", descriptors=[one.fileno()]))


def _numbers(descriptors: Sequence[kdbus.Descriptor]) -> Iterator[int]:
    """Those that could be installed."""
    for descriptor in descriptors:
        try:
            yield descriptor.fileno()
        except kdbus.Error as error:
            assert error.errno == errno.EMFILE, repr(error)


@case
def descriptors_that_have_no_room_are_missing(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect()
    with kdbus.Memfd(b"in memory") as memfd:
        sender.send(receiver.id, memfd, descriptors=[0, 0])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Room for one more.
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 1, limits[1]))
    try:
        message = receiver.receive_nowait()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert message is not None and message.incomplete
    # Which one there was room for is the revision's matter.
    there = [os.fstat(number) for number in _numbers((*message.descriptors, message.memfd()))]
    assert len(there) == 1
    message.release()
    assert os.dup(0) == first_free
    os.close(first_free)


@case
def a_signal_does_not_end_a_call(scene: Scene) -> None:
    client, service = scene.connect(), scene.connect()
    caught = threading.Event()
    reading, writing = os.pipe()

    def handler(number: int, frame: object) -> None:
        caught.set()
        os.write(writing, b"x")

    def answer() -> None:
        with service.receive(PATIENCE) as request:
            # The call waits by now; it is told by the handler's write that the signal was seen.
            os.kill(os.getpid(), signal.SIGUSR1)
            os.read(reading, 1)
            service.reply(request, b"answer")

    old = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=answer)
    try:
        thread.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        with client.call(service.id, b"question", timeout=PATIENCE) as reply:
            assert bytes(reply.payload) == b"answer"
        assert caught.is_set()
        assert service.receive_nowait() is None
    finally:
        signal.signal(signal.SIGUSR1, old)
        thread.join()
        os.close(reading)
        os.close(writing)


@case
def a_handler_that_raises_ends_a_call(scene: Scene) -> None:
    client, service = scene.connect(), scene.connect()

    def handler(number: int, frame: object) -> None:
        raise InterruptedByUser

    old = signal.signal(signal.SIGUSR1, handler)
    thread = answering(service, lambda request: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1))
    try:
        client.call(service.id, b"question", timeout=PATIENCE)
    except InterruptedByUser:
        pass
    else:
        raise AssertionError
    finally:
        signal.signal(signal.SIGUSR1, old)
        thread.join()
    assert client.info(client.id).id == client.id


class InterruptedByUser(Exception):
    """What a signal handler raises."""


@case
def threads_share_a_connection(scene: Scene) -> None:
    service = scene.connect()
    clients = [scene.connect() for _ in range(4)]
    workers = 3
    wrong: list[object] = []

    def serve() -> None:
        for request in service:
            with request:
                if not request.payload:
                    return
                service.reply(request, bytes(request.payload)[::-1])

    def call(client: kdbus.Connection) -> None:
        for number in range(50):
            with client.call(service.id, b"%d-%d" % (client.id, number), timeout=PATIENCE) as reply:
                if bytes(reply.payload) != (b"%d-%d" % (client.id, number))[::-1]:
                    wrong.append(bytes(reply.payload))

    serving = [threading.Thread(target=serve) for _ in range(workers)]
    calling = [threading.Thread(target=call, args=[client]) for client in clients]
    for thread in (*serving, *calling):
        thread.start()
    for thread in calling:
        thread.join()
    for _ in serving:
        clients[0].send(service.id)
    for thread in serving:
        thread.join()
    assert not wrong


@case
def metadata_tell_of_the_sender(scene: Scene) -> None:
    sender = scene.connect(description="the-sender")
    receiver = scene.connect(attach_receive=Attach.ALL)
    assert sender.acquire_name("org.example.Sender")
    sender.send(receiver.id, b"x")
    with receiver.receive(PATIENCE) as message:
        told = message.metadata
    assert told.timestamp is not None and told.timestamp.monotonic_ns <= time.monotonic_ns()
    assert told.pids is not None and told.pids.pid == os.getpid() and told.pids.ppid == os.getppid()
    assert told.creds is not None and told.creds.uid == os.getuid() and told.creds.fsgid == os.getegid()
    assert told.auxgroups is not None and set(told.auxgroups) == set(os.getgroups())
    assert [owned.name for owned in told.names] == ["org.example.Sender"]
    assert told.description == "the-sender"
    if scene.is_final:  # In version 3, what the module lets out by default is less.
        with open("/proc/self/comm") as file:
            assert told.pid_comm == told.tid_comm == file.read().rstrip("\n")
        assert told.exe == os.readlink("/proc/self/exe")
        assert told.caps is not None and told.caps.bounding >> (told.caps.last + 1) == 0
        assert told.cgroup is None or told.cgroup.startswith("/")
    receiver.update(attach_receive=Attach.PIDS)
    sender.send(receiver.id, b"x")
    with receiver.receive(PATIENCE) as message:
        assert message.metadata == kdbus.Metadata(pids=told.pids)
    # What a sender keeps to itself, receivers learn in the final revision all the same.
    sender.update(attach_send=Attach.NAMES)
    sender.send(receiver.id, b"x")
    with receiver.receive(PATIENCE) as message:
        assert message.metadata == kdbus.Metadata(pids=told.pids if scene.is_final else None)


@case
def an_identity_is_claimed(scene: Scene) -> None:
    creds = kdbus.Credentials(*[os.getuid()] * 4, *[os.getgid()] * 4)
    claimed = scene.connect(creds=creds, pids=kdbus.Pids(os.getpid(), 0, 0), seclabel="a-label")
    told = claimed.info(claimed.id).metadata
    assert (told.creds, told.seclabel, told.exe) == (creds, "a-label", None)


@case
def policies_say_who_may(scene: Scene) -> None:
    policy = [
        kdbus.Policy("org.example.Free", (kdbus.Rule(kdbus.Access.OWN),)),
        kdbus.Policy("org.example.Mine", (kdbus.Rule(kdbus.Access.TALK, kdbus.AccessType.USER, os.geteuid()),)),
    ]
    talk = kdbus.Rule(kdbus.Access.TALK, kdbus.AccessType.GROUP, os.getegid())
    holder = scene.connect(flags=HelloFlag.POLICY_HOLDER, policies=[kdbus.Policy("org.example.*", (talk,))])
    fails(kdbus.Error, errno.EOPNOTSUPP, lambda: holder.send(holder.id, b"x"))
    with scene.bus.make_endpoint(kdbus.own_name("guarded"), policies=policy) as endpoint:
        guest = scene.connect(endpoint=endpoint.name)
        # What an endpoint allows, the bus has to allow as well.
        fails(kdbus.Denied, errno.EPERM, lambda: guest.acquire_name("org.example.Free"))
        holder.update(policies=[kdbus.Policy("org.example.*", (kdbus.Rule(kdbus.Access.OWN),))])
        assert guest.acquire_name("org.example.Free")
        fails(kdbus.Denied, errno.EPERM, lambda: guest.acquire_name("org.example.Other"))
        fails(kdbus.Denied, errno.EPERM, lambda: guest.acquire_name("org.example.Mine"))
        endpoint.update([kdbus.Policy("org.example.Other", (kdbus.Rule(kdbus.Access.OWN),))])
        assert guest.acquire_name("org.example.Other")
    fails(kdbus.Disconnected, errno.ECONNRESET, guest.receive_nowait)


if __name__ == "__main__":
    main()
