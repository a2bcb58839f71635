# SPDX-License-Identifier: GPL-2.0-or-later
"""A dbus-daemon of a test's own, for what is to be compared with it or joined to it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.users import User

SESSION = ("--session", "--address=unix:tmpdir=/tmp")


def needed(program: str, package: str) -> None:
    """Skip the test if the machine has no such program."""
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}, of the package {package}")


@contextmanager
def message_bus(
    user: User, folder: Path, options: tuple[str, ...] = SESSION
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a dbus-daemon that runs as the user in that folder, and its process, which is killed at the end.

    Skips the test where there is none.
    """
    needed("dbus-daemon", "dbus-daemon")
    with subprocess.Popen(
        ["dbus-daemon", *options, "--nofork", "--print-address=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=user.environment,
        **user.becoming,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip(), process
        finally:
            process.kill()
