# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `kdbus`: arguments in, an exit status out.

Options end at the first positional argument, so that `kdbus run ls -l` gives `-l` to `ls` (`interposer.options`).

`kdbus run -- true` should cost little more than `true`. The program is started before anything slow is imported, and
the supervisor, with the event loop that it needs, is loaded when the first call is trapped: a program that never does
anything suspicious never pays for it. Weakness: the first trap of the others waits for the import.
Loading it in parallel to the program is no better, as an import cannot be broken off when the program ends.

How a program ends is how `kdbus run` ends: with its exit status, or by the same signal. `kdbus` then dumps no core,
since the core would be that of the wrong process. Its own failures are 125, and 126 or 127 when the program cannot
be executed; they are told on stderr in one line.

Signals while the program runs: SIGINT and SIGQUIT come from the terminal to the whole foreground group, the program
included, so `kdbus` itself ignores them and waits for what the program makes of them. SIGTERM and SIGHUP are meant
for the program and are handed on. The handlers installed here stay in force while the supervisor runs; it may replace
them, and must not end before its program either.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import interposer
from interposer.errors import InterposerError, OutputFailed, UsageError, quoted
from interposer.lasting import lasting_objects
from interposer.options import REVISIONS, Given, RunOptions, parse, see_help, suggestion

if TYPE_CHECKING:
    from interposer.launch.launch import Launched, Mode
    from tracing.faults import Fault
    from tracing.record import Tracer

FAILURE = InterposerError.exit_status

