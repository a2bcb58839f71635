# SPDX-License-Identifier: GPL-2.0-or-later
"""Translating large messages without holding up everybody else.

The values of a message, as Python has them, may take a hundred times as much memory as its bytes: so of large ones only
one is in work at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_one = trio.CapacityLimiter(1)


async def compute(large: bool, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
    """What the function returns; where the message is `large`, in a thread."""
    if large:
        return await trio.to_thread.run_sync(function, *arguments, limiter=_one)
    return function(*arguments)
