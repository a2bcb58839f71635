# SPDX-License-Identifier: GPL-2.0-or-later
"""What kdbus told about a sending thread, read from `/proc`: `broker.interfaces.Process` for one trapped thread.

kdbus took these facts from `struct task_struct` of the calling thread (`kdbus_meta_proc_collect_*`). `/proc` shows the
same ones from the reader's point of view, which decides how each has to be read:

- `status` gives ids in the user namespace of the reader (so: global ids) and process numbers from the pid namespace of
  the mounted `/proc` downwards, which is taken to be the supervisor's. It costs several microseconds and holds half of
  the facts, so it is read once per trap.
- The numbers of a process in the namespaces below ours come as a list (NSpid, NStgid); which namespaces these are is
  told by walking up from `ns/pid`. Since a process can only have children in its own pid namespace or below
  (pid_namespaces(7)), the namespaces of a parent are the beginning of its child's list, and no right to inspect the
  parent is needed.
- `exe` is a path from the reader's root; a target with another root is shown what lies below that.
- `cgroup` has a line per hierarchy. kdbus reported the first mounted hierarchy of version 1; that is the line with the
  lowest number above zero. On a machine without version 1 kdbus would have said "/"; the path in the version 2
  hierarchy is of more use.

What `/proc` does not offer on this machine, or not to this user, is None, and kdbus leaves the item away.

*What is read again, and what is not.* Nothing about a target is kept beyond one trap: ids change by setuid(2), the
executable by execve(2), the group by whoever moves the process, and nothing announces it. Within a trap, `status` is
read once, after the trap has begun. That cannot be stale: a thread's credentials, capabilities and namespaces are
changed by that thread alone, which sleeps in the trap until it is answered. (Its name and its parent others can change
at any moment, before the read or after, as they could while the original collected them.) Kept for good is only what
the kernel fixes when it starts: its highest capability, and that it has no security modules, or no audit. Everything
else is read when a receiver asks for it, and not before.

A thread id comes from the notification. `/proc/TID` exists for every thread, not only for leaders, and answers for that
thread, so the thread group is needed for the name of the leader alone.

Weaknesses: where the supervisor runs in a user namespace, ids that it cannot name all read as the overflow id.
The path of an executable in another mount namespace is that namespace's, as `/proc` shows it. `find_pid` for a caller
in another pid namespace looks at every thread of the machine; only faked PIDS items in HELLO ask for it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from broker.interfaces import Capabilities, Credentials, Pid
from interposer.target.ids import (
    ThreadFolder,
    ThreadIds,
    UserNamespaces,
    lines_of,
    own_namespace,
    parent_namespace,
    read_file,
)
from native.identity import PIDFD_THREAD, pidfd_open

_START_TIME = 19
"""Which of the fields of `stat` behind the name, from 0 on, says when the thread was started (proc_pid_stat(5))."""
_LONGEST_COMMAND_LINE = 4096
"""Bytes: a path fits. A process can make its own megabytes long, and each message would keep a copy."""
PID_MAX_LIMIT = 1 << 22
"""No process has this number or a higher one (proc(5), /proc/sys/kernel/pid_max)."""


@dataclass(frozen=True, slots=True)
class Status:
    """The fields of `/proc/TID/status` that matter here."""

    name: bytes
    thread_group: int
    parent: int
    credentials: Credentials
    thread_numbers: tuple[int, ...]
    process_numbers: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int


def parse_status(text: bytes) -> Status:
    """Parse a `status` file (proc_pid_status(5)): lines of a name, a colon and blank-separated values."""
    fields: dict[bytes, list[bytes]] = {}
    for line in lines_of(text):
        name, _, value = line.partition(b":")
        # The first wins: nothing that follows can forge an earlier field.
        fields.setdefault(name, value.split())
    uid, euid, suid, fsuid = (int(number) for number in fields[b"Uid"])
    gid, egid, sgid, fsgid = (int(number) for number in fields[b"Gid"])
    return Status(
        name=_unescaped(text.partition(b"\n")[0].partition(b"\t")[2]),
        thread_group=int(fields[b"Tgid"][0]),
        parent=int(fields[b"PPid"][0]),
        credentials=Credentials(
            uid, euid, suid, fsuid, gid, egid, sgid, fsgid, tuple(int(number) for number in fields[b"Groups"])
        ),
        thread_numbers=tuple(int(number) for number in fields[b"NSpid"]),
        process_numbers=tuple(int(number) for number in fields[b"NStgid"]),
        inheritable=int(fields[b"CapInh"][0], 16),
        permitted=int(fields[b"CapPrm"][0], 16),
        effective=int(fields[b"CapEff"][0], 16),
        bounding=int(fields[b"CapBnd"][0], 16),
    )


def _unescaped(name: bytes) -> bytes:
    """A `Name`: in it a line feed is written as backslash and n, a backslash twice."""
    return re.sub(rb"\\(.)", lambda match: b"\n" if match[1] == b"n" else match[1], name)


def open_thread(thread: int) -> int:
    """A pidfd of the thread; of its process where the kernel (before 6.9) has none of threads. Raises OSError."""
    try:
        return pidfd_open(thread, PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return pidfd_open(parse_status(read_file(f"/proc/{thread}/status")).thread_group)


def first_hierarchy(text: bytes) -> bytes | None:
    """The path to report from a `cgroup` file (cgroups(7)): lines of `number:controllers:path`."""
    paths = {}
    for line in lines_of(text):
        number, _, rest = line.partition(b":")
        paths[int(number)] = rest.partition(b":")[2]
    numbers = sorted(number for number in paths if number > 0) or sorted(paths)
    return paths[numbers[0]] if numbers else None


def below_root(path: bytes, root: bytes) -> bytes:
    """`path` as a process sees it whose root directory is `root`; unchanged if it does not lie below."""
    if path.startswith(root.rstrip(b"/") + b"/"):
        return path[len(root.rstrip(b"/")) :]
    return path


@cache
def last_capability() -> int:
    """The highest CAP_* number that this kernel knows."""
    return int(read_file("/proc/sys/kernel/cap_last_cap"))


@cache
def has_security_labels() -> bool:
    """Whether a security module gives labels. Modules are there from the start of the kernel, or not at all."""
    try:
        read_file("/proc/thread-self/attr/current")
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.ENOENT)
    return True


@cache
def has_audit() -> bool:
    """Whether this kernel was built with audit."""
    return os.path.exists("/proc/thread-self/sessionid")


class TargetProcess:
    """`broker.interfaces.Process` of one trapped thread. Lives as long as its trap, and reads `status` once in it.

    Everything here raises ProcessLookupError when the thread is gone (see `ThreadFolder`). What may not be
    inspected is None where the interface allows it; elsewhere PermissionError is raised.
    """

    def __init__(self, folder: ThreadFolder, ids: ThreadIds, namespaces: UserNamespaces) -> None:
        self._folder = folder
        self._ids = ids
        self._namespaces = namespaces

    @cached_property
    def _status(self) -> Status:
        return parse_status(self._folder.read(b"status"))

    @property
    def thread_group(self) -> int:
        """Number of the process, in the supervisor's pid namespace."""
        return self._status.thread_group

    def credentials(self) -> Credentials:
        """Global ids and groups."""
        return self._status.credentials

    def pids(self) -> tuple[Pid, Pid, Pid]:
        """(process, thread, parent process) in each pid namespace from the supervisor's downwards.

        The parent is empty when it lies outside the supervisor's pid namespace.
        """
        own = self._status
        namespaces = self._pid_namespaces
        numbers = [own.process_numbers, own.thread_numbers, self._parent_numbers()]
        process, thread, parent = (Pid(dict(zip(namespaces, each, strict=False))) for each in numbers)
        return process, thread, parent

    @cached_property
    def _pid_namespaces(self) -> list[int]:
        """The pid namespaces that see the thread, the supervisor's first, the thread's own last."""
        if self._ids.pid_namespace == own_namespace(b"pid"):
            return [own_namespace(b"pid")]
        return _chain(self._folder.open_held(b"ns/pid", os.O_RDONLY), len(self._status.thread_numbers))

    def _parent_numbers(self) -> tuple[int, ...]:
        parent = self._status.parent
        while parent:
            try:
                return parse_status(read_file(f"/proc/{parent}/status")).process_numbers
            except OSError:
                # It has ended since `status` was read, so by now there is another parent.
                now = parse_status(self._folder.read(b"status")).parent
                if now == parent:
                    return ()
                parent = now
        return ()

    def start_time_ns(self) -> int:
        """When the thread was started, in ns since the system was, to a clock tick."""
        fields = self._folder.read(b"stat").rpartition(b")")[2].split()
        return int(fields[_START_TIME]) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))

    def thread_name(self) -> bytes:
        """`comm` of the thread."""
        return self._status.name

    def process_name(self) -> bytes:
        """`comm` of the leader of the thread's group."""
        if self._folder.thread_id == self.thread_group:
            return self._status.name
        return self._folder.read(b"task/%d/comm" % self.thread_group).removesuffix(b"\n")

    def executable(self) -> bytes | None:
        """Path of the executable from the thread's root, with " (deleted)" after it when it has been deleted."""
        return _available(lambda: below_root(self._folder.link(b"exe"), self._folder.link(b"root")))

    def command_line(self) -> bytes | None:
        """The first string of the command line; None when the process has none left, or has made it very long."""
        text = _available(lambda: self._folder.read_memory(b"cmdline", _LONGEST_COMMAND_LINE + 1))
        line, _, _ = text.partition(b"\0") if text else (b"", b"", b"")
        return line if text and len(line) <= _LONGEST_COMMAND_LINE else None

    def control_group(self) -> bytes | None:
        """Path of the control group, as seen from the supervisor's cgroup namespace."""
        text = _available(lambda: self._folder.read(b"cgroup"))
        return first_hierarchy(text) if text else None

    def capabilities(self) -> Capabilities:
        """The four sets, without bits beyond the last capability, and the user namespace they count in.

        Those in an adopted namespace (`UserNamespaces.adopt`) are none in ours, which it passes for.
        """
        known = (1 << last_capability() + 1) - 1
        real = 0 if self._ids.is_adopted else known
        return Capabilities(
            last_cap=last_capability(),
            inheritable=self._status.inheritable & real,
            permitted=self._status.permitted & real,
            effective=self._status.effective & real,
            bounding=self._status.bounding & known,
            user_namespace=self._ids.user_namespace,
            euid=self._status.credentials.euid,
        )

    def security_label(self) -> bytes | None:
        """What the active security module calls the thread, without the ending that some modules add."""
        if not has_security_labels():
            return None
        text = _available(lambda: self._folder.read(b"attr/current"))
        return text.rstrip(b"\0\n") or None if text else None

    def audit(self) -> tuple[int, int] | None:
        """(session id, global login uid); both 4294967295 for a process that no login started."""
        if not has_audit():
            return None
        session = _available(lambda: self._folder.read(b"sessionid"))
        login = _available(lambda: self._folder.read(b"loginuid"))
        return (int(session), int(login)) if session and login else None

    def has_capability(self, capability: int, user_namespace: int) -> bool:
        """Whether the thread has `capability` towards `user_namespace`, as the kernel's `cap_capable` decides.

        Effective capabilities count in the thread's own user namespace and below it; whoever made a namespace, as
        effective uid in its parent, has all capabilities in it and below. False for a namespace in which no
        target was ever met.
        """
        status = self._status
        effective = bool(status.effective >> capability & 1) and not self._ids.is_adopted
        own = self._ids.user_namespace
        if user_namespace == own:
            return effective
        owner = self._namespaces.owner_below(own, user_namespace)
        return owner is not None and (effective or owner == status.credentials.euid)

    def find_pid(self, number: int) -> Pid | None:
        """The process or thread that has `number` in the caller's pid namespace (`find_vpid`)."""
        if not 0 < number < PID_MAX_LIMIT:
            return None
        namespaces = self._pid_namespaces
        level = len(namespaces) - 1
        for thread in [number] if level == 0 else _all_threads():
            try:
                numbers = parse_status(read_file(f"/proc/{thread}/status")).thread_numbers
            except OSError:
                continue
            if numbers[level : level + 1] != (number,):
                continue
            seen_by = _namespaces_of(thread, len(numbers))
            if seen_by[level : level + 1] == namespaces[-1:]:
                return Pid(dict(zip(seen_by, numbers, strict=False)))
        return None


