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
  contains O_DIRECTORY. O_WRONLY in the same way, as the module parameter may be opened so, but not in mount mode where
  all programs are one ordinary user's, who may not write it.
- `openat2`, always: its flags are in memory. It is rare.
- `mmap` of what can be a pool or a part of it: shared and file-backed, not writable, in whole pages. Databases map
  files writable, others whole files of any length; and no program expects EINTR from mmap, which a trap makes possible.
- `mount` and `umount2`: a new kdbusfs is a new domain. `fsopen`: it cannot be made with the new calls.
- In path mode, where nothing is mounted (`interposer.traps.path_mode`): all opens, and the other calls that look at
  what a path leads to. fstatat and statx only without AT_EMPTY_PATH, since that is how C libraries do fstat.
- `exit_group`, where somebody wants to know what a process has open when it ends (`kdbus check`): afterwards that
  cannot be told. Who is killed does not come by here.
- On i386, with their own numbers, also `mmap2`, which is what mmap is there, the old `mmap`, whose arguments are in
  memory (so always; it is long out of use), and `umount`, which is `umount2` without flags.

What comes from one page at a fixed address is let through (`untrapped`): there a library that is preloaded into
dynamic programs makes the calls of which it knows that they have nothing to do with kdbus (`native/preload`). That is
looked at last, since the kernel keeps an answer in its bitmap only if nothing but the number decided it.

Rules of the program: the architecture is checked first, since a number means another call on another
architecture. An x86-64 machine runs i386 programs as well, so the program has a part for each; the structs of kdbus
are the same on both. Calls of any other architecture are let through untouched, and so are x32 calls, whose numbers
carry bit 30 and therefore equal none of the table. Weakness: 32-bit ARM programs on AArch64 are thus not served.

Only the low 32 bits of an argument are looked at. All arguments of the table are `int` or `unsigned int` in the
kernel, save those of mmap: flags and protection, of which no bit above 31 is defined, and the length, of which the
lowest bits tell. Both machines of the table are little-endian, so the low half comes first.

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
JUMP = 0x05  # BPF_JMP | BPF_JA
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

LONGEST_JUMP = 255

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
OFFSET_NUMBER = 0
OFFSET_ARCHITECTURE = 4
OFFSET_INSTRUCTION_POINTER = 8
OFFSET_ARGUMENTS = 16

KDBUS_IOCTL_MAGIC = 0x95
IOCTL_TYPE_SHIFT = 8
IOCTL_TYPE_MASK = 0xFF

O_ACCMODE = 0o3
O_WRONLY = 0o1
O_RDWR = 0o2
O_CREAT = 0o100
O_PATH = 0o10000000
AT_EMPTY_PATH = 0x1000
PROT_WRITE = 0x2
MAP_TYPE = 0xF
MAP_SHARED = 0x1
MAP_SHARED_VALIDATE = 0x3
MAP_ANONYMOUS = 0x20
SMALLEST_PAGE = 4096
"""Of both machines; where pages are larger, more is trapped than need be."""


_PATH_CALLS = (
    "open",
    "stat",
    "stat64",
    "lstat",
    "lstat64",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getcwd",
    "chdir",
    "statfs",
    "statfs64",
    "inotify_add_watch",
    "getxattr",
    "lgetxattr",
    "listxattr",
    "llistxattr",
)


class Architecture(NamedTuple):
    """What differs from machine to machine in the filter.

    `machine` is the name that uname(2) gives, `audit` the AUDIT_ARCH_* value of `linux/audit.h`, `system_calls` the
    numbers of the trapped calls, by name; a call that the machine does not have is absent. `o_directory` is the
    value of O_DIRECTORY, the one flag of the table that machines disagree on. `runs_also` are the other
    architectures whose programs such a machine executes.
    """

    machine: str
    audit: int
    system_calls: dict[str, int]
    o_directory: int
    runs_also: tuple[Architecture, ...] = ()

    @property
    def all(self) -> tuple[Architecture, ...]:
        """Itself and those that it runs also."""
        return (self, *self.runs_also)


