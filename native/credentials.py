# SPDX-License-Identifier: GPL-2.0-or-later
"""Acting for a moment with the file system identity of somebody else.

A supervisor that opens a path on behalf of a target must not open what the target could not. Checking first and
opening then would be a race and a second implementation of every access rule, security modules included; so the
thread takes over the target's ids, lets the kernel decide, and takes its own back. setfsuid(2) exists for exactly
this, invented for file servers: unlike seteuid(2), it does not let the borrowed user send signals to the thread
meanwhile.

Everything here concerns the calling thread alone, by raw system calls: libc would change all threads of the process.

Changing these ids has side effects which the kernel means as protection and which are undone at the end: the process
becomes undumpable (PR_SET_DUMPABLE) and the thread loses its parent death signal (PR_SET_PDEATHSIG).

Weaknesses: while an identity is borrowed, the process is undumpable for other threads too. Bits of the capability
sets other than the effective one stay as they are; access checks look at no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from native.library import failure, ffi, lib

if TYPE_CHECKING:
    from native._helper import CData


_borrowed: list[borrowed_identity] = []


def borrowed_now() -> borrowed_identity | None:
    """Whose identity the thread that serves has borrowed last; None if it is itself."""
    return _borrowed[-1] if _borrowed else None


class borrowed_identity:
    """Context manager: within it, files are accessed as the given user, by this thread only.

    `fsuid`, `fsgid`, `groups`: ids in this process's own user namespace. `capabilities`: mask of CAP_* bits that are
    effective within, as far as this thread is permitted to have them; None: what setfsuid(2) leaves, which is all but
    the ones about files when root becomes somebody else.

    Borrowing what the thread is already needs no privilege. Entering raises OSError: EPERM if the thread may not
    (CAP_SETUID, CAP_SETGID), EINVAL for too many groups, ENOTRECOVERABLE if it failed half-way and could not go back;
    leaving raises what prevented it from going back. After either of the last two the thread must not go on.

    An object can be used again, but not within itself.
    """

    __slots__ = ("_borrowed", "_groups", "_saved", "_saved_groups", "_wanted")

    def __init__(self, fsuid: int, fsgid: int, groups: Sequence[int], capabilities: int | None = None) -> None:
        self._groups = ffi.new("uint32_t[]", groups)
        self._wanted = ffi.new(
            "struct kdbus_identity *",
            {
                "fsuid": fsuid,
                "fsgid": fsgid,
                "effective": capabilities or 0,
                "keep_effective": capabilities is None,
                "groups": self._groups,
                "group_count": len(groups),
                "group_room": len(groups),
            },
        )
        self._saved = ffi.new("struct kdbus_identity *")
        self._saved_groups = ffi.new("uint32_t[]", 0)
        self._borrowed = False

    def __enter__(self) -> None:
        if self._borrowed:
            raise RuntimeError("the identity is already borrowed")
        count = lib.kdbus_group_count()
        if count < 0:
            raise failure(count, "count this thread's groups")
        self._saved_groups = ffi.new("uint32_t[]", count)
        self._saved.groups = self._saved_groups
        self._saved.group_room = count
        result = lib.kdbus_identity_save(self._saved)
        if result < 0:
            raise failure(result, "read this thread's identity")
        result = lib.kdbus_identity_borrow(self._wanted, self._saved)
        if result < 0:
            raise failure(result, f"act as user {self._wanted.fsuid}, group {self._wanted.fsgid}")
        self._borrowed = True
        _borrowed.append(self)

    def description(self) -> tuple[CData, CData]:
        """C's structures of who is borrowed and of who borrows, valid as long as this is; within it."""
        return self._wanted, self._saved

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._borrowed = False
        _borrowed.remove(self)
        result = lib.kdbus_identity_restore(self._saved, self._wanted)
        if result < 0:
            raise failure(result, f"stop acting as user {self._wanted.fsuid}, group {self._wanted.fsgid}")
