# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a path leads in path mode: into the private folder, or elsewhere.

To the program, the folder `kdbus` of the private folder is /sys/fs/kdbus, and its folder `module` is
/sys/module/kdbus. The kernel knows neither, so a path that leads there is walked here, component by component, as in
path_resolution(7). At `kdbus`, if the walk has come to the target's /sys/fs or /sys/module, it goes on in the private
folder; at `..`, if it stands on one of the two roots, it goes back out. /sys/fs and /sys/module are recognised by
device and inode, so a walk may come there through a descriptor, a bind mount or a link. Where the target's root has no
/sys, as a chroot may, the missing folders are passed through by name.

Every path call of every program comes here, and next to none leads into the folder, so what matters is to find that out
quickly. No real file system has an entry /sys/fs/kdbus. So a path that the kernel resolves leads elsewhere, and this
costs one openat2(2). Of one that it does not resolve, the deepest folder that exists is looked for; if what
follows it there is neither a symbolic link nor one of our names, the path leads nowhere. Only what is left is walked.
In a folder of the private folder itself, where a program may be by chdir(2) or through a descriptor, everything is
walked; as long as none has been handed out, nobody asks.

The answer "elsewhere" means that the kernel does the call. A program that changes the path meanwhile gains nothing: the
kernel gives it what it may have.

Magic links of /proc are followed by opening them, with the target's rights. `self` and `thread-self` would mean the
supervisor there, so they are replaced by the number that the target's process has in that /proc.

The restrictions of openat2(2) (RESOLVE_*) are kept here for paths that name `kdbus`. RESOLVE_CACHED is not: what is
found here needs no waiting.

Weaknesses: a restricted path that leads here only through symbolic links is the kernel's, and so is one of /proc that
does not name `kdbus` before anything was handed out. `..` may climb above a chroot, as in `interposer.nodes.resolve`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

from interposer.nodes.resolve import AT_FDCWD
from interposer.target.ids import lines_of, read_file
from native.namespace import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    find,
    known_status,
    read_link,
)

_LONGEST_CHAIN = 40
_SYS, _FS, _MODULE, _KDBUS = b"sys", b"fs", b"module", b"kdbus"
_NAMES = frozenset((_SYS, _FS, _MODULE, _KDBUS))
_ABSENT = ((_SYS,), (_SYS, _FS), (_SYS, _MODULE))
_PATH = os.O_PATH | os.O_CLOEXEC
_SCOPED = RESOLVE_BENEATH | RESOLVE_IN_ROOT
_STAT_ROOM = 1024

Identity = tuple[int, int]
"""Device and inode."""


