# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that have nothing to do with kdbus: what they do is not trapped, so it can neither fail nor take longer.

A trap brings the supervisor into being, which tells at its end how many calls there were (`--statistics`); where
nothing was trapped, nothing is told.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.users import User


def _run(user: User, mode: str, what: str, folder: Path) -> str:
    program = compile_program("bystander", folder, "-O2")
    file = folder / f"bystander-{what}"
    file.write_bytes(bytes(8192))
    file.chmod(0o666)
    if user.identity is not None:
        os.chown(file, user.identity, user.identity)
    try:
        outcome = user.run(user.kdbus("run", "--mode", mode, "--statistics", "--", str(program), str(file), what))
    finally:
        file.unlink()
    assert outcome.status == 0, outcome.output
    return outcome.output


def test_mappings_that_are_no_pools(user: User, open_folder: Path) -> None:
    assert _run(user, "mount", "map", open_folder) == "done\n"


def test_opening_to_write_alone(ordinary_user: User, open_folder: Path) -> None:
    assert _run(ordinary_user, "mount", "write", open_folder) == "done\n"


@pytest.mark.parametrize(("mode", "what"), [("path", "map"), ("mount", "both")])
def test_what_is_trapped_is_told(user: User, mode: str, what: str, open_folder: Path) -> None:
    """So the tests above can fail."""
    assert "calls served by the broker" in _run(user, mode, what, open_folder)
