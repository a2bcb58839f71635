# SPDX-License-Identifier: GPL-2.0-or-later
"""One name with a program behind it, whose activator and programs are played: when it is started, and when not."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from bridge.activatable import Activatable
from bridge.activated import Activated, Patience, Program
from kdbus.dbus.errors import ErrorReply


class Played:
    """The activator's queue, whatever is started for it, and what was told to senders."""

    def __init__(self, program: Callable[[Played], int | None], wanted: Activatable | None = None) -> None:
        self._readable, self._writable = socket.socketpair()
        self._queue: deque[tuple[int, int, bool]] = deque()
        self._sequence = 0
        self._program = program
        self.starts = 0
        self.killed = 0
        self.refused: list[tuple[int, str]] = []
        self.activated = Activated(
            wanted or Activatable("t.a", "a.service", ("/bin/a",)),
            cast(Any, self),
            spawn=self._spawn,
            refuse=self._refuse,
            look=lambda: None,
            patience=Patience(),
        )

    def send(self, cookie: int, *, expects_reply: bool = True) -> None:
        self._sequence += 1
        self._queue.append((cookie, self._sequence, expects_reply))
        self._signal()

    def take(self, keep: int = 0) -> None:
        """Somebody takes the name, and the messages but for the last `keep`, which come back."""
        self.activated.name_taken()
        while len(self._queue) > keep:
            self._queue.popleft()
        self._signal()

    def close(self) -> None:
        self._readable.close()
        self._writable.close()

    # ---- the connection, as `Activated` uses it

    def fileno(self) -> int:
        return self._readable.fileno()

    def receive_nowait(self, *, peek: bool) -> Any:
        assert peek
        if not self._queue:
            return None
        cookie, sequence, expects = self._queue[0]
        message = SimpleNamespace(
            sender=7,
            cookie=cookie,
            expects_reply=expects,
            metadata=SimpleNamespace(timestamp=SimpleNamespace(sequence=sequence)),
        )

        class Block(SimpleNamespace):
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        return Block(**vars(message))

    def drop_nowait(self) -> bool:
        if not self._queue:
            return False
        self._queue.popleft()
        self._signal()
        return True

    def _signal(self) -> None:
        """Be readable if something waits."""
        self._readable.setblocking(False)
        with suppress(BlockingIOError):
            self._readable.recv(1000)
        if self._queue:
            self._writable.send(b"x")

    async def _spawn(self, _wanted: Activatable) -> Any:
        self.starts += 1
        status = self._program(self)

        async def wait() -> int:
            if status is None:
                await trio.sleep_forever()
            assert status is not None
            return status

        def kill() -> None:
            self.killed += 1

        return Program("t.a", SimpleNamespace(wait=wait, kill=kill))  # type: ignore[arg-type]

    def _refuse(self, whom: int, cookie: int, reason: ErrorReply) -> None:
        assert whom == 7
        self.refused.append((cookie, reason.name.rpartition(".Error.")[2]))


@asynccontextmanager
async def playing(program: Callable[[Played], int | None], wanted: Activatable | None = None) -> AsyncIterator[Played]:
    played = Played(program, wanted)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(played.activated.serve)
            yield played
            nursery.cancel_scope.cancel()
    finally:
        played.close()


@pytest.mark.parametrize("waits", [False, True])
def test_it_retires_at_once_or_when_what_is_started_has_the_name(waits: bool) -> None:
    async def body() -> None:
        played = Played(lambda played: None)
        ended = False

        async def serve() -> None:
            nonlocal ended
            await played.activated.serve()
            ended = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            if waits:
                played.send(1)
            await trio.sleep(1)
            assert played.activated.retire() is not waits
            await trio.sleep(1)
            assert ended is not waits
            played.take()
        played.close()
        assert (ended, played.starts, played.refused) == (True, int(waits), [])

    start(body)


