# SPDX-License-Identifier: GPL-2.0-or-later
"""The injected mapping, on a real thread under a real listener, calm and in a storm of signals.

The target checks itself what it can see (content, descriptors, signal mask, handlers); see
`programs/injection_target.c`. Everything runs with and without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, since both kinds
of filter are in use.

What has to happen in the middle of an injection is made to happen by a listener that does it just before it passes an
answer on: no timing is involved.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from interposer.injection import binding, injection
from interposer.injection.injection import InjectionResult, Outcome, inject_mapping
from native.notification import EndOfTargets, Listener, Notification
from native.pool import Pool
from native.seccomp import SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
from tests.support.targets import PATIENCE_NS, Target, compile_program, fork, start_target, traps_of

Start = Callable[..., Target]


@pytest.fixture(autouse=True, params=[binding._PythonPtrace, binding._OwnBinding], ids=["python-ptrace", "own"])
def bound(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who calls ptrace(2)."""
    made = request.param()
    monkeypatch.setattr(injection, "binding", lambda: made)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program("injection_target", tmp_path_factory.mktemp("programs"))


@pytest.fixture(params=[0, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV], ids=["interruptible", "killable"])
def start(request: pytest.FixtureRequest, program: Path) -> Iterator[Start]:
    """Starts the target program in a mode, under a filter of one of the two kinds."""
    started: list[Target] = []

    def start_program(*arguments: str) -> Target:
        target = start_target(
            lambda: os.execv(program, [str(program), *arguments]), traps_of("mmap"), flags=request.param
        )
        started.append(target)
        return target

    yield start_program
    for target in started:
        target.listener.close()


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(b"test", 8192) as pool:
        pool.write(0, b"hello")
        yield pool


class Meddler:
    """Stands for a listener, and does something before it passes certain answers on."""

    def __init__(self, listener: Listener, **before: Callable[[], None]) -> None:
        self._listener = listener
        self._before = before

    def __getattr__(self, name: str) -> object:
        meddle = self._before.get(name)
        if meddle is not None:
            meddle()
        return getattr(self._listener, name)


def no_others(notification: Notification) -> None:
    pytest.fail(f"unexpected notification {notification}")


def serve_all(target: Target, pool: Pool, *received: Notification) -> Counter[Outcome]:
    """Answers every mmap of the target, those already `received` first, with an injection until it ends."""
    outcomes: Counter[Outcome] = Counter()
    waiting = deque(received)
    while True:
        try:
            notification = waiting.popleft() if waiting else target.listener.receive(PATIENCE_NS)
        except EndOfTargets:
            return outcomes
        # None: the call was interrupted just before it could be received, and comes again.
        if notification is not None:
            result = inject_mapping(target.listener, notification, pool.read_only_descriptor, waiting.append)
            outcomes[result.outcome] += 1


def test_pool_is_mapped_and_nothing_else_changes(start: Start, pool: Pool) -> None:
    target = start("maps", "3", "1")
    assert serve_all(target, pool) == {Outcome.MAPPED: 3}
    assert target.wait() == 0


def test_failures_of_the_call_are_passed_on(start: Start, pool: Pool) -> None:
    target = start("fails")
    assert serve_all(target, pool) == {Outcome.REFUSED: 2}
    assert target.wait() == 0


@pytest.mark.parametrize("stops", [False, True], ids=["signals", "stops"])
def test_storm_of_signals(start: Start, pool: Pool, stops: bool) -> None:
    target = start("maps", "100", "2")
    # Only now is it sure to handle the signals.
    first = target.next()
    calm = threading.Event()
    sent = 0

    def storm() -> None:
        nonlocal sent
        while not calm.wait(0.0002):
            sent += 1
            os.kill(target.pid, signal.SIGUSR1)
            if stops and sent % 7 == 0:
                os.kill(target.pid, signal.SIGSTOP)
                calm.wait(0.0002)
                os.kill(target.pid, signal.SIGCONT)

    weather = threading.Thread(target=storm)
    weather.start()
    try:
        outcomes = serve_all(target, pool, first)
    finally:
        # The target is a zombie by now at most, so its number is still its own.
        calm.set()
        weather.join()
    assert target.wait() == 0
    assert outcomes[Outcome.MAPPED] == 200
    assert set(outcomes) <= {Outcome.MAPPED, Outcome.CALLER_GONE}
    assert sent > 0


def test_other_threads_are_queued(start: Start, pool: Pool) -> None:
    target = start("maps", "1", "2")
    first = target.next()
    assert select.select([target.listener], [], [], PATIENCE_NS / 1e9)[0], "the second thread does not trap"
    others: list[Notification] = []
    result = inject_mapping(target.listener, first, pool.read_only_descriptor, others.append)
    assert result.outcome is Outcome.MAPPED
    assert [other.pid == first.pid for other in others] == [False]
    result = inject_mapping(target.listener, others[0], pool.read_only_descriptor, no_others)
    assert result.outcome is Outcome.MAPPED
    assert target.wait() == 0


