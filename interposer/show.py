# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus show FILE`: what `kdbus record` has recorded, as `kdbus trace` would have shown it, or for other programs.

What is damaged or cut off is told once all that is before it has been shown, and is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from interposer.errors import RecordingCut, RecordingUnreadable, UsageError, quoted
from interposer.options import Given, see_help, too_many
from interposer.trace_options import chosen_by, session, written
from tracing import capture, timeline
from tracing.filters import Filter
from tracing.record import Record, Tracer
from tracing.recording import BadRecording, CutOff, read
from tracing.shown import show

_CONVERSIONS = ("--perfetto", "--pcapng")


def run(given: Given, words: list[str]) -> int:
    """The subcommand; its exit status. Raises UsageError, RecordingUnreadable, OutputFailed."""
    attempt = "reading the arguments of `kdbus show`"
    if not words:
        raise UsageError(attempt, "there is no recording", see_help("show"))
    if len(words) > 1:
        raise too_many(attempt, words[1], "show")
    wanted = [option for option in _CONVERSIONS if option in given]
    if len(wanted) > 1 or (wanted and given.keys() & {"--json", "-c", "-C"}):
        reason = f"{wanted[0]} is a form of its own"
        raise UsageError("reading the options of `kdbus show`", reason, "ask for one at a time")
    with _opened(words[0]) as file:
        records = _records(file, words[0])
        with written(given):
            if wanted:
                _convert(wanted[0], given, records)
            else:
                _print(given, records)
    return 0


def _print(given: Given, records: Iterator[Record]) -> None:
    trace = session(given, "show")
    try:
        for record in records:
            trace.take(record)
    finally:
        trace.close()


def feed(path: str, reader: Tracer) -> None:
    """Let `reader` have the records of the recording at `path`, and close it. Raises RecordingUnreadable; RecordingCut
    once it has those before the cut, and is closed."""
    with _opened(path) as file:
        try:
            for record in _records(file, path):
                reader.take(record)
        except RecordingCut:
            reader.close()
            raise
    reader.close()


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RecordingUnreadable(f"opening the recording {quoted(path)}", reason, _ADVICE) from error


_ADVICE = "`kdbus record -o FILE -- PROGRAM` makes one"


def _records(file: BinaryIO, path: str) -> Iterator[Record]:
    try:
        yield from read(file)
    except CutOff as error:
        raise RecordingCut(f"reading the recording {quoted(path)}", str(error), "") from error
    except BadRecording as error:
        raise RecordingUnreadable(f"reading the recording {quoted(path)}", str(error), "") from error
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RecordingUnreadable(f"reading the recording {quoted(path)}", reason, _ADVICE) from error


def _convert(option: str, given: Given, records: Iterator[Record]) -> None:
    chosen = chosen_by(given, "show")
    path = given.last("-o")
    if path is None and os.isatty(1):
        raise UsageError("reading the options of `kdbus show`", f"{option} is nothing to read", "give -o FILE")
    descriptor = os.dup(1) if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    with open(descriptor, "wb") as out:
        for piece in _pieces(option, _filtered(records, chosen)):
            out.write(piece)


def _filtered(records: Iterable[Record], chosen: Filter) -> Iterator[Record]:
    return (record for record in records if chosen.takes(show(record)))


def _pieces(option: str, records: Iterator[Record]) -> Iterator[bytes]:
    if option == "--pcapng":
        return capture.blocks(records)
    return timeline.pieces(records)
