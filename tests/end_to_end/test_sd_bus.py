# SPDX-License-Identifier: GPL-2.0-or-later
"""The D-Bus of the client library against sd-bus and busctl of a systemd that had kdbus (221 to 231), under the real
`kdbus run`.

No distribution of today has one, so it has to be brought. With KDBUS_SYSTEMD naming a folder in which packages of such
a systemd were unpacked, these tests run; without, they are skipped. Ubuntu 16.04 has 229:

    apt-get download libsystemd0 systemd && for file in *.deb; do dpkg-deb -x "$file" FOLDER; done
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.users import PROJECT

_FOLDER = os.environ.get("KDBUS_SYSTEMD", "")
pytestmark = pytest.mark.skipif(
    not _FOLDER, reason="no systemd with kdbus here; KDBUS_SYSTEMD=FOLDER names one (systemd 221 to 231, unpacked)"
)


def _run(*command: str) -> str:
    """What a program in Python prints under `kdbus run`, with the folder's library as argument."""
    [library] = list(Path(_FOLDER).rglob("libsystemd.so.0"))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    outcome = subprocess.run(
        [sys.executable, "-m", "interposer", "run", "--", sys.executable, "-m", *command],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout
    return outcome.stdout


def test_sd_bus() -> None:
    output = _run("tests.programs.sd_bus", "final")
    assert "not ok" not in output and "\nok - " in output, output


def test_busctl() -> None:
    [busctl] = list(Path(_FOLDER).rglob("bin/busctl"))
    output = _run("tests.programs.busctl", str(busctl))
    assert "org.example.Printer" in output
    assert "└─/org/example/Printer" in output
    assert [line.split()[:4] for line in output.splitlines() if line.startswith((".Print ", ".Volume"))] == [
        [".Print", "method", "su", "u"],
        [".Volume", "property", "d", "0.5"],
    ]
    assert output.splitlines()[-3:] == ["u 15", "d 0.75", "there is no object at /none"]
