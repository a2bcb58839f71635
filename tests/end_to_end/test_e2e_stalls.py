# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that does not come: the cases of `tests/programs/stalls.c`, end to end, and of the final revision."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.e2e import every_case, run_case, run_with_and_without_flows
from tests.support.users import User


@every_case("stalls")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("stalls", case, user, open_folder)


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_with_and_without_flows(user: User, open_folder: Path) -> None:
    run_with_and_without_flows("stalls", user, open_folder)


@every_case("stalls_final")
def test_final(user: User, case: str, open_folder: Path) -> None:
    run_case("stalls_final", case, user, open_folder)


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_final_with_and_without_flows(user: User, open_folder: Path) -> None:
    run_with_and_without_flows("stalls_final", user, open_folder)
