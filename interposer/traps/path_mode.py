# SPDX-License-Identifier: GPL-2.0-or-later
"""Path mode: the calls that name a path, answered from the private folder where the path leads there.

Where no mount namespace can be had, nothing can stand at /sys/fs/kdbus. So each call that takes a path is trapped, and
asked for where it leads (`interposer.nodes.lookup`); nearly all are the kernel's. What leads into the private folder
(`interposer.launch.private_folder`) is done on the real files there, with the identity of the caller, so that
permissions are the kernel's word:

- opens yield a handle for a node, and for all else a descriptor of the real file or folder: what is done with it
  afterwards (readdir, fstat, lookups relative to it) is the kernel's own affair;
- questions (stat, access, statfs, readlink, extended attributes, which `ls -l` asks for) are answered into the caller's
  memory, while it waits;
- what only the caller itself can do is done by it, injected with ptrace like the mapping of a pool
  (`interposer.injection.injection`): chdir becomes fchdir, an open with O_PATH goes through /proc/self/fd/N, and so
  does a watch, where the caller's inotify descriptor cannot be fetched.

getcwd is answered for a caller that stands in the folder, so that it sees where it thinks it is.

Alternatives: rewriting the path in the caller's memory is a race with its other threads, and constants cannot be
written; a fake of every call on descriptors would be a file system of its own.

Weaknesses. Only these calls are served; all others (rename, chmod, bind, execve, ...) say ENOENT below the mount
point, where kdbusfs would mostly say EPERM. fstatat and statx with AT_EMPTY_PATH and a path that is not empty find
nothing there. Listing /sys/fs does not show `kdbus`. A path that goes out of the folder again, with `..`, opens folders
only. What is injected needs ptrace: in a program under a debugger or strace chdir fails with EPERM, and an O_PATH open
yields a descriptor that can read, too. An O_PATH open also needs /proc in the program's root. Reading the links
/proc/self/cwd and /proc/self/fd/N shows the private folder's name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from broker.errors import DescriptorNotPassable
from interposer.injection.injected_calls import IN_DONT_FOLLOW, add_watch, add_watch_here, change_folder, open_path
from interposer.injection.injection import InjectedCall, Outcome, inject
from interposer.nodes.file_status import KDBUS_MAGIC, SYSFS_MAGIC, Status, pack_stat, pack_statfs, pack_statx
from interposer.nodes.filesystem import NodeFiles
from interposer.nodes.lookup import Located, Lookup
from interposer.nodes.resolve import AT_FDCWD, PATH_LIMIT
from interposer.target.caller import TargetCaller
from interposer.target.ids import own_namespace
from interposer.target.inspection import tell_path_forbidden
from interposer.traps.answering import Answering
from interposer.traps.exactly_once import Interrupted
from interposer.traps.node_handles import NodeHandles
from interposer.traps.opens import HOW_SIZE, NODE_OPEN_FLAGS, Opens, identity_of, signed32
from interposer.traps.preloaded import Preloaded
from native import memory
from native.credentials import borrowed_identity
from native.deputies import Stalled
from native.namespace import (
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from native.notification import Notification

_RESOLVES = (
    RESOLVE_BENEATH
    | RESOLVE_IN_ROOT
    | RESOLVE_NO_XDEV
    | RESOLVE_NO_SYMLINKS
    | RESOLVE_NO_MAGICLINKS
    | RESOLVE_CACHED
)
_AT_SYMLINK_NOFOLLOW, _AT_EACCESS, _AT_EMPTY_PATH = 0x100, 0x200, 0x1000
_FLAGS_OF_STAT = _AT_SYMLINK_NOFOLLOW | 0x800 | _AT_EMPTY_PATH  # AT_NO_AUTOMOUNT
_IN_ONLYDIR = 0x01000000
_LOOKS_ALREADY_DONE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_DIRECTORY

Act = Callable[[Located, TargetCaller], int | None]
"""What a call does at the place that was found: its result, -errno for an error, None if it is answered already."""


class PathCalls:
    """Serves the path calls of one supervisor."""

    def __init__(
        self,
        answering: Answering,
        opens: Opens,
        nodes: NodeHandles,
        files: NodeFiles,
        kdbus: int,
        module: int,
        pump: Callable[[Notification], None],
        *,
        shelves: bool,
        repeats: bool,
    ) -> None:
        """`kdbus` and `module`: descriptors of the private folder's inner folders; the second is owned from now on.

        `files` are the nodes in the first. `pump`: see `interposer.injection.injection.inject`. `shelves`: receivers
        may serve themselves (`interposer.traps.shelves`). `repeats`: see `Preloaded`.
        """
        self._answering = answering
        self._listener = answering.listener
        self._opens = opens
        self._nodes = nodes
        self._files = files
        self._module = module
        self._pump = pump
        self._device = os.fstat(kdbus).st_dev
        self._lookup = Lookup(kdbus, module, lambda device, inode: files.find(device, inode) is not None)
        self._preloaded = Preloaded(self._device, os.fstat(module).st_dev, shelves=shelves, repeats=repeats)

    @property
    def preloaded(self) -> Preloaded:
        """What the programs' preloaded libraries are answered."""
        return self._preloaded

    def handlers(self) -> dict[str, Callable[[Notification], None]]:
        """By the name of the call in `interposer.launch.filter`."""
        return {
            "open": lambda call: self._open(call, AT_FDCWD, call.arguments[0], call.arguments[1]),
            "openat": lambda call: self._open(call, call.arguments[0], call.arguments[1], call.arguments[2]),
            "openat2": self._openat2,
            "stat": lambda call: self._stat(call, "stat", AT_FDCWD, *call.arguments[:2], 0),
            "lstat": lambda call: self._stat(call, "lstat", AT_FDCWD, *call.arguments[:2], _AT_SYMLINK_NOFOLLOW),
            "stat64": lambda call: self._stat(call, "stat64", AT_FDCWD, *call.arguments[:2], 0),
            "lstat64": lambda call: self._stat(call, "lstat64", AT_FDCWD, *call.arguments[:2], _AT_SYMLINK_NOFOLLOW),
            "newfstatat": lambda call: self._stat(call, "newfstatat", *call.arguments[:4]),
            "fstatat64": lambda call: self._stat(call, "fstatat64", *call.arguments[:4]),
            "statx": self._statx,
            "access": lambda call: self._access(call, AT_FDCWD, *call.arguments[:2], 0),
            "faccessat": lambda call: self._access(call, *call.arguments[:3], 0),
            "faccessat2": lambda call: self._access(call, *call.arguments[:4]),
            "statfs": lambda call: self._statfs(call, "statfs", call.arguments[1]),
            "statfs64": lambda call: self._statfs(call, "statfs64", call.arguments[2]),
            "readlink": lambda call: self._readlink(call, AT_FDCWD, *call.arguments[:3]),
            "readlinkat": lambda call: self._readlink(call, *call.arguments[:4]),
            "getxattr": lambda call: self._attributes(call, True, -errno.EOPNOTSUPP),
            "lgetxattr": lambda call: self._attributes(call, False, -errno.EOPNOTSUPP),
            "listxattr": lambda call: self._attributes(call, True, 0),
            "llistxattr": lambda call: self._attributes(call, False, 0),
            "chdir": self._chdir,
            "getcwd": self._getcwd,
            "inotify_add_watch": self._inotify_add_watch,
        }

    def _serve(
        self,
        call: Notification,
        directory: int,
        path: int,
        follow: bool,
        act: Act,
        *,
        injects: bool = False,
        resolve: int = 0,
    ) -> bool:
        """Do `act` if the path at address `path` leads here; False, and nothing has happened, if it does not.

        `injects`: `act` may have the caller do something itself. `resolve`: RESOLVE_* of openat2(2).
        """
        directory = signed32(directory)
        try:
            name = _name_at(call, path)
            if name is None:
                return False
            if self._lookup.leads_elsewhere(call.pid, directory, name, follow=follow, resolve=resolve):
                return False
            caller = self._answering.caller(call)
            found = self._lookup.locate(
                call.pid, directory, name, identity_of(caller), follow=follow, resolve=resolve
            )
        except Stalled:
            return False  # it is the caller who waits, in the kernel
        except OSError:
            return False
        if found is None:
            return False

        def serve() -> int | None:
            try:
                return act(found, caller)
            except Interrupted:
                raise
            except OSError as error:
                return -(error.errno or errno.EIO)

        try:
            self._answering.answer(call, serve, may_wait=injects)
        finally:
            found.close()
        return True

    def _serve_or_continue(
        self, call: Notification, directory: int, path: int, follow: bool, act: Act, *, injects: bool = False
    ) -> None:
        """`act` is only for what exists."""

        def act_on_existing(found: Located, caller: TargetCaller) -> int | None:
            return act(found, caller) if found.descriptor >= 0 else -found.error

        if not self._serve(call, directory, path, follow, act_on_existing, injects=injects):
            self._listener.respond_continue(call.id)

    def _openat2(self, call: Notification) -> None:
        """openat2(directory, path, how, size)."""
        directory, path, how, size = call.arguments[:4]
        try:
            raw = memory.read(call.pid, how, HOW_SIZE) if size >= HOW_SIZE else b""
        except (OSError, Stalled):
            raw = b""
        resolve = int.from_bytes(raw[16:24], "little")
        if not raw or resolve & ~_RESOLVES:
            self._opens.openat2(call)
        else:
            self._open(call, directory, path, int.from_bytes(raw[:8], "little"), resolve)

    def _open(self, call: Notification, directory: int, path: int, flags: int, resolve: int = 0) -> None:
        flags &= 0xFFFFFFFF
        if self._preloaded.serve(self._answering, call, path, flags):
            return
        follow = not flags & os.O_NOFOLLOW and flags & (os.O_CREAT | os.O_EXCL) != os.O_CREAT | os.O_EXCL

        def act(found: Located, caller: TargetCaller) -> int | None:
            return self._open_located(call, found, caller, flags)

        if self._serve(call, directory, path, follow, act, injects=bool(flags & os.O_PATH), resolve=resolve):
            return
        if resolve:
            self._listener.respond_continue(call.id)
        elif flags & NODE_OPEN_FLAGS == os.O_RDWR:
            # It may lead to a kdbusfs that the program has mounted.
            self._opens.open_at(call, signed32(directory), path, flags)
        else:
            self._listener.respond_continue(call.id)

    def _open_located(self, call: Notification, found: Located, caller: TargetCaller, flags: int) -> int | None:
        if found.descriptor < 0:
            return -errno.EACCES if found.creatable and flags & os.O_CREAT else -found.error
        status = os.fstat(found.descriptor)
        is_folder = stat.S_ISDIR(status.st_mode)
        if not found.inside and not is_folder:
            # Opening it may block, or do something to a device; so it is not for us to open.
            return -errno.ENOENT
        if flags & os.O_PATH:
            if flags & os.O_DIRECTORY and not is_folder:
                return -errno.ENOTDIR
            if is_folder:
                self._hand_out_folder()
            outcome = self._inject(call, found, caller, open_path(flags), with_text=True)
            return outcome if outcome is None else self._open_instead_of_path(call, found, caller, flags)
        if flags & (os.O_CREAT | os.O_EXCL) == os.O_CREAT | os.O_EXCL:
            return -errno.EEXIST
        if is_folder and (flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_CREAT):
            return -errno.EISDIR
        if flags & os.O_DIRECTORY and not is_folder:
            return -errno.ENOTDIR
        if flags & os.O_TRUNC:
            self._opens.about_to_be_emptied(status)
        with identity_of(caller):
            opened = _reopen(found.descriptor, flags & ~_LOOKS_ALREADY_DONE)
        if flags & NODE_OPEN_FLAGS == os.O_WRONLY:
            self._opens.parameter_opened(status)
        try:
            if flags & NODE_OPEN_FLAGS == os.O_RDWR:
                number = self._nodes.install_node(call, status, flags)
                if number is not None:
                    return number
            if is_folder:
                self._hand_out_folder()
            return self._give(call, opened, close_on_exec=bool(flags & os.O_CLOEXEC))
        finally:
            os.close(opened)

    def _hand_out_folder(self) -> None:
        """From now on a program may hold one of ours."""
        self._lookup.entered = True
        self._preloaded.entered()

    def _open_instead_of_path(self, call: Notification, found: Located, caller: TargetCaller, flags: int) -> int:
        """What an O_PATH open yields where nothing can be injected: a descriptor that can do more."""
        with identity_of(caller):
            opened = _reopen(found.descriptor, os.O_RDONLY)
        try:
            return self._give(call, opened, close_on_exec=bool(flags & os.O_CLOEXEC))
        finally:
            os.close(opened)

    def _give(self, call: Notification, descriptor: int, *, close_on_exec: bool) -> int:
        try:
            return self._listener.add_descriptor(call.id, descriptor, close_on_exec=close_on_exec)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                raise Interrupted from error
            raise

    def _stat(self, call: Notification, name: str, directory: int, path: int, buffer: int, flags: int) -> None:
        def act(found: Located, caller: TargetCaller) -> int:
            if flags & ~_FLAGS_OF_STAT:
                return -errno.EINVAL
            caller.write(buffer, pack_stat(call.architecture, name, _status(found, caller)))
            return 0

        flags &= 0xFFFFFFFF
        self._serve_or_continue(call, directory, path, not flags & _AT_SYMLINK_NOFOLLOW, act)

    def _statx(self, call: Notification) -> None:
        directory, path, flags, _, buffer = call.arguments[:5]

        def act(found: Located, caller: TargetCaller) -> int:
            caller.write(buffer, pack_statx(_status(found, caller)))
            return 0

        self._serve_or_continue(call, directory, path, not flags & _AT_SYMLINK_NOFOLLOW, act)

    def _access(self, call: Notification, directory: int, path: int, mode: int, flags: int) -> None:
        mode = signed32(mode)
        if mode & ~(os.R_OK | os.W_OK | os.X_OK) or flags & ~(_AT_EACCESS | _AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH):
            self._listener.respond_continue(call.id)
            return

        def act(found: Located, caller: TargetCaller) -> int:
            with identity_of(caller) if flags & _AT_EACCESS else _real_identity_of(caller):
                return 0 if _may(found.descriptor, mode) else -errno.EACCES

        self._serve_or_continue(call, directory, path, not flags & _AT_SYMLINK_NOFOLLOW, act)

    def _statfs(self, call: Notification, name: str, buffer: int) -> None:

        def act(found: Located, caller: TargetCaller) -> int:
            magic = KDBUS_MAGIC if self._is_below_kdbus(found) else SYSFS_MAGIC
            caller.write(buffer, pack_statfs(call.architecture, name, magic))
            return 0

        self._serve_or_continue(call, AT_FDCWD, call.arguments[0], True, act)

    def _is_below_kdbus(self, found: Located) -> bool:
        status = os.fstat(found.descriptor)
        at_root = self._lookup.position(found.descriptor) == b"fs"
        return at_root or self._files.find(status.st_dev, status.st_ino) is not None

    def _readlink(self, call: Notification, directory: int, path: int, buffer: int, size: int) -> None:
        def act(found: Located, caller: TargetCaller) -> int:
            if signed32(size) <= 0 or not stat.S_ISLNK(os.fstat(found.descriptor).st_mode):
                return -errno.EINVAL
            link = os.readlink(b"", dir_fd=found.descriptor)[: signed32(size)]
            caller.write(buffer, link)
            return len(link)

        self._serve_or_continue(call, directory, path, False, act)

    def _attributes(self, call: Notification, follow: bool, answer: int) -> None:
        """There are no extended attributes in kdbusfs."""
        self._serve_or_continue(call, AT_FDCWD, call.arguments[0], follow, lambda _found, _caller: answer)

    def _chdir(self, call: Notification) -> None:
        """chdir(path)."""

        def act(found: Located, caller: TargetCaller) -> int | None:
            if not stat.S_ISDIR(os.fstat(found.descriptor).st_mode):
                return -errno.ENOTDIR
            with identity_of(caller):
                if not _may(found.descriptor, os.X_OK):
                    return -errno.EACCES
            self._hand_out_folder()
            return self._inject(call, found, caller, change_folder)

        self._serve_or_continue(call, AT_FDCWD, call.arguments[0], True, act, injects=True)

    def _getcwd(self, call: Notification) -> None:
        """getcwd(buffer, size)."""
        path = self._path_of_folder(call) if self._lookup.entered else None
        if path is None:
            self._listener.respond_continue(call.id)
            return
        buffer, size = call.arguments[:2]

        def serve() -> int:
            if len(path) + 1 > size:
                return -errno.ERANGE
            self._answering.caller(call).write(buffer, path + b"\0")
            return len(path) + 1

        self._answering.answer(call, serve)

    def _path_of_folder(self, call: Notification) -> bytes | None:
        """Where the caller believes to be, if its working folder is one of ours."""
        try:
            folder = os.open(f"/proc/{call.pid}/cwd", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            position = self._lookup.position(folder)
            status = os.fstat(folder)
            if position is not None:
                return b"/sys/" + position + b"/kdbus"
            if not self._lookup.is_private(folder):
                return None
        finally:
            os.close(folder)
        node = self._files.find(status.st_dev, status.st_ino)
        if node is None:
            return b"/sys/module/kdbus/parameters"
        return os.fsencode("/".join(("/sys/fs/kdbus", *node)))

    def _inotify_add_watch(self, call: Notification) -> None:
        """inotify_add_watch(inotify, path, mask)."""
        inotify, path, mask = call.arguments[:3]

        def act(found: Located, caller: TargetCaller) -> int | None:
            if mask & _IN_ONLYDIR and not stat.S_ISDIR(os.fstat(found.descriptor).st_mode):
                return -errno.ENOTDIR
            if signed32(inotify) < 0:
                return -errno.EBADF

            try:
                instance = caller.file(inotify & 0xFFFFFFFF)
            except DescriptorNotPassable:
                return self._inject(call, found, caller, add_watch(inotify, mask), with_text=True)
            try:
                with identity_of(caller):
                    return add_watch_here(instance.fileno(), found.descriptor, mask)
            finally:
                instance.close()

        self._serve_or_continue(call, AT_FDCWD, path, not mask & IN_DONT_FOLLOW, act, injects=True)

    def _inject(
        self,
        call: Notification,
        found: Located,
        caller: TargetCaller,
        injected: InjectedCall,
        *,
        with_text: bool = False,
    ) -> int | None:
        """Have the caller do it on what was found, of which it gets a descriptor for the moment.

        It must be one that the caller could open itself, as its other threads can use it meanwhile.
        """
        with identity_of(caller):
            opened = _reopen(found.descriptor, os.O_RDONLY)
        try:
            outcome = inject(self._listener, call, opened, self._pump, injected, with_text=with_text).outcome
        finally:
            os.close(opened)
        return -errno.EPERM if outcome is Outcome.ALREADY_TRACED else None

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._module)
        self._preloaded.close()


