# SPDX-License-Identifier: GPL-2.0-or-later
"""The nodes of a domain as real files: `broker.outside.NodeEvents` on a small tmpfs.

Each node is an empty file or a folder with the owner and mode that kdbusfs would show. Lookup, stat, readdir,
permission checks and inotify are then the kernel's own. A node appears with its final owner and mode at once: it is
made under a hidden name in a folder that nobody may enter, and renamed. Which node an opened file is, is known by its
inode.

The folders are not writable, not even for their owner, as in kdbusfs; the supervisor has the capability to write to
them anyway.

Weakness: a program with CAP_DAC_OVERRIDE can make files of its own beside the nodes, which kdbusfs refuses. They are
never taken for nodes, but would keep a bus's folder from being removed; then the folder is renamed out of the way
with all that is in it.
"""

from __future__ import annotations

import os
from contextlib import suppress

_WORKSHOP = ".nodes"
"""Hidden folder in which nodes are prepared; only the supervisor's capabilities open it."""


class NodeFiles:
    """The files of one domain.

    `directory`: a descriptor of the root folder of its tmpfs, owned from now on. `present`: nodes that whoever mounted
    it has made already, as a program may look for `control` before the supervisor is up.
    """

    def __init__(self, directory: int, present: tuple[tuple[str, ...], ...] = ()) -> None:
        self._directory = directory
        self._present = present
        self._serial = 0
        self._paths: dict[int, tuple[str, ...]] = {}
        self._inodes: dict[tuple[str, ...], int] = {}
        self.device = os.fstat(directory).st_dev
        """Device number of the tmpfs: with an inode number it identifies a node."""
        with suppress(FileExistsError):
            os.mkdir(_WORKSHOP, 0, dir_fd=directory)

    def node_added(self, path: tuple[str, ...], is_directory: bool, mode: int, uid: int, gid: int) -> None:
        """Show a node."""
        name = "/".join(path)
        if path in self._present:
            self._remember(path, os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_ino)
            return
        self._serial += 1
        prepared = f"{_WORKSHOP}/{self._serial}"
        if is_directory:
            os.mkdir(prepared, 0, dir_fd=self._directory)
        else:
            os.close(os.open(prepared, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0, dir_fd=self._directory))
        with suppress(PermissionError, ValueError):
            # In a user namespace of one user nobody else can own a file; the node then belongs to that user.
            os.chown(prepared, uid, gid, dir_fd=self._directory)
        os.chmod(prepared, mode, dir_fd=self._directory)
        inode = os.stat(prepared, dir_fd=self._directory).st_ino
        os.rename(prepared, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._remember(path, inode)

    def _remember(self, path: tuple[str, ...], inode: int) -> None:
        self._paths[inode] = path
        self._inodes[path] = inode

    def node_removed(self, path: tuple[str, ...]) -> None:
        """Take a node away. A folder that a program has put something into is moved out of sight."""
        inode = self._inodes.pop(path, None)
        if inode is None:
            return
        del self._paths[inode]
        name = "/".join(path)
        try:
            if os.stat(name, dir_fd=self._directory).st_ino != inode:
                return
            try:
                os.unlink(name, dir_fd=self._directory)
            except IsADirectoryError:
                os.rmdir(name, dir_fd=self._directory)
        except FileNotFoundError:
            return
        except OSError:
            self._serial += 1
            aside = f"{_WORKSHOP}/{self._serial}"
            os.rename(name, aside, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def find(self, device: int, inode: int) -> tuple[str, ...] | None:
        """The path of the node that is the file of that identity."""
        return self._paths.get(inode) if device == self.device else None

    def close(self) -> None:
        """Let go of the folder; the mount itself ends with its namespaces."""
        os.close(self._directory)
