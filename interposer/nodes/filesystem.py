# SPDX-License-Identifier: GPL-2.0-or-later
"""The nodes of a domain as real files: `broker.interfaces.NodeEvents` on a small file system.

Each node is an empty file or a folder with the owner and mode that kdbusfs would show. Lookup, stat, readdir,
permission checks and inotify are then the kernel's own. Which node an opened file is, is known by its inode.

A node appears with its final owner and mode at once, as a program that waits for it may try it at that moment: it is
made with the file system identity of its owner, and with the mode that it keeps.

The folders are not writable, not even for their owner, as in kdbusfs. Where the supervisor has no capability to write
to them all the same, it owns them, and makes them writable for as long as it takes to change them.

A program with CAP_DAC_OVERRIDE, or that of the user who owns a folder and thus its mode, can put things of its own
beside the nodes, and in their places. So a name leads nowhere here: a folder is opened without following links, and is
the node's if it has the node's inode; what is done in it is done through that descriptor. What stands where a node
shall stand is removed, if it is no node, and if that is easily done.

Weaknesses: where the supervisor has to change modes, another thread can see the other mode for a moment. A program
that has what it takes can remove or hide nodes; other programs cannot open them then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

from broker.errors import NodeShutDown
from broker.interfaces import NodeEvents
from native.credentials import borrowed_identity

_ALL_CAPABILITIES = (1 << 64) - 1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_THE_WAY = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY})
_LITTER = 1024
"""How many entries of others are removed with a node, at most."""


class NodeFiles:
    """The files of one domain.

    `directory`: a descriptor of the root folder, owned from now on. `present`: nodes that whoever made it has made
    already, as a program may look for `control` before the supervisor is up.
    """

    def __init__(self, directory: int, present: tuple[tuple[str, ...], ...] = ()) -> None:
        self._directory = directory
        self._present = present
        self._paths: dict[int, tuple[str, ...]] = {}
        self._inodes: dict[tuple[str, ...], int] = {}
        self.device = os.fstat(directory).st_dev
        """Device number of the file system: with an inode number it identifies a node."""

    def node_added(self, path: tuple[str, ...], is_directory: bool, mode: int, uid: int, gid: int) -> None:
        """Show a node. Raises NodeShutDown if a program has put something else in the way, OSError."""
        try:
            self._show(path, is_directory, mode, uid, gid)
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise NodeShutDown from error
            raise

    def _show(self, path: tuple[str, ...], is_directory: bool, mode: int, uid: int, gid: int) -> None:
        with self._changing(path[:-1]) as folder:
            if path not in self._present:
                self._make_way(folder, path[-1])
                with _as_owner(uid, gid):
                    if is_directory:
                        os.mkdir(path[-1], mode, dir_fd=folder)
                    else:
                        flags = os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC
                        os.close(os.open(path[-1], flags, mode, dir_fd=folder))
            inode = os.stat(path[-1], dir_fd=folder, follow_symlinks=False).st_ino
        self._paths[inode] = path
        self._inodes[path] = inode

    def node_removed(self, path: tuple[str, ...]) -> None:
        """Take a node away, and from a folder also what a program has put there.

        What cannot be removed stays: a program that keeps putting things there is not waited for.
        """
        inode = self._inodes.pop(path, None)
        if inode is None:
            return
        del self._paths[inode]
        with suppress(OSError), self._changing(path[:-1]) as folder:
            if os.stat(path[-1], dir_fd=folder, follow_symlinks=False).st_ino == inode:
                self._remove(folder, path[-1], inode)

    def _make_way(self, folder: int, name: str) -> None:
        """Remove what stands where a node shall stand, unless it is a node. Raises OSError."""
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if found.st_ino not in self._paths:
            self._remove(folder, name, found.st_ino)

    def _remove(self, folder: int, name: str, inode: int) -> None:
        """Remove a file, or a folder of that inode with what is in it: not deeper, and not more than `_LITTER`."""
        try:
            found = os.open(name, _FOLDER, dir_fd=folder)
        except NotADirectoryError:
            os.unlink(name, dir_fd=folder)
            return
        try:
            if os.fstat(found).st_ino == inode:
                with self._writable(found), os.scandir(found) as entries:
                    for entry in islice(entries, _LITTER):
                        (os.rmdir if entry.is_dir(follow_symlinks=False) else os.unlink)(entry.name, dir_fd=found)
        finally:
            os.close(found)
        os.rmdir(name, dir_fd=folder)

    @contextmanager
    def _changing(self, path: tuple[str, ...]) -> Iterator[int]:
        """Within it, entries of the folder of that node can be made and removed, through the descriptor.

        Raises FileNotFoundError if something else stands in its place, OSError.
        """
        folder = os.open(".", _FOLDER, dir_fd=self._directory)
        try:
            for depth, name in enumerate(path, 1):
                inner = os.open(name, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
                if os.fstat(folder).st_ino != self._inodes.get(path[:depth]):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/".join(path))
            with self._writable(folder):
                yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _writable(self, folder: int) -> Iterator[None]:
        """Within it, this process may write to the folder. Raises OSError."""
        if os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True):
            yield
            return
        mode = stat.S_IMODE(os.fstat(folder).st_mode)
        os.fchmod(folder, mode | 0o300)
        try:
            yield
        finally:
            os.fchmod(folder, mode)

    def find(self, device: int, inode: int) -> tuple[str, ...] | None:
        """The path of the node that is the file of that identity."""
        return self._paths.get(inode) if device == self.device else None

    def close(self) -> None:
        """Let go of the folder; the mount itself ends with its namespaces."""
        os.close(self._directory)


@dataclass(frozen=True, slots=True)
class _Shown:
    is_directory: bool
    mode: int
    uid: int
    gid: int


class NodeMirrors:
    """Several file systems that show the nodes of one domain: `broker.interfaces.NodeEvents` for all of them.

    One that is added later is shown what is there already.
    """

    def __init__(self) -> None:
        self._shown: dict[tuple[str, ...], _Shown] = {}
        self._mirrors: list[NodeEvents] = []

    def add(self, mirror: NodeEvents) -> None:
        """Keep `mirror` equal to the others from now on."""
        for path, node in self._shown.items():
            mirror.node_added(path, node.is_directory, node.mode, node.uid, node.gid)
        self._mirrors.append(mirror)

    def remove(self, mirror: NodeEvents) -> None:
        """Leave `mirror` as it is."""
        self._mirrors.remove(mirror)

    def node_added(self, path: tuple[str, ...], is_directory: bool, mode: int, uid: int, gid: int) -> None:
        """Show a node everywhere."""
        self._shown[path] = _Shown(is_directory, mode, uid, gid)
        for mirror in self._mirrors:
            mirror.node_added(path, is_directory, mode, uid, gid)

    def node_removed(self, path: tuple[str, ...]) -> None:
        """Take a node away everywhere."""
        self._shown.pop(path, None)
        for mirror in self._mirrors:
            mirror.node_removed(path)


@contextmanager
def _as_owner(uid: int, gid: int) -> Iterator[None]:
    """Within it, what this thread creates belongs to that user and group, if it may do so, and has just the mode given.

    In a user namespace of one user nobody else can own a file; it then belongs to that user.
    """
    mask = os.umask(0)
    try:
        owner = borrowed_identity(uid, gid, os.getgroups(), _ALL_CAPABILITIES)
        try:
            owner.__enter__()
        except OSError:
            yield
        else:
            try:
                yield
            finally:
                owner.__exit__(None, None, None)
    finally:
        os.umask(mask)
