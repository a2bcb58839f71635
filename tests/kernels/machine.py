# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated machine, from its switching on to its end.

Everything is emulated, the processor included, by as many threads as it has processors: two, since much of what can go
wrong here needs two. What the machine prints is kept. A machine that has not ended in time is switched off, as is one
whose starter is killed.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MEMORY_MIB = 1536
PROCESSORS = 2
_NICENESS = 15
"""Whoever else works on the machine at hand goes first."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What QEMU emulates: its program, the package of it, options, and the kernel's console."""

    program: str
    package: str
    options: tuple[str, ...]
    console: str


KINDS = {
    "amd64": Kind("qemu-system-x86_64", "qemu-system-x86", ("-machine", "q35", "-cpu", "max"), "ttyS0"),
    "arm64": Kind("qemu-system-aarch64", "qemu-system-arm", ("-machine", "virt", "-cpu", "cortex-a72"), "ttyAMA0"),
}
"""By Debian's name of the architecture."""


def run(kind: Kind, kernel: Path, first: Path, root: Path, job: Path, seconds: float, settings: str = "") -> str:
    """Boot `kernel` with the archive `first`; what the machine printed.

    `root`: the folder that is its root file system, read-only; `job`: the folder that it can write to, with the program
    `job`; `settings`: more for the kernel's command line. Raises TimeoutError, with the output's end, after `seconds`;
    FileNotFoundError without QEMU.
    """
    if shutil.which(kind.program) is None:
        raise FileNotFoundError(f"needs {kind.program}: apt-get install {kind.package}")
    command = [
        kind.program, *kind.options, "-accel", "tcg,thread=multi", "-smp", str(PROCESSORS), "-m", str(MEMORY_MIB),
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-kernel", str(kernel), "-initrd", str(first),
        "-append", f"console={kind.console} panic=-1 quiet {settings}",
        "-virtfs", f"local,path={root},mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={job},mount_tag=job,security_model=none",
    ]  # fmt: skip
    with (job / "console").open("wb+") as console:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nice", "-n", str(_NICENESS), *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(seconds)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            process.kill()
            process.wait()
        console.seek(0)
        said = console.read().decode(errors="replace")
    if not ended:
        end = "\n".join(said.splitlines()[-20:])
        raise TimeoutError(f"the machine had not ended after {seconds:.0f} s; it printed at last:\n{end}")
    return said
