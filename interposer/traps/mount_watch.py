# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a file system is still mounted anywhere, and noticing when it is not any more.

A kdbusfs ends with its last mount: unmounted, detached, or gone with the last process of its mount namespace. The
kernel announces the end of a superblock (inotify(7), IN_UNMOUNT), but the supervisor has to hold the superblock to
make nodes in it, so for these it never comes. What the kernel does announce is a change in one mount namespace: an open
`/proc/TID/mountinfo` polls with POLLPRI (proc_pid_mountinfo(5)), before the call that made the change returns. So each
file system has a *witness*: a thread in a mount namespace where it is mounted, a pidfd of that thread, and two open
`mountinfo` files. When one of them has news, the witnesses are questioned, and if no one sees the file system any
more, another witness is looked for among all threads; if there is none, the file system has ended.

Invariants:

- A device that is watched is seen by at least one witness, as of the last look.
- A witness is believed only while its thread lives in the namespace that the witness was made in.

Decisions:

- Two files per witness, since poll(2) of `mountinfo` tells each change once per open file. One wakes the loop, which
  uses the news up by looking at it (`native/loop.c`); the other one is asked afterwards, and before each trap, so that
  a change made before a call is always known when the call is served.
- An open `mountinfo` keeps its namespace alive, with all that is mounted there. Therefore it is closed as soon as its
  thread has ended or has moved, and `before_unmount` looks for such ones first: a disk that a program detaches must
  not stay busy because of a witness.
- Another thread of the same namespace inherits the open files of a witness that ends, since `mountinfo` shows only
  what can be reached from the root that its reader had: a thread in a chroot sees less.
- The search goes on until a pass finds no thread that it has not looked at, since a process may fork and end
  between two steps of it, as daemons do.

Alternatives: looking only after a trapped umount would miss namespaces that end, and mount points that are removed
from elsewhere. statmount(2) and listmount(2) need Linux 6.8, and announce nothing.

Weaknesses: a namespace without processes, kept by a descriptor or a bind mount of `/proc/TID/ns/mnt`, does not count,
and neither does a detached mount that is some process's working folder. A thread that leaves its namespace by
unshare(2) is noticed with the next event or umount. Before Linux 6.9 the end of a thread that is not its process's
first one is noticed with the end of the process.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from interposer.target.ids import lines_of
from interposer.target.process import open_thread


@dataclass(eq=False, slots=True)
class _Witness:
    """A thread that sees mounts. `asked` and `alarm` are two openings of its `mountinfo`."""

    namespace: int
    thread: int
    pidfd: int
    asked: int
    alarm: int

    def is_valid(self) -> bool:
        """Whether the thread is alive and still in its namespace."""
        return _is_alive(self.pidfd) and _namespace_of(self.thread) == self.namespace

    def mounts(self) -> dict[int, int]:
        """Everything that is mounted there: id of the mount, device number."""
        os.lseek(self.asked, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self.asked, 65536):
            parts.append(part)
        return parse_mounts(b"".join(parts))

    def devices(self) -> set[int]:
        """The device numbers of everything that is mounted there."""
        return set(self.mounts().values())

    def close(self) -> None:
        for descriptor in (self.pidfd, self.asked, self.alarm):
            os.close(descriptor)


