# SPDX-License-Identifier: GPL-2.0-or-later
"""What pytest loads: the fixture, its option and marker, and what a failed test reports.

Loaded wherever it is installed, so the domain is imported when a test first wants one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_kdbus.domain import Domain

_DOMAIN = pytest.StashKey["Domain"]()
_LINES = 200
"""Of a trace that goes into the report of a failed test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that says which `kdbus` to use."""
    group = parser.getgroup("kdbus")
    group.addoption("--kdbus-command", metavar="FILE", help="the command kdbus (that of this Python, or in PATH)")


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers",
        "kdbus(bus='test', revision=None, mode=None): name of the bus that the fixture `kdbus` makes; the revision of"
        " kdbus that all programs are taken to speak; `mount` or `path`",
    )


@pytest.fixture
def kdbus(request: pytest.FixtureRequest) -> Iterator[Domain]:
    """A kdbus for this test alone; skips where there cannot be one, with the reason that `kdbus doctor` gives."""
    from pytest_kdbus.domain import Domain

    command = _command(request.config.getoption("--kdbus-command"))
    reason = why_not(command)
    if reason:
        pytest.skip(f"no kdbus here: {reason}")
    marker = request.node.get_closest_marker("kdbus")
    domain = Domain(command, **({} if marker is None else marker.kwargs))
    request.node.stash[_DOMAIN] = domain
    with domain:
        yield domain


@pytest.fixture(scope="session")
def kdbus_include(pytestconfig: pytest.Config) -> Path:
    """The folder of linux/kdbus.h, of the final revision, to compile programs with."""
    asked = [_command(pytestconfig.getoption("--kdbus-command")), "include-dir"]
    return Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the trace into the report of a test that has failed."""
    report = yield
    domain = item.stash.get(_DOMAIN, None)
    if report.when == "call" and report.failed and domain is not None and domain.started:
        lines = domain.trace().splitlines()
        if len(lines) > _LINES:
            lines = [f"({len(lines) - _LINES} lines before these)", *lines[-_LINES:]]
        report.sections.append(("kdbus trace", "\n".join(lines)))
    return report


def _command(given: str | None) -> str:
    beside = Path(sys.executable).with_name("kdbus")
    found = given or (str(beside) if beside.exists() else shutil.which("kdbus"))
    if found is None:
        raise pytest.UsageError("there is no command kdbus; install kdbus-interposer, or give --kdbus-command FILE")
    return found


@cache
def why_not(command: str) -> str:
    """Why there can be no kdbus on this machine, as `kdbus doctor` says; empty if there can be one."""
    asked = subprocess.run([command, "doctor", "--json"], capture_output=True, text=True, check=False)
    try:
        verdict = json.loads(asked.stdout)
    except ValueError:
        said = asked.stderr.strip() or repr(asked.stdout)
        raise pytest.UsageError(f"{command} doctor --json: {said}") from None
    return "" if verdict["ok"] else str(verdict["reason"])
