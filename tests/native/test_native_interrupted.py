# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals to the supervisor must not break off what it does for a target.

The kernel waits interruptibly when it installs a descriptor in a target, and Python's signal handlers interrupt system
calls (they are installed without SA_RESTART). A supervisor gets SIGCHLD whenever one of its children stops, so that
happens.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.targets import start_target, traps_of

_ROUNDS = 3000
_PERIOD_S = 0.0002


@pytest.fixture
def storm() -> Iterator[list[int]]:
    """A signal every 200 us; the list grows with each."""
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, _PERIOD_S, _PERIOD_S)
    yield seen
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_descriptors_are_installed_and_calls_answered_in_a_storm_of_signals(storm: list[int]) -> None:
    def body() -> None:
        for _ in range(_ROUNDS):
            # Any open for reading and writing is trapped; the answer is the number of what was installed.
            os.close(os.open("/dev/null", os.O_RDWR))

    target = start_target(body, traps_of("open", "openat"))
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        for _ in range(_ROUNDS):
            notification = target.next()
            assert target.listener.is_valid(notification.id)
            number = target.listener.add_descriptor(notification.id, null, close_on_exec=True)
            assert target.listener.respond_value(notification.id, number)
        assert target.wait() == 0
        assert storm, "no signal came, so nothing was tested"
    finally:
        os.close(null)
        target.listener.close()
