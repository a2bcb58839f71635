# SPDX-License-Identifier: GPL-2.0-or-later
"""Exactly once: a trapped call takes effect once and returns once, whatever signals arrive.

A signal may wake a thread out of its trap. The call then ends with ERESTARTSYS, so that it is restarted or, if there
is a handler without SA_RESTART, fails with EINTR, while the supervisor has done what the call asked for. How that is
prevented depends on the kernel, and there are three ways (`Guarantee`):

*KERNEL.* SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19): once a notification is received, only death ends the
wait. Nothing else is needed.

*CONFIRMED.* The flag is there, but until late 2025 it had a hole. A thread begins to wait interruptibly, and changes
over only when something wakes it while its notification is received and not yet answered. If the signal comes first
and the answer second, before the woken thread has looked, then it finds the answer and goes away without it; the
supervisor is told that all went well. So before each answer the thread is woken on purpose: it is asked to replace a
descriptor whose number is beyond every limit. It refuses that (EBADF, which proves that it was there), and goes back to
wait, for death only. What the answer then meets can no longer be interrupted.

*HELD.* Without the flag a signal ends the wait at any time. The thread is seized with ptrace before its call takes
effect, so that every way out of the kernel leads through a stop; and where the stop finds it without its result, it is
given one (`interposer.injection.injection.hold`). 0.2 ms per call, for kernels that are older than any that is looked
after. A SEND that may wait is not held, as waiting is what signals shall interrupt: the broker keeps its request for
the restarted call to find. It is held once the reply is there.

*REMEMBERED* is what is left of HELD when the thread cannot be seized, since somebody traces it: a result that could not
be given (ENOENT) is kept, and the same call of the same thread (number, arguments, instruction pointer), when it
comes next, gets it instead of being served again.

Which one: without the flag, HELD; with it, CONFIRMED, until a probe in a child says that this kernel is KERNEL. So
nobody waits for the probe (`interposer.traps.probe`), and a kernel that was repaired by its distributor is recognised,
unlike by its version.

Weaknesses. In a HELD call, a signal that comes while descriptors are installed loses them: an open starts again, a
message that carries some arrives without. REMEMBERED cannot tell a restart from a call that looks the same after an
EINTR, and misses the collision of CONFIRMED.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from interposer.injection.injection import SeizedThread, hold
from interposer.launch.guarantee import Guarantee
from interposer.target.caller import TargetCaller
from native.notification import Listener, Notification

_BEYOND_LIMITS = 0x7FFFFFFF
"""A descriptor number that no limit allows: /proc/sys/fs/nr_open stays below."""
_REMEMBERED = 4096
"""How many results are kept at most."""


class HeldCaller(TargetCaller):
    """A caller whose thread is held: whatever becomes of its notification, it cannot leave unseen."""

    def is_waiting(self) -> bool:
        return True


class Interrupted(Exception):
    """The thread has left its trap, and what it asked for has been undone."""


Call = tuple[int, int, int, tuple[int, ...]]
"""What makes two calls of a thread the same: architecture, number, instruction pointer, arguments."""


class Answers:
    """Answers the calls of one listener that take effect.

    For each call: `begin`, and if that is true, what the call asks for, and then one of `value`, `error` and `leave`.
    """

    def __init__(
        self, listener: Listener, guarantee: Guarantee, pump: Callable[[Notification], None] = lambda _: None
    ) -> None:
        """`pump` gets notifications that arrive while a held thread is waited for."""
        self.guarantee = guarantee
        self._listener = listener
        self._pump = pump
        self._held: SeizedThread | None = None
        self._remembered: dict[int, tuple[Call, int]] = {}
        self._spare = os.eventfd(0, os.EFD_CLOEXEC)

    @property
    def kernel_waits(self) -> bool:
        """Whether a received call stays until it is answered, so that no thread can be in two calls at once."""
        return self.guarantee.needs_flag

    def begin(self, notification: Notification, *, may_wait: bool = False) -> bool:
        """Before the call takes effect. False: do nothing, the call is over or will come again.

        `may_wait`: the call may turn out to wait, or is served by other means: its thread must not be held.
        """
        if self.kernel_waits:
            return True
        remembered = self._remembered.pop(notification.pid, None)
        if remembered is not None and remembered[0] == _call(notification):
            self._give(notification, remembered[1])
            return False
        if may_wait or self.guarantee is Guarantee.REMEMBERED:
            return self._listener.is_valid(notification.id)
        try:
            self._held = hold(self._listener, notification, self._pump)
        except PermissionError:
            # Somebody traces it, or it is exiting.
            return self._listener.is_valid(notification.id)
        return self._held is not None

    def holds(self, notification: Notification) -> bool:
        """Whether the thread of this call is held at the moment."""
        return self._held is not None and self._held.notification is notification

    def value(self, notification: Notification, value: int) -> None:
        """The call returns `value`."""
        if self.guarantee is Guarantee.KERNEL:
            self._listener.respond_value(notification.id, value)
        elif self.guarantee is Guarantee.CONFIRMED:
            if self._confirm(notification):
                self._listener.respond_value(notification.id, value)
        elif self._held is not None:
            held, self._held = self._held, None
            held.finish(value)
        else:
            self._give(notification, value)

    def error(self, notification: Notification, number: int) -> None:
        """The call fails with the positive errno `number`."""
        if self.guarantee is Guarantee.KERNEL:
            self._listener.respond_error(notification.id, number)
        else:
            self.value(notification, -number)

    def leave(self) -> None:
        """The call has had no effect, and needs no answer or has one: let its thread go."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _confirm(self, notification: Notification) -> bool:
        """Make the thread wait for death only; False if it has died."""
        try:
            self._listener.add_descriptor(notification.id, self._spare, close_on_exec=True, at=_BEYOND_LIMITS)
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ESRCH)
        return True

    def _give(self, notification: Notification, value: int) -> None:
        """Answer, and remember a result that could not be given; but no error, as that call has had no effect."""
        if self._listener.respond_value(notification.id, value) or value < 0:
            return
        if len(self._remembered) >= _REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[notification.pid] = (_call(notification), value)

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self.leave()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1


def _call(notification: Notification) -> Call:
    return (
        notification.architecture,
        notification.number,
        notification.instruction_pointer,
        notification.arguments,
    )
