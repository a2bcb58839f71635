# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.notification` on real targets: forked children under a real filter."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from native import memory, seccomp
from native.notification import EndOfTargets, Listener
from tests.support.children import ARCHITECTURE, LONG_NS, REQUEST, SYSTEM_CALL_IOCTL, Target, trap

Handler = Callable[[int, FrameType | None], object]


def test_a_trap_arrives_with_all_its_registers() -> None:
    with Target(lambda: trap(0xFEDCBA9876543210, descriptor=77)) as target:
        notification = target.next()
        assert notification.pid == target.pid
        assert notification.number == SYSTEM_CALL_IOCTL
        assert notification.architecture == ARCHITECTURE
        assert notification.arguments[:3] == (77, REQUEST, 0xFEDCBA9876543210)
        assert len(notification.arguments) == 6
        assert notification.flags == 0
        assert memory.read(target.pid, notification.instruction_pointer, 1)
        assert target.listener.respond_value(notification.id, 0)
        assert target.result() == 0


@pytest.mark.parametrize("value", [0, 1, 4096, 2**31, 2**63 - 1, -(2**62)])
def test_a_value_is_returned_whole(value: int) -> None:
    with Target(trap) as target:
        assert target.listener.respond_value(target.next().id, value)
        assert target.result() == value


@pytest.mark.parametrize("number", [errno.EPERM, errno.EADDRNOTAVAIL, 511])
def test_an_error_fails_the_call(number: int) -> None:
    with Target(trap) as target:
        assert target.listener.respond_error(target.next().id, number)
        assert target.result() == -number


@pytest.mark.parametrize("number", [0, -1])
def test_an_error_must_be_positive(number: int) -> None:
    with Target(trap) as target:
        notification = target.next()
        with pytest.raises(ValueError, match="not an error number"):
            target.listener.respond_error(notification.id, number)
        assert target.listener.is_valid(notification.id)


def test_continue_lets_the_kernel_do_it() -> None:
    reading, writing = os.pipe()
    with Target(lambda: trap(descriptor=reading)) as target:
        assert target.listener.respond_continue(target.next().id)
        assert target.result() == -errno.ENOTTY
    os.close(reading)
    os.close(writing)


def test_calls_come_one_after_the_other() -> None:
    with Target(lambda: [trap(i) for i in range(50)]) as target:
        ids = set()
        for i in range(50):
            notification = target.next()
            assert notification.arguments[2] == i
            ids.add(notification.id)
            assert target.listener.respond_value(notification.id, i * i)
        assert len(ids) == 50
        assert target.result() == [i * i for i in range(50)]


def test_receive_without_a_trap() -> None:
    reading, writing = os.pipe()
    with Target(lambda: os.read(reading, 1)) as target:
        assert target.listener.receive() is None
        start = time.monotonic_ns()
        assert target.listener.receive(2_000_000) is None
        assert time.monotonic_ns() - start >= 2_000_000
        os.write(writing, b"x")
        assert target.result() == b"x"
    os.close(reading)
    os.close(writing)


