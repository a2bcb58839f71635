# SPDX-License-Identifier: GPL-2.0-or-later
"""The packed structures, compared byte by byte with what this machine's kernel writes."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

import pytest

from interposer.nodes import file_status
from interposer.nodes.file_status import Status, pack_stat, pack_statfs, pack_statx

SYS_STAT, SYS_STATFS, SYS_STATX = 4, 137, 332
AT_FDCWD = -100

needs_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="calls by the numbers of x86-64")


def kernel_writes(number: int, size: int, *arguments: object) -> bytes:
    """What the system call writes to a buffer of `size` bytes, whose address replaces None among `arguments`."""
    buffer = ctypes.create_string_buffer(b"\0" * size, size)
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(ctypes.c_long(number), *(buffer if value is None else value for value in given)) == 0
    return buffer.raw


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a size, blocks, a mode and times with nanoseconds."""
    made = tmp_path / "file"
    made.write_bytes(b"x" * 5000)
    made.chmod(0o640)
    os.utime(made, ns=(1_234_567_890_123_456_789, 2_345_678_901_234_567_891))
    return made


def status(path: Path | str) -> Status:
    found = os.stat(path)
    return Status(found, found.st_uid, found.st_gid)


@needs_x86_64
@pytest.mark.parametrize("path", ["", "/", "/dev/null", "/proc/self/status"])
def test_stat(path: str, file: Path) -> None:
    name = path or str(file)
    assert pack_stat(file_status.X86_64, "stat", status(name)) == kernel_writes(SYS_STAT, 144, name.encode(), None)


@needs_x86_64
@pytest.mark.parametrize("path", ["", "/dev/null"])
def test_statx(path: str, file: Path) -> None:
    name = path or str(file)
    expected = bytearray(kernel_writes(SYS_STATX, 256, AT_FDCWD, name.encode(), 0, 0x7FF, None))
    packed = pack_statx(status(name))
    assert len(packed) == 256
    # The mask, and what goes beyond the basic fields: attributes, their mask, the time of birth, the mount and so on.
    for start, end in ((0, 4), (8, 16), (56, 64), (80, 96), (144, 256)):
        expected[start:end] = packed[start:end]
    assert packed == bytes(expected)
    assert struct.unpack_from("<I", packed) == (0x7FF,)


@needs_x86_64
def test_statfs_has_the_kernels_layout() -> None:
    expected = kernel_writes(SYS_STATFS, 120, b"/proc/self/status", None)
    packed = pack_statfs(file_status.X86_64, "statfs", 0x9FA0)
    # Type, block size, no blocks and files; length of names, fragment size. Id and flags are the mount's own.
    assert (packed[:56], packed[64:80]) == (expected[:56], expected[64:80])
    assert len(packed) == 120


def test_sizes() -> None:
    one = status("/")
    sizes = [
        len(pack_stat(file_status.AARCH64, "newfstatat", one)),
        len(pack_stat(file_status.I386, "stat", one)),
        len(pack_stat(file_status.I386, "stat64", one)),
        len(pack_statfs(file_status.I386, "statfs", 1)),
        len(pack_statfs(file_status.I386, "statfs64", 1)),
    ]
    assert sizes == [128, 64, 96, 64, 84]
