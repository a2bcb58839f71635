# SPDX-License-Identifier: GPL-2.0-or-later
"""Which file a descriptor of another process is, and touching it there.

Descriptor numbers are reused after close(2), dup2(2), fork(2) and message passing, so a number proves nothing. The
proof must not hold the file open either, or its last close would go unnoticed. An entry of an epoll set does exactly
that: it points to the file without keeping it alive, and kcmp(2) with KCMP_EPOLL_TFD compares it with a descriptor of
any process, in about a microsecond. Entries are searched linearly by the kernel's tree of (file, number), so small
sets are fast sets.

Where kcmp is forbidden (Docker's default profile without CAP_SYS_PTRACE) or missing, `/proc` says the same: the inode
of `/proc/PID/fd/N`, compared with the one that `/proc/self/fdinfo` shows for the entry of the epoll set. As the entry
is read last, the file was open all the time, so the inode was not another's. It takes ten times longer, and it cannot
tell two openings of the same inode apart; sockets have one opening only, and whoever opens a pipe anew has the same
pipe.

Weakness: pidfd_getfd(2) has no such replacement here; `can_fetch` tells whether it works.
"""

from __future__ import annotations

import errno
import os
from functools import cache

from native.deputies import close_file
from native.library import failure, ffi, lib

_FORBIDDEN = (-errno.EPERM, -errno.ENOSYS)

PIDFD_THREAD: int = lib.PIDFD_THREAD
"""Flag of `pidfd_open`: a single thread (Linux 6.9)."""


def same_file(pid: int, descriptor: int, epoll: int, target: int) -> bool:
    """Whether `descriptor` of the thread `pid` is the open file that was added to `epoll` as number `target`.

    `epoll`: descriptor of an epoll set of this process. `target`: the number under which the file was added; it need
    not be open here any more. False as well if there is no such descriptor in `pid`, or no such entry.
    Raises OSError: ESRCH if there is no such thread, EPERM or EACCES if it may not be traced, EBADF if `epoll` is not
    open here, EINVAL if it is no epoll set.
    """
    result = lib.kdbus_same_file(pid, descriptor, epoll, target)
    if result in _FORBIDDEN:
        return same_inode(pid, descriptor, epoll, target)
    if result < 0:
        raise failure(result, f"compare descriptor {descriptor} of thread {pid} with file {target} of an epoll set")
    return result == 1


def epoll_holds(epoll: int, target: int) -> bool:
    """Whether `epoll` still has the entry `target`, which is to say that its file is still open somewhere.

    The last close of a file, in whichever process, removes it from every epoll set (epoll(7)).
    Raises OSError: EBADF, EINVAL as in `same_file`.
    """
    result = lib.kdbus_epoll_holds(epoll, target)
    if result in _FORBIDDEN:
        return _entry(epoll, target) is not None
    if result < 0:
        raise failure(result, f"look for file {target} in the epoll set {epoll}")
    return result == 1


def same_inode(pid: int, descriptor: int, epoll: int, target: int) -> bool:
    """What `same_file` falls back on: whether they have the same inode. Raises OSError as it does."""
    if descriptor < 0:
        return False
    try:
        status = os.stat(f"/proc/{pid}/fd/{descriptor}")
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}"):
            return False
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), f"thread {pid}") from None
    return _entry(epoll, target) == (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)


def _entry(epoll: int, target: int) -> tuple[int, int, int] | None:
    """Device (major, minor) and inode of the file that `epoll` has as number `target`; None if it has none.

    From lines such as `tfd: 5 events: 0 data: 5 pos:0 ino:51f2 sdev:9`, proc_pid_fdinfo(5); the last two are in
    hexadecimal, and the device is in the kernel's own format: the minor number is its low 20 bits.
    """
    with open(f"/proc/self/fdinfo/{epoll}", "rb") as file:
        lines = file.read().splitlines()
    for line in lines:
        words = line.split()
        if words[0] == b"tfd:" and int(words[1]) == target:
            inode = int(line.partition(b"ino:")[2].split()[0], 16)
            device = int(line.partition(b"sdev:")[2].split()[0], 16)
            return device >> 20, device & 0xFFFFF, inode
    return None


@cache
def can_compare() -> bool:
    """Whether kcmp(2) works here: asked once, about this process itself."""
    return bool(lib.kdbus_epoll_holds(0, 0) not in _FORBIDDEN)


@cache
def can_fetch() -> bool:
    """Whether pidfd_getfd(2) works here: asked once, about this process itself."""
    own = lib.kdbus_pidfd_open(os.getpid(), 0)
    if own < 0:
        return False
    fetched = lib.kdbus_pidfd_getfd(own, own)
    os.close(own)
    if fetched < 0:
        return False
    os.close(fetched)
    return True


def pidfd_open(pid: int, flags: int = 0) -> int:
    """A descriptor (close-on-exec) that stands for the process `pid`, see pidfd_open(2).

    With PIDFD_THREAD for any thread; EINVAL from kernels before 6.9, and for a thread without that flag.
    """
    result = lib.kdbus_pidfd_open(pid, flags)
    if result < 0:
        raise failure(result, f"open process {pid}")
    return result


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """A duplicate (close-on-exec) of `descriptor` of the process that `pidfd` stands for, see pidfd_getfd(2).

    Raises OSError: EBADF if it has none, EPERM if it may not be traced, ESRCH if it has ended.
    """
    result = lib.kdbus_pidfd_getfd(pidfd, descriptor)
    if result < 0:
        raise failure(result, f"duplicate descriptor {descriptor} of another process")
    return result


def socket_cookie(descriptor: int) -> int:
    """The number (unsigned 64 bits) that no other socket since boot has: SO_COOKIE, socket(7).

    Raises OSError: ENOTSOCK, EBADF.
    """
    cookie = ffi.new("uint64_t *")
    result = lib.kdbus_socket_cookie(descriptor, cookie)
    if result < 0:
        raise failure(result, f"ask socket {descriptor} for its cookie")
    return int(cookie[0])


def drain(pid: int, descriptor: int, cookie: int) -> bool:
    """Throws away what waits to be received at the socket behind `descriptor` of the thread `pid`.

    So that the target's own end stops being readable. `cookie`: the socket that it must be (`socket_cookie`); False,
    and nothing is received, if it is another file or none.
    Raises OSError: ESRCH if there is no such thread, EPERM if it may not be traced.
    """
    stranger = ffi.new("int *")
    result = lib.kdbus_drain(pid, descriptor, cookie, stranger)
    if stranger[0] >= 0:
        close_file(stranger[0])
    if result < 0:
        raise failure(result, f"empty socket {descriptor} of thread {pid}")
    return result == 1
