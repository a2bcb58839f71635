# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that plays, within the kdbus that `kdbus replay` has started: it starts the live program, and follows it.

What the live side does comes as records through a pipe from the supervisor, which sees every call, in their order. So
nothing has to be guessed: before each step of a played peer, everything is waited for that the live side had done by
then when it was recorded. The program is started when that is first needed, so what it will look for is there.

One thread reads records, another waits for children (all that the program has started count, daemons as well), and the
main one plays. A wait that is in vain is told and forgiven: later steps do not wait for the same again.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, NoReturn

from interposer.errors import InterposerError, ProgramNotExecutable, ProgramNotFound, quoted
from interposer.replaying.live import CLOSED, ELSE, RECEIVED, Live, Recorded, differences
from interposer.replaying.player import Player
from interposer.replaying.script import Key, Script, is_change, key_of
from kdbus.negotiation import probe
from kdbus.nodes import speaks_final
from tracing.escaping import count_of
from tracing.record import Record
from tracing.recording import BadRecording, read

DIFFERENT = 1
"""The exit status where the live side differs, and has ended with 0."""
_SUBREAPER = 36
_MARK_S = 30.0
"""How long a call of our own may take to come through the pipe, in seconds, before it is given up."""
_SHOWN = 200
"""Lines of one difference that are shown at most."""


