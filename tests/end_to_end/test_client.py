# SPDX-License-Identifier: GPL-2.0-or-later
"""The client library under the real `kdbus run`: Python programs that consist of cases (`client_support`), the
examples of the documents, and the samples."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("revision", ["3", "219", "final"])
@pytest.mark.parametrize("program", ["basics", "dbus", "dbus_tasks", "exchange", "pool", "signals", "tasks"])
def test_client(program: str, revision: str, user: User, programs: Path) -> None:
    # It shares its numbers with the final revision, which is meant by them unless one is named.
    _run(program, revision, user, programs, ["--revision", "219"] if revision == "219" else [])


@pytest.mark.parametrize("options", [["--mode", "path"], ["--no-flows"]], ids=["path mode", "no flows"])
def test_client_served_otherwise(options: list[str], user: User, programs: Path) -> None:
    _run("exchange", "final", user, programs, options)


def test_client_served_natively(user: User, programs: Path) -> None:
    for revision in ("3", "final"):
        _run("exchange", revision, user.trusting, programs, [])


def _run(program: str, revision: str, user: User, programs: Path, options: list[str]) -> None:
    command = user.kdbus("run", *options, "--", user.python, "-m", f"tests.programs.client_{program}", revision)
    outcome = user.run(command, seconds=_SECONDS, folder=programs)
    if outcome.status != 0 or "not ok" in outcome.output or "ok - " not in outcome.output:
        pytest.fail(f"{program} (as {user.name}), status {outcome.status}:\n{outcome.output}", pytrace=False)


@pytest.mark.parametrize("document", ["README.md", "docs/client.md", "docs/dbus.md"])
def test_examples_of_documents(document: str, user: User, programs: Path) -> None:
    text = (PROJECT / document).read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert examples
    script = programs / "example.py"
    script.write_text("\n".join(examples))
    outcome = user.run(user.kdbus("run", "--", user.python, str(script)), seconds=_SECONDS)
    shown = "".join(re.findall(r"^    \$ kdbus run -- python .*\n    (.*\n)", text, re.MULTILINE))
    assert (outcome.status, outcome.output) == (0, shown)


def test_samples(user: User, programs: Path) -> None:
    for sample in (PROJECT / "samples/python").glob("*.py"):
        shutil.copy(sample, programs)
    script = f"{user.python} service.py & {user.python} client.py; kill $!"
    command = user.kdbus("run", "--make-bus", "sample", "--", "sh", "-c", script)
    outcome = user.run(command, seconds=_SECONDS, folder=programs)
    ids = re.sub(r"connection \d+", "connection N", outcome.output)
    assert sorted(ids.splitlines()) == [
        "reply from connection N: HELLO FROM THE CLIENT",
        "request from connection N: hello from the client",
        f"serving org.example.Sample on {0 if user.name == 'root' else user.identity or os.geteuid()}-sample",
    ]


@pytest.mark.skipif(Path("/sys/fs/kdbus").exists(), reason="this machine has kdbus already")
def test_samples_without_kdbus(user: User, programs: Path) -> None:
    for sample in ("client.py", "service.py"):
        shutil.copy(PROJECT / "samples/python" / sample, programs)
        alone = user.run([user.python, sample], seconds=_SECONDS, folder=programs)
        assert alone.status == 1
        assert alone.output.startswith(f"{sample}: [Errno 2] open (/sys/fs/kdbus/")
