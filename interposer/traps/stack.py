# SPDX-License-Identifier: GPL-2.0-or-later
"""The top of the stack of a thread that waits in a trapped call, copied for `tracing.stacks`.

The thread is not stopped. `/proc/TID/syscall` has its instruction and stack pointer; the kernel shows it to whoever may
trace the thread, which the supervisor may, as it reads its memory as well.
"""

from __future__ import annotations

import os
import re

from broker.errors import BadAddress
from interposer.target.caller import TargetCaller
from interposer.target.ids import ThreadFolder
from native.notification import Notification
from tracing.stacks import MOST_BYTES, Copied, executable_lines

_X86_64 = 0xC000003E
"""AUDIT_ARCH_X86_64."""
_LONGEST_STATE = 256
_LONGEST_MAPS = (256 << 10, 4 << 20)
"""Bytes of the list of what is mapped: at first, and if that is not all of it."""


class NoStack(Exception):
    """There is none to be had; the text says why."""


def copy(notification: Notification, caller: TargetCaller) -> Copied:
    """The top of the stack of who waits. Raises NoStack, and, as all that reads memory, Stalled or MemoryStalled."""
    if notification.architecture != _X86_64:
        raise NoStack("it can be had of programs for x86-64 alone")
    folder = ThreadFolder(notification.pid, caller.is_waiting)
    try:
        words = folder.read(b"syscall", _LONGEST_STATE).split()
        if len(words) < 3:
            raise NoStack("the kernel does not say where the thread is")
        sp, pc = int(words[-2], 16), int(words[-1], 16)
        for limit in _LONGEST_MAPS:
            maps = folder.read_memory(b"maps", limit)
            if len(maps) < limit:
                break
    except OSError as error:
        raise NoStack(f"/proc/{notification.pid} cannot be read: {os.strerror(error.errno or 0)}") from error
    end = next((high for low, high in _ranges(maps) if low <= sp < high), sp)
    try:
        # Not what the class of callers keeps in mind for the trace.
        stack = TargetCaller.read(caller, sp, min(end - sp, MOST_BYTES))
    except (BadAddress, OSError) as error:
        raise NoStack("it cannot be read") from error
    return Copied(pc, sp, notification.pid, executable_lines(maps), stack)


_RANGE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) ", re.MULTILINE)


def _ranges(maps: bytes) -> list[tuple[int, int]]:
    return [(int(low, 16), int(high, 16)) for low, high in _RANGE.findall(maps)]
