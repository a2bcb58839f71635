# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the library is that is preloaded into programs, and what it shares with Python: see `preload/preload.h`."""

from __future__ import annotations

import struct
from pathlib import Path

STUB_ADDRESS = 0x550000000000
"""The page from which its calls are let through (`STUB_ADDRESS`); calls of the kernel's own page size."""

STATE_PATH = b"/sys/module/kdbus/preload"
"""What it opens to learn about the tree of processes (`STATE_PATH`)."""

STATE = struct.Struct("=IIIIQQI")
"""`struct state`: whether a folder was handed out, whether a kdbusfs was mounted, whether nodes are real
files, whether receivers may serve themselves, the devices of the folders at /sys/fs/kdbus and /sys/module/kdbus,
whether calls that are broken off may be repeated."""


def library() -> str | None:
    """Its path; None where there is none for this machine."""
    return next((str(path) for path in Path(__file__).parent.glob("preload/*.so")), None)
