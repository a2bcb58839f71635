# SPDX-License-Identifier: GPL-2.0-or-later
"""A short soak: random traffic of processes that are born and killed must come out even (`tests.soak`).

KDBUS_SOAK is for how many seconds (15 by default).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.soak import MEMORY, Balance, compiled, soak
from tests.support.supervised import SupervisorFailed

SECONDS = float(os.environ.get("KDBUS_SOAK", "15"))


@pytest.mark.timeout(2 * SECONDS + 240)
@pytest.mark.parametrize("self_serve", [False, True], ids=["trapped", "self-served"])
def test_soak(tmp_path: Path, self_serve: bool) -> None:
    """Messages, slices, descriptors and memory come out even."""
    program = compiled(tmp_path, self_serve=self_serve)
    stretch = min(10.0, SECONDS / 4)
    balance = soak(program, seconds=SECONDS, members=12, seed=1, stretch=stretch, self_serve=self_serve)
    print("\n".join(balance.lines()))
    assert not balance.off
    assert balance.messages["lives"] > balance.messages["ended"] > 0
    assert balance.messages["received"] > 0
    assert balance.messages["left"] > 0


LINE = "sent=10 refused=3 received=6 left=3 lost=1 doubtful=0 wrong=0 lives=3 killed=1 ended=2 calls=50"


def balance_of(*lines: str, memory: tuple[int, int] = (1, 1)) -> Balance:
    balance = Balance(memory=list(memory))
    for line in lines:
        balance.add(line)
    balance.check()
    return balance


def test_what_comes_out_even() -> None:
    balance = balance_of(LINE, LINE)
    assert balance.messages["sent"] == 20
    assert not balance.off
    assert any("20 sent = 12 received" in line for line in balance.lines())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("received=6", "received=5"), "1 messages are missing"),
        (("received=6", "received=7"), "-1 messages are missing"),
        (("wrong=0", "wrong=2"), "2 connections do not come out even"),
    ],
)
def test_what_does_not(change: tuple[str, str], told: str) -> None:
    (text,) = balance_of(LINE.replace(*change)).off
    assert told in text


def test_a_message_in_doubt() -> None:
    assert not balance_of(LINE.replace("received=6", "received=5").replace("doubtful=0", "doubtful=1")).off


def test_memory_that_grows() -> None:
    (text,) = balance_of(LINE, memory=(50 << 20, (51 << 20) + MEMORY)).off
    assert "grown by 17 MiB" in text


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    program = tmp_path / "fails"
    program.write_text("#!/bin/sh\necho ready\nread line\necho 'this went wrong' >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(SupervisorFailed, match=r"(?s)status 3.*this went wrong"):
        soak(program, seconds=1, members=1, seed=1)
