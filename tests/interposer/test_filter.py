# SPDX-License-Identifier: GPL-2.0-or-later
"""The seccomp program, run by an interpreter of the few BPF instructions that it uses.

The interpreter works on the bytes of a `struct seccomp_data`, as the kernel does, and on constants spelled out here
anew, so that a wrong offset or number in the filter shows. That the kernel agrees is tested in `test_launch.py`.
"""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interposer.errors import UnsupportedMachine
from interposer.launch import filter as seccomp_filter

AUDIT_X86_64 = 0xC000003E
AUDIT_I386 = 0x40000003
AUDIT_AARCH64 = 0xC00000B7
AUDIT_ARM = 0x40000028
X32_BIT = 0x40000000
ALLOW = 0x7FFF0000
NOTIFY = 0x7FC00000

X86 = {"open": 2, "mmap": 9, "ioctl": 16, "mount": 165, "umount2": 166, "fsopen": 430, "openat": 257, "openat2": 437}
I386 = {"open": 5, "mount": 21, "umount": 22, "umount2": 52, "fsopen": 430, "ioctl": 54, "old_mmap": 90, "mmap2": 192}
I386 |= {"openat": 295, "openat2": 437}
ARM = {"mmap": 222, "ioctl": 29, "mount": 40, "umount2": 39, "fsopen": 430, "openat": 56, "openat2": 437}

PATH_CALLS: dict[str, tuple[int, int | None]] = {
    "stat": (4, None),
    "access": (21, None),
    "getcwd": (79, None),
    "chdir": (80, None),
    "readlink": (89, None),
    "statfs": (137, None),
    "newfstatat": (262, 3),
    "statx": (332, 2),
}
"""Number, and which argument holds the flags."""
AT_EMPTY_PATH = 0x1000

O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_NONBLOCK, O_CLOEXEC, O_PATH = 1, 2, 0o100, 0o1000, 0o4000, 0o2000000, 0o10000000
O_DIRECTORY_X86 = 0o200000
O_TMPFILE_X86 = 0o20000000 | O_DIRECTORY_X86
O_DIRECTORY_ARM = 0o40000


def interpret(program: list[tuple[int, int, int, int]], data: bytes) -> int:
    """Run `program` over the bytes of a struct seccomp_data; the value it returns."""
    assert len(data) == 64
    accumulator = position = 0
    while True:
        code, if_true, if_false, operand = program[position]
        position += 1
        assert 0 <= if_true <= 255 and 0 <= if_false <= 255
        if code == 0x20:  # ld [k]
            assert operand % 4 == 0 and operand < 64
            accumulator = struct.unpack_from("<I", data, operand)[0]
        elif code == 0x15:  # jeq #k
            position += if_true if accumulator == operand else if_false
        elif code == 0x05:  # ja k
            position += operand
        elif code == 0x54:  # and #k
            accumulator &= operand
        elif code == 0x06:  # ret #k
            return operand
        else:
            raise AssertionError(f"the kernel's seccomp does not know BPF code {code:#x}")


def decide(audit: int, number: int, *arguments: int) -> int:
    """What the filter of the machine says that makes such calls."""
    architecture = seccomp_filter.AARCH64 if audit == AUDIT_AARCH64 else seccomp_filter.X86_64
    program = seccomp_filter.build_for([(each, seccomp_filter.mount_mode_traps(each)) for each in architecture.all])
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    return interpret(program, struct.pack("<iIQ6Q", number, audit, 0x7F0000001000, *padded))


@pytest.mark.parametrize(
    ("request_number", "expected"),
    [
        (0x40089500, NOTIFY),
        (0xC0089500 | 0x40, NOTIFY),
        (0x95 << 8, NOTIFY),
        (0xFFFFFFFF_00009500, NOTIFY),  # the kernel's cmd is 32 bits wide
        (0x5401, ALLOW),  # TCGETS
        (0x9500 << 8, ALLOW),
        (0x95, ALLOW),
        (0x9400, ALLOW),
        (0x9600, ALLOW),
    ],
)
def test_ioctl_by_magic(request_number: int, expected: int) -> None:
    assert decide(AUDIT_X86_64, X86["ioctl"], 3, request_number) == expected
    assert decide(AUDIT_I386, I386["ioctl"], 3, request_number & 0xFFFFFFFF) == expected
    assert decide(AUDIT_AARCH64, ARM["ioctl"], 3, request_number) == expected


