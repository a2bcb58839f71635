# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are traced already, by strace or gdb: the cases of `tests/programs/traced.c`, end to end.

A tracer may be part of what `kdbus run` starts, or may have started `kdbus run` and trace all of it. In neither case
can the supervisor seize a thread, so pools are mapped by a detour (`interposer.handles.detour`).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.compiling import PROGRAMS, compile_program
from tests.support.e2e import every_case, run_case
from tests.support.users import User

CASES = re.findall(r"^CASE\((\w+)\)", (PROGRAMS / "traced.c").read_text(), re.MULTILINE)
STRACE = ["strace", "-f", "-o", "/dev/null"]
GDB = ["gdb", "-nx", "-batch", "-ex", "set follow-fork-mode child", "-ex", "run", "--args"]


@pytest.fixture
def program(open_folder: Path) -> Path:
    target = open_folder / "traced"
    return target if target.exists() else compile_program("traced", open_folder, "-O2")


def needs(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}: apt-get install {name}")


def run(user: User, command: list[str], cases: list[str]) -> None:
    outcome = user.run(command)
    failed = outcome.status != 0 or "kdbus: " in outcome.output
    if failed or not all(re.search(rf"^ok \d+ - {case}$", outcome.output, re.MULTILINE) for case in cases):
        pytest.fail(f"as {user.name}, status {outcome.status}:\n{outcome.output}", pytrace=False)


@every_case("traced")
def test_nobody_traces(user: User, case: str, open_folder: Path) -> None:
    run_case("traced", case, user, open_folder)


def test_strace_inside(user: User, program: Path) -> None:
    needs("strace")
    run(user, user.kdbus("run", "--", *STRACE, str(program)), CASES)


def test_strace_outside(user: User, program: Path) -> None:
    needs("strace")
    run(user, [*STRACE, *user.kdbus("run", "--", str(program))], CASES)


@pytest.mark.parametrize("case", ["the_pool_is_read_and_the_handle_polls", "duplicated_right_after_mapping"])
def test_gdb_inside(user: User, program: Path, case: str) -> None:
    """gdb follows the one child, which runs the case."""
    needs("gdb")
    run(user, user.kdbus("run", "--", *GDB, str(program), case), [case])
