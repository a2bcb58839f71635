# SPDX-License-Identifier: GPL-2.0-or-later
"""What an emulated machine has as its root file system: the machine at hand's, or one of another architecture.

The second is made of packages: Python with what the project needs of others, the C library with its headers. Nothing
of it is configured, as that takes programs of that architecture to run; neither has it users or services. The project
is copied into it, and its helper built by a cross compiler, with the headers of that root.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from native.build import BASE_FLAGS, SOURCES, WARNING_FLAGS, make_builder
from tests.kernels.packages import PackageError, Packages
from tests.support.users import PACKAGES, PROJECT

_SUITE = "trixie"
_NEEDED = (
    "base-files", "dash", "coreutils", "libc6-dev", "python3-dev", "python3-trio", "python3-cffi",
    "python3-ptrace", "python3-pytest", "python3-hypothesis",
)  # fmt: skip
_COMPILERS = {"arm64": ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")}
_USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"


@dataclass(frozen=True, slots=True)
class Root:
    """A root file system: where it is here; where the project and Python are in it; what compiles for it."""

    path: Path
    project: Path
    python: Path
    compiler: tuple[str, ...]


def own() -> Root:
    """That of the machine at hand."""
    return Root(Path("/"), PROJECT, Path(sys.executable), ("gcc",))


def foreign(packages: Packages, architecture: str, folder: Path) -> Root:
    """One of another architecture, made in `folder`. Raises PackageError if there is no compiler or no package."""
    compiler, package = _COMPILERS[architecture]
    if shutil.which(compiler) is None:
        raise PackageError(f"needs {compiler}: apt-get install {package}")
    packages.unpack_all(_NEEDED, _SUITE, folder)
    (folder / "etc" / "passwd").write_text(_USERS)
    project = folder / "project"
    shutil.rmtree(project, ignore_errors=True)
    for name in (*PACKAGES, "tests"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    root = Root(folder, Path("/project"), Path("/usr/bin/python3"), (compiler, f"--sysroot={folder}"))
    _build_helper(root, project / "native")
    return root


def _build_helper(root: Root, folder: Path) -> None:
    """Build the project's C helper in `folder`, warnings being errors but in what cffi writes."""
    source = folder / "_helper.c"
    make_builder(folder).emit_c_code(str(source))
    include = root.path / "usr" / "include"
    (python,) = include.glob("python3.*")
    # The kernel's headers are there for other architectures as well.
    triple = root.compiler[0].removesuffix("-gcc")
    headers = [f"-isystem{python}", f"-isystem{include / triple}"]
    compile_ = [*root.compiler, *BASE_FLAGS, "-fPIC", "-DPy_LIMITED_API=0x030b0000", *headers, f"-I{folder}"]
    objects = []
    for name, flags in ((source.name, ()), *((name, WARNING_FLAGS) for name in SOURCES)):
        objects.append(str((folder / name).with_suffix(".o")))
        _run([*compile_, *flags, "-c", str(folder / name), "-o", objects[-1]])
    _run([*root.compiler, "-shared", *objects, "-pthread", "-o", str(folder / "_helper.abi3.so")])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackageError(f"`{' '.join(command)}` failed:\n{done.stderr}")
