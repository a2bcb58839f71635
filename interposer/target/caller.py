# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread behind one trap: `broker.interfaces.Caller` on a real process.

One `TargetCaller` is made per trap and dies with it. That is what makes its caches right: a trapped thread does
nothing, so what was read of it once in a trap stays true until the answer.

Thread ids are reused, so nothing is believed or done because of a number alone. A thread waits in its trap for as long
as its notification is valid; therefore

- what is read (memory, /proc, a pidfd) is believed if the notification is still valid afterwards;
- what is written is written only after a look that the notification is valid. The kernel offers nothing that would do
  both in one step: a thread that is killed, and whose number is reused, in the microsecond between look and write would
  have bytes written into another process, one that the supervisor may trace. seccomp_unotify(2) describes this
  remaining gap; no descriptor closes it, short of an open /proc/PID/mem for each call.

A caller that is gone looks to the broker like one with bad memory or bad descriptors: the command fails and is
undone, and nobody receives its answer.

Alternative considered: holding a pidfd per thread. It pays a descriptor for each thread, and reading memory by pidfd
does not exist, so the looks would remain.

Weakness: kernels before 6.9 have no pidfd of a single thread. There, descriptors are looked up in the thread
group's leader, which is the same table unless the thread has unshared its own (CLONE_FILES), and is empty if
the leader has ended before its threads.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from functools import cached_property

from broker.errors import BadAddress, BadDescriptor, CallerGone, OutOfMemory, TooManyOpenFiles
from broker.interfaces import Credentials, File, PoolMemory
from interposer.shortage import tell_once
from interposer.target.budget import Budgets, OverBudget
from interposer.target.evidence import Evidence
from interposer.target.files import HandleRegistry, TargetFile
from interposer.target.ids import ThreadFolder, ThreadIds, UserNamespaces
from interposer.target.process import TargetProcess
from interposer.target.reopened import reopen
from interposer.target.stalls import PostedWrites
from native import memory
from native.deputies import Stalled
from native.identity import PIDFD_THREAD, can_fetch, pidfd_getfd, pidfd_open
from native.notification import Listener, Notification
from native.pool import Pool

# EIO: a page that cannot be read in, ESRCH: the thread is gone, EINVAL: a length that no address space can hold.
BAD_MEMORY = frozenset({errno.EFAULT, errno.EIO, errno.ESRCH, errno.EINVAL})
NO_MEMORY = frozenset({errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EAGAIN})


class MemoryStalled(CallerGone):
    """The caller's memory does not come (`Stalled`). To the broker it is gone: what it asked for is undone, and asked
    for again."""

    def __init__(self, ticket: int) -> None:
        super().__init__()
        self.ticket = ticket