@dataclass(slots=True)
class Located:
    """A place inside the private folder, or one outside that the path goes to through it, with `..`.

    `descriptor`: O_PATH, to be closed with `close`; -1 if there is nothing, and then `error` says why (positive errno).
    `inside`: in the private folder. `creatable`: only the last component is missing.
    """

    descriptor: int
    error: int = 0
    inside: bool = True
    creatable: bool = False

    def close(self) -> None:
        """Let go of the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Lookup:
    """The lookups of one supervisor.

    `kdbus` and `module` are descriptors of the two folders, which stay the caller's. `is_node` says whether (device,
    inode) is a node.
    """

    def __init__(self, kdbus: int, module: int, is_node: Callable[[int, int], bool]) -> None:
        self.entered = False
        """Whether a target may hold one of our folders: to be set by whoever gives it one."""
        self._is_node = is_node
        self._roots = {_FS: kdbus, _MODULE: module}
        self._positions = {_identity(kdbus): _FS, _identity(module): _MODULE}
        parameters = os.open("parameters", _PATH, dir_fd=module)
        self._parameters = _identity(parameters)
        os.close(parameters)

    def leads_elsewhere(self, thread: int, directory: int, path: bytes, *, follow: bool, resolve: int = 0) -> bool:
        """Whether the kernel can do the call: the quick look. False does not mean that it leads here.

        `directory`: a descriptor of the thread, or AT_FDCWD; only looked at if `path` is relative. `follow`: whether a
        symbolic link at the end is followed. `resolve`: RESOLVE_* of openat2(2). Asked with the supervisor's own
        rights. Raises Stalled.
        """
        if not path:
            return True
        if resolve:
            return not (self.entered or _KDBUS in path)
        try:
            base = _open_base(thread, directory, path)
        except OSError:
            return True
        try:
            if not path.startswith(b"/") and self.entered and self.is_private(base):
                return False
            return not self._may_lead_here(base, path, follow)
        finally:
            os.close(base)

    def _may_lead_here(self, base: int, path: bytes, follow: bool) -> bool:
        """`base` is the root for an absolute path."""
        if (self.entered or _KDBUS in path) and (b"self" in path or path.startswith(b"/dev/")):
            # The kernel would look into our own /proc/self.
            return True
        resolve = RESOLVE_NO_MAGICLINKS | (RESOLVE_IN_ROOT if path.startswith(b"/") else RESOLVE_NO_SYMLINKS)
        flags = _PATH if follow else _PATH | os.O_NOFOLLOW
        name = b""
        while True:
            try:
                found = find(base, path, flags, resolve)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    # A relative path through links, which may be absolute ones; or through a magic link.
                    return bool(resolve & RESOLVE_NO_SYMLINKS) or self.entered or _KDBUS in path or b"proc" not in path
                if error.errno != errno.ENOENT:
                    return False
                path, name = _split(path)
                flags = _PATH
                continue
            try:
                return bool(name) and (name in _NAMES or _is_link(found, name))
            finally:
                os.close(found)

    def locate(
        self,
        thread: int,
        directory: int,
        path: bytes,
        identity: AbstractContextManager[None],
        *,
        follow: bool,
        resolve: int = 0,
    ) -> Located | None:
        """Walk, within `identity`, which is the target's; None if the path leads elsewhere. Raises OSError, Stalled."""
        root = os.open(f"/proc/{thread}/root", _PATH)
        try:
            scoped = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)
            base = _open_base(thread, directory, b"." if scoped else path)
            with closing(_Walk(self, thread, root, base, path, follow, resolve)) as walk, identity:
                return walk.walk()
        finally:
            os.close(root)

    def is_private(self, descriptor: int) -> bool:
        """Whether this is a folder or a node of ours."""
        identity = _identity(descriptor)
        return identity in self._positions or identity == self._parameters or self._is_node(*identity)

    def position(self, descriptor: int) -> bytes | None:
        """b"fs" or b"module" if `descriptor` is the folder that stands there as `kdbus`."""
        return self._positions.get(_identity(descriptor))

    def enter(self, position: bytes) -> int:
        """A new descriptor of the folder that stands as `kdbus` in /sys/`position`."""
        return os.open(".", _PATH, dir_fd=self._roots[position])


