# SPDX-License-Identifier: GPL-2.0-or-later
"""32-bit x86 programs on an x86-64 machine: the same cases as for 64 bits, built with -m32, and some of their own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.users import User


@pytest.fixture(scope="module")
def folder(open_folder: Path) -> Path:
    """Where the programs are built; skips where they cannot be built or run."""
    if os.uname().machine != "x86_64":
        pytest.skip("this is about x86-64 machines")
    folder = open_folder / "i386"
    folder.mkdir(mode=0o755, exist_ok=True)
    probe = folder / "probe"
    command = ["gcc", "-m32", "-x", "c", "-", "-o", str(probe)]
    try:
        subprocess.run(command, input=b"int main(void) { return 0; }", check=True, capture_output=True)
        subprocess.run([probe], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"32-bit programs cannot be built or run here (apt-get install gcc-multilib): {error}")
    return folder


@pytest.mark.parametrize("program", ["i386", "lifetimes", "trees", "traced"])
def test_program(user: User, folder: Path, program: str) -> None:
    target = folder / program
    if not target.exists():
        compile_program(program, folder, "-O2", "-m32")
    outcome = user.run(user.kdbus("run", "--", str(target)))
    counted = len(re.findall(r"^ok ", outcome.output, re.MULTILINE))
    if outcome.status != 0 or counted < 3 or "not ok" in outcome.output or "kdbus: " in outcome.output:
        pytest.fail(f"{program} (as {user.name}), status {outcome.status}:\n{outcome.output}", pytrace=False)


def test_mapping_under_strace(user: User, folder: Path) -> None:
    target = folder / "traced"
    if not target.exists():
        compile_program("traced", folder, "-O2", "-m32")
    outcome = user.run(user.kdbus("run", "--", "strace", "-f", "-o", "/dev/null", str(target)))
    if outcome.status == 127:
        pytest.skip("needs strace: apt-get install strace")
    assert outcome.status == 0 and "not ok" not in outcome.output, outcome.output
