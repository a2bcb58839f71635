# SPDX-License-Identifier: GPL-2.0-or-later
"""Path mode, end to end: where there is no mount namespace, real programs find kdbus all the same.

The cases of `tests/programs/path_calls.c` run in both modes: what the supervisor answers must be what the kernel says.
All other programs of end-to-end cases run in path mode once as a whole, as everything behind `open` is shared.

Then the surroundings that path mode is for are imitated, each as exactly as a test can, and `kdbus run` has to find out
by itself what can be done there: a container under Docker's default seccomp profile (a filter of the test's own,
`tests/programs/docker_profile.c`), no capabilities and no user namespaces (forbidden within a user namespace of the
test's own), a chroot without /sys.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.project.test_selftests import NAMES, harness
from tests.support.compiling import PROGRAMS, compile_program
from tests.support.users import PROJECT, User

__all__ = ["harness"]

CALLS = "path_calls"
_APART = {
    *(CALLS, "i386", "mixed-service", "mixed-service-2", "mounts", "namespaces", "traced"),
    *("checked", "faults", "shelf_hostile", "snapshot219", "version2"),
}
"""Programs that are about mounts, user namespaces, and threads traced by others, and those that need another program,
or options of `kdbus`, which their own tests give."""
OTHERS = sorted(
    path.stem
    for path in PROGRAMS.glob("*.c")
    if re.search(r"^CASE\(", path.read_text(), re.MULTILINE) and path.stem not in _APART
)
"""All other programs of cases."""

NEEDS_PTRACE_CAPABILITY = {"undumpable", "other_users"}
"""Cases in which a process cannot be inspected by a supervisor of the same user, or by root with fewer capabilities."""

_FORBIDDEN = re.compile(r"^kdbus: serving the calls of thread \d+: the kernel lets `kdbus` neither read .*\n", re.M)
"""What `kdbus` says of one of these."""

NEED_DESCRIPTORS = ("sync-reply",)
"""Selftests that need pidfd_getfd(2): one cancels a SEND with an eventfd."""


def compiled(name: str, folder: Path) -> Path:
    target = folder / name
    return target if target.exists() else compile_program(name, folder, "-O2")


def cases(program: str, user: User) -> list[str]:
    found = re.findall(r"^(ROOT_)?CASE\((\w+)\)", (PROGRAMS / f"{program}.c").read_text(), re.MULTILINE)
    return [case for needs_root, case in found if user.name == "root" or not needs_root]


def check(output: str, status: int) -> None:
    """A program of cases has ended well, and `kdbus` has had nothing to say."""
    if status != 0 or "not ok" in output or "kdbus: " in output:
        pytest.fail(f"status {status}:\n{output}", pytrace=False)


@pytest.fixture(scope="module")
def samples(open_folder: Path) -> Path:
    """The folder with the samples, readable for everybody."""
    folder = open_folder / "samples"
    make = ["make", "-C", str(PROJECT / "samples"), f"BUILD_DIR={folder}"]
    subprocess.run(make, check=True, capture_output=True)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


def conversation(samples: Path, user: User) -> list[str]:
    """A command that has a service and a client talk."""
    bus = f"{os.geteuid() if user.identity is None else user.identity}-conversation"
    return ["sh", "-c", f"{samples}/service {bus} & {samples}/client {bus} && wait $!"]


@pytest.mark.parametrize("mode", ["mount", "path", "path --no-preload"])
def test_calls_say_the_same_in_both_modes(mode: str, user: User, open_folder: Path) -> None:
    program = str(compiled(CALLS, open_folder))
    outcome = user.run(user.kdbus("run", "--mode", *mode.split(), "--", program, *cases(CALLS, user)))
    check(outcome.output, outcome.status)
    assert len(re.findall("^ok ", outcome.output, re.MULTILINE)) == len(cases(CALLS, user))


def test_calls_of_a_program_of_32_bits(user: User, open_folder: Path) -> None:
    """Its calls have other numbers and other structures."""
    folder = open_folder / f"i386-{user.identity}"
    folder.mkdir()
    folder.chmod(0o755)
    try:
        program = compile_program(CALLS, folder, "-O2", "-m32")
    except subprocess.CalledProcessError:
        pytest.skip("needs a compiler and a C library for 32 bits: apt-get install gcc-multilib")
    outcome = user.run(user.kdbus("run", "--mode", "path", "--", str(program), *cases(CALLS, user)))
    check(outcome.output, outcome.status)


@pytest.mark.parametrize("program", OTHERS)
def test_everything_else_is_as_in_mount_mode(program: str, user: User, open_folder: Path) -> None:
    executable = str(compiled(program, open_folder))
    wanted = [case for case in cases(program, user) if user.name == "root" or case not in NEEDS_PTRACE_CAPABILITY]
    outcome = user.run(user.kdbus("run", "--mode", "path", "--", executable, *wanted))
    # Of a hostile target that cannot be dumped.
    check(_FORBIDDEN.sub("", outcome.output) if program == "hostile" else outcome.output, outcome.status)


def test_selftests(user: User, harness: Path) -> None:
    for name in NAMES:
        outcome = user.run(user.kdbus("run", "--mode", "path", "--", str(harness), "--test", name))
        assert outcome.status == 0 and re.search(": (OK|SKIPPED)$", outcome.output, re.M), f"{name}:\n{outcome.output}"


def test_samples_talk(user: User, samples: Path) -> None:
    outcome = user.run(user.kdbus("run", "--mode", "path", "--", *conversation(samples, user)))
    assert outcome.status == 0 and "HELLO FROM THE CLIENT" in outcome.output, outcome.output


def test_docker_profile(user: User, open_folder: Path, samples: Path) -> None:
    """Nothing of kcmp, pidfd_getfd, namespaces and mounts; as root with the capabilities that Docker leaves."""
    profile = [str(compiled("docker_profile", open_folder))]
    if user.name == "root":
        profile = [*without_capabilities("cap_sys_admin,cap_sys_ptrace,cap_sys_resource"), *profile]
    outcome = user.run([*profile, *user.kdbus("run", "--", *conversation(samples, user))])
    assert outcome.status == 0 and "HELLO FROM THE CLIENT" in outcome.output, outcome.output
    program = str(compiled(CALLS, open_folder))
    wanted = [case for case in cases(CALLS, user) if case not in NEEDS_PTRACE_CAPABILITY]
    outcome = user.run([*profile, *user.kdbus("run", "--", program, *wanted)])
    check(outcome.output, outcome.status)


def test_selftests_under_docker_profile(user: User, open_folder: Path, harness: Path) -> None:
    """As root with all capabilities, as some of them change the user of their processes."""
    profile = str(compiled("docker_profile", open_folder))
    for name in set(NAMES) - set(NEED_DESCRIPTORS):
        outcome = user.run([profile, *user.kdbus("run", "--", str(harness), "--test", name)])
        assert outcome.status == 0 and re.search(": (OK|SKIPPED)$", outcome.output, re.M), f"{name}:\n{outcome.output}"


def test_descriptors_under_docker_profile(user: User, samples: Path, open_folder: Path) -> None:
    """Memfds and pipes are passed all the same."""
    profile = str(compiled("docker_profile", open_folder))
    for sample, word in (("memfd", "20000 lines"), ("pass-fd", "written after the message was sent")):
        outcome = user.run([profile, *user.kdbus("run", "--", str(samples / sample))])
        assert outcome.status == 0 and word in outcome.output, outcome.output


def test_no_capabilities_and_no_user_namespaces(user: User, open_folder: Path, samples: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user"]
    if user.run([*namespace, "true"]).status != 0:
        pytest.skip("needs a user namespace to begin with")
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    bare = [*namespace, "sh", "-c", forbid, "sh", *without_capabilities("all")]
    assert user.run([*bare, *user.kdbus("run", "--mode", "mount", "--", "true")]).status == 125
    outcome = user.run([*bare, *user.kdbus("run", "--", str(compiled(CALLS, open_folder)), "working_folder")])
    check(outcome.output, outcome.status)
    assert "ok 1 - working_folder" in outcome.output
    outcome = user.run([*bare, "sh", "-c", 'exec "$@"', "sh", *user.kdbus("run", "--", str(samples / "sync-call"))])
    assert outcome.status == 0 and "caller was told: forty-two" in outcome.output, outcome.output


@pytest.mark.skipif(os.geteuid() != 0, reason="making a chroot needs root")
def test_chroot_without_sys(user: User, open_folder: Path, samples: Path) -> None:
    root = open_folder / f"root-of-{user.identity}"
    root.mkdir()
    become = [] if user.identity is None else ["/usr/bin/setpriv", f"--reuid={user.identity}", "--clear-groups"]
    prepare = f"mount --bind / {root} && mount --rbind /dev {root}/dev && mount -t proc proc {root}/proc"
    script = f'{prepare} && mount -t tmpfs none {root}/sys && exec {shutil.which("chroot")} {root} "$@"'
    whoever = User(user.name, None, user.python, user.environment)
    for command in (
        conversation(samples, user),
        [str(compiled(CALLS, open_folder)), "opened_in_every_way", "folder_listing", "through_symbolic_links"],
    ):
        kdbus = user.kdbus("run", "--", *command)
        outcome = whoever.run(["unshare", "--mount", "sh", "-c", script, "sh", *become, *kdbus], folder=PROJECT)
        check(outcome.output, outcome.status)
    root.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_sys_read_only(open_folder: Path, ordinary_user: User) -> None:
    command = ordinary_user.kdbus("run", "--mode", "path", "--", str(compiled(CALLS, open_folder)), "working_folder")
    become = ["setpriv", f"--reuid={ordinary_user.identity}", "--clear-groups"]
    whoever = User("root", None, ordinary_user.python, ordinary_user.environment)
    script = 'mount -o remount,bind,ro /sys && exec "$@"'
    outcome = whoever.run(["unshare", "--mount", "sh", "-c", script, "sh", *become, *command])
    check(outcome.output, outcome.status)


def test_the_program_is_told_of_as_in_mount_mode(user: User) -> None:
    assert user.run(user.kdbus("run", "--mode", "path", "--", "sh", "-c", "exit 3")).status == 3
    assert user.run(user.kdbus("run", "--mode", "path", "--", "sh", "-c", "kill -9 $$")).status == -signal.SIGKILL
    for program, status in (("no-such-program", 127), ("/etc/passwd", 126), ("/", 126), ("/no/such/program", 127)):
        outcome = user.run(user.kdbus("run", "--mode", "path", "--", program))
        assert (outcome.status, outcome.output.count("kdbus: ")) == (status, 1), outcome.output


def test_unknown_mode(user: User) -> None:
    outcome = user.run(user.kdbus("run", "--mode", "magic", "--", "true"))
    assert outcome.status == 125 and "'magic'" in outcome.output and "mount and path" in outcome.output


def test_nothing_is_left_behind(user: User, open_folder: Path) -> None:
    place = open_folder / "runtime"
    place.mkdir()
    place.chmod(0o777)
    user = replace(user, environment={**user.environment, "XDG_RUNTIME_DIR": str(place)})
    seen = user.run(user.kdbus("run", "--mode", "path", "--", "sh", "-c", "readlink /proc/self/fd/9 9</sys/fs/kdbus"))
    private = Path(seen.output.strip())
    assert private.name == "kdbus" and private.is_relative_to(place)
    assert user.run(user.kdbus("run", "--mode", "path", "--", "no-such-program")).status == 127
    assert not list(place.iterdir())
    place.rmdir()


def test_nothing_is_left_behind_when_the_supervisor_is_killed(user: User) -> None:
    """Its janitor removes the folder."""
    script = "readlink /proc/self/fd/9 9</sys/fs/kdbus; kill -9 $PPID"
    killed = user.run(user.kdbus("run", "--mode", "path", "--", "sh", "-c", script))
    private = Path(killed.output.splitlines()[0])
    assert killed.status == -signal.SIGKILL
    wait_for_removal(private.parent)


def wait_for_removal(folder: Path) -> None:
    """Wait until `folder` is gone; the pytest timeout is the limit."""
    watch = subprocess.run(["timeout", "20", "sh", "-c", 'while test -e "$0"; do :; done', str(folder)], check=False)
    assert watch.returncode == 0, f"{folder} is still there"


def without_capabilities(names: str) -> list[str]:
    if shutil.which("capsh") is None:
        pytest.skip("needs capsh: apt-get install libcap2-bin")
    return [str(shutil.which("capsh")), f"--drop={names}", "--shell=/usr/bin/env", "--"]