OPEN_CASES = [
    (O_RDWR, NOTIFY),
    (O_RDWR | O_CLOEXEC | O_NONBLOCK | O_TRUNC, NOTIFY),
    (0, ALLOW),
    (O_WRONLY, NOTIFY),
    (O_WRONLY | O_TRUNC, NOTIFY),
    (O_WRONLY | O_CREAT | O_TRUNC, ALLOW),
    (O_WRONLY | O_PATH, ALLOW),
    (3, ALLOW),
    (O_RDWR | O_CREAT, ALLOW),
    (O_RDWR | O_PATH, ALLOW),
]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [*OPEN_CASES, (O_RDWR | O_DIRECTORY_X86, ALLOW), (O_RDWR | O_TMPFILE_X86, ALLOW), (O_RDWR | 0o40000, NOTIFY)],
)
def test_open_and_openat_by_flags(flags: int, expected: int) -> None:
    assert decide(AUDIT_X86_64, X86["open"], 0x1000, flags) == expected
    assert decide(AUDIT_X86_64, X86["openat"], 0xFFFFFF9C, 0x1000, flags) == expected
    assert decide(AUDIT_I386, I386["open"], 0x1000, flags) == expected
    assert decide(AUDIT_I386, I386["openat"], 0xFFFFFF9C, 0x1000, flags) == expected


def test_where_nobody_may_write_the_parameter_writing_alone_is_not_trapped() -> None:
    def decision(flags: int) -> int:
        traps = seccomp_filter.one_user_traps(seccomp_filter.X86_64)
        data = struct.pack("<iIQ6Q", X86["openat"], AUDIT_X86_64, 0, 0xFFFFFF9C, 0x1000, flags, 0, 0, 0)
        return interpret(seccomp_filter.build(seccomp_filter.X86_64, traps), data)

    assert [decision(flags) for flags in (O_WRONLY, O_WRONLY | O_TRUNC, O_RDWR, 0)] == [ALLOW, ALLOW, NOTIFY, ALLOW]


@pytest.mark.parametrize(
    ("flags", "expected"), [*OPEN_CASES, (O_RDWR | O_DIRECTORY_ARM, ALLOW), (O_RDWR | 0o200000, NOTIFY)]
)
def test_openat_on_aarch64(flags: int, expected: int) -> None:
    assert decide(AUDIT_AARCH64, ARM["openat"], 0xFFFFFF9C, 0x1000, flags) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0x01, NOTIFY),  # MAP_SHARED
        (0x03, NOTIFY),  # MAP_SHARED_VALIDATE
        (0x8001, NOTIFY),  # MAP_SHARED | MAP_POPULATE
        (0x11, NOTIFY),  # MAP_SHARED | MAP_FIXED
        (0x02, ALLOW),  # MAP_PRIVATE
        (0x22, ALLOW),  # MAP_PRIVATE | MAP_ANONYMOUS
        (0x21, ALLOW),  # MAP_SHARED | MAP_ANONYMOUS
        (0x23, ALLOW),
        (0x00, ALLOW),
    ],
)
def test_mmap_by_flags(flags: int, expected: int) -> None:
    assert decide_mmap(4096, 1, flags) == expected


@pytest.mark.parametrize(
    ("length", "protection", "expected"),
    [
        (4096, 1, NOTIFY),  # PROT_READ
        (4096, 0, NOTIFY),  # PROT_NONE
        (4096, 5, NOTIFY),  # PROT_READ | PROT_EXEC
        (4096, 2, ALLOW),  # PROT_WRITE
        (4096, 3, ALLOW),
        (4096, 7, ALLOW),
        (1 << 24, 1, NOTIFY),
        (1 << 32, 1, NOTIFY),
        (4095, 1, ALLOW),
        (4097, 1, ALLOW),
        ((1 << 24) + 8, 1, ALLOW),
    ],
)
def test_mmap_of_what_can_be_a_pool(length: int, protection: int, expected: int) -> None:
    for flags in (1, 3):
        assert decide_mmap(length, protection, flags) == expected
        assert decide_mmap(length, protection, flags, offset=1 << 20) == expected, "a part of it"


def decide_mmap(length: int, protection: int, flags: int, offset: int = 0) -> int:
    """What the filter says of a mapping, the same on all architectures."""
    calls = [(AUDIT_X86_64, X86["mmap"]), (AUDIT_I386, I386["mmap2"]), (AUDIT_AARCH64, ARM["mmap"])]
    (answer,) = {decide(audit, number, 0, length, protection, flags, 3, offset) for audit, number in calls}
    return answer


