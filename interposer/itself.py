# SPDX-License-Identifier: GPL-2.0-or-later
"""How to run `kdbus` once more: with the interpreter, its options, and the script or module of this process.

Not by the name `kdbus`, which need not be in PATH, nor mean the same installation there.
"""

from __future__ import annotations

import sys


def itself() -> list[str]:
    """The command that this process is, without its arguments."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]
