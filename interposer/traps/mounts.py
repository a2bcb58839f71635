# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains by mount: a program that mounts a kdbusfs gets a domain, and keeps it while it is mounted.

Each mount of type `kdbusfs` is a domain of its own (reference: `fs_super_mount`), which belongs to the user namespace
of whoever mounts. Since this kernel has no such type, the supervisor serves the call: a tmpfs is put where the program
wants it (`interposer.traps.mount_child` says how), and becomes a domain. From the moment on at which
the mount is attached the supervisor serves nobody else, so no program can find it before its domain.

All other kinds of mount(2) are left to the kernel: binding, moving, remounting work on a tmpfs as on a kdbusfs. That a
domain's last mount is gone is noticed by `interposer.traps.mount_watch`, however it came about; the domain is ended
before the next trap is served. Only umount2(2) of a kdbusfs is done by a child as well, so that all connections have
hung up when the call returns.

The new calls, which make a mount in steps, are not served. fsopen(2) of a kdbusfs says that it does not exist, as on
all kernels that had kdbus; mount(8) then takes mount(2).

Weaknesses: /proc/mounts and statfs(2) say tmpfs. If the user namespace has no map of users yet when it mounts, its
domain knows no users. In the original an open handle is an open file of the mount: there umount(2) fails with EBUSY,
and a detached kdbusfs ends with its last handle; here it succeeds, and ends the domain.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from broker.interfaces import INVALID_ID, Ids
from interposer.nodes.filesystem import NodeFiles
from interposer.nodes.resolve import AT_FDCWD, StartingPoints, resolve
from interposer.target.caller import TargetCaller
from interposer.target.ids import read_file
from interposer.traps.answering import Answering, MountedDomain
from interposer.traps.mount_child import Helper, find_place, mount_as_caller, unmount_as_caller
from interposer.traps.mount_watch import MountWatch
from native import memory, namespace
from native.deputies import Stalled
from native.notification import Notification

_TYPE = b"kdbusfs"
_LONGEST_STRING = 4096

_MS_NOUSER = 1 << 31
_MS_MAGIC, _MS_MAGIC_MASK = 0xC0ED0000, 0xFFFF0000
"""Old programs pass it in the upper half of the flags, which then mean nothing else (mount(2))."""
_OTHER_OPERATIONS = (
    namespace.MS_REMOUNT
    | namespace.MS_BIND
    | namespace.MS_MOVE
    | namespace.MS_SHARED
    | namespace.MS_PRIVATE
    | namespace.MS_SLAVE
    | namespace.MS_UNBINDABLE
    | _MS_NOUSER
)
"""Flags that make mount(2) something else than a new mount; the type is not looked at then."""

_DOMAINS_AT_ONCE = 128
"""Domains that may be mounted at the same time: each takes descriptors, and is asked about each file."""

NewDomain = Callable[[Ids, NodeFiles], MountedDomain]