def start(body: Callable[[], Any]) -> None:
    trio.run(body, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_each_time_that_something_comes() -> None:
    async def body() -> None:
        async with playing(lambda played: played.take()) as played:
            for cookie in range(20):
                played.send(cookie)
                await trio.sleep(0.1)
            assert (played.starts, played.refused) == (20, [])

    start(body)


def test_who_waits_is_refused_and_the_next_is_a_new_attempt() -> None:
    async def body() -> None:
        async with playing(lambda _: 3) as played:
            played.send(1)
            played.send(2, expects_reply=False)
            played.send(3)
            await trio.sleep(0.1)
            assert (played.starts, played.refused) == (1, [(1, "Spawn.ChildExited"), (3, "Spawn.ChildExited")])
            played.send(4)
            await trio.sleep(0.1)
            assert played.starts == 2

    start(body)


def test_a_signal() -> None:
    async def body() -> None:
        async with playing(lambda _: -9) as played:
            played.send(1)
            await trio.sleep(0.1)
            assert played.refused == [(1, "Spawn.ChildSignaled")]

    start(body)


def test_a_program_that_cannot_be_executed() -> None:
    def missing(_played: Played) -> int:
        raise FileNotFoundError(2, "no such file")

    async def body() -> None:
        async with playing(missing) as played:
            played.send(1)
            await trio.sleep(0.1)
            assert played.refused == [(1, "Spawn.ExecFailed")]

    start(body)


def test_one_that_never_takes_the_name_is_killed_in_time() -> None:
    async def body() -> None:
        async with playing(lambda _: None) as played:
            played.send(1)
            await trio.sleep(24.9)
            assert (played.refused, played.killed) == ([], 0)
            await trio.sleep(0.2)
            assert (played.refused, played.killed) == ([(1, "TimedOut")], 1)

    start(body)


def test_what_it_leaves_behind_is_waited_for() -> None:
    async def body() -> None:
        async with playing(lambda _: 0) as played:
            played.send(1)
            await trio.sleep(20)
            played.take()
            await trio.sleep(20)
            assert (played.starts, played.refused) == (1, [])

    start(body)


def test_failures_in_a_row_are_enough_until_time_has_passed() -> None:
    async def body() -> None:
        async with playing(lambda _: 1) as played:
            for cookie in range(1, 8):
                played.send(cookie)
                await trio.sleep(1)
            assert played.starts == 5
            assert [name for _, name in played.refused] == ["Spawn.ChildExited"] * 5 + ["Spawn.Failed"] * 2
            await trio.sleep(3.5)
            played.send(8)
            await trio.sleep(0.1)
            assert played.starts == 6

    start(body)


def test_one_that_leaves_the_first_message_is_not_started_for_ever() -> None:
    async def body() -> None:
        async with playing(lambda played: played.take(keep=1)) as played:
            played.send(1)
            await trio.sleep(1000)
            assert (played.starts, played.refused) == (5, [(1, "Spawn.Failed")])
            played.send(2)
            await trio.sleep(1000)
            assert (played.starts, played.refused) == (10, [(1, "Spawn.Failed"), (2, "Spawn.Failed")])

    start(body)


def test_one_that_takes_one_message_each_time_gets_on() -> None:
    async def body() -> None:
        async with playing(lambda played: played.take(keep=len(played._queue) - 1)) as played:
            for _ in range(30):
                # The cookie is always the same, and nevertheless they are different messages.
                played.send(1)
            await trio.sleep(1000)
            assert (played.starts, played.refused) == (30, [])

    start(body)


def test_a_command_that_is_none_is_told_to_who_needs_it() -> None:
    async def body() -> None:
        wanted = Activatable("t.a", "a.service", None, "Unclosed quotes in command line")
        async with playing(lambda _: 0, wanted) as played:
            played.send(1)
            await trio.sleep(0.1)
            assert (played.starts, played.refused) == (0, [(1, "InvalidArgs")])

    start(body)
