# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that wait: synchronous SENDs whose answer comes later.

The notification of such a call stays unanswered until the broker wakes it: the reply came, will never come, or came
too late; or the caller's cancel descriptor became readable. Then the answer is installed in the caller, and the call
returns.

*Signals.* In the original the wait is interruptible: the call ends with ERESTARTSYS, and the kernel either restarts
it (it finds its reply again, `broker.reply`) or makes EINTR of it. A notification can be answered with ERESTARTSYS
too, but the number 512 reaches the program if nothing interrupted that very thread. Under
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV a waiting thread is in state `S`, and becomes `D` only when something has woken
it; so the state tells. Nothing announces the change, so it is looked at from time to time: after 1 ms (10 ms if
the call was served natively, `interposer.supervisor.flows`), then in growing intervals of up to 20 ms. That is how long
a signal handler may be late. Where very many calls wait, it is more, as looking must not become all that is done.

Being given a descriptor wakes a thread as well (`Listener.touched`), in the rare case of a handle that is put in its
place just before the call is served. From such a thread's state nothing can be told. What is pending for it alone,
and for no other thread that could take it, will interrupt it for certain, so that is what is looked at then.

Without that flag the kernel itself breaks off the wait when a signal comes, and the notification becomes invalid. The
same look notices that, and the restarted call arrives as a new trap.

*Cancel descriptors* are watched by an epoll set of their own, polled in the same way as everything else.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from broker.connection import Connection
from broker.errors import ERESTARTSYS
from broker.interfaces import File
from broker.reply import Reply
from broker.send import Wait
from interposer.target.files import TargetFile
from interposer.target.ids import lines_of
from native.notification import Listener, Notification

_FIRST_LOOK_NS = 1_000_000
_LONGEST_INTERVAL_NS = 20_000_000
_INTERVAL_PER_CALL_NS = 100_000
"""A look takes less than a tenth of that."""


@dataclass(eq=False, slots=True)
class _Waiting:
    notification: Notification
    wait: Wait
    interval_ns: int
    next_look_ns: int
    touched: bool
    cancel: int = -1
    """Descriptor of the cancel file, -1 for none."""


