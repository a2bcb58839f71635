# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces, mounts and path lookup: the system calls behind a view of the file tree of one's own.

Thin on purpose: each function is one system call of the same name, with the kernel's flags and errors, described in the
manual page of that name; what is done with them is decided elsewhere. Paths are `str` (encoded as os.fsencode does) or
`bytes`; a zero byte in one raises ValueError. All descriptors are close-on-exec only if the flags say so.

Why not ctypes: it has no checked structures and takes longer per call than most of these calls; `os.unshare` and
`os.setns` exist, but from Python 3.12 on.

`fsopen`, `fsconfig` and `fsmount` make a file system without a place in the tree; mounted with `move_mount`, it
appears complete.
"""

from __future__ import annotations

import os
from errno import EAGAIN, EINVAL
from typing import TYPE_CHECKING

from native import credentials
from native.deputies import present
from native.library import failure, ffi, lib, path_bytes

if TYPE_CHECKING:
    from native._helper import CData

Path = str | bytes

_LONGEST_PATH = 4096

borrowed_identity = credentials.borrowed_identity
"""Offered here too, as it belongs to looking up paths on behalf of somebody else."""

CLONE_NEWCGROUP: int = lib.CLONE_NEWCGROUP
CLONE_NEWIPC: int = lib.CLONE_NEWIPC
CLONE_NEWNET: int = lib.CLONE_NEWNET
CLONE_NEWNS: int = lib.CLONE_NEWNS
CLONE_NEWPID: int = lib.CLONE_NEWPID
CLONE_NEWTIME: int = lib.CLONE_NEWTIME
CLONE_NEWUSER: int = lib.CLONE_NEWUSER
CLONE_NEWUTS: int = lib.CLONE_NEWUTS
CLONE_FS: int = lib.CLONE_FS
CLONE_FILES: int = lib.CLONE_FILES

MS_RDONLY: int = lib.MS_RDONLY
MS_NOSUID: int = lib.MS_NOSUID
MS_NODEV: int = lib.MS_NODEV
MS_NOEXEC: int = lib.MS_NOEXEC
MS_SYNCHRONOUS: int = lib.MS_SYNCHRONOUS
MS_REMOUNT: int = lib.MS_REMOUNT
MS_NOSYMFOLLOW: int = lib.MS_NOSYMFOLLOW
MS_NOATIME: int = lib.MS_NOATIME
MS_BIND: int = lib.MS_BIND
MS_MOVE: int = lib.MS_MOVE
MS_REC: int = lib.MS_REC
MS_SILENT: int = lib.MS_SILENT
MS_UNBINDABLE: int = lib.MS_UNBINDABLE
MS_PRIVATE: int = lib.MS_PRIVATE
MS_SLAVE: int = lib.MS_SLAVE
MS_SHARED: int = lib.MS_SHARED
MS_RELATIME: int = lib.MS_RELATIME

MNT_FORCE: int = lib.MNT_FORCE
MNT_DETACH: int = lib.MNT_DETACH
MNT_EXPIRE: int = lib.MNT_EXPIRE

UMOUNT_NOFOLLOW: int = lib.UMOUNT_NOFOLLOW

OPEN_TREE_CLONE: int = lib.OPEN_TREE_CLONE
OPEN_TREE_CLOEXEC: int = lib.OPEN_TREE_CLOEXEC

AT_RECURSIVE: int = lib.AT_RECURSIVE
AT_EMPTY_PATH: int = lib.AT_EMPTY_PATH
AT_FDCWD: int = lib.AT_FDCWD
AT_NO_AUTOMOUNT: int = lib.AT_NO_AUTOMOUNT
AT_SYMLINK_NOFOLLOW: int = lib.AT_SYMLINK_NOFOLLOW

MOVE_MOUNT_F_SYMLINKS: int = lib.MOVE_MOUNT_F_SYMLINKS
MOVE_MOUNT_F_AUTOMOUNTS: int = lib.MOVE_MOUNT_F_AUTOMOUNTS
MOVE_MOUNT_F_EMPTY_PATH: int = lib.MOVE_MOUNT_F_EMPTY_PATH
MOVE_MOUNT_T_SYMLINKS: int = lib.MOVE_MOUNT_T_SYMLINKS
MOVE_MOUNT_T_AUTOMOUNTS: int = lib.MOVE_MOUNT_T_AUTOMOUNTS
MOVE_MOUNT_T_EMPTY_PATH: int = lib.MOVE_MOUNT_T_EMPTY_PATH
MOVE_MOUNT_SET_GROUP: int = lib.MOVE_MOUNT_SET_GROUP
MOVE_MOUNT_BENEATH: int = lib.MOVE_MOUNT_BENEATH

RESOLVE_BENEATH: int = lib.RESOLVE_BENEATH
RESOLVE_IN_ROOT: int = lib.RESOLVE_IN_ROOT
RESOLVE_NO_MAGICLINKS: int = lib.RESOLVE_NO_MAGICLINKS
RESOLVE_NO_SYMLINKS: int = lib.RESOLVE_NO_SYMLINKS
RESOLVE_NO_XDEV: int = lib.RESOLVE_NO_XDEV
RESOLVE_CACHED: int = lib.RESOLVE_CACHED

FSOPEN_CLOEXEC: int = lib.FSOPEN_CLOEXEC

FSMOUNT_CLOEXEC: int = lib.FSMOUNT_CLOEXEC

FSCONFIG_SET_FLAG: int = lib.FSCONFIG_SET_FLAG
FSCONFIG_SET_STRING: int = lib.FSCONFIG_SET_STRING
FSCONFIG_SET_BINARY: int = lib.FSCONFIG_SET_BINARY
FSCONFIG_SET_PATH: int = lib.FSCONFIG_SET_PATH
FSCONFIG_SET_PATH_EMPTY: int = lib.FSCONFIG_SET_PATH_EMPTY
FSCONFIG_SET_FD: int = lib.FSCONFIG_SET_FD
FSCONFIG_CMD_CREATE: int = lib.FSCONFIG_CMD_CREATE
FSCONFIG_CMD_RECONFIGURE: int = lib.FSCONFIG_CMD_RECONFIGURE

MOUNT_ATTR_RDONLY: int = lib.MOUNT_ATTR_RDONLY
MOUNT_ATTR_NOSUID: int = lib.MOUNT_ATTR_NOSUID
MOUNT_ATTR_NODEV: int = lib.MOUNT_ATTR_NODEV
MOUNT_ATTR_NOEXEC: int = lib.MOUNT_ATTR_NOEXEC
MOUNT_ATTR_NOATIME: int = lib.MOUNT_ATTR_NOATIME
MOUNT_ATTR_STRICTATIME: int = lib.MOUNT_ATTR_STRICTATIME
MOUNT_ATTR_NODIRATIME: int = lib.MOUNT_ATTR_NODIRATIME
MOUNT_ATTR_NOSYMFOLLOW: int = lib.MOUNT_ATTR_NOSYMFOLLOW


def _optional(text: Path | None) -> bytes | CData:
    return ffi.NULL if text is None else path_bytes(text)


def unshare(flags: int) -> None:
    """Moves the calling process into new namespaces (CLONE_NEW*), see unshare(2).

    Raises OSError: EPERM without the right to, EINVAL for CLONE_NEWUSER in a process with several threads, ENOSPC at
    the limits of /proc/sys/user.
    """
    result = lib.kdbus_unshare(flags)
    if result < 0:
        raise failure(result, f"unshare namespaces {flags:#x}")


def setns(descriptor: int, flags: int = 0) -> None:
    """Moves the calling thread into the namespace of `descriptor` (a file of /proc/PID/ns, or a pidfd); setns(2)."""
    result = lib.kdbus_setns(descriptor, flags)
    if result < 0:
        raise failure(result, f"enter the namespace behind descriptor {descriptor}")


def mount(source: Path | None, target: Path, fstype: Path | None, flags: int, data: Path | None = None) -> None:
    """Mounts, or changes a mount, see mount(2). `flags`: MS_*."""
    result = lib.kdbus_mount(_optional(source), path_bytes(target), _optional(fstype), flags, _optional(data))
    if result < 0:
        raise failure(result, f"mount {source!r} on {target!r} (type {fstype!r}, flags {flags:#x})")


def umount2(target: Path, flags: int = 0) -> None:
    """Takes the topmost mount off `target`, see umount(2). `flags`: MNT_* and UMOUNT_NOFOLLOW."""
    result = lib.kdbus_umount2(path_bytes(target), flags)
    if result < 0:
        raise failure(result, f"unmount {target!r}")


def open_tree(directory: int, path: Path, flags: int) -> int:
    """A descriptor of the mount at `path`, or with OPEN_TREE_CLONE of a copy of it, see open_tree(2).

    `directory`: descriptor that a relative path starts at, or AT_FDCWD. `flags`: OPEN_TREE_* and AT_*.
    """
    result = lib.kdbus_open_tree(directory, path_bytes(path), flags)
    if result < 0:
        raise failure(result, f"open the mounts at {path!r}")
    return result


def move_mount(from_directory: int, from_path: Path, to_directory: int, to_path: Path, flags: int) -> None:
    """Moves a mount, or attaches one that has no place yet, see move_mount(2). `flags`: MOVE_MOUNT_*."""
    result = lib.kdbus_move_mount(from_directory, path_bytes(from_path), to_directory, path_bytes(to_path), flags)
    if result < 0:
        raise failure(result, f"move the mount {from_path!r} to {to_path!r}")


def openat2(directory: int, path: Path, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Opens `path` under the restrictions `resolve` (RESOLVE_*), see openat2(2).

    `flags`: O_*, unknown ones are refused; `mode` must be 0 without O_CREAT or O_TMPFILE.
    """
    result = lib.kdbus_openat2(directory, path_bytes(path), flags, mode, resolve)
    if result < 0:
        raise failure(result, f"open {path!r}")
    return result


