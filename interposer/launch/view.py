# SPDX-License-Identifier: GPL-2.0-or-later
"""Mount mode: what the program finds below /sys, mounted in a namespace of its own.

Three things have to be there: a file system at /sys/fs/kdbus, and the module parameter
/sys/module/kdbus/parameters/attach_flags_mask, and everything else as it was. Real files give the program the kernel's
own lookup, stat, readdir, permissions and inotify for nothing. sysfs does not let anybody create a folder, so a
small tmpfs covers /sys/fs, and another one /sys/module; each entry that they hide is bound through, with all
mounts below it. The view is built by the child between fork and exec; the parent, which stays outside, gets
descriptors of two folders and makes and removes the nodes through them.

Decisions:

- The new mount calls (open_tree(2), move_mount(2), fsopen(2); Linux 5.2) work on descriptors: hidden entries stay
  reachable without /proc, no path is looked up twice, and no name needs quoting.
- The parent's descriptors are opened from detached clones of the mounts (OPEN_TREE_CLONE). A descriptor from the
  mount that the program sees would keep the program's own umount of /sys/fs/kdbus busy.
- All entries of /sys/module are bound, one by one. Symbolic links to one bind are quicker (0.3 ms instead of 1.1 ms for
  78 modules), but lstat(2), `find -type d` and `cd module/..` would tell. overlayfs hides the mounts below it
  and copies parameter files up, so that writes to them would be lost.
- All mounts of the namespace become slaves: what the host mounts later appears, what the program mounts stays inside.

Weaknesses: statfs(2) of /sys/fs, /sys/module and /sys/fs/kdbus says tmpfs. A module loaded later does not appear.
In a user namespace one user is mapped, so the covering folders belong to that user instead of root; their write bits
are taken away, and those of the parameter too, because it is only root who may write it. (The user could give
them back; the view is nobody else's.) As kdbusfs gives root no way to create files and tmpfs does, root can put
files of its own there.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from interposer.errors import MountNamespaceUnavailable, SysUnavailable, ViewFailed
from native import namespace

KDBUS_DIRECTORY_MODE = 0o555
"""A domain's folder, readable and searchable for the world, writable for nobody (reference: `kdbus_domain_new`)."""

CONTROL_MODE = 0o666
"""The control node of a domain, world-accessible (reference: `kdbus_domain_control_new`)."""

DEFAULT_ATTACH_FLAGS_MASK = 0x281F
"""TIMESTAMP, CREDS, PIDS, AUXGROUPS, NAMES, SECLABEL, CONN_DESCRIPTION (reference: `main.c`)."""

MASK_FILE = "attach_flags_mask"
MASK_MODE = 0o644


class Mirror(NamedTuple):
    """Descriptors of two mounts that have no place yet: copies of `SharedMounts`, to be attached once.

    `kdbus` belongs at /sys/fs/kdbus, `module` at /sys/module/kdbus.
    """

    kdbus: int
    module: int


class View(NamedTuple):
    """Descriptors of two folders (O_RDONLY | O_DIRECTORY, close-on-exec).

    `kdbus_directory` is what the program sees at /sys/fs/kdbus, `parameters_directory` what it sees at
    /sys/module/kdbus/parameters. The program's mounts and umounts do not touch them.
    """

    kdbus_directory: int
    parameters_directory: int


def enter_mount_namespace() -> bool:
    """Move this process, which must have one thread, into a new mount namespace whose mounts are slaves.

    With CAP_SYS_ADMIN the namespace is made directly; otherwise within a new user namespace, where the caller's own
    user and group are mapped to themselves and setgroups(2) is denied, as the kernel demands (user_namespaces(7)).
    Returns whether a user namespace was made; the process has all capabilities in it until it executes a program.
    Raises `MountNamespaceUnavailable`.
    """
    if own_mount_namespace():
        return False
    enter_user_namespace()
    _make_slave()
    return True


def enter_user_namespace() -> None:
    """Move this process, which must have one thread, into a new user namespace with a new mount namespace.

    Raises `MountNamespaceUnavailable`.
    """
    user, group = os.geteuid(), os.getegid()
    attempted = "making a mount namespace for the program"
    try:
        namespace.unshare(namespace.CLONE_NEWUSER | namespace.CLONE_NEWNS)
        maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        for file, content in maps.items():
            attempted = f"writing /proc/self/{file} of the program's user namespace"
            with _Folder(os.open(f"/proc/self/{file}", os.O_WRONLY | os.O_CLOEXEC)) as descriptor:
                os.write(descriptor, content.encode())
    except OSError as error:
        raise MountNamespaceUnavailable(
            attempted,
            f"{os.strerror(error.errno or 0)}, with and without a user namespace",
            "run without `--mode mount`, as path mode needs no namespace; or run as root, or allow user namespaces "
            "(`kdbus doctor` tells what forbids them)",
        ) from error


