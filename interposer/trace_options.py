# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of `kdbus trace`, and of `kdbus run` where it traces, made into a trace; and faults to be injected.

They are strace's where strace has them, as whoever traces knows those. Imported only by whoever traces.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from interposer.errors import OutputFailed, UsageError, quoted
from interposer.options import Given, see_help
from tracing.faults import BadFault, Fault, parse
from tracing.filters import BadFilter, Filter
from tracing.record import Tracer
from tracing.relay import Relay
from tracing.session import Recorder, Session, Split, Wishes
from tracing.text import Style


def session(given: Given, subcommand: str = "trace") -> Session | Split:
    """The trace that the options of `kdbus trace`, or `kdbus show`, ask for. Raises UsageError and OutputFailed."""
    path = given.last("-o")
    counts = given.keys() & {"-c", "-C"}
    if len(counts) == 2 or ("-c" in given and "--json" in given):
        raise _wrong(subcommand, "-c prints nothing but a table", "give it alone, or -C for the table after the trace")
    if "-ff" in given and (path is None or counts):
        raise _wrong(
            subcommand, "-ff is for one file per process, beginning with what -o says", "give -o, and no -c or -C"
        )
    chosen = chosen_by(given, subcommand)
    limit = size_of(given, subcommand)
    split = "-ff" in given
    descriptor = -1 if split else _open(path, 2 if subcommand == "trace" else 1)
    style = Style(
        payload=32 if limit is None else limit,
        hexadecimal=2 if "-xx" in given else int("-x" in given),
        names="-y" in given,
        clock=next((len(name) - 1 for name in ("-ttt", "-tt", "-t") if name in given), 0),
        relative="-r" in given,
        precise="-T" in given,
        everything="-v" in given,
        brackets=path is None,
        colour=_colour(given, descriptor, subcommand),
        stacks="-k" in given,
    )
    wishes = Wishes(
        chosen,
        style,
        as_json="--json" in given,
        payload=limit,
        lines="-c" not in given,
        summary=bool(counts),
        path=path,
        live=subcommand == "trace" and not given.keys() & {"-p", "--pid", "--domain"},
    )
    return Split(wishes) if split else Session(wishes, descriptor)


def with_stacks(tracer: Tracer, given: Given, subcommand: str) -> Tracer:
    """`tracer`, which has stacks found if -k is there. Raises UsageError."""
    if "-k" not in given:
        return tracer
    try:
        from tracing.stacks import WithStacks
    except ModuleNotFoundError as error:
        advice = "install it: pip install 'kdbus-interposer[stacks]'"
        raise _wrong(subcommand, f"-k: there is no module {error.name}", advice) from error
    return WithStacks(tracer)


def relayed(tracer: Session | Split | Recorder, given: Given, subcommand: str = "trace") -> Tracer:
    """What is shown every call: `tracer`, or a process of its own that has it, where nobody looks at lines before the
    program goes on, or stacks are to be found, which takes long. Raises OutputFailed, UsageError."""
    if not tracer.may_lag and "-k" not in given:
        return tracer
    try:
        cut = tracer.cut if isinstance(tracer, Recorder) else None
        return Relay(with_stacks(tracer, given, subcommand), tracer.path, cut)
    except OSError as error:
        reason, advice = os.strerror(error.errno or 0), "free some memory, or end other programs"
        raise OutputFailed("starting a process that writes the trace", reason, advice) from error


def session_of_run(given: Given) -> Session:
    """The trace that `kdbus run` is asked for by --trace and --explain. Raises OutputFailed."""
    path = given.last("--trace") or None
    descriptor = _open(path, 2)
    style = Style(names=True, brackets=path is None, colour=_colour(given, descriptor, "run"))
    return Session(Wishes(Filter(failed="--explain" in given), style, path=path), descriptor)


@contextmanager
def written(given: Given) -> Iterator[None]:
    """Failures of writing to -o, or standard output, are OutputFailed; a reader that has seen enough is no failure."""
    try:
        yield
    except BrokenPipeError:
        return
    except OSError as error:
        path = given.last("-o")
        where = "standard output" if path is None else quoted(path)
        raise OutputFailed(f"writing to {where}", os.strerror(error.errno or 0), "give -o another file") from error


def faults_of(given: Given, subcommand: str) -> tuple[Fault, ...]:
    """What `--inject` asks for. Raises UsageError."""
    try:
        return tuple(parse(text) for text in given.get("--inject", []))
    except BadFault as error:
        attempted = f"reading the options of `kdbus {subcommand}`"
        raise UsageError(attempted, f"--inject: {error}", see_help(subcommand)) from None


def recorder(given: Given) -> Recorder:
    """The recording that the options of `kdbus record` ask for. Raises UsageError and OutputFailed."""
    path = given.last("-o") or "kdbus.recording"
    limit = size_of(given, "record")
    return Recorder(_open(path, 1), path, _RECORDED if limit is None else limit, left=True)


_RECORDED = 64 << 10
"""Bytes of each payload that are recorded, if nothing else is asked for."""


def chosen_by(given: Given, subcommand: str) -> Filter:
    """What -e, -z and -Z choose. Raises UsageError."""
    try:
        return Filter(given.get("-e", []), failed="-Z" in given, succeeded="-z" in given)
    except BadFilter as error:
        raise _wrong(subcommand, f"-e: {error}", see_help(subcommand)) from None


def _wrong(subcommand: str, reason: str, advice: str) -> UsageError:
    return UsageError(f"reading the options of `kdbus {subcommand}`", reason, advice)


def _open(path: str | None, otherwise: int) -> int:
    """A descriptor of its own for where the trace goes: the file, or else a duplicate of `otherwise`."""
    try:
        if path is None:
            return os.dup(otherwise)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        where = f"descriptor {otherwise}" if path is None else quoted(path)
        advice = "give -o a file that can be written"
        raise OutputFailed(f"opening {where} for the trace", os.strerror(error.errno or 0), advice) from error


def size_of(given: Given, subcommand: str) -> int | None:
    """What -s says, None if it was not given. Raises UsageError."""
    word = given.last("-s")
    if word is None:
        return None
    if not word.isdecimal() or int(word) > 1 << 20:
        raise _wrong(subcommand, f"-s {quoted(word)} is no number of bytes up to 1048576", see_help(subcommand))
    return int(word)


def _colour(given: Given, descriptor: int, subcommand: str) -> bool:
    word = given.last("--color") or "auto"
    if word not in ("auto", "always", "never"):
        raise _wrong(subcommand, f"--color {quoted(word)} is not known", "there are auto, always and never")
    wanted = (
        descriptor >= 0
        and os.isatty(descriptor)
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
    return word == "always" or (word == "auto" and wanted)
