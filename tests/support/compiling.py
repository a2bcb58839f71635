# SPDX-License-Identifier: GPL-2.0-or-later
"""The C programs in `tests/programs`, compiled like a user's: with the project's header, all warnings being errors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.users import PROJECT

PROGRAMS = PROJECT / "tests" / "programs"

WRITTEN_FOR = {
    "final": "final",
    "mixed-client": "final",
    "mixed-client-2": "2",
    "mixed-service-2": "2",
    "self_serve": "final",
    "shelf_hostile": "final",
    "snapshot219": "219",
    "stalls_final": "final",
    "trouble-final": "final",
    "version2": "2",
}
"""The revision of the kdbus API that a program is written for, if it is not version 3."""


def compile_program(name: str, folder: Path, *flags: str, revision: str | None = None) -> Path:
    """Compile `tests/programs/NAME.c` into `folder`, readable for everybody; skips the test without a compiler.

    `revision`: for that one, as NAME-REVISION; None: for the one that it is written for, as NAME.
    """
    if shutil.which("gcc") is None:
        pytest.skip("needs a compiler: apt-get install gcc")
    program = folder / (name if revision is None else f"{name}-{revision}")
    include = PROJECT / "interposer" / "include" / (revision or WRITTEN_FOR.get(name, "3"))
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{include}", *flags]
    subprocess.run([*command, str(PROGRAMS / f"{name}.c"), "-o", str(program), "-pthread"], check=True)
    program.chmod(0o755)
    return program


def with_dbus_programs(found: Path) -> Path:
    """A new folder, which every user can read, with the programs of D-Bus in it as modules."""
    target = found / "tests" / "programs"
    target.mkdir(parents=True)
    (target.parent / "__init__.py").touch()
    for program in (*PROGRAMS.glob("dbus_*.py"), *PROGRAMS.glob("client_*.py")):
        shutil.copy(program, target)
    return found
