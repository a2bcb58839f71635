# SPDX-License-Identifier: GPL-2.0-or-later
"""Trees of processes: the cases of `tests/programs/trees.c`, end to end, and programs with the set-user-ID bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.e2e import every_case, run_case, run_with_and_without_flows
from tests.support.users import UNPRIVILEGED_ID, User, current_user


@every_case("trees")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("trees", case, user, open_folder)


def test_with_and_without_flows(user: User, open_folder: Path) -> None:
    run_with_and_without_flows("trees", user, open_folder)


@pytest.fixture
def set_user_id_program(open_folder: Path) -> Path:
    """`trees`, owned by root, with the set-user-ID bit."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a program that becomes root")
    folder = open_folder / "set-user-id"
    folder.mkdir(mode=0o755, exist_ok=True)
    if os.statvfs(folder).f_flag & os.ST_NOSUID:
        pytest.skip(f"set-user-ID programs have no effect in {folder}")
    program = compile_program("trees", folder, "-O2")
    program.chmod(0o4755)
    return program


def test_a_set_user_id_program_started_by_root(set_user_id_program: Path) -> None:
    """`kdbus run` by root leaves the bit its effect, for whomever the program has become."""
    root = current_user()
    number = str(UNPRIVILEGED_ID)
    become = ["setpriv", "--reuid", number, "--regid", number, "--clear-groups"]
    outcome = root.run(root.kdbus("run", "--", *become, str(set_user_id_program), "part_say_who"))
    assert (outcome.status, outcome.output.splitlines()[0]) == (0, f"uid {number}, euid 0"), outcome.output


def test_a_set_user_id_program_started_by_an_ordinary_user(ordinary_user: User, set_user_id_program: Path) -> None:
    """Without privileges there is a user namespace, in which no other user exists; the program runs as its starter."""
    outcome = ordinary_user.run(ordinary_user.kdbus("run", "--", str(set_user_id_program), "part_say_who"))
    expected = f"uid {UNPRIVILEGED_ID}, euid {UNPRIVILEGED_ID}"
    assert (outcome.status, outcome.output.splitlines()[0]) == (0, expected), outcome.output
