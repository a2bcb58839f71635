# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains by mount, end to end: `tests/programs/mounts.c` under `kdbus run`, case by case.

A case is a function of the program and says there what it checks. An ordinary user is given a user namespace by the
program; the cases that need a real root are left out for that user.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.users import PROJECT, User

SOURCE = PROJECT / "tests" / "programs" / "mounts.c"
CASES = re.findall(r"^(ROOT_)?CASE\((\w+)\)", SOURCE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def program(open_folder: Path) -> Path:
    """The compiled program, readable for every user."""
    target = open_folder / "mounts"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{PROJECT}/interposer/include/3"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", str(target), str(SOURCE)], check=True)
    target.chmod(0o755)
    return target


@pytest.mark.parametrize(("needs_root", "name"), CASES, ids=[name for _, name in CASES])
def test_case(user: User, program: Path, needs_root: str, name: str) -> None:
    if needs_root and user.name != "root":
        pytest.skip("only root may do what this case does")
    outcome = user.run(user.kdbus("run", "--", str(program), name))
    assert (outcome.status, outcome.output) == (0, f"ok 1 - {name}\n1..1\n")


def test_mounts_are_gone_with_the_program(user: User, program: Path) -> None:
    """No mount of the program's appears outside of it, nor stays behind."""
    before = Path("/proc/self/mountinfo").read_text()
    outcome = user.run(user.kdbus("run", "--", str(program), "domains_are_separate"))
    assert outcome.status == 0, outcome.output
    assert Path("/proc/self/mountinfo").read_text() == before
