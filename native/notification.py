# SPDX-License-Identifier: GPL-2.0-or-later
"""Receiving trapped system calls and answering them: one seccomp notification descriptor.

A thread under a filter that says SECCOMP_RET_USER_NOTIF sleeps in the kernel until somebody who holds the listener
answers. All rules of seccomp_unotify(2) apply; the ones that shape this module:

* The kernel's receiving ioctl waits, whatever the descriptor's flags are. So `Listener.receive` polls first. With two
  threads receiving from one listener, the slower one can still come to wait until the next trap; one receiving thread
  per listener is the intended use.
* When the last target is gone, the descriptor hangs up. That is an exception here (`EndOfTargets`), not a value, as a
  loop that forgets it would spin.
* A target may die, or be interrupted by a signal, at any moment: its notification becomes invalid. Answering it then is
  no error but a fact, so the `respond_...` functions return False.
* With SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6) the kernel runs the woken thread on the same processor, which
  makes a round trip about ten times faster. It is switched on where it exists.

`Notification` is made by one `struct.unpack` from C's structure: reading its fourteen members one by one through cffi
would take longer than the system call that filled it.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from errno import EINTR, ENOENT
from os import O_CLOEXEC
from os import close as close_descriptor
from types import TracebackType
from typing import TYPE_CHECKING

from native.library import failure, ffi, lib

if TYPE_CHECKING:
    from native._helper import CData

_LAYOUT = struct.Struct("=QIIiIQ6Q")
"""`struct kdbus_notification` of helper.h: id, pid, flags, number, architecture, instruction pointer, arguments."""

assert _LAYOUT.size == ffi.sizeof("struct kdbus_notification")


class EndOfTargets(Exception):
    """No process is left under the filter: nothing will ever be received again."""


@dataclass(slots=True)
class Notification:
    """One trapped system call (`struct seccomp_notif`, seccomp_unotify(2))."""

    id: int
    """Names this very call when it is answered; never used twice by one listener."""
    pid: int
    """Thread id of the caller in the reader's pid namespace; 0 if it is not visible there."""
    number: int
    """System call number, to be read together with `architecture`."""
    architecture: int
    """AUDIT_ARCH_* of the call."""
    instruction_pointer: int
    """Address behind the instruction that entered the kernel."""
    arguments: tuple[int, int, int, int, int, int]
    """The six argument registers, unsigned 64 bits each, whatever the call uses of them."""
    flags: int
    """SECCOMP_NOTIF_* bits; the kernel defines none so far."""


def unpack(buffer: memoryview) -> Notification:
    """The notification in C's structure."""
    id, pid, flags, number, architecture, pointer, *arguments = _LAYOUT.unpack_from(buffer)
    return Notification(id, pid, number, architecture, pointer, tuple(arguments), flags)


def pack_into(buffer: memoryview, call: Notification) -> None:
    """Write the notification as C's structure."""
    facts = call.id, call.pid, call.flags, call.number, call.architecture, call.instruction_pointer
    _LAYOUT.pack_into(buffer, 0, *facts, *call.arguments)


