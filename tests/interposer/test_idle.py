# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting in trio's stead: a real trio with its real epoll set, which is left alone while it has nothing to do."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from interposer.supervisor.domains import Domains
from interposer.supervisor.flows import Flows
from interposer.supervisor.idle import IdleWait
from interposer.supervisor.supervisor import Supervisor
from interposer.supervisor.tree import Tree
from native.notification import EndOfTargets, Notification

PATIENCE_S = 60


def run_with(wait: Callable[[int, int], bool], body: Callable[[IdleWait], Awaitable[None]]) -> None:
    """Run `body` under trio with an IdleWait whose `wait` is given trio's descriptor as well."""

    async def main() -> None:
        with closing(IdleWait(lambda stop: wait(sleep, stop))) as idle, trio.fail_after(PATIENCE_S):
            sleep = await idle.find_sleep()
            trio.lowlevel.add_instrument(idle)
            try:
                await body(idle)
            finally:
                trio.lowlevel.remove_instrument(idle)

    trio.run(main)


def sleep_as_trio_would(sleep: int, stop: int) -> bool:
    """As the engine does: until trio would wake up, or the time is over."""
    poll = select.poll()
    poll.register(sleep, select.POLLIN)
    poll.poll(max(0, stop - time.monotonic_ns()) / 1e6)
    return False


def test_trio_wakes_up_for_what_its_tasks_wait_for() -> None:
    reading, writing = os.pipe()
    slept = []

    def wait(sleep: int, stop: int) -> bool:
        slept.append(stop)
        if len(slept) == 1:
            os.write(writing, b"m")
        return sleep_as_trio_would(sleep, stop)

    async def body(_: IdleWait) -> None:
        await trio.lowlevel.wait_readable(reading)
        assert os.read(reading, 1) == b"m"

    run_with(wait, body)
    assert len(slept) == 1, "once it was readable, trio was left to see to it"
    os.close(reading)
    os.close(writing)


def test_trio_wakes_up_for_signals() -> None:
    """Also for one that comes before the waiting has begun."""
    awaited: list[signal.Signals] = []

    def wait(sleep: int, stop: int) -> bool:
        if awaited and stop:
            os.kill(os.getpid(), awaited.pop())
        return sleep_as_trio_would(sleep, stop)

    async def body(_: IdleWait) -> None:
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            awaited.append(signal.SIGUSR1)
            assert await anext(signals) == signal.SIGUSR1

    run_with(wait, body)


def test_trio_wakes_up_for_its_deadlines() -> None:
    async def body(_: IdleWait) -> None:
        with trio.move_on_after(0.001) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught

    run_with(sleep_as_trio_would, body)


def test_when_the_time_is_over_trio_does_not_sleep_as_long_once_more() -> None:
    """It would do so without hearing of calls, for up to a day."""

    async def body(idle: IdleWait) -> None:
        with trio.move_on_after(0.001):
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.woken)
            with trio.move_on_after(0.001):
                await trio.sleep_forever()

    run_with(sleep_as_trio_would, body)


def test_a_failure_does_not_end_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio lets go of instruments that raise."""
    told: list[str] = []
    waits: list[int] = []
    monkeypatch.setattr("interposer.supervisor.idle.unexpected", told.append)

    def wait(_sleep: int, stop: int) -> bool:
        if stop:
            waits.append(stop)
        if len(waits) == 1:
            raise MemoryError
        return stop > 0

    async def body(idle: IdleWait) -> None:
        await idle.woken()
        await idle.woken()

    run_with(wait, body)
    assert len(told) == 1
    assert len(waits) == 2


def test_nothing_is_waited_for_while_tasks_run() -> None:
    waits = []

    def wait(_sleep: int, stop: int) -> bool:
        waits.append(stop)
        return stop > 0

    async def body(idle: IdleWait) -> None:
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        await idle.woken()

    run_with(wait, body)
    assert waits.count(0) >= 100, "but what is there gets its turn"


def _supervisor(receive: Callable[[int, int], Notification | None]) -> tuple[Supervisor, SimpleNamespace]:
    """A supervisor, and what stands for its only tree."""
    mounts = SimpleNamespace(has_news=lambda: False)
    waiting = SimpleNamespace(next_look_ns=lambda: None)
    delayed = SimpleNamespace(next_ns=lambda: None)
    tree = SimpleNamespace(waiting=waiting, mounts=mounts, delayed=delayed)
    flows = SimpleNamespace(receive=receive, listener=7, look=lambda _now: None, deadline_ns=lambda: None, served=0)
    flows.stall, flows.held = None, False
    supervisor = Supervisor.__new__(Supervisor)
    supervisor._next = None
    supervisor._trees = {7: cast(Tree, tree)}
    supervisor.domains = cast(Domains, SimpleNamespace(mounted=[]))
    supervisor._flows = cast(Flows, flows)
    return supervisor, tree


def test_a_call_for_the_broker_is_kept_with_its_tree() -> None:
    call = Notification(1, 2, 16, 3, 4, (0, 0, 0, 0, 0, 0), 0)
    supervisor, tree = _supervisor(lambda _stop, _turn: call)
    assert supervisor.wait_natively(time.monotonic_ns())
    assert supervisor._next == (cast(Tree, tree), call)


def test_no_call_is_received_while_another_one_is_kept() -> None:
    """What is kept is the broker's, also when it could be served natively by then."""
    calls = [Notification(id, 2, 16, 3, 4, (0, 0, 0, 0, 0, 0), 0) for id in (3, 2, 1)]
    supervisor, tree = _supervisor(lambda _stop, _turn: calls.pop())
    for _ in range(3):
        assert supervisor.wait_natively(time.monotonic_ns())
    assert supervisor._next is not None
    assert supervisor._next[0] is cast(Tree, tree) and supervisor._next[1].id == 1
    assert len(calls) == 2


@pytest.mark.parametrize("error", [EndOfTargets, OSError])
def test_the_end_of_a_tree_is_for_the_loop(error: type[Exception]) -> None:
    def receive(_stop: int, _turn: int) -> None:
        raise error

    supervisor, _ = _supervisor(receive)
    assert supervisor.wait_natively(time.monotonic_ns())
    assert supervisor._next is None


def test_a_deadline_ends_the_waiting() -> None:
    stops = []

    def receive(stop: int, _turn: int) -> None:
        stops.append(stop)

    supervisor, tree = _supervisor(receive)
    assert not supervisor.wait_natively(1 << 62), "nothing has come"
    tree.waiting.next_look_ns = lambda: 5
    assert supervisor.wait_natively(1 << 62)
    assert stops == [1 << 62, 5]


def test_news_of_mounts_that_were_used_up_by_looking_are_not_lost() -> None:
    supervisor, tree = _supervisor(lambda _stop, _turn: None)
    assert not supervisor.wait_natively(1 << 62)
    tree.mounts.has_news = lambda: True
    assert supervisor.wait_natively(1 << 62)


def test_nothing_is_served_once_the_domains_have_ended() -> None:
    """Nothing is touched either: descriptors are closed by then."""
    supervisor = Supervisor.__new__(Supervisor)
    supervisor._over = True
    supervisor.serve_turn()
    supervisor.housekeep(news=True)
