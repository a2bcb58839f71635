# SPDX-License-Identifier: GPL-2.0-or-later
"""The instrumented builds of the C helper do what they are for (`tests.instrumented`).

The suite itself runs under them in `.ci/run`. Here: the sanitised helper works, and notices a bug; coverage is counted.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.instrumented import Unavailable, coverage, covered, report, runtime_library, sanitised

USE = """
import os
from native import memory
from native.pool import Pool
pool = Pool(b"test", 8192)
pool.write(100, b"x" * 50)
assert pool.read(100, 50) == b"x" * 50
assert memory.read(os.getpid(), 0x10, 0) == b""
pool.close()
"""
OVERFLOW = """
import os
from native._helper import ffi, lib
there = ffi.new("char[2000]")
lib.kdbus_memory_read(os.getpid(), int(ffi.cast("uintptr_t", there)), ffi.new("char[1000]"), 2000)
"""


def test_sanitised_helper_works_and_notices_an_overflow(tmp_path: Path) -> None:
    try:
        copy = sanitised(tmp_path)
    except Unavailable as error:
        pytest.skip(str(error))
    used = copy.run("-c", USE)
    assert used.returncode == 0, used.stdout
    copy.environment["PYTHONMALLOC"] = "malloc"
    wrong = copy.run("-c", OVERFLOW)
    assert wrong.returncode != 0
    assert "heap-buffer-overflow" in wrong.stdout, wrong.stdout


def test_coverage_counts_what_was_executed(tmp_path: Path) -> None:
    try:
        copy = covered(tmp_path)
    except Unavailable as error:
        pytest.skip(str(error))
    used = copy.run("-c", USE)
    assert used.returncode == 0, used.stdout
    found = coverage(tmp_path)
    assert found["pool.c"][0] > 0
    assert found["hot_path.c"][0] == 0
    assert any(line.startswith("all C files") for line in report(found))


def test_a_library_that_is_not_there() -> None:
    with pytest.raises(Unavailable, match="apt-get install"):
        runtime_library("libnonesuch.so")


def test_report() -> None:
    lines = report({"a.c": (50.0, 100), "b.c": (100.0, 300), "c.c": (0.0, 0)})
    assert lines[0].startswith("c.c")
    assert lines[-1].split()[:5] == ["all", "C", "files", "87.5", "%"]
