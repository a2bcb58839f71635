# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile targets: the cases of `tests/programs/hostile.c`, end to end. Each says what it attacks, and that others are
still served.

The number of processes that die at random moments is small here; `HOSTILE_KILLS=1000 pytest
tests/hostile/test_hostile.py -k killed` takes more.
"""

from __future__ import annotations

import os
import select
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from broker.send import Wait
from interposer.handles.handles import HandleTable
from interposer.supervisor.waiting import WaitingCalls
from interposer.target.budget import Budgets
from interposer.target.files import TargetFile
from native.notification import Listener, Notification
from tests.support.compiling import compile_program
from tests.support.e2e import every_case, run_case, run_with_and_without_flows
from tests.support.users import User


@every_case("hostile")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("hostile", case, user, open_folder)


def test_with_and_without_flows(user: User, open_folder: Path) -> None:
    run_with_and_without_flows("hostile", user, open_folder)


def test_pipes_in_the_private_folder_of_path_mode(user: User, open_folder: Path) -> None:
    """The folder belongs to the user whose programs look into it; the supervisor opens what it has put there itself."""
    if "KDBUS_MODE" in os.environ:
        pytest.skip("the mode is chosen already")
    program = compile_program("hostile_folder", open_folder, "-O2")
    outcome = user.run(user.kdbus("run", "--mode", "path", "--", str(program)), seconds=20)
    assert (outcome.status, outcome.output) == (0, "served\n"), outcome.output


def _notification(number: int) -> Notification:
    return Notification(number, os.getpid(), 0, 0, 0, (0,) * 6, 0)


def test_a_cancel_descriptor_that_has_hung_up_keeps_nobody_awake() -> None:
    """A pipe without writers polls POLLHUP for ever, and is never readable."""
    reading, writing = os.pipe()
    os.close(writing)
    handles = HandleTable(lambda _: None, Budgets())
    wait = SimpleNamespace(
        reply=object(),
        cancel_file=TargetFile(reading, handles),
        on_ready=lambda _: None,
        cancel=lambda: None,
        interrupt=lambda: None,
    )
    listener = SimpleNamespace(touched=0, is_valid=lambda _: True)
    waiting = WaitingCalls(cast(Listener, listener), lambda _notification, _wait: None)
    waiting.add(_notification(1), cast(Wait, wait))
    waiting.look()
    poll = select.poll()
    poll.register(waiting.cancels_fileno(), select.POLLIN)
    assert poll.poll(0) == []
    waiting.close()
    os.close(reading)
    handles.close()


def test_hang_ups_that_are_announced_without_end_are_looked_into_once_each_time() -> None:
    """shutdown(2) on a handle announces one; a thread may do that faster than we look."""
    handles = HandleTable(lambda _: None, Budgets())
    handle, theirs = handles.prepare(os.getuid(), nonblocking=False)
    handles.add(handle)
    polls: list[int] = []
    unregistered: list[int] = []

    def poll(_timeout: int) -> list[tuple[int, int]]:
        polls.append(1)
        assert len(polls) < 100, "it never ends"
        return [] if unregistered else [(handle.ours.fileno(), select.EPOLLHUP)]

    handles._hang_ups.close()
    handles._hang_ups = cast(
        select.epoll, SimpleNamespace(poll=poll, unregister=unregistered.append, close=lambda: None)
    )
    for _ in range(20):
        assert not handles.collect()
    assert len(polls) == 20 and unregistered == [handle.ours.fileno()]
    assert handles.has(handle)
    theirs.close()
    handles.sweep()
    assert not handles.has(handle)
    handles.close()
