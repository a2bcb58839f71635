# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of a kdbus that runs, for those who trace it by its control socket (`kdbus trace -p PID`).

What is sent are the records as frames (`tracing.recording`): who traces decodes them, in its own time. What waits to be
sent is bounded; what does not fit is dropped, counted, and told in its place.
"""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Callable

from interposer.watching.wire import Record
from tracing.record import Record as Call
from tracing.recording import frame

MOST_BYTES = 4 << 20
LONGEST_PAYLOAD = 64 << 10


class Subscription:
    """What waits for one who traces: `tracing.record.Tracer`. `news` is called when there may be something to take."""

    waits = False
    left = False

    def __init__(self, payload: int, news: Callable[[], None], *, stacks: bool = False) -> None:
        """`payload`: how many bytes of payloads are wanted; `stacks`: whether what stacks are found by is."""
        self.stacks = stacks
        self.payload_limit = max(0, min(payload, LONGEST_PAYLOAD))
        self._news = news
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0

    def take(self, record: Call) -> None:
        """One more, if there is room."""
        data = frame(record)
        if self._dropped or self._bytes + len(data) > MOST_BYTES:
            self._dropped += 1
        else:
            self._frames.append(data)
            self._bytes += len(data)
        self._news()

    def close(self) -> None:
        """There are no more."""

    def next(self) -> Record | None:
        """The next record as it is sent, or how many were dropped behind those that waited; None for nothing."""
        if self._frames:
            data = self._frames.popleft()
            self._bytes -= len(data)
            return {"record": "call", "frame": b64encode(data).decode()}
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return {"record": "dropped", "count": dropped}
        return None
