# SPDX-License-Identifier: GPL-2.0-or-later
"""Building the C programs and running commands: the only module that starts what is measured.

A command gets a session of its own, which is killed as a whole when the command has ended or the patience with it has:
programs here have helpers, and one that stayed would disturb all that follows. The group is killed before its leader
is reaped, since until then nobody else can have its number. Output goes to files, as a pipe would be waited
for as long as a left-over process holds it.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = Path(__file__).resolve().parent / "programs"
PATIENCE = 120.0
"""Seconds for one command; none comes near it unless it hangs."""
_IMPORT_EVERYTHING = (
    "import interposer.supervisor.start, interposer.supervisor.loop; "
    "from interposer.injection import injection; injection.prepare()"
)
"""Run once, ahead of what is measured, so that the byte code is there."""
_ENDING = (signal.SIGINT, signal.SIGTERM)


class CannotRun(Exception):
    """A program cannot be built or started, or it failed. `str()` says what, why, and what to do.

    `lines` is what it had printed before.
    """

    def __init__(self, reason: str, lines: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.lines = list(lines)


class NotInstalled(CannotRun):
    """What is needed is not on this machine. `str()` names the package that brings it."""


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, with all of its group, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass
class Execution:
    """Where programs are built and with what environment they run. `kdbus` is the command `kdbus`, as words."""

    folder: Path
    kdbus: Sequence[str]
    environment: Mapping[str, str]
    revision: str = "final"
    """Of the kdbus API that programs are built for."""
    self_serve: bool = False
    """Whether their receivers serve themselves."""
    _built: dict[str, Path | CannotRun] = field(default_factory=dict)

    def run_under_kdbus(self, *command: str | Path) -> list[str]:
        """The command that runs `command` under `kdbus run`."""
        options = ["--self-serve"] if self.self_serve else []
        if self.revision == "219":
            options += ["--revision", "219"]  # which is not recognised by what a benchmark does
        return [*self.kdbus, "run", *options, "--", *map(str, command)]

    def program(self, name: str) -> Path:
        """The program built from `programs/NAME.c`, built at the first time. Raises CannotRun, each time."""
        if name not in self._built:
            try:
                self._built[name] = self._build(name)
            except CannotRun as error:
                self._built[name] = error
        found = self._built[name]
        if isinstance(found, CannotRun):
            raise found
        return found

    def compile_command(self, name: str, *more: str) -> list[str]:
        """The command that compiles `programs/NAME.c`, without a place for the result."""
        include = self.run([*self.kdbus, "include-dir", "--revision", self.revision])[0]
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", f"-I{include}"]
        if self.revision == "2":
            flags.append("-DMESSAGE_IS_COMMAND")
        return [*shlex.split(os.environ.get("CC", "gcc")), *flags, *more, str(SOURCES / f"{name}.c")]

    def _build(self, name: str) -> Path:
        command = self.compile_command(name)
        if shutil.which(command[0]) is None:
            raise NotInstalled(f"there is no compiler {command[0]}; apt-get install gcc libc6-dev")
        libraries = ["-lsystemd"] if name.startswith("dbus-") else []
        if libraries and not self._has_header("systemd/sd-bus.h"):
            raise NotInstalled("systemd/sd-bus.h is not there; apt-get install libsystemd-dev")
        target = self.folder / name
        self.run([*command, "-o", str(target), *libraries])
        return target

    def _has_header(self, name: str) -> bool:
        command = [*shlex.split(os.environ.get("CC", "gcc")), "-E", "-x", "c", "-"]
        source = f"#include <{name}>\n".encode()
        return subprocess.run(command, check=False, input=source, capture_output=True).returncode == 0

    def run(self, command: Sequence[str | Path], variables: Mapping[str, str] | None = None) -> list[str]:
        """Run `command` to its end and return the lines of its stdout.

        `variables` are added to the environment. Raises CannotRun if it cannot be started, does not end in time, or
        does not end with status 0; the reason is then what it said on stderr.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            with self.started(command, output, errors, variables) as process:
                watched = os.pidfd_open(process.pid)
                try:
                    ended = bool(select.select([watched], [], [], PATIENCE)[0])
                finally:
                    os.close(watched)
            lines = _text(output).splitlines()
            said = [line for line in _text(errors).splitlines() if line.strip()]
        words = shlex.join(str(word) for word in command)
        if not ended:
            raise CannotRun(f"{words}: had not ended after {PATIENCE:.0f} s", lines)
        if process.returncode != 0:
            raise CannotRun(f"{words}: {_cause(command, said) or f'ended with status {process.returncode}'}", lines)
        return lines

    @contextmanager
    def started(
        self,
        command: Sequence[str | Path],
        output: IO[bytes] | int,
        errors: IO[bytes] | int,
        variables: Mapping[str, str] | None = None,
        **more: object,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """`command` while the context lasts; then its session is killed. Raises CannotRun if it cannot be started.

        `more` goes to Popen; stdin is /dev/null unless it is given there.
        """
        arguments: dict[str, object] = {"stdin": subprocess.DEVNULL, "cwd": self.folder, **more}
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
        try:
            # Or what has just been started would not be ended.
            with _interrupts_put_off() as interrupts:
                process = start(
                    [str(word) for word in command],
                    stdout=output,
                    stderr=errors,
                    env={**self.environment, **(variables or {})},
                    start_new_session=True,
                    **arguments,
                )
        except OSError as error:
            raise CannotRun(f"cannot start {command[0]}: {error.strerror}") from error
        try:
            if interrupts:
                raise KeyboardInterrupt
            yield process
        finally:
            if process.returncode is None:
                kill_session(process)
            for end in (process.stdin, process.stdout):
                if end is not None:
                    # What was not read or written yet is of no use to anybody.
                    with suppress(BrokenPipeError):
                        end.close()


@contextmanager
def _interrupts_put_off() -> Iterator[list[int]]:
    """Signals that would end the run are only noted, in the list; for the main thread."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in _ENDING}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parse_samples(lines: Sequence[str]) -> list[tuple[str, float]]:
    """(what, number) of each line `WHAT<tab>NUMBER`; other lines are passed over."""
    found = []
    for line in lines:
        what, tab, number = line.rpartition("\t")
        if tab:
            found.append((what, float(number)))
    return found


def _cause(command: Sequence[str | Path], said: Sequence[str]) -> str:
    """What tells best why `command` failed.

    The first line that begins with the name of a program in it, or of kdbus: when one fails, others follow. Where such
    a line refers to what stands above it, that comes along. Otherwise the last line.
    """
    starts = ("kdbus: ", *(f"{Path(word).name}: " for word in command))
    for above, line in zip(["", *said], said, strict=False):
        if line.startswith(starts):
            return f"{above.strip()}; {line}" if "see above" in line else line
    return said[-1] if said else ""


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


@contextmanager
def execution(
    kdbus: Sequence[str] | None = None, revision: str = "final", *, self_serve: bool = False
) -> Iterator[Execution]:
    """An `Execution` in a new folder that everybody may read, gone afterwards. `kdbus` None: that of this project."""
    with tempfile.TemporaryDirectory(prefix="kdbus-benchmarks-") as name:
        os.chmod(name, 0o755)
        environment = _environment(Path(name))
        subprocess.run([sys.executable, "-c", _IMPORT_EVERYTHING], check=False, capture_output=True, env=environment)
        yield Execution(Path(name), kdbus or [sys.executable, "-m", "interposer"], environment, revision, self_serve)


def _environment(folder: Path) -> dict[str, str]:
    """That of the commands. Python's byte code is kept in `folder`.

    What is installed has its byte code with it; a tree where none may be written has not, and would compile all modules
    at each start.
    """
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONPYCACHEPREFIX": str(folder / "byte-code"), "LC_ALL": "C"}
    return {**inherited, **own}
