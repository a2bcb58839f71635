# SPDX-License-Identifier: GPL-2.0-or-later
"""Which file a descriptor of another process is, and touching it there.

Descriptor numbers are reused after close(2), dup2(2), fork(2) and message passing, so a number proves nothing. The
proof must not hold the file open either, or its last close would go unnoticed. An entry of an epoll set does exactly
that: it points to the file without keeping it alive, and kcmp(2) with KCMP_EPOLL_TFD compares it with a descriptor of
any process, in about a microsecond. Entries are searched linearly by the kernel's tree of (file, number), so small
sets are fast sets.

Alternatives: the inode of `/proc/PID/fd/N` says the same for sockets, 60 % slower, and is what remains where kcmp
is forbidden (Docker's default profile without CAP_SYS_PTRACE); then these functions raise EPERM or ENOSYS.
"""

from __future__ import annotations

from native.library import failure, ffi, lib

PIDFD_THREAD: int = lib.PIDFD_THREAD
"""Flag of `pidfd_open`: a single thread (Linux 6.9)."""


def same_file(pid: int, descriptor: int, epoll: int, target: int) -> bool:
    """Whether `descriptor` of the thread `pid` is the open file that was added to `epoll` as number `target`.

    `epoll`: descriptor of an epoll set of this process. `target`: the number under which the file was added; it need
    not be open here any more. False as well if there is no such descriptor in `pid`, or no such entry.
    Raises OSError: ESRCH if there is no such thread, EPERM if it may not be traced, ENOSYS if the kernel has no
    kcmp(2), EBADF if `epoll` is not open here, EINVAL if it is no epoll set.
    """
    result = lib.kdbus_same_file(pid, descriptor, epoll, target)
    if result < 0:
        raise failure(result, f"compare descriptor {descriptor} of thread {pid} with file {target} of an epoll set")
    return result == 1


def epoll_holds(epoll: int, target: int) -> bool:
    """Whether `epoll` still has the entry `target`, which is to say that its file is still open somewhere.

    The last close of a file, in whichever process, removes it from every epoll set (epoll(7)).
    Raises OSError: EBADF, EINVAL, EPERM, ENOSYS as in `same_file`.
    """
    result = lib.kdbus_epoll_holds(epoll, target)
    if result < 0:
        raise failure(result, f"look for file {target} in the epoll set {epoll}")
    return result == 1


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
    result = lib.kdbus_drain(pid, descriptor, cookie)
    if result < 0:
        raise failure(result, f"empty socket {descriptor} of thread {pid}")
    return result == 1