def test_a_waiting_call_makes_the_descriptor_readable() -> None:
    with Target(trap) as target:
        poller = select.poll()
        poller.register(target.listener.fileno(), select.POLLIN)
        assert poller.poll(LONG_NS // 1_000_000) == [(target.listener.fileno(), select.POLLIN)]
        notification = target.listener.receive()
        assert notification is not None
        assert target.listener.receive() is None


def test_the_end_of_the_last_target_is_an_exception() -> None:
    with Target(lambda: None) as target:
        target.result()
        with pytest.raises(EndOfTargets):
            target.listener.receive(LONG_NS)
        with pytest.raises(EndOfTargets):
            target.listener.receive(-1)


def test_a_killed_target_has_no_valid_call() -> None:
    with Target(trap) as target:
        notification = target.next()
        assert target.listener.is_valid(notification.id)
        target.kill()
        assert not target.listener.is_valid(notification.id)
        assert not target.listener.respond_value(notification.id, 0)
        assert not target.listener.respond_error(notification.id, errno.EIO)
        assert not target.listener.respond_continue(notification.id)
        with pytest.raises(OSError) as caught:
            target.listener.add_descriptor(notification.id, 0, close_on_exec=True)
        assert caught.value.errno == errno.ENOENT


def test_a_target_that_dies_unreceived_leaves_no_trap() -> None:
    with Target(trap) as target:
        poller = select.poll()
        poller.register(target.listener.fileno(), select.POLLIN)
        assert poller.poll(LONG_NS // 1_000_000)
        target.kill()
        with pytest.raises(EndOfTargets):
            target.listener.receive(LONG_NS)


def test_a_signal_makes_a_call_invalid_without_the_killable_flag() -> None:
    def interrupted() -> int:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        return trap()

    with Target(interrupted) as target:
        notification = target.next()
        os.kill(target.pid, signal.SIGUSR1)
        assert target.result() == -errno.EINTR
        assert not target.listener.is_valid(notification.id)


@pytest.mark.parametrize("restarting", [False, True])
def test_error_512_interrupts_or_restarts_the_call(restarting: bool) -> None:
    def interrupted() -> int:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.siginterrupt(signal.SIGUSR1, not restarting)
        return trap(5)

    with Target(interrupted, seccomp.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) as target:
        notification = target.next()
        os.kill(target.pid, signal.SIGUSR1)
        assert target.listener.is_valid(notification.id)
        assert target.listener.respond_error(notification.id, 512)
        if restarting:
            again = target.next()
            assert again.id != notification.id
            assert again.arguments[2] == 5
            assert target.listener.respond_value(again.id, 99)
            assert target.result() == 99
        else:
            assert target.result() == -errno.EINTR


@pytest.mark.parametrize("close_on_exec", [False, True])
def test_a_descriptor_is_installed_at_the_lowest_number(close_on_exec: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def use() -> tuple[int, bytes, bool]:
        number = trap()
        return number, os.read(number, 100), bool(fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)

    with Target(use) as target, path.open("rb") as file:
        notification = target.next()
        number = target.listener.add_descriptor(notification.id, file.fileno(), close_on_exec=close_on_exec)
        assert target.listener.respond_value(notification.id, number)
        assert target.result() == (number, b"content", close_on_exec)


def test_a_descriptor_is_installed_at_a_given_number(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    reading, writing = os.pipe()

    def use() -> tuple[int, bytes]:
        return trap(descriptor=reading), os.read(reading, 100)

    with Target(use) as target, path.open("rb") as file:
        notification = target.next()
        number = target.listener.add_descriptor(notification.id, file.fileno(), close_on_exec=True, at=reading)
        assert number == reading
        assert target.listener.respond_value(notification.id, 0)
        assert target.result() == (0, b"content")
    os.close(reading)
    os.close(writing)


def test_what_is_not_open_cannot_be_installed() -> None:
    with Target(trap) as target:
        notification = target.next()
        with pytest.raises(OSError, match="install descriptor 99999") as caught:
            target.listener.add_descriptor(notification.id, 99999, close_on_exec=True)
        assert caught.value.errno == errno.EBADF
        assert target.listener.is_valid(notification.id)


def test_only_a_listener_is_a_listener() -> None:
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="as a seccomp listener") as caught:
        Listener(reading)
    assert caught.value.errno in (errno.ENOTTY, errno.EINVAL)
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError) as caught:
        Listener(reading)
    assert caught.value.errno == errno.EBADF


def test_waking_is_synchronous_where_the_kernel_can() -> None:
    with Target(trap) as target:
        major, minor = os.uname().release.split(".")[:2]
        if (int(major), int(minor)) >= (6, 6):
            assert target.listener.synchronous_wake_up


def test_a_closed_listener() -> None:
    with Target(trap) as target:
        target.next()
        target.listener.close()
        target.listener.close()
        assert target.listener.fileno() == -1
        assert target.result() == -errno.ENOSYS
        with pytest.raises(OSError) as caught:
            target.listener.receive(-1)
        assert caught.value.errno == errno.EBADF


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Handler], None]]:
    """Sets what a SIGALRM in a moment does."""
    before = signal.getsignal(signal.SIGALRM)

    def arrange(handler: Handler) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    yield arrange
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("timeout_ns", [LONG_NS, -1])
def test_waiting_goes_on_after_a_signal(on_alarm: Callable[[Handler], None], timeout_ns: int) -> None:
    reading, writing = os.pipe()

    def after_reading() -> int:
        os.read(reading, 1)
        return trap()

    with Target(after_reading) as target:
        on_alarm(lambda number, frame: os.write(writing, b"x"))
        assert target.listener.receive(timeout_ns) is not None
    os.close(reading)
    os.close(writing)


def test_an_exception_of_a_signal_handler_ends_the_waiting(on_alarm: Callable[[Handler], None]) -> None:
    class Alarm(Exception):
        pass

    def handler(number: int, frame: FrameType | None) -> None:
        raise Alarm

    reading, writing = os.pipe()
    with Target(lambda: os.read(reading, 1)) as target:
        on_alarm(handler)
        with pytest.raises(Alarm):
            target.listener.receive(-1)
    os.close(reading)
    os.close(writing)
