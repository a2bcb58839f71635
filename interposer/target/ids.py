# SPDX-License-Identifier: GPL-2.0-or-later
"""How the namespaces of one thread number users, groups and processes, read from `/proc/TID`.

Everything about a target is read from `/proc/TID`, and thread ids are reused. `ThreadFolder` makes that certain without
holding a descriptor: a trapped thread cannot go on or end unnoticed, so if its notification is still valid *after* a
read, the read was about that thread. Alternative considered: an open descriptor of `/proc/TID`, which stays with its
thread by itself; it costs an open and a close per call, and a leak for whoever forgets the second.

`/proc/TID/uid_map` is written from the reader's point of view (user_namespaces(7)): for a thread of another user
namespace the second column is in the ids of the reader, which is just what "global" means here. For a thread of the
reader's own namespace it is in the ids of the parent, so there the second column is ignored: local and global are the
same, and the map only says which ids exist. An extent that the reader cannot name has 4294967295 in the second column.

Identities of namespaces are inode numbers, and the kernel gives the number of a dead namespace to the next one. So
`UserNamespaces` holds a descriptor of every foreign user namespace that it has met: while it does, the number cannot
come to mean another one. This is what makes it sound to keep the maps, which are written once; an empty map has not
been written yet, and is not kept. The descriptors are also what capabilities towards a namespace are computed from.

Weaknesses: beyond the limit of foreign namespaces the one not used for the longest time is let go, and its number may
then return with another meaning. Pid namespaces and mounts are not held at all: their numbers are compared while the
processes concerned are alive, and a wrong answer takes one that died and another that was born in between.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TypeVar

from broker.interfaces import INVALID_ID
from interposer.target.evidence import Evidence
from native.deputies import present

NS_GET_PARENT = 0xB702
"""ioctl_nsfs(2): a descriptor of the parent of a user or pid namespace."""
NS_GET_OWNER_UID = 0xB704
"""ioctl_nsfs(2): the user who made a user namespace, in the ids of the asking process."""

Extent = tuple[int, int, int]
"""A run of ids: first local id, first global id, how many."""

Result = TypeVar("Result")

_PIECE = 65536
"""Bytes that are read at once."""


def read_file(path: bytes | str, limit: int = 1 << 62) -> bytes:
    """The content of a file of `/proc`, of which `limit` bytes are enough. Raises OSError.

    What is read is copied out of a buffer. `os.read` would cut down a block of 64 KiB in its place: as long as the
    content is kept, and many are, the rest is too small for the next read, and the heap grows by one more block.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        buffer = memoryview(bytearray(min(_PIECE, limit)))
        while limit > 0 and (size := os.readv(descriptor, [buffer[:limit]])):
            parts.append(bytes(buffer[:size]))
            limit -= size
        return b"".join(parts)
    finally:
        os.close(descriptor)


def lines_of(text: bytes) -> list[bytes]:
    """The lines of a file of `/proc`.

    They end with a line feed and with nothing else: names that a program chooses may contain any other character
    (`bytes.splitlines` would take a carriage return for an end, so that a program could forge a line).
    """
    return text.removesuffix(b"\n").split(b"\n") if text else []


class ThreadFolder:
    """`/proc/TID`, with the certainty that it is about the thread that was meant.

    `is_valid` says whether `thread_id` still names that thread; it is asked after each access. Every method raises
    ProcessLookupError when it does not, and otherwise the OSError that the access failed with.

    `evidence` is what was found (`interposer.target.evidence`): as long as the same is found again, so is everything
    that was concluded from it.
    """

    def __init__(self, thread_id: int, is_valid: Callable[[], bool]) -> None:
        self.thread_id = thread_id
        self.evidence = Evidence()
        self._prefix = b"/proc/%d/" % thread_id
        self._is_valid = is_valid

    def read(self, name: bytes, limit: int = 1 << 62) -> bytes:
        """Content of the file `name`, of which `limit` bytes are enough."""
        content = self.checked(lambda: read_file(self._prefix + name, limit))
        self.evidence.content(name, content)
        return content

    def read_memory(self, name: bytes, limit: int) -> bytes:
        """The first `limit` bytes of a file that the kernel reads from the memory of the process. Raises Stalled."""
        deputies = present()
        if deputies is None:
            return self.read(name, limit)
        content = self.checked(lambda: deputies.read_file(self._prefix + name, limit))
        self.evidence.content(name, content)
        return content

    def link(self, name: bytes) -> bytes:
        """Where the link `name` leads, as this process sees it."""
        target = self.checked(lambda: os.readlink(self._prefix + name))
        self.evidence.link(name, target)
        return target

    def namespace(self, kind: bytes) -> int:
        """Identity of the thread's namespace: `kind` is b"user" or b"pid"."""
        name = self.link(b"ns/" + kind)
        return int(name[len(kind) + 2 : -1])

    def root(self) -> tuple[int, int, int]:
        """Device, inode and mount id of the root directory."""
        descriptor = self.open_held(b"root", os.O_PATH | os.O_DIRECTORY)
        try:
            status = os.fstat(descriptor)
            information = read_file(f"/proc/self/fdinfo/{descriptor}")
        finally:
            os.close(descriptor)
        mount = int(information.partition(b"mnt_id:")[2].split(None, 1)[0])
        self.evidence.root(status.st_dev, status.st_ino, mount)
        return status.st_dev, status.st_ino, mount

    def open(self, name: bytes, flags: int) -> int:
        """A new descriptor of what `name` leads to, which the caller has to close."""
        descriptor = -1

        def attempt() -> int:
            nonlocal descriptor
            descriptor = os.open(self._prefix + name, flags | os.O_CLOEXEC)
            return descriptor

        try:
            return self.checked(attempt)
        except ProcessLookupError:
            if descriptor >= 0:
                os.close(descriptor)
            raise

    def open_held(self, name: bytes, flags: int) -> int:
        """As `open`, for what every living thread holds: its root, its namespaces.

        Where such a link leads nowhere, the thread is ending, and has let go of them before the call that it was killed
        in is known to be over: ProcessLookupError.
        """
        try:
            return self.open(name, flags)
        except FileNotFoundError as error:
            raise self._gone() from error

    def checked(self, access: Callable[[], Result]) -> Result:
        """What `access` returns or raises, if the thread is still there afterwards."""
        try:
            result = access()
        except OSError:
            self.evidence.cannot_be_repeated()
            self._check()
            raise
        self._check()
        return result

    def _check(self) -> None:
        if not self._is_valid():
            raise self._gone()

    def _gone(self) -> ProcessLookupError:
        return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), os.fsdecode(self._prefix))


