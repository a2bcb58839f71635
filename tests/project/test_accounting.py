# SPDX-License-Identifier: GPL-2.0-or-later
"""What is counted while calls are served in two ways is what there is (`tests.support.accounting`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interposer.launch.guarantee import VARIABLE
from tests.support.accounting import mistakes
from tests.support.compiling import compile_program
from tests.support.users import PROJECT, User
from tests.support.world import Peer, World

ROUNDS = 20
STEPS = 400


def check(user: User, *command: str) -> None:
    """Run a command under a supervisor that checks its accounting."""
    command_line = [user.python, str(PROJECT / "tests" / "support" / "accounting.py")]
    outcome = user.run(["env", f"{VARIABLE}=kernel", *command_line, "run", "--", *command], seconds=120)
    told = [line for line in outcome.output.splitlines() if line.startswith("accounting: ")]
    assert (outcome.status, told) == (0, []), outcome.output[-4000:]
    looks = re.search(r"^accounting looked at (\d+) times$", outcome.output, re.MULTILINE)
    assert looks is not None and int(looks[1]) > 50, outcome.output[-4000:]


def test_a_conversation(user: User, open_folder: Path) -> None:
    check(user, str(compile_program("traffic", open_folder)), "mixed", "3", "4000")


def test_processes_that_are_killed_and_interrupted(user: User, open_folder: Path) -> None:
    """The fuzzer: threads, signals, calls that wait, and deaths."""
    program = compile_program("fuzz", open_folder)
    check(user, "sh", "-c", f"seq 1 {ROUNDS} | {program} 77 {STEPS}")


@pytest.fixture
def pair() -> tuple[Peer, Peer]:
    """Alice, who waits for a reply, and Bob, in whose queue more wait than are free."""
    world = World()
    alice, bob = world.connect(), world.connect()
    alice.request(bob, 1)
    for _ in range(20):
        alice.send(bob, b"payload")
    return alice, bob


def test_mistakes_are_seen(pair: tuple[Peer, Peer]) -> None:
    alice, bob = (peer.connection for peer in pair)
    requests = set(alice.replies)
    assert (list(mistakes(alice, requests, [])), list(mistakes(bob, set(), []))) == ([], [])
    alice.request_count += 1
    assert len(list(mistakes(alice, requests, []))) == 1
    alice.request_count -= 1
    entry = bob.queue.entries()[-1]
    assert entry.charge is not None and entry.payload is not None
    entry.charge.give_back()
    entry.payload.holders += 1
    bob.pool.busy += 8
    assert len(list(mistakes(bob, set(), []))) == 3
    bob.owed.clear()
    assert len(list(mistakes(alice, requests, []))) == 1
