# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus trace -p PID`: the calls of a kdbus that runs already."""

from __future__ import annotations

import io
import time
from base64 import b64decode

from interposer.report import say
from interposer.watching import ask, wire
from tracing.record import Event, Record, Tracer
from tracing.recording import MAGIC, BadRecording, read


def trace(domain: str | None, process: int | None, tracer: Tracer) -> None:
    """Show `tracer` every call until the kdbus ends. Raises NothingToWatch, and what the tracer raises."""
    with ask.watch(domain, process) as watching:
        stream = watching.stream(wire.CALLS, payload=tracer.payload_limit, stacks=tracer.stacks)
        about = next(stream)
        say(f"kdbus: tracing the kdbus of process {about.get('pid')} until Ctrl-C")
        for told in stream:
            if told["record"] == "dropped":
                now = time.time_ns(), time.monotonic_ns()
                tracer.take(Record(Event.DROPPED, 1, *now, count=int(told["count"])))
            elif (record := _record(told)) is not None:
                tracer.take(record)


def _record(told: wire.Record) -> Record | None:
    """The record that was sent; None for one that this version does not know."""
    try:
        return next(read(io.BytesIO(MAGIC + b64decode(told["frame"]))), None)
    except (BadRecording, KeyError, TypeError, ValueError):
        return None
