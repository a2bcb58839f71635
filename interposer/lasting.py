# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeping the collector of cyclic garbage away from what lasts as long as the process.

The supervisor's modules, and those that they import, are 27 000 containers, and none of them is ever garbage. Left
to itself, the collector looks through all of them again and again: several times between the imports, in the middle
of serving calls, which is a pause of some milliseconds for everybody, and once more at the end, where it takes more
time than all the rest of ending.

Alternative: no collector at all. But exceptions, which hold their frames, make cycles while calls are served.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting_objects() -> Iterator[None]:
    """What is made within it, and before, is not looked through any more (`gc.freeze`). For imports."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
