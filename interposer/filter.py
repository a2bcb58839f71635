# SPDX-License-Identifier: GPL-2.0-or-later
"""The seccomp filter: which system calls of a target stop and ask the supervisor.

A trap costs microseconds, a call that the filter lets through costs nothing measurable, so the filter decides as
much as classic BPF can see: the number of the call and its six arguments, not the memory behind them. What is trapped
is data, one table of `Trap` entries; the BPF program is compiled from it. A new trap is a new entry, or a longer table
given to `build`.

The entries, and why:

- `ioctl` of magic 0x95, the type byte of every kdbus command (ioctl encoding: `_IOC_TYPE`, bits 8 to 15).
- `open` and `openat` that ask for O_RDWR without O_CREAT, O_DIRECTORY or O_PATH: how a kdbus node is opened. Other
  opens of a node slip through, yield the plain file that stands there, and are caught by its first ioctl. O_TMPFILE
  contains O_DIRECTORY.
- `openat2`, always: its flags are in memory. It is rare.
- `mmap` that is shared and file-backed: a pool is mapped so. Writable ones too, as kdbus refuses them with EPERM.
- `mount` and `umount2`: a new kdbusfs is a new domain.

Rules of the program: the architecture is checked first, since a number means another call on another
architecture. Calls of a foreign one (i386 code on x86-64) are let through untouched, and so are x32 calls, whose
numbers carry bit 30 and therefore equal none of the table. Weakness: a 32-bit program is thus not served; it would need
its own numbers and the compat layouts of the structs.

Only the low 32 bits of an argument are looked at. All arguments of the table are `int` or `unsigned int` in the
kernel, save the flags of mmap, of which no bit above 31 is defined. Both machines of the table are
little-endian, so the low half comes first.

Alternative considered: libseccomp. It writes the same program, but binds the project to one more library, and this
one is small enough to be read and interpreted by its test.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from interposer.errors import UnsupportedMachine

Instruction = tuple[int, int, int, int]
"""One `struct sock_filter`: (code, jump if true, jump if false, operand), `linux/filter.h`."""

LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
OFFSET_NUMBER = 0
OFFSET_ARCHITECTURE = 4
OFFSET_ARGUMENTS = 16

KDBUS_IOCTL_MAGIC = 0x95
IOCTL_TYPE_SHIFT = 8
IOCTL_TYPE_MASK = 0xFF

O_ACCMODE = 0o3
O_RDWR = 0o2
O_CREAT = 0o100
O_PATH = 0o10000000
MAP_TYPE = 0xF
MAP_SHARED = 0x1
MAP_SHARED_VALIDATE = 0x3
MAP_ANONYMOUS = 0x20


class Architecture(NamedTuple):
    """What differs from machine to machine in the filter.

    `machine` is the name that uname(2) gives, `audit` the AUDIT_ARCH_* value of `linux/audit.h`, `system_calls` the
    numbers of the trapped calls, by name; a call that the machine does not have is absent. `o_directory` is the
    value of O_DIRECTORY, the one flag of the table that machines disagree on.
    """

    machine: str
    audit: int
    system_calls: dict[str, int]
    o_directory: int


X86_64 = Architecture(
    machine="x86_64",
    audit=0xC000003E,
    system_calls={
        "open": 2,
        "mmap": 9,
        "ioctl": 16,
        "mount": 165,
        "umount2": 166,
        "openat": 257,
        "openat2": 437,
    },
    o_directory=0o200000,
)

AARCH64 = Architecture(
    machine="aarch64",
    audit=0xC00000B7,
    system_calls={
        "ioctl": 29,
        "umount2": 39,
        "mount": 40,
        "openat": 56,
        "mmap": 222,
        "openat2": 437,
    },
    o_directory=0o40000,
)

ARCHITECTURES = {architecture.machine: architecture for architecture in (X86_64, AARCH64)}


class Condition(NamedTuple):
    """Holds when (low 32 bits of argument number `argument`) & `mask` is one of `values`."""

    argument: int
    mask: int
    values: tuple[int, ...]


class Trap(NamedTuple):
    """A system call that stops, always or when its one condition holds. A call has at most one entry."""

    system_call: str
    condition: Condition | None = None


def mount_mode_traps(architecture: Architecture) -> tuple[Trap, ...]:
    """What is trapped when the target has its own mounted /sys/fs/kdbus; the frequent calls first."""
    file_mapped_shared = Condition(3, MAP_TYPE | MAP_ANONYMOUS, (MAP_SHARED, MAP_SHARED_VALIDATE))
    kdbus_command = Condition(1, IOCTL_TYPE_MASK << IOCTL_TYPE_SHIFT, (KDBUS_IOCTL_MAGIC << IOCTL_TYPE_SHIFT,))
    opened_like_a_node = O_ACCMODE | O_CREAT | O_PATH | architecture.o_directory
    return (
        Trap("ioctl", kdbus_command),
        Trap("openat", Condition(2, opened_like_a_node, (O_RDWR,))),
        Trap("mmap", file_mapped_shared),
        Trap("open", Condition(1, opened_like_a_node, (O_RDWR,))),
        Trap("openat2"),
        Trap("mount"),
        Trap("umount2"),
    )


def this_architecture() -> Architecture:
    """The table entry of the machine that this process runs on.

    Raises `UnsupportedMachine` when there is none.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise UnsupportedMachine(
            "choosing the system calls to trap",
            f"the machine is {machine}",
            f"kdbus run works on {' and '.join(sorted(ARCHITECTURES))}",
        )
    return ARCHITECTURES[machine]


def build(architecture: Architecture, traps: Sequence[Trap]) -> list[Instruction]:
    """Compile `traps` into a classic-BPF program for seccomp(2), SECCOMP_SET_MODE_FILTER.

    The program returns SECCOMP_RET_USER_NOTIF for a trapped call and SECCOMP_RET_ALLOW for all others. Traps of
    calls that `architecture` does not have are left out. A chain of comparisons is enough: for a call whose number
    decides alone, the kernel (5.11 and newer) computes the answer once and keeps it in a bitmap.
    """
    program: list[Instruction] = [
        (LOAD_WORD, 0, 0, OFFSET_ARCHITECTURE),
        (JUMP_IF_EQUAL, 1, 0, architecture.audit),
        (RETURN, 0, 0, ALLOW),
        (LOAD_WORD, 0, 0, OFFSET_NUMBER),
    ]
    for trap in traps:
        number = architecture.system_calls.get(trap.system_call)
        if number is not None:
            decision = _decide(trap.condition)
            program.append((JUMP_IF_EQUAL, 0, len(decision), number))
            program += decision
    program.append((RETURN, 0, 0, ALLOW))
    return program


def _decide(condition: Condition | None) -> list[Instruction]:
    """The instructions that return the answer for a call whose number has matched."""
    if condition is None:
        return [(RETURN, 0, 0, NOTIFY)]
    comparisons: list[Instruction] = []
    for position, value in enumerate(condition.values):
        # A match jumps over the remaining comparisons and the ALLOW behind them.
        comparisons.append((JUMP_IF_EQUAL, len(condition.values) - position, 0, value))
    return [
        (LOAD_WORD, 0, 0, OFFSET_ARGUMENTS + 8 * condition.argument),
        (AND, 0, 0, condition.mask),
        *comparisons,
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, NOTIFY),
    ]
