# SPDX-License-Identifier: GPL-2.0-or-later
"""Subcommands that show or judge what a program does: trace, record, check and replay.

Each makes something that sees every call (a `Tracer`), and gives it to `interposer.running`, which runs the program as
`kdbus run` does. Imported only by whoever asks for one of them.
"""

from __future__ import annotations

from interposer.ending import end_like
from interposer.errors import RecordingCut, UsageError, quoted
from interposer.options import JOINED_TRACE_OPTIONS, UNDER_TRACE_OPTIONS, Given, see_help
from interposer.running import replace_if_nested, run_traced
from interposer.trace_options import recorder, relayed, session, with_stacks, written
from interposer.watch_options import which


def trace(given: Given, command: list[str]) -> int:
    """`kdbus trace`; its exit status, or death by its program's signal. Raises InterposerError."""
    if given.keys() & JOINED_TRACE_OPTIONS.keys():
        return _trace_running(given, command)
    if not command:
        raise UsageError("reading the arguments of `kdbus trace`", "there is no program", see_help("trace"))
    return end_like(run_traced(given, command, relayed(session(given), given)))


def _trace_running(given: Given, rest: list[str]) -> int:
    attempted = "reading the options of `kdbus trace`"
    if rest:
        raise UsageError(attempted, f"{quoted(rest[0])} cannot be run in a kdbus that runs", "trace one or the other")
    needless = given.keys() & (UNDER_TRACE_OPTIONS.keys() - {"-f"})
    if needless:
        raise UsageError(attempted, f"{min(needless)} is for a program that is run", see_help("trace"))
    from interposer.watching.calls import trace as trace_calls

    with written(given):
        tracer = with_stacks(session(given), given, "trace")
        try:
            trace_calls(*which("trace", given), tracer)
        finally:
            tracer.close()
    return 0


def record(given: Given, command: list[str]) -> int:
    """`kdbus record`; its exit status, or death by its program's signal. Raises InterposerError."""
    if not command:
        raise UsageError("reading the arguments of `kdbus record`", "there is no program", see_help("record"))
    return end_like(run_traced(given, command, relayed(recorder(given), given, "record")))


def check(given: Given, command: list[str]) -> int:
    """`kdbus check`; its exit status, or death by its program's signal. Raises InterposerError."""
    recording = given.last("--recording")
    if not command and recording is None:
        raise UsageError("reading the arguments of `kdbus check`", "there is no program", see_help("check"))
    from interposer.checking.check import Check

    if recording is not None:
        out_of_place = [*(given.keys() & UNDER_TRACE_OPTIONS.keys()), *command]
        if out_of_place:
            reason = f"--recording with {quoted(min(out_of_place))}: nothing is run"
            raise UsageError("reading the arguments of `kdbus check`", reason, see_help("check"))
        from interposer.show import feed

        check = Check(given)
        try:
            feed(recording, check.checker)
        except RecordingCut:  # also one that still grows: what there is, is judged
            check.finish([], 0)
            raise
        return end_like(check.finish([], 0))
    check = Check(given)
    return end_like(check.finish(command, run_traced(given, command, check.checker)))


def replay(given: Given, words: list[str]) -> int:
    """`kdbus replay`; its exit status, or death by its program's signal. Raises InterposerError."""
    from interposer.replaying.replay import Replay
    from interposer.show import feed

    made = Replay(given, words)
    replace_if_nested(made.program, None, verbose=False, wanted="replaying against")
    command, tracer = made.prepare(feed)
    return end_like(run_traced(given, command, tracer))
