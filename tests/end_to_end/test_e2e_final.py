# SPDX-License-Identifier: GPL-2.0-or-later
"""The final revision: the cases of `tests/programs/final.c`, end to end, and peers of two revisions on one bus."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.e2e import every_case, run_all, run_case
from tests.support.users import User


@every_case("final")
def test_case(user: User, case: str, open_folder: Path) -> None:
    run_case("final", case, user, open_folder)


def test_without_flows(user: User, open_folder: Path) -> None:
    run_all("final", user, open_folder, options=["--no-flows"])


def test_statistics_name_the_revisions(user: User, open_folder: Path) -> None:
    program = open_folder / "final"
    if not program.exists():
        compile_program("final", open_folder, "-O2")
    outcome = user.run(user.kdbus("run", "--statistics", "--", str(program), "message"), seconds=60)
    assert "kdbus: revisions spoken: final\n" in outcome.output


@pytest.mark.parametrize(
    "case",
    [
        "synchronous_calls",
        "synchronous_calls_with_metadata",
        "synchronous_calls_without_descriptors",
        "signals_to_many",
        "signals_to_many_with_metadata",
    ],
)
def test_most_calls_are_served_natively(user: User, open_folder: Path, case: str) -> None:
    program = open_folder / "final"
    if not program.exists():
        compile_program("final", open_folder, "-O2")
    outcome = user.trusting.run(user.kdbus("run", "--statistics", "--", str(program), case), seconds=60)
    found = re.search(r"kdbus: (\d+) calls served by the broker, (\d+) natively", outcome.output)
    assert outcome.status == 0 and found is not None, outcome.output
    assert int(found[2]) > 30, outcome.output


def test_in_path_mode(user: User, open_folder: Path) -> None:
    run_all("final", user, open_folder, options=["--mode", "path"])


def test_a_service_of_version_3_with_a_client_of_the_final_revision(user: User, open_folder: Path) -> None:
    service = open_folder / "mixed-service"
    client = open_folder / "mixed-client"
    for program in (service, client):
        if not program.exists():
            compile_program(program.name, open_folder)
    serving = replace(user, environment={**user.environment, "CLIENT": str(client)})
    outcome = serving.run(serving.kdbus("run", "--", str(service)), seconds=60)
    assert (outcome.status, outcome.output) == (0, "client: HELLO FROM FINAL\nok 1 - serves_another_revision\n1..1\n")
