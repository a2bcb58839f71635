# SPDX-License-Identifier: GPL-2.0-or-later
"""`--make-bus`: buses that exist before the program begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.users import User

_SHOW = "cd /sys/fs/kdbus && stat -c '%a %n' */bus"


@pytest.mark.parametrize("mode", ["mount", "path"])
def test_buses_are_there_from_the_start(user: User, mode: str) -> None:
    options = ["--mode", mode, "--make-bus", "system", "--make-bus=user", "--make-bus", "7-other"]
    outcome = user.run(user.kdbus("run", *options, "--", "sh", "-c", _SHOW), seconds=60)
    own = f"{user.run(['id', '-u']).output.strip()}-user/bus"
    assert outcome.status == 0
    assert sorted(outcome.output.splitlines()) == sorted(["666 0-system/bus", f"600 {own}", "600 7-other/bus"])


def test_a_program_connects_to_such_a_bus(user: User, open_folder: Path) -> None:
    """The client says HELLO, and then finds nobody of that id, which is its status 2."""
    client = open_folder / "client-alone"
    if not client.exists():
        compile_program("mixed-client", open_folder).rename(client)
    command = [str(client), "/sys/fs/kdbus/0-system/bus", "99"]
    assert user.run(user.kdbus("run", "--make-bus", "system", "--", *command), seconds=60).status == 2
    assert user.run(user.kdbus("run", "--make-bus", "other", "--", *command), seconds=60).status == 1


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "a"], "it was asked for twice"),
        (["a b"], "a name has letters, digits"),
        (["x" * 64], "more than 63 bytes"),
    ],
)
def test_a_name_that_cannot_be_is_told(user: User, names: list[str], reason: str) -> None:
    options = [word for name in names for word in ("--make-bus", name)]
    outcome = user.run(user.kdbus("run", *options, "--", "echo", "ran"), seconds=60)
    assert outcome.status == 125
    assert reason in outcome.output and "ran" not in outcome.output


def test_the_programs_end_and_errors_are_as_ever(user: User) -> None:
    assert user.run(user.kdbus("run", "--make-bus", "a", "--", "sh", "-c", "exit 3"), seconds=60).status == 3
    assert user.run(user.kdbus("run", "--make-bus", "a", "--", "/nonexistent"), seconds=60).status == 127


def test_buses_of_a_domain_are_its_servers(user: User) -> None:
    outcome = user.run(user.kdbus("run", "--domain", "/nowhere", "--make-bus", "a", "--", "true"), seconds=60)
    assert outcome.status == 125 and "give --make-bus to `kdbus serve`" in outcome.output
