# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: the users that end-to-end tests run as, and the settings of hypothesis.

Generated examples have no deadline: how long one takes says something about the machine, and nothing about the code.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.users import User, current_user, readable_folder, unprivileged_user

hypothesis.settings.register_profile("project", deadline=None, print_blob=True)
hypothesis.settings.load_profile("project")

# `python -m interposer` finds the checkout's packages from every folder; only `kdbus` is installed under its own name.
PROJECT = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))

# What was started with `&` in a script, or by nohup, ignores signals. Programs would inherit it, and shells cannot trap
# what they were started to ignore. (SIGPIPE and SIGXFSZ are ignored by Python itself, and given back by `subprocess`.)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCHLD):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


QUICK = ("abi", "broker", "kdbus", "native", "tracing")
"""Folders of tests that run in this process, or nearly so: the rules of the bus, its tables, and the helper in C."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `pytest -m quick` runs, by folder."""
    quick = [PROJECT / "tests" / folder for folder in QUICK]
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in quick):
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user can read, unlike pytest's own."""
    with readable_folder() as folder:
        yield folder


@pytest.fixture
def writable() -> Iterator[Path]:
    """A folder in which every user may write."""
    with readable_folder() as folder:
        folder.chmod(0o777)
        yield folder


@pytest.fixture(scope="session")
def ordinary_user(open_folder: Path) -> User:
    """An ordinary user who can run the project: whoever runs the tests, or `nobody` if that is root."""
    if os.geteuid() != 0:
        return current_user()
    return unprivileged_user(open_folder)


@pytest.fixture(scope="session", params=["root", "ordinary"])
def user(request: pytest.FixtureRequest) -> User:
    """Runs a test twice: as root (skipped unless the tests run as root) and as an ordinary user."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("the tests do not run as root")
        return current_user()
    found = request.getfixturevalue("ordinary_user")
    assert isinstance(found, User)
    return found
