# SPDX-License-Identifier: GPL-2.0-or-later
"""The module parameter attach_flags_mask: what programs have written to it, read from its file.

The file is made with the programs' view of /sys (`interposer.launch.view`, `private_folder`); here is what it means.
Who opens it for writing is noticed in `interposer.traps.opens` and `path_mode`.
"""

from __future__ import annotations

import os
from contextlib import suppress

from interposer.launch.view import DEFAULT_ATTACH_FLAGS_MASK, MASK_FILE


class AttachFlagsMask:
    """The module parameter as the program last wrote it: `current()` is what the broker filters metadata with.

    `parameters_directory` is a descriptor of the parameter's folder; it is used now and not kept. The file is read
    whenever the value is asked for, so a write takes effect at once. What is understood is what the kernel understands
    (`kstrtoull` with base 0): decimal, 0x and 0 prefixes, at most 64 bits. Anything else, the empty file between a
    truncation and a write among it, keeps the last valid value; the kernel would refuse such a write, but a plain file
    cannot. What stands behind the first line is the end of a longer number that was written over.

    In sysfs what is written is the value, whatever stood there. So the file is emptied when it is opened for writing
    alone, as a value without a line feed would not be told from the end of the old one.

    Weakness: not when it is opened for reading as well.
    """

    _LONGEST = 64

    def __init__(self, parameters_directory: int, default: int = DEFAULT_ATTACH_FLAGS_MASK) -> None:
        try:
            self._descriptor = os.open(MASK_FILE, os.O_RDWR | os.O_CLOEXEC, dir_fd=parameters_directory)
        except PermissionError:
            # Then the programs, which are the same user's, cannot write it either.
            self._descriptor = os.open(MASK_FILE, os.O_RDONLY | os.O_CLOEXEC, dir_fd=parameters_directory)
        status = os.fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._last = default
        self._text: bytes | None = None

    def current(self) -> int:
        """The mask, 64 bits. A file that cannot be read counts as unchanged."""
        try:
            data = os.pread(self._descriptor, self._LONGEST, 0)
        except OSError:
            return self._last
        value = parse_unsigned(data.partition(b"\n")[0])
        self._text = data if value is not None else None
        if value is not None:
            self._last = value
        return self._last

    def evidence(self) -> tuple[int, bytes] | None:
        """A descriptor of the file, which stays ours, and what `current` last found in it.

        None if that was no value: then an earlier one is in force, which the file does not tell.
        """
        return None if self._text is None else (self._descriptor, self._text)

    def is_file(self, status: os.stat_result) -> bool:
        """Whether `status` is that of the parameter's file."""
        return (status.st_dev, status.st_ino) == self._identity

    def opened_for_writing(self) -> None:
        """Somebody who may is about to open the file with O_WRONLY."""
        self.current()
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def parse_unsigned(data: bytes) -> int | None:
    """The 64-bit number that sysfs would take from a write of `data`; None where it says EINVAL or ERANGE."""
    digits, base = data.removesuffix(b"\n").removeprefix(b"+").lower(), 10
    if digits.startswith(b"0x"):
        digits, base = digits[2:], 16
    elif digits.startswith(b"0"):
        base = 8
    if not digits or digits.strip(b"0123456789abcdef"[:base]):
        return None
    value = int(digits, base)
    return value if value < 1 << 64 else None
