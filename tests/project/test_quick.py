# SPDX-License-Identifier: GPL-2.0-or-later
"""What `pytest -m quick` runs: the folders that tests/conftest.py names, and nothing that starts programs at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_quick_tests_are_those_of_some_folders() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "-m", "quick"]
    chosen = subprocess.run(
        [*command, "tests/abi", "tests/hostile"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    files = {line.partition("::")[0] for line in chosen.stdout.splitlines() if "::" in line}
    assert files and all(file.startswith("tests/abi/") for file in files)
