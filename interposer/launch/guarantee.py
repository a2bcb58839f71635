# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes sure that a trapped call returns just once: names for the ways, which `interposer.traps.exactly_once`
explains.

Apart from there, since the launcher needs to know no more than whether to ask for a flag, and has to start fast.
"""

from __future__ import annotations

import enum
import os

from interposer.errors import UsageError

VARIABLE = "KDBUS_EXACTLY_ONCE"
"""Environment variable that forces a `Guarantee`, by its value: for tests, and for whom the probe is wrong."""


class Guarantee(enum.Enum):
    """What makes sure that a call's answer arrives; see the essay of `interposer.traps.exactly_once`."""

    KERNEL = "kernel"
    CONFIRMED = "confirmed"
    HELD = "held"
    REMEMBERED = "remembered"

    @property
    def needs_flag(self) -> bool:
        """Whether it needs a filter with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV."""
        return self in (Guarantee.KERNEL, Guarantee.CONFIRMED)


def forced() -> Guarantee | None:
    """What the environment demands, if anything. Raises UsageError for an unknown word."""
    word = os.environ.get(VARIABLE)
    if not word:
        return None
    try:
        return Guarantee(word)
    except ValueError:
        words = ", ".join(guarantee.value for guarantee in Guarantee)
        raise UsageError(
            f"reading the environment variable {VARIABLE}", f"{word!r} is no word for it", f"it takes one of {words}"
        ) from None
