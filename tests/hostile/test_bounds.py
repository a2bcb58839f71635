# SPDX-License-Identifier: GPL-2.0-or-later
"""What targets can make the supervisor hold is bounded, and what is given back can be had again.

The limits themselves are made small, by RLIMIT_NOFILE and by a budget of little memory, so that reaching them is quick.
The cases are in `tests/programs/bounds.c`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from broker import bounds
from interposer.launch.guarantee import VARIABLE
from interposer.target.budget import MEMORY_STEP, Budget, Budgets, OverBudget
from tests.support.compiling import compile_program
from tests.support.users import PROJECT, User

_FEW = 400
"""Descriptors."""
_LITTLE_MEMORY = (
    "import sys, interposer.target.budget as budget; budget._memory = lambda: 64 << 20;"
    "from interposer.command_line import main; sys.exit(main())"
)


_TOLD = re.compile(r"kdbus: serving a call to kdbus: user \d+ has its share of open files; .*; this is told once\n")


def _run(user: User, command: list[str], case: str, *, told: int) -> None:
    """`told`: in how many lines the supervisor says that something has run out."""
    outcome = user.run(command, seconds=60)
    output, lines = _TOLD.subn("", outcome.output)
    assert (outcome.status, output) == (0, f"ok 1 - {case}\n1..1\n"), outcome.output
    assert lines == told, outcome.output


@pytest.mark.parametrize("case", ["opens", "dead", "files"])
def test_descriptors(user: User, case: str, open_folder: Path) -> None:
    """Neither opens without HELLO, nor dead connections, nor files under way can take all descriptors."""
    program = compile_program("bounds", open_folder, "-O2")
    limited = ["prlimit", f"--nofile={_FEW}:{_FEW}", *user.kdbus("run", "--", str(program), case)]
    _run(user, limited, case, told=1)


@pytest.mark.parametrize("options", [[], ["--no-flows"]])
def test_memfds_under_way(user: User, options: list[str], open_folder: Path) -> None:
    """Memfds in messages count as their senders', whoever serves the calls."""
    program = compile_program("bounds", open_folder, "-O2")
    run = user.kdbus("run", *options, "--", str(program), "memfds")
    limited = ["env", f"{VARIABLE}=kernel", "prlimit", f"--nofile={_FEW}:{_FEW}", *run]
    _run(user, limited, "memfds", told=1)


def test_connections_take_less_than_their_number_and_a_half(user: User, open_folder: Path) -> None:
    """The descriptors of pools do not count, and handles share what proves that they are themselves."""
    program = compile_program("bounds", open_folder, "-O2")
    run = user.kdbus("run", "--", str(program), "connections")
    _run(user, ["prlimit", "--nofile=1024:1024", *run], "connections", told=0)


def test_users_share_descriptors(user: User, open_folder: Path) -> None:
    """A user who takes everything leaves a third to others."""
    if os.geteuid() != 0 or user.identity is not None:
        pytest.skip("needs several users")
    program = compile_program("bounds", open_folder, "-O2")
    _run(user, ["prlimit", f"--nofile={_FEW}:{_FEW}", *user.kdbus("run", "--", str(program), "users")], "users", told=1)


@pytest.mark.parametrize("options", [[], ["--no-flows"]])
def test_memory_in_pools(user: User, options: list[str], open_folder: Path) -> None:
    """Pools that are filled and never read stop at the budget, whoever serves the calls; others go on."""
    program = compile_program("bounds", open_folder, "-O2")
    command = [user.python, "-c", _LITTLE_MEMORY, "run", *options, "--", str(program), "memory"]
    _run(user, command, "memory", told=0)


def test_mounted_domains(user: User, open_folder: Path) -> None:
    if os.geteuid() != 0 or user.identity is not None:
        pytest.skip("only root may mount")
    program = compile_program("bounds", open_folder, "-O2")
    _run(user, user.kdbus("run", "--", str(program), "mounts"), "mounts", told=0)


def test_half_of_what_the_others_leave() -> None:
    budget = Budget(100, "something")
    first = budget.charge(1, 50)
    with pytest.raises(OverBudget):
        first.add(1)
    with pytest.raises(OverBudget):
        first.again()
    assert [budget.left(user) for user in (1, 2)] == [0, 25]
    second = budget.charge(2, 25)
    with pytest.raises(OverBudget):
        budget.charge(2, 1)
    third = budget.charge(3, 12)
    # Those who have come before cannot grow at the cost of those who came later.
    with pytest.raises(OverBudget):
        budget.charge(1, 1)
    for charge in (first, second, third, first):
        charge.give_back()
    assert [budget.used_by(user) for user in (1, 2, 3)] == [0, 0, 0]
    budget.charge(3, 25).again()
    assert budget.left(3) == 0


def test_other_shares_than_a_half() -> None:
    budget = Budget(100, "something", (2, 3))
    assert budget.left(1) == 66
    budget.charge(1, 66)
    with pytest.raises(OverBudget):
        budget.charge(1, 1)
    assert budget.left(2) == 22
    budget.charge(2, 22)
    with pytest.raises(OverBudget):
        budget.charge(2, 1)


def test_a_pool_gives_everything_back() -> None:
    budgets = Budgets()
    pool = budgets.new_pool(1, b"pool", 4 * MEMORY_STEP)
    assert budgets.address_space.used_by(1) == 4 * MEMORY_STEP
    assert (budgets.memory.used_by(1), pool.usable) == (0, 0)
    assert pool.reserve(1) and pool.usable == MEMORY_STEP
    assert pool.reserve(MEMORY_STEP + 1) and budgets.memory.used_by(1) == 2 * MEMORY_STEP
    pool.close()
    pool.close()
    used = [budget.used_by(1) for budget in (budgets.memory, budgets.address_space, budgets.descriptors)]
    assert used == [0, 0, 0]


def test_a_pool_that_is_over_the_budget_costs_nothing() -> None:
    budgets = Budgets()
    with pytest.raises(OverBudget):
        budgets.new_pool(1, b"pool", budgets.address_space.total)
    assert budgets.descriptors.used_by(1) == 0
    budgets.memory = Budget(2 * MEMORY_STEP, "memory")
    pool = budgets.new_pool(1, b"pool", 4 * MEMORY_STEP)
    assert pool.reserve(MEMORY_STEP) and not pool.reserve(MEMORY_STEP + 1)
    pool.close()


def test_the_table_of_the_documentation_is_that_of_the_code() -> None:
    """Every bound of ours is in docs/limits.md, with its value."""
    text = (PROJECT / "docs" / "limits.md").read_text()
    for name, value in vars(bounds).items():
        if name.isupper():
            found = re.search(rf"^\|[^|]*\| ([^|]*) \|[^|]*\|[^|]*`broker/bounds.py`: `{name}`", text, re.MULTILINE)
            assert found, f"{name} is not in docs/limits.md"
            assert found[1].replace(" KiB", "") == str(value if value < 65536 else value >> 10), name
