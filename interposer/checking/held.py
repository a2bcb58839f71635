# SPDX-License-Identifier: GPL-2.0-or-later
"""What a connection is and has, as far as its calls have told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Held:
    """One connection."""

    where: str
    """Which program, connection and bus."""
    bus: str
    revision: str
    flags: tuple[str, ...]
    """Of HELLO."""
    pool_size: int
    slices: dict[int, tuple[str, int]] = field(default_factory=dict)
    """By offset: the command that gave it out, and its size in bytes."""
    requests: set[tuple[int, int]] = field(default_factory=set)
    """Requester and cookie."""
    names: dict[str, bool] = field(default_factory=dict)
    """Those that it owns or waits for, and whether it waits."""
    matches: Counter[int] = field(default_factory=Counter)
    waiting: Counter[int] = field(default_factory=Counter)
    """Messages in its queue, by who has sent them: at least so many, as synchronous requests, replies and signals are
    not counted, and where it is not known whose message has left, each one's is taken to have."""
    left: bool = False
    """It has said BYEBYE."""
    of_maker: bool = False
    """Its process has made the bus."""