def build(own_user_namespace: bool) -> View:
    """Cover /sys/fs and /sys/module of this process's mount namespace.

    `own_user_namespace` is what `enter_mount_namespace` returned. Raises `SysUnavailable` when there is no /sys
    to cover, `ViewFailed` when a mount is refused.
    """
    folders = _build(own_user_namespace, None)
    assert folders is not None
    return folders


def build_mirror(own_user_namespace: bool, mirror: Mirror) -> None:
    """As `build`, but attach and close the mounts of `mirror`, instead of making file systems."""
    _build(own_user_namespace, mirror)


def _build(own_user_namespace: bool, mirror: Mirror | None) -> View | None:
    unwritable = 0o222 if own_user_namespace else 0
    try:
        with _Folder(_cover("/sys/fs", unwritable)) as cover:
            os.mkdir("kdbus", 0o755, dir_fd=cover)
            with _Folder(mirror.kdbus if mirror else _tmpfs("kdbusfs", KDBUS_DIRECTORY_MODE, 0)) as mounted:
                if mirror is None:
                    _create_control(mounted)
                _attach(mounted, cover, "kdbus")
                if mirror is None:
                    # Only now: before Linux 6.15 a mount that is not attached cannot be cloned.
                    kdbus_directory = _open_detached(mounted, "")
        with _Folder(_cover("/sys/module", unwritable)) as cover:
            os.mkdir("kdbus", dir_fd=cover)
            if mirror is not None:
                with _Folder(mirror.module) as mounted:
                    _attach(mounted, cover, "kdbus")
                return None
            os.mkdir("kdbus/parameters", dir_fd=cover)
            for folder in ("kdbus", "kdbus/parameters"):
                os.chmod(folder, 0o755 & ~unwritable, dir_fd=cover)
            _create_mask(cover, "kdbus/parameters", MASK_MODE & ~unwritable)
            parameters_directory = _open_detached(cover, "kdbus/parameters")
    except OSError as error:
        raise ViewFailed(
            "mounting the program's view of /sys",
            str(error),
            "a container or security module may forbid mounts; `kdbus doctor` tells what this machine allows",
        ) from error
    return View(kdbus_directory, parameters_directory)


class SharedMounts:
    """A kdbusfs and the module's folder, for the views of several programs: each gets a `Mirror` of them.

    They are mounted in this process's mount namespace, which `own_mount_namespace` has made, as only what is mounted
    can be copied (before Linux 6.15). They belong to this process's user namespace: programs in others see them, with
    their true owners and modes, and have no power over them.

    `kdbus` and `module` are descriptors (close-on-exec) of the two folders, for the caller to close. They were opened
    through copies that nobody else sees, so `..` leads nowhere from them, whoever gets hold of them.
    """

    def __init__(self) -> None:
        """Raises `SysUnavailable`, `ViewFailed`."""
        try:
            with _Folder(_tmpfs("kdbusfs", KDBUS_DIRECTORY_MODE, 0)) as mounted:
                _create_control(mounted)
                _attach(mounted, namespace.AT_FDCWD, "/sys/fs")
            with _Folder(_tmpfs("kdbus-view", 0o755, namespace.MOUNT_ATTR_NOEXEC)) as mounted:
                os.mkdir("parameters", dir_fd=mounted)
                os.chmod("parameters", 0o755, dir_fd=mounted)
                _create_mask(mounted, "parameters", MASK_MODE)
                _attach(mounted, namespace.AT_FDCWD, "/sys/module")
            self.kdbus = _open_detached(namespace.AT_FDCWD, "/sys/fs")
            self.module = _open_detached(namespace.AT_FDCWD, "/sys/module")
        except FileNotFoundError as error:
            raise SysUnavailable("mounting the shared view", str(error), "mount sysfs at /sys") from error
        except OSError as error:
            raise ViewFailed(
                "mounting the shared view", str(error), "`kdbus doctor` tells what this machine allows"
            ) from error

    @staticmethod
    def mirror() -> Mirror:
        """Copies for one more program. Raises OSError."""
        kdbus = _clone(namespace.AT_FDCWD, "/sys/fs")
        try:
            return Mirror(kdbus, _clone(namespace.AT_FDCWD, "/sys/module"))
        except OSError:
            os.close(kdbus)
            raise


