# SPDX-License-Identifier: GPL-2.0-or-later
"""The C helper built with instruments, in a copy of the tree, and run by tests that need it.

    python -m tests.instrumented sanitise    with address and undefined-behaviour sanitisers
    python -m tests.instrumented coverage    with gcov: prints for each C file how much of it was executed

A copy, because the helper is one shared library beside its Python face, and the one that everybody uses must stay as it
is. Nothing but gcc is needed. What is run: the tests of the native modules, those of the flows, and a short fuzz, which
together issue every call that the helper serves.

*Sanitisers.* The run-time library has to be in the process before the first allocation, and Python is not linked with
it, so it is preloaded. Programs under `kdbus run` inherit that, and go on well with it. Leaks are not looked for, since
what Python keeps until its end would be reported as well; the fuzz looks for those. Memory that another process writes
(process_vm_readv(2) and so on, the very thing that the helper does) is checked by the interceptors of the library.

*Coverage.* gcov's counters are written when a process ends; those that end by a signal, or by _exit(2) as forked
children do, leave none. So the numbers are lower bounds.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.users import PROJECT

SANITISERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
COVERAGE = "--coverage -O0"
TESTS = ("tests/end_to_end/test_flows.py", "tests/native/test_native_*.py")
FUZZ_SECONDS = 30.0
_FUZZES = ((), ("--no-flows",), ("--revision", "final"), ("--revision", "mixed"))
_SECONDS = 600
_PARTS = ("bridge", "broker", "interposer", "kdbus", "native", "pytest_kdbus", "tracing", "samples", "tests")
_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
_COVERED = re.compile(r"^File '(.*)'\nLines executed:([\d.]+)% of (\d+)$", re.MULTILINE)


class Unavailable(Exception):
    """This machine lacks what is needed; the text says what, and which package has it."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the tree whose helper is instrumented, and the environment that its programs need."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments in the copy; stdout and stderr come together."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )

    def failures(self, *, seconds: float = FUZZ_SECONDS) -> str:
        """Run the tests and the fuzz; what failed, in full, or nothing."""
        files = [str(path) for pattern in TESTS for path in sorted(self.folder.glob(pattern))]
        # The other users cannot load the sanitisers, nor write down what was executed.
        quick = ["-q", "-x", "-p", "no:cacheprovider", "-k", "not ordinary and not build"]
        tested = self.run("-m", "pytest", *quick, *files)
        if tested.returncode != 0:
            return tested.stdout
        for options in _FUZZES:
            each = str(seconds / len(_FUZZES))
            fuzzed = self.run("-m", "tests.fuzz", "--instrumented", "--seconds", each, *options)
            if fuzzed.returncode != 0:
                return fuzzed.stdout
        return ""


def runtime_library(name: str) -> str:
    """Path of a library that comes with gcc. Raises Unavailable."""
    if shutil.which("gcc") is None:
        raise Unavailable("there is no gcc; install with: apt-get install gcc")
    path = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(path) or not os.path.exists(path):
        raise Unavailable(f"gcc has no {name}, which belongs to it; install with: apt-get install --reinstall gcc")
    return os.path.realpath(path)


def copy_tree(folder: Path, flags: str, environment: dict[str, str]) -> Copy:
    """Copy the tree to `folder` and build its helper with the compiler flags. Raises Unavailable."""
    for name in _PARTS:
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "build"))
    for name in _FILES:
        shutil.copy(PROJECT / name, folder / name)
    # What is installed must not be found instead of the copy.
    environment = {**environment, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    build = {**os.environ, "PYTHONPATH": str(folder), "CC": "gcc", "KDBUS_CFLAGS": flags}
    built = subprocess.run(
        [sys.executable, "native/build.py"], cwd=folder, env=build, capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise Unavailable(f"the helper cannot be built with {flags}:\n{built.stdout}{built.stderr}")
    return Copy(folder, environment)


def sanitised(folder: Path) -> Copy:
    """A copy with address and undefined-behaviour sanitisers. Raises Unavailable."""
    libraries = [runtime_library("libasan.so"), runtime_library("libubsan.so")]
    environment = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:handle_segv=0:handle_sigbus=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    copy = copy_tree(folder, SANITISERS, environment)
    if copy.run("-c", "import native._helper").returncode != 0:
        raise Unavailable(copy.run("-c", "import native._helper").stdout)
    return copy


def covered(folder: Path) -> Copy:
    """A copy that counts which lines are executed. Raises Unavailable."""
    if shutil.which("gcov") is None:
        raise Unavailable("there is no gcov; install with: apt-get install gcc")
    return copy_tree(folder, COVERAGE, {})


def coverage(folder: Path) -> dict[str, tuple[float, int]]:
    """By C file of the helper: percent of its lines that were executed in the copy in `folder`, and their number."""
    counters = [str(path) for path in folder.rglob("*.gcda")]
    if not counters:
        return {}
    text = subprocess.run(["gcov", "-n", *counters], cwd=folder, capture_output=True, text=True, check=True).stdout
    return {
        Path(name).name: (float(percent), int(lines))
        for name, percent, lines in _COVERED.findall(text)
        if Path(name).parent == folder / "native" and name.endswith(".c")
    }


def report(found: dict[str, tuple[float, int]]) -> list[str]:
    """The coverage as a table, the least covered file first, and all together."""
    lines = sum(count for _, count in found.values())
    executed = sum(percent * count / 100 for percent, count in found.values())
    rows = sorted((percent, name, count) for name, (percent, count) in found.items())
    table = [f"{name:20} {percent:6.1f} % of {count:4} lines" for percent, name, count in rows]
    return [*table, f"{'all C files':20} {100 * executed / max(lines, 1):6.1f} % of {lines:4} lines"]


def main() -> int:
    """Build, run, and tell; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.instrumented", description="Test the instrumented C helper.")
    parser.add_argument("what", choices=("sanitise", "coverage"))
    parser.add_argument("--seconds", type=float, default=FUZZ_SECONDS, help="how long to fuzz")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdbus-instrumented-", dir="/tmp") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        try:
            copy = sanitised(folder) if given.what == "sanitise" else covered(folder)
        except Unavailable as error:
            print(f"skipped: {error}")
            return 0
        failures = copy.failures(seconds=given.seconds)
        print(failures or f"{given.what}: the native tests, the flows' tests and {given.seconds:g} s of fuzz passed")
        if given.what == "coverage":
            print("\n".join(report(coverage(folder))))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
