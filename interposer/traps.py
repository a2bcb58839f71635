# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps: what each trapped system call means, and how it is answered.

Every trap ends in one of five answers, and in exactly one:

- a value, which the call returns;
- an error number;
- a descriptor, installed in the target, whose number the call returns;
- later: the caller waits for a reply (`interposer.waiting`);
- the kernel does it: the call was not ours after all. The filter lets only suspects through, so this is the rule for
  opens that lead elsewhere and for mappings of other files. It is the right answer only where the target gains
  nothing by changing its memory meanwhile: the worst that it can get is the plain file behind a node, which its first
  ioctl replaces by a handle.

A call that fails in an unforeseen way is answered with EIO and logged; nobody else notices.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from broker.domain import Domain
from broker.errors import KdbusError, NoFreeDescriptor, TooManyOpenFiles, errno_of
from broker.handle import open_node
from broker.limits import PAGE_SIZE
from broker.send import Wait
from interposer.caller import TargetCaller
from interposer.detour import Detours
from interposer.filesystem import NodeFiles
from interposer.handles import HandleTable, OpenHandle
from interposer.ids import UserNamespaces, own_namespace
from interposer.injection import Outcome, inject_mapping
from interposer.resolve import AT_FDCWD, resolve, starting_points
from native import memory
from native.credentials import borrowed_identity
from native.notification import Listener, Notification
from native.pool import Pool

_PATH_LIMIT = 4096
_HOW_SIZE = 24
"""`struct open_how`: flags, mode, resolve, 64 bits each."""
_NODE_OPEN_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_DIRECTORY | os.O_PATH
_PROT_WRITE = 0x2


@dataclass(frozen=True, slots=True)
class MountedDomain:
    """A domain and the files that show its nodes."""

    domain: Domain
    files: NodeFiles


Later = Callable[[Notification, Wait], None]