def find(directory: int, path: Path, flags: int, resolve: int = 0) -> int:
    """As `openat2` with O_PATH, where it may stall in a deputy's stead.

    What the kernel remembers of a path is found at once, which never stalls (RESOLVE_CACHED, Linux 5.12). For the rest
    a deputy looks, with the identity that this thread has borrowed. Raises OSError, Stalled.
    """
    deputies = present()
    if deputies is None:
        return openat2(directory, path, flags, 0, resolve)
    encoded = path_bytes(path)
    result = lib.kdbus_openat2(directory, encoded, flags, 0, resolve | RESOLVE_CACHED)
    if result in (-EAGAIN, -EINVAL):
        result = deputies.open(directory, encoded, flags, resolve)
    if result < 0:
        raise failure(result, f"open {path!r}")
    return result


def read_link(directory: int, path: Path) -> bytes:
    """Where a symbolic link leads (readlinkat(2)), at most PATH_MAX bytes. Raises OSError, Stalled."""
    deputies = present()
    if deputies is None:
        return os.readlink(os.fsencode(path), dir_fd=directory)
    buffer = ffi.new("char[]", _LONGEST_PATH)
    length = deputies.read_link(directory, path_bytes(path), buffer, _LONGEST_PATH)
    if length < 0:
        raise failure(length, f"read the link {path!r}")
    return ffi.unpack(buffer, length)


