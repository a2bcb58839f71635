# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.namespace` in children that have a mount namespace of their own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from native import namespace as ns
from tests.support.children import in_child

Result = TypeVar("Result")


def enter_mount_namespace() -> None:
    """As root directly, as an ordinary user by way of a user namespace."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        ns.unshare(ns.CLONE_NEWNS)
    else:
        ns.unshare(ns.CLONE_NEWUSER | ns.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
    ns.mount(None, "/", None, ns.MS_REC | ns.MS_PRIVATE)


def can_have_mount_namespace() -> bool:
    """False where neither privileges nor user namespaces allow one."""

    def attempt() -> bool:
        try:
            enter_mount_namespace()
        except OSError:
            return False
        return True

    return in_child(attempt)


needs_mounts = pytest.mark.skipif(not can_have_mount_namespace(), reason="no mount namespace can be had here")


def in_mount_namespace(function: Callable[[], Result]) -> Result:
    """Runs `function` in a child with a mount namespace of its own."""

    def inside() -> Result:
        enter_mount_namespace()
        return function()

    return in_child(inside)


def error_of(function: Callable[[], object]) -> int | None:
    """The errno that it raises."""
    try:
        function()
    except OSError as error:
        return error.errno
    return None


@needs_mounts
def test_mount_and_unmount(tmp_path: Path) -> None:
    (tmp_path / "below").touch()

    def inside() -> tuple[list[str], int, list[str]]:
        ns.mount("test", str(tmp_path), "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=750,size=64k")
        (tmp_path / "within").touch()
        seen = os.listdir(tmp_path)
        mode = tmp_path.stat().st_mode & 0o7777
        ns.umount2(os.fsencode(tmp_path), ns.MNT_DETACH)
        return seen, mode, os.listdir(tmp_path)

    assert in_mount_namespace(inside) == (["within"], 0o750, ["below"])
    assert os.listdir(tmp_path) == ["below"]


@needs_mounts
def test_a_bind_mount_becomes_read_only(tmp_path: Path) -> None:
    def inside() -> int | None:
        ns.mount(str(tmp_path), str(tmp_path), None, ns.MS_BIND)
        ns.mount(None, str(tmp_path), None, ns.MS_REMOUNT | ns.MS_BIND | ns.MS_RDONLY)
        return error_of((tmp_path / "new").touch)

    assert in_mount_namespace(inside) == errno.EROFS


@needs_mounts
def test_a_tree_is_cloned_and_attached(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_text("content", encoding="ascii")

    def inside() -> str:
        tree = ns.open_tree(ns.AT_FDCWD, str(source), ns.OPEN_TREE_CLONE | ns.OPEN_TREE_CLOEXEC | ns.AT_RECURSIVE)
        assert not os.get_inheritable(tree)
        ns.move_mount(tree, "", ns.AT_FDCWD, str(target), ns.MOVE_MOUNT_F_EMPTY_PATH)
        return (target / "file").read_text(encoding="ascii")

    assert in_mount_namespace(inside) == "content"


@needs_mounts
def test_a_file_system_is_made_before_it_is_mounted(tmp_path: Path) -> None:
    def inside() -> tuple[int, bool]:
        context = ns.fsopen("tmpfs", ns.FSOPEN_CLOEXEC)
        ns.fsconfig(context, ns.FSCONFIG_SET_STRING, "mode", "711")
        ns.fsconfig(context, ns.FSCONFIG_CMD_CREATE)
        mounted = ns.fsmount(context, ns.FSMOUNT_CLOEXEC, ns.MOUNT_ATTR_NOSUID)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=mounted))
        ns.move_mount(mounted, "", ns.AT_FDCWD, str(tmp_path), ns.MOVE_MOUNT_F_EMPTY_PATH)
        return tmp_path.stat().st_mode & 0o7777, bool(os.statvfs(tmp_path).f_flag & os.ST_NOSUID)

    assert in_mount_namespace(inside) == (0o711, True)


@needs_mounts
def test_returning_to_a_namespace() -> None:
    def inside() -> tuple[bool, bool]:
        enter_mount_namespace()
        first = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        name = os.readlink("/proc/self/ns/mnt")
        ns.unshare(ns.CLONE_NEWNS)
        changed = os.readlink("/proc/self/ns/mnt") != name
        ns.setns(first, ns.CLONE_NEWNS)
        return changed, os.readlink("/proc/self/ns/mnt") == name

    assert in_child(inside) == (True, True)


def test_lookup_stays_beneath(tmp_path: Path) -> None:
    (tmp_path / "inside").write_text("x", encoding="ascii")
    (tmp_path / "out").symlink_to("/etc/passwd")
    directory = os.open(tmp_path, os.O_PATH)
    descriptor = ns.openat2(directory, "inside", os.O_RDONLY | os.O_CLOEXEC, resolve=ns.RESOLVE_BENEATH)
    assert os.read(descriptor, 10) == b"x"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    assert error_of(lambda: ns.openat2(directory, "out", os.O_RDONLY, resolve=ns.RESOLVE_BENEATH)) == errno.EXDEV
    assert error_of(lambda: ns.openat2(directory, "out", os.O_RDONLY, resolve=ns.RESOLVE_NO_SYMLINKS)) == errno.ELOOP
    assert error_of(lambda: ns.openat2(directory, "out", os.O_RDONLY, resolve=ns.RESOLVE_IN_ROOT)) == errno.ENOENT
    os.close(directory)


def test_a_new_file_gets_its_mode(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_PATH)
    os.close(ns.openat2(directory, "new", os.O_CREAT | os.O_WRONLY, 0o600))
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o600
    assert error_of(lambda: ns.openat2(directory, "new", os.O_RDONLY, 0o600)) == errno.EINVAL
    assert error_of(lambda: ns.openat2(directory, "new", 1 << 62)) == errno.EINVAL
    os.close(directory)


def test_errors_name_what_was_tried(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(OSError, match=r"unmount .*missing"):
        ns.umount2(missing)
    with pytest.raises(OSError, match=r"mount None on .*missing"):
        ns.mount(None, missing, "tmpfs", 0)
    with pytest.raises(FileNotFoundError, match=r"open the mounts at .*missing"):
        ns.open_tree(ns.AT_FDCWD, missing, 0)
    with pytest.raises(OSError, match="move the mount"):
        ns.move_mount(ns.AT_FDCWD, missing, ns.AT_FDCWD, missing, 0)
    with pytest.raises(OSError, match="type 'no-such-type'"):
        ns.fsopen("no-such-type")
    with pytest.raises(OSError, match="configure a file system"):
        ns.fsconfig(-1, ns.FSCONFIG_CMD_CREATE)
    with pytest.raises(OSError, match="make a mount"):
        ns.fsmount(-1)
    with pytest.raises(OSError, match="unshare namespaces 0x1"):
        ns.unshare(1)
    with pytest.raises(OSError, match="behind descriptor -1"):
        ns.setns(-1)


def test_a_zero_byte_in_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        ns.umount2("/tmp\0/x")
    with pytest.raises(ValueError, match="zero byte"):
        ns.mount(b"a\0b", "/", None, 0)


def test_paths_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe"
    Path(os.fsdecode(name)).touch()
    os.close(ns.openat2(ns.AT_FDCWD, name, os.O_RDONLY))
    os.close(ns.openat2(ns.AT_FDCWD, os.fsdecode(name), os.O_RDONLY))
