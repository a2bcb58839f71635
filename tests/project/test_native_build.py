# SPDX-License-Identifier: GPL-2.0-or-later
"""`native/build.py`: what it says on a machine that lacks something, and that the C code is clean."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"
BUILD = NATIVE / "build.py"


def attempt(compiler: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs build.py with another compiler."""
    return subprocess.run(
        [sys.executable, *options, str(BUILD)],
        env={**os.environ, "CC": compiler},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Failed, with exactly one line of diagnostics, which has all of `words`."""
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kdbus: ")
    for word in words:
        assert word in line


def test_without_a_compiler() -> None:
    assert_one_line(attempt("/nonexistent/cc"), "/nonexistent/cc", "apt install gcc")


@pytest.mark.parametrize(
    "header,package",
    [("stdio.h", "libc6-dev"), ("linux/seccomp.h", "linux-libc-dev"), ("Python.h", "python3-dev")],
)
def test_without_headers(tmp_path: Path, header: str, package: str) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\nif grep -q '{header}'; then echo error >&2; exit 1; fi\n", encoding="ascii")
    compiler.chmod(0o755)
    assert_one_line(attempt(str(compiler)), header, f"apt install {package}")


def test_without_cffi() -> None:
    # Without site-packages and PYTHONPATH there is no cffi.
    assert_one_line(attempt("cc", "-I", "-S"), "pip install cffi")


def test_setuptools_finds_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(NATIVE.parent)
    module = runpy.run_path("native/build.py", run_name="__cffi__")
    name, _, _, options = module["ffibuilder"]._assigned_source
    assert name == "kdbus._application.native._helper"
    # Absolute paths would not be taken into a source distribution.
    assert all(not Path(source).is_absolute() and Path(source).exists() for source in options["sources"])


def test_all_c_files_are_compiled() -> None:
    module = runpy.run_path(str(BUILD))
    assert sorted(module["SOURCES"]) == sorted(path.name for path in NATIVE.glob("*.c"))


@pytest.mark.parametrize("source", sorted(path.name for path in NATIVE.glob("*.c")))
def test_the_c_code_is_clean(source: str, tmp_path: Path) -> None:
    module = runpy.run_path(str(BUILD))
    subprocess.run(
        [
            *module["compiler_command"](),
            *module["BASE_FLAGS"],
            *module["WARNING_FLAGS"],
            *("-c", str(NATIVE / source), "-o", str(tmp_path / "object.o")),
        ],
        check=True,
    )


def test_the_preloaded_library_needs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever program it comes into: no other library, and nothing that some C library may not have."""
    if os.uname().machine != "x86_64":
        pytest.skip("there is none for this machine")
    monkeypatch.setenv("KDBUS_WERROR", "1")
    built = runpy.run_path(str(BUILD))["build_preloaded"](NATIVE, tmp_path)
    dynamic = subprocess.check_output(["readelf", "-dW", str(built)], text=True)
    assert "(NEEDED)" not in dynamic and "(SONAME)" in dynamic
    symbols = subprocess.check_output(["nm", "-D", str(built)], text=True)
    everywhere = {"memcmp", "memcpy", "memmove", "strcmp", "strlen", "strnlen", "strstr"}
    assert set(re.findall(r" U (\w+)", symbols)) <= everywhere


def test_types_are_declared_for_every_function() -> None:
    module = runpy.run_path(str(BUILD))
    declared = set(re.findall(r"\b(kdbus_\w+)\(", module["declarations"]((NATIVE / "helper.h").read_text())))
    typed = set(re.findall(r"def (kdbus_\w+)\(", (NATIVE / "_helper.pyi").read_text()))
    assert declared == typed
