# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens per second, from facts that are asked for again and again: what `kdbus top` shows.

A supervisor counts, and whoever watches takes the difference. So a watcher that is late, or asks rarely, misses nothing
but detail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interposer.errors import printable
from interposer.watching.show import Facts, command_of, label, names_of
from interposer.watching.table import Style
from interposer.watching.wire import Record

_HISTORY = 240
"""Values of the total that are kept."""
_PLAIN = Style(coloured=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One connection. Rates are per second, None as long as they are not known; times in ns."""

    bus: str
    id: int
    revision: str
    pid: int | None
    command: str
    waiting: int
    pool_used: int
    pool_size: int
    sent: float | None
    received: float | None
    size: float | None
    """Bytes sent."""
    reply_ns: float | None
    """How long its replies took: the mean of those since the last time; without any, of all."""
    longest_ns: int | None
    failed: int
    names: str


class Rates:
    """What there is now, and what has changed since the last time."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.total: float | None = None
        """Messages and notifications per second, on all buses."""
        self.history: deque[float] = deque(maxlen=_HISTORY)
        self._last_ns = 0
        self._messages: int | None = None
        self._traffic: dict[tuple[str, int], Record] = {}

    def update(self, facts: Facts, now_ns: int) -> None:
        """Take in an answer that came at `now_ns` (CLOCK_MONOTONIC)."""
        seconds = (now_ns - self._last_ns) / 1e9
        messages = sum(each["messages"] or 0 for each in (*facts.lists["domains"], *facts.lists["buses"]))
        if self._messages is not None and seconds > 0:
            # A domain may have gone, with what was counted.
            self.total = max(0, messages - self._messages) / seconds
            self.history.append(self.total)
        traffic: dict[tuple[str, int], Record] = {}
        self.rows = []
        for each in facts.lists["connections"]:
            key = label(each), each["id"]
            if each.get("traffic") is not None:
                traffic[key] = each["traffic"]
            self.rows.append(self._row(each, seconds))
        self._last_ns, self._messages, self._traffic = now_ns, messages, traffic

    def _row(self, each: Record, seconds: float) -> Row:
        now, before = each.get("traffic"), self._traffic.get((label(each), each["id"]))

        def per_second(what: str) -> float | None:
            return None if now is None or before is None or seconds <= 0 else (now[what] - before[what]) / seconds

        return Row(
            bus=label(each),
            id=each["id"],
            revision=each["revision"],
            pid=each["pid"],
            command=printable(command_of(each)),
            waiting=each["queue"]["messages"],
            pool_used=each["pool"]["used"],
            pool_size=each["pool"]["size"],
            sent=per_second("sent"),
            received=per_second("received"),
            size=per_second("sent_bytes"),
            reply_ns=_mean(now, before),
            longest_ns=now["longest_reply_ns"] if now is not None and now["replies"] else None,
            failed=0 if now is None else now["failed"],
            names=names_of(each, _PLAIN).text,
        )

    def ordered(self, order: str) -> list[Row]:
        """The rows, most notable first; those that are alike in the order of buses and ids."""
        return sorted(self.rows, key=ORDERS[order])


def _mean(now: Record | None, before: Record | None) -> float | None:
    if now is None or not now["replies"]:
        return None
    if before is not None and now["replies"] > before["replies"]:
        return float((now["reply_ns"] - before["reply_ns"]) / (now["replies"] - before["replies"]))
    return float(now["reply_ns"] / now["replies"])


ORDERS: dict[str, Callable[[Row], Any]] = {
    "messages": lambda row: -(row.sent or 0) - (row.received or 0),
    "queue": lambda row: -row.waiting,
    "latency": lambda row: -(row.reply_ns or 0),
    "pool": lambda row: -row.pool_used / row.pool_size,
    "id": lambda row: (row.bus, row.id),
}
"""By what rows are ordered."""