class TargetCaller:
    """`broker.interfaces.Caller` of the thread that `notification`, received from `listener`, is about.

    `namespaces`, `handles` and `budgets` belong to the supervisor and are shared by all its callers.

    Every function may raise OSError (EPERM, EACCES) where the supervisor may not inspect the thread, as for a program
    that made itself undumpable (ptrace(2), "Ptrace access mode checking"); `process` and `ids` raise
    ProcessLookupError when the thread is gone.
    """

    def __init__(
        self,
        listener: Listener,
        notification: Notification,
        namespaces: UserNamespaces,
        handles: HandleRegistry,
        budgets: Budgets,
        posted: PostedWrites | None = None,
    ) -> None:
        """`posted`: takes what is written, and does it later where it has to; None: it is written directly."""
        self._posted = posted
        self._stalled: MemoryStalled | None = None
        self._budgets = budgets
        self._listener = listener
        self._notification = notification
        self._namespaces = namespaces
        self._handles = handles

    def is_waiting(self) -> bool:
        """Whether the thread still waits for the answer to this trap, and its number is thus its own."""
        return self._listener.is_valid(self._notification.id)

    @cached_property
    def _folder(self) -> ThreadFolder:
        return ThreadFolder(self._notification.pid, self.is_waiting)

    @property
    def evidence(self) -> Evidence:
        """What was read about the thread so far."""
        return self._folder.evidence

    @cached_property
    def ids(self) -> ThreadIds:
        """How the thread's namespaces number users and processes."""
        return ThreadIds(self._folder, self._namespaces)

    @cached_property
    def process(self) -> TargetProcess:
        """What can be learnt about the thread."""
        return TargetProcess(self._folder, self.ids, self._namespaces)

    def credentials(self) -> Credentials:
        """The thread's credentials, read once per trap."""
        return self.process.credentials()

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the caller's memory. Raises BadAddress, CallerGone."""
        if self._stalled is not None:
            raise self._stalled
        try:
            data = memory.read(self._notification.pid, address, size)
        except OSError as error:
            raise self._as_bad_address(error, address=address, size=size) from error
        except Stalled as stalled:
            self._stalled = MemoryStalled(stalled.ticket)
            raise self._stalled from stalled
        self._check_memory()
        return data

    def write(self, address: int, data: bytes) -> None:
        """Write into the caller's memory, while it waits. Raises CallerGone; BadAddress, with the beginning perhaps
        written.
        """
        self._check_memory()
        if self._stalled is not None:
            return  # it is going to be undone
        try:
            if self._posted is None:
                memory.write(self._notification.pid, address, data)
            else:
                self._posted.write(self._notification, address, data)
        except OSError as error:
            raise self._as_bad_address(error, address=address, size=len(data)) from error

    def copy(self, pool: PoolMemory, offset: int, pieces: Sequence[tuple[int, int]]) -> None:
        """Copy (address, size) `pieces` to `offset` of a pool made by `new_pool`; address 0 stands for zeros.

        Raises BadAddress or CallerGone, with some of the pool perhaps written.
        """
        if not isinstance(pool, Pool):
            raise TypeError(f"not a pool that this process made: {pool!r}")
        try:
            pool.copy_from_process(self._notification.pid, offset, pieces)
        except OSError as error:
            raise self._as_bad_address(error) from error
        except Stalled as stalled:
            self._stalled = MemoryStalled(stalled.ticket)
            raise self._stalled from stalled
        self._check_memory()

    def file(self, descriptor: int) -> TargetFile:
        """A reference to what `descriptor` of the caller is open on.

        Raises BadDescriptor; TooManyOpenFiles (the caller's user has named too many, or there are no more);
        DescriptorNotPassable where only some kinds of files can be had (`interposer.target.reopened`).
        """
        try:
            charge = self._budgets.descriptors.charge(self.credentials().uid, 1)
        except OverBudget as error:
            tell_once(errno.ENFILE, str(error))
            raise TooManyOpenFiles from None
        except ProcessLookupError:
            raise BadDescriptor from None
        try:
            return TargetFile(self._fetch(descriptor), self._handles, charge)
        except OSError as error:
            charge.give_back()
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise TooManyOpenFiles from error
            raise
        except BaseException:
            charge.give_back()
            raise

    def _fetch(self, descriptor: int) -> int:
        """A duplicate of a descriptor of the caller. Raises BadDescriptor, DescriptorNotPassable, OSError."""
        if not can_fetch():
            try:
                return reopen(self._folder, descriptor)
            except ProcessLookupError:
                raise BadDescriptor from None
        try:
            thread = self._open_thread()
            try:
                # The number belonged to the thread when it was opened, if the thread still waits now.
                if not self.is_waiting():
                    raise BadDescriptor
                return pidfd_getfd(thread, descriptor)
            finally:
                os.close(thread)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ESRCH):
                raise BadDescriptor from error
            raise

    def _open_thread(self) -> int:
        try:
            return pidfd_open(self._notification.pid, PIDFD_THREAD)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return pidfd_open(self.process.thread_group)

    def install(self, file: File) -> int:
        """Install a file of `file()` in the caller with close-on-exec; its number there, or -errno.

        -EMFILE at the caller's limit of open files, -ENOENT or -ESRCH when it no longer waits, -EBADF for an O_PATH
        descriptor, which the kernel does not install in this way.
        """
        if not isinstance(file, TargetFile):
            raise TypeError(f"not a file of a target: {file!r}")
        try:
            return self._listener.add_descriptor(self._notification.id, file.fileno(), close_on_exec=True)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def new_pool(self, name: bytes, size: int) -> Pool:
        """Memory for a pool. Raises OutOfMemory when there is none, or no descriptor for it, or none for this user."""
        try:
            return self._budgets.new_pool(self.credentials().uid, name, size)
        except OverBudget:
            raise OutOfMemory from None
        except OSError as error:
            if error.errno in NO_MEMORY:
                tell_once(errno.EFBIG if error.errno == errno.EFBIG else errno.ENOMEM, str(error))
                raise OutOfMemory from error
            raise

    def _check_memory(self) -> None:
        if not self.is_waiting():
            raise CallerGone

    def _as_bad_address(self, error: OSError, **facts: int) -> Exception:
        if error.errno not in BAD_MEMORY:
            return error
        return BadAddress(**facts) if self.is_waiting() else CallerGone()
