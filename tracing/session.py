# SPDX-License-Identifier: GPL-2.0-or-later
"""One trace: records come in, are filtered, and go where they were asked for."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from tracing import json_lines, payload, recording
from tracing.escaping import count_of
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

    waits = True
    stacks = False
    left = False

    def __init__(self, wishes: Wishes, descriptor: int) -> None:
        """Takes over `descriptor`, to which everything goes. Unless it is live, all that it does may raise OSError."""
        self._wishes = wishes
        self.path = wishes.path
        self.may_lag = wishes.live and (wishes.path is not None or not wishes.lines)
        """Whether lines may be written some time after their calls."""
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
            self._summary.count(shown)
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
            complain(f"kdbus: {count_of(missing, 'record')} of the trace dropped, as its reader was too slow")


class Split:
    """A trace in one file for each process: the path, a dot, and the process's number (`-ff`)."""

    waits = True
    stacks = False
    left = False

    def __init__(self, wishes: Wishes) -> None:
        """Of `wishes`, the path is what all names begin with."""
        self._wishes = wishes
        self.path = wishes.path
        self.may_lag = True
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        """Those whose files are open, the one that was used last behind the others."""
        self._begun: set[int] = set()
        self._users: OrderedDict[tuple[str, int | None], int] = OrderedDict()
        """Who was seen last with a handle; nobody's number comes with its last close."""
        self._broken = False
        self.payload_limit = max(wishes.style.payload, wishes.payload or 0, payload.MOST)

    def take(self, record: Record) -> None:
        """A record, in the order of what happened."""
        handle = record.node, record.connection
        if record.pid:
            self._users[handle] = record.pid
            if len(self._users) > _HANDLES:
                self._users.popitem(last=False)
        session = self._session(record.pid or self._users.get(handle, 0))
        if session is not None:
            session.take(record)

    def _session(self, pid: int) -> Session | None:
        if pid in self._sessions:
            self._sessions.move_to_end(pid)
        elif not self._broken:
            path = f"{self._wishes.path}.{pid}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if pid in self._begun else os.O_TRUNC)
            try:
                descriptor = os.open(path, flags, 0o666)
            except OSError as error:
                self._broken = True
                tell_of_failure(path, error)
                return None
            self._begun.add(pid)
            self._sessions[pid] = Session(replace(self._wishes, path=path), descriptor)
            if len(self._sessions) > _FILES:
                self._sessions.popitem(last=False)[1].close()
        return self._sessions.get(pid)

    def close(self) -> None:
        """End all files."""
        while self._sessions:
            self._sessions.popitem()[1].close()


_HANDLES = 4096
_FILES = 32
"""How many files of one trace are open at a time."""


class Recorder:
    """A recording that is made. `close` is to be called at the end."""

    waits = True
    stacks = False

    def __init__(self, descriptor: int, path: str, payload_limit: int, *, left: bool) -> None:
        """Takes over `descriptor`, of the file `path`. `payload_limit`: bytes of each payload; `left`: whether it has
        which descriptors were left open."""
        self.left = left
        self.payload_limit = payload_limit
        self.path = path
        self.may_lag = True
        self._output = Output(descriptor, partial(tell_of_failure, path))
        self._output.write(recording.MAGIC)
        self._is_cut = False

    def take(self, record: Record) -> None:
        """Record it."""
        self._output.write(recording.frame(record))

    def cut(self) -> None:
        """Nobody knows what else there was: it shall not look as if it were whole."""
        self._is_cut = True

    def close(self) -> None:
        """End the recording."""
        self._output.close(last=b"" if self._is_cut else recording.END)
        if self._output.dropped:
            told = count_of(self._output.dropped, "record")
            complain(f"kdbus: {told} dropped, as whoever reads {self.path!r} is too slow")
