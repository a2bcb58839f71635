# SPDX-License-Identifier: GPL-2.0-or-later
"""All end-to-end programs once more, in new namespaces and a domain that is mounted there.

A program must find the same kdbus in a mount and pid namespace of its own, and in a user namespace in which it is root.
The kernel's own tests are run in this way, too. Only root can map the users that the programs need.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.e2e import ANYWHERE, run_all
from tests.support.users import User


@pytest.fixture(scope="module")
def in_namespaces(open_folder: Path) -> str:
    return str(compile_program("in_namespaces", open_folder, "-O2"))


@pytest.mark.parametrize("kind", ["mount and pid", "user, mount and pid"])
@pytest.mark.parametrize("user", ["root"], indirect=True)
@pytest.mark.parametrize("program", ANYWHERE)
def test_in_namespaces(program: str, user: User, kind: str, in_namespaces: str, open_folder: Path) -> None:
    through = [in_namespaces, "user"] if kind.startswith("user") else [in_namespaces]
    run_all(program, user.trusting, open_folder, through=through)
