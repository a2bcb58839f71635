# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases of C programs in `tests/programs`, each run under the real `kdbus run` as one test.

What a program of kdbus observes is best said by such a program. Those that include `e2e.h` are lists of cases; here
each case becomes a test, as root and as an ordinary user, or as root alone if it is a ROOT_CASE. The cases are found in
the source, so that collecting tests compiles nothing. What went wrong is said by the program: the place, and both
values of the comparison that failed.

All of a program's cases twice more, without flows (`kdbus run --no-flows`) and with flows from the first call on, are
one further test: the broker alone and the native side that serves hot calls must not differ. Another one runs them in
new namespaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.compiling import PROGRAMS, compile_program
from tests.support.users import User

_CASE = re.compile(r"^(ROOT_)?CASE\((\w+)\)", re.MULTILINE)
_SECONDS = 60

ANYWHERE = (
    "activator attach_flags bad_input descriptors endpoint identity match monitor names namespaces notification origin "
    "payload policy quota race readiness reply"
).split()
"""The programs that ask for nothing but a kdbus: all their cases are run, with and without flows, and in namespaces."""


def every_case(program: str) -> pytest.MarkDecorator:
    """Parametrizes a test with `user` and `case`: all cases of a program, for those who can run them."""
    pairs = _pairs(program)
    return pytest.mark.parametrize(("user", "case"), pairs, indirect=["user"], ids=[f"{c}-{u}" for u, c in pairs])


def every_case_of(programs: Sequence[str]) -> pytest.MarkDecorator:
    """Parametrizes a test with `program`, `user` and `case`: all cases of several programs."""
    found = [(program, user, case) for program in programs for user, case in _pairs(program)]
    names = [f"{program}-{case}-{user}" for program, user, case in found]
    return pytest.mark.parametrize(("program", "user", "case"), found, indirect=["user"], ids=names)


def run_case(program: str, case: str, user: User, folder: Path) -> None:
    """The test itself. `folder`, readable for `user`, holds the compiled programs, which are made when needed."""
    outcome = user.run(user.kdbus("run", "--", str(_compiled(program, folder)), case), seconds=_SECONDS)
    if outcome.status != 0 or f"ok 1 - {case}" not in outcome.output or "kdbus: " in outcome.output:
        pytest.fail(f"{program} {case} (as {user.name}), status {outcome.status}:\n{outcome.output}", pytrace=False)
    if skipped := re.search(r"^# skipped: (.*)$", outcome.output, re.MULTILINE):
        pytest.skip(skipped[1])


def run_with_and_without_flows(program: str, user: User, folder: Path) -> None:
    """All cases of a program, every call being served by the broker; and all of them, as many as possible natively."""
    run_all(program, user, folder, options=["--no-flows"])
    run_all(program, user.trusting, folder)


def run_all(
    program: str, user: User, folder: Path, *, options: Sequence[str] = (), through: Sequence[str] = ()
) -> None:
    """All cases that `user` can run, one after the other in one domain.

    `options`: of `kdbus run`; `through`: another program and its arguments that then executes this one.
    """
    command = user.kdbus("run", *options, "--", *through, str(_compiled(program, folder)), *_cases(program, user.name))
    outcome = user.run(command, seconds=_SECONDS)
    if outcome.status != 0 or "not ok" in outcome.output or "kdbus: " in outcome.output:
        pytest.fail(f"{program} (as {user.name}), status {outcome.status}:\n{outcome.output}", pytrace=False)


def cases_of(program: str, user: str = "ordinary") -> list[str]:
    """All cases of a program that need no privileges; for `root`, all."""
    return _cases(program, user)


def _pairs(program: str) -> list[tuple[str, str]]:
    """Who runs which case of a program."""
    pairs = [(user, case) for case in _cases(program, "root") for user in ("root", "ordinary")]
    return [(user, case) for user, case in pairs if case in _cases(program, user)]


def _cases(program: str, user: str) -> list[str]:
    """The cases that root or somebody else can run, in the order of the source."""
    found = _CASE.findall((PROGRAMS / f"{program}.c").read_text())
    return [case for needs_root, case in found if user == "root" or not needs_root]


def _compiled(program: str, folder: Path) -> Path:
    target = folder / program
    return target if target.exists() else compile_program(program, folder, "-O2")
