# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata that are repeated are served natively, in the cases of `tests/programs/origin.c` (`test_e2e`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.users import User

_STATISTICS = re.compile(r"kdbus: (\d+) calls served by the broker, (\d+) natively\n(?:kdbus: revisions spoken: .*\n)?")


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