_HELP_OPTIONS = {"-h": False, "--help": False}
_VERBOSE_OPTIONS = {"-v": False, "--verbose": False}
_SERVICE_OPTIONS = {
    **dict.fromkeys(("--no-flows", "--self-serve", "--no-self-serve", "--statistics"), False),
    **dict.fromkeys(("--make-bus", "--revision", "--activate"), True),
}
_JOIN_OPTIONS = {"--domain": True, "--wait": True}
_OWN_OPTIONS = {
    **_JOIN_OPTIONS,
    "--mode": True,
    "--preload": False,
    "--no-preload": False,
    "--linger": False,
    "--die-with-parent": False,
    **_SERVICE_OPTIONS,
}
_RUN_OPTIONS = {**_OWN_OPTIONS, **_VERBOSE_OPTIONS, "--trace": None, "--explain": False, "--inject": True}
_UNDER_TRACE_OPTIONS = {
    **dict.fromkeys(("--mode", "--make-bus", "--revision", "--inject"), True),
    **dict.fromkeys(("-f", "--linger"), False),
}
_VIEW_OPTIONS = {
    **dict.fromkeys(("-o", "-e", "-s", "--color"), True),
    **dict.fromkeys("-x -xx -y -t -tt -ttt -r -T -k -c -C -z -Z -v -ff --json".split(), False),
}
_JOINED_TRACE_OPTIONS = {"-p": True, "--pid": True, "--domain": True}
_TRACE_OPTIONS = {**_UNDER_TRACE_OPTIONS, **_VIEW_OPTIONS, **_JOINED_TRACE_OPTIONS}
_RECORD_OPTIONS = {**_UNDER_TRACE_OPTIONS, "-o": True, "-s": True, "-k": False}
_CHECK_OPTIONS = {
    **_UNDER_TRACE_OPTIONS,
    **dict.fromkeys(("--ignore", "--error", "--junit", "--json", "--recording"), True),
}
_SHOW_OPTIONS = {**_VIEW_OPTIONS, "--perfetto": False, "--pcapng": False}
_REPLAY_OPTIONS = {
    **dict.fromkeys(("--play", "--mask", "--patience", "--mode", "--make-bus", "--revision"), True),
    "--timing": False,
}
_SERVE_OPTIONS = {"--socket": True, "--ready-fd": True, **_SERVICE_OPTIONS}
_DOCTOR_OPTIONS = {"--json": False}
_WHICH_OPTIONS = {"--domain": True, "-p": True, "--pid": True, "--bus": True}
_WATCH_OPTIONS = {**_WHICH_OPTIONS, "--json": False}
_FILTER_OPTIONS = {"--from": True, "--to": True, "--with": True, "--kind": True, "--failed": False}
_MONITOR_OPTIONS = {**_WATCH_OPTIONS, **_FILTER_OPTIONS, "--count": True}
_TOP_OPTIONS = {**_WHICH_OPTIONS, "--interval": True, "--light": False}
_INCLUDE_DIR_OPTIONS = {"--revision": True}
_PROXY_OPTIONS = {
    **dict.fromkeys(("--bus", "--listen", "--ready-fd", "--activate", "--config"), True),
    **dict.fromkeys(("--exec", "--anonymous", "--all-users"), False),
    **_VERBOSE_OPTIONS,
}
_BRIDGE_OPTIONS = {
    **dict.fromkeys(("--bus", "--to", "--ready-fd"), True),
    **dict.fromkeys(("--exec", "--all-users"), False),
    **_VERBOSE_OPTIONS,
}
_DBUS_POLICY_OPTIONS = {
    **dict.fromkeys(("--config", "--user", "--group", "--bus", "--ready-fd"), True),
    **dict.fromkeys(("--at-console", "--json"), False),
}
_ACTIVATE_OPTIONS = {
    **dict.fromkeys(("--bus", "--from", "--ready-fd"), True),
    "--exec": False,
    **_VERBOSE_OPTIONS,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `kdbus` with `arguments` (None: those of this process, without its name); the exit status.

    Does not return when the program that was run died of a signal: then this process dies of it, too.
    """
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except InterposerError as error:
        _complain(f"kdbus: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        return _die_of(signal.SIGINT)
    except Exception as error:
        from interposer.report import unexpected
        from interposer.shortage import told

        if not told(error):
            unexpected("internal error")
        return FAILURE


def _dispatch(words: list[str]) -> int:
    if not words:
        raise UsageError("reading the command line", "there is no subcommand", "`kdbus --help` lists them")
    word, rest = words[0], words[1:]
    if word in _SUBCOMMANDS:
        subcommand = _SUBCOMMANDS[word]
        given, rest = parse(word, rest, {**subcommand.options, **_HELP_OPTIONS})
        if given.keys() & _HELP_OPTIONS.keys():
            return _help([word])
        if len(rest) > subcommand.words and not subcommand.runs_a_program:
            _too_many(word, rest[subcommand.words])
        return subcommand.act(given, rest)
    if word == "help":
        return _help(rest)
    if word in _HELP_OPTIONS:
        return _help([])
    if word in ("-V", "--version"):
        _print(f"kdbus {interposer.__version__}\n")
        return 0
    what, known = ("option", _OPTIONS) if word.startswith("-") else ("subcommand", (*_SUBCOMMANDS, "help"))
    advice = suggestion(word, known) or "`kdbus --help` lists them"
    raise UsageError("reading the command line", f"there is no {what} {quoted(word)}", advice)


def _help(topics: list[str]) -> int:
    from interposer.help import OVERVIEW, PAGES

    if len(topics) > 1:
        _too_many("help", topics[1])
    if topics and topics[0] not in PAGES and topics[0] != "help":
        raise UsageError(
            "looking for help",
            f"there is no subcommand {quoted(topics[0])}",
            suggestion(topics[0], PAGES) or "`kdbus --help` lists them",
        )
    _print(PAGES.get(topics[0], OVERVIEW) if topics else OVERVIEW)
    return 0


def _too_many(subcommand: str, word: str) -> NoReturn:
    raise UsageError(
        f"reading the arguments of `kdbus {subcommand}`", f"{quoted(word)} is too many", see_help(subcommand)
    )


def _print(text: str) -> None:
    """Write `text` to stdout, all of it and now. Raises OutputFailed.

    Past Python's buffer, which would be written when it is too late to tell that it cannot be. Where whoever reads it
    has seen enough, as in `kdbus help | head -1`, this process ends as others do there: without a word, of SIGPIPE.
    """
    data = text.encode("utf-8", "surrogateescape")
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        sys.exit(_die_of(signal.SIGPIPE))
    except OSError as error:
        raise OutputFailed("writing to standard output", os.strerror(error.errno or 0), _OUTPUT_ADVICE) from error


def _complain(line: str) -> None:
    """Write `line` to stderr, if there is one that takes it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def _run_options(subcommand: str, given: Given, tracer: Tracer | None = None) -> RunOptions:
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


def _run(given: Given, command: list[str]) -> int:
    tracer = None
    if given.keys() & {"--trace", "--explain"}:
        from interposer.trace_options import relayed, session_of_run

        tracer = relayed(session_of_run(given), given, "run")
    return _end_like(_run_traced(given, command, tracer))


def _trace(given: Given, command: list[str]) -> int:
    if given.keys() & _JOINED_TRACE_OPTIONS.keys():
        return _trace_running(given, command)
    if not command:
        raise UsageError("reading the arguments of `kdbus trace`", "there is no program", see_help("trace"))
    from interposer.trace_options import relayed, session

    return _end_like(_run_traced(given, command, relayed(session(given), given)))


def _trace_running(given: Given, rest: list[str]) -> int:
    attempted = "reading the options of `kdbus trace`"
    if rest:
        raise UsageError(attempted, f"{quoted(rest[0])} cannot be run in a kdbus that runs", "trace one or the other")
    needless = given.keys() & (_UNDER_TRACE_OPTIONS.keys() - {"-f"})
    if needless:
        raise UsageError(attempted, f"{min(needless)} is for a program that is run", see_help("trace"))
    from interposer.trace_options import session, with_stacks, written
    from interposer.watching.calls import trace

    with written(given):
        tracer = with_stacks(session(given), given, "trace")
        try:
            trace(*_which("trace", given), tracer)
        finally:
            tracer.close()
    return 0


def _record(given: Given, command: list[str]) -> int:
    if not command:
        raise UsageError("reading the arguments of `kdbus record`", "there is no program", see_help("record"))
    from interposer.trace_options import recorder, relayed

    return _end_like(_run_traced(given, command, relayed(recorder(given), given, "record")))


def _check(given: Given, command: list[str]) -> int:
    recording = given.last("--recording")
    if not command and recording is None:
        raise UsageError("reading the arguments of `kdbus check`", "there is no program", see_help("check"))
    from interposer.checking.check import Check

    if recording is not None:
        out_of_place = [*(given.keys() & _UNDER_TRACE_OPTIONS.keys()), *command]
        if out_of_place:
            reason = f"--recording with {quoted(min(out_of_place))}: nothing is run"
            raise UsageError("reading the arguments of `kdbus check`", reason, see_help("check"))
        from interposer.show import feed

        check = Check(given)
        feed(recording, check.checker)
        return _end_like(check.finish([], 0))
    check = Check(given)
    return _end_like(check.finish(command, _run_traced(given, command, check.checker)))


def _show(given: Given, words: list[str]) -> int:
    from interposer import show

    return show.run(given, words)


def _replay(given: Given, words: list[str]) -> int:
    from interposer.replaying.replay import Replay
    from interposer.show import feed

    replay = Replay(given, words)
    _replace_if_nested(replay.program, None, verbose=False, wanted="replaying against")
    command, tracer = replay.prepare(feed)
    return _end_like(_run_traced(given, command, tracer))


def _run_traced(given: Given, command: list[str], tracer: Tracer | None) -> int:
    """Run `command`, and let `tracer` see every call; its wait status."""
    options = _run_options("run", given, tracer)
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
    if domain is not None and tracer is not None:
        raise UsageError(
            "reading the options of `kdbus run`",
            "calls are traced where they are served, and those of --domain are by its server",
            "trace the program without --domain",
        )
    if "--activate" in given:
        from interposer.activating import around, folders_by_bus

        command = around(command, folders_by_bus("run", given))
    wanted = "tracing" if tracer is not None else "injecting faults into" if options.faults else ""
    _replace_if_nested(command, domain, verbose=bool(given.keys() & _VERBOSE_OPTIONS.keys()), wanted=wanted)
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
    )
    try:
        status = _supervise(launched, signals, options)
    finally:
        launched.leave_nothing()
        if tracer is not None:
            tracer.close()
    return status