@cache
def own_namespace(kind: bytes) -> int:
    """Identity of this process's own namespace: `kind` is b"user" or b"pid". It never changes."""
    return os.stat(b"/proc/self/ns/" + kind).st_ino


def parent_namespace(descriptor: int) -> int | None:
    """A descriptor of the parent of a user or pid namespace; None if it lies outside this process's view."""
    try:
        return fcntl.ioctl(descriptor, NS_GET_PARENT)
    except PermissionError:
        return None


@cache
def overflow_id(kind: str) -> int:
    """What unmapped ids are shown as: `kind` is "uid" or "gid". 65534 where the kernel does not say."""
    try:
        return int(read_file(f"/proc/sys/kernel/overflow{kind}"))
    except (OSError, ValueError):
        return 65534


def parse_map(text: bytes, own: bool) -> tuple[Extent, ...]:
    """The extents of a `uid_map` or `gid_map`; `own`: of the reader's own user namespace (see above)."""
    extents = []
    for line in lines_of(text):
        first, outside, count = (int(column) for column in line.split())
        if own:
            extents.append((first, first, count))
        elif outside != INVALID_ID:
            extents.append((first, outside, count))
    return tuple(extents)


@dataclass(slots=True)
class _Namespace:
    """What is known of one foreign user namespace; `descriptor` keeps its number from being given away."""

    descriptor: int
    maps: dict[bytes, tuple[Extent, ...]] = field(default_factory=dict)


