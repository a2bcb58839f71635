# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace that is written by a process of its own, so that the calls do not wait for their lines.

To make lines of a call takes many times as long as to serve it natively. Where nobody looks at them before the program
goes on, in a file that is, whoever serves calls only passes on what they were: records of the broker as a recording has
them, and those of native code as they are. The other process makes records and lines of them, one after the other.

What it has not come to yet is bounded: `BACKLOG` bytes there, and `tracing.output.KEPT` here. Beyond that, the program
is slowed down to its pace, by `PATIENCE_S` for each call at most, or `AT_LEAST_S` for several; what does not fit even
then is dropped, counted, and told in its place.

It is forked, from a process that has one thread and little else yet, and ends with what it was forked from, once all is
written. What a terminal sends to the whole group it ignores: the program decides what becomes of that.

Alternatives: a thread, which would take turns with who serves calls; lines that are made once the program has ended,
which nobody could look at while it hangs.

Weakness: a program that floods for long ends long before its trace is written, and `kdbus trace` waits for that.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn

from tracing import recording
from tracing.escaping import count_of
from tracing.native_calls import Batch, Known
from tracing.output import Output
from tracing.record import Event, Record, Tracer
from tracing.session import complain, tell_of_failure

BACKLOG: Final = 64 << 20
"""Bytes."""
PATIENCE_S: Final = 0.001
"""How long a call waits for room, in seconds; all of one batch wait at a time,"""
AT_LEAST_S: Final = 0.25
"""and for at least so long, as the other process may have to wait for a processor."""
WITH_STACKS_S: Final = 30.0
"""and where stacks are found, which takes long, and whoever asks for them wants them all."""
_NICE = 10
"""Where there are fewer processors than there is to do, the programs come first."""
_PIPE = 1 << 20
_HEAD = struct.Struct("=2I")
_RECORD, _BATCH, _DROPPED, _END = range(4)
"""Kinds of messages. Of _DROPPED, the size is how many; without _END, who sends was killed."""
_IGNORED = signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP, signal.SIGTERM


class Relay:
    """A tracer whose work is done by a process of its own. `close` is to be called at the end."""

    waits = False

    def __init__(self, tracer: Tracer, path: str | None, cut: Callable[[], None] | None = None) -> None:
        """Gives `tracer` away: it is used, and closed, over there. `path`: where it writes, for complaints. `cut` is
        called there before that if this process ends without closing it.

        To be made while this process has one thread. Raises OSError.
        """
        self.payload_limit = tracer.payload_limit
        """How many bytes of a payload a record shall have."""
        self.stacks = tracer.stacks
        self.left = tracer.left
        reading, writing = os.pipe()
        parent = os.pidfd_open(os.getpid())
        self._process = os.fork()
        if self._process == 0:
            os.close(writing)
            _work(tracer, reading, parent, cut)
        os.close(reading)
        os.close(parent)
        with suppress(OSError):  # less room will do
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
        self._output = Output(writing, partial(tell_of_failure, path))
        self._known: Known | None = None
        """What the other side knows of the last batch."""
        self._dropped = 0
        self._lost = 0

    def take(self, record: Record) -> None:
        """A record, in the order of what happened."""
        self._send(_RECORD, [recording.members_of(record)], 1)

    def take_batch(self, batch: Batch) -> None:
        """Calls that were served natively, in the order of what happened."""
        known = b"" if batch.known == self._known else batch.known.packed()
        sent = self._send(_BATCH, batch.packed(known), len(batch))
        self._known = batch.known if sent else None

    def _send(self, kind: int, parts: Sequence[bytes], count: int) -> bool:
        if self._dropped and self._output.write(_HEAD.pack(_DROPPED, self._dropped)):
            self._lost += self._dropped
            self._dropped = 0
        data = b"".join(parts)
        patience = WITH_STACKS_S if self.stacks else max(AT_LEAST_S, PATIENCE_S * count)
        if self._dropped or not self._output.write(_HEAD.pack(kind, len(data)) + data, patience):
            self._dropped += count
            return False
        return True

    def close(self) -> None:
        """Wait until all is written."""
        untold = _HEAD.pack(_DROPPED, self._dropped) if self._dropped else b""
        self._output.close(patient=True, last=untold + _HEAD.pack(_END, 0))
        os.waitpid(self._process, 0)
        missing = self._dropped + self._lost
        if missing and not self._output.broken:
            told = count_of(missing, "record")
            complain(f"kdbus: {told} of the trace dropped, as they came faster than they are written")


def _work(tracer: Tracer, reading: int, parent: int, cut: Callable[[], None] | None) -> NoReturn:
    """Do the work of the other process, and end it."""
    status = 1
    try:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        with suppress(OSError):
            os.nice(0 if tracer.stacks else _NICE)
        if not hand_on(tracer, _Backlog(reading, parent)) and cut is not None:
            cut()
        tracer.close()
        status = 0
    except BaseException:
        with suppress(Exception):
            complain("kdbus: writing the trace failed, and it ends here; please report this:")
            traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def hand_on(tracer: Tracer, chunks: Iterable[bytes]) -> bool:
    """Make records of what a `Relay` has sent, in chunks of any size, and show them to `tracer`. Whether it was closed,
    rather than killed."""
    known, last = Known(), Record(Event.CALL, 0, 0, 0)
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        place = 0
        while len(waiting) - place >= _HEAD.size:
            kind, size = _HEAD.unpack_from(waiting, place)
            end = place + _HEAD.size + (0 if kind == _DROPPED else size)
            if end > len(waiting):
                break
            if kind == _END:
                return True
            data = bytes(memoryview(waiting)[place + _HEAD.size : end])
            place = end
            if kind == _BATCH:
                batch = Batch.unpacked(data, known)
                known = batch.known
                for last in batch.made():
                    tracer.take(last)
                continue
            if kind == _RECORD:
                last = recording.restored(data)
                tracer.take(last)
            else:
                tracer.take(Record(Event.DROPPED, last.sequence, last.realtime_ns, last.monotonic_ns, count=size))
        del waiting[:place]
    return False


class _Backlog:
    """What was sent and has not been looked at yet. A thread reads it, as it has to be taken as it comes."""

    def __init__(self, reading: int, parent: int) -> None:
        """`parent`: a pidfd; when that process has ended, no more comes, whoever has the pipe."""
        self._reading = reading
        self._parent = parent
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        poll.register(self._parent, select.POLLIN)
        data = None
        while data != b"":
            ready = [descriptor for descriptor, _ in poll.poll()]
            data = os.read(self._reading, _PIPE) if self._reading in ready else b""
            with self._changed:
                self._chunks.append(data)
                self._size += len(data)
                self._changed.notify()
                self._changed.wait_for(lambda: self._size < BACKLOG)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks)
                data = self._chunks.popleft()
                self._size -= len(data)
                self._changed.notify()
            if not data:
                return
            yield data
