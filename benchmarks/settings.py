# SPDX-License-Identifier: GPL-2.0-or-later
"""How much is measured: the quick mode (within 3 minutes) and the full mode (within 20)."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """`repetitions` turns of all tasks of a group, `seconds` for one figure of one turn; sizes are in bytes."""

    repetitions: int
    seconds: float
    sizes: tuple[int, ...]
    """Of copied messages, at most 2 MiB: kdbus copies no more in one message."""
    memory_sizes: tuple[int, ...]
    senders: tuple[int, ...]
    throughput_sizes: tuple[int, ...]
    receivers: tuple[int, ...]
    """Of a broadcast, at most 1000: one user may have 1024 connections."""
    counts: tuple[int, ...]
    """Of connections, names and matches."""
    pairs: tuple[int, ...]
    """Of processes that call at once, at most 200."""
    clients: tuple[int, ...]
    """Of one service, at most 1000."""
    held: tuple[int, int, int]
    """Connections, messages queued in each, and buses whose memory is looked at."""


QUICK = Settings(
    repetitions=3,
    seconds=0.12,
    sizes=(8, 4 * KIB, 64 * KIB, MIB, 2 * MIB),
    memory_sizes=(64 * KIB, MIB, 256 * MIB),
    senders=(1, 4),
    throughput_sizes=(8, 4 * KIB),
    receivers=(1, 10, 100),
    counts=(10, 100, 1000),
    pairs=(1, 10, 100),
    clients=(8, 64, 200),
    held=(300, 16, 15),
)

FULL = Settings(
    repetitions=5,
    seconds=0.6,
    sizes=(8, 64, 512, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 2 * MIB),
    memory_sizes=(64 * KIB, MIB, 16 * MIB, 256 * MIB),
    senders=(1, 2, 4),
    throughput_sizes=(8, 4 * KIB, 64 * KIB),
    receivers=(1, 10, 100, 1000),
    counts=(10, 100, 1000, 5000, 10000),
    pairs=(1, 10, 100),
    clients=(1, 8, 16, 32, 64, 200),
    held=(1000, 16, 15),
)
