# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of C and of documents end at column 120, as those of Python, which ruff looks after.

In documents, tables cannot be wrapped, and what programs print is shown as it is; the page of measurements is written
by a program.
"""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
WIDEST = 120
C_FILES = ("native", "samples", "tests", "benchmarks", "interposer", "kdbus")
GENERATED = {PROJECT / "docs" / "measurements.md"}


def _c_files() -> list[Path]:
    return sorted(path for folder in C_FILES for path in (PROJECT / folder).rglob("*.[ch]"))


def _documents() -> list[Path]:
    found = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]
    return sorted(path for path in found if path not in GENERATED)


def _may_be_wide(line: str) -> bool:
    return line.lstrip().startswith("|") or line.startswith("    ")


def too_wide(path: Path) -> list[str]:
    """The lines of a file that go on too far, each with its place."""
    lines = enumerate(path.read_text().split("\n"), 1)
    is_document = path.suffix == ".md"
    wide = ((number, line) for number, line in lines if len(line) > WIDEST)
    name = path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path
    return [f"{name}:{number}: {line}" for number, line in wide if not (is_document and _may_be_wide(line))]


@pytest.mark.parametrize("files", [_c_files, _documents], ids=["C", "documents"])
def test_lines_end_in_time(files: object) -> None:
    assert callable(files)
    found = files()
    assert len(found) > 10
    assert [line for path in found for line in too_wide(path)] == []


def test_what_is_too_wide_is_found(tmp_path: Path) -> None:
    page, source = tmp_path / "page.md", tmp_path / "source.c"
    page.write_text(f"{'x' * 121}\n| {'x' * 121} |\n    {'x' * 121}\n{'x' * 120}\n")
    source.write_text(f"    // {'x' * 121}\n// {'x' * 117}\n")
    assert [line.partition(": ")[0].rpartition(":")[2] for line in too_wide(page)] == ["1"]
    assert [line.partition(": ")[0].rpartition(":")[2] for line in too_wide(source)] == ["1"]
