# SPDX-License-Identifier: GPL-2.0-or-later
"""Which signals this process may catch: those that it was not started to ignore.

nohup(1) and the `&` of a script start a program with SIGHUP, or SIGINT and SIGQUIT, ignored, and mean that; a handler
would undo it. SIGTERM and SIGCONT are for whoever asks for nothing else: they are not to be had ignored here.
"""

from __future__ import annotations

import signal


def heeded(*numbers: signal.Signals) -> list[signal.Signals]:
    """Those of `numbers` that are not ignored."""
    always = (signal.SIGTERM, signal.SIGCONT)
    return [number for number in numbers if number in always or signal.getsignal(number) is not signal.SIG_IGN]
