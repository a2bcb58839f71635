# SPDX-License-Identifier: GPL-2.0-or-later
"""Joining a server's domain in path mode: real servers, launchers and programs, in surroundings that have no mounts.

`mixed`: the server can mount, if its user can, and programs ask for path mode. `container`: everything runs under an
imitation of Docker's default seccomp profile (`tests/programs/docker_profile.c`), where nobody can mount, and has to
find out by itself; root has all capabilities there, as with `--cap-add SYS_PTRACE`, or those that Docker leaves.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.test_path_mode import (
    CALLS,
    NEEDS_PTRACE_CAPABILITY,
    cases,
    check,
    compiled,
    wait_for_removal,
    without_capabilities,
)
from tests.end_to_end.test_serve import Place, member, place, somebody, uid
from tests.interposer.test_view import needs_root
from tests.support.compiling import compile_program
from tests.support.supervised import child_of
from tests.support.users import User, current_user

__all__ = ["member", "place", "somebody"]

MASK = "/sys/module/kdbus/parameters/attach_flags_mask"
DOCKERS_CAPABILITIES = "cap_sys_admin,cap_sys_ptrace,cap_sys_resource"


@pytest.fixture(scope="session")
def profile(open_folder: Path) -> str:
    """A program that runs others under Docker's default profile."""
    folder = open_folder / "profile"
    folder.mkdir()
    folder.chmod(0o755)
    return str(compile_program("docker_profile", folder, "-O2"))


@pytest.fixture(params=["mixed", "container"])
def without_mounts(request: pytest.FixtureRequest, place: Place, profile: str) -> Place:
    """A place whose programs run in path mode."""
    if request.param == "mixed":
        place.options = ("--mode", "path")
    else:
        place.prefix = (profile,)
    return place


def private_folder(place: Place, user: User) -> str:
    """The server's private folder; empty if it can mount, and needs none."""
    status, seen = place.join(user, "sh", "-c", "readlink /proc/self/fd/9 9</sys/fs/kdbus").end()
    assert status == 0, seen
    folder, _, name = seen.strip().rpartition("/")
    mounts = user.identity is None and os.geteuid() == 0 and not place.prefix
    assert (folder == "", os.path.isdir(folder), name == "kdbus") == (mounts, not mounts, not mounts), seen
    return folder


def test_service_and_clients_are_started_apart(without_mounts: Place, user: User) -> None:
    place, bus = without_mounts, f"{uid(user)}-x"
    server = place.serve(user)
    private = private_folder(place, user)
    service = place.service(user)
    for _ in range(2):
        status, answer = place.ask(user, bus, 20)
        assert (status, answer[0]) == (0, str(uid(user))), answer
        assert int(answer[1]) not in (0, service.pid)
    assert place.names(user) == [bus, "control"]
    server.kill(signal.SIGTERM)
    assert server.end() == (0, "")
    assert service.end() == (0, "hang-up\n")
    assert not os.path.lexists(private)
    assert os.listdir(place.folder) == []


def test_programs_of_both_modes_meet(place: Place, user: User) -> None:
    place.serve(user)
    by_mount = place.service(user, "mounted")
    place.options = ("--mode", "path")
    by_path = place.service(user, "by-path")
    own = uid(user)
    for options in (("--mode", "path"), ("--mode", "mount")):
        place.options = options
        assert place.names(user) == [f"{own}-by-path", f"{own}-mounted", "control"]
        for bus in ("by-path", "mounted"):
            assert place.ask(user, f"{own}-{bus}")[0] == 0
    by_mount.kill(signal.SIGTERM)
    by_mount.end()
    by_path.kill(signal.SIGTERM)
    by_path.end()
    for options in (("--mode", "path"), ("--mode", "mount")):
        place.options = options
        assert place.names(user) == ["control"]


@needs_root
def test_users_meet_as_permissions_allow(without_mounts: Place, ordinary_user: User, somebody: User) -> None:
    """Nodes have their true owners, and credentials are the kernel's."""
    place = without_mounts
    place.serve(current_user())
    place.service(ordinary_user, "open", "world")
    place.service(ordinary_user, "closed", "user")
    own, other = uid(ordinary_user), uid(somebody)
    assert place.ask(somebody, f"{own}-open")[1][0] == str(other)
    assert place.ask(ordinary_user, f"{own}-open")[1][0] == str(own)
    assert place.ask(current_user(), f"{own}-open")[1][0] == "0"
    assert place.ask(somebody, f"{own}-closed") == (3, ["connect:", "EACCES"])
    assert place.ask(ordinary_user, f"{own}-closed")[1][0] == str(own)
    for user in (current_user(), ordinary_user, somebody):
        status, output = place.join(user, place.member, "list").end()
        lines = [f"{own}-closed {own} 500", f"{own}-open {own} 555", "control 0 666"]
        assert (status, output.splitlines()) == (0, lines)
    status, output = place.join(somebody, "ls", f"/sys/fs/kdbus/{own}-closed").end()
    assert status == 2 and "ermission denied" in output, output
    # An owner has no power over the folder, by path or by descriptor.
    script = f"cd /sys/fs/kdbus && {{ rmdir {own}-open; rm -r {own}-open; mkdir y; chmod 777 .; }}"
    status, output = place.join(ordinary_user, "sh", "-c", script).end()
    assert status != 0 and output.count("\n") >= 4, output
    assert place.names(somebody) == [f"{own}-closed", f"{own}-open", "control"]


