# SPDX-License-Identifier: GPL-2.0-or-later
"""What the supervisor can run out of: what that means for a call, and what is said when it is the end.

A call that cannot be served for want of something fails with an errno that says so; the supervisor goes on. Programs
rarely say what they make of such an errno, so the first time it is told on stderr what has run out. If it is
the supervisor itself that cannot go on, or not even begin, that is no mistake of ours which anybody should report; it
is told in one line what is missing, and how to get more of it. The targets then find kdbus gone (ENOSYS).
"""

from __future__ import annotations

import errno

from interposer.errors import FILE_SIZE_ADVICE, InterposerError, OutOfResources
from interposer.report import cause_of, say

_ERRNO = {
    errno.EMFILE: errno.ENFILE,
    errno.ENFILE: errno.ENFILE,
    errno.ENOMEM: errno.ENOMEM,
    errno.EAGAIN: errno.ENOMEM,
    errno.ENOSPC: errno.ENOSPC,
}
"""What a caller is told of what the supervisor has run out of; EAGAIN: of processes or threads."""
ADVICE = {
    errno.ENFILE: "raise the limit of open files: `ulimit -Hn` shows it, 1024 is plenty for a few programs",
    errno.ENOMEM: "raise the limits of memory and processes: `ulimit -a` shows them",
    errno.ENOSPC: "make room in the file system",
    errno.EFBIG: FILE_SIZE_ADVICE,
}
"""What to do about it, by the errno that callers are told; EFBIG: of a pool, where they are told ENOMEM."""


def errno_of_shortage(error: BaseException | None) -> int | None:
    """The errno for a call that failed with `error`, if that is for want of something."""
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map" in str(error)):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNO.get(error.errno)
    return None


class Shortages:
    """What this process has told of."""

    def __init__(self) -> None:
        self._told: set[int] = set()

    def tell(self, number: int, reason: str) -> None:
        """Tell that a call fails for want of what `number` stands for in ADVICE, unless that has been told before."""
        if number not in self._told:
            self._told.add(number)
            shortage = OutOfResources("serving a call to kdbus", reason, f"{ADVICE[number]}; this is told once")
            say(f"kdbus: {shortage}")


tell_once = Shortages().tell


def told(error: BaseException) -> bool:
    """Tell in one line that `error`, for want of something, ends this process; False if that is not what it is."""
    found = cause_of(error)
    number = errno_of_shortage(found)
    if number is None:
        return False
    reason = str(found) or "out of memory"
    say(f"kdbus: {_as_error(reason, ADVICE[number])}")
    return True


def _as_error(reason: str, advice: str) -> InterposerError:
    return OutOfResources("serving the program's calls to kdbus", reason, advice)