@dataclass(frozen=True, slots=True)
class Play:
    """What is to be played, from `kdbus replay` to this process."""

    path: str
    played: list[Key]
    command: list[str]
    buses: dict[str, str]
    """Names of buses and endpoints that are others now, by what they were."""
    masks: list[str]
    timing: bool
    patience_s: float
    records: int
    """The descriptor that the live side's records come from."""

    def packed(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def unpacked(cls, text: str) -> Play:
        found: dict[str, Any] = json.loads(text)
        found["played"] = [(bus, number) for bus, number in found["played"]]
        return cls(**found)


def main(text: str) -> NoReturn:
    """Play; ends the process with the status that is `kdbus replay`'s."""
    play = Play.unpacked(text)
    script = Script()
    with open(play.path, "rb") as file:
        for record in read(file):
            script.take(record)
    try:
        status = _Stage(play, script).run()
    except InterposerError as error:
        _say(str(error))
        status = error.exit_status
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.stdout.flush()
    os._exit(status & 0xFF)


def _say(line: str) -> None:
    with suppress(OSError, ValueError):
        print(f"kdbus: {line}", file=sys.stderr, flush=True)


class _Ended:
    """All processes of the live side have."""


class _Mark:
    """A call of our own has come through the pipe, and with it all that happened before."""


class _Stage:
    def __init__(self, play: Play, script: Script) -> None:
        masks = [re.compile(mask) for mask in play.masks]
        played = set(play.played)
        self._play = play
        self._script = script
        self._played = played
        self._processes = script.live_processes(played)
        self._recorded = Recorded(script, played, masks)
        hellos = [
            (key, record)
            for record in script.records
            if (key := key_of(record)) is not None
            and key not in played
            and record.command == "HELLO"
            and not record.errno
        ]
        then = {now: before for before, now in play.buses.items()}
        self._live = Live(hellos, masks, lambda bus: then.get(bus, bus))
        self._player = Player(self._live, self._recorded, lambda bus: play.buses.get(bus, bus))
        self._happened: queue.SimpleQueue[Record | _Ended | _Mark] = queue.SimpleQueue()
        self._forgiven: dict[Key, Counter[str]] = {}
        self._program: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self._ended = False
        self._stopped = False
        self._told_of_end = False
        self._notes: list[str] = []

    def run(self) -> int:
        """Play everything; the status to end with, negative for a death by signal."""
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        os.set_inheritable(self._play.records, False)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._hand_on)
        threading.Thread(target=self._read, daemon=True).start()
        reached: tuple[int, int] | None = None
        steps = {id(record): record for record in self._script.steps(self._played)}
        for record in self._script.records:
            if id(record) in steps:
                self._catch_up(f"record {record.sequence}, {record.command or record.event} of a played peer")
                if self._play.timing and reached is not None:
                    self._hear_until(reached[1] + record.monotonic_ns - reached[0])
                self._player.play(record)
            elif self._script.is_live(record, self._played, self._processes):
                self._recorded.take(record, key_of(record) or ELSE)
            else:
                continue
            reached = record.monotonic_ns, time.monotonic_ns()
        self._catch_up("the end", but=CLOSED)
        self._player.close()
        self._finish()
        return self._report()

    # ---- waiting

    def _catch_up(self, before: str, but: str = "") -> None:
        """Wait until the live side has done what it had done by now when it was recorded. `but`: what does not count.
        """
        while self._hear(0):
            pass
        deadline = time.monotonic() + self._play.patience_s
        while missing := [each for each in self._missing() if each[1] != but]:
            if self._program is None:
                self._start()
                deadline = time.monotonic() + self._play.patience_s
            if self._ended or not self._hear(deadline - time.monotonic()):
                self._forgive(missing, before)
                return

    def _missing(self) -> Iterator[tuple[Key, str, int]]:
        for key, stream in self._recorded.streams.items():
            now, forgiven = self._live.stream(key).count, self._forgiven.get(key, Counter())
            for command, count in stream.count.items():
                lacking = count - now[command] - forgiven[command]
                if lacking > 0:
                    yield key, command, lacking

    def _forgive(self, missing: list[tuple[Key, str, int]], before: str) -> None:
        """Do not wait for what is missing again; tell of it, unless the program's end has explained it already."""
        told: dict[Key, list[str]] = {}
        for key, command, count in missing:
            self._forgiven.setdefault(key, Counter())[command] += count
            if command != CLOSED:
                told.setdefault(key, []).append("the receiving of a message" if command == RECEIVED else command)
        why = "the program had ended" if self._ended else f"it was waited for {self._play.patience_s:g} s"
        for key, commands in told.items():
            if not self._told_of_end:
                who = self._recorded.stream(key).title
                self._notes.append(f"{who}: {', '.join(commands)} did not come before {before}; {why}")
        self._told_of_end = self._ended and bool(told)

    def _hear(self, seconds: float) -> bool:
        """Take one thing that has happened; False if there was none within that time."""
        try:
            happened = self._happened.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return False
        if isinstance(happened, _Ended):
            self._hear_the_rest()
            self._ended = True
        elif isinstance(happened, Record):
            self._live.hear(happened)
        return True

    def _hear_the_rest(self) -> None:
        """Take what the live side has done before its end, which may still be on its way."""
        speaks_final()
        with suppress(queue.Empty):
            while not isinstance(happened := self._happened.get(timeout=_MARK_S), _Mark):
                if isinstance(happened, Record):
                    self._live.hear(happened)

    def _hear_until(self, deadline_ns: int) -> None:
        while (left := deadline_ns - time.monotonic_ns()) > 0:
            if not self._hear(left / 1e9) or self._ended:
                time.sleep(max(0, deadline_ns - time.monotonic_ns()) / 1e9)

    # ---- the live program

    def _start(self) -> None:
        command = self._play.command
        attempted = f"executing {quoted(command[0])}"
        try:
            self._program = subprocess.Popen(command)
        except FileNotFoundError as error:
            raise ProgramNotFound(attempted, "there is no such program", "check its name and PATH") from error
        except OSError as error:
            raise ProgramNotExecutable(attempted, os.strerror(error.errno or 0)) from error
        threading.Thread(target=self._reap, args=(self._program.pid,), daemon=True).start()

    def _reap(self, program: int) -> None:
        """Wait for the program and for all that it has started."""
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                self._happened.put(_Ended())
                return
            if pid == program:
                self._status = os.waitstatus_to_exitcode(status)

    def _read(self) -> None:
        own, mark = os.getpid(), probe().request
        with suppress(BadRecording, OSError), open(self._play.records, "rb") as file:
            for record in read(file):
                if record.pid != own:
                    self._happened.put(record)
                elif record.request == mark and not is_change(record):
                    self._happened.put(_Mark())

    def _finish(self) -> None:
        """Let the program end, or end it."""
        if self._program is None:
            self._start()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._signal(number)
            if number is signal.SIGTERM:
                self._notes.append("the program was still running, and was ended by SIGTERM")
                self._stopped = True
            deadline = time.monotonic() + self._play.patience_s
            while not self._ended:
                if not self._hear(deadline - time.monotonic()):
                    break
            else:
                return

    def _signal(self, number: int) -> None:
        if self._program is not None and self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self._program.pid, number)

    def _hand_on(self, number: int, _frame: FrameType | None) -> None:
        """The program gets what ends us."""
        self._signal(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    # ---- the result

    def _report(self) -> int:
        found = list(differences(self._recorded, self._live))
        for title, lines in found:
            _say(f"{title} differs from the recording:")
            shown = lines[:_SHOWN] + ([f"... and {len(lines) - _SHOWN} lines more"] if len(lines) > _SHOWN else [])
            with suppress(OSError, ValueError):
                print("\n".join(shown), file=sys.stderr, flush=True)
        failures = self._player.failures
        for line in (*failures, *(self._notes if found or failures else ())):
            _say(line)
        count = len(found) + len(failures)
        same = sum(stream.count.total() for stream in self._recorded.streams.values())
        verdict = count_of(count, "difference") if count else f"all {count_of(same, 'call')} of it as recorded"
        played = count_of(self._player.played, "call")
        _say(f"replayed {played} against {quoted(self._play.command[0])}: {verdict}")
        if self._status and not self._stopped:
            return self._status
        return DIFFERENT if count else 0
