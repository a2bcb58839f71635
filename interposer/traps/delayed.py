# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that are served later than they come, because somebody has asked for that (`interposer.traps.faults`).

They stay unanswered, so their threads wait in the trap. When they are due they are served as if they came then. One
whose thread has left meanwhile is noticed there.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator

from native.notification import Notification


class Delayed:
    """The delayed calls of one listener."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Notification]] = []

    def add(self, notification: Notification, delay_ns: int) -> None:
        """Keep a call for so long from now."""
        heapq.heappush(self._heap, (time.monotonic_ns() + delay_ns, notification.id, notification))

    def next_ns(self) -> int | None:
        """When the first is due (CLOCK_MONOTONIC, ns); None if there is none."""
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_ns: int) -> Iterator[Notification]:
        """Those that are due, the first one first; kept no longer."""
        while self._heap and self._heap[0][0] <= now_ns:
            yield heapq.heappop(self._heap)[2]
