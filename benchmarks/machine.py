# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that is measured on: what somebody needs to know to make sense of the figures."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.execution import PROJECT

_VERSIONS = {
    "dbus-daemon": ["dbus-daemon", "--version"],
    "dbus-broker": ["dbus-broker", "--version"],
    "libsystemd": ["pkg-config", "--modversion", "libsystemd"],
    "strace": ["strace", "--version"],
    "gcc": ["gcc", "-dumpfullversion"],
}


def describe() -> dict[str, str]:
    """Facts by name, in the order in which to show them. Nothing that identifies the machine or who uses it."""
    facts = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} on {platform.machine()}",
        "distribution": _distribution(),
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "Python": platform.python_version(),
        **{name: version for name, command in _VERSIONS.items() if (version := _version(command))},
    }
    revision = _output(["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"])
    if revision:
        changed = _output(["git", "-C", str(PROJECT), "status", "--porcelain", "--untracked-files=no"])
        facts["revision"] = revision + (" with changes" if changed else "")
    return {name: fact for name, fact in facts.items() if fact}


def others_share(seconds: float = 1.0) -> float:
    """The part of all processors' time, 0 to 1, that is used now. To be asked when nothing of ours runs."""
    before = _processor_times()
    time.sleep(seconds)
    busy, total = (after - earlier for after, earlier in zip(_processor_times(), before, strict=True))
    return busy / total if total else 0.0


def _processor_times() -> tuple[int, int]:
    """Time not idle, and all time, since the start of the machine; in ticks (proc(5), /proc/stat)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(errors="replace")
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    hypervisor = ", virtual machine" if re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE) else ""
    return (found.group(1) if found else platform.machine()) + hypervisor


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _version(command: list[str]) -> str:
    """The first number with a dot that `command` prints."""
    found = re.search(r"\d+(\.\d+)*", _output(command))
    return found.group() if found else ""


def _output(command: list[str]) -> str:
    """What `command` prints, nothing if it cannot."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
