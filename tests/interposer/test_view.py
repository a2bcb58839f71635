# SPDX-License-Identifier: GPL-2.0-or-later
"""The mounted view: real mounts, in children with namespaces of their own, as root and as an ordinary user."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interposer.errors import MountNamespaceUnavailable, SysUnavailable
from interposer.launch import view
from interposer.traps.module_parameter import AttachFlagsMask
from native import namespace
from tests.support.children import in_child

NOBODY = 65534
PR_SET_DUMPABLE = 4
KDBUS = "/sys/fs/kdbus"
MASK = "/sys/module/kdbus/parameters/attach_flags_mask"


def become_nobody() -> None:
    """Change the user for good. The kernel then takes /proc/self/uid_map away from the process; ask for it back."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0


@pytest.fixture(params=["root", "ordinary"])
def as_user(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Runs a function in a child, as root or as an ordinary user."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")

    def run(function: Callable[[], Any]) -> Any:
        def body() -> Any:
            if request.param == "ordinary" and os.geteuid() == 0:
                become_nobody()
            return function()

        return in_child(body)

    return run


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the tests do not run as root")


def enter() -> view.View:
    return view.build(view.enter_mount_namespace())


def entries(folder: str) -> dict[str, tuple[int, int, int]]:
    """What identifies each entry: the same device, inode and kind are the same file."""
    found = {}
    for name in os.listdir(folder):
        status = os.lstat(f"{folder}/{name}")
        found[name] = (status.st_dev, status.st_ino, status.st_mode)
    return found


def test_everything_else_below_sys_stays_what_it_was(as_user: Callable[[Callable[[], Any]], Any]) -> None:
    def body() -> Any:
        before = entries("/sys/fs"), entries("/sys/module"), entries("/sys/fs/cgroup")
        enter()
        return before, (entries("/sys/fs"), entries("/sys/module"), entries("/sys/fs/cgroup"))

    before, after = as_user(body)
    for known, seen in zip(before[:2], after[:2], strict=True):
        seen.pop("kdbus")
        assert seen == known
    assert before[2] == after[2], "mounts below are bound through as well"


def test_the_view_stays_inside(as_user: Callable[[Callable[[], Any]], Any]) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    as_user(lambda: bool(enter()))
    assert Path("/proc/self/mountinfo").read_text() == before
    assert not os.path.exists(MASK)


@needs_root
def test_shared_mounts_do_not_carry_the_view_outside() -> None:
    def body() -> Any:
        namespace.unshare(namespace.CLONE_NEWNS)
        namespace.mount(None, "/", None, namespace.MS_REC | namespace.MS_SHARED)
        before = os.listdir("/sys/fs")
        in_child(lambda: bool(enter()))
        return before, os.listdir("/sys/fs")

    before, after = in_child(body)
    assert before == after


@needs_root
def test_nothing_leads_out_of_the_shared_folders() -> None:
    """Whoever gets a descriptor of one of them, in another namespace or a chroot, does not get the server's root."""

    def body() -> Any:
        assert view.own_mount_namespace()
        shared = view.SharedMounts()
        found = []
        for folder in (shared.kdbus, shared.module):
            above = os.stat("..", dir_fd=folder)
            found.append((above.st_dev, above.st_ino) == (os.fstat(folder).st_dev, os.fstat(folder).st_ino))
        return found, sorted(os.listdir(shared.kdbus)), sorted(os.listdir(shared.module))

    assert in_child(body) == ([True, True], ["control"], ["parameters"])


def test_folders_and_parameter_look_as_the_kernel_makes_them(as_user: Callable[[Callable[[], Any]], Any]) -> None:
    def body() -> Any:
        enter()
        own_namespace = os.readlink("/proc/self/ns/user") != outside
        flags = {line.split()[4]: line.split()[5] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (KDBUS, f"{KDBUS}/control", MASK)]
        return own_namespace, modes, os.stat(MASK).st_uid, os.getuid(), Path(MASK).read_text(), flags[KDBUS]

    outside = os.readlink("/proc/self/ns/user")
    own_namespace, modes, owner, user, content, flags = as_user(body)
    assert modes == [0o555, 0o666, 0o444 if own_namespace else 0o644]
    assert owner == (user if own_namespace else 0)
    assert content == "10271\n"
    assert {"nosuid", "nodev"} <= set(flags.split(","))


