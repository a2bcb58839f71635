# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for traps in trio's stead.

Going to sleep in trio and coming back takes longer than serving a hot call, and Python's code is out of the caches by
then: a call that comes now and then would take twice as long as one of many. So when trio has nothing to do, the
supervisor waits natively, for the next trap and for everything that trio waits for, and trio only hears of it when
there is something for Python to do.

trio tells instruments when it is about to sleep, and for how long at most, as it knows its deadlines. What it sleeps on
is an epoll set, which is itself a descriptor that can be polled: it is readable when trio would wake up, signals
included. trio does not say which descriptor that is, but the kernel does (`/proc/self/fdinfo`): the set that holds the
eventfd which a task of ours waits for.

Alternatives: trio's guest mode waits in a second thread, and a process with threads must not fork as the supervisor
does; private attributes of trio change; a list of everything that tasks wait for would have to be complete.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

import trio

from interposer.report import unexpected

Wait = Callable[[int], bool]
"""Waits, at most until the time (ns, CLOCK_MONOTONIC) or until trio would wake up; whether `woken` is to return."""


class IdleWait(trio.abc.Instrument):
    """Calls `wait` whenever all tasks of the current trio.run sleep. To be entered within it."""

    def __init__(self, wait: Wait) -> None:
        self._wait = wait
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()

    async def find_sleep(self) -> int:
        """The epoll set that trio sleeps on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.woken)
            found = None
            while found is None:
                await trio.lowlevel.checkpoint()  # until it waits
                found = _set_that_holds(self._event)
            nursery.cancel_scope.cancel()
        self._poll.register(found, select.POLLIN)
        return found

    async def woken(self) -> None:
        """Sleep until `wait` has said that there is something to do."""
        await trio.lowlevel.wait_readable(self._event)
        os.eventfd_read(self._event)

    def before_io_wait(self, timeout: float) -> None:
        """trio sleeps for up to `timeout` seconds after this; not at all if 0, as there are tasks to run."""
        try:
            if self._wait_instead(timeout):
                os.eventfd_write(self._event, 1)
        except Exception:
            # trio would never call an instrument again that raises.
            unexpected("waiting for calls failed, the supervisor goes on")
            os.eventfd_write(self._event, 1)

    def _wait_instead(self, timeout: float) -> bool:
        """Whether `woken` is to return."""
        if timeout <= 0:
            # Tasks may run on and on, and whoever makes calls must get a turn all the same.
            return self._wait(0)
        stop = time.monotonic_ns() + int(timeout * 1e9)
        while not self._wait(stop):
            if self._poll.poll(0):
                return False
            if time.monotonic_ns() >= stop:
                break  # trio would sleep for as long once more, and would not hear of calls
        return True

    def close(self) -> None:
        """Let go of the eventfd."""
        os.close(self._event)


def _set_that_holds(descriptor: int) -> int | None:
    """The epoll set of this process that `descriptor` is in."""
    for name in os.listdir("/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{name}") as info:
                entries = [line.split() for line in info if line.startswith("tfd:")]
        except FileNotFoundError:
            continue  # that of the folder itself
        if any(int(words[1]) == descriptor for words in entries):
            return int(name)
    return None
