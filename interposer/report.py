# SPDX-License-Identifier: GPL-2.0-or-later
"""Failures of our own: one line on stderr that says what happened, and a file with the rest.

The terminal belongs to the program that is run. A traceback in the middle of its output helps nobody who is not
about to mend `kdbus`; and who is, wants it whole, and after the terminal has scrolled on. So the traceback goes to a
file, `kdbus-report-*.txt` in TMPDIR or /tmp, readable for its owner only, and stderr gets

    kdbus: WHAT: WHY; details are in FILE, please report it

It is the one file that `kdbus` leaves behind, as it is there to be read.

Targets may be able to provoke a failure, and again and again. So one process tells of a limited number, in one file of
limited size; and it does not wait for a stderr that nobody reads, which is often a pipe that the targets have as well.

Where no file can be written the traceback goes to stderr. Where not even that works, for want of memory, one fixed line
does. Alternatives: syslog(3) and the journal, which not every container has, and where an ordinary user does not look;
a report beside the program, where nobody asked for a file.

Weakness: between the look whether stderr takes a line and the writing, a target may fill the pipe.
"""

from __future__ import annotations

import os
import select
import sys
import tempfile
import traceback
from contextlib import suppress

_AT_MOST = 16
"""Failures of one process that are told."""
_LONGEST = 8192
"""Bytes of a traceback that are kept: its beginning and its end."""
_LONGEST_LINE = 2048
"""Bytes; less than what a pipe takes whole (PIPE_BUF, pipe(7))."""
_LAST_RESORT = b"kdbus: failed, and has no memory left to say why\n"


class Reports:
    """The failures of one process."""

    def __init__(self) -> None:
        self._told = 0
        self._path: str | None = None

    def unexpected(self, what: str) -> None:
        """Tell of the exception that is being handled: it is a mistake of ours. Never raises an Exception.

        `what`: what has failed, and what becomes of it.
        """
        if self._told >= _AT_MOST:
            return
        self._told += 1
        try:
            self._tell(what)
        except Exception:
            # Most likely MemoryError, in the middle of telling of one.
            _write(_LAST_RESORT)

    def _tell(self, what: str) -> None:
        error = cause_of(sys.exc_info()[1])
        details = f"{what}\n{traceback.format_exc()}\n".encode(errors="backslashreplace")
        if len(details) > _LONGEST:
            details = details[: _LONGEST // 2] + b"\n...\n" + details[-_LONGEST // 2 :]
        text = " ".join(str(error).split())
        reason = type(error).__name__ + (f": {text}" if text else "")
        last = "" if self._told < _AT_MOST else "; further failures are not told"
        if self._keep(details):
            _write(_line(f"kdbus: {what}: {reason}; details are in {self._path}, please report it{last}"))
        else:
            _write(_line(f"kdbus: {what}: {reason}; please report it{last}"))
            for start in range(0, len(details), _LONGEST_LINE):
                _write(details[start : start + _LONGEST_LINE])

    def _keep(self, details: bytes) -> bool:
        """Append to the file, which is made now if there is none; False if that cannot be."""
        try:
            if self._path is None:
                descriptor, self._path = tempfile.mkstemp(prefix="kdbus-report-", suffix=".txt")
            else:
                # Nobody may have put a link there meanwhile.
                descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(descriptor, details)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


_reports = Reports()
unexpected = _reports.unexpected


def say(text: str) -> None:
    """Write one line to stderr, unless nobody takes it."""
    _write(_line(text))


def cause_of(error: BaseException | None) -> BaseException | None:
    """The first exception of a group: where several tasks run, all of them end with the one that failed."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _line(text: str) -> bytes:
    return text.encode(errors="backslashreplace")[: _LONGEST_LINE - 1] + b"\n"


def _write(data: bytes) -> None:
    """Write to stderr, unless it takes nothing at the moment."""
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if poll.poll(0):
            os.write(2, data)