class WaitingCalls:
    """The calls that wait at the moment."""

    def __init__(
        self,
        listener: Listener,
        finish: Callable[[Notification, Wait], None],
        interrupted: Callable[[Wait], None] = lambda _: None,
    ) -> None:
        """`finish` completes a call whose wait is over, and answers it. `interrupted` is told of one that is broken
        off, before the broker is."""
        self._interrupted = interrupted
        self._listener = listener
        self._finish = finish
        self._waiting: dict[int, _Waiting] = {}
        self._by_reply: dict[Reply, _Waiting] = {}
        self._ready: list[_Waiting] = []
        self._next_look_ns: int | None = None
        """Not later than the first of all looks that are due."""
        self._some_are_gone = False
        """Whether it may be that of a call which waits elsewhere now."""
        self._cancels = select.epoll()
        self._by_cancel: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def cancels_fileno(self) -> int:
        """A descriptor that is readable when `look` has a cancelled call to find."""
        return self._cancels.fileno()

    def lendable(self, reply: Reply) -> tuple[Notification, Wait, int] | None:
        """The call that waits for `reply`, if there is one here that may wait elsewhere, and when to look at it.

        `gone` is to be called if it does.
        """
        call = self._by_reply.get(reply)
        if call is None or call.touched or call.wait.command is None:
            return None
        return call.notification, call.wait, call.next_look_ns

    def gone(self, reply: Reply) -> None:
        """The call that waits for `reply` waits elsewhere now, until it comes back (`add`)."""
        del self._waiting[self._by_reply.pop(reply).notification.id]
        self._some_are_gone = True

    def add(self, notification: Notification, wait: Wait, look_ns: int | None = None) -> None:
        """Keep a call until its wait is over. `look_ns`: when to look at it, if it has been waiting elsewhere."""
        touched = self._listener.touched == notification.id
        if look_ns is None:
            call = _Waiting(notification, wait, _FIRST_LOOK_NS, time.monotonic_ns() + _FIRST_LOOK_NS, touched)
        else:
            call = _Waiting(notification, wait, _LONGEST_INTERVAL_NS, look_ns, touched)
        self._waiting[notification.id] = call
        self._by_reply[wait.reply] = call
        if self._next_look_ns is None or call.next_look_ns < self._next_look_ns:
            self._next_look_ns = call.next_look_ns
        cancel: File | None = wait.cancel_file
        if isinstance(cancel, TargetFile):
            call.cancel = cancel.fileno()
            self._by_cancel[call.cancel] = call
            # At the edge: a pipe that has hung up, and will never be readable, would keep the loop awake.
            with suppress(OSError):
                self._cancels.register(call.cancel, select.EPOLLIN | select.EPOLLET)
        wait.on_ready(lambda: self._ready.append(call))

    def next_look_ns(self) -> int | None:
        """When to call `look` next (CLOCK_MONOTONIC, ns); None while nothing waits."""
        if self._some_are_gone:
            self._find_next_look()
        return 0 if self._ready else self._next_look_ns

    def left(self, thread: int) -> None:
        """`thread` is in another call: the one that it waited in, if any, was interrupted."""
        for call in [call for call in self._waiting.values() if call.notification.pid == thread]:
            self._interrupt(call)

    def forget_gone(self, connection: Connection | None = None) -> None:
        """End the calls, of a connection or all, whose callers are gone: what they waited on, the broker keeps until
        then."""
        for call in [each for each in self._waiting.values() if connection in (None, each.wait.connection)]:
            if not self._listener.is_valid(call.notification.id):
                self._interrupt(call)

    def finish_ready(self) -> None:
        """Answer the calls whose wait is over."""
        while self._ready:
            call = self._ready.pop()
            if self._forget(call):
                self._finish(call.notification, call.wait)

    def look(self) -> None:
        """Notice cancelled and interrupted calls, and callers that are gone."""
        if self._by_cancel:
            for descriptor, events in self._cancels.poll(0):
                cancelled = self._by_cancel.get(descriptor)
                if cancelled is not None and events & select.EPOLLIN:
                    cancelled.wait.cancel()
            self.finish_ready()
        now = time.monotonic_ns()
        if self._next_look_ns is None or self._next_look_ns > now:
            return
        longest_ns = max(_LONGEST_INTERVAL_NS, _INTERVAL_PER_CALL_NS * len(self._waiting))
        for call in [call for call in self._waiting.values() if call.next_look_ns <= now]:
            if not self._listener.is_valid(call.notification.id):
                self._interrupt(call)
            elif (_is_signalled if call.touched else _is_woken)(call.notification.pid):
                self._interrupt(call)
                self._listener.respond_error(call.notification.id, ERESTARTSYS)
            else:
                call.interval_ns = min(2 * call.interval_ns, longest_ns)
                call.next_look_ns = now + call.interval_ns
        self._find_next_look()

    def _find_next_look(self) -> None:
        self._some_are_gone = False
        self._next_look_ns = min((call.next_look_ns for call in self._waiting.values()), default=None)

    def _interrupt(self, call: _Waiting) -> None:
        if self._forget(call):
            self._interrupted(call.wait)
            call.wait.interrupt()

    def _forget(self, call: _Waiting) -> bool:
        if self._waiting.pop(call.notification.id, None) is None:
            return False
        if self._by_reply.get(call.wait.reply) is call:
            del self._by_reply[call.wait.reply]
        if call.cancel >= 0:
            del self._by_cancel[call.cancel]
            with suppress(OSError):
                self._cancels.unregister(call.cancel)
        return True

    def close(self) -> None:
        """The supervisor ends: nobody waits any more."""
        for call in list(self._waiting.values()):
            self._interrupt(call)
        self._ready.clear()
        self._cancels.close()


def _is_woken(thread: int) -> bool:
    """Whether a thread that waits in a notification has been woken by something (state D, see the module's essay)."""
    try:
        with open(f"/proc/{thread}/stat", "rb", buffering=0) as file:
            text = file.read(512)
    except OSError:
        return False
    return text[text.rfind(b")") + 2 : text.rfind(b")") + 3] == b"D"


def _is_signalled(thread: int) -> bool:
    """Whether a signal is pending that this thread will take, and no other can."""
    try:
        own = _signals(f"/proc/{thread}")
        if own.pending & ~own.blocked:
            return True
        shared = own.pending_for_all & ~own.blocked
        if not shared:
            return False
        others = [_signals(f"/proc/{thread}/task/{name}") for name in os.listdir(f"/proc/{thread}/task")]
    except OSError:
        return False
    # The thread itself is among them.
    return sum(1 for other in others if shared & ~other.blocked) == 1


@dataclass(frozen=True, slots=True)
class _Signals:
    pending: int
    pending_for_all: int
    blocked: int


def _signals(folder: str) -> _Signals:
    """The signal masks of a thread (proc_pid_status(5)). Raises OSError."""
    with open(f"{folder}/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in lines_of(file.read()) if b":" in line)
    return _Signals(*(int(fields[name], 16) for name in (b"SigPnd", b"ShdPnd", b"SigBlk")))
