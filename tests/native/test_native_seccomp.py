# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.seccomp` in children: filters cannot be taken off again."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from native import seccomp
from tests.support.children import Child, Target, in_child, trap, trapping_program

ALLOW_ALL = [(seccomp.BPF_RET | seccomp.BPF_K, 0, 0, seccomp.SECCOMP_RET_ALLOW)]


def failure_of_install(program: list[tuple[int, int, int, int]], flags: int = 0) -> int | None:
    """The errno with which a child's attempt failed."""

    def attempt() -> int | None:
        seccomp.set_no_new_privileges()
        try:
            seccomp.install_filter(program, flags)
        except OSError as error:
            return error.errno
        return None

    return in_child(attempt)


def test_only_the_trapped_call_waits() -> None:
    # Any other ioctl, on a descriptor that is no terminal, is the kernel's.
    reading, writing = os.pipe()
    with Target(lambda: (trap(request=0x5401, descriptor=reading), os.getppid(), trap())) as target:
        target.listener.respond_value(target.next().id, 7)
        assert target.result() == (-errno.ENOTTY, os.getpid(), 7)
    os.close(reading)
    os.close(writing)


def test_the_listener_is_not_inherited_by_programs() -> None:
    def inheritable() -> bool:
        seccomp.set_no_new_privileges()
        return os.get_inheritable(seccomp.install_filter(ALLOW_ALL, 0))

    assert in_child(inheritable) is False


@pytest.mark.parametrize(
    "flags", [0, seccomp.SECCOMP_FILTER_FLAG_NEW_LISTENER, seccomp.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV]
)
def test_flags(flags: int) -> None:
    assert failure_of_install(ALLOW_ALL, flags) is None


def test_an_unknown_flag_is_refused() -> None:
    assert failure_of_install(ALLOW_ALL, 1 << 30) == errno.EINVAL


def test_programs_that_are_none() -> None:
    assert failure_of_install([]) == errno.EINVAL
    assert failure_of_install([(seccomp.BPF_LD, 0, 0, 0)]) == errno.EINVAL
    assert failure_of_install(ALLOW_ALL * (seccomp.BPF_MAXINSNS + 1)) == errno.EINVAL
    # 65537 instructions are 1 in the 16 bits of the kernel's structure.
    assert failure_of_install(ALLOW_ALL * 65537) == errno.EINVAL
    assert failure_of_install(ALLOW_ALL * seccomp.BPF_MAXINSNS) is None


@pytest.mark.parametrize("instruction", [(1 << 16, 0, 0, 0), (6, 256, 0, 0), (6, 0, 256, 0), (6, 0, 0, 1 << 32)])
def test_numbers_that_do_not_fit(instruction: tuple[int, int, int, int]) -> None:
    with pytest.raises(OverflowError):
        seccomp.install_filter([instruction], 0)


def test_one_listener_per_thread() -> None:
    def twice() -> int | None:
        seccomp.set_no_new_privileges()
        seccomp.install_filter(trapping_program(), 0)
        try:
            seccomp.install_filter(trapping_program(), 0)
        except OSError as error:
            return error.errno
        return None

    assert in_child(twice) == errno.EBUSY


def test_without_privileges_a_promise_is_needed() -> None:
    def attempt() -> int | None:
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        try:
            seccomp.install_filter(ALLOW_ALL, 0)
        except PermissionError as error:
            return error.errno
        return None

    assert in_child(attempt) == errno.EACCES


def test_actions() -> None:
    assert seccomp.get_action_available(seccomp.SECCOMP_RET_USER_NOTIF)
    assert seccomp.get_action_available(seccomp.SECCOMP_RET_ALLOW)
    assert not seccomp.get_action_available(0x12340000)


def test_no_new_privileges() -> None:
    def value() -> tuple[bytes, bytes]:
        def line() -> bytes:
            with open("/proc/self/status", "rb") as status:
                return next(line for line in status if line.startswith(b"NoNewPrivs:")).split()[1]

        before = line()
        seccomp.set_no_new_privileges()
        return before, line()

    assert in_child(value)[1] == b"1"


def test_the_parents_end_is_a_signal() -> None:
    reading, writing = os.pipe()
    ready, telling = os.pipe()

    def grandchild() -> None:
        os.close(reading)
        signal.signal(signal.SIGUSR1, lambda number, frame: (os.write(writing, b"signalled"), os._exit(0)))
        seccomp.set_parent_death_signal(signal.SIGUSR1)
        os.write(telling, b"x")
        signal.pause()

    def parent() -> None:
        Child(grandchild)
        os.read(ready, 1)

    in_child(parent)
    os.close(writing)
    assert os.read(reading, 100) == b"signalled"
    for descriptor in (reading, ready, telling):
        os.close(descriptor)


def test_an_invalid_signal() -> None:
    with pytest.raises(OSError, match="have signal 1000 sent") as caught:
        seccomp.set_parent_death_signal(1000)
    assert caught.value.errno == errno.EINVAL
