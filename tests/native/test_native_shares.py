# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose call is next: made-up calls of made-up users and processes, which take made-up time; then real ones."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from native.flow import Engine
from native.library import ffi, lib
from native.notification import EndOfTargets, Notification, pack_into, unpack
from tests.support.targets import PATIENCE_NS, Target, start_target, traps_of

Caller = tuple[int, int, int]
"""User, process, thread."""


class Shares:
    """Calls that wait; a call is known by its caller."""

    def __init__(self) -> None:
        self._shares = lib.kdbus_shares_create()
        self._notification = ffi.new("struct kdbus_notification *")
        self._listener = ffi.new("int *")

    def put(self, caller: Caller, listener: int = 0) -> None:
        user, process, thread = caller
        call = Notification(user << 32 | process, thread, 16, 0, 0, (0, 0, 0, 0, 0, 0), 0)
        pack_into(ffi.buffer(self._notification), call)
        assert lib.kdbus_shares_put(self._shares, user, process, listener, self._notification) == 0

    def _caller(self) -> Caller:
        call = unpack(ffi.buffer(self._notification))
        return call.id >> 32, call.id & 0xFFFFFFFF, call.pid

    def next(self) -> Caller | None:
        return self._caller() if lib.kdbus_shares_next(self._shares, self._notification, self._listener) else None

    def take(self, listener: int) -> Caller | None:
        return self._caller() if lib.kdbus_shares_take(self._shares, listener, self._notification) else None

    def serve(self, count: int, cost: Callable[[Caller], int] = lambda _: 1) -> list[Caller]:
        """Serve so many calls, each of which takes `cost`; all who were served call again at once."""
        served = []
        for _ in range(count):
            caller = self.next()
            assert caller is not None
            self.put(caller)
            lib.kdbus_shares_charge(self._shares, cost(caller))
            served.append(caller)
        return served

    def charge(self, cost: int) -> None:
        lib.kdbus_shares_charge(self._shares, cost)

    def favour(self, user: int, process: int) -> None:
        lib.kdbus_shares_favour(self._shares, user, process)

    def close(self) -> None:
        lib.kdbus_shares_destroy(self._shares)


@pytest.fixture
def shares() -> Iterator[Shares]:
    made = Shares()
    yield made
    made.close()


def test_one_thread_beside_a_thousand_of_another_process_gets_half(shares: Shares) -> None:
    for thread in range(1000):
        shares.put((1, 10, thread))
    shares.put((1, 20, 2000))
    served = shares.serve(200)
    assert served[1] == (1, 20, 2000), "though it came last"
    assert served[1::2] == [(1, 20, 2000)] * 100


def test_users_come_before_processes(shares: Shares) -> None:
    for process in range(10):
        for thread in range(10):
            shares.put((1, process, 100 * process + thread))
    shares.put((2, 50, 5000))
    shares.put((2, 51, 5001))
    served = shares.serve(400)
    assert Counter(user for user, _, _ in served) == {1: 200, 2: 200}
    assert Counter(process for user, process, _ in served if user == 1) == dict.fromkeys(range(10), 20)
    assert Counter(process for user, process, _ in served if user == 2) == {50: 100, 51: 100}


def test_threads_of_a_process_come_one_after_the_other(shares: Shares) -> None:
    for thread in (3, 1, 2):
        shares.put((1, 1, thread))
    shares.put((1, 2, 9))
    served = [thread for _, process, thread in shares.serve(12) if process == 1]
    assert served == [3, 1, 2, 3, 1, 2]


def test_shares_are_of_time(shares: Shares) -> None:
    """Whose calls take ten times as long gets a tenth of the calls."""
    for process in (1, 2):
        for thread in range(2):
            shares.put((1, process, 10 * process + thread))
    served = Counter(process for _, process, _ in shares.serve(220, lambda caller: 10 if caller[1] == 1 else 1))
    assert served == {1: 20, 2: 200}


def test_time_in_which_nothing_was_asked_for_is_not_saved_up(shares: Shares) -> None:
    for thread in range(2):
        shares.put((1, 1, thread))
    shares.serve(1000)
    for thread in range(2):
        shares.put((1, 2, 10 + thread))
    served = [process for _, process, _ in shares.serve(100)]
    assert sorted(served[:2]) == [1, 2]
    assert served.count(1) == 50


def test_who_comes_back_has_not_paid_by_being_away(shares: Shares) -> None:
    """One that makes long calls, one at a time, is never among those that wait when it is chosen."""
    for thread in range(2):
        shares.put((1, 1, thread))
    shares.put((1, 2, 10))
    order = [process for _, process, _ in shares.serve(44, lambda caller: 10 if caller[1] == 2 else 1)]
    assert order.count(2) == 4


def test_who_makes_room_comes_first(shares: Shares) -> None:
    """Once, whatever it has used; and nobody pays for that."""
    for process in range(1, 201):
        shares.put((1, process, process))
    shares.serve(400)
    shares.favour(1, 200)
    shares.favour(1, 200)
    shares.favour(3, 7)  # who is not there
    assert [caller[1] for caller in shares.serve(3)] == [200, 1, 2]
    assert Counter(process for _, process, _ in shares.serve(198)) == dict.fromkeys(range(3, 201), 1)


def test_whoever_is_favoured_may_come_later(shares: Shares) -> None:
    for process in (1, 2, 3):
        shares.put((1, process, process))
    shares.favour(2, 9)
    assert shares.serve(1) == [(1, 1, 1)]
    shares.put((2, 9, 9))
    assert shares.serve(1) == [(2, 9, 9)]


