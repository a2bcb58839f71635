# SPDX-License-Identifier: GPL-2.0-or-later
"""`--revision`, and programs of revisions that have to be named."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.e2e import cases_of
from tests.support.users import User


def compiled(name: str, folder: Path) -> Path:
    """The program, compiled once."""
    program = folder / name
    return program if program.exists() else compile_program(name, folder)


@pytest.mark.parametrize("case", cases_of("snapshot219"))
def test_a_program_for_systemd_219(user: User, open_folder: Path, case: str) -> None:
    program = str(compiled("snapshot219", open_folder))
    outcome = user.run(user.kdbus("run", "--statistics", "--revision", "219", "--", program, case), seconds=60)
    assert outcome.status == 0 and "kdbus: revisions spoken: 219\n" in outcome.output, outcome.output


@pytest.mark.parametrize("forced", [(), ("--revision", "2")], ids=["recognised", "named"])
@pytest.mark.parametrize("case", cases_of("version2"))
def test_a_program_of_version_2(user: User, open_folder: Path, case: str, forced: tuple[str, ...]) -> None:
    program = str(compiled("version2", open_folder))
    outcome = user.run(user.kdbus("run", "--statistics", *forced, "--", program, case), seconds=60)
    assert outcome.status == 0 and "kdbus: revisions spoken: 2\n" in outcome.output, outcome.output


@pytest.mark.parametrize(
    ("service", "client", "answer"),
    [
        ("mixed-service", "mixed-client-2", "HELLO FROM VERSION 2"),
        ("mixed-service-2", "mixed-client-2", "HELLO FROM VERSION 2"),
        ("mixed-service-2", "mixed-client", "HELLO FROM FINAL"),
    ],
)
def test_version_2_on_one_bus_with_others(
    user: User, open_folder: Path, service: str, client: str, answer: str
) -> None:
    programs = [str(compiled(name, open_folder)) for name in (service, client)]
    serving = replace(user, environment={**user.environment, "CLIENT": programs[1]})
    outcome = serving.run(serving.kdbus("run", "--", programs[0]), seconds=60)
    assert (outcome.status, outcome.output) == (0, f"client: {answer}\nok 1 - serves_another_revision\n1..1\n")


@pytest.mark.parametrize("client", ["mixed-client-2", "mixed-client"])
def test_many_calls_of_version_2_and_others(user: User, open_folder: Path, client: str) -> None:
    """Most of them are served natively: four hot calls for each of the 200, once the two are known."""
    programs = [str(compiled(name, open_folder)) for name in ("mixed-service-2", client)]
    user = user.trusting
    serving = replace(user, environment={**user.environment, "CLIENT": programs[1], "CALLS": "200"})
    outcome = serving.run(serving.kdbus("run", "--statistics", "--", programs[0]), seconds=60)
    assert outcome.status == 0 and "ok 1 - serves_another_revision" in outcome.output, outcome.output
    found = re.search(r"(\d+) natively", outcome.output)
    assert found is not None and int(found[1]) > 200, outcome.output


def test_a_trace_of_version_2(user: User, open_folder: Path) -> None:
    """Where a message is its own command, and results have no sizes."""
    program = str(compiled("version2", open_folder))
    cases = ("another_thread_cancels_a_call", "a_call_is_answered")
    outcome = user.run(user.kdbus("trace", "--", program, *cases), seconds=60)
    assert outcome.status == 0, outcome.output
    for said in (
        "{flags=KDBUS_MSG_EXPECT_REPLY|KDBUS_MSG_SYNC_REPLY, dst_id=2,",
        ", cookie_reply=7, ",
        '"answer\\0") = 0',
        "-1 ECANCELED (MSG_CANCEL ended the call with cookie 7)",
        "CANCEL(",
    ):
        assert said in outcome.output, (said, outcome.output)


@pytest.mark.parametrize("revision", ["2", "3", "219"])
def test_nothing_else_is_spoken(user: User, open_folder: Path, revision: str) -> None:
    program = str(compiled("final", open_folder))
    outcome = user.run(user.kdbus("run", "--revision", revision, "--", program, "message"), seconds=60)
    assert outcome.status == 1, outcome.output


@pytest.mark.parametrize("revision", ["4", "final"])
def test_version_4_is_served_as_the_final_revision(user: User, open_folder: Path, revision: str) -> None:
    program = str(compiled("final", open_folder))
    outcome = user.run(user.kdbus("run", "--revision", revision, "--", program, "message"), seconds=60)
    assert outcome.status == 0, outcome.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--revision", "5"), "there is no revision '5'"),
        (("--revision=3", "--domain", "/nowhere"), "give --revision to `kdbus serve`"),
    ],
)
def test_what_cannot_be_spoken(user: User, options: tuple[str, ...], said: str) -> None:
    outcome = user.run(user.kdbus("run", *options, "--", "true"), seconds=60)
    assert outcome.status == 125 and said in outcome.output
