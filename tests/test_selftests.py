# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own kdbus selftests, unmodified, each under `kdbus run`, as root and as an ordinary user.

They are the other side's word on what is right, so they are not part of this project: their sources, with the script
that builds them, are looked for beside the checkout (`../shared/selftests`), or where the variable KDBUS_SELFTESTS
points. Without them, or without the compiler and libcap that they need, the tests are skipped and say so.

The harness ends with status 0 for a skipped test as well, so its last word counts too: `Testing ...: OK`.
Tests that it knows but whose sources are not there are not listed here. `daemon` runs until its stdin is
readable, which /dev/null always is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.users import PROJECT, User

NAMES = (
    "bus-make",
    "hello",
    "byebye",
    "chat",
    "daemon",
    "name-basics",
    "name-conflict",
    "name-queue",
    "message-basic",
    "message-prio",
    "message-quota",
    "timeout",
    "sync-byebye",
    "sync-reply",
    "message-free",
    "connection-info",
    "connection-update",
    "writable-pool",
)

_VERDICT = re.compile(r"^Testing .*: ([A-Z]*)$", re.MULTILINE)


@pytest.fixture(scope="session")
def harness(open_folder: Path) -> Path:
    """The harness, built from its sources into a folder that every user can read."""
    given = os.environ.get("KDBUS_SELFTESTS")
    sources = Path(given) if given else PROJECT.parent / "shared" / "selftests"
    script = sources / "build.sh"
    if not script.exists():
        if given:
            pytest.fail(f"KDBUS_SELFTESTS is set to {given}, but there is no build.sh in it")
        pytest.skip(f"the kernel's selftests are not at {sources}; KDBUS_SELFTESTS can name another folder")
    if shutil.which("gcc") is None:
        pytest.skip("the kernel's selftests need a compiler: apt-get install gcc")
    if not _has_header("sys/capability.h"):
        pytest.skip("the kernel's selftests need sys/capability.h: apt-get install libcap-dev")
    folder = open_folder / "selftests"
    build = subprocess.run(["sh", str(script), str(folder)], check=False, capture_output=True, text=True)
    assert build.returncode == 0, f"{script} failed:\n{build.stdout}{build.stderr}"
    program = folder / "kdbus-test"
    folder.chmod(0o755)
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("name", NAMES)
def test_kernel_selftest(name: str, user: User, harness: Path) -> None:
    outcome = user.run(user.kdbus("run", "--", str(harness), "--test", name))
    verdicts = _VERDICT.findall(outcome.output)
    verdict = verdicts[-1] if verdicts else "no verdict"
    if outcome.status != 0 or verdict not in ("OK", "SKIPPED"):
        pytest.fail(
            f"{name} (as {user.name}): {verdict}, exit status {outcome.status}; its output:\n{outcome.output}",
            pytrace=False,
        )
    if verdict == "SKIPPED":
        pytest.skip(f"the harness skipped it (as {user.name}): {_reason(outcome.output)}")


def _reason(output: str) -> str:
    """What the harness printed before it said SKIPPED, without its opening lines."""
    lines = [line for line in output.splitlines() if line and not line.startswith("# ") and not _VERDICT.match(line)]
    return lines[-1] if lines else "it gives no reason"


def _has_header(name: str) -> bool:
    source = f"#include <{name}>\n".encode()
    return subprocess.run(["gcc", "-E", "-x", "c", "-"], check=False, input=source, capture_output=True).returncode == 0