def test_of_many_favours_the_last_ones_count(shares: Shares) -> None:
    for process in range(1, 41):
        shares.put((1, process, process))
        shares.favour(1, process)
    assert [process for _, process, _ in shares.serve(17)] == [*range(25, 41), 1]


def test_a_slow_call_does_not_cost_seconds(shares: Shares) -> None:
    for process in range(1, 11):
        shares.put((1, process, process))
    assert shares.next() == (1, 1, 1)
    shares.put((1, 1, 1))
    shares.charge(10**9)
    served = [process for _, process, _ in shares.serve(2000, lambda _: 10_000)]
    assert served.count(1) > 50


def test_nothing_is_owed_once_nobody_waits(shares: Shares) -> None:
    shares.put((1, 1, 1))
    assert shares.next() == (1, 1, 1)
    shares.charge(1_000_000)
    shares.put((1, 1, 1))
    shares.put((1, 2, 2))
    assert shares.next() == (1, 1, 1)


def test_calls_of_a_listener_are_taken_out_of_turn(shares: Shares) -> None:
    for thread in range(6):
        shares.put((1, thread % 2, thread), listener=thread // 2 % 2)
    taken = [shares.take(1), shares.take(1), shares.take(1)]
    assert {caller[2] for caller in taken if caller is not None} == {2, 3}
    assert taken[2] is None
    left = [shares.next() for _ in range(4)]
    assert {caller[2] for caller in left if caller is not None} == {0, 1, 4, 5}
    assert shares.next() is None


def _call() -> None:
    ctypes.CDLL(None).ioctl(0, ctypes.c_ulong(0x9501), 0)


def _call_in_threads(count: int) -> None:
    threads = [threading.Thread(target=_call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pending(target: Target, count: int) -> None:
    """Wait until all threads of `target` but one are in their calls, and a call can be received."""
    poll = select.poll()
    poll.register(target.listener, select.POLLIN)
    assert poll.poll(PATIENCE_NS // 1_000_000)
    deadline = time.monotonic_ns() + PATIENCE_NS
    while True:
        tasks = os.listdir(f"/proc/{target.pid}/task")
        calls = [_number_of_call(target.pid, task) for task in tasks]
        if calls.count("16") == count:
            return
        assert time.monotonic_ns() < deadline
        os.sched_yield()


def _number_of_call(process: int, thread: str) -> str:
    with open(f"/proc/{process}/task/{thread}/syscall") as file:
        return file.read().split()[0]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with select.epoll() as hang_ups:
        made = Engine(hang_ups.fileno(), 8)
        yield made
        made.close()


def _answer_all(engine: Engine, targets: list[Target]) -> None:
    """Let every call fail until all have ended."""
    by_listener = {target.listener.fileno(): target for target in targets}
    while by_listener:
        engine.listen([each.listener for each in by_listener.values()])
        try:
            while True:
                call = engine.run(time.monotonic_ns() + PATIENCE_NS, PATIENCE_NS)
                if call is not None:
                    by_listener[engine.listener].listener.respond_error(call.id, 11)
        except EndOfTargets:
            target = by_listener.pop(engine.listener)
            target.wait()
            target.listener.close()


def test_a_process_of_many_threads_does_not_keep_another_from_its_turn(engine: Engine) -> None:
    many = start_target(partial(_call_in_threads, 12), traps_of("ioctl"))
    _pending(many, 12)
    single = start_target(_call, traps_of("ioctl"))
    _pending(single, 1)
    engine.listen([many.listener, single.listener])
    served, calls = [], []
    for _ in range(13):
        call = engine.run(0, 0)
        assert call is not None
        served.append(engine.listener)
        calls.append(call)
    assert served[1] == single.listener.fileno()
    assert served.count(single.listener.fileno()) == 1
    for listener, call in zip(served, calls, strict=True):
        (single if listener == single.listener.fileno() else many).listener.respond_error(call.id, 11)
    _answer_all(engine, [many, single])


def test_a_call_that_is_over_by_its_turn_is_not_served(engine: Engine) -> None:
    many = start_target(partial(_call_in_threads, 6), traps_of("ioctl"))
    _pending(many, 6)
    other = start_target(_call, traps_of("ioctl"))
    _pending(other, 1)
    engine.listen([many.listener, other.listener])
    first = engine.run(0, 0)
    assert first is not None
    os.kill(many.pid, signal.SIGKILL)
    assert many.wait() == -signal.SIGKILL
    second = engine.run(0, 0) if engine.listener == other.listener.fileno() else None
    while second is None:
        try:
            second = engine.run(time.monotonic_ns() + PATIENCE_NS, 0)
        except EndOfTargets:
            assert engine.listener == many.listener.fileno()
            while engine.take(many.listener) is not None:
                pass
            engine.listen([other.listener])
    assert engine.listener == other.listener.fileno()
    many.listener.close()
    other.listener.respond_error(second.id, 11)
    _answer_all(engine, [other])


def test_calls_that_were_received_elsewhere_wait_for_their_turn(engine: Engine) -> None:
    many = start_target(partial(_call_in_threads, 3), traps_of("ioctl"))
    _pending(many, 3)
    engine.listen([many.listener])
    received = [many.next() for _ in range(3)]
    for call in received:
        assert engine.put(many.listener, call)
    assert engine.run(0, 0) == received[0]
    assert engine.take(many.listener) == received[1]
    assert engine.take(many.listener) == received[2]
    assert engine.take(many.listener) is None
    for call in received:
        many.listener.respond_error(call.id, 11)
    _answer_all(engine, [many])