@needs_root
def test_the_parameter_is_one_for_all(without_mounts: Place, ordinary_user: User) -> None:
    place = without_mounts
    place.serve(current_user())
    assert place.join(ordinary_user, "sh", "-c", f"cat {MASK}; echo 0 > {MASK}").end()[1].startswith("10271\n")
    place.service(ordinary_user, "x", "world")
    assert place.join(current_user(), "sh", "-c", f"echo 1 > {MASK}").end() == (0, "")
    assert place.join(ordinary_user, "cat", MASK).end() == (0, "1\n")
    # The service cannot see any more who asks.
    assert place.ask(ordinary_user, f"{uid(ordinary_user)}-x") == (0, ["plain"])


def test_the_parameter_is_there(without_mounts: Place, user: User) -> None:
    without_mounts.serve(user)
    assert without_mounts.join(user, "cat", MASK).end() == (0, "10271\n")


def test_death_of_a_launcher_or_a_program_disturbs_nobody(without_mounts: Place, user: User) -> None:
    place, own = without_mounts, uid(user)
    place.serve(user)
    service, other = place.service(user, "x"), place.service(user, "other")
    other.kill()
    assert other.end()[0] == -signal.SIGKILL
    assert place.ask(user, f"{own}-other")[0] == 0, "a program outlives its launcher, nodes and all"
    held = place.join(user, place.member, "hold", f"{own}-x")
    assert held.line() == "connected"
    os.kill(child_of(service.pid), signal.SIGKILL)
    assert service.end()[0] == -signal.SIGKILL
    assert held.end() == (0, "hang-up\n"), "the bus has ended"
    assert place.ask(user, f"{own}-other")[0] == 0
    assert place.names(user) == [f"{own}-other", "control"]


def test_sigterm_ends_the_domain_as_an_unmount_would(without_mounts: Place, user: User) -> None:
    place, own = without_mounts, uid(user)
    server = place.serve(user)
    service = place.service(user)
    held = place.join(user, place.member, "hold", f"{own}-x")
    blocked = place.join(user, place.member, "block", f"{own}-x")
    file = place.folder / "file"
    file.touch()
    file.chmod(0o666)
    later = place.join(user, place.member, "open", str(file))
    node = place.join(user, place.member, "open", "/sys/fs/kdbus/control")
    assert (held.line(), blocked.line()) == ("connected", "asking")
    assert (later.line(), node.line()) == ("waiting", "waiting")
    server.kill(signal.SIGTERM)
    assert server.end() == (0, "")
    assert not os.path.lexists(place.socket)
    assert held.end() == (0, "hang-up\n")
    assert service.end() == (0, "hang-up\n")
    assert blocked.end()[0] == 3
    later.say("now")
    assert later.end() == (0, "opened\n"), "plain files can still be opened"
    node.say("now")
    assert node.end() == (3, "open: ENOENT\n")


def test_sudden_death_of_the_server(without_mounts: Place, user: User) -> None:
    """Programs see hang-ups, and nothing stays of the nodes but the socket, whose place another server takes."""
    place = without_mounts
    server = place.serve(user)
    private = private_folder(place, user)
    service = place.service(user)
    blocked = place.join(user, place.member, "block", f"{uid(user)}-x")
    assert blocked.line() == "asking"
    server.kill()
    assert server.end()[0] == -signal.SIGKILL
    assert service.end() == (0, "hang-up\n")
    assert blocked.end() == (3, "send: ENOSYS\n")
    if private:
        wait_for_removal(Path(private))
    place.serve(user)
    place.service(user)
    assert place.ask(user, f"{uid(user)}-x")[0] == 0


def test_nothing_is_left_in_the_server(without_mounts: Place, user: User) -> None:
    place = without_mounts
    server = place.serve(user)
    place.service(user)
    bus = f"{uid(user)}-x"

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    for _ in range(3):
        assert place.ask(user, bus)[0] == 0
    before = descriptors()
    for _ in range(12):
        assert place.ask(user, bus)[0] == 0
    # The last ones may not have been tidied up yet.
    assert descriptors() <= before + 11


