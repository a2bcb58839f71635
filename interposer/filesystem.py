# SPDX-License-Identifier: GPL-2.0-or-later
"""The nodes of a domain as real files: `broker.outside.NodeEvents` on a small file system.

Each node is an empty file or a folder with the owner and mode that kdbusfs would show. Lookup, stat, readdir,
permission checks and inotify are then the kernel's own. Which node an opened file is, is known by its inode.

A node appears with its final owner and mode at once, as a program that waits for it may try it at that moment: it is
made with the file system identity of its owner, and with the mode that it keeps.

The folders are not writable, not even for their owner, as in kdbusfs. Where the supervisor has no capability to write
to them all the same, it owns them, and makes them writable for as long as it takes to change them.

Weaknesses: where that is so, another thread can see the other mode for a moment. A program with CAP_DAC_OVERRIDE can
make files of its own beside the nodes, which kdbusfs refuses; they are never taken for nodes, and go with the folder.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from broker.outside import NodeEvents
from native.credentials import borrowed_identity

_ALL_CAPABILITIES = (1 << 64) - 1


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
        """Show a node."""
        name = "/".join(path)
        if path not in self._present:
            with self._changing(path[:-1]), _as_owner(uid, gid):
                if is_directory:
                    os.mkdir(name, mode, dir_fd=self._directory)
                else:
                    flags = os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC
                    os.close(os.open(name, flags, mode, dir_fd=self._directory))
        inode = os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_ino
        self._paths[inode] = path
        self._inodes[path] = inode

    def node_removed(self, path: tuple[str, ...]) -> None:
        """Take a node away, and from a folder also what a program has put there."""
        inode = self._inodes.pop(path, None)
        if inode is None:
            return
        del self._paths[inode]
        name = "/".join(path)
        with suppress(FileNotFoundError), self._changing(path[:-1]):
            found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
            if found.st_ino != inode:
                return
            if stat.S_ISDIR(found.st_mode):
                with self._changing(path):
                    shutil.rmtree(name, dir_fd=self._directory)
            else:
                os.unlink(name, dir_fd=self._directory)

    @contextmanager
    def _changing(self, folder: tuple[str, ...]) -> Iterator[None]:
        """Within it, entries of the folder can be made and removed. Raises FileNotFoundError."""
        name = "/".join(folder) or "."
        if os.access(name, os.W_OK | os.X_OK, dir_fd=self._directory, effective_ids=True):
            yield
            return
        mode = stat.S_IMODE(os.stat(name, dir_fd=self._directory).st_mode)
        os.chmod(name, mode | 0o300, dir_fd=self._directory)
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                os.chmod(name, mode, dir_fd=self._directory)

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
    """Several file systems that show the nodes of one domain: `broker.outside.NodeEvents` for all of them.

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
