# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus run`: from its options to a program that runs, alone or in the domain of a server, and to its end.

The program is started before anything slow is imported, and the supervisor, with the event loop that it needs, is
loaded when the first call is trapped: a program that never does anything suspicious never pays for it. Weakness: the
first trap of the others waits for the import. Loading it in parallel to the program is no better, as an import cannot
be broken off when the program ends.

Signals while the program runs: SIGINT and SIGQUIT come from the terminal to the whole foreground group, the program
included, so `kdbus` itself ignores them and waits for what the program makes of them. SIGTERM and SIGHUP are meant
for the program and are handed on. The handlers installed here stay in force while the supervisor runs; it may replace
them, and must not end before its program either.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

import interposer
from interposer.ending import complain, end_like
from interposer.errors import UsageError, quoted
from interposer.lasting import lasting_objects
from interposer.options import REVISIONS, VERBOSE_OPTIONS, Given, RunOptions, see_help

if TYPE_CHECKING:
    from interposer.launch.launch import Launched, Mode
    from tracing.faults import Fault
    from tracing.record import Tracer


def run(given: Given, command: list[str]) -> int:
    """The subcommand; its exit status, or death by its program's signal. Raises InterposerError."""
    tracer = None
    if given.keys() & {"--trace", "--explain"}:
        if "--domain" in given:
            raise UsageError(
                "reading the options of `kdbus run`",
                "calls are traced where they are served, and those of --domain are by its server",
                f"`kdbus trace --domain {quoted(given.last('--domain') or '')}` shows them all",
            )
        from interposer.trace_options import relayed, session_of_run

        tracer = relayed(session_of_run(given), given, "run")
    return end_like(run_traced(given, command, tracer))


def run_traced(given: Given, command: list[str], tracer: Tracer | None) -> int:
    """Run `command`, and let `tracer` see every call; its wait status."""
    options = run_options("run", given, tracer)
    if not command:
        raise UsageError("reading the arguments of `kdbus run`", "there is no program", see_help("run"))
    mode, domain = _mode(given.last("--mode")), given.last("--domain")
    of_server = [name for name in ("--make-bus", "--revision", "--activate") if name in given]
    if domain is not None and of_server:
        raise UsageError(
            "reading the options of `kdbus run`",
            f"{of_server[0]} with --domain: that is its server's business",
            f"give {of_server[0]} to `kdbus serve`",
        )
    dies_with_us, preload = "--die-with-parent" in given, _preload(given)
    if options.self_serve or preload:
        _need_preloading("--self-serve" if options.self_serve else "--preload", preload is not False)
    wait_s = _seconds(given.last("--wait"))
    if wait_s and domain is None:
        raise UsageError("reading the options of `kdbus run`", "--wait is for a server", "give --domain PATH as well")
    if "--activate" in given:
        from interposer.activating import around, folders_by_bus

        command = around(command, folders_by_bus("run", given))
    wanted = "tracing" if tracer is not None else "injecting faults into" if options.faults else ""
    replace_if_nested(command, domain, verbose=bool(given.keys() & VERBOSE_OPTIONS.keys()), wanted=wanted)
    if domain is not None:
        return _join(
            domain,
            command,
            mode,
            wait_s,
            dies_with_us=dies_with_us,
            preload=preload,
            self_serve=options.self_serve,
            faults=given.get("--inject", []),
        )

    from interposer.launch.launch import launch

    signals = _Signals()
    launched = launch(
        command,
        mode,
        held=bool(options.buses),
        dies_with_us=dies_with_us,
        preload=preload,
        self_serve=options.self_serve,
        exits=tracer is not None and tracer.left,
    )
    try:
        status = _supervise(launched, signals, options)
    finally:
        launched.leave_nothing()
        if tracer is not None:
            tracer.close()
    return status


def run_options(subcommand: str, given: Given, tracer: Tracer | None = None) -> RunOptions:
    """What the options of `kdbus run` or `serve` say of how calls are served. Raises UsageError."""
    revision = given.last("--revision")
    if revision is not None and revision not in REVISIONS:
        raise UsageError(
            f"reading the options of `kdbus {subcommand}`",
            f"there is no revision {quoted(revision)}",
            f"give one of {', '.join(REVISIONS)}, or leave --revision out: programs are recognised by what they speak",
        )
    faults: tuple[Fault, ...] = ()
    if "--inject" in given:
        from interposer.trace_options import faults_of

        faults = faults_of(given, subcommand)
    return RunOptions(
        flows="--no-flows" not in given,
        self_serve="--self-serve" in given and "--no-self-serve" not in given,
        linger="--linger" in given,
        statistics="--statistics" in given,
        buses=tuple(given.get("--make-bus", [])),
        revision=revision,
        tracer=tracer,
        faults=faults,
    )


