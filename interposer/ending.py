# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kdbus` says, and how it ends.

How a program ends is how `kdbus run` ends: with its exit status, or by the same signal. `kdbus` then dumps no core,
since the core would be that of the wrong process.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from interposer.errors import OutputFailed

_OUTPUT_ADVICE = "make room, raise the limit of the size of files (ulimit -f), or write elsewhere"


def say_all(text: str) -> None:
    """Write `text` to stdout, all of it and now. Raises OutputFailed.

    Past Python's buffer, which would be written when it is too late to tell that it cannot be. Where whoever reads it
    has seen enough, as in `kdbus help | head -1`, this process ends as others do there: without a word, of SIGPIPE.
    """
    data = text.encode("utf-8", "surrogateescape")
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        sys.exit(die_of(signal.SIGPIPE))
    except OSError as error:
        raise OutputFailed("writing to standard output", os.strerror(error.errno or 0), _OUTPUT_ADVICE) from error


def complain(line: str) -> None:
    """Write `line` to stderr, if there is one that takes it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def end_like(status: int) -> int:
    """The exit status that repeats the wait status `status`; for a death by signal, that death."""
    if os.WIFSIGNALED(status):
        return die_of(os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def die_of(number: int) -> int:
    """Die of signal `number` without a core; where that fails, the status by which shells tell such a death.

    A limit of one byte, and not of none: with none, a core handler that /proc/sys/kernel/core_pattern pipes to would
    still be started (core(5)).
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if hard else 0, hard))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number