class Traps:
    """Serves the traps of one listener."""

    def __init__(
        self,
        listener: Listener,
        handles: HandleTable,
        namespaces: UserNamespaces,
        domains: list[MountedDomain],
        later: Later,
        pump: Callable[[Notification], None],
        served: Callable[[Notification, OpenHandle], None],
    ) -> None:
        """`later` takes over a waiting call; `pump` gets notifications that arrive while a mapping is injected.

        `served` is told of each ioctl that the broker has served on a handle.
        """
        self._served = served
        self._listener = listener
        self._handles = handles
        self._namespaces = namespaces
        self._domains = domains
        self._later = later
        self._pump = pump
        self._detours = Detours(listener)

    def caller(self, notification: Notification) -> TargetCaller:
        """The thread that made the trapped call."""
        return TargetCaller(self._listener, notification, self._namespaces, self._handles)

    def answer(self, notification: Notification, serve: Callable[[], int | None]) -> None:
        """Run `serve` and answer with its value, or with the error that it raises; None: it has answered itself."""
        try:
            value = serve()
        except KdbusError as error:
            self._listener.respond_error(notification.id, errno_of(error))
        except ProcessLookupError:
            # The caller is gone, and with it the need for an answer; should it live, the kernel has the errno.
            self._listener.respond_error(notification.id, errno.ESRCH)
        except Exception:
            name = f"system call {notification.number} of thread {notification.pid}"
            print(f"kdbus: serving {name} failed unexpectedly; it gets EIO. Please report this:", file=sys.stderr)
            traceback.print_exc()
            self._listener.respond_error(notification.id, errno.EIO)
        else:
            if value is not None:
                self._listener.respond_value(notification.id, value)

    def ioctl(self, notification: Notification) -> None:
        """ioctl(fd, request, argument) with kdbus's magic number."""
        self._detours.end(notification)
        descriptor, request, argument = notification.arguments[:3]
        handle = self._handle_of(notification, descriptor & 0xFFFFFFFF)
        if handle is None or handle.broker is None:
            self._listener.respond_continue(notification.id)
            return
        broker = handle.broker

        def serve() -> int | None:
            wait = broker.ioctl(request & 0xFFFFFFFF, argument, self.caller(notification))
            self._served(notification, handle)
            if wait is None:
                return 0
            self._later(notification, wait)
            return None

        self.answer(notification, serve)

    def _handle_of(self, notification: Notification, descriptor: int) -> OpenHandle | None:
        """The handle behind a descriptor of the caller. A plain file of a node is replaced by a handle first."""
        thread = notification.pid
        handle = self._handles.find(thread, descriptor)
        if handle is not None:
            return handle
        try:
            node = self._node_behind(os.stat(f"/proc/{thread}/fd/{descriptor}"))
            flags = 0 if node is None else _descriptor_flags(thread, descriptor)
        except OSError:
            return None
        if node is None or flags & os.O_PATH:
            return None
        self._install(notification, *node, flags, at=descriptor)
        return self._handles.find(thread, descriptor)

    def open(self, notification: Notification) -> None:
        """open(path, flags)."""
        self._open(notification, AT_FDCWD, notification.arguments[0], notification.arguments[1])

    def openat(self, notification: Notification) -> None:
        """openat(directory, path, flags)."""
        directory, path, flags = notification.arguments[:3]
        self._open(notification, _signed32(directory), path, flags)

    def openat2(self, notification: Notification) -> None:
        """openat2(directory, path, how, size): the flags lie in memory."""
        directory, path, how, size = notification.arguments[:4]
        try:
            raw = memory.read(notification.pid, how, _HOW_SIZE) if size >= _HOW_SIZE else b""
        except OSError:
            raw = b""
        self._open(notification, _signed32(directory), path, int.from_bytes(raw[:8], "little"))

    def _open(self, notification: Notification, directory: int, path: int, flags: int) -> None:
        if flags & _NODE_OPEN_FLAGS != os.O_RDWR or not self._open_node(notification, directory, path, flags):
            self._listener.respond_continue(notification.id)

    def _open_node(self, notification: Notification, directory: int, path: int, flags: int) -> bool:
        """Serve the open if it leads to a node; False if not."""
        try:
            name = memory.read_string(notification.pid, path, _PATH_LIMIT)
            if name.startswith(b"/"):
                directory = AT_FDCWD
            caller = self.caller(notification)
            with starting_points(notification.pid, directory) as (root, base), _identity_of(caller):
                found = resolve(root, base, name)
                try:
                    node = self._node_behind(os.fstat(found))
                    # Not ours, or forbidden: the kernel opens the file, or says why not.
                    if node is None or not _may_read_and_write(found):
                        return False
                finally:
                    os.close(found)
        except OSError:
            return False
        self.answer(notification, lambda: self._install(notification, *node, flags))
        return True

    def _node_behind(self, status: os.stat_result) -> tuple[Domain, tuple[str, ...]] | None:
        """Domain and path of the node whose file has that status."""
        for mounted in self._domains:
            path = mounted.files.find(status.st_dev, status.st_ino)
            if path is not None:
                return mounted.domain, path
        return None

    def _install(
        self, notification: Notification, domain: Domain, path: tuple[str, ...], flags: int, at: int | None = None
    ) -> int:
        """Open a node for the caller; the number of the new descriptor.

        Raises NodeShutDown, NoFreeDescriptor, TooManyOpenFiles.
        """
        self._handles.sweep()
        try:
            handle, theirs = self._handles.prepare(nonblocking=bool(flags & os.O_NONBLOCK))
        except OSError as error:
            raise TooManyOpenFiles from error
        try:
            handle.broker = open_node(domain, path, self.caller(notification), handle)
            close_on_exec = bool(flags & os.O_CLOEXEC)
            number = self._listener.add_descriptor(notification.id, theirs.fileno(), close_on_exec=close_on_exec, at=at)
        except OSError as error:
            self._handles.discard(handle)
            if error.errno in (errno.EMFILE, errno.ENOENT, errno.ESRCH):
                raise NoFreeDescriptor from error
            raise
        except BaseException:
            self._handles.discard(handle)
            raise
        finally:
            theirs.close()
        self._handles.add(handle)
        return number

    def mmap(self, notification: Notification) -> None:
        """mmap(address, length, protection, flags, fd, offset), shared and of a file."""
        _, length, protection, _, descriptor, _ = notification.arguments
        self._detours.end(notification)
        handle = self._handle_of(notification, descriptor & 0xFFFFFFFF)
        if handle is None or handle.broker is None:
            self._listener.respond_continue(notification.id)
            return
        broker = handle.broker

        def serve() -> int | None:
            rounded = (length + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
            pool = broker.map(rounded, writable=bool(protection & _PROT_WRITE))
            assert isinstance(pool, Pool)
            result = inject_mapping(self._listener, notification, pool.read_only_descriptor, self._pump)
            if result.outcome is Outcome.ALREADY_TRACED:
                self._detours.map_instead(notification, handle, descriptor & 0xFFFFFFFF, pool.read_only_descriptor)
            return None

        self.answer(notification, serve)


def _signed32(register: int) -> int:
    """The low half of a register as a signed number."""
    value = register & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _descriptor_flags(thread: int, descriptor: int) -> int:
    """The O_* flags of an open descriptor, O_CLOEXEC included (proc(5), fdinfo). Raises OSError."""
    with open(f"/proc/{thread}/fdinfo/{descriptor}", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    return int(fields[b"flags"], 8)


def _identity_of(caller: TargetCaller) -> borrowed_identity:
    """What the caller may do with files; capabilities of another user namespace than ours do not count here."""
    who = caller.credentials()
    capabilities = caller.process.capabilities()
    own = capabilities.user_namespace == own_namespace(b"user")
    return borrowed_identity(who.fsuid, who.fsgid, who.groups, capabilities.effective if own else 0)


def _may_read_and_write(descriptor: int) -> bool:
    """Whether the borrowed identity may open this O_PATH descriptor's file with O_RDWR."""
    return os.access(f"/proc/self/fd/{descriptor}", os.R_OK | os.W_OK, effective_ids=True)