def test_stop_in_the_middle_takes_effect_afterwards(start: Start, pool: Pool) -> None:
    target = start("once")
    notification = target.next()
    meddler = Meddler(target.listener, respond_continue=lambda: os.kill(target.pid, signal.SIGSTOP))
    result = inject_mapping(meddler, notification, pool.read_only_descriptor, no_others)  # type: ignore[arg-type]
    assert result.outcome is Outcome.MAPPED
    stopped = os.waitid(os.P_PID, target.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert stopped is not None and (stopped.si_code, stopped.si_status) == (os.CLD_STOPPED, signal.SIGSTOP)
    maps = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    mapping = next(line for line in maps if line.startswith(f"{result.value:x}-"))
    assert "/memfd:test" in mapping and " r--s " in mapping
    os.kill(target.pid, signal.SIGCONT)
    assert target.wait() == 0


def test_stop_that_is_over_again_does_not_come_back(start: Start, pool: Pool) -> None:
    target = start("once")
    notification = target.next()

    def stop_and_continue() -> None:
        os.kill(target.pid, signal.SIGSTOP)
        os.kill(target.pid, signal.SIGCONT)

    meddler = Meddler(target.listener, respond_error=stop_and_continue, respond_continue=stop_and_continue)
    inject_mapping(meddler, notification, pool.read_only_descriptor, no_others)  # type: ignore[arg-type]
    serve_all(target, pool)
    ended = os.waitid(os.P_PID, target.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert ended is not None and ended.si_code == os.CLD_EXITED
    assert target.wait() == 0


@pytest.mark.parametrize("answer", ["add_descriptor", "respond_error", "respond_continue"])
def test_signal_in_the_middle(start: Start, pool: Pool, answer: str) -> None:
    target = start("once")
    notification = target.next()
    meddler = Meddler(target.listener, **{answer: lambda: os.kill(target.pid, signal.SIGUSR1)})
    result = inject_mapping(meddler, notification, pool.read_only_descriptor, no_others)  # type: ignore[arg-type]
    # An interrupted call comes again, and is served then.
    outcomes = serve_all(target, pool) + Counter([result.outcome])
    assert outcomes[Outcome.MAPPED] == 1 and set(outcomes) <= {Outcome.MAPPED, Outcome.CALLER_GONE}
    assert target.wait() == 0


@pytest.mark.parametrize("answer", ["add_descriptor", "respond_error", "respond_continue"])
@pytest.mark.parametrize("mode", ["once", "thread"])
def test_killed_in_the_middle(start: Start, pool: Pool, mode: str, answer: str) -> None:
    target = start(mode)
    notification = target.next()
    meddler = Meddler(target.listener, **{answer: lambda: os.kill(target.pid, signal.SIGKILL)})
    result = inject_mapping(meddler, notification, pool.read_only_descriptor, no_others)  # type: ignore[arg-type]
    assert result == InjectionResult(Outcome.CALLER_GONE)
    # A thread that nobody reaps would keep the process from ending, and a status that was taken could not be had.
    assert target.wait() == -signal.SIGKILL


@pytest.mark.parametrize("answer", ["add_descriptor", "respond_error", "respond_continue"])
def test_another_thread_executes_a_program(start: Start, pool: Pool, answer: str) -> None:
    reading, writing = os.pipe()
    saved = os.dup(0)
    os.dup2(reading, 0)
    try:
        target = start("replaced")
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)

    def replace() -> None:
        os.write(writing, b"+")
        # The number of the process lives on with the new program.
        while True:
            # In between it belongs to nobody.
            with suppress(FileNotFoundError, ProcessLookupError):
                if "replaced" not in Path(f"/proc/{target.pid}/cmdline").read_text():
                    return
            os.sched_yield()

    notification = target.next()
    meddler = Meddler(target.listener, **{answer: replace})
    result = inject_mapping(meddler, notification, pool.read_only_descriptor, no_others)  # type: ignore[arg-type]
    assert result == InjectionResult(Outcome.CALLER_GONE)
    # The new program is not traced, and has not been told to end before now.
    os.close(writing)
    assert target.wait() == 7


def test_traced_by_another(start: Start, pool: Pool) -> None:
    target = start("once")
    notification = target.next()
    before = os.listdir(f"/proc/{target.pid}/fd")
    ready, tell = os.pipe()
    done, finish = os.pipe()

    def trace() -> None:
        os.close(finish)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(injection.PTRACE_SEIZE, target.pid, None, None) == 0:
            os.write(tell, b"+")
            os.read(done, 1)

    tracer = fork(trace)
    os.close(tell)
    os.close(done)
    traced = os.read(ready, 1)
    try:
        if not traced:
            pytest.skip("nobody else may trace the target here")
        result = inject_mapping(target.listener, notification, pool.read_only_descriptor, no_others)
        assert result == InjectionResult(Outcome.ALREADY_TRACED)
        assert target.listener.is_valid(notification.id)
        assert os.listdir(f"/proc/{target.pid}/fd") == before
    finally:
        os.close(finish)
        os.close(ready)
        os.waitpid(tracer, 0)
        os.kill(target.pid, signal.SIGKILL)
        assert target.wait() == -signal.SIGKILL


def test_gone_before_it_began(start: Start, pool: Pool) -> None:
    target = start("once")
    notification = target.next()
    os.kill(target.pid, signal.SIGKILL)
    assert target.wait() == -signal.SIGKILL
    result = inject_mapping(target.listener, notification, pool.read_only_descriptor, no_others)
    assert result == InjectionResult(Outcome.CALLER_GONE)