def replace_if_nested(command: Sequence[str], domain: str | None, *, verbose: bool, wanted: str) -> None:
    """Become the program if an outer `kdbus run` supervises it already. Raises what prevents that.

    `wanted`: what only the outer one could do to it, if that was asked for.
    """
    if not os.path.exists(interposer.CONTROL_NODE):
        # The usual case, told without importing anything.
        return
    from interposer.launch import nested

    if nested.is_nested():
        if wanted:
            raise UsageError(
                f"{wanted} {quoted(command[0])}",
                "an outer `kdbus run` serves this process tree",
                "give the options to that one",
            )
        if verbose:
            complain(
                f"kdbus: an outer `kdbus run` serves this process tree; running {quoted(command[0])} in its domain"
            )
        nested.run_nested(command, domain)


def _preload(given: Given) -> bool | None:
    """Whether the program is to be started with a library, in either mode; None: as its mode wants it."""
    if "--no-preload" in given:
        if "--preload" in given:
            attempted = "reading the options of `kdbus run`"
            raise UsageError(attempted, "--preload and --no-preload", "give one of the two, or none")
        return False
    return True if "--preload" in given else None


def _need_preloading(option: str, wanted: bool) -> None:
    """`option` is done by a library that programs are started with, if that is wanted. Raises UsageError."""
    from interposer.launch.preloading import preloadable

    if not wanted or preloadable() is None:
        raise UsageError(
            "reading the options of `kdbus run`",
            f"{option} is done by a library that programs are started with, and "
            + ("there is none with --no-preload" if not wanted else "there is none that can be here"),
            "leave out " + ("one of the two" if not wanted else option),
        )


def _mode(word: str | None) -> Mode | None:
    if word is None:
        return None
    from interposer.launch.launch import Mode

    try:
        return Mode(word)
    except ValueError:
        words = " and ".join(mode.value for mode in Mode)
        raise UsageError(
            "reading the options of `kdbus run`", f"there is no mode {quoted(word)}", f"there are {words}"
        ) from None


def _seconds(word: str | None) -> float:
    """What --wait says; 0 without it."""
    try:
        seconds = 0.0 if word is None else float(word)
        if 0 <= seconds < float("inf"):
            return seconds
    except ValueError:
        pass
    raise UsageError(
        "reading the options of `kdbus run`", f"--wait {quoted(word or '')} is no number of seconds", see_help("run")
    )


def _join(
    path: str,
    command: Sequence[str],
    mode: Mode | None,
    wait_s: float,
    *,
    dies_with_us: bool,
    preload: bool | None,
    self_serve: bool,
    faults: Sequence[str],
) -> int:
    """Run `command` in the domain of a server, which may come up within `wait_s` seconds; its wait status."""
    from interposer.shared_domain.domain_socket import connect
    from interposer.shared_domain.join import join

    # While there is no program, signals end us.
    connection = connect(path, wait_s)
    signals = _Signals()
    joined = join(
        path,
        connection,
        command,
        mode,
        dies_with_us=dies_with_us,
        preload=preload,
        self_serve=self_serve,
        faults=faults,
    )
    signals.program_started(joined.launched.pid)
    joined.launched.check_executed()
    return joined.run()


def _supervise(launched: Launched, signals: _Signals, options: RunOptions) -> int:
    """The program's wait status. Raises the InterposerError that kept it from being executed."""
    signals.program_started(launched.pid)
    if not options.buses:
        launched.check_executed()
    # Who lingers may be needed after the program's end, and buses before it begins.
    needed = options.linger or options.buses
    status = None if needed else _wait_for_end_or_trap(launched)
    if status is None:
        with lasting_objects():
            from interposer.supervisor.start import run

        status = run(launched, options)
    return status


class _Signals:
    """The handlers that are in force while there is, or is about to be, a program."""

    def __init__(self) -> None:
        self._program: int | None = None
        self._early: list[int] = []
        for number in (signal.SIGINT, signal.SIGQUIT):
            self._install(number, self._leave_to_the_program)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._install(number, self._hand_on)

    def program_started(self, pid: int) -> None:
        """From now on `pid` gets what is meant for it, beginning with what has come already."""
        self._program = pid
        while self._early:
            self._hand_on(self._early.pop(0), None)

    @staticmethod
    def _install(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)

    def _leave_to_the_program(self, _number: int, _frame: FrameType | None) -> None:
        """The terminal has sent it to the program as well."""

    def _hand_on(self, number: int, _frame: FrameType | None) -> None:
        if self._program is None:
            self._early.append(number)
        else:
            with suppress(ProcessLookupError):
                os.kill(self._program, number)


def _wait_for_end_or_trap(launched: Launched) -> int | None:
    """The program's wait status when it ended (it is then reaped), None when a call is trapped and it still runs."""
    ended = os.pidfd_open(launched.pid)
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(launched.listener, select.POLLIN)
    try:
        while True:
            events = dict(poller.poll())
            if ended in events:
                return os.waitpid(launched.pid, 0)[1]
            if events[launched.listener] & select.POLLIN:
                return None
            # A hang-up alone: no process is left under the filter, the program is about to have ended.
            poller.unregister(launched.listener)
    finally:
        os.close(ended)
