# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.caretaker` on real targets, whose supervisor is a process that is killed."""

from __future__ import annotations

import errno
import os
import select
import signal
from ast import literal_eval
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from native.caretaker import Caretaker
from native.notification import Listener
from tests.support.children import ARCHITECTURE, LONG_NS, SYSTEM_CALL_IOCTL, Child, Target, trap

OWN = [(ARCHITECTURE, SYSTEM_CALL_IOCTL)]


class Abandoned:
    """What a target's calls return whose supervisor, after `supervise`, is killed."""

    def __init__(
        self, calls: Callable[[], list[int]], own: list[tuple[int, int]], supervise: Callable[[Listener], None]
    ) -> None:
        self.results, results = os.pipe()
        self.pids, pids = os.pipe()

        def target() -> None:
            os.write(results, repr(calls()).encode())

        def supervisor() -> None:
            with Target(target) as child:
                caretaker = Caretaker(child.listener.fileno(), own)
                os.write(pids, b"%d\n" % caretaker.pid)
                supervise(Listener(os.dup(child.listener.fileno()), caretaker.received))
                os.kill(os.getpid(), signal.SIGKILL)

        with Child(supervisor) as process:
            os.close(results)
            os.close(pids)
            process.wait()

    def answers(self) -> list[int]:
        """Waits for them; then nobody else holds the pipe."""
        return list(literal_eval(_read(self.results).decode()))

    def caretaker(self) -> int:
        """Its process id; once it has closed what it inherited."""
        return int(_read(self.pids))


def _calls(count: int) -> Callable[[], list[int]]:
    return lambda: [trap(descriptor=-1) for _ in range(count)]


def _read(pipe: int) -> bytes:
    with open(pipe, "rb") as file:
        return file.read()


def _receive(listener: Listener, value: int | None) -> None:
    """Receive a call; let it return `value`, if that is given."""
    notification = listener.receive(LONG_NS)
    assert notification is not None
    if value is not None:
        assert listener.respond_value(notification.id, value)


def test_own_calls_fail() -> None:
    assert Abandoned(_calls(2), OWN, lambda listener: _receive(listener, 7)).answers() == [7, -errno.ESHUTDOWN]


def test_other_calls_are_the_kernels() -> None:
    other = [(ARCHITECTURE, SYSTEM_CALL_IOCTL + 1)]
    assert Abandoned(_calls(2), other, lambda listener: _receive(listener, 7)).answers() == [7, -errno.EBADF]


def test_a_call_that_was_received_and_not_answered_is_the_kernels() -> None:
    def supervise(listener: Listener) -> None:
        _receive(listener, 7)
        _receive(listener, None)

    assert Abandoned(_calls(3), OWN, supervise).answers() == [7, -errno.EBADF, -errno.ESHUTDOWN]


def test_the_only_call_was_received_and_not_answered() -> None:
    assert Abandoned(_calls(1), OWN, lambda listener: _receive(listener, None)).answers() == [-errno.EBADF]


def test_a_call_that_was_received_before_thousands_of_others() -> None:
    """Whoever waits for a reply waits for long."""
    count = 3000

    def calls() -> list[int]:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(trap, 99, descriptor=-1)
            return [*_calls(count)(), waiting.result()]

    def supervise(listener: Listener) -> None:
        answered, waits = 0, False
        while answered < count or not waits:
            notification = listener.receive(LONG_NS)
            assert notification is not None
            if notification.arguments[2] == 99:
                waits = True
            else:
                answered += listener.respond_value(notification.id, 1)

    assert Abandoned(calls, OWN, supervise).answers() == [1] * count + [-errno.EBADF]


def test_nothing_is_kept() -> None:
    """The pipes end, so the caretaker has closed them; it is in a session of its own, and ends with the target."""
    abandoned = Abandoned(_calls(1), OWN, lambda listener: None)
    pid = abandoned.caretaker()
    pidfd = os.pidfd_open(pid) if os.path.exists(f"/proc/{pid}") else -1
    assert abandoned.answers() == [-errno.ESHUTDOWN]
    if pidfd >= 0:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(LONG_NS // 1_000_000)
        os.close(pidfd)
