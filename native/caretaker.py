# SPDX-License-Identifier: GPL-2.0-or-later
"""Who answers trapped calls when the supervisor has ended: the face of `caretaker.c`, where it is explained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from native.library import failure, ffi, lib

if TYPE_CHECKING:
    from native._helper import CData


class Caretaker:
    """A process that answers the calls of `listener` from the end of this process to that of the last one under the
    filter; then kdbus's own, `calls` (architecture, number; at most 8), fail with ESHUTDOWN.

    It is a child of this process, and wants to be reaped only if this process goes on after the targets' end. To be
    made while this process has one thread. Raises OSError: EAGAIN or ENOMEM if there is no room for a process,
    EMFILE, ENFILE; ENOSYS without pidfds.
    """

    __slots__ = ("pid", "received")

    pid: int
    """Its process id."""
    received: CData
    """For `native.notification.Listener`: it has to be known there which calls were received. Valid for ever."""

    def __init__(self, listener: int, calls: Iterable[tuple[int, int]]) -> None:
        own = ffi.new("struct kdbus_call[]", list(calls))
        received = ffi.new("struct kdbus_received **")
        self.pid = lib.kdbus_start_caretaker(listener, own, len(own), received)
        if self.pid < 0:
            raise failure(self.pid, f"start a caretaker for seccomp listener {listener}")
        self.received = received[0]
