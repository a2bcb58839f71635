# SPDX-License-Identifier: GPL-2.0-or-later
"""One trace: records come in, are filtered, and go where they were asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from tracing import json_lines, payload, recording
from tracing.filters import Filter
from tracing.output import Output
from tracing.record import Event, Record
from tracing.shown import Shown, show
from tracing.summary import Summary
from tracing.text import Style, TextWriter


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody wants to see."""

    chosen: Filter
    style: Style
    as_json: bool = False
    payload: int | None = None
    """Bytes of a payload; None: as usual."""
    lines: bool = True
    summary: bool = False
    path: str | None = None
    """The file; None: stderr."""
    live: bool = True
    """Programs are being traced, and must not wait for a reader, nor end with it."""


def complain(line: str) -> None:
    """Say something on stderr, if there is one."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def tell_of_failure(path: str | None, error: OSError) -> None:
    """Say that a trace cannot be written any more. `path`: None for stderr."""
    where = "standard error" if path is None else repr(path)
    complain(
        f"kdbus: writing the trace to {where}: {os.strerror(error.errno or 0)}; it ends here, and the program goes on"
    )


def _raise(error: OSError) -> None:
    raise error


class Session:
    """One trace. `close` is to be called at the end."""

    def __init__(self, wishes: Wishes, descriptor: int) -> None:
        """Takes over `descriptor`, to which everything goes. Unless it is live, all that it does may raise OSError."""
        self._wishes = wishes
        usual = json_lines.PAYLOAD if wishes.as_json else wishes.style.payload
        limit = usual if wishes.payload is None else wishes.payload
        self.payload_limit = max(limit, payload.MOST)
        """How many bytes of a payload a record shall have."""
        failed = partial(tell_of_failure, wishes.path) if wishes.live else _raise
        self._output = Output(descriptor, failed, patient=not wishes.live)
        as_json: Callable[[Shown], str] = partial(json_lines.line, limit=limit)
        self._line = as_json if wishes.as_json else TextWriter(wishes.style).lines
        self._summary = Summary() if wishes.summary else None
        self._lost = 0

    def take(self, record: Record) -> None:
        """A record, in the order of what happened."""
        shown = show(record)
        if not self._wishes.chosen.takes(shown):
            return
        if self._summary is not None:
            self._summary.count(record)
        if self._wishes.lines:
            if self._output.dropped:
                self._tell_of_dropped(record)
            self._output.write(self._line(shown).encode("ascii", "backslashreplace"))

    def _tell_of_dropped(self, before: Record) -> None:
        """Say how many records are missing, before the next one that is not."""
        count, self._output.dropped = self._output.dropped, 0
        record = Record(Event.DROPPED, before.sequence, before.realtime_ns, before.monotonic_ns, count=count)
        if self._output.write(self._line(show(record)).encode("ascii")):
            self._lost += count
        else:
            self._output.dropped = count

    def close(self) -> None:
        """Write the summary, and what the reader has not taken yet if it does so in time."""
        if self._summary is not None:
            self._output.write(self._summary.text().encode("ascii"))
        self._output.close()
        missing = self._output.dropped + self._lost
        if missing and not self._output.broken:
            complain(f"kdbus: {missing} records of the trace were dropped, as its reader was too slow")


class Recorder:
    """A recording that is made. `close` is to be called at the end."""

    def __init__(self, descriptor: int, path: str, payload_limit: int) -> None:
        """Takes over `descriptor`, of the file `path`. `payload_limit`: bytes of each payload."""
        self.payload_limit = payload_limit
        self._path = path
        self._output = Output(descriptor, partial(tell_of_failure, path))
        self._output.write(recording.MAGIC)

    def take(self, record: Record) -> None:
        """Record it."""
        self._output.write(recording.frame(record))

    def close(self) -> None:
        """End the recording."""
        self._output.close()
        if self._output.dropped:
            complain(f"kdbus: {self._output.dropped} records were dropped, as whoever reads {self._path!r} is too slow")