class _Walk:
    """One walk. The current place is a descriptor, or below the target's root a missing folder, by its names."""

    def __init__(
        self, lookup: Lookup, thread: int, root: int, base: int, path: bytes, follow: bool, resolve: int
    ) -> None:
        """`base` is where the walk begins; it is closed by `close`."""
        self._lookup = lookup
        self._thread = thread
        self._root = root
        self._follow = follow
        self._resolve = resolve
        self._components = path.split(b"/")
        self._starts_at_root = path.startswith(b"/")
        self._must_be_folder = self._components[-1] in (b"", b".", b"..")
        self._current = base
        self._top = os.dup(base if resolve & _SCOPED else root)
        self._absent: tuple[bytes, ...] = ()
        self._inside = lookup.entered and lookup.is_private(base)
        self._passed = self._inside
        self._links = 0

    def walk(self) -> Located | None:
        """Where it ends; None: elsewhere."""
        if self._starts_at_root and self._resolve & RESOLVE_BENEATH:
            return Located(-1, errno.EXDEV) if self._passed else None
        while self._components:
            name = self._components.pop(0)
            if name in (b"", b"."):
                continue
            try:
                goes_on = self._up() if name == b".." else self._down(name)
            except OSError as error:
                if not self._passed:
                    return None
                creatable = error.errno == errno.ENOENT and self._is_last
                return Located(-1, error.errno or errno.EIO, self._inside, creatable)
            if not goes_on:
                return None
        if not self._passed or self._absent:
            return None
        if self._must_be_folder and not stat.S_ISDIR(known_status(self._current).st_mode):
            return Located(-1, errno.ENOTDIR)
        found, self._current = self._current, -1
        return Located(found, inside=self._inside)

    def close(self) -> None:
        """Let go of where the walk stands."""
        if self._current >= 0:
            os.close(self._current)
        os.close(self._top)

    @property
    def _is_last(self) -> bool:
        return not any(self._components)

    def _move(self, descriptor: int, *, inside: bool) -> None:
        if inside != self._inside and self._resolve & RESOLVE_NO_XDEV:
            os.close(descriptor)
            self._passed = True
            raise OSError(errno.EXDEV, "another mount")
        os.close(self._current)
        self._current, self._inside, self._absent = descriptor, inside, ()
        self._passed = self._passed or inside

    def _stand_at(self, names: tuple[bytes, ...]) -> None:
        """Go to the folder of that absolute path, which may be missing."""
        try:
            found = _in_root(self._root, names)
        except OSError:
            self._move(os.open(".", _PATH, dir_fd=self._root), inside=False)
            self._absent = names
        else:
            self._move(found, inside=False)

    def _up(self) -> bool:
        position = self._lookup.position(self._current) if self._inside else None
        if self._resolve & _SCOPED and not self._absent and _identity(self._current) == _identity(self._top):
            if self._resolve & RESOLVE_BENEATH:
                raise OSError(errno.EXDEV, "above where it begins")
            return True
        if self._absent:
            self._stand_at(self._absent[:-1])
        elif position is not None:
            self._stand_at((_SYS, position))
        elif _identity(self._current) != _identity(self._root):
            self._move(find(self._current, b"..", _PATH), inside=self._inside)
        return True

    def _down(self, name: bytes) -> bool:
        """False if the walk cannot lead here any more. Raises OSError."""
        if self._absent:
            return self._down_absent((*self._absent, name))
        if name == _KDBUS and not self._inside:
            for position in (_FS, _MODULE):
                if self._is_at((_SYS, position)):
                    self._move(self._lookup.enter(position), inside=True)
                    return True
        try:
            found = find(self._current, name, _PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            if self._inside or name not in _NAMES:
                raise
            for names in _ABSENT:
                if names[-1] == name and self._is_at(names[:-1]):
                    return self._down_absent(names)
            raise
        if stat.S_ISLNK(known_status(found).st_mode) and (self._follow or self._must_be_folder or not self._is_last):
            try:
                return self._follow_link(found, name)
            finally:
                os.close(found)
        self._move(found, inside=self._inside)
        return True

    def _down_absent(self, names: tuple[bytes, ...]) -> bool:
        if len(names) == 3 and names[-1] == _KDBUS:
            self._move(self._lookup.enter(names[1]), inside=True)
            return True
        if names not in _ABSENT:
            return False
        self._absent = names
        return True

    def _follow_link(self, found: int, name: bytes) -> bool:
        """Go where the symbolic link `found`, which has that name in the current folder, leads."""
        self._links += 1
        if self._links > _LONGEST_CHAIN:
            return False
        if self._resolve & RESOLVE_NO_SYMLINKS:
            raise OSError(errno.ELOOP, "a symbolic link")
        proc = self._proc()
        is_of_proc = proc is not None and known_status(found).st_dev == proc[0]
        link = os.readlink(b"", dir_fd=found) if is_of_proc else read_link(found, b"")
        if proc is not None and is_of_proc:
            if _identity(self._current) == proc and name in (b"self", b"thread-self"):
                self._components[:0] = _number_in(self._current, self._thread, name)
                return True
            if _identity(self._current) != proc and os.fstat(found).st_size != len(link):
                return self._follow_magic_link(name)
        if link.startswith(b"/"):
            if self._resolve & RESOLVE_BENEATH:
                raise OSError(errno.EXDEV, "an absolute link")
            self._move(os.open(".", _PATH, dir_fd=self._top), inside=False)
        self._components[:0] = link.split(b"/")
        return True

    def _follow_magic_link(self, name: bytes) -> bool:
        if self._resolve & RESOLVE_NO_MAGICLINKS:
            raise OSError(errno.ELOOP, "a magic link")
        if self._resolve & (_SCOPED | RESOLVE_NO_XDEV):
            raise OSError(errno.EXDEV, "a magic link")
        target = find(self._current, name, _PATH)
        self._move(target, inside=self._lookup.entered and self._lookup.is_private(target))
        return True

    def _proc(self) -> Identity | None:
        """The target's /proc. Links there have other sizes than what they say is long."""
        try:
            found = _in_root(self._root, (b"proc",))
        except OSError:
            return None
        try:
            return _identity(found)
        finally:
            os.close(found)

    def _is_at(self, names: tuple[bytes, ...]) -> bool:
        """Whether the current folder is the one of that absolute path."""
        try:
            found = _in_root(self._root, names)
        except OSError:
            return False
        try:
            return _identity(found) == _identity(self._current)
        finally:
            os.close(found)


def _open_base(thread: int, directory: int, path: bytes) -> int:
    """What `path` starts from. Raises OSError."""
    if path.startswith(b"/"):
        return os.open(f"/proc/{thread}/root", _PATH)
    return os.open(f"/proc/{thread}/{'cwd' if directory == AT_FDCWD else f'fd/{directory}'}", _PATH)


def _number_in(proc: int, thread: int, name: bytes) -> list[bytes]:
    """What leads from the folder `proc`, a /proc, to the thread there: for `self` or `thread-self`. Raises OSError.

    In the /proc of another pid namespace the thread has another number; all that it has are tried.
    """
    numbers = {}
    for line in lines_of(read_file(f"/proc/{thread}/status")):
        key, _, values = line.partition(b":")
        numbers[key] = values.split()
    of_process, of_thread = numbers.get(b"NStgid", []), numbers.get(b"NSpid", [])
    start = _start_of(read_file(f"/proc/{thread}/stat"))
    for process, number in zip(of_process, of_thread, strict=False):
        path = [process, b"task", number]
        try:
            stat_file = os.open(b"/".join([*path, b"stat"]), os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        except OSError:
            continue
        try:
            if _start_of(os.read(stat_file, _STAT_ROOM)) == start:
                return path if name == b"thread-self" else [process]
        finally:
            os.close(stat_file)
    raise FileNotFoundError(errno.ENOENT, "no such process in that /proc")


def _start_of(text: bytes) -> list[bytes]:
    """What tells a thread from others of its number: name and start in its `stat`."""
    name, _, rest = text.rpartition(b")")
    return [name.partition(b"(")[2], *rest.split()[19:20]]


def _in_root(root: int, names: tuple[bytes, ...]) -> int:
    path = b"/".join(names) or b"."
    return find(root, path, _PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def _identity(descriptor: int) -> Identity:
    status = known_status(descriptor)
    return status.st_dev, status.st_ino


def _is_link(folder: int, name: bytes) -> bool:
    try:
        found = find(folder, name, _PATH | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return stat.S_ISLNK(known_status(found).st_mode)
    finally:
        os.close(found)


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Everything before the last component, and it; `.` and `/` are what is left at the end."""
    folder, _, name = path.rstrip(b"/").rpartition(b"/")
    return folder or (b"/" if path.startswith(b"/") else b"."), name
