# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a process may be inspected: its memory read and written, its descriptors fetched, itself traced.

The kernel asks the same of all of these (ptrace(2), "Ptrace access mode checking"): the same user and a process that
can be dumped, or CAP_SYS_PTRACE; then security modules, of which Yama has scopes, and AppArmor and SELinux policies.

A supervisor that may not inspect its program can serve nothing. Programs mostly take that for a kernel without kdbus,
so the first time it is told on stderr. In path mode, where each call that names a path is asked for where it leads,
nearly all lead elsewhere; so there it is told only of a process that this user could inspect were it not for a security
module: a process that cannot be dumped is mostly one that keeps secrets, and has nothing to do with kdbus.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from interposer.errors import ProgramForbidden
from interposer.report import say
from native import memory


def yama_scope() -> str | None:
    """What the security module Yama lets processes inspect: `0` to `3`, see ptrace(2); None without Yama."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            return file.read().strip()
    except OSError:
        return None


def try_to_inspect(process: int) -> None:
    """Find out whether this process may read and write the memory of `process`, and trace it.

    pidfd_getfd(2), which asks for the same right, is forbidden in some containers. Raises OSError: EPERM if it may
    not, ESRCH if there is no such process.
    """
    try:
        memory.read(process, 0, 1)
    except OSError as error:
        # Nothing is there, but the kernel says so only to who may look.
        if error.errno != errno.EFAULT:
            raise


class Forbidden:
    """What this process has told of programs that it may not inspect: the first one, and none after it."""

    def __init__(self) -> None:
        self._told = False

    def tell(self, thread: int) -> None:
        """A call of kdbus's that `thread` makes cannot be served; it is told if that is why."""
        if self._told:
            return
        try:
            try_to_inspect(thread)
        except PermissionError:
            self._told = True
            say(f"kdbus: {_forbidden(thread, yama_scope())}")
        except OSError:
            return

    def tell_of_path(self, thread: int) -> None:
        """The same of a call that may be kdbus's, or not."""
        with suppress(OSError):
            # Root has the folder of who cannot be dumped (proc(5)).
            if not self._told and os.stat(f"/proc/{thread}").st_uid == os.geteuid():
                self.tell(thread)


_forbidden_once = Forbidden()
tell_forbidden = _forbidden_once.tell
tell_path_forbidden = _forbidden_once.tell_of_path


def _forbidden(thread: int, scope: str | None) -> ProgramForbidden:
    reason = "the kernel lets `kdbus` neither read its memory nor fetch its descriptors"
    if scope in ("2", "3"):
        reason += f", and kernel.yama.ptrace_scope is {scope}"
    advice = "a security module or a container's seccomp profile may forbid it; `kdbus doctor` tells what else it does"
    if scope == "3":
        advice = "that forbids it to root too, until the machine is restarted with another scope"
    elif scope == "2":
        advice = "run `kdbus` with CAP_SYS_PTRACE, or with `--mode mount`, or set kernel.yama.ptrace_scope to 1 or 0"
    attempted = f"serving the calls of thread {thread}"
    return ProgramForbidden(attempted, f"{reason}, so it finds no kdbus that works", f"{advice}; this is told once")
