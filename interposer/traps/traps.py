# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps: what each trapped system call means, and how it is answered.

Every trap ends in one of five answers, and in exactly one:

- a value, which the call returns;
- an error number;
- a descriptor, installed in the target, whose number the call returns;
- later: the caller waits for a reply (`interposer.supervisor.waiting`);
- the kernel does it: the call was not ours after all. The filter lets only suspects through, so this is the rule for
  opens that lead elsewhere and for mappings of other files. It is the right answer only where the target gains
  nothing by changing its memory meanwhile: the worst that it can get is the plain file behind a node, which its first
  ioctl replaces by a handle.

A call that fails because the supervisor is short of something says so (ENFILE, ENOMEM); one whose caller may not be
inspected, EPERM. One that fails in an unforeseen way is answered with EIO and reported. Nobody else notices.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from broker.domain import Domain
from broker.errors import KdbusError, NodeShutDown, NoFreeDescriptor, TooManyOpenFiles, errno_of
from broker.handle import open_node
from broker.limits import PAGE_SIZE
from broker.send import Wait
from interposer.handles.detour import Detours
from interposer.handles.handles import HandleTable, OpenHandle, status_of
from interposer.handles.late import LateHandles
from interposer.injection.injection import Outcome, inject_mapping
from interposer.launch.view import AttachFlagsMask
from interposer.nodes.filesystem import NodeFiles
from interposer.nodes.resolve import AT_FDCWD, StartingPoints, resolve
from interposer.report import unexpected
from interposer.shortage import errno_of_shortage, tell_once
from interposer.target.budget import OverBudget
from interposer.target.caller import MemoryStalled, TargetCaller
from interposer.target.ids import UserNamespaces, own_namespace
from interposer.target.stalls import PostedWrites
from interposer.traps.delayed import Delayed
from interposer.traps.exactly_once import Answers, HeldCaller, Interrupted
from interposer.traps.shelves import Shelves
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import REVISIONS
from native import memory
from native.credentials import borrowed_identity
from native.deputies import Stalled
from native.namespace import known_status
from native.notification import Listener, Notification
from native.pool import Pool

if TYPE_CHECKING:
    from interposer.traps.faults import Faults
    from interposer.traps.tap import Tap

_PATH_LIMIT = 4096
_HOW_SIZE = 24
"""`struct open_how`: flags, mode, resolve, 64 bits each."""
NODE_OPEN_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_DIRECTORY | os.O_PATH
_KNOWN_FLAGS = os.O_ACCMODE | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_TRUNC | os.O_APPEND
"""Flags with which openat2(2), unlike its elders, may open a node; it refuses those that do not exist."""
_PROT_WRITE = 0x2
_MAP_TYPE, _MAPS_SHARED, _MAP_ANONYMOUS = 0xF, (1, 3), 0x20
_OLD_MMAP_ARGUMENTS = struct.Struct("=6I")
_SENDS = frozenset(revision.requests["SEND"] for revision in REVISIONS)
_SEND_FLAGS = 8
"""Where the flags of SEND's command stand."""


@dataclass(frozen=True, slots=True)
class MountedDomain:
    """A domain and the files that show its nodes."""

    domain: Domain
    files: NodeFiles


Later = Callable[[Notification, Wait], None]


class BrokerNeeded(Exception):
    """A call that was tried without the broker needs it; nothing has happened yet."""


