# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.identity` where kcmp(2) and pidfd_getfd(2) are forbidden, by a filter of the test's own."""

from __future__ import annotations

import errno
import os
import platform
import select
import socket
from typing import Any

import pytest

from native import identity, seccomp
from tests.support.children import in_child

NUMBERS = {"x86_64": (312, 438), "aarch64": (272, 438)}[platform.machine()]
"""kcmp, pidfd_getfd."""


def forbid(number: int) -> None:
    jump_equal = seccomp.BPF_JMP | seccomp.BPF_JEQ | seccomp.BPF_K
    ret = seccomp.BPF_RET | seccomp.BPF_K
    denied = [instruction for each in NUMBERS for instruction in ((jump_equal, 0, 1, each), (ret, 0, 0, number))]
    program = [(seccomp.BPF_LD | seccomp.BPF_W | seccomp.BPF_ABS, 0, 0, 0), *denied]
    seccomp.set_no_new_privileges()
    seccomp.install_filter([*program, (ret, 0, 0, seccomp.SECCOMP_RET_ALLOW)], 0)
    identity.can_compare.cache_clear()
    identity.can_fetch.cache_clear()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_files_are_told_apart(number: int, kind: str) -> None:
    def body() -> Any:
        forbid(seccomp.SECCOMP_RET_ERRNO | number)
        if kind == "socket":
            ours, theirs = (end.detach() for end in socket.socketpair())
        else:
            theirs, ours = os.pipe()
        own = os.getpid()
        with select.epoll() as epoll, socket.socket() as other:
            epoll.register(theirs, 0)
            set_ = epoll.fileno()
            duplicate = os.dup(theirs)
            seen = [identity.can_compare(), identity.can_fetch()]
            seen += [
                identity.same_file(own, each, set_, theirs) for each in (theirs, duplicate, other.fileno(), -1, 999)
            ]
            os.close(theirs)
            seen += [identity.epoll_holds(set_, theirs), identity.same_file(own, duplicate, set_, theirs)]
            os.close(duplicate)
            # The number is another file's now, and so may the inode be.
            assert os.dup(other.fileno()) == theirs
            seen += [identity.epoll_holds(set_, theirs), identity.same_file(own, theirs, set_, theirs)]
        os.close(ours)
        return seen

    assert in_child(body) == [False, False, True, True, False, False, False, True, True, False, False]


def test_errors_are_the_same() -> None:
    def body() -> Any:
        forbid(seccomp.SECCOMP_RET_ERRNO | errno.EPERM)
        gone = os.fork()
        if gone == 0:
            os._exit(0)
        os.waitpid(gone, 0)
        with select.epoll() as epoll, pytest.raises(ProcessLookupError):
            identity.same_file(gone, 0, epoll.fileno(), 0)
        return True

    assert in_child(body)


def test_this_machine_can_do_both() -> None:
    assert identity.can_compare() and identity.can_fetch()