I386 = Architecture(
    machine="i386",
    audit=0x40000003,
    system_calls={
        "open": 5,
        "mount": 21,
        "umount": 22,
        "umount2": 52,
        "fsopen": 430,
        "ioctl": 54,
        "old_mmap": 90,
        "mmap2": 192,
        "openat": 295,
        "openat2": 437,
        "chdir": 12,
        "getxattr": 229,
        "lgetxattr": 230,
        "listxattr": 232,
        "llistxattr": 233,
        "access": 33,
        "readlink": 85,
        "statfs": 99,
        "stat": 106,
        "lstat": 107,
        "getcwd": 183,
        "stat64": 195,
        "lstat64": 196,
        "statfs64": 268,
        "inotify_add_watch": 292,
        "fstatat64": 300,
        "readlinkat": 305,
        "faccessat": 307,
        "statx": 383,
        "faccessat2": 439,
        "exit_group": 252,
    },
    o_directory=0o200000,
)

X86_64 = Architecture(
    machine="x86_64",
    audit=0xC000003E,
    system_calls={
        "open": 2,
        "mmap": 9,
        "ioctl": 16,
        "mount": 165,
        "umount2": 166,
        "fsopen": 430,
        "openat": 257,
        "openat2": 437,
        "getxattr": 191,
        "lgetxattr": 192,
        "listxattr": 194,
        "llistxattr": 195,
        "stat": 4,
        "lstat": 6,
        "access": 21,
        "getcwd": 79,
        "chdir": 80,
        "readlink": 89,
        "statfs": 137,
        "inotify_add_watch": 254,
        "newfstatat": 262,
        "readlinkat": 267,
        "faccessat": 269,
        "statx": 332,
        "faccessat2": 439,
        "exit_group": 231,
    },
    o_directory=0o200000,
    runs_also=(I386,),
)

