# SPDX-License-Identifier: GPL-2.0-or-later
"""What AppArmor and SELinux leave of kdbus: run on an emulated machine, as root, like `confinement`.

    python -m tests.kernels --only apparmor 6.12
    python -m tests.kernels --only selinux 6.12

Each machine has one of the two, as its kernel's command line says (`SETTINGS`), and gets policies of ours: what a
distributor's would allow to which program is its own affair, but what of it kdbus needs can be told apart. So there is
one policy that only labels, one that forbids to trace (and so to read another's memory, which both count as that), and,
with AppArmor, one as containers have it, which allows tracing within itself and forbids mounts.

With AppArmor, who is confined is either `kdbus run` together with its program, or the program alone, or the server.
With SELinux, where everything has one label here, it is everybody.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.kernels.confinement import SERVERS, Confined, trouble_of, trouble_with_server
from tests.support.users import User

SETTINGS = {"apparmor": "apparmor=1 security=apparmor", "selinux": "selinux=1 security=selinux enforcing=1"}
"""For the kernel's command line, by the word that asks for it."""
TOOLS = {"apparmor": "sbin/apparmor_parser", "selinux": "usr/bin/checkpolicy"}
"""What compiles policies: its place in its package."""
PACKAGES = {"apparmor": "apparmor/bookworm", "selinux": "checkpolicy/bookworm"}
"""The package of it, as old as the oldest C library that this runs with."""
_PROFILES = """
profile kdbus-whole flags=(attach_disconnected,mediate_deleted) {
  file, mount, umount, pivot_root, capability, network, unix, signal, ptrace,
}
profile kdbus-traceless flags=(attach_disconnected,mediate_deleted) {
  file, mount, umount, pivot_root, capability, network, unix, signal,
}
profile kdbus-container flags=(attach_disconnected,mediate_deleted) {
  file, umount, capability, network, unix, signal, ptrace (trace,read,tracedby,readby) peer=kdbus-container,
}
"""
_APPARMOR = ("whole", "traceless", "container")
_SELINUX = {"whole": "", "traceless": "ptrace"}
_PROCESS = (
    "fork", "transition", "sigchld", "sigkill", "sigstop", "signull", "signal", "ptrace", "getsched", "setsched",
    "getsession", "getpgid", "setpgid", "getcap", "setcap", "share", "getattr", "setexec", "setfscreate", "noatsecure",
    "siginh", "setrlimit", "rlimitinh", "dyntransition", "setcurrent", "execmem", "execstack", "execheap",
    "setkeycreate", "setsockcreate", "getrlimit",
)  # fmt: skip
"""What SELinux asks about processes (its `secclass_map`). Of other classes this policy knows nothing, and allows
all."""
_SIDS = ("kernel", "security", "unlabeled", "fs", "file")


def apparmor(users: dict[str, User], folder: Path) -> Iterator[Confined]:
    """Everything under each profile. `folder` has PROGRAM and the parser."""
    yield from _everything("nobody confined", users, folder)
    profiles = folder / "profiles"
    profiles.write_text(_PROFILES)
    _do(str(folder / "apparmor_parser"), "--config-file=/dev/null", "--skip-cache", "--replace", str(profiles))
    for name in _APPARMOR:
        run = ["run"]
        within = ("sh", "-c", f'echo "exec kdbus-{name}" >/proc/self/attr/exec && exec "$@"', "sh")
        for who, user in users.items():
            yield Confined(name, f"run and program, {who}", trouble_of(user, run, folder, around=within))
            yield Confined(name, f"program, {who}", trouble_of(user, run, folder, inside=within))
            trouble = trouble_with_server(users["root"], user, run, folder, around=within)
            yield Confined(name, f"run and program, {who}, with root's server", trouble)
            trouble = trouble_with_server(users["root"], user, run, folder, server_around=within)
            yield Confined(name, f"root's server, with a program of {who}", trouble)


def selinux(users: dict[str, User], folder: Path) -> Iterator[Confined]:
    """Everything without a policy and with each of ours. `folder` has PROGRAM and the compiler."""
    yield from _everything("no policy", users, folder)
    place = Path("/sys/fs/selinux")
    _do("mount", "-t", "selinuxfs", "selinuxfs", str(place))
    for name, forbidden in _SELINUX.items():
        source, policy = folder / f"{name}.conf", folder / f"{name}.policy"
        source.write_text(_policy(forbidden))
        _do(str(folder / "checkpolicy"), "-U", "allow", "-o", str(policy), str(source))
        (place / "load").write_bytes(policy.read_bytes())
        yield from _everything(name, users, folder)


TRIED = {"apparmor": apparmor, "selinux": selinux}


def _policy(forbidden: str) -> str:
    """A policy in which everything has one label, and may do all to itself but what is `forbidden` to processes."""
    allowed = " ".join(each for each in _PROCESS if each != forbidden)
    return "\n".join(
        (
            "class process",
            *(f"sid {name}" for name in _SIDS),
            f"class process {{ {' '.join(_PROCESS)} }}",
            "type all_t;",
            f"allow all_t self:process {{ {allowed} }};",
            "role all_r;",
            "role all_r types all_t;",
            "user all_u roles all_r;",
            *(f"sid {name} all_u:all_r:all_t" for name in _SIDS),
            "",
        )
    )


def _everything(under: str, users: dict[str, User], folder: Path) -> Iterator[Confined]:
    for who, user in users.items():
        yield Confined(under, f"run, {who}", trouble_of(user, ["run"], folder))
    for server, who in SERVERS:
        trouble = trouble_with_server(users[server], users[who], ["run"], folder)
        yield Confined(under, f"serve of {server}, {who}", trouble)


def _do(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr or done.stdout}")
