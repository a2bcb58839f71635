# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `kdbus`: arguments in, an exit status out.

Options end at the first positional argument, so that `kdbus run ls -l` gives `-l` to `ls` (`interposer.options`). Which
subcommands there are, with their options, is the table at the end; what one does is a module of its own, which is
imported when it is asked for: `kdbus run -- true` should cost little more than `true`, and each pays for itself.

How a program ends is how `kdbus` ends (`interposer.ending`). Its own failures are 125, and 126 or 127 when the program
cannot be executed; they are told on stderr in one line.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import interposer
from interposer.ending import complain, die_of, say_all
from interposer.errors import InterposerError, UsageError, quoted
from interposer.lasting import lasting_objects
from interposer.options import (
    JOINED_TRACE_OPTIONS,
    UNDER_TRACE_OPTIONS,
    VERBOSE_OPTIONS,
    Given,
    parse,
    suggestion,
    too_many,
)

FAILURE = InterposerError.exit_status

_HELP_OPTIONS = {"-h": False, "--help": False}
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
_RUN_OPTIONS = {**_OWN_OPTIONS, **VERBOSE_OPTIONS, "--trace": None, "--explain": False, "--inject": True}
_VIEW_OPTIONS = {
    **dict.fromkeys(("-o", "-e", "-s", "--color"), True),
    **dict.fromkeys("-x -xx -y -t -tt -ttt -r -T -k -c -C -z -Z -v -ff --json".split(), False),
}
_TRACE_OPTIONS = {**UNDER_TRACE_OPTIONS, **_VIEW_OPTIONS, **JOINED_TRACE_OPTIONS}
_RECORD_OPTIONS = {**UNDER_TRACE_OPTIONS, "-o": True, "-s": True, "-k": False}
_CHECK_OPTIONS = {
    **UNDER_TRACE_OPTIONS,
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
    **VERBOSE_OPTIONS,
}
_BRIDGE_OPTIONS = {
    **dict.fromkeys(("--bus", "--to", "--ready-fd"), True),
    **dict.fromkeys(("--exec", "--all-users"), False),
    **VERBOSE_OPTIONS,
}
_DBUS_POLICY_OPTIONS = {
    **dict.fromkeys(("--config", "--user", "--group", "--bus", "--ready-fd"), True),
    **dict.fromkeys(("--at-console", "--json"), False),
}
_ACTIVATE_OPTIONS = {
    **dict.fromkeys(("--bus", "--from", "--ready-fd"), True),
    "--exec": False,
    **VERBOSE_OPTIONS,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `kdbus` with `arguments` (None: those of this process, without its name); the exit status.

    Does not return when the program that was run died of a signal: then this process dies of it, too.
    """
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except InterposerError as error:
        complain(f"kdbus: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        return die_of(signal.SIGINT)
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
            raise too_many(f"reading the arguments of `kdbus {word}`", rest[subcommand.words], word)
        return subcommand.act(given, rest)
    if word == "help":
        return _help(rest)
    if word in _HELP_OPTIONS:
        return _help([])
    if word in ("-V", "--version"):
        say_all(f"kdbus {interposer.__version__}\n")
        return 0
    what, known = ("option", _OPTIONS) if word.startswith("-") else ("subcommand", (*_SUBCOMMANDS, "help"))
    advice = suggestion(word, known) or "`kdbus --help` lists them"
    raise UsageError("reading the command line", f"there is no {what} {quoted(word)}", advice)


def _help(topics: list[str]) -> int:
    from interposer.help import OVERVIEW, PAGES

    if len(topics) > 1:
        raise too_many("reading the arguments of `kdbus help`", topics[1], "help")
    if topics and topics[0] not in PAGES and topics[0] != "help":
        raise UsageError(
            "looking for help",
            f"there is no subcommand {quoted(topics[0])}",
            suggestion(topics[0], PAGES) or "`kdbus --help` lists them",
        )
    say_all(PAGES.get(topics[0], OVERVIEW) if topics else OVERVIEW)
    return 0


def _run(given: Given, command: list[str]) -> int:
    from interposer.running import run

    return run(given, command)


def _trace(given: Given, command: list[str]) -> int:
    from interposer.traced_runs import trace

    return trace(given, command)


def _record(given: Given, command: list[str]) -> int:
    from interposer.traced_runs import record

    return record(given, command)


def _check(given: Given, command: list[str]) -> int:
    from interposer.traced_runs import check

    return check(given, command)


def _replay(given: Given, words: list[str]) -> int:
    from interposer.traced_runs import replay

    return replay(given, words)


def _looking(word: str) -> Callable[[Given, list[str]], int]:
    def act(given: Given, rest: list[str]) -> int:
        from interposer.watch_options import look

        return look(word, given, rest)

    return act


def _monitor(given: Given, _rest: list[str]) -> int:
    from interposer.watch_options import monitor

    return monitor(given)


def _top(given: Given, _rest: list[str]) -> int:
    from interposer.watch_options import top

    return top(given)


def _serve(given: Given, _rest: list[str]) -> int:
    from interposer.running import run_options

    with lasting_objects():
        from interposer.shared_domain.serve import serve

    activating = []
    if "--activate" in given:
        from interposer.activating import commands_of, folders_by_bus

        activating = commands_of(folders_by_bus("serve", given))
    return serve(given.last("--socket"), run_options("serve", given), given.last("--ready-fd"), activating)


def _show(given: Given, words: list[str]) -> int:
    from interposer import show

    return show.run(given, words)


def _proxy(given: Given, command: list[str]) -> int:
    from interposer.proxying import proxy

    status = proxy(given, command)
    return status if status >= 0 else die_of(-status)


def _dbus_policy(given: Given, words: list[str]) -> int:
    from interposer.dbus_policy import dbus_policy

    return dbus_policy(given, words, say_all, complain)


def _activate(given: Given, command: list[str]) -> int:
    from interposer.activating import activate

    status = activate(given, command)
    return status if status >= 0 else die_of(-status)


def _bridge(given: Given, command: list[str]) -> int:
    from interposer.bridging import bridge

    status = bridge(given, command)
    return status if status >= 0 else die_of(-status)


def _doctor(given: Given, _rest: list[str]) -> int:
    from interposer import doctor

    text, works = doctor.report(as_json="--json" in given)
    say_all(text)
    return 0 if works else 1


def _include_dir(given: Given, _rest: list[str]) -> int:
    include = os.path.join(os.path.dirname(os.path.realpath(interposer.__file__)), "include")
    revision = given.get("--revision", ["final"])[-1]
    known = sorted(os.listdir(include))
    if revision not in known:
        attempted = f"looking for the header of revision {quoted(revision)}"
        raise UsageError(attempted, "there is none", f"try {', '.join(known)}")
    say_all(os.path.join(include, revision) + "\n")
    return 0


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
    "list": _Subcommand(_looking("list"), _WATCH_OPTIONS),
    "tree": _Subcommand(_looking("tree"), _WATCH_OPTIONS),
    "status": _Subcommand(_looking("status"), _WATCH_OPTIONS, words=1),
    "policy": _Subcommand(_looking("policy"), _WATCH_OPTIONS),
    "monitor": _Subcommand(_monitor, _MONITOR_OPTIONS),
    "top": _Subcommand(_top, _TOP_OPTIONS),
}
_OPTIONS = (*_HELP_OPTIONS, "-V", "--version")


if __name__ == "__main__":
    sys.exit(main())
