# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile targets: the cases of `tests/programs/hostile.c`, end to end. Each says what it attacks, and that others are
still served.

The number of processes that die at random moments is small here; `HOSTILE_KILLS=1000 pytest tests/test_hostile.py -k
killed` takes more.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.compiling import compile_program
from tests.e2e import every_case, run_case, run_without_flows
from tests.users import User


@every_case("hostile")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("hostile", case, user, open_folder)


def test_without_flows(user: User, open_folder: Path) -> None:
    run_without_flows("hostile", user, open_folder)


def test_pipes_in_the_private_folder_of_path_mode(user: User, open_folder: Path) -> None:
    """The folder belongs to the user whose programs look into it; the supervisor opens what it has put there itself."""
    if "KDBUS_MODE" in os.environ:
        pytest.skip("the mode is chosen already")
    program = compile_program("hostile_folder", open_folder, "-O2")
    outcome = user.run(user.kdbus("run", "--mode", "path", "--", str(program)), seconds=20)
    assert (outcome.status, outcome.output) == (0, "served\n"), outcome.output