class Listener:
    """One notification descriptor.

    `descriptor` is owned from now on: `close` closes it. If the constructor raises, it is still the caller's.
    `received`: see there. Raises OSError: EBADF or ENOTTY or EINVAL if it is no notification descriptor, E2BIG if the
    kernel's structures have outgrown this program.
    """

    __slots__ = ("_buffer", "_descriptor", "_notification", "received", "synchronous_wake_up", "touched")

    received: CData
    """Where it is noted which calls were received (`native.caretaker`); NULL: nowhere."""

    touched: int
    """The call whose thread was woken last by giving it a descriptor; it has waited in state D since, not S."""

    synchronous_wake_up: bool
    """Whether the kernel wakes synchronously (fast): SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP."""

    def __init__(self, descriptor: int, received: CData | None = None) -> None:
        result = lib.kdbus_listener_prepare(descriptor)
        if result < 0:
            raise failure(result, f"use descriptor {descriptor} as a seccomp listener")
        self.synchronous_wake_up = result == 1
        self.touched = 0
        self.received = ffi.NULL if received is None else received
        self._descriptor = descriptor
        self._notification = ffi.new("struct kdbus_notification *")
        self._buffer = ffi.buffer(self._notification)

    def fileno(self) -> int:
        """The descriptor, for poll(2): readable when a call waits, hung up at the end; -1 once closed."""
        return self._descriptor

    def receive(self, timeout_ns: int = 0) -> Notification | None:
        """The next trapped call, waited for up to `timeout_ns` ns (0: not at all; negative: without limit).

        None if there was none in time, or if it vanished (its thread died) just before it could be received. Python's
        signal handlers run while it waits; an exception from one ends the waiting.
        Raises EndOfTargets once no process is left under the filter, OSError(EBADF) after `close`.
        """
        result = lib.kdbus_listener_receive(self._descriptor, self.received, timeout_ns, self._notification)
        if result == -EINTR:
            result = self._receive_again(timeout_ns)
        if result == 1:
            return unpack(self._buffer)
        if result == 0:
            return None
        if result == 2:
            raise EndOfTargets
        raise failure(result, f"receive from seccomp listener {self._descriptor}")

    def _receive_again(self, timeout_ns: int) -> int:
        """Goes on after a signal, whose Python handler has run by now, with what is left of the time.

        The clock is only read here, so the first attempt does not count; a storm of signals can prolong the wait by one
        full `timeout_ns`, no more.
        """
        deadline = time.monotonic_ns() + timeout_ns
        result = -EINTR
        while result == -EINTR:
            left = -1 if timeout_ns < 0 else max(0, deadline - time.monotonic_ns())
            result = lib.kdbus_listener_receive(self._descriptor, self.received, left, self._notification)
        return result

    def respond_value(self, id: int, value: int) -> bool:
        """Lets the call `id` return `value` (signed 64 bits; libc takes -4095 to -1 for errors).

        False if nobody waits for it any more. Raises OSError(EINPROGRESS) if it was answered before.
        """
        return self._answered(lib.kdbus_listener_respond(self._descriptor, id, value, 0), id)

    def respond_error(self, id: int, errno: int) -> bool:
        """Lets the call `id` fail with the positive number `errno`; 512 (ERESTARTSYS) restarts it or yields EINTR,
        provided that a signal is pending for the thread, otherwise the program sees 512 itself.

        False if nobody waits for it any more. Raises OSError(EINPROGRESS) if it was answered before, ValueError if
        `errno` is not positive.
        """
        if errno <= 0:
            raise ValueError(f"not an error number: {errno}")
        return self._answered(lib.kdbus_listener_respond(self._descriptor, id, 0, errno), id)

    def respond_continue(self, id: int) -> bool:
        """Lets the kernel execute the call `id`, with whatever its arguments point to by then.

        False if nobody waits for it any more. Raises OSError(EINPROGRESS) if it was answered before.
        """
        return self._answered(lib.kdbus_listener_continue(self._descriptor, id), id)

    def _answered(self, result: int, id: int) -> bool:
        if result == 0:
            return True
        if result == -ENOENT:
            return False
        raise failure(result, f"answer the trapped call {id:#x}")

    def add_descriptor(self, id: int, descriptor: int, *, close_on_exec: bool, at: int | None = None) -> int:
        """Gives the caller of `id`, while it waits, a duplicate of `descriptor`; returns the number there.

        `at` None: the lowest free number; otherwise that number, replacing what is open there.
        Raises OSError: ENOENT if nobody waits any more, EMFILE at the target's limit of open files, EBADF if
        `descriptor` is not open here or `at` is beyond the target's limit, EINPROGRESS if the call was answered.
        """
        position = -1 if at is None else at
        flags = O_CLOEXEC if close_on_exec else 0
        self.touched = id
        number = lib.kdbus_listener_add_descriptor(self._descriptor, id, descriptor, position, flags)
        if number < 0:
            raise failure(number, f"install descriptor {descriptor} in the caller of {id:#x}")
        return number

    def is_valid(self, id: int) -> bool:
        """Whether the call `id` still waits for its answer: only then is its thread id surely not another's."""
        result = lib.kdbus_listener_is_valid(self._descriptor, id)
        if result < 0:
            raise failure(result, f"look whether {id:#x} is still waiting")
        return result == 1

    def close(self) -> None:
        """Closes the descriptor; calls that wait, and all later ones, fail with ENOSYS in the targets. Idempotent."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            close_descriptor(descriptor)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
