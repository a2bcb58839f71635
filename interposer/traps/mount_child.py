# SPDX-License-Identifier: GPL-2.0-or-later
"""Mounting and unmounting a kdbusfs as the caller: what a short-lived child does for `interposer.traps.mounts`.

Whoever mounts has to be a process of that mount namespace, and whether it may is decided by its user namespace and
capabilities. Nobody can enter a user namespace and come back, so a child is forked, becomes what the caller is, and
lets the kernel itself look the path up and decide; no rule of mount(2) is repeated here. The order for a new kdbusfs:

1. join the mount namespace, with the supervisor's privileges;
2. make a tmpfs with the node `control` in it, so that it belongs to the supervisor's user namespace: it can hold the
   ids of all users, and the supervisor can write to it, whatever users the caller's namespace knows;
3. become the caller; look the path up, and say that this is over;
4. when the supervisor has said so, attach the tmpfs;
5. hand the supervisor a folder of a detached clone (OPEN_TREE_CLONE), which does not keep the program's mount busy.
   This comes after the attaching, as before Linux 6.15 only attached mounts can be cloned;
6. wait until the domain stands, and take the mount away again if it does not.

Looking a path up may take as long as whoever serves it likes (FUSE). So that this is over is waited for by a deputy
(`native.deputies`), and the call is put aside meanwhile, with its child. What comes behind that, the supervisor waits
for: also for the child's end before it answers, as until then the child holds what it has opened.

Alternative: injecting the calls into the target, as for the pool's mapping; but these are many calls, and their paths
would have to be written into its memory.

Weaknesses: attaching waits for the folder's lock, which somebody else may hold in a call that hangs; that is given up
after 5 seconds, in which nobody is served. nosuid and nodev are always set. A path through a magic link of /proc fails
with ELOOP, save `/proc/self/fd/N` itself.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import stat
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import NoReturn

from interposer.launch.view import CONTROL_MODE, KDBUS_DIRECTORY_MODE
from interposer.nodes.resolve import AT_FDCWD, StartingPoints, resolve
from interposer.target.caller import TargetCaller
from interposer.target.ids import own_namespace, read_file
from native import namespace
from native.credentials import borrowed_identity
from native.deputies import present
from native.seccomp import set_parent_death_signal

_PATIENCE_MS = 5000
"""How long the child may take once it has looked everything up, which mostly is a few milliseconds."""
_ANSWER_SIZE = 4

_MS_STRICTATIME = 1 << 24
_MS_NODIRATIME = 1 << 11
_ATTRIBUTES = (
    (namespace.MS_NOEXEC, namespace.MOUNT_ATTR_NOEXEC),
    (namespace.MS_NOSYMFOLLOW, namespace.MOUNT_ATTR_NOSYMFOLLOW),
    (_MS_NODIRATIME, namespace.MOUNT_ATTR_NODIRATIME),
)
_ALWAYS = namespace.MOUNT_ATTR_NOSUID | namespace.MOUNT_ATTR_NODEV

_OWN_DESCRIPTOR = re.compile(rb"/proc/(?:self|thread-self)/fd/([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to mount, and as whom; descriptors of the namespaces."""

    mount_namespace: int
    user_namespace: int | None
    """None: the supervisor's own."""
    start: StartingPoints
    """Both opened."""
    path: bytes
    identities: tuple[borrowed_identity, ...]
    """To be assumed one after the other, the second one after joining the user namespace."""


