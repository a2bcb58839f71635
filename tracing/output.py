# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a trace goes: a file, a pipe or a terminal, whose reader may be slow, or go away.

Whoever traces serves the traced programs as well, so it must not wait for a reader. What the reader does not take yet
is kept, up to `KEPT` bytes; then a record waits for at most `PATIENCE_S`, and is dropped if there is no room by then.
So a traced call is delayed by no more than that, and this process grows by no more than that. Where records are
missing the trace says how many, as soon as it can say anything.

A pipe or a terminal is opened once more, to have a descriptor of its own that does not block: O_NONBLOCK belongs to the
open file, which the traced programs mostly share. Where that cannot be (sockets), it is written when poll(2) says that
there is room, and not more than a pipe takes whole.

A reader that has gone, a full disk: the trace ends, which is said once, and the traced program goes on.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

KEPT = 4 << 20
"""Bytes."""
PATIENCE_S = 0.01
"""How long a record waits for room, in seconds."""
FAREWELL_S = 2.0
"""How long the end waits for the reader, in seconds."""
_AT_ONCE = 4096
"""Bytes (PIPE_BUF, pipe(7))."""


class Output:
    """One destination. Owns its descriptor."""

    def __init__(self, descriptor: int, failed: Callable[[OSError], None], *, patient: bool = False) -> None:
        """Takes over `descriptor`. `failed` is called, once, when nothing can be written any more.

        `patient`: wait for the reader as long as it takes; nobody is being traced.
        """
        self._patient = patient
        self._failed = failed
        self._descriptor = _own(descriptor)
        self._waits = not stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._at_once = _AT_ONCE if os.get_blocking(self._descriptor) else KEPT
        self._kept: deque[memoryview] = deque()
        self._size = 0
        self.dropped = 0
        """Records that were dropped since this was last set to 0."""
        self.broken = False
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def write(self, data: bytes, patience_s: float | None = None) -> bool:
        """Write one record, or keep it; False if it was dropped. It waits for `PATIENCE_S`, or `patience_s`."""
        if self.broken:
            return False
        self._send()
        if self._size + len(data) > KEPT:
            self._wait_for_room(len(data), None if self._patient else PATIENCE_S if patience_s is None else patience_s)
        if self.broken or self._size + len(data) > KEPT:
            self.dropped += 1
            return False
        self._kept.append(memoryview(data))
        self._size += len(data)
        self._send()
        return True

    def _wait_for_room(self, size: int, seconds: float | None) -> None:
        """Until there is, but for so long at most; None: however long."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._size + size > KEPT and not self.broken:
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                return
            if self._poll.poll(None if rest is None else rest * 1000):
                self._send()

    def _send(self) -> None:
        """Write what the reader takes."""
        while self._kept and (not self._waits or self._poll.poll(0)):
            data = self._kept[0]
            try:
                written = os.write(self._descriptor, data[: self._at_once] if self._waits else data)
            except BlockingIOError:
                return
            except OSError as error:
                self._give_up(error)
                return
            self._size -= written
            if written == len(data):
                self._kept.popleft()
            else:
                self._kept[0] = data[written:]

    def _give_up(self, error: OSError) -> None:
        self.broken = True
        self._kept.clear()
        self._size = 0
        self._failed(error)

    def close(self, *, patient: bool = False, last: bytes = b"") -> None:
        """Write what is kept, and `last` behind it, if the reader takes it in time, or however long that takes."""
        if last and not self.broken:
            self._kept.append(memoryview(last))
            self._size += len(last)
        if self._kept:
            self._wait_for_room(KEPT, None if self._patient or patient else FAREWELL_S)
        os.close(self._descriptor)


def _own(descriptor: int) -> int:
    """A descriptor that does not block and is not shared, if it can be had, instead of `descriptor`."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with suppress(OSError):
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
            os.close(descriptor)
            return own
    return descriptor
