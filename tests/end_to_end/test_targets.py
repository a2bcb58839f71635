# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are made otherwise than by gcc for a shared glibc: static ones, those of another C library, Go, Rust.

The supervisor has only system calls to go by, so all of them should be the same to it; what differs is which ones are
made, by which threads, and how often signals interrupt them. C programs are some that the other tests run as well,
chosen for what they do around calls: mapping, fork, exec, threads. Go and Rust have a program of their own, a
conversation. What has no compiler here is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.compiling import PROGRAMS
from tests.support.users import PROJECT, User

_ROUNDS = 200

TOOLCHAINS = {
    "static glibc": ("gcc", "-static"),
    "static, position-independent glibc": ("gcc", "-static-pie"),
    "musl": ("musl-gcc",),
    "static musl": ("musl-gcc", "-static"),
    "clang": ("clang",),
}
_PACKAGES = {"gcc": "gcc", "musl-gcc": "musl-tools", "clang": "clang", "go": "golang-go", "rustc": "rustc"}


@pytest.fixture(scope="session")
def folder(open_folder: Path) -> Path:
    """Where programs are built. It has the kernel's headers, which musl-gcc does not look for where they are."""
    folder = open_folder / "targets"
    headers = folder / "headers"
    headers.mkdir(parents=True)
    for name in ("linux", "asm", "asm-generic"):
        places = [Path("/usr/include", name), *Path("/usr/include").glob(f"{os.uname().machine}-*/{name}")]
        for place in places:
            if place.is_dir():
                (headers / name).symlink_to(place)
                break
    for each in (folder, headers):
        each.chmod(0o755)
    return folder


def _build(command: list[str], target: Path, environment: dict[str, str] | None = None) -> None:
    """Build `target` unless it is there; skips without the compiler."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}: apt-get install {_PACKAGES[command[0]]}")
    if target.exists():
        return
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=target.parent,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    target.chmod(0o755)


@pytest.mark.parametrize("program", ["lifetimes", "traced"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS.values(), ids=TOOLCHAINS.keys())
def test_program_in_c(user: User, folder: Path, toolchain: tuple[str, ...], program: str) -> None:
    target = folder / "-".join((program, *(word.strip("-") for word in toolchain)))
    include = PROJECT / "interposer" / "include" / "3"
    source = PROGRAMS / f"{program}.c"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", f"-I{include}", "-idirafter", str(folder / "headers"), "-pthread"]
    _build([*toolchain, *flags, str(source), "-o", str(target)], target)
    outcome = user.run(user.kdbus("run", "--", str(target)))
    counted = len(re.findall(r"^ok ", outcome.output, re.MULTILINE))
    if outcome.status != 0 or counted < 3 or "not ok" in outcome.output or "kdbus: " in outcome.output:
        pytest.fail(f"{target.name} (as {user.name}), status {outcome.status}:\n{outcome.output}", pytrace=False)


@pytest.mark.parametrize("mode", ["mount", "path"])
@pytest.mark.parametrize("language", ["go", "rust", "static rust"])
def test_conversation(user: User, folder: Path, language: str, mode: str) -> None:
    """In path mode, the paths of opens are found in the memory of programs that lay it out in their own way."""
    target = folder / f"conversation-{language.replace(' ', '-')}"
    if language == "go":
        cache = {"GOCACHE": str(folder / "go"), "GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
        command = ["go", "build", "-o", str(target), str(PROGRAMS / "conversation.go")]
        _build(command, target, {**os.environ, **cache})
    else:
        static = ["-C", "target-feature=+crt-static"] if language == "static rust" else []
        command = ["rustc", "-O", "--edition", "2021", *static, "-o", str(target), str(PROGRAMS / "conversation.rs")]
        _build(command, target)
    outcome = user.run(user.kdbus("run", "--mode", mode, "--", str(target), str(_ROUNDS)))
    assert (outcome.status, outcome.output) == (0, f"{_ROUNDS} answers\n"), outcome.output
