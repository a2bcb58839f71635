# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus replay` of endpoints, policies and monitors (`tests/programs/guarded.py`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.compiling import PROGRAMS
from tests.support.users import Outcome, current_user, readable_folder

ASKED = "org.example.Door is mine\norg.example.Other is not for me\nwelcome\n"
SEEN = "hello to org.example.Keeper\nwelcome to whoever asked\n"


@dataclass(frozen=True)
class Recording:
    """Of a keeper, a watcher and a guest."""

    path: Path
    revision: str

    def program(self, role: str, *more: str) -> list[str]:
        bus = f"{os.geteuid()}-talk"
        return [current_user().python, str(PROGRAMS / "guarded.py"), role, self.revision, bus, *more]

    def replay(self, live: str, *more: str) -> Outcome:
        """Everybody is played but this one."""
        played = [word for role in ("keeper", "watcher", "guest") if role != live for word in ("--play", role)]
        user = current_user()
        return user.run(user.kdbus("replay", *played, str(self.path), "--", *self.program(live, *more)))


@pytest.fixture(scope="module", params=["3", "final"])
def recording(request: pytest.FixtureRequest) -> Iterator[Recording]:
    with readable_folder() as folder:
        found = Recording(folder / "talk", request.param)
        keeper, watcher, guest = (
            " ".join(found.program(*words)) for words in (("keeper", "own"), ("watcher",), ("guest",))
        )
        script = f"{keeper} | {{ read open; {watcher} | {{ read watching; {guest}; }}; }}"
        user = current_user()
        outcome = user.run(user.kdbus("record", "-o", str(found.path), "--linger", "--", "sh", "-c", script))
        assert outcome.status == 0
        assert sorted(outcome.output.splitlines()) == sorted((ASKED + SEEN).splitlines())
        yield found


def test_played_policies_hold(recording: Recording) -> None:
    """For a live guest, at a played endpoint, before a played monitor."""
    outcome = recording.replay("guest")
    assert outcome.status == 0, outcome.output
    *said, verdict = outcome.output.splitlines(keepends=True)
    assert "".join(said) == ASKED
    assert verdict.endswith("of it as recorded\n")


def test_a_live_keeper_is_the_same(recording: Recording) -> None:
    """Its bus, endpoint and policy holder are compared, and used by the played guest."""
    outcome = recording.replay("keeper", "own")
    assert outcome.status == 0, outcome.output
    assert outcome.output.startswith("open\n") and outcome.output.endswith("of it as recorded\n")


def test_another_policy_is_a_difference(recording: Recording) -> None:
    outcome = recording.replay("keeper", "talk")
    assert outcome.status == 1, outcome.output
    lines = outcome.output.splitlines()
    changed = [line for line in lines if line.startswith(("-", "+")) and "ACCESS_" in line.upper()]
    assert len(changed) == 2 and "OWN" in changed[0] and "TALK" in changed[1], outcome.output


def test_a_live_monitor_sees_what_is_played(recording: Recording) -> None:
    outcome = recording.replay("watcher")
    assert outcome.status == 0, outcome.output
    assert "".join(line for line in outcome.output.splitlines(keepends=True) if " to " in line) == SEEN
