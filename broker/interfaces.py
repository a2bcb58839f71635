# SPDX-License-Identifier: GPL-2.0-or-later
"""What the broker needs from outside, as interfaces.

The broker is pure: it owns no descriptor, reads no clock and knows no process. All of that is handed to it through
the interfaces of this module. `interposer/` implements them on real processes; the unit tests implement them on a
`bytearray` and a dictionary. Nothing here has behaviour, so that no rule of kdbus can hide here.

Words used throughout:

*caller*
    The thread that issued the trapped call. Memory, descriptors and credentials are always its own, at the moment of
    the call.
*global ids*
    User and group ids as the broker's own user namespace numbers them (the kernel's `kuid_t`, `kgid_t`). `Caller.ids`
    translates between them and the ids that the caller's namespace uses.

Weakness: a `Caller` acts at once (it writes memory, installs descriptors) instead of returning a list of actions.
Actions would make the broker a little purer, and every command two passes longer; the kernel's own order of effects
(write back, then fail) is simpler to follow this way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

INVALID_ID = 0xFFFFFFFF
"""The id that no user and no group has (`(uid_t)-1`)."""


class Clock(Protocol):
    """The two clocks that timestamps and deadlines are made of."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC in ns: deadlines (`kdbus_msg.timeout_ns`) are absolute values of it."""
        ...

    def realtime_ns(self) -> int:
        """CLOCK_REALTIME in ns."""
        ...


class File(Protocol):
    """One open file description, held by the broker as long as a message carries it."""

    @property
    def seals(self) -> int | None:
        """The F_SEAL_* bits of a memfd, None for a file that cannot be sealed (fcntl(2), F_GET_SEALS)."""
        ...

    @property
    def size(self) -> int:
        """Size in bytes."""
        ...

    @property
    def is_kdbus_endpoint(self) -> bool:
        """Whether this is a handle opened from an endpoint node."""
        ...

    @property
    def is_unix_socket(self) -> bool:
        """Whether this is a socket of family AF_UNIX (and no kdbus handle)."""
        ...

    @property
    def is_path(self) -> bool:
        """Whether it was opened with O_PATH, so that it can be passed but not used."""
        ...

    @property
    def can_poll(self) -> bool:
        """Whether the file supports poll(2) beyond the default (regular files do not)."""
        ...

    def close(self) -> None:
        """Drop the reference. Called exactly once."""
        ...


class PoolMemory(Protocol):
    """The bytes of one pool, written by the broker, mapped read-only by the receiver."""

    def reserve(self, end: int) -> bool:
        """Whether there is memory for the first `end` bytes, which are about to be used; it stays once there is."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset` (bytes). The broker keeps within the size it asked for."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`."""
        ...

    def copy(self, offset: int, source: PoolMemory, source_offset: int, size: int) -> None:
        """Copy `size` bytes from another pool."""
        ...

    def close(self) -> None:
        """The connection is gone; existing mappings of receivers stay valid."""
        ...


class Ids(Protocol):
    """How one thread's namespaces number users, groups and processes (user_namespaces(7), pid_namespaces(7))."""

    @property
    def user_namespace(self) -> int:
        """Identity of the user namespace; equal numbers are the same namespace."""
        ...

    @property
    def pid_namespace(self) -> int:
        """Identity of the pid namespace."""
        ...

    @property
    def root_directory(self) -> object:
        """Identity of the root directory; comparable with `==`."""
        ...

    def from_uid(self, uid: int) -> int | None:
        """The local number of the global `uid`; None if it is not mapped (`from_kuid`)."""
        ...

    def from_gid(self, gid: int) -> int | None:
        """The local number of the global `gid`; None if it is not mapped."""
        ...

    def make_uid(self, uid: int) -> int | None:
        """The global number of the local `uid`; None if it is not mapped (`make_kuid`)."""
        ...

    def make_gid(self, gid: int) -> int | None:
        """The global number of the local `gid`; None if it is not mapped."""
        ...

    def owner_below(self, ancestor: int) -> int | None:
        """Global uid of who made the child of the user namespace `ancestor` that this one is, or lies in; None if it
        does not lie below it."""
        ...

    def kept(self) -> Ids:
        """The same, usable when the thread is gone."""
        ...

    @property
    def overflow_uid(self) -> int:
        """What an unmapped user is shown as (/proc/sys/kernel/overflowuid)."""
        ...

    @property
    def overflow_gid(self) -> int:
        """What an unmapped group is shown as."""
        ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a thread is: global ids, as `struct cred` holds them (credentials(7))."""

    uid: int
    euid: int
    suid: int
    fsuid: int
    gid: int
    egid: int
    sgid: int
    fsgid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pid:
    """One process or thread in every pid namespace that sees it: namespace identity -> number."""

    numbers: dict[int, int] = field(default_factory=dict)

    def number_in(self, pid_namespace: int) -> int:
        """The number in `pid_namespace`, 0 where it is not visible (`pid_vnr`)."""
        return self.numbers.get(pid_namespace, 0)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The four sets of 64 bits each, with the user namespace that they count in (capabilities(7)), and whose they
    are."""

    last_cap: int
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    user_namespace: int
    euid: int = INVALID_ID
    """Global."""


