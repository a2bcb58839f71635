# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages to well-known names: the cases of `tests/programs/names.c`, end to end."""

from __future__ import annotations

from pathlib import Path

from tests.support.e2e import every_case, run_case, run_with_and_without_flows
from tests.support.users import User


@every_case("names")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("names", case, user, open_folder)


def test_with_and_without_flows(user: User, open_folder: Path) -> None:
    run_with_and_without_flows("names", user, open_folder)