class UserNamespaces:
    """The user namespaces that targets were met in. One object per supervisor, to be closed with it."""

    def __init__(self, limit: int = 128) -> None:
        """Holds at most `limit` foreign namespaces, with a descriptor each.

        `forgotten`, to be set by who remembers identities, is called when one may come to mean another namespace.
        """
        self.forgotten: Callable[[], None] = lambda: None
        self._limit = limit
        self._adopted: dict[int, list[int]] = {}
        self._foreign: OrderedDict[int, _Namespace] = OrderedDict()
        self._own_maps: dict[bytes, tuple[Extent, ...]] = {}

    def __len__(self) -> int:
        """How many foreign namespaces are held."""
        return len(self._foreign)

    def adopt(self, descriptor: int) -> int:
        """Take the namespace behind `descriptor`, which is owned from now on, for our own; its identity.

        An ordinary user's `kdbus run` has to make a user namespace for its program, which would not be in one without
        us. So ids are numbered in it as outside; capabilities in it count for nothing (`is_adopted`).
        """
        identity = os.fstat(descriptor).st_ino
        self._adopted.setdefault(identity, []).append(descriptor)
        return identity

    def release(self, identity: int) -> None:
        """Undo one `adopt`."""
        descriptors = self._adopted[identity]
        os.close(descriptors.pop())
        if not descriptors:
            del self._adopted[identity]

    def is_adopted(self, folder: ThreadFolder) -> bool:
        """Whether the thread is in an adopted namespace. Raises OSError."""
        return bool(self._adopted) and folder.namespace(b"user") in self._adopted

    def identify(self, folder: ThreadFolder) -> int:
        """Identity of the thread's user namespace, which is held from now on. Raises OSError."""
        identity = folder.namespace(b"user")
        if identity in self._adopted:
            return own_namespace(b"user")
        if identity == own_namespace(b"user"):
            return identity
        if identity in self._foreign:
            self._foreign.move_to_end(identity)
            return identity
        descriptor = folder.open_held(b"ns/user", os.O_RDONLY)
        self._foreign[identity] = _Namespace(descriptor)
        if len(self._foreign) > self._limit:
            os.close(self._foreign.popitem(last=False)[1].descriptor)
            self.forgotten()
        return identity

    def map(self, identity: int, folder: ThreadFolder, name: bytes) -> tuple[Extent, ...]:
        """The `name` (b"uid_map" or b"gid_map") of `identity`, which is the thread's user namespace. Raises OSError."""
        own = identity == own_namespace(b"user")
        known = self._foreign.get(identity)
        # A namespace that was let go meanwhile may not be remembered, so its map goes into a dictionary of no use.
        maps = self._own_maps if own else known.maps if known is not None else {}
        if name not in maps:
            # The thread may be in an adopted namespace, whose map is not ours.
            extents = parse_map(read_file(b"/proc/self/" + name) if own else folder.read(name), own)
            if not extents:
                return extents
            maps[name] = extents
        return maps[name]

    def owner_below(self, ancestor: int, identity: int) -> int | None:
        """Global uid of whoever made the child of `ancestor` that is `identity` or contains it.

        None if `identity` does not lie below `ancestor`, or was never met. The answer is what the kernel's
        `cap_capable` needs: a namespace has power over those below it, and the maker of one has all power in it
        (user_namespaces(7), "Capabilities").
        """
        known = self._foreign.get(identity)
        if known is None:
            return None
        descriptor = os.dup(known.descriptor)
        try:
            while (parent := parent_namespace(descriptor)) is not None:
                child, descriptor = descriptor, parent
                try:
                    if os.fstat(parent).st_ino == ancestor:
                        owner: int = struct.unpack("I", fcntl.ioctl(child, NS_GET_OWNER_UID, bytes(4)))[0]
                        return owner
                finally:
                    os.close(child)
            return None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Lets all namespaces go."""
        for namespace in self._foreign.values():
            os.close(namespace.descriptor)
        self._foreign.clear()
        for descriptors in self._adopted.values():
            for descriptor in descriptors:
                os.close(descriptor)
        self._adopted.clear()


class ThreadIds:
    """`broker.interfaces.Ids` of one trapped thread. Lives as long as its trap; each fact is read once, when asked for.

    Properties and methods raise ProcessLookupError if the thread is gone, PermissionError if it may not be inspected
    (ptrace(2), "Ptrace access mode checking").
    """

    def __init__(self, folder: ThreadFolder, namespaces: UserNamespaces) -> None:
        self._folder = folder
        self._namespaces = namespaces

    @cached_property
    def user_namespace(self) -> int:
        """Identity of the user namespace."""
        return self._namespaces.identify(self._folder)

    @cached_property
    def is_adopted(self) -> bool:
        """Whether the thread's capabilities count in a namespace only that passes for ours (`UserNamespaces.adopt`)."""
        return self._namespaces.is_adopted(self._folder)

    @cached_property
    def pid_namespace(self) -> int:
        """Identity of the pid namespace that the thread is in (which its children may not be)."""
        return self._folder.namespace(b"pid")

    @cached_property
    def root_directory(self) -> tuple[int, int, int]:
        """Device, inode and mount id: two roots are the same when directory and mount are (`path_equal`)."""
        return self._folder.root()

    @cached_property
    def _uid_map(self) -> tuple[Extent, ...]:
        return self._namespaces.map(self.user_namespace, self._folder, b"uid_map")

    @cached_property
    def _gid_map(self) -> tuple[Extent, ...]:
        return self._namespaces.map(self.user_namespace, self._folder, b"gid_map")

    def from_uid(self, uid: int) -> int | None:
        """The local number of the global `uid`."""
        return _translate(uid, ((first, local, count) for local, first, count in self._uid_map))

    def from_gid(self, gid: int) -> int | None:
        """The local number of the global `gid`."""
        return _translate(gid, ((first, local, count) for local, first, count in self._gid_map))

    def make_uid(self, uid: int) -> int | None:
        """The global number of the local `uid`."""
        return _translate(uid, self._uid_map)

    def make_gid(self, gid: int) -> int | None:
        """The global number of the local `gid`."""
        return _translate(gid, self._gid_map)

    def owner_below(self, ancestor: int) -> int | None:
        """See `UserNamespaces.owner_below`."""
        return self._namespaces.owner_below(ancestor, self.user_namespace)

    def kept(self) -> ThreadIds:
        """The same, usable when the thread is gone: every fact has been read. Raises OSError."""
        _ = self.user_namespace, self.pid_namespace, self.root_directory, self._uid_map, self._gid_map
        return self

    @property
    def overflow_uid(self) -> int:
        """What an unmapped user is shown as."""
        return overflow_id("uid")

    @property
    def overflow_gid(self) -> int:
        """What an unmapped group is shown as."""
        return overflow_id("gid")


def _translate(number: int, extents: Iterable[Extent]) -> int | None:
    """`number` of the first column in terms of the second; `INVALID_ID` is nobody's and never mapped."""
    if number == INVALID_ID:
        return None
    for source, destination, count in extents:
        if 0 <= number - source < count:
            return destination + number - source
    return None
