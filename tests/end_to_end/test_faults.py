# SPDX-License-Identifier: GPL-2.0-or-later
"""Real programs meet faults on purpose: the cases of `tests/programs/faults.c`, each with its `--inject`.

What is to be injected stands above each case in the source.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.compiling import PROGRAMS, compile_program
from tests.support.users import Outcome, User

_SOURCE = (PROGRAMS / "faults.c").read_text()
FAULTS = {case: fault for fault, case in re.findall(r"^/\* (\S+) \*/\nCASE\((\w+)\)", _SOURCE, re.MULTILINE)}


@pytest.fixture
def program(open_folder: Path) -> Path:
    target = open_folder / "faults"
    return target if target.exists() else compile_program("faults", open_folder)


def run(user: User, *words: str, subcommand: str = "run") -> Outcome:
    return user.run(user.kdbus(subcommand, *words))


def test_each_case_has_its_fault() -> None:
    assert sorted(FAULTS) == sorted(re.findall(r"^CASE\((\w+)\)", _SOURCE, re.MULTILINE))


@pytest.mark.parametrize("case", FAULTS)
def test_fault(case: str, user: User, program: Path) -> None:
    outcome = run(user, "--inject", FAULTS[case], "--", str(program), case)
    assert (outcome.status, outcome.output) == (0, f"ok 1 - {case}\n1..1\n"), outcome.output


@pytest.mark.parametrize("case", FAULTS)
def test_without_the_fault_the_case_fails(case: str, user: User, program: Path) -> None:
    outcome = run(user, "--", str(program), case)
    assert outcome.status == 1 and f"not ok 1 - {case}" in outcome.output


@pytest.mark.parametrize("guarantee", ["held", "remembered"])
def test_on_kernels_that_promise_less(guarantee: str, user: User, program: Path) -> None:
    for case, fault in FAULTS.items():
        command = user.kdbus("run", "--inject", fault, "--", str(program), case)
        outcome = user.run(["env", f"KDBUS_EXACTLY_ONCE={guarantee}", *command])
        assert outcome.status == 0, outcome.output


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("every_fourth_send_fails", "= -1 ENOBUFS (injected: SEND:errno=ENOBUFS:every=4)"),
        ("a_call_is_late", "# delayed: RECV:delay=200ms:first=1"),
        ("a_broadcast_is_lost", "# a broadcast was lost: RECV:lost:when=2"),
        ("descriptors_are_missing", "# no descriptor could be installed: RECV:incomplete:when=2"),
        ("a_service_dies_of_a_request", "# the process is killed: RECV:die:name=org.example.Service"),
    ],
)
def test_a_trace_shows_what_was_injected(case: str, part: str, user: User, program: Path) -> None:
    outcome = run(user, "--inject", FAULTS[case], "--", str(program), case, subcommand="trace")
    assert outcome.status == 0 and part in outcome.output, outcome.output


def test_several_faults(user: User, program: Path) -> None:
    faults = ["--inject", FAULTS["every_fourth_send_fails"], "--inject", "SEND:delay=1ms"]
    outcome = run(user, *faults, "--", str(program), "every_fourth_send_fails")
    assert outcome.status == 0, outcome.output


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("SEDN:errno=EIO", "there is no command 'SEDN'; did you mean SEND? there are BUS_MAKE, "),
        ("SEND:errno=ENOBUF", "there is no errno 'ENOBUF'; did you mean ENOBUFS?"),
        ("SEND:lots", "there is no word 'lots'; did you mean lost? there are errno, lost, "),
        ("SEND", "does not say what shall happen; there are errno, lost, incomplete, die, delay"),
    ],
)
def test_what_cannot_be_injected(fault: str, part: str, user: User) -> None:
    outcome = run(user, "--inject", fault, "--", "/bin/true")
    assert outcome.status == 125 and part in outcome.output and len(outcome.output.splitlines()) == 1


def test_not_into_what_another_serves(user: User) -> None:
    inner = user.kdbus("run", "--inject", "SEND:errno=EIO", "--", "/bin/true")
    outcome = run(user, "--mode", "path", "--", *inner)
    assert outcome.status == 125 and "give the options to that one" in outcome.output