class MountWatch:
    """Follows some file systems, by device number (`st_dev`)."""

    def __init__(self) -> None:
        self._devices: set[int] = set()
        self._gone: set[int] = set()
        self._news = False
        self._witnesses: list[_Witness] = []
        self._asked = select.epoll()
        self._alarm = select.epoll()

    def fileno(self) -> int:
        """A descriptor that becomes readable when `collect` has something to do. It says so once."""
        return self._alarm.fileno()

    def has_news(self) -> bool:
        """Whether `collect` has something to do. Cheap."""
        self._news = self._news or bool(self._asked.poll(0))
        return self._news

    def add(self, device: int, thread: int) -> bool:
        """Follow `device`, which is mounted in the mount namespace of `thread`.

        False, and nothing is followed, if `thread` does not see it, or may not be looked at.
        """
        if not any(device in witness.devices() for witness in self._valid()):
            witness = _open_witness(thread)
            if witness is None:
                return False
            if device not in witness.devices():
                witness.close()
                return False
            self._take(witness)
        self._devices.add(device)
        return True

    def search_for(self, device: int) -> None:
        """Follow `device`; the next `collect` finds out who sees it."""
        self._devices.add(device)
        self._news = True

    def before_unmount(self, thread: int) -> None:
        """`thread` is about to unmount something, of which `collect` has to know as soon as it is done."""
        if len(self._valid()) < len(self._witnesses):
            self._check()
        namespace = _namespace_of(thread)
        if all(witness.namespace != namespace for witness in self._witnesses):
            witness = _open_witness(thread)
            if witness is None:
                return
            if witness.devices() & self._devices:
                self._take(witness)
            else:
                witness.close()

    def is_followed(self, mount: int) -> bool:
        """Whether the mount of that id is one of a file system that is followed."""
        return any(witness.mounts().get(mount) in self._devices for witness in self._valid())

    def collect(self) -> set[int]:
        """The devices that are mounted nowhere any more; they are not followed any longer. Cheap without news."""
        if not self.has_news():
            return set()
        self._check()
        gone, self._gone, self._news = self._gone, set(), False
        return gone

    def _check(self) -> None:
        """Question the witnesses, and look for others if need be."""
        seen: set[int] = set()
        for witness in self._valid():
            found = witness.devices() & self._devices
            if found:
                seen |= found
            else:
                self._drop(witness)
        seen |= self._search(self._devices - seen)
        self._gone |= self._devices - seen
        self._news = bool(self._gone)
        self._devices = seen

    def _valid(self) -> list[_Witness]:
        return [witness for witness in self._witnesses if witness.is_valid()]

    def _search(self, missing: set[int]) -> set[int]:
        """Look for threads that see `missing`, and for heirs of the witnesses that are not valid any more.

        Returns what was found of `missing`. Afterwards all witnesses are valid.
        """
        orphans = [witness for witness in self._witnesses if not witness.is_valid()]
        missing = missing | {device for orphan in orphans for device in orphan.devices() & self._devices}
        for witness in self._valid():
            missing -= witness.devices()
        found: set[int] = set()
        looked_at: set[tuple[int, int, int]] = set()
        for thread in _all_threads() if missing else ():
            place = _place_of(thread)
            if place is None or place in looked_at:
                continue
            looked_at.add(place)
            heir = next((orphan for orphan in orphans if orphan.namespace == place[0]), None)
            if heir is not None and self._hand_over(heir, thread):
                orphans.remove(heir)
                found |= heir.devices() & missing
            elif (fresh := _open_witness(thread)) is not None:
                if news := fresh.devices() & missing - found:
                    self._take(fresh)
                    found |= news
                else:
                    fresh.close()
            if found >= missing:
                break
        for orphan in orphans:
            self._drop(orphan)
        return found

    def _take(self, witness: _Witness) -> None:
        self._witnesses.append(witness)
        for epoll, mounts in ((self._asked, witness.asked), (self._alarm, witness.alarm)):
            epoll.register(mounts, select.EPOLLPRI | select.EPOLLERR)
            epoll.register(witness.pidfd, select.EPOLLIN)

    def _hand_over(self, witness: _Witness, thread: int) -> bool:
        """Go on with another thread of the same namespace; False if it is not there any more."""
        try:
            pidfd = open_thread(thread)
        except OSError:
            return False
        if _namespace_of(thread) != witness.namespace or not _is_alive(pidfd):
            os.close(pidfd)
            return False
        for epoll in (self._asked, self._alarm):
            epoll.unregister(witness.pidfd)
            epoll.register(pidfd, select.EPOLLIN)
        os.close(witness.pidfd)
        witness.thread, witness.pidfd = thread, pidfd
        return True

    def _drop(self, witness: _Witness) -> None:
        """Closing takes its descriptors out of the epoll sets."""
        self._witnesses.remove(witness)
        witness.close()

    def close(self) -> None:
        """Follow nothing any more."""
        for witness in list(self._witnesses):
            self._drop(witness)
        self._devices.clear()
        self._asked.close()
        self._alarm.close()


def parse_mounts(mountinfo: bytes) -> dict[int, int]:
    """Mount id and device number of each line: the first field, and the third one (major:minor)."""
    found = {}
    for line in lines_of(mountinfo):
        mount, _, device, _ = line.split(b" ", 3)
        major, _, minor = device.partition(b":")
        found[int(mount)] = os.makedev(int(major), int(minor))
    return found


def _namespace_of(thread: int) -> int | None:
    """Identity of the mount namespace; None if the thread has ended or may not be looked at."""
    try:
        return os.stat(f"/proc/{thread}/ns/mnt").st_ino
    except OSError:
        return None


def _place_of(thread: int) -> tuple[int, int, int] | None:
    """What decides which mounts a thread sees: its mount namespace, and device and inode of its root."""
    namespace = _namespace_of(thread)
    try:
        root = os.stat(f"/proc/{thread}/root")
    except OSError:
        return None
    return None if namespace is None else (namespace, root.st_dev, root.st_ino)


def _is_alive(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def _open_witness(thread: int) -> _Witness | None:
    """None if the thread has ended meanwhile, or may not be looked at."""
    opened: list[int] = []
    try:
        opened.append(open_thread(thread))
        namespace = _namespace_of(thread)
        for _ in range(2):
            opened.append(os.open(f"/proc/{thread}/mountinfo", os.O_RDONLY | os.O_CLOEXEC))
        if namespace is not None:
            witness = _Witness(namespace, thread, *opened)
            if witness.is_valid():
                return witness
    except OSError:
        pass
    for descriptor in opened:
        os.close(descriptor)
    return None


def _all_threads() -> Iterator[int]:
    """Every thread that `/proc` shows, those that appear meanwhile included."""
    known: set[int] = set()
    while True:
        news = []
        for process in os.listdir("/proc"):
            if process.isdecimal():
                with suppress(OSError):
                    news += [thread for thread in map(int, os.listdir(f"/proc/{process}/task")) if thread not in known]
        if not news:
            return
        known.update(news)
        yield from news
