# SPDX-License-Identifier: GPL-2.0-or-later
"""The command: finds kernels, boots one after the other, and prints a table; see the package."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.kernels import image, machine, roots
from tests.kernels.confinement import Confined
from tests.kernels.inside import CONFINED, RUNS, Outcome
from tests.kernels.labels import PACKAGES, SETTINGS, TOOLS
from tests.kernels.packages import PackageError, Packages
from tests.support.compiling import PROGRAMS
from tests.support.users import PROJECT

DEFAULT = ("5.10", "6.1", "6.12", "newest")
USERS = ("root", "ordinary")

_JOB = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={project}
cd {project}
exec {python} -m tests.kernels.inside {folder} {programs}
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What one kernel came to.

    `modes`: what `kdbus run` does for root and for an ordinary user; `lacks`: what `kdbus doctor` misses there;
    `confined`: what came of Yama's scopes or of policies, if they were tried.
    """

    version: str
    modes: list[str]
    lacks: list[str]
    right: int
    failed: list[str]
    skipped: int
    seconds: float
    confined: list[str]


def main() -> int:
    """Parse the command line and do it. 0: all was right on every kernel; 1: not so; 2: it could not be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description="Tries kdbus on emulated machines.")
    add = parser.add_argument
    add("kernels", nargs="*", metavar="KERNEL", help=f"how its version begins, or `newest` ({' '.join(DEFAULT)})")
    add("--architecture", choices=machine.KINDS, default="amd64", help="Debian's name of it (%(default)s)")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="PROGRAM",
        help="of those in `inside` (all), or yama, apparmor, selinux",
    )
    add("--folder", type=Path, default=_cache(), help="keeps what is downloaded (%(default)s)")
    add("--keep", type=Path, help="keeps what each machine printed and reported")
    add("--mirror", help="address of a Debian archive (the one of this machine's apt)")
    add("--seconds", type=float, default=7200, help="for one kernel (%(default)s)")
    options = parser.parse_args()
    results = []
    try:
        packages = Packages(options.folder, options.architecture, options.mirror)
        packages.update()
        kernels = packages.kernels()
        root = roots.own()
        if options.architecture != "amd64":
            folder = options.folder / f"root-{options.architecture}"
            root = roots.foreign(packages, options.architecture, folder)
        for wanted in options.kernels or DEFAULT:
            version = choose(wanted, kernels)
            with nullcontext(options.keep / version) if options.keep else tempfile.TemporaryDirectory() as job:
                result = _try(version, kernels[version], packages, root, Path(job), options)
            print(_row(result), *result.confined, *result.failed, sep="\n", flush=True)
            results.append(result)
    except (PackageError, OSError) as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    return 1 if any(result.failed for result in results) else 0


def choose(wanted: str, kernels: dict[str, str]) -> str:
    """The newest version that begins as wanted."""
    for version in kernels:  # The newest comes first.
        if wanted == "newest" or version == wanted or version.startswith((f"{wanted}.", f"{wanted}-")):
            return version
    raise PackageError(f"there is no kernel {wanted} in Debian's archive; it has {', '.join(kernels)}")


def _try(
    version: str, name: str, packages: Packages, root: roots.Root, job: Path, options: argparse.Namespace
) -> Result:
    """Boot one kernel, and read what it left in the folder `job`, which is made."""
    kind = options.architecture
    kernel = packages.unpack(packages.parts(name), options.folder / f"kernels-{kind}" / version)
    busybox = packages.unpack(["busybox-static"], options.folder / f"busybox-{kind}") / "usr" / "bin" / "busybox"
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir(parents=True)
    first = job / "first.cpio"
    image.build(busybox, kernel, first)
    _build_programs(root, job)
    words = {"project": root.project, "python": root.python, "folder": image.JOB}
    program = job / "job"
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    program.write_text(_JOB.format(programs=shlex.join(options.only), **quoted))
    program.chmod(0o755)
    for word in SETTINGS.keys() & set(options.only):
        tool = packages.unpack([PACKAGES[word]], options.folder / f"{word}-{kind}") / TOOLS[word]
        shutil.copy(tool, job)
    settings = " ".join(SETTINGS[word] for word in options.only if word in SETTINGS)
    vmlinuz = next(kernel.rglob("vmlinuz*"))
    begin = time.monotonic()
    said = machine.run(machine.KINDS[kind], vmlinuz, first, root.path, job, options.seconds, settings)
    seconds = time.monotonic() - begin
    try:
        return _read(version, job, seconds)
    except (OSError, ValueError) as error:
        end = "\n".join(said.splitlines()[-20:])
        raise PackageError(f"Linux {version} reported nothing of use ({error}); it printed at last:\n{end}") from error


def _read(version: str, job: Path, seconds: float) -> Result:
    reports = [json.loads((job / f"doctor-{user}.json").read_text()) for user in USERS]
    modes = [report["mode"] or "none" for report in reports]
    lacks = [
        f"{finding['name']} ({user})"
        for user, report in zip(USERS, reports, strict=True)
        for finding in report["findings"]
        if not finding["ok"]
    ]
    outcomes = [Outcome(**each) for each in json.loads((job / "outcomes.json").read_text())]
    failed = [f"{each.name} ({each.user}): {each.wrong}" for each in outcomes if each.wrong]
    right, skipped = sum(each.right for each in outcomes), sum(each.skipped for each in outcomes)
    found = job / CONFINED
    tried = [Confined(**each) for each in json.loads(found.read_text())] if found.exists() else []
    confined = [f"{each.under}: {each.what}: {each.trouble or 'works'}" for each in tried]
    return Result(version, modes, lacks, right, failed, skipped, seconds, confined)


def _build_programs(root: roots.Root, job: Path) -> None:
    """Build what `inside` runs, into the folder `job`, for the root file system that is going to be there.

    What cannot be built (32-bit programs, without their C library; selftests, without their sources, or for another
    architecture) is left out.
    """
    for run in RUNS:
        include = PROJECT / "interposer" / "include" / run.revision
        command = [*root.compiler, "-std=gnu11", "-O1", f"-I{include}", *run.flags, str(PROGRAMS / f"{run.program}.c")]
        subprocess.run([*command, "-o", str(job / run.file), "-pthread"], stderr=subprocess.DEVNULL, check=False)
    script = Path(os.environ.get("KDBUS_SELFTESTS") or PROJECT.parent / "shared" / "selftests") / "build.sh"
    if script.exists() and root.path == Path("/"):
        subprocess.run(["sh", str(script), str(job)], capture_output=True, check=False)


def _row(result: Result) -> str:
    """A line of the table in docs/kernels.md."""
    counts = f"{result.right} right, {len(result.failed)} programs failed, {result.skipped} skipped"
    minutes = f"{result.seconds / 60:.0f} min"
    return f"| {result.version} | {', '.join(result.modes)} | {', '.join(result.lacks) or '-'} | {counts} | {minutes} |"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kdbus-interposer", "kernels")


if __name__ == "__main__":
    sys.exit(main())