@needs_root
def test_a_container_with_dockers_capabilities(place: Place, profile: str, ordinary_user: User) -> None:
    """Root's server serves root's programs. Those of others it may not inspect, and says so."""
    container = place.prefix = (*without_capabilities(DOCKERS_CAPABILITIES), profile)
    place.serve(current_user())
    place.service(current_user())
    assert place.ask(current_user(), "0-x", 5)[1][0] == "0"
    place.prefix = (profile,)
    status, output = place.join(ordinary_user, "echo", "executed").end()
    assert status == 125 and "executed" not in output and output.count("\n") == 1, output
    for part in (place.socket, f"uid {uid(ordinary_user)}", "may not inspect", "process_vm_readv", "CAP_SYS_PTRACE"):
        assert part in output, output
    place.prefix = container
    assert place.ask(current_user(), "0-x")[0] == 0


@needs_root
def test_without_sys(place: Place, ordinary_user: User) -> None:
    """Root may make mount namespaces, but there is nothing to mount on, as in a chroot."""
    script = "mount -t tmpfs none /sys && echo ready && read line"
    holder = place.start(current_user(), "unshare", "--mount", "sh", "-c", script)
    assert holder.line() == "ready"
    enter = ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt")
    place.prefix = enter
    place.serve(current_user())
    place.service(current_user(), "x", "world")
    assert place.ask(current_user(), "0-x")[1][0] == "0"
    place.prefix = (*enter, "setpriv", f"--reuid={uid(ordinary_user)}", "--clear-groups")
    as_ordinary_user = User(ordinary_user.name, None, ordinary_user.python, ordinary_user.environment)
    assert place.ask(as_ordinary_user, "0-x")[1][0] == str(uid(ordinary_user))


@needs_root
def test_nobody_is_led_out_of_a_container(place: Place, profile: str) -> None:
    """The private folder of a server that cannot mount lies where the server is."""
    place.prefix = (profile,)
    place.serve(current_user())
    place.prefix = ("unshare", "--mount", profile)
    status, output = place.join(current_user(), "echo", "executed").end()
    assert status == 125 and "executed" not in output and output.count("\n") == 1, output
    assert "another root or mount namespace than the server" in output and "CAP_SYS_ADMIN" in output, output
    place.prefix = (profile,)
    assert place.names(current_user()) == ["control"]


@needs_root
def test_folders_of_a_server_that_mounts_lead_nowhere(place: Place, profile: str, user: User) -> None:
    """A server outside of the container: with its descriptors nobody comes out."""
    place.serve(current_user())
    place.prefix = (profile,)
    place.service(user, "x", "world")
    assert place.ask(user, f"{uid(user)}-x")[0] == 0
    # Executing is among the calls that are not served, so the kernel itself follows the path.
    for way_out in ("cd /sys/fs/kdbus", "cd /sys/module/kdbus/parameters"):
        inside, outside = f"{way_out} && ls", f"{way_out} && exec ../../../../../../../../bin/echo executed"
        assert place.join(user, "sh", "-c", inside).end()[0] == 0
        status, output = place.join(user, "sh", "-c", outside).end()
        assert status == 127 and output.count("executed") == output.count("echo executed"), output


@needs_root
def test_a_program_that_could_mount_joins_root_who_cannot(place: Place, profile: str, ordinary_user: User) -> None:
    place.serve(current_user(), profile)
    service = place.service(ordinary_user)
    assert place.ask(ordinary_user, f"{uid(ordinary_user)}-x")[0] == 0
    assert place.names(current_user()) == [f"{uid(ordinary_user)}-x", "control"]
    place.options = ("--mode", "mount")
    status, output = place.join(ordinary_user, "echo", "executed").end()
    assert status == 125 and "executed" not in output and output.count("\n") == 1, output
    assert "has no kdbusfs that programs of other users could mount; run the program without `--mode mount`" in output
    service.kill(signal.SIGTERM)


def test_mount_mode_can_be_insisted_on(place: Place, user: User, profile: str) -> None:
    place.prefix, place.options = (profile,), ("--mode", "mount")
    place.serve(user)
    status, output = place.join(user, "echo", "executed").end()
    assert status == 125 and "executed" not in output and "run without `--mode mount`" in output, output


def test_calls_say_what_the_kernel_says(without_mounts: Place, user: User, open_folder: Path) -> None:
    """The cases that `test_path_mode.py` runs in both modes."""
    program = str(compiled(CALLS, open_folder))
    without_mounts.serve(user)
    wanted = [case for case in cases(CALLS, user) if user.name == "root" or case not in NEEDS_PTRACE_CAPABILITY]
    status, output = without_mounts.join(user, program, *wanted).end()
    check(output, status)
    assert output.count("\nok ") == len(wanted) - 1 and output.startswith("ok "), output
