# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `python -m benchmarks`: arguments in, tables out, an exit status.

Results go to stdout, what is being measured to stderr. The status is 1 if a measurement failed; what is not installed,
a disturbed result or a missed target is no failure of the benchmarks. A run that is interrupted tells what it has
measured, and ends with 130; the file of --json has at any moment what there is.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import machine, pictures, records, report, runner
from benchmarks.execution import CannotRun, execution
from benchmarks.figures import Results
from benchmarks.groups import GROUPS, Context, Group
from benchmarks.message_buses import message_buses
from benchmarks.settings import FULL, QUICK, Settings

PAGE_FILE = "measurements.md"
NOISE = 0.1
"""The part of the processors' time from which on other programs disturb a run."""

_INTERRUPTED = 130
REVISIONS = ("2", "3", "219", "4", "final")

DESCRIPTION = """\
Measure how fast kdbus programs are under `kdbus run`, and what others pay for it, in comparison with a bare trap, a
unix socket, dbus-daemon and dbus-broker, and how fast D-Bus programs are with `kdbus proxy`. Peers that are not
installed are named; all of them together:
apt-get install gcc libc6-dev libsystemd-dev dbus dbus-broker strace.
Without --quick it takes up to 20 minutes. The machine should have nothing else to do.
"""


def _parser() -> argparse.ArgumentParser:
    groups = "\n".join(f"  {group.name:<12} {group.title}" for group in GROUPS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION,
        epilog=f"groups, all unless some are named:\n{groups}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [group.name for group in GROUPS]
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="measure only these groups")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions: up to 3 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE, one JSON object per line")
    save = f"keep the results in FOLDER, as {PAGE_FILE} and pictures (for which matplotlib is needed)"
    parser.add_argument("--save", type=Path, metavar="FOLDER", help=save)
    parser.add_argument("--repetitions", type=_count, metavar="N", help="how often everything takes its turn")
    parser.add_argument("--seconds", type=_duration, metavar="S", help="time for one figure in one turn")
    kdbus = "the command `kdbus` to measure, as one word for the shell; default: that of this tree"
    parser.add_argument("--kdbus", type=shlex.split, metavar="COMMAND", help=kdbus)
    parser.add_argument(
        "--revision", choices=REVISIONS, default="final", help="of the kdbus API that is measured; default: final"
    )
    serve = "let receivers of kdbus serve themselves (`kdbus run --self-serve`)"
    parser.add_argument("--self-serve", action="store_true", help=serve)
    parser.set_defaults(names=names)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def _duration(text: str) -> float:
    number = float(text)
    if not 0 < number <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds up to 600")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as `arguments` say (None: those of this process); the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    unknown = [name for name in options.groups if name not in options.names]
    if unknown:
        parser.error(f"there is no group {unknown[0]!r}; there are {', '.join(options.names)}")
    for path in filter(None, (options.json and options.json.parent, options.save)):
        if not path.is_dir():
            parser.error(f"{path} is not a folder; make it first")

    before = machine.others_share()
    run = _Run(options, _settings(options), machine.describe())
    receivers = ", receivers serve themselves" if options.self_serve else ""
    run.facts["kdbus API"] = f"revision {options.revision}{receivers}"
    groups = [group for group in GROUPS if not options.groups or group.name in options.groups]
    interrupted = False
    try:
        _measure(groups, run, options)
    except KeyboardInterrupt:
        _progress("interrupted, this is what was measured before")
        interrupted = True
    after = machine.others_share()
    run.facts["used by others before and after"] = f"{before:.0%} and {after:.0%} of the cores"
    if max(before, after) > NOISE:
        run.results.disturbances.append(
            f"other programs used {before:.0%} of the processors before the run and {after:.0%} after it; "
            "end them and measure again"
        )
    if interrupted:
        run.results.disturbances.append("the run was interrupted before its end")
    run.keep()
    if not interrupted:
        run.save()
    print(report.text(run.results, run.facts, run.summary()), end="")
    return _INTERRUPTED if interrupted else 1 if run.results.failures else 0


class _Run:
    """What is measured, and where it is kept."""

    def __init__(self, options: argparse.Namespace, settings: Settings, facts: dict[str, str]) -> None:
        self.settings = settings
        self.facts = facts
        self.results = Results()
        self._mode = "quick" if options.quick else "full"
        self._json: Path | None = options.json
        self._folder: Path | None = options.save
        self._started = time.gmtime()
        self._start = time.monotonic()

    def summary(self) -> str:
        """When, how long and how often, in one sentence."""
        minutes = (time.monotonic() - self._start) / 60
        date = time.strftime("%Y-%m-%d", self._started)
        repetitions = self.settings.repetitions
        return f"Measured on {date} in {minutes:.1f} minutes, {self._mode} mode: {repetitions} repetitions."

    def keep(self) -> None:
        """Write --json's file, with what there is so far."""
        if self._json:
            content = {
                "mode": self._mode,
                "repetitions": self.settings.repetitions,
                "seconds": self.settings.seconds,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", self._started),
                "duration": round(time.monotonic() - self._start, 1),
            }
            lines = records.lines(self.results, self.facts, content)
            _replace(self._json, "".join(f"{line}\n" for line in lines))

    def save(self) -> None:
        """Write --save's files."""
        if self._folder:
            drawn = []
            for picture in pictures.pictures(self.results):
                try:
                    pictures.draw(picture, self._folder / picture.file)
                    drawn.append(picture)
                except pictures.NoPictures as error:
                    self.results.miss("pictures", str(error))
            page = report.markdown(self.results, self.facts, self.summary(), drawn)
            (self._folder / PAGE_FILE).write_text(page)


def _replace(path: Path, text: str) -> None:
    """Write a file anew; whoever is interrupted in the middle has left the former one."""
    if path.exists() and not path.is_file():
        path.write_text(text)  # /dev/stdout, a pipe
        return
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)


def _settings(options: argparse.Namespace) -> Settings:
    settings = QUICK if options.quick else FULL
    if options.repetitions is not None:
        settings = replace(settings, repetitions=options.repetitions)
    if options.seconds is not None:
        settings = replace(settings, seconds=options.seconds)
    return settings


def _measure(groups: Sequence[Group], run: _Run, options: argparse.Namespace) -> None:
    # What was started has sessions of its own, so whoever ends this process does not reach it: we have to.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        programs = stack.enter_context(execution(options.kdbus, options.revision, self_serve=options.self_serve))
        buses = {}
        if any(group.uses_buses for group in groups):
            for name, found in stack.enter_context(message_buses(programs)).items():
                if isinstance(found, CannotRun):
                    run.results.miss(name, str(found))
                else:
                    buses[name] = found
        runner.measure(groups, Context(programs, run.settings, buses, run.results), _progress, run.keep)


def _progress(message: str) -> None:
    print(f"benchmarks: {message}", file=sys.stderr, flush=True)
