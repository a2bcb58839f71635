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
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

import interposer
from interposer.errors import InterposerError, UsageError
from interposer.lasting import lasting_objects
from interposer.options import RunOptions, parse

if TYPE_CHECKING:
    from interposer.launch.launch import Launched, Mode

FAILURE = InterposerError.exit_status
CONTROL_NODE = "/sys/fs/kdbus/control"

_HELP_OPTIONS = {"-h": False, "--help": False}
_VERBOSE_OPTIONS = {"-v": False, "--verbose": False}
_SERVICE_OPTIONS = {"--no-flows": False, "--statistics": False, "--make-bus": True, **_HELP_OPTIONS}
_RUN_OPTIONS = {"--domain": True, "--mode": True, "--linger": False, **_VERBOSE_OPTIONS, **_SERVICE_OPTIONS}
_SERVE_OPTIONS = {"--socket": True, **_SERVICE_OPTIONS}

HELP = """\
kdbus runs programs written for kdbus on an ordinary Linux kernel.

usage: kdbus run [OPTIONS] [--] PROGRAM [ARGUMENTS...]
       kdbus serve --socket PATH [OPTIONS]
       kdbus doctor [--json]
       kdbus include-dir [--revision 3|final]
       kdbus --help | --version

  run          run PROGRAM, and all that it starts, with a kdbus of its own at /sys/fs/kdbus
  serve        keep a kdbus that programs join with `kdbus run --domain PATH`, until SIGTERM; a server that root starts
               serves all users, an ordinary user's serves that user; who joins trusts the server
  doctor       tell whether that works here, how, and what would make it better
  include-dir  print the folder of linux/kdbus.h, to build kdbus programs with: cc -I"$(kdbus include-dir)"; that of
               the final revision (August 2015), unless --revision asks for version 3 (January 2015)

options of `kdbus run`:
  --domain PATH join the kdbus of `kdbus serve --socket PATH`, instead of having one of its own
  -v, --verbose tell on stderr if PROGRAM is run without a supervisor of its own, as an outer `kdbus run` serves it
  --make-bus NAME
                have a bus from the start, as long as the kdbus lives, which programs of the time expect the system to
                have made (may be repeated; for `kdbus serve`, too): `system` is 0-system, open to all users, `user` is
                UID-user, and any other name gets the user's id in front. Such as: kdbus run --make-bus system \\
                --make-bus user -- busctl --address=kernel:path=/sys/fs/kdbus/0-system/bus list
  --statistics  tell on stderr, at the end, how many calls were served, and how (for `kdbus serve`, too)
  --linger      stay until the last process that PROGRAM has started has ended, daemons among them
  --mode MODE   `mount`: show /sys/fs/kdbus in a mount namespace; `path`: answer calls that name a path in it, which
                is slower and needs no privileges; without this option, the first of the two that can be had, also with
                --domain, whose programs may differ in this
  --no-flows    serve every call in the broker, none natively: slower, to compare and to debug (for `kdbus serve`, too)

Options end at the first word that is none, so PROGRAM's own need no `--`. `kdbus run` ends as PROGRAM does: with its
exit status, or by the same signal. Its own failures: 127 PROGRAM is not found, 126 it cannot be executed, 125 all else.
`kdbus doctor` ends with 0 if `kdbus run` can work here, else with 1.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `kdbus` with `arguments` (None: those of this process, without its name); the exit status.

    Does not return when the program that was run died of a signal: then this process dies of it, too.
    """
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except InterposerError as error:
        print(f"kdbus: {error}", file=sys.stderr)
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
        return _SUBCOMMANDS[word](rest)
    if word in ("-h", "--help", "help"):
        print(HELP, end="")
    elif word == "--version":
        print(f"kdbus {interposer.__version__}")
    else:
        what = "option" if word.startswith("-") else "subcommand"
        raise UsageError("reading the command line", f"there is no {what} {word!r}", "`kdbus --help` lists them")
    return 0


def _nothing_more(subcommand: str, words: list[str]) -> None:
    if words:
        raise UsageError(f"reading the arguments of `kdbus {subcommand}`", f"{words[0]!r} is too many", "see --help")