class Helper:
    """A child that does one thing, and reports with an errno (0: none) and perhaps a descriptor."""

    def __init__(self, body: Callable[[socket.socket, int], None]) -> None:
        """Run `body` in a child; it reports through the socket, or by raising OSError. The descriptor that it gets, it
        closes when nothing is looked up any more."""
        self._hangs = False
        self._looked, looking = os.pipe()
        self._report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._pid = os.fork()
        except OSError:
            for each in self._report, theirs:
                each.close()
            os.close(self._looked)
            os.close(looking)
            raise
        if self._pid == 0:
            self._report.close()
            _run(body, theirs, looking)
        theirs.close()
        os.close(looking)

    def await_lookup(self) -> None:
        """Until nothing is looked up any more. Raises Stalled where that takes long; to be called again then."""
        end = b"/proc/self/fd/%d" % self._looked
        deputies = present()
        if deputies is None:
            read_file(end)
        else:
            deputies.read_file(end, 1)

    def receive(self) -> list[int]:
        """The descriptors. Raises the OSError of the child; ETIMEDOUT if it hangs, EIO if it just died."""
        if not _becomes_readable(self._report.fileno()):
            self._hangs = True
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        answer, descriptors, _, _ = socket.recv_fds(self._report, _ANSWER_SIZE, 1, socket.MSG_CMSG_CLOEXEC)
        number = int.from_bytes(answer, "little") if answer else errno.EIO
        if number:
            raise OSError(number, os.strerror(number))
        return descriptors

    def confirm(self) -> None:
        """Tell the child to go on, or that all is well. Should it have died, it has undone nothing."""
        with suppress(OSError):
            self._report.send(b"+")

    def close(self) -> None:
        """Wait for the child's end: what it held is then released. One that hangs is killed."""
        self._report.close()
        os.close(self._looked)
        pidfd = os.pidfd_open(self._pid)
        try:
            if self._hangs or not _becomes_readable(pidfd):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                # Even that may take as long as a FUSE server likes.
                threading.Thread(target=os.waitpid, args=(self._pid, 0), daemon=True).start()
                return
        finally:
            os.close(pidfd)
        os.waitpid(self._pid, 0)

    def give_up(self) -> None:
        """Whoever wanted that is gone."""
        self._hangs = True
        self.close()


def _becomes_readable(descriptor: int) -> bool:
    """Whether that happens while our patience lasts."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(_PATIENCE_MS))


def _run(body: Callable[[socket.socket, int], None], report: socket.socket, looking: int) -> NoReturn:
    """The child's whole life."""
    try:
        set_parent_death_signal(signal.SIGKILL)
        try:
            body(report, looking)
        except OSError as error:
            report.send((error.errno or errno.EIO).to_bytes(_ANSWER_SIZE, "little"))
    except BrokenPipeError:
        pass  # The supervisor has given up.
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


