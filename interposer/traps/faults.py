# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults on purpose (`--inject`): calls that fail, wait, lose, or end their process, as somebody has asked.

They come between the trap and the broker, where the tap is, and below it, so that a trace shows what was injected. No
rule of the bus is bent: a call that shall fail does not reach the broker; for everything else the broker does what it
does when the same thing happens by itself (a full queue, a receiver without a free descriptor, a process that dies).

A delay is over before the call is served, so the caller meets what is true by then. While it lasts, the call waits
unanswered (`interposer.traps.delayed`), and nobody else does.

While there are faults, the broker serves every call: the native engine knows nothing of them.

Weaknesses: descriptors in the reply of a synchronous SEND are always installed. A call that a signal restarts counts
twice.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from broker.connection import Connection
from broker.errors import Injected
from broker.interfaces import Caller, File
from broker.receive import lose_next, next_is_broadcast
from broker.send import Wait
from interposer.handles.handles import OpenHandle
from interposer.report import unexpected
from interposer.target.caller import TargetCaller
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import REVISIONS
from native.notification import Notification
from tracing.faults import Effect, Fault

_COMMANDS = {number: name for revision in REVISIONS for name, number in revision.requests.items()}

_MOST_KEPT = 4096


class Faults:
    """The faults of one supervisor."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults
        self._counts: Counter[tuple[Fault, int]] = Counter()
        self._chosen: dict[int, list[Fault]] = {}
        """By notifications of calls that are not served yet: what was decided when they came."""
        self._told: list[str] = []

    def told(self) -> list[str]:
        """What the call that was served last has met, and its result does not tell."""
        told, self._told = self._told, []
        return told

    def may_delay(self, request: int) -> bool:
        """Whether a call of that command may be told to wait."""
        command = _COMMANDS.get(request)
        return any(fault.delay_ns and command in fault.commands for fault in self._faults)

    def delay_ns(self, notification: Notification, handle: OpenHandle, request: int, caller: TargetCaller) -> int:
        """A call has come, or has come to the end of its delay: how long it has to wait before it is served, mostly 0.

        Raises ProcessLookupError if its thread is gone.
        """
        if notification.id in self._chosen:
            return 0
        chosen = self._choose(handle, request, caller)
        if chosen:
            if len(self._chosen) >= _MOST_KEPT:
                self._chosen.pop(next(iter(self._chosen)))  # of a thread that has left, most likely
            self._chosen[notification.id] = chosen
        return max((fault.delay_ns for fault in chosen), default=0)

    def ioctl(
        self, notification: Notification, handle: OpenHandle, request: int, argument: int, caller: TargetCaller
    ) -> Wait | None:
        """`handle.broker.ioctl` with what is injected, once `delay_ns` says 0. Raises what that raises, or Injected."""
        assert handle.broker is not None
        self._told = []
        for fault in self._chosen.pop(notification.id, ()):
            if fault.delay_ns:
                self._told.append(f"delayed: {fault.text}")
            if fault.effect is Effect.FAIL:
                error = Injected(fault=fault.text)
                error.errnos = {Injected: fault.errno}
                raise error
        late = [fault for fault in self._matching(handle, request, caller) if not fault.is_early]
        if not late:
            return handle.broker.ioctl(request, argument, caller)
        process = caller.process.thread_group
        asked: Caller = caller
        for fault in late:
            if fault.effect is Effect.INCOMPLETE:
                asked = cast(Caller, _WithoutDescriptors(asked, partial(self._hits, fault, process)))
            elif fault.effect is Effect.LOSE:
                self._lose(fault, process, handle.connection)
        wait = handle.broker.ioctl(request, argument, asked)
        for fault in late:
            if fault.effect is Effect.DIE and _is_worth_dying(handle, request) and self._hits(fault, process):
                _kill(process, caller)
        return wait

    def _lose(self, fault: Fault, process: int, connection: Connection | None) -> None:
        if connection is not None and next_is_broadcast(connection) and self._hits(fault, process):
            lose_next(connection)

    def _matching(self, handle: OpenHandle, request: int, caller: TargetCaller) -> list[Fault]:
        """The faults that are for such a call of that caller."""
        command = _COMMANDS.get(request)
        return [
            fault
            for fault in self._faults
            if command in fault.commands
            and (not fault.name or _owns(handle.connection, fault.name))
            and (not fault.process or fault.is_for(os.fsdecode(caller.process.process_name())))
        ]

    def _choose(self, handle: OpenHandle, request: int, caller: TargetCaller) -> list[Fault]:
        """The faults that hit this call, of those that are decided before it is served."""
        early = [fault for fault in self._matching(handle, request, caller) if fault.is_early]
        process = caller.process.thread_group if early else 0
        return [fault for fault in early if self._counted(fault, process)]

    def _counted(self, fault: Fault, process: int) -> bool:
        """Count a call that the fault could hit; whether it does."""
        self._counts[fault, process] += 1
        return fault.hits(self._counts[fault, process])

    def _hits(self, fault: Fault, process: int) -> bool:
        """The same, and tell of it."""
        hit = self._counted(fault, process)
        if hit:
            self._told.append(f"{_TOLD[fault.effect]}: {fault.text}")
        return hit


_TOLD: dict[Effect | None, str] = {
    Effect.LOSE: "a broadcast was lost",
    Effect.INCOMPLETE: "no descriptor could be installed",
    Effect.DIE: "the process is killed",
}


class _WithoutDescriptors:
    """A caller that has no free descriptor when it gets a message with some, if `hits` says so."""

    def __init__(self, caller: Caller, hits: Callable[[], bool]) -> None:
        self._caller = caller
        self._hits = hits
        self._refuses: bool | None = None

    def install(self, file: File) -> int:
        if self._refuses is None:
            self._refuses = self._hits()
        return -errno.EMFILE if self._refuses else self._caller.install(file)

    def __getattr__(self, name: str) -> object:
        return getattr(self._caller, name)


def _owns(connection: Connection | None, name: str) -> bool:
    return connection is not None and os.fsencode(name) in connection.names


def _is_worth_dying(handle: OpenHandle, request: int) -> bool:
    """Whether the call that has succeeded is one to die of: a RECV must have brought a request."""
    if _COMMANDS[request] != "RECV":
        return True
    connection = handle.connection
    received = None if connection is None else connection.last_received
    return received is not None and bool(received.flags & abi.MESSAGE_EXPECT_REPLY)


def _kill(process: int, caller: TargetCaller) -> None:
    try:
        descriptor = os.pidfd_open(process)
        try:
            if caller.is_waiting():  # so it is that process, and not one that has got its number since
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
    except ProcessLookupError:
        return
    except OSError:
        unexpected(f"killing process {process}, as --inject asks, failed; it goes on")
