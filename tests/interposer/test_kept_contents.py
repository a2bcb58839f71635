# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of files of `/proc` costs about its own size, however often it is replaced.

The heap is that of a fresh interpreter with one thread and everything it does is decided by a seed, so what comes of it
depends neither on the machine's speed nor on who else runs.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.users import PROJECT

_KEEPING = """
import ctypes, random, sys
from interposer.target.ids import read_file

class Mallinfo2(ctypes.Structure):
    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(7)]
    _fields_ += [(name, ctypes.c_size_t) for name in ("used", "free", "releasable")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
chance = random.Random(1)
kept, others = [None] * 300, [None] * 300
for _ in range(10000):
    kept[chance.randrange(300)] = read_file(chance.choice(sys.argv[1:]))
    others[chance.randrange(300)] = bytes(chance.randrange(600, 9000))
print(mallinfo2().used, mallinfo2().free)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library does not describe its heap")
def test_the_heap_does_not_grow_by_what_is_kept(tmp_path: Path) -> None:
    files = [tmp_path / str(size) for size in range(600, 8600, 200)]
    for file in files:
        file.write_bytes(bytes(int(file.name)))
    command = [sys.executable, "-c", _KEEPING, *map(str, files)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=120)
    used, free = map(int, ended.stdout.split())
    assert free < used / 2