def can_share_mounts() -> bool:
    """Whether `own_mount_namespace` and `SharedMounts` work here: tried in a child, as the former cannot be undone.

    To be called by a process of one thread. Raises OSError: EAGAIN, ENOMEM, EMFILE.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            with suppress(SysUnavailable, ViewFailed):
                if own_mount_namespace():
                    SharedMounts()
                    os.write(writing, b"+")
        finally:
            os._exit(0)
    os.close(writing)
    with _Folder(reading):
        works = os.read(reading, 1) == b"+"
    with suppress(ChildProcessError):
        # The kernel reaps it if SIGCHLD was ignored when `kdbus` started.
        os.waitpid(child, 0)
    return works


def own_mount_namespace() -> bool:
    """Move this process into a mount namespace of its own, whose mounts are slaves; False without CAP_SYS_ADMIN."""
    try:
        namespace.unshare(namespace.CLONE_NEWNS)
    except PermissionError:
        return False
    _make_slave()
    return True


def open_parameters(module: int) -> int:
    """A descriptor of the folder of parameters in the folder of a module. Raises OSError."""
    return os.open("parameters", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=module)


class _Folder:
    """A descriptor that is closed at the end of a `with` block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _make_slave() -> None:
    """Stop mounts of this namespace from appearing elsewhere.

    In a chroot the root is often no mount point, and then /sys has to be one.
    """
    for path in ("/", "/sys"):
        try:
            namespace.mount(None, path, None, namespace.MS_REC | namespace.MS_SLAVE, None)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise ViewFailed(f"making the mounts below {path} private", os.strerror(error.errno or 0)) from error
    raise SysUnavailable(
        "making the mounts below /sys private",
        "neither / nor /sys is a mount point, so the mounts would appear outside of this root",
        "mount sysfs at /sys in this root",
    )


def _cover(path: str, unwritable: int) -> int:
    """Mount a tmpfs over `path` in which each of its entries stands as before; the descriptor of the new folder."""
    try:
        hidden = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SysUnavailable(
            f"opening {path}", os.strerror(error.errno or 0), "mount sysfs at /sys in the program's root"
        ) from error
    with _Folder(hidden):
        cover = _tmpfs("kdbus-view", stat.S_IMODE(os.fstat(hidden).st_mode) & ~unwritable, namespace.MOUNT_ATTR_NOEXEC)
        try:
            _attach(cover, namespace.AT_FDCWD, path)
            for name in os.listdir(hidden):
                if name != "kdbus":
                    _bind_through(hidden, cover, name)
        except OSError:
            os.close(cover)
            raise
    return cover


def _bind_through(hidden: int, cover: int, name: str) -> None:
    kind = os.stat(name, dir_fd=hidden, follow_symlinks=False).st_mode
    if stat.S_ISLNK(kind):
        os.symlink(os.readlink(name, dir_fd=hidden), name, dir_fd=cover)
        return
    if stat.S_ISDIR(kind):
        os.mkdir(name, dir_fd=cover)
    else:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444, dir_fd=cover))
    with _Folder(_clone(hidden, name, namespace.AT_RECURSIVE)) as tree:
        _attach(tree, cover, name)


def _create_control(directory: int) -> None:
    """The control node has to be there when the program starts, which may be before the supervisor does."""
    with _Folder(os.open("control", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)) as file:
        os.fchmod(file, CONTROL_MODE)


def _create_mask(directory: int, folder: str, mode: int) -> None:
    path = f"{folder}/{MASK_FILE}"
    with _Folder(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=directory)) as file:
        os.write(file, b"%d\n" % DEFAULT_ATTACH_FLAGS_MASK)
        os.fchmod(file, mode)


def _tmpfs(source: str, mode: int, attributes: int) -> int:
    """A new tmpfs that is not mounted anywhere yet; `attributes` are added to nosuid and nodev."""
    with _Folder(namespace.fsopen("tmpfs", namespace.FSOPEN_CLOEXEC)) as context:
        for key, value in (("source", source), ("mode", f"{mode:o}"), ("size", "1m")):
            namespace.fsconfig(context, namespace.FSCONFIG_SET_STRING, key, value, 0)
        namespace.fsconfig(context, namespace.FSCONFIG_CMD_CREATE, None, None, 0)
        attributes |= namespace.MOUNT_ATTR_NOSUID | namespace.MOUNT_ATTR_NODEV
        return namespace.fsmount(context, namespace.FSMOUNT_CLOEXEC, attributes)


def _clone(directory: int, name: str, flags: int = 0) -> int:
    flags |= namespace.OPEN_TREE_CLONE | namespace.OPEN_TREE_CLOEXEC | namespace.AT_EMPTY_PATH
    return namespace.open_tree(directory, name, flags | namespace.AT_SYMLINK_NOFOLLOW)


def _open_detached(directory: int, name: str) -> int:
    """Open the mounted folder `name` (empty: `directory` itself) through a mount that nobody else sees."""
    with _Folder(_clone(directory, name)) as tree:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)


def _attach(tree: int, directory: int, name: str) -> None:
    namespace.move_mount(tree, "", directory, name, namespace.MOVE_MOUNT_F_EMPTY_PATH)