class Process(Protocol):
    """What can be learnt about the calling thread. Each call reads afresh; None means: not available."""

    def credentials(self) -> Credentials: ...

    def pids(self) -> tuple[Pid, Pid, Pid]:
        """(process, thread, parent process)."""
        ...

    def start_time_ns(self) -> int:
        """When the thread was started, in ns since the system was, as far as that is known (proc_pid_stat(5))."""
        ...

    def thread_name(self) -> bytes:
        """`comm` of the thread, without terminating zero."""
        ...

    def process_name(self) -> bytes:
        """`comm` of the thread group's leader."""
        ...

    def executable(self) -> bytes | None:
        """Path of the executable, seen from the caller's root directory."""
        ...

    def command_line(self) -> bytes | None:
        """The first string of the command line (`/proc/PID/cmdline` up to its first zero)."""
        ...

    def control_group(self) -> bytes | None:
        """Path of the control group (cgroups(7))."""
        ...

    def capabilities(self) -> Capabilities: ...

    def security_label(self) -> bytes | None:
        """Label of the active security module, None where there is none."""
        ...

    def audit(self) -> tuple[int, int] | None:
        """(session id, global login uid), None where the kernel has no audit."""
        ...

    def has_capability(self, capability: int, user_namespace: int) -> bool:
        """Whether the thread has CAP_* `capability` towards `user_namespace` (`ns_capable`)."""
        ...

    def find_pid(self, number: int) -> Pid | None:
        """The process or thread of that number in the caller's pid namespace."""
        ...


class Caller(Protocol):
    """The thread that made the call that is being served.

    Memory functions raise `broker.errors.BadAddress` when any byte is not accessible, `broker.errors.CallerGone` when
    nobody waits for the answer any more.
    """

    @property
    def ids(self) -> Ids: ...

    @property
    def process(self) -> Process: ...

    def credentials(self) -> Credentials:
        """Current credentials, for policy decisions; read at most once per call."""
        ...

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the caller's memory."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write into the caller's memory; only ever into arguments of the call itself."""
        ...

    def copy(self, pool: PoolMemory, offset: int, pieces: Sequence[tuple[int, int]]) -> None:
        """Copy the (address, size) `pieces` of the caller's memory, one after the other, to `offset` in `pool`.

        The one copy that a payload makes. An address of 0 stands for zeros.
        """
        ...

    def file(self, descriptor: int) -> File:
        """A reference to the open file. Raises `broker.errors.BadDescriptor` when there is none."""
        ...

    def install(self, file: File) -> int:
        """Install `file` in the caller with close-on-exec; the new number, or -errno when it cannot be."""
        ...

    def new_pool(self, name: bytes, size: int) -> PoolMemory:
        """Memory for a pool of `size` bytes. Raises `broker.errors.OutOfMemory`."""
        ...


class ConnectionEvents(Protocol):
    """Told to the outside when a poller of a connection's descriptor should notice something."""

    def message_queued(self) -> None:
        """A message was put into the queue."""
        ...

    def queue_drained(self) -> None:
        """The last message left the queue."""
        ...

    def disconnected(self) -> None:
        """The connection is dead: pollers see a hang-up from now on."""
        ...


class NodeEvents(Protocol):
    """The file system that shows a domain's nodes."""

    def node_added(self, path: tuple[str, ...], is_directory: bool, mode: int, uid: int, gid: int) -> None:
        """A node appeared: path below the domain's root, permission bits, global owner."""
        ...

    def node_removed(self, path: tuple[str, ...]) -> None:
        """The node is gone (its children went before it), or could not be shown in the first place."""
        ...


RandomBytes = Callable[[int], bytes]
"""Gives that many random bytes (the 128-bit ids of buses)."""
