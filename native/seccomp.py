# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting the calling thread under a seccomp filter, see seccomp(2).

To be called in a process that is about to become a target: between fork and exec. A filter cannot be taken off again.

The filter itself is data: (code, jump_true, jump_false, operand) per instruction, as in `struct sock_filter`; which
calls it traps is decided by whoever writes it. It sees `struct seccomp_data`: number (offset 0, 4 bytes),
architecture (4, 4 bytes), instruction pointer (8, 8 bytes), six arguments (16 + 8 * N, 8 bytes each, low half first
on little-endian machines). A filter must look at the architecture before anything else, as the same number is another
call on another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from native.library import failure, ffi, lib

SECCOMP_FILTER_FLAG_TSYNC: int = lib.SECCOMP_FILTER_FLAG_TSYNC
SECCOMP_FILTER_FLAG_LOG: int = lib.SECCOMP_FILTER_FLAG_LOG
SECCOMP_FILTER_FLAG_SPEC_ALLOW: int = lib.SECCOMP_FILTER_FLAG_SPEC_ALLOW
SECCOMP_FILTER_FLAG_NEW_LISTENER: int = lib.SECCOMP_FILTER_FLAG_NEW_LISTENER
SECCOMP_FILTER_FLAG_TSYNC_ESRCH: int = lib.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: int = lib.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV

SECCOMP_RET_KILL_PROCESS: int = lib.SECCOMP_RET_KILL_PROCESS
SECCOMP_RET_KILL_THREAD: int = lib.SECCOMP_RET_KILL_THREAD
SECCOMP_RET_TRAP: int = lib.SECCOMP_RET_TRAP
SECCOMP_RET_ERRNO: int = lib.SECCOMP_RET_ERRNO
SECCOMP_RET_USER_NOTIF: int = lib.SECCOMP_RET_USER_NOTIF
SECCOMP_RET_TRACE: int = lib.SECCOMP_RET_TRACE
SECCOMP_RET_LOG: int = lib.SECCOMP_RET_LOG
SECCOMP_RET_ALLOW: int = lib.SECCOMP_RET_ALLOW

BPF_LD: int = lib.BPF_LD
BPF_ALU: int = lib.BPF_ALU
BPF_JMP: int = lib.BPF_JMP
BPF_RET: int = lib.BPF_RET
BPF_W: int = lib.BPF_W
BPF_ABS: int = lib.BPF_ABS
BPF_AND: int = lib.BPF_AND
BPF_JA: int = lib.BPF_JA
BPF_JEQ: int = lib.BPF_JEQ
BPF_JGT: int = lib.BPF_JGT
BPF_JGE: int = lib.BPF_JGE
BPF_JSET: int = lib.BPF_JSET
BPF_K: int = lib.BPF_K
BPF_MAXINSNS: int = lib.BPF_MAXINSNS
"""How many instructions a filter may have."""

AUDIT_ARCH_X86_64: int = lib.AUDIT_ARCH_X86_64
AUDIT_ARCH_I386: int = lib.AUDIT_ARCH_I386
AUDIT_ARCH_AARCH64: int = lib.AUDIT_ARCH_AARCH64
AUDIT_ARCH_ARM: int = lib.AUDIT_ARCH_ARM
AUDIT_ARCH_RISCV64: int = lib.AUDIT_ARCH_RISCV64


def install_filter(program: Sequence[tuple[int, int, int, int]], flags: int) -> int:
    """Puts the calling thread under `program`; returns the notification descriptor (close-on-exec).

    `flags`: SECCOMP_FILTER_FLAG_* besides NEW_LISTENER, which is added.
    Raises OSError: EACCES without `set_no_new_privileges` or CAP_SYS_ADMIN, EBUSY if the thread is under a filter with
    a listener already, EINVAL for an invalid program (or none, or more than BPF_MAXINSNS instructions) or a flag the
    kernel does not know. OverflowError if a number does not fit its field (16, 8, 8, 32 bits).
    """
    instructions = ffi.new("struct kdbus_instruction[]", program)
    result = lib.kdbus_install_filter(instructions, len(program), flags)
    if result < 0:
        raise failure(result, f"install a seccomp filter of {len(program)} instructions")
    return result


def get_action_available(action: int) -> bool:
    """Whether the kernel knows the SECCOMP_RET_* `action`. Raises OSError: ENOSYS without seccomp."""
    result = lib.kdbus_action_available(action)
    if result < 0:
        raise failure(result, f"ask for the seccomp action {action:#x}")
    return result == 1


def set_no_new_privileges() -> None:
    """Gives up, for the calling thread and all its descendants, gaining privileges by exec (PR_SET_NO_NEW_PRIVS)."""
    result = lib.kdbus_set_no_new_privileges()
    if result < 0:
        raise failure(result, "set no_new_privs")


def set_parent_death_signal(signal: int) -> None:
    """Has the calling thread get `signal` when the thread that forked it ends (PR_SET_PDEATHSIG); 0: none.

    A parent that ended before this call goes unnoticed: compare os.getppid() afterwards. Lost at fork and when
    credentials change. Raises OSError: EINVAL for an invalid signal number.
    """
    result = lib.kdbus_set_parent_death_signal(signal)
    if result < 0:
        raise failure(result, f"have signal {signal} sent when the parent ends")
