# SPDX-License-Identifier: GPL-2.0-or-later
"""Where system calls have their numbers, arguments and results, on each architecture: for
`interposer.injection.injection`.

The names are python-ptrace's; the facts are those of syscall(2) and of the kernel's tables of system calls.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegisterLayout:
    """Which registers a system call uses (syscall(2)), by python-ptrace's names, and the two numbers needed.

    `call_in_progress`: a register that the kernel consults when it restarts a call, None where there is none; -1 keeps
    it from doing so. `rewinds`: whether a call to be restarted shows as rewound to its instruction already. `bits`: the
    size of a result.
    """

    number: str
    arguments: tuple[str, str, str, str, str, str]
    result: str
    instruction_pointer: str
    call_in_progress: str | None
    instruction_size: int
    rewinds: bool
    bits: int
    mmap: int
    close: int
    openat: int
    fchdir: int
    inotify_add_watch: int
    stack_pointer: str


X86_64 = RegisterLayout(
    number="rax",
    arguments=("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    result="rax",
    instruction_pointer="rip",
    call_in_progress="orig_rax",
    instruction_size=2,
    rewinds=False,
    bits=64,
    mmap=9,
    close=3,
    openat=257,
    fchdir=81,
    inotify_add_watch=254,
    stack_pointer="rsp",
)
# A 32-bit program, as a 64-bit tracer sees it. Both ways in, `int 0x80` and the vDSO's fast one, lead back to right
# behind an `int 0x80`, and the vDSO has left the sixth argument in ebp. The call is mmap2, which counts in pages.
I386 = RegisterLayout(
    number="rax",
    arguments=("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
    result="rax",
    instruction_pointer="rip",
    call_in_progress="orig_rax",
    instruction_size=2,
    rewinds=False,
    bits=32,
    mmap=192,
    close=6,
    openat=295,
    fchdir=133,
    inotify_add_watch=292,
    stack_pointer="rsp",
)
AARCH64 = RegisterLayout(
    number="r8",
    arguments=("r0", "r1", "r2", "r3", "r4", "r5"),
    result="r0",
    instruction_pointer="pc",
    call_in_progress=None,
    instruction_size=4,
    rewinds=True,
    bits=64,
    mmap=222,
    close=57,
    openat=56,
    fchdir=50,
    inotify_add_watch=27,
    stack_pointer="sp",
)
LAYOUTS = {0xC000003E: X86_64, 0x40000003: I386, 0xC00000B7: AARCH64}
"""By AUDIT_ARCH_* of the trapped call."""
