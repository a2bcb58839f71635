# SPDX-License-Identifier: GPL-2.0-or-later
"""The trio face of the client library."""

from __future__ import annotations

import errno
import functools
import math

import trio
import trio.testing

import kdbus
import kdbus.trio
from kdbus import matches
from tests.programs.client_support import PATIENCE, Scene, main, task_case


def connect(scene: Scene) -> kdbus.trio.Connection:
    return scene.stack.enter_context(kdbus.trio.connect(scene.bus.name, revision=scene.revision))


async def upper(request: kdbus.Message) -> bytes:
    return bytes(request.payload).upper()


@task_case
async def calls_and_services_share_a_loop(scene: Scene) -> None:
    client, service = connect(scene), connect(scene)
    service.acquire_name("org.example.Upper")
    replies = {}

    async def call(text: bytes) -> None:
        with await client.call("org.example.Upper", text) as reply:
            replies[text] = bytes(reply.payload)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.serve, upper)
        async with trio.open_nursery() as callers:
            for number in range(10):
                callers.start_soon(call, b"text %d" % number)
        nursery.cancel_scope.cancel()
    assert replies == {b"text %d" % number: b"TEXT %d" % number for number in range(10)}


@task_case
async def replies_find_their_callers_in_any_order(scene: Scene) -> None:
    client, service = connect(scene), connect(scene)
    requests: list[kdbus.Message] = []
    got: list[bytes] = []

    async def call(text: bytes) -> None:
        with await client.call(service.id, text) as reply:
            got.append(bytes(reply.payload))

    async def hear() -> None:
        with await client.receive() as message:
            got.append(bytes(message.payload))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        for text in (b"1", b"2", b"3"):
            nursery.start_soon(call, text)
        for _ in range(3):
            requests.append(await service.receive())
        requests.sort(key=lambda request: bytes(request.payload), reverse=True)
        for request in requests:
            service.reply(request, request.payload)
            await trio.testing.wait_all_tasks_blocked()
        service.send(client.id, b"unasked")
    assert got == [b"3", b"2", b"1", b"unasked"]


@task_case
async def whoever_reads_for_all_can_be_cancelled(scene: Scene) -> None:
    client, service = connect(scene), connect(scene)
    got: list[bytes] = []

    async def call() -> None:
        with await client.call(service.id, b"question") as reply:
            got.append(bytes(reply.payload))

    async with trio.open_nursery() as nursery:
        reader = trio.CancelScope()

        async def read_first() -> None:
            with reader:
                await client.receive()

        nursery.start_soon(read_first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call)
        request = await service.receive()
        await trio.testing.wait_all_tasks_blocked()
        reader.cancel()
        await trio.testing.wait_all_tasks_blocked()
        service.reply(request, b"answer")
    assert reader.cancelled_caught and got == [b"answer"]


@task_case
async def reply_to_a_cancelled_call_is_thrown_away(scene: Scene) -> None:
    client, service = connect(scene), connect(scene)
    with trio.CancelScope() as scope:

        async def cancel_meanwhile() -> kdbus.Message:
            request = await service.receive()
            scope.cancel()
            return request

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, service.id, b"question")
            request = await cancel_meanwhile()
    assert scope.cancelled_caught
    service.reply(request, b"too late")
    service.send(client.id, b"next")
    assert bytes((await client.receive()).payload) == b"next"


@task_case
async def replies_are_not_taken_by_those_who_do_not_wait(scene: Scene) -> None:
    client, service = connect(scene), connect(scene)
    got: list[bytes] = []

    async def call() -> None:
        with await client.call(service.id, b"question", timeout=math.inf) as reply:
            got.append(bytes(reply.payload))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        service.reply(await service.receive(), b"answer")
        service.send(client.id, b"message", priority=-1)
        message = client.receive_nowait()
        assert message is not None and bytes(message.payload) == b"message"
        assert client.receive_nowait() is None
    assert got == [b"answer"]


