# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus through the client library, with trio."""

from __future__ import annotations

import errno
from contextlib import AbstractAsyncContextManager

import trio
import trio.testing

import kdbus
from kdbus.dbus import service
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.trio import Connection, connect
from kdbus.dbus.versions import CLASSIC
from tests.programs.client_support import PATIENCE, Scene, main, task_case

NAME = "org.example.Clock"
PATH = "/org/example/Clock"


@service.interface(NAME)
class Clock:
    def __init__(self) -> None:
        self.strike = trio.Event()
        self.waiting = 0

    @service.method("", "u")
    async def Wait(self) -> int:
        self.waiting += 1
        await self.strike.wait()
        return self.waiting

    @service.method()
    def Strike(self) -> None:
        self.strike.set()

    @service.method()
    async def Break(self) -> None:
        await trio.lowlevel.checkpoint()
        raise ErrorReply("org.example.Error.Broken", "as ever")

    @property
    @service.exposed("u")
    def Waiting(self) -> int:
        return self.waiting

    Struck = service.Signal("u", "hour")


def speak(scene: Scene) -> AbstractAsyncContextManager[Connection]:
    return connect(scene.bus.name, revision=scene.revision)


@task_case
async def slow_calls_do_not_hold_up_others(scene: Scene) -> None:
    async with speak(scene) as server, speak(scene) as client:
        server.acquire_name(NAME)
        server.objects.add(PATH, Clock())
        clock = await client.proxy(NAME, PATH, NAME)
        results = []

        async def wait() -> None:
            results.append(await clock.Wait())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            while await clock.get("Waiting") < 3:
                pass
            assert await clock.get_all() == {"Waiting": 3}
            await clock.Strike()
        assert results == [3, 3, 3]


@task_case
async def classic_messages_are_answered_in_kind(scene: Scene) -> None:
    async with speak(scene) as server, connect(scene.bus.name, revision=scene.revision, version=CLASSIC) as client:
        server.acquire_name(NAME)
        server.objects.add(PATH, Clock())
        clock = await client.proxy(NAME, PATH, NAME)
        await clock.Strike()
        assert await clock.Wait() == 1
        with server.subscribe("member='Struck'") as struck:
            client.send(Clock.Struck.message(PATH, 12))
            assert (await struck.receive()).body == (12,)


@task_case
async def errors_come_out_as_they_are(scene: Scene) -> None:
    async with speak(scene) as server:
        server.objects.add(PATH, Clock())
        try:
            async with speak(scene) as client:
                clock = await client.proxy(server.unique_name, PATH, service.interface_of(Clock))
                await clock.Break()
        except ErrorReply as error:
            assert error.name == "org.example.Error.Broken"
        else:
            raise AssertionError("no error")
        try:
            async with speak(scene) as client:
                await client.proxy("org.example.Nobody", PATH, NAME)
        except kdbus.NotFound as error:
            assert error.errno == errno.ESRCH
        else:
            raise AssertionError("no error")


@task_case
async def calls_are_cancelled(scene: Scene) -> None:
    async with speak(scene) as server, speak(scene) as client:
        clock = Clock()
        server.objects.add(PATH, clock)
        remote = await client.proxy(server.unique_name, PATH, service.interface_of(Clock))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote.Wait)
            while not clock.waiting:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        try:
            await remote.call("Wait", timeout=0.02)
        except kdbus.TimedOut:
            pass
        else:
            raise AssertionError("no error")


@task_case
async def signals_come_to_those_who_want_them(scene: Scene) -> None:
    async with speak(scene) as server, speak(scene) as client:
        remote = await client.proxy(server.unique_name, PATH, service.interface_of(Clock))
        with remote.subscribe("Struck") as struck, client.subscribe("arg0='org.example.New'") as owners:
            for hour in range(3):
                server.send(Clock.Struck.message(PATH, hour))
            found = []
            async for message in struck:
                found.append(message.body)
                if len(found) == 3:
                    break
            assert found == [(0,), (1,), (2,)]
            server.acquire_name("org.example.New")
            assert (await owners.receive()).body == ("org.example.New", "", server.unique_name)
        try:
            await struck.receive()
        except trio.ClosedResourceError:
            return
        raise AssertionError("a closed subscription")


@task_case
async def a_connection_that_ends_is_told(scene: Scene) -> None:
    async with speak(scene) as client:
        with client.subscribe("") as everything:
            scene.bus.close()
            try:
                with trio.fail_after(PATIENCE):
                    await everything.receive()
            except trio.EndOfChannel:
                return
            raise AssertionError("the connection goes on")


if __name__ == "__main__":
    main()
