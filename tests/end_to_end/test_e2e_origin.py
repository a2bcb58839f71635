# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata that are repeated, and when they may not be: the cases of `tests/programs/origin.c`, end to end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.e2e import every_case, run_case, run_with_and_without_flows
from tests.support.users import User

_STATISTICS = re.compile(r"kdbus: (\d+) calls served by the broker, (\d+) natively\n(?:kdbus: revisions spoken: .*\n)?")


@every_case("origin")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("origin", case, user, open_folder)


def test_with_and_without_flows(user: User, open_folder: Path) -> None:
    run_with_and_without_flows("origin", user, open_folder)


@pytest.mark.parametrize("case", ["times_are_told_in_order", "permission_is_for_who_sends"])
def test_what_stays_the_same_is_served_natively(user: User, case: str, open_folder: Path) -> None:
    """Otherwise the cases would prove nothing."""
    if user.name != "root" and case == "permission_is_for_who_sends":
        pytest.skip("needs several users")
    program = compile_program("origin", open_folder, "-O2")
    outcome = user.trusting.run(user.kdbus("run", "--statistics", "--", str(program), case))
    found = _STATISTICS.search(outcome.output)
    assert outcome.status == 0 and found is not None, outcome.output
    assert int(found[2]) > int(found[1]), outcome.output
