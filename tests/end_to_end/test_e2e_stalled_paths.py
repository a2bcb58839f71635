# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths and files that do not come: the cases of `tests/programs/stalled_paths.c`, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.e2e import every_case, run_all, run_case, run_with_and_without_flows
from tests.support.users import User


@every_case("stalled_paths")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("stalled_paths", case, user, open_folder)


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_with_and_without_flows(user: User, open_folder: Path) -> None:
    run_with_and_without_flows("stalled_paths", user, open_folder)


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_in_path_mode(user: User, open_folder: Path) -> None:
    run_all("stalled_paths", user, open_folder, options=["--mode", "path", "--no-preload"])
