# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs of kdbus observe, end to end: the cases of those that ask for nothing but a kdbus.

What each program is about stands at its top, in `tests/programs`. Those that need more, as another revision or memory
that does not come, have files of their own beside this one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.e2e import ANYWHERE, every_case_of, run_case, run_with_and_without_flows
from tests.support.users import User


@every_case_of(ANYWHERE)
def test_case(program: str, user: User, case: str, open_folder: Path) -> None:
    run_case(program, case, user, open_folder)


@pytest.mark.parametrize("program", ANYWHERE)
def test_with_and_without_flows(program: str, user: User, open_folder: Path) -> None:
    run_with_and_without_flows(program, user, open_folder)