@pytest.mark.parametrize("name", ["stat", "newfstatat", "statx", "access", "readlink", "chdir", "getcwd", "statfs"])
def test_path_mode_adds_calls(name: str) -> None:
    program = seccomp_filter.build(seccomp_filter.X86_64, seccomp_filter.path_mode_traps(seccomp_filter.X86_64))
    number, flags = PATH_CALLS[name]

    def decision(*arguments: int) -> int:
        data = struct.pack("<iIQ6Q", number, AUDIT_X86_64, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
        return interpret(program, data)

    assert decision() == NOTIFY
    if flags is not None:
        assert decision(*[0] * flags, AT_EMPTY_PATH) == ALLOW, "fstat by another name"
    assert decide(AUDIT_X86_64, number) == ALLOW, "only in path mode"


@pytest.mark.parametrize("name", ["openat2", "mount", "umount2", "fsopen"])
def test_calls_that_always_stop(name: str) -> None:
    assert decide(AUDIT_X86_64, X86[name]) == NOTIFY
    assert decide(AUDIT_I386, I386[name]) == NOTIFY
    assert decide(AUDIT_AARCH64, ARM[name]) == NOTIFY


@pytest.mark.parametrize("name", ["old_mmap", "umount"])
def test_calls_of_i386_alone(name: str) -> None:
    assert decide(AUDIT_I386, I386[name]) == NOTIFY


@given(number=st.integers(0, 600), arguments=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_everything_else_runs_unseen(number: int, arguments: list[int]) -> None:
    for audit, numbers in ((AUDIT_X86_64, X86), (AUDIT_I386, I386), (AUDIT_AARCH64, ARM)):
        if number not in numbers.values():
            assert decide(audit, number, *arguments) == ALLOW


@pytest.mark.parametrize("number", sorted({*X86.values(), *I386.values()}))
def test_foreign_calls_are_let_through(number: int) -> None:
    """x32, and 32-bit ARM, whose numbers are those of other calls."""
    trapped_arguments = (3, 0x9500 | O_RDWR, O_RDWR, 1, 0, 0)
    assert decide(AUDIT_ARM, number, *trapped_arguments) == ALLOW
    assert decide(AUDIT_X86_64, X32_BIT | number, *trapped_arguments) == ALLOW


def test_too_many_traps_are_refused() -> None:
    architecture = seccomp_filter.Architecture("invented", 7, {str(number): number for number in range(200)}, 0)
    with pytest.raises(ValueError, match="invented"):
        seccomp_filter.build(architecture, [seccomp_filter.Trap(name) for name in architecture.system_calls])


def test_a_longer_table_is_enough_to_trap_more() -> None:
    architecture = seccomp_filter.Architecture("invented", 7, {"ioctl": 16, "chdir": 80}, 0)
    program = seccomp_filter.build(architecture, [seccomp_filter.Trap("chdir"), seccomp_filter.Trap("unknown")])
    assert interpret(program, struct.pack("<iIQ6Q", 80, 7, 0, *[0] * 6)) == NOTIFY
    assert interpret(program, struct.pack("<iIQ6Q", 16, 7, 0, *[0] * 6)) == ALLOW


def test_unknown_machine_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seccomp_filter.this_architecture().machine == os.uname().machine
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6.1", "#1", "sparc64")))
    with pytest.raises(UnsupportedMachine, match="sparc64"):
        seccomp_filter.this_architecture()


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        (0x5500_0000_0000, ALLOW),
        (0x5500_0000_0FFF, ALLOW),
        (0x5500_0000_1000, NOTIFY),
        (0x54FF_FFFF_FFFF, NOTIFY),
        (0x5501_0000_0000, NOTIFY),
        (0, NOTIFY),
    ],
)
def test_what_comes_from_the_page_is_let_through(pointer: int, expected: int) -> None:
    page = 0x5500_0000_0000
    parts = [(each, seccomp_filter.path_mode_traps(each)) for each in seccomp_filter.X86_64.all]
    program = seccomp_filter.build_for(parts, page)

    def decision(audit: int, number: int, *arguments: int) -> int:
        padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
        return interpret(program, struct.pack("<iIQ6Q", number, audit, pointer, *padded))

    for number, _ in PATH_CALLS.values():
        assert decision(AUDIT_X86_64, number) == expected
    assert decision(AUDIT_X86_64, X86["ioctl"], 3, 0x40089500) == expected
    assert decision(AUDIT_X86_64, X86["ioctl"], 3, 0x5401) == ALLOW
    assert decision(AUDIT_I386, I386["openat"]) == NOTIFY, "a page of 64-bit code"


def test_what_the_number_decides_does_not_look_at_the_page() -> None:
    """The kernel keeps such answers in a bitmap: of a call that is not trapped at all, nothing else is loaded."""
    program = seccomp_filter.build_for(
        [(seccomp_filter.X86_64, seccomp_filter.path_mode_traps(seccomp_filter.X86_64))], 0x5500_0000_0000
    )
    not_trapped = struct.pack("<iI", 0, AUDIT_X86_64)
    position = 0
    while program[position][0] != 0x06:
        code, if_true, if_false, operand = program[position]
        position += 1
        if code == 0x20:
            assert operand < len(not_trapped)
            accumulator = struct.unpack_from("<I", not_trapped, operand)[0]
        elif code == 0x15:
            position += if_true if accumulator == operand else if_false
    assert program[position] == (0x06, 0, 0, ALLOW)
