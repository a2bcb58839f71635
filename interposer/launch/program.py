# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kdbus run` owes the program that it has started, whoever serves its calls.

To a shell, `kdbus run` is the program: it ends when the program ends, gets the signals that are meant for it, and stops
when it stops. An interrupt from the terminal reaches the program itself, which decides what becomes of it; we ignore it
and end with the program. SIGTERM, SIGHUP and SIGCONT, which are sent to us alone, are passed on.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import trio

from interposer.heeded import heeded

PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGCONT)
IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
_FROM_TERMINAL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Program:
    """A child of this process.

    `asked_too_late`: whether a signal that asks for the end came after the program had ended already.
    """

    def __init__(self, pid: int) -> None:
        """From now on this process ignores what the terminal sends to the whole group."""
        self._pid = pid
        self._continued = False
        self.asked_too_late = False
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    async def run(self) -> int:
        """Wait for the end of the program, and do what is owed; returns its status as wait(2) gives it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_signals_on)
            nursery.start_soon(self._follow_stops)
            await self._wait()
            nursery.cancel_scope.cancel()
        return os.waitpid(self._pid, 0)[1]  # noqa: ASYNC222 - it has ended

    async def _wait(self) -> None:
        descriptor = os.pidfd_open(self._pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)

    async def _pass_signals_on(self) -> None:
        with trio.open_signal_receiver(*heeded(*PASSED_ON)) as signals:
            async for number in signals:
                if number == signal.SIGCONT and self._continued:
                    self._continued = False
                    continue
                if _has_ended(self._pid):
                    self.asked_too_late = number != signal.SIGCONT
                with suppress(ProcessLookupError):
                    os.kill(self._pid, number)

    async def _follow_stops(self) -> None:
        """When the terminal stops the program, stop as well, or the shell would not notice.

        Where nobody could continue us (an orphaned process group), the kernel ignores that. What the shell then
        continues is the whole group. Who continues this process alone means the program, which is seen to at once: if
        it were left to `_pass_signals_on`, the program might by then have been stopped again.
        """
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            while True:
                # First what may have happened before the signals were watched.
                if _stopped_by(self._pid) in _FROM_TERMINAL:
                    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                    signal.raise_signal(signal.SIGTSTP)
                    signal.signal(signal.SIGTSTP, before)
                    self._continued = True
                    if not has_moved(self._pid):
                        os.kill(self._pid, signal.SIGCONT)
                await anext(signals)


def _has_ended(process: int) -> bool:
    """Whether a child has ended; it still wants to be reaped."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def has_moved(process: int) -> bool:
    """Whether a child whose stop has been seen has been continued since, or has ended. It may be stopped once more."""
    news = os.WCONTINUED | os.WSTOPPED | os.WEXITED
    return os.waitid(os.P_PID, process, news | os.WNOHANG | os.WNOWAIT) is not None


def _stopped_by(process: int) -> int | None:
    """The signal that has stopped a child, if it has been stopped since this was last asked."""
    try:
        found = os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOHANG)
    except ChildProcessError:
        return None
    return found.si_status if found is not None and found.si_code == os.CLD_STOPPED else None
