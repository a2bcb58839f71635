# SPDX-License-Identifier: GPL-2.0-or-later
"""poll, epoll and select on connections: the cases of `tests/programs/readiness.c`, end to end."""

from __future__ import annotations

from pathlib import Path

from tests.support.e2e import every_case, run_case, run_with_and_without_flows
from tests.support.users import User


@every_case("readiness")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("readiness", case, user, open_folder)


def test_with_and_without_flows(user: User, open_folder: Path) -> None:
    run_with_and_without_flows("readiness", user, open_folder)
