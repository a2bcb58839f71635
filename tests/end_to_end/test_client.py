# SPDX-License-Identifier: GPL-2.0-or-later
"""The client library under the real `kdbus run`: Python programs that consist of cases (`client_support`), and the
examples of the guide."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.compiling import PROGRAMS
from tests.support.users import PROJECT, User

_SECONDS = 120


@pytest.fixture(scope="session")
def programs(open_folder: Path) -> Path:
    """A folder, which every user can read, with such programs in it as modules."""
    folder = open_folder / "client"
    target = folder / "tests" / "programs"
    target.mkdir(parents=True)
    (target.parent / "__init__.py").touch()
    for program in PROGRAMS.glob("client_*.py"):
        shutil.copy(program, target)
    return folder


@pytest.mark.parametrize("revision", ["3", "final"])
@pytest.mark.parametrize("program", ["basics", "exchange", "signals", "tasks"])
def test_client(program: str, revision: str, user: User, programs: Path) -> None:
    command = user.kdbus("run", "--", user.python, "-m", f"tests.programs.client_{program}", revision)
    outcome = user.run(command, seconds=_SECONDS, folder=programs)
    if outcome.status != 0 or "not ok" in outcome.output or "\nok - " not in outcome.output:
        pytest.fail(f"{program} (as {user.name}), status {outcome.status}:\n{outcome.output}", pytrace=False)


def test_examples_of_the_guide(user: User, programs: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", (PROJECT / "docs/client.md").read_text(), re.MULTILINE | re.DOTALL)
    assert examples
    script = programs / "guide.py"
    script.write_text("\n".join(examples))
    outcome = user.run(user.kdbus("run", "--", user.python, str(script)), seconds=_SECONDS)
    assert (outcome.status, outcome.output) == (0, "")
