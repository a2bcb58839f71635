# SPDX-License-Identifier: GPL-2.0-or-later
"""Receivers that serve themselves: a program cannot tell, and nobody can harm others by it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.test_flows import STEPS
from tests.support.compiling import compile_program
from tests.support.e2e import cases_of, run_all
from tests.support.users import PROJECT, User

SEEDS = (3, 15)
_STATISTICS = re.compile(r"kdbus: \d+ calls served by .*\n|kdbus: revisions spoken: .*\n")
_THEMSELVES = re.compile(r"kdbus: (\d+) calls served by receivers themselves\n")
_CASES = [case for case in cases_of("self_serve") if case != "after_exec"]


def _program(name: str, folder: Path) -> Path:
    program = folder / name
    return program if program.exists() else compile_program(name, folder, "-O2", f"-I{PROJECT / 'native'}")


def _run(user: User, *command: str, options: tuple[str, ...] = ("--self-serve",)) -> tuple[str, int]:
    """What the program told, and how many calls were served by receivers."""
    outcome = user.trusting.run(user.kdbus("run", "--statistics", *options, "--", *command), seconds=60)
    assert outcome.status == 0, outcome.output
    found = _THEMSELVES.search(outcome.output)
    output = _STATISTICS.sub("", outcome.output)
    assert "not ok" not in output and "kdbus: " not in output, outcome.output
    return output, int(found[1]) if found else 0


def test_nobody_can_tell(user: User, open_folder: Path) -> None:
    _, themselves = _run(user, str(_program("self_serve", open_folder)), *_CASES)
    assert themselves > 0


@pytest.mark.parametrize("options", [["--no-flows"], ["--self-serve", "--no-self-serve"]])
def test_the_same_cases_without(user: User, options: list[str], open_folder: Path) -> None:
    output, themselves = _run(user, str(_program("self_serve", open_folder)), *_CASES, options=tuple(options))
    assert themselves == 0
    assert output.count("\nok ") + output.startswith("ok ") >= len(_CASES)


def test_in_path_mode(user: User, open_folder: Path) -> None:
    program = str(_program("self_serve", open_folder))
    _, themselves = _run(user, program, *_CASES, options=("--self-serve", "--mode", "path"))
    assert themselves > 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arguments", [(), ("metadata",)], ids=["plain", "metadata"])
@pytest.mark.parametrize("revision", ["final", "mixed"])
def test_every_byte_is_the_same(
    user: User, open_folder: Path, revision: str, seed: int, arguments: tuple[str, ...]
) -> None:
    conversation = str(_program("traffic", open_folder)), revision, str(seed), str(STEPS), *arguments
    by_itself, themselves = _run(user, *conversation)
    by_broker, none = _run(user, *conversation, options=("--no-flows",))
    assert by_itself.splitlines() == by_broker.splitlines()
    assert themselves > 0 and none == 0


def test_other_programs_of_that_revision(user: User, open_folder: Path) -> None:
    run_all("final", user.trusting, open_folder, options=["--self-serve"])


def test_the_hostile_harm_themselves(user: User, open_folder: Path) -> None:
    cases = cases_of("shelf_hostile")
    output, themselves = _run(user, str(_program("shelf_hostile", open_folder)), *cases)
    assert output.count("ok ") == len(cases)
    assert themselves > 0


def test_who_watches_sees_every_call(user: User, open_folder: Path) -> None:
    program = str(_program("self_serve", open_folder))
    command = user.kdbus("run", "--statistics", "--self-serve", "--trace", "--", program, "quota_and_pool")
    outcome = user.trusting.run(command, seconds=60)
    assert outcome.status == 0, outcome.output
    assert len(re.findall(r" SEND\(|\bSEND\b", outcome.output)) > 60
    assert len(re.findall(r"\bRECV\b", outcome.output)) > 60
    assert "kdbus: 0 calls served by receivers themselves" in outcome.output
    assert "95f0" not in outcome.output.lower()


def test_who_traces_sees_every_call(user: User, open_folder: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    strace = ["strace", "-f", "-e", "trace=ioctl", "-e", "signal=none"]
    program = str(_program("self_serve", open_folder))
    command = user.kdbus("run", "--statistics", "--self-serve", "--", *strace, program, "quota_and_pool")
    outcome = user.trusting.run(command, seconds=60)
    assert outcome.status == 0, outcome.output
    assert len(re.findall(r"ioctl\(.*, 0x91, 0x40\)", outcome.output)) > 60, "RECV"
    assert "kdbus: 0 calls served by receivers themselves" in outcome.output