def _name_at(call: Notification, address: int) -> bytes | None:
    """The path at an address of the caller; None if it cannot be read."""
    try:
        return memory.read_string(call.pid, address, PATH_LIMIT)
    except PermissionError:
        tell_path_forbidden(call.pid)
        return None
    except OSError:
        return None


def _reopen(descriptor: int, flags: int) -> int:
    """Open what an O_PATH descriptor stands for. Raises OSError.

    The folder may belong to the very user whose programs look into it, who can put things there; and opening a pipe
    waits, opening a device may do anything.
    """
    if stat.S_IFMT(os.fstat(descriptor).st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC | os.O_NOCTTY)


def _may(descriptor: int, mode: int) -> bool:
    """Whether the borrowed identity may do that with what an O_PATH descriptor stands for."""
    return os.access(f"/proc/self/fd/{descriptor}", mode, effective_ids=True)


def _status(found: Located, caller: TargetCaller) -> Status:
    file = os.fstat(found.descriptor)
    uid, gid = caller.ids.from_uid(file.st_uid), caller.ids.from_gid(file.st_gid)
    return Status(
        file,
        caller.ids.overflow_uid if uid is None else uid,
        caller.ids.overflow_gid if gid is None else gid,
    )


def _real_identity_of(caller: TargetCaller) -> borrowed_identity:
    """What access(2) judges by: real ids; capabilities are those that a program of that user would have."""
    who = caller.credentials()
    capabilities = caller.process.capabilities()
    own = capabilities.user_namespace == own_namespace(b"user")
    return borrowed_identity(who.uid, who.gid, who.groups, capabilities.permitted if own and who.uid == 0 else 0)