@task_case
async def calls_fail_as_the_bus_says(scene: Scene) -> None:
    client, service = connect(scene), connect(scene)

    async def fails(expected: type[kdbus.Error], number: int, seconds: float) -> None:
        try:
            await client.call(service.id, b"x", timeout=seconds)
        except kdbus.Error as error:
            assert type(error) is expected and error.errno == number, repr(error)
        else:
            raise AssertionError(f"no {expected.__name__}")

    await fails(kdbus.TimedOut, errno.ETIMEDOUT, 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, kdbus.PeerGone, errno.EPIPE, PATIENCE)
        await service.receive()
        await service.receive()
        service.close()
    await fails(kdbus.NotFound, errno.ENXIO, PATIENCE)


@task_case
async def a_reply_that_has_no_room_is_not_waited_for(scene: Scene) -> None:
    client = scene.stack.enter_context(
        kdbus.trio.connect(scene.bus.name, revision=scene.revision, pool_size=1 << 14)
    )
    service = connect(scene)
    outcome: list[kdbus.Error] = []

    async def call() -> None:
        try:
            await client.call(service.id, b"question", timeout=0.5)
        except kdbus.Error as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        request = await service.receive()
        try:
            service.reply(request, bytes(1 << 15))
        except kdbus.QueueFull as error:
            outcome.append(error)
    assert [type(error) for error in outcome] == [kdbus.QueueFull, kdbus.TimedOut], outcome
    assert client.receive_nowait() is None


@task_case
async def a_service_outlives_callers_that_left(scene: Scene) -> None:
    client, impatient, service = connect(scene), connect(scene), connect(scene)
    left = trio.Event()

    async def handler(request: kdbus.Message) -> bytes:
        if request.sender == impatient.id:
            await left.wait()
        return b"done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(service.serve, handler, tasks=2))
        impatient.send(service.id, b"x", timeout=PATIENCE)
        impatient.close()
        left.set()
        with await client.call(service.id, b"x") as reply:
            assert bytes(reply.payload) == b"done"
        # The end of the bus is the end of the service.
        scene.bus.close()


@task_case
async def exceptions_of_handlers_end_the_service(scene: Scene) -> None:
    client, service = connect(scene), connect(scene)

    async def handler(request: kdbus.Message) -> None:
        raise LookupError

    client.send(service.id, b"x")
    try:
        await service.serve(handler)
    except* LookupError:
        pass
    else:
        raise AssertionError


@task_case
async def a_closed_connection_wakes_its_tasks(scene: Scene) -> None:
    client = connect(scene)
    closed = []

    async def receive() -> None:
        try:
            await client.receive()
        except (trio.ClosedResourceError, kdbus.Error):
            closed.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        client.close()
    assert closed == [True, True]


@task_case
async def messages_are_iterated_until_the_end(scene: Scene) -> None:
    client = connect(scene)
    client.add_match(matches.IdLeaves())
    other = connect(scene)
    other.close()
    left = []
    async for message in client:
        with message:
            left.append(message.notification)
        scene.bus.close()
    assert left == [kdbus.IdChange(other.id, kdbus.HelloFlag.ACCEPT_FD, False)]


@task_case
async def a_name_is_waited_for(scene: Scene) -> None:
    owner = connect(scene)
    found = []

    async def wait() -> None:
        found.append(await kdbus.trio.wait_for_name(scene.bus.name, "org.example.Late"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        owner.acquire_name("org.example.Late")
    assert found == [owner.id]
    with trio.move_on_after(0) as scope:
        await kdbus.trio.wait_for_name(scene.bus.name, "org.example.Never")
    assert scope.cancelled_caught


@task_case
async def a_bus_is_waited_for(scene: Scene) -> None:
    name = kdbus.own_name("late")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kdbus.trio.wait_for_bus, name)
        await trio.testing.wait_all_tasks_blocked()
        made = kdbus.Bus(name, revision=scene.revision)
    made.close()


if __name__ == "__main__":
    main()