def test_nodes_made_outside_appear_inside(as_user: Callable[[Callable[[], Any]], Any]) -> None:
    def body() -> Any:
        folder = enter().kdbus_directory
        os.mkdir("0-bus", 0o755, dir_fd=folder)
        os.close(os.open("0-bus/bus", os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o600, dir_fd=folder))
        appeared = os.path.isdir(f"{KDBUS}/0-bus"), os.path.isfile(f"{KDBUS}/0-bus/bus")
        os.unlink("0-bus/bus", dir_fd=folder)
        os.rmdir("0-bus", dir_fd=folder)
        return appeared, os.listdir(KDBUS), os.listdir(folder)

    assert as_user(body) == ((True, True), ["control"], ["control"])


def test_descriptors_do_not_keep_the_mount_busy(as_user: Callable[[Callable[[], Any]], Any]) -> None:
    def body() -> Any:
        built = enter()
        namespace.umount2(KDBUS)
        os.mkdir("late", dir_fd=built.kdbus_directory)
        return os.listdir(KDBUS), sorted(os.listdir(built.kdbus_directory))

    assert as_user(body) == ([], ["control", "late"])


@needs_root
def test_root_writes_the_mask_with_immediate_effect() -> None:
    def body() -> Any:
        mask = AttachFlagsMask(enter().parameters_directory)
        seen = [mask.current()]
        for written in ("5", "0x3f\n", "nonsense", "", "18446744073709551615\n", "18446744073709551616"):
            Path(MASK).write_text(written)
            seen.append(mask.current())
        mask.close()
        return seen

    assert in_child(body) == [0x281F, 5, 0x3F, 0x3F, 0x3F, 2**64 - 1, 2**64 - 1]


@needs_root
def test_sys_may_be_read_only() -> None:
    def body() -> Any:
        namespace.unshare(namespace.CLONE_NEWNS)
        namespace.mount(None, "/", None, namespace.MS_REC | namespace.MS_PRIVATE)
        namespace.mount(None, "/sys", None, namespace.MS_REMOUNT | namespace.MS_BIND | namespace.MS_RDONLY)
        enter()
        Path(MASK).write_text("1")
        return os.statvfs("/sys").f_flag & os.ST_RDONLY, os.statvfs("/sys/fs/ext4").f_flag & os.ST_RDONLY

    if not os.path.isdir("/sys/fs/ext4"):
        pytest.skip("no ext4 in this kernel to look at")
    assert in_child(body) == (os.ST_RDONLY, os.ST_RDONLY)


@needs_root
def test_ordinary_user_in_a_view_has_no_privilege_to_change_it() -> None:
    def body() -> Any:
        become_nobody()
        enter()
        script = f"echo 1 > {MASK} || echo mask; mkdir {KDBUS}/x || echo node; umount {KDBUS} || echo umount"
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.dup2(writing, 1)
            os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
            os.execv("/bin/sh", ["sh", "-c", script])
        os.close(writing)
        with open(reading) as pipe:
            return pipe.read().split()

    assert in_child(body) == ["mask", "node", "umount"]


@needs_root
def test_root_directory_without_sys_is_a_typed_error(tmp_path: Path) -> None:
    def body() -> Any:
        os.chroot(tmp_path)
        os.chdir("/")
        with pytest.raises(SysUnavailable) as raised:
            enter()
        return str(raised.value)

    assert "/sys" in in_child(body)
    # With a mount point at /, it is /sys/fs itself that is missed.
    (tmp_path / "proc").mkdir()

    def mounted_root() -> Any:
        namespace.unshare(namespace.CLONE_NEWNS)
        namespace.mount(None, "/", None, namespace.MS_REC | namespace.MS_PRIVATE)
        namespace.mount(tmp_path.as_posix(), tmp_path.as_posix(), None, namespace.MS_BIND)
        os.chdir(tmp_path)
        return body()

    assert "/sys/fs" in in_child(mounted_root)


@needs_root
def test_no_namespace_to_be_had_is_a_typed_error(tmp_path: Path) -> None:
    def body() -> Any:
        os.chroot(tmp_path)  # There, user_namespaces(7) are refused.
        os.chdir("/")
        become_nobody()
        with pytest.raises(MountNamespaceUnavailable) as raised:
            enter()
        return str(raised.value)

    assert "path mode" in in_child(body)