def _replace_if_nested(command: Sequence[str], domain: str | None, *, verbose: bool, wanted: str) -> None:
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
            _complain(
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


def _serve(given: Given, _rest: list[str]) -> int:
    with lasting_objects():
        from interposer.shared_domain.serve import serve

    activating = []
    if "--activate" in given:
        from interposer.activating import commands_of, folders_by_bus

        activating = commands_of(folders_by_bus("serve", given))
    return serve(given.last("--socket"), _run_options("serve", given), given.last("--ready-fd"), activating)


def _proxy(given: Given, command: list[str]) -> int:
    from interposer.proxying import proxy

    status = proxy(given, command)
    return status if status >= 0 else _die_of(-status)


def _dbus_policy(given: Given, words: list[str]) -> int:
    from interposer.dbus_policy import dbus_policy

    return dbus_policy(given, words, _print, _complain)


def _activate(given: Given, command: list[str]) -> int:
    from interposer.activating import activate

    status = activate(given, command)
    return status if status >= 0 else _die_of(-status)


def _bridge(given: Given, command: list[str]) -> int:
    from interposer.bridging import bridge

    status = bridge(given, command)
    return status if status >= 0 else _die_of(-status)


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


def _end_like(status: int) -> int:
    """The exit status that repeats the wait status `status`; for a death by signal, that death."""
    if os.WIFSIGNALED(status):
        return _die_of(os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def _die_of(number: int) -> int:
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


def _doctor(given: Given, _rest: list[str]) -> int:
    from interposer import doctor

    text, works = doctor.report(as_json="--json" in given)
    _print(text)
    return 0 if works else 1


def _include_dir(given: Given, _rest: list[str]) -> int:
    include = os.path.join(os.path.dirname(os.path.realpath(interposer.__file__)), "include")
    revision = given.get("--revision", ["final"])[-1]
    known = sorted(os.listdir(include))
    if revision not in known:
        attempted = f"looking for the header of revision {quoted(revision)}"
        raise UsageError(attempted, "there is none", f"try {', '.join(known)}")
    _print(os.path.join(include, revision) + "\n")
    return 0


def _watching(word: str) -> Callable[[Given, list[str]], int]:
    """`kdbus WORD`, which asks a supervisor what there is, and prints it."""

    def act(given: Given, rest: list[str]) -> int:
        from interposer.watching.show import answer

        if word == "status" and not rest:
            raise UsageError("reading the arguments of `kdbus status`", "there is no id or name", see_help(word))
        wanted = rest[0] if rest else ""
        _print(answer(word, *_which(word, given), given.last("--bus"), wanted, as_json="--json" in given))
        return 0

    return act


def _monitor(given: Given, _rest: list[str]) -> int:
    from interposer.watching.filters import KINDS
    from interposer.watching.monitor import lines

    attempted = "reading the options of `kdbus monitor`"
    wanted: dict[str, object] = {}
    for option in ("--bus", "--from", "--to", "--with"):
        if option in given:
            wanted[option[2:]] = given.last(option)
    if "--kind" in given:
        wanted["kinds"] = kinds = [kind for words in given["--kind"] for kind in words.split(",")]
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            advice = suggestion(unknown[0], KINDS) or f"there are {', '.join(KINDS)}"
            raise UsageError(attempted, f"there is no kind {quoted(unknown[0])} of messages", advice)
    if "--failed" in given:
        wanted["failed"] = True
    count = given.last("--count")
    if count is not None and not (count.isascii() and count.isdigit() and int(count)):
        raise UsageError(attempted, f"--count {quoted(count)} is no number of messages", see_help("monitor"))
    which = _which("monitor", given)
    for text in lines(*which, wanted, None if count is None else int(count), as_json="--json" in given):
        _print(text)
    return 0


def _top(given: Given, _rest: list[str]) -> int:
    attempted = "showing what happens on a kdbus"
    interval = given.last("--interval") or "1"
    try:
        seconds = float(interval)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_INTERVAL_S <= seconds <= _LONGEST_INTERVAL_S:
        reason = f"--interval {quoted(interval)} is no number of seconds from 0.2 to 60"
        raise UsageError("reading the options of `kdbus top`", reason, see_help("top"))
    which = _which("top", given)
    if not (os.isatty(0) and os.isatty(2)):
        raise UsageError(attempted, "there is no terminal", "`kdbus list` and `kdbus monitor` need none")
    try:
        from interposer.watching.top import Top
    except ModuleNotFoundError as error:
        advice = "install it: pip install 'kdbus-interposer[top]'; `kdbus list` and `kdbus monitor` need nothing"
        raise UsageError(attempted, f"there is no module {error.name}", advice) from error
    from interposer.watching.ask import watch

    with watch(*which) as watching:
        top = Top(watching, given.last("--bus"), seconds, light="--light" in given)
        top.run()
    if top.failure is not None:
        raise top.failure
    return 0


def _which(word: str, given: Given) -> tuple[str | None, int | None]:
    """The domain and the process that `kdbus WORD` is told to watch."""
    domain, process = given.last("--domain"), given.last("-p") or given.last("--pid")
    attempted = f"reading the options of `kdbus {word}`"
    if domain is not None and process is not None:
        raise UsageError(attempted, "--domain and -p both say what to watch", "leave one out")
    if process is not None and not (process.isascii() and process.isdigit()):
        raise UsageError(attempted, f"-p {quoted(process)} is no process id", "`kdbus list` without it says which are")
    return domain, None if process is None else int(process)


class _Subcommand(NamedTuple):
    """What a subcommand does with the options that are given and the words behind them, and which options it has.

    `options`: as for `interposer.options.parse`; --help is every subcommand's.
    """

    act: Callable[[Given, list[str]], int]
    options: Mapping[str, bool | None]
    runs_a_program: bool = False
    words: int = 0
    """How many words may follow the options."""


_SUBCOMMANDS = {
    "run": _Subcommand(_run, _RUN_OPTIONS, runs_a_program=True),
    "trace": _Subcommand(_trace, _TRACE_OPTIONS, runs_a_program=True),
    "record": _Subcommand(_record, _RECORD_OPTIONS, runs_a_program=True),
    "show": _Subcommand(_show, _SHOW_OPTIONS, words=1),
    "replay": _Subcommand(_replay, _REPLAY_OPTIONS, runs_a_program=True),
    "check": _Subcommand(_check, _CHECK_OPTIONS, runs_a_program=True),
    "serve": _Subcommand(_serve, _SERVE_OPTIONS),
    "proxy": _Subcommand(_proxy, _PROXY_OPTIONS, runs_a_program=True),
    "bridge": _Subcommand(_bridge, _BRIDGE_OPTIONS, runs_a_program=True),
    "dbus-policy": _Subcommand(_dbus_policy, _DBUS_POLICY_OPTIONS, words=20),
    "activate": _Subcommand(_activate, _ACTIVATE_OPTIONS, runs_a_program=True),
    "doctor": _Subcommand(_doctor, _DOCTOR_OPTIONS),
    "include-dir": _Subcommand(_include_dir, _INCLUDE_DIR_OPTIONS),
    "list": _Subcommand(_watching("list"), _WATCH_OPTIONS),
    "tree": _Subcommand(_watching("tree"), _WATCH_OPTIONS),
    "status": _Subcommand(_watching("status"), _WATCH_OPTIONS, words=1),
    "policy": _Subcommand(_watching("policy"), _WATCH_OPTIONS),
    "monitor": _Subcommand(_monitor, _MONITOR_OPTIONS),
    "top": _Subcommand(_top, _TOP_OPTIONS),
}
_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.2, 60.0
_OPTIONS = (*_HELP_OPTIONS, "-V", "--version")
_OUTPUT_ADVICE = "make room, raise the limit of the size of files (ulimit -f), or write elsewhere"


if __name__ == "__main__":
    sys.exit(main())