class Traps:
    """Serves the traps of one listener."""

    def __init__(
        self,
        listener: Listener,
        answers: Answers,
        handles: HandleTable,
        namespaces: UserNamespaces,
        domains: list[MountedDomain],
        later: Later,
        pump: Callable[[Notification], None],
        served: Callable[[Notification, OpenHandle, TargetCaller], None],
        parameter: AttachFlagsMask,
        posted: PostedWrites,
        faults: Faults | None = None,
        share: Callable[[OpenHandle], int | None] | None = None,
    ) -> None:
        """`later` takes over a waiting call; `pump` gets notifications that arrive while a mapping is injected.

        `served` is told of each ioctl that the broker has served on a handle. `parameter`: the module parameter.
        `posted`: what is written to callers. `faults`: what is injected. `share`: what lets receivers serve themselves
        (`interposer.traps.shelves`).
        """
        self.tap: Tap | None = None
        """Who is shown what is asked for and answered."""
        self._faults = faults
        self._shelves = Shelves(listener, answers, share)
        self.gives_shelves = share is not None
        """Whether receivers may serve themselves."""
        self.delayed = Delayed()
        self._parameter = parameter
        self._posted = posted
        self._served = served
        self._listener = listener
        self._answers = answers
        self._handles = handles
        self._namespaces = namespaces
        self._domains = domains
        self._later = later
        self._pump = pump
        self._without_broker = False
        self.detours = Detours(listener)
        self._late = LateHandles(listener, handles)

    def caller(self, notification: Notification) -> TargetCaller:
        """The thread that made the trapped call."""
        kind = HeldCaller if self._answers.holds(notification) else TargetCaller
        if self.tap is not None:
            kind = self.tap.watched(kind)
        return kind(self._listener, notification, self._namespaces, self._handles, self._handles.budgets, self._posted)

    def answer(self, notification: Notification, serve: Callable[[], int | None], *, may_wait: bool = False) -> bool:
        """Run `serve` and answer with its value, or with the error that it raises; None: it has answered itself.

        False, and nothing has happened, if the call is over already. `may_wait`: see `Answers.begin`. Raises
        BrokerNeeded within `without_broker`, as all that the broker does is done here, and Stalled where the caller's
        memory does not come: then nothing has happened, and the call is to be served again.
        """
        if self._without_broker:
            raise BrokerNeeded
        if not self._answers.begin(notification, may_wait=may_wait):
            return False
        try:
            value = serve()
        except (Stalled, MemoryStalled):
            self._answers.leave()
            raise
        except KdbusError as error:
            self._give(notification, error=errno_of(error))
        except Interrupted:
            self._answers.leave()
        except ProcessLookupError:
            # The caller is gone, and with it the need for an answer; should it live, the kernel has the errno.
            self._give(notification, error=errno.ESRCH)
        except Exception as error:
            self._give(notification, error=failure_of(notification, error))
        else:
            if value is None:
                self._answers.leave()
            else:
                self._give(notification, value)
        return True

    def _give(self, notification: Notification, value: int = 0, error: int = 0) -> None:
        """Answer a call that was begun; later, if results of it are still being written."""

        def give_late(written: bool) -> None:
            failure = error or (0 if written else errno.EFAULT)
            with suppress(OSError):
                if self._answers.begin(notification):
                    self._give(notification, value, failure)

        if self._posted.defer(notification, give_late):
            self._answers.leave()
        elif error:
            self._answers.error(notification, error)
        else:
            self._answers.value(notification, value)

    def without_broker(self, serve: Callable[[Notification], None], notification: Notification) -> bool:
        """Serve a call while the broker's state is lent; False, and nothing has happened, if the broker is needed."""
        self._without_broker = True
        try:
            serve(notification)
        except BrokerNeeded:
            return False
        finally:
            self._without_broker = False
        return True

    def ioctl(self, notification: Notification) -> None:
        """ioctl(fd, request, argument) with kdbus's magic number."""
        descriptor, request, argument = notification.arguments[:3]

        def serve() -> int | None:
            caller = self.caller(notification)
            handle = self._handle_of(notification, descriptor & 0xFFFFFFFF)
            if handle is None or handle.broker is None:
                self._listener.respond_continue(notification.id)
                return None
            if not caller.is_waiting():
                # What was found is somebody else's, who has the thread's number by now.
                raise Interrupted
            if self._shelves.knows(request & 0xFFFFFFFF):
                return self._shelves.ioctl(notification, request & 0xFFFFFFFF, handle)
            if self._faults is not None and self._delay(self._faults, notification, handle, caller):
                return None
            try:
                if self.tap is None and self._faults is None:
                    wait = handle.broker.ioctl(request & 0xFFFFFFFF, argument, caller)
                else:
                    wait = self._ioctl_by_way(notification, handle, caller)
            except KdbusError:
                # Or who is refused from the start would never be known, and be refused here for good.
                self._served(notification, handle, caller)
                raise
            self._served(notification, handle, caller)
            if wait is None:
                return 0
            self._later(notification, wait)
            return None

        may_wait = not self._answers.kernel_waits and _may_wait(notification)
        if self._faults is not None and self._faults.may_delay(request & 0xFFFFFFFF):
            may_wait = True
        self.answer(notification, serve, may_wait=may_wait)

    def _ioctl_by_way(self, notification: Notification, handle: OpenHandle, caller: TargetCaller) -> Wait | None:
        """`handle.broker.ioctl` by way of what is injected and of who watches."""
        assert handle.broker is not None
        request, argument = notification.arguments[1] & 0xFFFFFFFF, notification.arguments[2]
        act = partial(handle.broker.ioctl, request, argument, caller)
        if self._faults is not None:
            act = partial(self._faults.ioctl, notification, handle, request, argument, caller)
        if self.tap is None:
            return act()
        return self.tap.ioctl(notification, handle, request, argument, caller, act)

    def _delay(self, faults: Faults, notification: Notification, handle: OpenHandle, caller: TargetCaller) -> bool:
        """Whether the call has to wait before it is served; then it is seen to."""
        delay_ns = faults.delay_ns(notification, handle, notification.arguments[1] & 0xFFFFFFFF, caller)
        if delay_ns:
            self.delayed.add(notification, delay_ns)
        return bool(delay_ns)

    def _handle_of(self, notification: Notification, descriptor: int) -> OpenHandle | None:
        """The handle behind a descriptor of the caller. A plain file of a node is replaced by a handle first."""
        thread = notification.pid
        handle = self._handles.find(thread, descriptor)
        if handle is not None:
            return handle
        try:
            status = status_of(thread, descriptor)
        except OSError:
            return None
        node = self._node_behind(status)
        if node is not None:
            return self._late.handle(
                notification, descriptor, lambda flags: self._install(notification, *node, flags, at=descriptor)
            )
        if (detoured := self.detours.restore(notification, descriptor, status)) is not None:
            return detoured
        if status.st_nlink == 0 and any(mounted.files.device == status.st_dev for mounted in self._domains):
            raise NodeShutDown
        return None

    def _is_of_no_domain(self, thread: int, descriptor: int) -> bool:
        """Whether a descriptor of the caller is certainly neither a handle nor a node nor what was a node."""
        try:
            status = status_of(thread, descriptor)
        except OSError:
            return False
        of_domains = any(mounted.files.device == status.st_dev for mounted in self._domains)
        return stat.S_ISREG(status.st_mode) and not of_domains and not self.detours.knows(status)

    def open(self, notification: Notification) -> None:
        """open(path, flags)."""
        self.open_at(notification, AT_FDCWD, notification.arguments[0], notification.arguments[1])

    def openat(self, notification: Notification) -> None:
        """openat(directory, path, flags)."""
        directory, path, flags = notification.arguments[:3]
        self.open_at(notification, signed32(directory), path, flags)

    def openat2(self, notification: Notification) -> None:
        """openat2(directory, path, how, size): the flags lie in memory."""
        directory, path, how, size = notification.arguments[:4]
        try:
            raw = memory.read(notification.pid, how, _HOW_SIZE) if size == _HOW_SIZE else b""
        except (OSError, Stalled):
            raw = b""
        # What is wrong is the kernel's to say, and restricted lookups are its own: if it opens a node, that is a plain
        # file, which the first ioctl replaces.
        flags = int.from_bytes(raw[:8], "little")
        if any(raw[8:]) or flags & ~_KNOWN_FLAGS:
            flags = 0
        self.open_at(notification, signed32(directory), path, flags)

    def open_at(self, notification: Notification, directory: int, path: int, flags: int) -> None:
        """An open of any kind, its arguments taken apart; `path` is an address.

        What stalls is the kernel's, so that it is the caller who waits. Should it lead to a node after all, that is a
        plain file, which the first ioctl replaces.
        """
        with suppress(Stalled):
            if flags & NODE_OPEN_FLAGS == os.O_WRONLY:
                self._announce_writing(notification, directory, path, follow=not flags & os.O_NOFOLLOW)
            elif flags & NODE_OPEN_FLAGS == os.O_RDWR and self._open_node(notification, directory, path, flags):
                return
        self._listener.respond_continue(notification.id)

    def _announce_writing(self, notification: Notification, directory: int, path: int, *, follow: bool) -> None:
        """The kernel is about to open something with O_WRONLY; the module parameter wants to know, if that may be."""
        try:
            name = memory.read_string(notification.pid, path, _PATH_LIMIT)
            with StartingPoints(notification.pid, directory) as start:
                with _found(start, name, follow=follow) as found:
                    if not self._is_parameter(found):
                        return
                if self._without_broker:
                    raise BrokerNeeded
                with identity_of(self.caller(notification)), _found(start, name, follow=follow) as found:
                    if self._is_parameter(found) and _may_write(found):
                        self.parameter_opened(known_status(found))
        except OSError:
            return

    def _is_parameter(self, descriptor: int) -> bool:
        return self._parameter.is_file(known_status(descriptor))

    def about_to_be_emptied(self, status: os.stat_result) -> None:
        """The file of `status` may be emptied now: what was written to the module parameter counts all the same."""
        if self._parameter.is_file(status):
            self._parameter.current()

    def parameter_opened(self, status: os.stat_result) -> None:
        """Somebody who may opens the file of `status` with O_WRONLY."""
        if self._parameter.is_file(status):
            self._parameter.opened_for_writing()

    def _open_node(self, notification: Notification, directory: int, path: int, flags: int) -> bool:
        """Serve the open if it leads to a node; False if not."""
        try:
            name = memory.read_string(notification.pid, path, _PATH_LIMIT)
            follow = not flags & os.O_NOFOLLOW
            with StartingPoints(notification.pid, directory) as start:
                # Most lead elsewhere, and are the kernel's; only for the others it matters who the caller is.
                with _found(start, name, follow=follow) as found:
                    node = self._node_behind(known_status(found))
                if node is None:
                    return False
                with identity_of(self.caller(notification)), _found(start, name, follow=follow) as found:
                    # If it is forbidden, the kernel says so.
                    if self._node_behind(known_status(found)) != node or not _may_read_and_write(found):
                        return False
        except OSError:
            return False
        self.answer(notification, lambda: self._install(notification, *node, flags))
        return True

    def install_node(self, notification: Notification, status: os.stat_result, flags: int) -> int | None:
        """Open the node whose file has that status for the caller, who may; the number, None if it is no node.

        Raises as `_install` does.
        """
        node = self._node_behind(status)
        return None if node is None else self._install(notification, *node, flags)

    def _node_behind(self, status: os.stat_result) -> tuple[Domain, tuple[str, ...]] | None:
        """Domain and path of the node whose file has that status. Folders are the kernel's business."""
        if stat.S_ISDIR(status.st_mode):
            return None
        for mounted in self._domains:
            path = mounted.files.find(status.st_dev, status.st_ino)
            if path is not None:
                return mounted.domain, path
        return None

    def _install(
        self, notification: Notification, domain: Domain, path: tuple[str, ...], flags: int, at: int | None = None
    ) -> int:
        """Open a node for the caller; the number of the new descriptor.

        Raises NodeShutDown, NoFreeDescriptor, TooManyOpenFiles, Interrupted.
        """
        if self.tap is None:
            return self._install_unwatched(notification, domain, path, flags, at)
        act = partial(self._install_unwatched, notification, domain, path, flags, at)
        return self.tap.opening(notification, path, act)

    def _install_unwatched(
        self, notification: Notification, domain: Domain, path: tuple[str, ...], flags: int, at: int | None
    ) -> int:
        self._handles.sweep()
        try:
            user = self.caller(notification).credentials().uid
            handle, theirs = self._handles.prepare(user, nonblocking=bool(flags & os.O_NONBLOCK))
        except ProcessLookupError:
            raise
        except (OSError, OverBudget) as error:
            tell_once(errno.ENFILE, str(error))
            raise TooManyOpenFiles from error
        try:
            handle.broker = open_node(domain, path, self.caller(notification), handle)
            close_on_exec = bool(flags & os.O_CLOEXEC)
            number = self._listener.add_descriptor(notification.id, theirs.fileno(), close_on_exec=close_on_exec, at=at)
        except OSError as error:
            self._handles.discard(handle)
            if error.errno == errno.EMFILE:
                raise NoFreeDescriptor from error
            if error.errno in (errno.ENOENT, errno.ESRCH):
                raise Interrupted from error
            raise
        except BaseException:
            self._handles.discard(handle)
            raise
        finally:
            theirs.close()
        self._handles.add(handle)
        return number

    def mmap(self, notification: Notification) -> None:
        """mmap(address, length, protection, flags, fd, offset), shared and of a file; mmap2 of i386 is the same."""
        self._map(notification, notification.arguments)

    def old_mmap(self, notification: Notification) -> None:
        """mmap(arguments) of i386: the six of them lie in memory, 32 bits each."""
        try:
            raw = memory.read(notification.pid, notification.arguments[0], _OLD_MMAP_ARGUMENTS.size)
        except OSError:
            raw = bytes(_OLD_MMAP_ARGUMENTS.size)
        address, length, protection, flags, descriptor, offset = _OLD_MMAP_ARGUMENTS.unpack(raw)
        if flags & _MAP_TYPE in _MAPS_SHARED and not flags & _MAP_ANONYMOUS and offset % PAGE_SIZE == 0:
            self._map(notification, (address, length, protection, flags, descriptor, offset // PAGE_SIZE))
        else:
            self._listener.respond_continue(notification.id)

    def _map(self, notification: Notification, arguments: tuple[int, ...]) -> None:
        _, length, protection, _, descriptor, _ = arguments
        if self._is_of_no_domain(notification.pid, descriptor & 0xFFFFFFFF):
            self._listener.respond_continue(notification.id)
            return

        def serve() -> int | None:
            handle = self._handle_of(notification, descriptor & 0xFFFFFFFF)
            if handle is None or handle.broker is None:
                self._listener.respond_continue(notification.id)
                return None
            rounded = (length + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
            act = partial(handle.broker.map, rounded, writable=bool(protection & _PROT_WRITE))
            pool = act() if self.tap is None else self.tap.mapping(notification, handle, length, act)
            assert isinstance(pool, Pool)
            result = inject_mapping(self._listener, notification, pool.read_only_descriptor, self._pump, arguments)
            if result.outcome is Outcome.ALREADY_TRACED:
                self.detours.map_instead(notification, handle, descriptor & 0xFFFFFFFF, pool.read_only_descriptor)
            return None

        self.answer(notification, serve, may_wait=True)


def failure_of(notification: Notification, error: Exception) -> int:
    """The errno for a call that `error`, which is being handled, kept from being served; it is reported if need be."""
    number = errno_of_shortage(error)
    if number is not None:
        tell_once(number, str(error) or "out of memory")
        return number
    if isinstance(error, PermissionError):
        return errno.EPERM
    unexpected(f"system call {notification.number} of thread {notification.pid} fails with EIO")
    return errno.EIO


def _may_wait(notification: Notification) -> bool:
    """Whether the trapped ioctl is a SEND that waits for its reply. In version 2, where the flags are a message's, that
    bit says only that there will be one."""
    if notification.arguments[1] & 0xFFFFFFFF not in _SENDS:
        return False
    try:
        command = memory.read(notification.pid, notification.arguments[2], _SEND_FLAGS + 8)
    except OSError:
        return False
    return bool(int.from_bytes(command[_SEND_FLAGS:], "little") & abi.SEND_SYNC_REPLY)


def signed32(register: int) -> int:
    """The low half of a register as a signed number."""
    value = register & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def identity_of(caller: TargetCaller) -> borrowed_identity:
    """What the caller may do with files; capabilities of another user namespace than ours do not count here."""
    who = caller.credentials()
    capabilities = caller.process.capabilities()
    own = capabilities.user_namespace == own_namespace(b"user")
    return borrowed_identity(who.fsuid, who.fsgid, who.groups, capabilities.effective if own else 0)


@contextmanager
def _found(start: StartingPoints, path: bytes, *, follow: bool) -> Iterator[int]:
    """What `interposer.nodes.resolve.resolve` finds, closed afterwards. Raises OSError, Stalled."""
    descriptor = resolve(start, path, follow=follow)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _may_write(descriptor: int) -> bool:
    """Whether the borrowed identity may open this O_PATH descriptor's file with O_WRONLY."""
    return os.access(f"/proc/self/fd/{descriptor}", os.W_OK, effective_ids=True)


def _may_read_and_write(descriptor: int) -> bool:
    """Whether the borrowed identity may open this O_PATH descriptor's file with O_RDWR."""
    return os.access(f"/proc/self/fd/{descriptor}", os.R_OK | os.W_OK, effective_ids=True)
