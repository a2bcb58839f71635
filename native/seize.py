# SPDX-License-Identifier: GPL-2.0-or-later
"""Beginning to trace a thread, ptrace(2), without waiting for what its process does (`seize.c` says why one might)."""

from __future__ import annotations

from native.library import failure, lib

_PATIENCE_NS = 2_000_000
"""Executing a program, of which the beginning is in memory, takes less."""


def seize(thread: int, options: int) -> None:
    """PTRACE_SEIZE with PTRACE_O_* `options`; the calling thread is the tracer.

    Raises OSError: ESRCH, EPERM as ptrace(2) does, ETIMEDOUT if a thread of that process has been executing a program
    all the time. What comes from python-ptrace or its like would wait for the end of that.
    """
    result = lib.kdbus_seize(thread, options, _PATIENCE_NS)
    if result < 0:
        raise failure(result, f"trace thread {thread}")