AARCH64 = Architecture(
    machine="aarch64",
    audit=0xC00000B7,
    system_calls={
        "ioctl": 29,
        "umount2": 39,
        "fsopen": 430,
        "mount": 40,
        "openat": 56,
        "mmap": 222,
        "openat2": 437,
        "getxattr": 8,
        "lgetxattr": 9,
        "listxattr": 11,
        "llistxattr": 12,
        "getcwd": 17,
        "inotify_add_watch": 27,
        "statfs": 43,
        "faccessat": 48,
        "chdir": 49,
        "readlinkat": 78,
        "newfstatat": 79,
        "statx": 291,
        "faccessat2": 439,
        "exit_group": 94,
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
    """A system call that stops when all its conditions hold. A call has at most one entry."""

    system_call: str
    conditions: tuple[Condition, ...] = ()


def one_user_traps(architecture: Architecture) -> tuple[Trap, ...]:
    """As `mount_mode_traps`, where nobody may write the module parameter, as all targets are an ordinary user's."""
    return mount_mode_traps(architecture, (O_RDWR,))


def mount_mode_traps(architecture: Architecture, accesses: tuple[int, ...] = (O_RDWR, O_WRONLY)) -> tuple[Trap, ...]:
    """What is trapped when the target has its own mounted /sys/fs/kdbus; the frequent calls first.

    `accesses`: the access modes with which something that matters may be opened.
    """
    pool_mapped = (
        Condition(3, MAP_TYPE | MAP_ANONYMOUS, (MAP_SHARED, MAP_SHARED_VALIDATE)),
        Condition(2, PROT_WRITE, (0,)),
        Condition(1, SMALLEST_PAGE - 1, (0,)),
    )
    kdbus_command = Condition(1, IOCTL_TYPE_MASK << IOCTL_TYPE_SHIFT, (KDBUS_IOCTL_MAGIC << IOCTL_TYPE_SHIFT,))
    opened_like_a_node = O_ACCMODE | O_CREAT | O_PATH | architecture.o_directory, accesses
    return (
        Trap("ioctl", (kdbus_command,)),
        Trap("openat", (Condition(2, *opened_like_a_node),)),
        Trap("mmap", pool_mapped),
        Trap("mmap2", pool_mapped),
        Trap("old_mmap"),
        Trap("open", (Condition(1, *opened_like_a_node),)),
        Trap("openat2"),
        Trap("mount"),
        Trap("umount2"),
        Trap("umount"),
        Trap("fsopen"),
    )


def path_mode_traps(architecture: Architecture) -> tuple[Trap, ...]:
    """What is trapped in path mode: the same, but all opens, and the other calls that name a path."""
    return (
        Trap("openat"),
        Trap("newfstatat", (Condition(3, AT_EMPTY_PATH, (0,)),)),
        Trap("fstatat64", (Condition(3, AT_EMPTY_PATH, (0,)),)),
        Trap("statx", (Condition(2, AT_EMPTY_PATH, (0,)),)),
        *(Trap(name) for name in _PATH_CALLS),
        *(trap for trap in mount_mode_traps(architecture) if trap.system_call not in ("open", "openat")),
    )


EXITS = Trap("exit_group")
"""To be added to either."""


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
    """`build_for` of one architecture."""
    return build_for([(architecture, traps)])


def build_for(
    parts: Sequence[tuple[Architecture, Sequence[Trap]]], untrapped: int | None = None
) -> list[Instruction]:
    """Compile the traps of some architectures into a classic-BPF program for seccomp(2), SECCOMP_SET_MODE_FILTER.

    The program returns SECCOMP_RET_USER_NOTIF for a trapped call and SECCOMP_RET_ALLOW for all others. Traps of
    calls that an architecture does not have are left out. A chain of comparisons is enough: for a call whose number
    decides alone, the kernel (5.11 and newer) computes the answer once and keeps it in a bitmap.

    `untrapped`: the address of a page from which all calls of the first architecture are let through.

    Raises ValueError if the traps of one architecture take more than the 255 instructions that a jump can span.
    """
    program: list[Instruction] = [(LOAD_WORD, 0, 0, OFFSET_ARCHITECTURE)]
    for index, (architecture, traps) in enumerate(parts):
        part: list[Instruction] = [(LOAD_WORD, 0, 0, OFFSET_NUMBER)]
        for trap in traps:
            number = architecture.system_calls.get(trap.system_call)
            if number is not None:
                decision = _decide(trap.conditions)
                part += [(JUMP_IF_EQUAL, 0, len(decision), number), *decision]
        part.append((RETURN, 0, 0, ALLOW))
        if untrapped is not None and index == 0:
            part = _unless_from(untrapped, part)
        if len(part) > LONGEST_JUMP:
            raise ValueError(f"{len(part)} instructions for {architecture.machine}, the limit is {LONGEST_JUMP}")
        program += [(JUMP_IF_EQUAL, 0, len(part), architecture.audit), *part]
    program.append((RETURN, 0, 0, ALLOW))
    return program


def _unless_from(page: int, part: list[Instruction]) -> list[Instruction]:
    """`part`, but what it traps is let through if it comes from that page."""
    end = len(part)
    trapped = (RETURN, 0, 0, NOTIFY)
    return [
        *((JUMP, 0, 0, end - place - 1) if each == trapped else each for place, each in enumerate(part)),
        (LOAD_WORD, 0, 0, OFFSET_INSTRUCTION_POINTER),
        (AND, 0, 0, ~(SMALLEST_PAGE - 1) & 0xFFFFFFFF),
        (JUMP_IF_EQUAL, 0, 3, page & 0xFFFFFFFF),
        (LOAD_WORD, 0, 0, OFFSET_INSTRUCTION_POINTER + 4),
        (JUMP_IF_EQUAL, 0, 1, page >> 32),
        (RETURN, 0, 0, ALLOW),
        trapped,
    ]


def _decide(conditions: Sequence[Condition]) -> list[Instruction]:
    """The instructions that return the answer for a call whose number has matched."""
    program: list[Instruction] = []
    for condition in conditions:
        program += [
            (LOAD_WORD, 0, 0, OFFSET_ARGUMENTS + 8 * condition.argument),
            (AND, 0, 0, condition.mask),
        ]
        for position, value in enumerate(condition.values):
            # A match jumps over the remaining comparisons and the ALLOW behind them.
            program.append((JUMP_IF_EQUAL, len(condition.values) - position, 0, value))
        program.append((RETURN, 0, 0, ALLOW))
    return [*program, (RETURN, 0, 0, NOTIFY)]
