# SPDX-License-Identifier: GPL-2.0-or-later
"""The interfaces of `broker.interfaces` in memory: no process, no descriptor, no clock of the machine.

The fakes are strict where a mistake of the broker would otherwise pass unseen: memory that was not put there raises
BadAddress, a file reference or pool closed twice fails the test, and a pool refuses to be touched outside its size.
Facts are plain members that a test may change at any time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.errors import BadAddress, BadDescriptor, OutOfMemory
from broker.interfaces import Capabilities, Credentials, File, Pid, PoolMemory

SECOND = 1_000_000_000
"""ns."""
ALL_SEALS = 0xF
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE."""


class Memory:
    """Sparse memory of a process: only what was put there can be read and written."""

    def __init__(self) -> None:
        self._regions: dict[int, bytearray] = {}
        self._starts: list[int] = []
        self._next = 0x10000
        self.before_read: Callable[[int, int], None] | None = None
        """Called with (address, size) before each read; may change the memory."""
        self.before_write: Callable[[int, bytes], None] | None = None
        """Called with (address, data) before each write; may change the memory, or raise BadAddress."""

    def put(self, data: bytes) -> int:
        """Put `data` at a new page-aligned address, with a hole behind it. Returns the address."""
        address = self._next
        self._regions[address] = bytearray(data)
        self._starts.append(address)
        self._next += (len(data) // 4096 + 2) * 4096
        return address

    def _find(self, address: int, size: int) -> tuple[bytearray, int]:
        index = bisect_right(self._starts, address) - 1
        start = self._starts[index] if index >= 0 else 0
        region = self._regions.get(start, bytearray())
        if index < 0 or address + size > start + len(region):
            raise BadAddress
        return region, address - start

    def read(self, address: int, size: int) -> bytes:
        if self.before_read is not None:
            self.before_read(address, size)
        region, offset = self._find(address, size)
        return bytes(region[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        if self.before_write is not None:
            self.before_write(address, data)
        region, offset = self._find(address, len(data))
        region[offset : offset + len(data)] = data

    def remove(self, address: int) -> None:
        """Make the region that starts at `address` inaccessible."""
        del self._regions[address]

    def truncate(self, address: int, size: int) -> None:
        """Shorten the region that starts at `address`."""
        del self._regions[address][size:]


class FakePool:
    """Pool memory on a bytearray."""

    def __init__(self, name: bytes, size: int) -> None:
        self.name = name
        self.data = bytearray(size)
        self.closed = False
        self.memory = size
        """How many bytes there is memory for."""

    def reserve(self, end: int) -> bool:
        return end <= self.memory

    def write(self, offset: int, data: bytes) -> None:
        assert offset >= 0 and offset + len(data) <= len(self.data)
        self.data[offset : offset + len(data)] = data

    def read(self, offset: int, size: int) -> bytes:
        assert offset >= 0 and offset + size <= len(self.data)
        return bytes(self.data[offset : offset + size])

    def copy(self, offset: int, source: PoolMemory, source_offset: int, size: int) -> None:
        self.write(offset, source.read(source_offset, size))

    def close(self) -> None:
        assert not self.closed, "pool closed twice"
        self.closed = True


@dataclass(eq=False)
class FakeFile:
    """An open file description, and the references to it that the broker was given."""

    seals: int | None = None
    size: int = 0
    is_kdbus_endpoint: bool = False
    is_unix_socket: bool = False
    is_path: bool = False
    can_poll: bool = True
    references: list[FakeReference] = field(default_factory=list)

    @property
    def pinned(self) -> int:
        """How many references are open."""
        return sum(not reference.closed for reference in self.references)


class FakeReference:
    """One reference to a file; implements `broker.interfaces.File`."""

    def __init__(self, file: FakeFile) -> None:
        self.file = file
        self.closed = False
        file.references.append(self)

    @property
    def seals(self) -> int | None:
        return self.file.seals

    @property
    def size(self) -> int:
        return self.file.size

    @property
    def is_kdbus_endpoint(self) -> bool:
        return self.file.is_kdbus_endpoint

    @property
    def is_unix_socket(self) -> bool:
        return self.file.is_unix_socket

    @property
    def is_path(self) -> bool:
        return self.file.is_path

    @property
    def can_poll(self) -> bool:
        return self.file.can_poll

    def close(self) -> None:
        assert not self.closed, "file closed twice"
        self.closed = True


def memfd(size: int, seals: int | None = ALL_SEALS) -> FakeFile:
    """A memfd, sealed completely unless told otherwise."""
    return FakeFile(seals=seals, size=size)


@dataclass
class FakeIds:
    """Namespaces. A mapping of None maps every id to itself; else it goes from global to local ids."""

    user_namespace: int = 1
    pid_namespace: int = 1
    root_directory: object = "/"
    users: dict[int, int] | None = None
    groups: dict[int, int] | None = None
    overflow_uid: int = 65534
    overflow_gid: int = 65534

    makers: dict[int, int] = field(default_factory=dict)
    """By user namespace above this one, who made the one below it."""

    def owner_below(self, ancestor: int) -> int | None:
        return self.makers.get(ancestor)

    def kept(self) -> FakeIds:
        return self

    def from_uid(self, uid: int) -> int | None:
        return uid if self.users is None else self.users.get(uid)

    def from_gid(self, gid: int) -> int | None:
        return gid if self.groups is None else self.groups.get(gid)

    def make_uid(self, uid: int) -> int | None:
        return _reverse(self.users, uid)

    def make_gid(self, gid: int) -> int | None:
        return _reverse(self.groups, gid)


def _reverse(mapping: dict[int, int] | None, local: int) -> int | None:
    if mapping is None:
        return local
    return next((key for key, value in mapping.items() if value == local), None)


def credentials(uid: int, gid: int | None = None, groups: tuple[int, ...] = ()) -> Credentials:
    """Credentials of a user and group (by default of the same number), the same in all four places."""
    gid = uid if gid is None else gid
    return Credentials(uid, uid, uid, uid, gid, gid, gid, gid, groups)


@dataclass
class FakeProcess:
    """Facts about a thread; plain members that a test may change at any time."""

    who: Credentials = field(default_factory=lambda: credentials(1000))
    pid: int = 100
    tid: int = 101
    ppid: int = 1
    pid_namespace: int = 1
    thread: bytes = b"thread"
    leader: bytes = b"leader"
    exe: bytes | None = b"/usr/bin/program"
    cmdline: bytes | None = b"program"
    cgroup: bytes | None = b"/user.slice"
    caps: Capabilities = field(default_factory=lambda: Capabilities(40, 1, 2, 4, 8, 1))
    label: bytes | None = b"label"
    audit_ids: tuple[int, int] | None = (7, 1000)
    privileges: set[int] = field(default_factory=set)
    """Capabilities towards every user namespace."""
    started: int = 5_000_000_000
    others: set[int] = field(default_factory=lambda: {1})
    """Further processes that `find_pid` finds."""

    def credentials(self) -> Credentials:
        return self.who

    def _pid(self, number: int) -> Pid:
        return Pid({self.pid_namespace: number})

    def pids(self) -> tuple[Pid, Pid, Pid]:
        return self._pid(self.pid), self._pid(self.tid), self._pid(self.ppid)

    def start_time_ns(self) -> int:
        return self.started

    def thread_name(self) -> bytes:
        return self.thread

    def process_name(self) -> bytes:
        return self.leader

    def executable(self) -> bytes | None:
        return self.exe

    def command_line(self) -> bytes | None:
        return self.cmdline

    def control_group(self) -> bytes | None:
        return self.cgroup

    def capabilities(self) -> Capabilities:
        return self.caps

    def security_label(self) -> bytes | None:
        return self.label

    def audit(self) -> tuple[int, int] | None:
        return self.audit_ids

    def has_capability(self, capability: int, user_namespace: int) -> bool:
        return capability in self.privileges

    def find_pid(self, number: int) -> Pid | None:
        return self._pid(number) if number in {self.pid, self.tid, self.ppid} | self.others else None


class FakeCaller:
    """A thread that issues commands; implements `broker.interfaces.Caller`."""

    def __init__(self, process: FakeProcess | None = None, ids: FakeIds | None = None) -> None:
        self.memory = Memory()
        self.process = FakeProcess() if process is None else process
        self.ids = FakeIds() if ids is None else ids
        self.descriptors: dict[int, FakeFile] = {}
        self.descriptor_limit = 1024
        """No descriptor of this number or higher can be installed: -EMFILE."""
        self.pools: list[FakePool] = []
        self.out_of_memory = False
        self.copies = 0
        """How often payload was copied out of this memory."""

    def open(self, file: FakeFile) -> int:
        """Have `file` open; returns the lowest free descriptor number."""
        number = next(number for number in range(len(self.descriptors) + 1) if number not in self.descriptors)
        self.descriptors[number] = file
        return number

    def credentials(self) -> Credentials:
        return self.process.who

    def read(self, address: int, size: int) -> bytes:
        return self.memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        self.memory.write(address, data)

    def copy(self, pool: PoolMemory, offset: int, pieces: Sequence[tuple[int, int]]) -> None:
        self.copies += 1
        for address, size in pieces:
            pool.write(offset, self.memory.read(address, size) if address else bytes(size))
            offset += size

    def file(self, descriptor: int) -> File:
        if descriptor not in self.descriptors:
            raise BadDescriptor
        return FakeReference(self.descriptors[descriptor])

    def install(self, file: File) -> int:
        assert isinstance(file, FakeReference) and not file.closed
        number = next(number for number in range(len(self.descriptors) + 1) if number not in self.descriptors)
        if number >= self.descriptor_limit:
            return -24
        self.descriptors[number] = file.file
        return number

    def new_pool(self, name: bytes, size: int) -> PoolMemory:
        if self.out_of_memory:
            raise OutOfMemory
        pool = FakePool(name, size)
        self.pools.append(pool)
        return pool


@dataclass
class FakeClock:
    """A clock that stands still until told otherwise. Times in ns."""

    monotonic: int = 1000 * SECOND
    realtime: int = 5000 * SECOND

    def monotonic_ns(self) -> int:
        return self.monotonic

    def realtime_ns(self) -> int:
        return self.realtime

    def advance(self, nanoseconds: int) -> None:
        self.monotonic += nanoseconds
        self.realtime += nanoseconds


@dataclass
class FakeEvents:
    """What pollers of one connection were told: `log` in order; `readable` and `hung_up` as poll(2) would show."""

    log: list[str] = field(default_factory=list)
    readable: bool = False
    hung_up: bool = False

    def message_queued(self) -> None:
        self.log.append("queued")
        self.readable = True

    def queue_drained(self) -> None:
        self.log.append("drained")
        self.readable = False

    def disconnected(self) -> None:
        self.log.append("disconnected")
        self.hung_up = True


class FakeNode(NamedTuple):
    """One node as the file system shows it."""

    is_directory: bool
    mode: int
    uid: int
    gid: int


@dataclass
class FakeNodes:
    """The file system of a domain: what is there now, and the order of what happened (`+path`, `-path`)."""

    nodes: dict[tuple[str, ...], FakeNode] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def node_added(self, path: tuple[str, ...], is_directory: bool, mode: int, uid: int, gid: int) -> None:
        assert path not in self.nodes
        self.nodes[path] = FakeNode(is_directory, mode, uid, gid)
        self.log.append("+" + "/".join(path))

    def node_removed(self, path: tuple[str, ...]) -> None:
        # One that could not be shown is removed as well.
        if self.nodes.pop(path, None) is not None:
            self.log.append("-" + "/".join(path))