class Mounts:
    """Serves mount(2) and umount2(2), and ends the domains that are mounted nowhere any more."""

    def __init__(self, answering: Answering, new_domain: NewDomain) -> None:
        """`new_domain` makes a domain, given the mounter's ids and the files."""
        self._answering = answering
        self._listener = answering.listener
        self._domains = answering.common.domains
        self._new_domain = new_domain
        self._watch = MountWatch()
        self.on_mount: Callable[[], None] = lambda: None
        """Called before a program is told that what it has mounted is there."""
        self._looking: dict[int, Helper] = {}
        """By notification: the children of calls that were put aside."""
        self._held: dict[int, int] = {}
        """By device: a descriptor of the mounter's user namespace, so that its identity is not given to another."""

    def follow(self, mounted: MountedDomain, program: int) -> None:
        """`mounted`, one of the domains, was mounted in the mount namespace of the process `program` otherwise.

        If `program` does not see it as a mount, it ends with the supervisor only.
        """
        self._watch.add(mounted.files.device, program)

    def fileno(self) -> int:
        """A descriptor that becomes readable when `collect` has something to do. It says so once."""
        return self._watch.fileno()

    def has_news(self) -> bool:
        """Whether `collect` has something to do. Cheap."""
        return self._watch.has_news()

    def collect(self) -> None:
        """End the domains whose last mount is gone by now: their nodes are gone, their connections hung up."""
        gone = self._watch.collect()
        if gone:
            # A program that ends closes its handles before its mounts go; when these were looked at, some may have been
            # open still.
            self._answering.common.handles.collect()
        for device in gone:
            self._end(device)
        for number in [number for number in self._looking if not self._listener.is_valid(number)]:
            self._looking.pop(number).give_up()

    def _end(self, device: int) -> None:
        """A domain that is shown by several file systems ends with the last one."""
        for mounted in [mounted for mounted in self._domains if mounted.files.device == device]:
            self._domains.remove(mounted)
            if all(other.domain is not mounted.domain for other in self._domains):
                mounted.domain.deactivate()
            mounted.files.close()
        if device in self._held:
            os.close(self._held.pop(device))

    def umount(self, notification: Notification) -> None:
        """umount(target), which 32-bit x86 has besides."""
        self._unmount(notification, 0)

    def umount2(self, notification: Notification) -> None:
        """umount2(target, flags)."""
        flags = notification.arguments[1] & 0xFFFFFFFF
        self._unmount(notification, flags - (1 << 32) if flags >> 31 else flags)

    def _unmount(self, notification: Notification, flags: int) -> None:
        self._watch.before_unmount(notification.pid)
        path = b"" if notification.id in self._looking else self._path_to_domain(notification)
        if path is None:
            # Should it be one after all, `collect` finds out.
            self._listener.respond_continue(notification.id)
            return

        def begin() -> Helper:
            with ExitStack() as stack:
                place = find_place(stack, self._answering.caller(notification), notification.pid, path)
                return Helper(lambda report, _looking: unmount_as_caller(report, place, flags))

        def unmount() -> None:
            helper = self._after_lookup(notification, begin)
            try:
                helper.receive()
            finally:
                helper.close()
            self.collect()

        unmount_seen = partial(self._seen, notification, notification.arguments[0], unmount, mounts=False)
        self._answering.answer(notification, lambda: _result_of(unmount_seen))

    def _path_to_domain(self, notification: Notification) -> bytes | None:
        """The target of an umount2(2), if it lies in a mount of one of the domains.

        Looked up with the supervisor's rights, as nothing but the way to serve the call depends on it; and without
        stat(2), for which a FUSE server would be asked.
        """
        try:
            path = memory.read_string(notification.pid, notification.arguments[0], _LONGEST_STRING)
            with StartingPoints(notification.pid, AT_FDCWD) as start:
                found = resolve(start, path)
                try:
                    return path if self._watch.is_followed(_mount_of(found)) else None
                finally:
                    os.close(found)
        except OSError:
            return None

    def mount(self, notification: Notification) -> None:
        """mount(source, target, type, flags, data)."""
        flags = notification.arguments[3]
        if flags & _MS_MAGIC_MASK == _MS_MAGIC:
            flags &= ~_MS_MAGIC_MASK
        if flags & _OTHER_OPERATIONS or not self._is_type(notification, notification.arguments[2]):
            # Whatever the program makes of its strings meanwhile: the kernel does not know the type.
            self._listener.respond_continue(notification.id)
            return

        mount = partial(self._mount, notification, flags)
        mount_seen = partial(self._seen, notification, notification.arguments[1], mount, mounts=True)
        self._answering.answer(notification, lambda: _result_of(mount_seen))

    def _seen(self, notification: Notification, path: int, act: Callable[[], None], *, mounts: bool) -> None:
        """Do `act`, which mounts or unmounts what has its path at `path`, and let whoever traces see it."""
        tap = self._answering.common.tap
        if tap is None:
            act()
            return
        try:
            text = memory.read_string(notification.pid, path, _LONGEST_STRING)
        except OSError:
            text = b""  # it fails for that
        (tap.mounting if mounts else tap.unmounting)(notification, text, act)

    def fsopen(self, notification: Notification) -> None:
        """fsopen(type, flags)."""
        if self._is_type(notification, notification.arguments[0]):
            self._answering.answer(notification, lambda: -errno.ENOSYS)
        else:
            # The kernel does not know the type, should that be what it becomes.
            self._listener.respond_continue(notification.id)

    def _is_type(self, notification: Notification, address: int) -> bool:
        try:
            return memory.read_string(notification.pid, address, len(_TYPE) + 1) == _TYPE
        except OSError:
            return False

    def _mount(self, notification: Notification, flags: int) -> None:
        """Raises the OSError that mount(2) gives."""
        caller = self._answering.caller(notification)

        def begin() -> Helper:
            source, path = _read_strings(notification)
            with ExitStack() as stack:
                place = find_place(stack, caller, notification.pid, path)
                return Helper(lambda report, looking: mount_as_caller(report, looking, place, source, flags))

        helper = self._after_lookup(notification, begin)
        try:
            if len(self._domains) >= _DOMAINS_AT_ONCE:
                raise OSError(errno.ENOSPC, f"{_DOMAINS_AT_ONCE} kdbusfs are mounted, and no more may be")
            _know(caller)
            helper.confirm()
            self._add(caller, notification.pid, helper.receive()[0])
            helper.confirm()
        finally:
            helper.close()

    def _after_lookup(self, notification: Notification, begin: Callable[[], Helper]) -> Helper:
        """The child of that call, which has looked up what it has to: what `begin` makes, or the one that it had when
        it was put aside. Raises Stalled, for it to be put aside, and OSError."""
        helper = self._looking.pop(notification.id, None) or begin()
        try:
            helper.await_lookup()
        except Stalled:
            self._looking[notification.id] = helper
            raise
        except BaseException:
            helper.give_up()
            raise
        return helper

    def _add(self, caller: TargetCaller, thread: int, directory: int) -> None:
        """The file system is mounted: make its domain."""
        try:
            files = NodeFiles(directory, (("control",),))
        except BaseException:
            os.close(directory)
            raise
        held = -1
        try:
            held = os.open(f"/proc/{thread}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            mounted = self._new_domain(caller.ids, files)
        except BaseException:
            files.close()
            if held >= 0:
                os.close(held)
            raise
        self.on_mount()
        self._domains.append(mounted)
        self._held[files.device] = held
        if not self._watch.add(files.device, thread):
            # Mounted outside of the caller's root, or unmounted by somebody who was quicker.
            self._watch.search_for(files.device)

    def close(self) -> None:
        """End the domains that were mounted here, and let go of everything."""
        self._watch.close()
        while self._looking:
            self._looking.popitem()[1].give_up()
        for device in list(self._held):
            self._end(device)


def _result_of(action: Callable[[], None]) -> int:
    """What a system call that does `action` returns: 0 or -errno."""
    try:
        action()
    except ProcessLookupError:
        raise
    except OSError as error:
        return -(error.errno or errno.EIO)
    return 0


def _read_strings(notification: Notification) -> tuple[bytes | None, bytes]:
    """Source (None for a null pointer) and target of mount(2). Raises EFAULT, EINVAL, ENAMETOOLONG as it does."""
    source_address, target_address, _, _, data = notification.arguments[:5]
    source = None
    if source_address:
        try:
            source = memory.read_string(notification.pid, source_address, _LONGEST_STRING)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error
            raise
    if data:
        # kdbusfs takes no options, but the kernel has copied them by then.
        memory.read(notification.pid, data, 1)
    return source, memory.read_string(notification.pid, target_address, _LONGEST_STRING)


def _mount_of(descriptor: int) -> int:
    """The id of the mount that a descriptor was opened through (proc_pid_fdinfo(5))."""
    return int(read_file(f"/proc/self/fdinfo/{descriptor}").partition(b"mnt_id:")[2].split(None, 1)[0])


def _know(caller: TargetCaller) -> None:
    """Read everything that the domain will ask of its mounter's ids, which outlive the call. Raises OSError."""
    ids = caller.ids
    for fact in (ids.user_namespace, ids.pid_namespace, ids.root_directory):
        assert fact is not None
    ids.from_uid(INVALID_ID - 1)
    ids.from_gid(INVALID_ID - 1)
