# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own kdbus selftests, unmodified, each under `kdbus run`, as root and as an ordinary user.

They are the other side's word on what is right, so they are not part of this project: their sources, with the script
that builds them, are looked for beside the checkout (`../shared/selftests`), or where the variable KDBUS_SELFTESTS
points. Without them, or without the compiler and libcap that they need, the tests are skipped and say so.

The harness ends with status 0 for a skipped test as well, so its last word counts too: `Testing ...: OK`. It can also
run its tests in namespaces that it makes, where it mounts a kdbusfs of its own.

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

from tests.support.users import PROJECT, User

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

_USER_NAMESPACE = ("--userns", "--uidmap", "0 0 65536", "--gidmap", "0 0 65536")
NAMESPACES = {
    "mount": ("--mntns",),
    "mount and pid": ("--mntns", "--pidns"),
    "user": _USER_NAMESPACE,
    "user and mount": ("--mntns", *_USER_NAMESPACE),
    "user, mount and pid": ("--mntns", "--pidns", *_USER_NAMESPACE),
}
"""Options of the harness that make it run its tests in new namespaces, with a kdbusfs that it mounts there.

All users cannot be mapped: the harness forbids setgroups(2) in its user namespace, and where all are mapped it wants to
call it nevertheless.
"""
NEEDS_ALL_IDS = "connection-info"
"""What the harness skips in a user namespace that does not know every user and group."""

_LINE = re.compile(r"^Testing .* \(([a-z-]+)\) \.+ ([A-Z]+)$", re.MULTILINE)
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


@pytest.mark.parametrize("options", NAMESPACES.values(), ids=NAMESPACES.keys())
def test_kernel_selftests_in_namespaces(options: tuple[str, ...], user: User, harness: Path) -> None:
    """All at once, as root: the harness needs the privilege to map users.

    In a child that it makes for this it ends without flushing its output, hence stdbuf.
    """
    if user.name != "root":
        pytest.skip("the harness needs root for namespaces")
    outcome = user.run(user.kdbus("run", "--", "stdbuf", "-oL", str(harness), *options))
    verdicts = dict(_LINE.findall(outcome.output))
    expected = dict.fromkeys(NAMES, "OK")
    if "--userns" in options:
        expected[NEEDS_ALL_IDS] = "SKIPPED"
    found = {name: verdicts.get(name, "no verdict") for name in NAMES}
    if outcome.status != 0 or found != expected:
        wrong = {name: verdict for name, verdict in found.items() if verdict != expected[name]}
        pytest.fail(f"exit status {outcome.status}, {wrong}; its output:\n{outcome.output}", pytrace=False)


def _reason(output: str) -> str:
    """What the harness printed before it said SKIPPED, without its opening lines."""
    lines = [line for line in output.splitlines() if line and not line.startswith("# ") and not _VERDICT.match(line)]
    return lines[-1] if lines else "it gives no reason"


def _has_header(name: str) -> bool:
    source = f"#include <{name}>\n".encode()
    return subprocess.run(["gcc", "-E", "-x", "c", "-"], check=False, input=source, capture_output=True).returncode == 0
