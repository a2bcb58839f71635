# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor: one loop that serves the traps of a tree of processes until its program ends.

trio waits, for whichever comes first: a trap, a hang-up, a deadline, a cancelled call, a signal, the end of the
program. The traps themselves are served without it: once one arrives, the loop drains the listener and lingers a
fraction of a millisecond for the next, as that mostly follows at once, and going through trio costs as much as
serving a trap.

In each round: hang-ups first, as a descriptor that was closed before a call must be gone when it is served; then the
trap; then the calls that it woke. Deadlines are looked at whenever the loop comes up for air.

The program's end ends the domain: every connection is disconnected, as an unmount would, and processes that are left
find kdbus gone.

Signals: an interrupt from the terminal reaches the program itself, which decides what becomes of it; the supervisor
ignores it and ends with the program. SIGTERM and SIGHUP, which are sent to the supervisor alone, are passed on.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections import deque
from contextlib import suppress

import trio

from broker.domain import Domain
from broker.send import Wait
from interposer.filesystem import NodeFiles
from interposer.filter import this_architecture
from interposer.flows import Flows
from interposer.handles import HandleTable, OpenHandle
from interposer.ids import ThreadFolder, ThreadIds, UserNamespaces
from interposer.launch import Launched
from interposer.traps import MountedDomain, Traps
from interposer.view import AttachFlagsMask
from interposer.waiting import WaitingCalls
from native.notification import EndOfTargets, Listener, Notification

_LINGER_NS = 200_000
_TURN_NS = 5_000_000
"""How long traps may keep the loop from everything else."""
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP)
_IGNORED = (signal.SIGINT, signal.SIGQUIT)


class SystemClock:
    """`broker.outside.Clock` on the system's clocks."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    realtime_ns = staticmethod(time.time_ns)


class Supervisor:
    """Serves one launched program."""

    def __init__(self, launched: Launched) -> None:
        """Takes over the descriptors of `launched`."""
        self._pid = launched.pid
        self._listener = Listener(launched.listener)
        self._namespaces = UserNamespaces()
        self._mask = AttachFlagsMask(launched.parameters_directory)
        os.close(launched.parameters_directory)
        own_ids = ThreadIds(ThreadFolder(os.getpid(), lambda: True), self._namespaces)
        files = NodeFiles(launched.kdbus_directory, (("control",),))
        domain = Domain(SystemClock(), os.urandom, self._mask.current, own_ids, files)
        self._domains = [MountedDomain(domain, files)]
        self._handles = HandleTable(self._closing)
        self._queue: deque[Notification] = deque()
        self._waiting = WaitingCalls(self._listener, self._finish)
        self._traps = Traps(
            self._listener,
            self._handles,
            self._namespaces,
            self._domains,
            self._waiting.add,
            self._queue.append,
            self._served,
        )
        self._flows = Flows(
            self._listener,
            self._handles.hang_ups_fileno(),
            self._traps.caller,
            self._waiting.add,
            enabled=launched.waits_killable and os.environ.get("KDBUS_FLOWS") != "off",
        )
        names = {number: name for name, number in this_architecture().system_calls.items()}
        served = {"ioctl": self._traps.ioctl, "mmap": self._traps.mmap, "open": self._traps.open}
        served |= {"openat": self._traps.openat, "openat2": self._traps.openat2}
        self._serve_by_number = {number: served[name] for number, name in names.items() if name in served}

    async def run(self) -> int:
        """Serve until the program ends; returns its status as wait(2) gives it."""
        status = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_signals_on)
            nursery.start_soon(self._watch, self._handles.hang_ups_fileno())
            nursery.start_soon(self._watch, self._waiting.cancels_fileno())
            nursery.start_soon(self._serve)
            status = await self._wait_for_program()
            nursery.cancel_scope.cancel()
        return status

    async def _wait_for_program(self) -> int:
        descriptor = os.pidfd_open(self._pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        return os.waitpid(self._pid, 0)[1]

    async def _pass_signals_on(self) -> None:
        with trio.open_signal_receiver(*_PASSED_ON) as signals:
            async for number in signals:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, number)

    async def _watch(self, descriptor: int) -> None:
        """Go through a round whenever an epoll set has news."""
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            self._housekeep(news=True)
            await trio.lowlevel.checkpoint()

    async def _serve(self) -> None:
        while True:
            due = self._next_deadline_ns()
            timeout = float("inf") if due is None else max(0.0, (due - time.monotonic_ns()) / 1e9)
            with trio.move_on_after(timeout):
                await trio.lowlevel.wait_readable(self._listener.fileno())
            try:
                self._drain()
            except EndOfTargets:
                return
            self._housekeep(news=False)

    def _next_deadline_ns(self) -> int | None:
        """When the loop has to come up for air at the latest."""
        times = [mounted.domain.deadlines.next_ns() for mounted in self._domains]
        times += (self._waiting.next_look_ns(), self._flows.deadline_ns())
        return min((due for due in times if due is not None), default=None)

    def _drain(self) -> None:
        """Serve the traps that are there, and those that follow at once. Raises EndOfTargets."""
        due = self._next_deadline_ns()
        stop = time.monotonic_ns() + _TURN_NS
        if due is not None:
            stop = min(stop, due)
        while True:
            notification = self._queue.popleft() if self._queue else self._flows.receive(_LINGER_NS, stop)
            if notification is None:
                return
            self._flows.recall()
            self._handles.collect()
            serve = self._serve_by_number.get(notification.number)
            if serve is None:
                # mount and umount2 of file systems that are not ours.
                self._listener.respond_continue(notification.id)
            else:
                serve(notification)
            self._waiting.finish_ready()
            self._flows.consider()
            if time.monotonic_ns() >= stop and not self._queue:
                return

    def _housekeep(self, *, news: bool) -> None:
        """Hang-ups, deadlines, cancelled and interrupted calls, if there are any or if there is `news` of them."""
        now = time.monotonic_ns()
        due = self._next_deadline_ns()
        if not news and not self._handles.hang_up_waits() and (due is None or due > now):
            return
        self._flows.recall()
        self._handles.collect()
        for mounted in self._domains:
            mounted.domain.deadlines.expire(now)
        self._waiting.look()
        self._waiting.finish_ready()

    def _served(self, notification: Notification, handle: OpenHandle) -> None:
        self._flows.note(notification, handle)

    def _closing(self, handle: OpenHandle) -> None:
        self._flows.forget(handle)

    def _finish(self, notification: Notification, wait: Wait) -> None:
        def serve() -> int:
            wait.finish(self._traps.caller(notification))
            return 0

        self._traps.answer(notification, serve)

    def close(self) -> None:
        """End the domains and let go of everything."""
        self._flows.recall()
        self._waiting.close()
        for mounted in self._domains:
            mounted.domain.deactivate()
        self._handles.close()
        for mounted in self._domains:
            mounted.files.close()
        self._flows.close()
        self._listener.close()
        self._mask.close()
        self._namespaces.close()


def run(launched: Launched) -> int:
    """Serve `launched` until its program ends; returns the status as wait(2) gives it.

    The calling process ignores terminal signals from now on, and may open as many files as it is allowed to.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    supervisor = Supervisor(launched)
    try:
        return trio.run(supervisor.run)
    finally:
        supervisor.close()
