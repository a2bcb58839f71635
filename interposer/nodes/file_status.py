# SPDX-License-Identifier: GPL-2.0-or-later
"""What stat(2), statx(2) and statfs(2) write into memory, byte by byte, for each architecture.

The layouts are those of the kernel's own headers (`asm/stat.h`, `asm/statfs.h`, `linux/stat.h`), not of the C
library. Ids are translated by the caller. Unused bytes are zero. The tables are keyed by AUDIT_ARCH_*, as a
notification gives it, and by the name of the call in `interposer.launch.filter`, since i386 has two generations of
each.

Weakness: statx reports the basic fields, whatever is asked for; it may, and says so in its mask.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from broker.limits import PAGE_SIZE

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
"""AUDIT_ARCH_*."""

KDBUS_MAGIC = 0x44427573
SYSFS_MAGIC = 0x62656572
_LONGEST_NAME = 255
_STATX_BASIC = 0x7FF
_BILLION = 1_000_000_000


class Status(NamedTuple):
    """A file, and its owner in the ids of whoever asks."""

    file: os.stat_result
    uid: int
    gid: int

    @property
    def times(self) -> tuple[int, ...]:
        """Seconds and ns of the last access, modification and change."""
        times = (self.file.st_atime_ns, self.file.st_mtime_ns, self.file.st_ctime_ns)
        return tuple(part for time in times for part in divmod(time, _BILLION))


def _x86_64(status: Status) -> bytes:
    file = status.file
    return struct.pack(
        "=3Q4IQ3q6q24x",
        file.st_dev,
        file.st_ino,
        file.st_nlink,
        file.st_mode,
        status.uid,
        status.gid,
        0,
        file.st_rdev,
        file.st_size,
        file.st_blksize,
        file.st_blocks,
        *status.times,
    )


def _aarch64(status: Status) -> bytes:
    file = status.file
    return struct.pack(
        "=2Q4IQ8xqi4xq6q8x",
        file.st_dev,
        file.st_ino,
        file.st_mode,
        file.st_nlink,
        status.uid,
        status.gid,
        file.st_rdev,
        file.st_size,
        file.st_blksize,
        file.st_blocks,
        *status.times,
    )


def _i386_64(status: Status) -> bytes:
    """struct stat64, which is packed."""
    file = status.file
    return struct.pack(
        "=Q4x5IQ4xqIQ6IQ",
        file.st_dev,
        file.st_ino & 0xFFFFFFFF,
        file.st_mode,
        file.st_nlink,
        status.uid,
        status.gid,
        file.st_rdev,
        file.st_size,
        file.st_blksize,
        file.st_blocks,
        *(part & 0xFFFFFFFF for part in status.times),
        file.st_ino,
    )


def _i386(status: Status) -> bytes:
    """struct stat. Ids that do not fit are shown as the overflow id, as by the kernel."""
    file = status.file
    short = [number if number <= 0xFFFF else 65534 for number in (status.uid, status.gid)]
    return struct.pack(
        "=2I4H4I6I8x",
        file.st_dev & 0xFFFFFFFF,
        file.st_ino & 0xFFFFFFFF,
        file.st_mode,
        file.st_nlink & 0xFFFF,
        *short,
        file.st_rdev & 0xFFFFFFFF,
        file.st_size & 0xFFFFFFFF,
        file.st_blksize,
        file.st_blocks & 0xFFFFFFFF,
        *(part & 0xFFFFFFFF for part in status.times),
    )


_STAT: dict[tuple[int, str], Callable[[Status], bytes]] = {
    **{(X86_64, name): _x86_64 for name in ("stat", "lstat", "newfstatat")},
    (AARCH64, "newfstatat"): _aarch64,
    **{(I386, name): _i386 for name in ("stat", "lstat")},
    **{(I386, name): _i386_64 for name in ("stat64", "lstat64", "fstatat64")},
}


def pack_stat(architecture: int, system_call: str, status: Status) -> bytes:
    """`struct stat` as that call of that architecture wants it."""
    return _STAT[architecture, system_call](status)


def pack_statx(status: Status) -> bytes:
    """`struct statx`, the same everywhere (256 bytes), without the time of birth."""
    file = status.file
    access, modification, change = (
        struct.pack("=qI4x", *status.times[index : index + 2]) for index in range(0, len(status.times), 2)
    )
    head = struct.pack(
        "=2IQ3IH2x4Q",
        _STATX_BASIC,
        file.st_blksize,
        0,
        file.st_nlink,
        status.uid,
        status.gid,
        file.st_mode,
        file.st_ino,
        file.st_size,
        file.st_blocks,
        0,
    )
    devices = (os.major(file.st_rdev), os.minor(file.st_rdev), os.major(file.st_dev), os.minor(file.st_dev))
    return (head + access + bytes(16) + change + modification + struct.pack("=4I", *devices)).ljust(256, b"\0")


def pack_statfs(architecture: int, system_call: str, magic: int) -> bytes:
    """`struct statfs` of an empty pseudo file system of that type (libfs's `simple_statfs`)."""
    if architecture != I386:
        return struct.pack("=2q5Q8x3q32x", magic, PAGE_SIZE, 0, 0, 0, 0, 0, _LONGEST_NAME, PAGE_SIZE, 0)
    if system_call == "statfs64":
        return struct.pack("=2I5Q8x3I16x", magic, PAGE_SIZE, 0, 0, 0, 0, 0, _LONGEST_NAME, PAGE_SIZE, 0)
    return struct.pack("=7I8x3I16x", magic, PAGE_SIZE, 0, 0, 0, 0, 0, _LONGEST_NAME, PAGE_SIZE, 0)