def _available(read: Callable[[], bytes]) -> bytes | None:
    """What `read` returns; None if the kernel does not offer it, or not to this user."""
    try:
        return read()
    except ProcessLookupError:
        raise
    except OSError:
        return None


def _chain(descriptor: int, length: int) -> list[int]:
    """The `length` pid namespaces from the outermost to that of `descriptor`, which is closed."""
    identities = [os.fstat(descriptor).st_ino]
    try:
        while len(identities) < length and (parent := parent_namespace(descriptor)) is not None:
            os.close(descriptor)
            descriptor = parent
            identities.append(os.fstat(descriptor).st_ino)
    finally:
        os.close(descriptor)
    return identities[::-1]


def _namespaces_of(thread: int, length: int) -> list[int]:
    """The pid namespaces that see `thread`, the supervisor's first; only that one if more may not be known."""
    own = own_namespace(b"pid")
    if length == 1:
        return [own]
    try:
        return _chain(os.open(f"/proc/{thread}/ns/pid", os.O_RDONLY | os.O_CLOEXEC), length)
    except OSError:
        return [own]


def _all_threads() -> Iterator[int]:
    """The number of every thread of the machine that `/proc` shows."""
    for process in os.listdir("/proc"):
        if process.isdecimal():
            try:
                threads = os.listdir(f"/proc/{process}/task")
            except OSError:
                continue
            yield from (int(thread) for thread in threads)