def find_place(stack: ExitStack, caller: TargetCaller, thread: int, path: bytes) -> Place:
    """Open everything that the child needs of the caller; `stack` closes it. Raises OSError."""

    def open_here(name: str, flags: int) -> int:
        descriptor = os.open(f"/proc/{thread}/{name}", flags | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        return descriptor

    directory = AT_FDCWD
    own = _OWN_DESCRIPTOR.fullmatch(path)
    if own:
        directory, path = int(own[1]), b"."
    start = stack.enter_context(StartingPoints(thread, directory)).opened()
    foreign = caller.ids.user_namespace != own_namespace(b"user")
    place = Place(
        mount_namespace=open_here("ns/mnt", os.O_RDONLY),
        user_namespace=open_here("ns/user", os.O_RDONLY) if foreign else None,
        start=start,
        path=path,
        identities=_identities(caller, foreign),
    )
    if not caller.is_waiting():
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return place


def _identities(caller: TargetCaller, foreign: bool) -> tuple[borrowed_identity, ...]:
    """The caller's file system identity: in our numbers, and again in those of its own user namespace.

    Only there its capabilities count. Ids that it does not know are called by the overflow ids, which changes nothing.
    """
    who, ids = caller.credentials(), caller.ids
    effective = caller.process.capabilities().effective
    if not foreign:
        return (borrowed_identity(who.fsuid, who.fsgid, who.groups, effective),)

    def group(number: int) -> int:
        local = ids.from_gid(number)
        return ids.overflow_gid if local is None else local

    fsuid = ids.from_uid(who.fsuid)
    return (
        borrowed_identity(who.fsuid, who.fsgid, who.groups),
        borrowed_identity(
            ids.overflow_uid if fsuid is None else fsuid,
            group(who.fsgid),
            [group(number) for number in who.groups],
            effective,
        ),
    )


def _become(place: Place) -> None:
    """Be the caller, for good: its user namespace, its identity, its capabilities."""
    place.identities[0].__enter__()
    if place.user_namespace is not None:
        namespace.setns(place.user_namespace, namespace.CLONE_NEWUSER)
        place.identities[1].__enter__()


def unmount_as_caller(report: socket.socket, place: Place, flags: int) -> None:
    """The child's work for umount2(2), which takes a path only, and finds a mount busy that is open here.

    All of it is looking up: its end tells that this is over.
    """
    namespace.setns(place.mount_namespace, namespace.CLONE_NEWNS)
    os.fchdir(place.start.root)
    os.chroot(".")
    os.fchdir(place.start.base)
    _become(place)
    place.start.close()
    namespace.umount2(place.path, flags)
    report.send(bytes(_ANSWER_SIZE))


def mount_as_caller(report: socket.socket, looking: int, place: Place, source: bytes | None, flags: int) -> None:
    """The child's work. What it becomes and opens ends with it."""
    namespace.setns(place.mount_namespace, namespace.CLONE_NEWNS)
    tree = _new_kdbusfs(source, flags)
    _become(place)
    found = resolve(place.start, place.path)
    if not stat.S_ISDIR(os.fstat(found).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    os.close(looking)
    if not report.recv(1):
        return
    empty_paths = namespace.MOVE_MOUNT_F_EMPTY_PATH | namespace.MOVE_MOUNT_T_EMPTY_PATH
    namespace.move_mount(tree, "", found, "", empty_paths)
    os.fchdir(tree)
    try:
        clone = namespace.open_tree(
            tree, "", namespace.OPEN_TREE_CLONE | namespace.OPEN_TREE_CLOEXEC | namespace.AT_EMPTY_PATH
        )
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=clone)
        if flags & namespace.MS_RDONLY:
            # Not earlier: the clone has to stay writable.
            namespace.mount(None, ".", None, flags | namespace.MS_REMOUNT | namespace.MS_BIND)
        socket.send_fds(report, [bytes(_ANSWER_SIZE)], [directory])
        confirmed = report.recv(1)
    except OSError:
        namespace.umount2(".", namespace.MNT_DETACH)
        raise
    if not confirmed:
        namespace.umount2(".", namespace.MNT_DETACH)


def _new_kdbusfs(source: bytes | None, flags: int) -> int:
    """A tmpfs with a control node, as a mount without a place; `flags`: MS_*."""
    attributes = _ALWAYS
    for flag, attribute in _ATTRIBUTES:
        attributes |= attribute if flags & flag else 0
    if flags & namespace.MS_NOATIME:
        attributes |= namespace.MOUNT_ATTR_NOATIME
    elif flags & _MS_STRICTATIME:
        attributes |= namespace.MOUNT_ATTR_STRICTATIME
    context = namespace.fsopen("tmpfs", namespace.FSOPEN_CLOEXEC)
    options = [("mode", f"{KDBUS_DIRECTORY_MODE:o}"), ("size", "1m")]
    for key, value in options:
        namespace.fsconfig(context, namespace.FSCONFIG_SET_STRING, key, value)
    if source:
        namespace.fsconfig(context, namespace.FSCONFIG_SET_STRING, "source", source)
    namespace.fsconfig(context, namespace.FSCONFIG_CMD_CREATE)
    tree = namespace.fsmount(context, namespace.FSMOUNT_CLOEXEC, attributes)
    control = os.open("control", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, CONTROL_MODE, dir_fd=tree)
    os.fchmod(control, CONTROL_MODE)
    os.close(control)
    return tree