def known_status(directory: int, path: Path = b"", *, follow: bool = True) -> os.stat_result:
    """What the kernel knows of a file, without asking whoever serves it: nothing but device, inode, mode and the number
    of links. The path may be empty. Raises OSError."""
    found = ffi.new("struct kdbus_status *")
    flags = (0 if follow else AT_SYMLINK_NOFOLLOW) | (0 if path else AT_EMPTY_PATH)
    result = lib.kdbus_known_status(directory, path_bytes(path), flags, found)
    if result < 0:
        raise failure(result, f"look at {path!r}")
    return os.stat_result((found.mode, found.inode, found.device, found.links, 0, 0, 0, 0, 0, 0))


def fsopen(fstype: Path, flags: int = 0) -> int:
    """A descriptor for configuring a file system of type `fstype`, see fsopen(2). `flags`: FSOPEN_CLOEXEC."""
    result = lib.kdbus_fsopen(path_bytes(fstype), flags)
    if result < 0:
        raise failure(result, f"open a file system of type {fstype!r}")
    return result


def fsconfig(descriptor: int, command: int, key: Path | None = None, value: Path | None = None, aux: int = 0) -> None:
    """One step of configuring a file system, see fsconfig(2). `command`: FSCONFIG_*; texts only, no binary values."""
    result = lib.kdbus_fsconfig(descriptor, command, _optional(key), _optional(value), aux)
    if result < 0:
        raise failure(result, f"configure a file system (command {command}, {key!r} = {value!r})")


def fsmount(descriptor: int, flags: int = 0, attributes: int = 0) -> int:
    """A descriptor of a mount, without a place yet, of what `fsopen` began; `attributes`: MOUNT_ATTR_*; fsmount(2)."""
    result = lib.kdbus_fsmount(descriptor, flags, attributes)
    if result < 0:
        raise failure(result, "make a mount of a configured file system")
    return result