def _run(words: list[str]) -> int:
    buses: list[str] = []
    given, command = parse("run", words, _RUN_OPTIONS, {"--make-bus": buses})
    if given.keys() & _HELP_OPTIONS.keys():
        print(HELP, end="")
        return 0
    options = RunOptions(
        flows="--no-flows" not in given,
        linger="--linger" in given,
        statistics="--statistics" in given,
        buses=tuple(buses),
    )
    if not command:
        raise UsageError("reading the arguments of `kdbus run`", "there is no program", "see --help")
    mode, domain = _mode(given.get("--mode")), given.get("--domain")
    if domain is not None and buses:
        raise UsageError(
            "reading the options of `kdbus run`",
            "the buses of --domain are its server's",
            "give --make-bus to `kdbus serve`",
        )
    _replace_if_nested(command, domain, verbose=bool(given.keys() & _VERBOSE_OPTIONS.keys()))
    if domain is not None:
        return _end_like(_join(domain, command, mode))

    from interposer.launch.launch import launch

    signals = _Signals()
    launched = launch(command, mode, held=bool(buses))
    try:
        status = _supervise(launched, signals, options)
    finally:
        launched.leave_nothing()
    return _end_like(status)


def _replace_if_nested(command: Sequence[str], domain: str | None, *, verbose: bool) -> None:
    """Become the program if an outer `kdbus run` supervises it already. Raises what prevents that."""
    if not os.path.exists(CONTROL_NODE):
        # The usual case, told without importing anything.
        return
    from interposer.launch import nested

    if nested.is_nested():
        if verbose:
            print(
                f"kdbus: an outer `kdbus run` serves this process tree; running {command[0]!r} in its domain",
                file=sys.stderr,
            )
        nested.run_nested(command, domain)


def _join(path: str, command: Sequence[str], mode: Mode | None) -> int:
    """Run `command` in the domain of a server; its wait status."""
    from interposer.shared_domain.join import join

    signals = _Signals()
    joined = join(path, command, mode)
    signals.program_started(joined.launched.pid)
    error = joined.launched.exec_error()
    if error is not None:
        os.waitpid(joined.launched.pid, 0)
        raise error
    return joined.run()


def _serve(words: list[str]) -> int:
    buses: list[str] = []
    given, rest = parse("serve", words, _SERVE_OPTIONS, {"--make-bus": buses})
    _nothing_more("serve", rest)
    if given.keys() & _HELP_OPTIONS.keys():
        print(HELP, end="")
        return 0
    if "--socket" not in given:
        raise UsageError("reading the options of `kdbus serve`", "there is no --socket PATH", "see --help")

    with lasting_objects():
        from interposer.shared_domain.serve import serve

    options = RunOptions(
        flows="--no-flows" not in given, statistics="--statistics" in given, buses=tuple(buses)
    )
    return serve(given["--socket"], options)


def _mode(word: str | None) -> Mode | None:
    from interposer.launch.launch import Mode

    try:
        return None if word is None else Mode(word)
    except ValueError:
        words = " and ".join(mode.value for mode in Mode)
        raise UsageError(
            "reading the options of `kdbus run`", f"there is no mode {word!r}", f"there are {words}"
        ) from None


def _supervise(launched: Launched, signals: _Signals, options: RunOptions) -> int:
    """The program's wait status. Raises the InterposerError that kept it from being executed."""
    signals.program_started(launched.pid)
    if not options.buses:
        error = launched.exec_error()
        if error is not None:
            os.waitpid(launched.pid, 0)
            raise error
    # Who lingers may be needed after the program's end, and buses before it begins.
    needed = options.linger or options.buses
    status = None if needed else _wait_for_end_or_trap(launched)
    if status is None:
        with lasting_objects():
            from interposer.supervisor.supervisor import run

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

    sys.stdout.flush()
    sys.stderr.flush()
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if hard else 0, hard))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number


def _doctor(words: list[str]) -> int:
    options, rest = parse("doctor", words, {"--json": False, **_HELP_OPTIONS})
    _nothing_more("doctor", rest)
    if options.keys() & _HELP_OPTIONS.keys():
        print(HELP, end="")
        return 0

    from interposer import doctor

    return doctor.report(sys.stdout, as_json="--json" in options)


def _include_dir(words: list[str]) -> int:
    options, rest = parse("include-dir", words, {"--revision": True, **_HELP_OPTIONS})
    _nothing_more("include-dir", rest)
    if options.keys() & _HELP_OPTIONS.keys():
        print(HELP, end="")
        return 0
    include = os.path.join(os.path.dirname(os.path.realpath(interposer.__file__)), "include")
    revision = options.get("--revision", "final")
    known = sorted(os.listdir(include))
    if revision not in known:
        raise UsageError(f"looking for the header of revision {revision!r}", "there is none", f"try {', '.join(known)}")
    print(os.path.join(include, revision))
    return 0


_SUBCOMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "serve": _serve,
    "doctor": _doctor,
    "include-dir": _include_dir,
}


if __name__ == "__main__":
    sys.exit(main())
