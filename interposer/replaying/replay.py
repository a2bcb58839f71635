# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus replay`: its options, and the process that plays (`stage`), which is run as `kdbus run` runs any program."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

from interposer.errors import OutputFailed, RecordingUnreadable, UsageError, quoted
from interposer.options import Given, see_help
from interposer.replaying.script import Key, Script, Unplayable
from interposer.replaying.stage import Play
from tracing.record import Tracer
from tracing.session import Recorder

_ATTEMPT = "reading the arguments of `kdbus replay`"
_BOOT = "import sys; sys.path[:0] = {paths!r}; from interposer.replaying.stage import main; main(sys.argv[1])"
_PAYLOAD = 64 << 10
_COMM = 15
"""Bytes of a process's name that the kernel keeps."""


class Replay:
    """One replay, against `program`, a command with its arguments; `script` is the recording."""

    def __init__(self, given: Given, words: list[str]) -> None:
        """Raises UsageError."""
        if not words:
            raise UsageError(_ATTEMPT, "there is no recording", see_help("replay"))
        self.path, *program = words
        if program and program[0] == "--":
            program = program[1:]
        elif program and program[0].startswith("-"):
            raise UsageError(_ATTEMPT, f"{quoted(program[0])} behind the recording", "options stand before it")
        if not program:
            advice = f"give one: kdbus replay {self.path} -- PROGRAM"
            raise UsageError(_ATTEMPT, "there is no program to play against", advice)
        self.program = program
        self._given = given
        self._patience_s = _seconds(given.last("--patience") or "5")
        for mask in given.get("--mask", []):
            try:
                re.compile(mask)
            except re.error as error:
                raise UsageError(_ATTEMPT, f"--mask {quoted(mask)}: {error}", see_help("replay")) from None
        self.script = Script()

    def prepare(self, feed: Callable[[str, Script], None]) -> tuple[list[str], Tracer]:
        """Read the recording by `feed`; the command that plays it, and who has to see all calls.

        Adds to the given options what `kdbus run` needs to know. Raises RecordingUnreadable, and what `feed` raises.
        """
        try:
            feed(self.path, self.script)
            played = self._cast()
            self.script.check(played)
        except Unplayable as error:
            raise RecordingUnreadable(f"replaying {quoted(self.path)}", str(error), error.advice) from error
        try:
            reader, writer = os.pipe()
        except OSError as error:
            raise OutputFailed("making a pipe for the records", os.strerror(error.errno or 0)) from error
        os.set_inheritable(reader, True)
        revisions = {peer.revision for peer in self.script.peers.values()}
        if revisions == {"219"}:
            self._given.setdefault("--revision", ["219"])
        play = Play(
            os.path.abspath(self.path),
            sorted(played),
            self.program,
            self._buses(),
            self._given.get("--mask", []),
            "--timing" in self._given,
            self._patience_s,
            reader,
        )
        boot = _BOOT.format(paths=sys.path)
        records = self.script.records
        cut = any(len(record.payload) < record.payload_size for record in records)
        limit = self.script.payload_limit if cut else max(_PAYLOAD, self.script.payload_limit)
        return [sys.executable, "-I", "-c", boot, play.packed()], Recorder(writer, "the replay", limit, left=False)

    def _cast(self) -> set[Key]:
        words = self._given.get("--play")
        if words:
            return self.script.chosen([each for word in words for each in word.split(",")])
        return self.script.all_but(os.path.basename(self.program[0])[:_COMM])

    def _buses(self) -> dict[str, str]:
        """The names of buses and endpoints of now, by those of the recording; the given buses are asked for."""
        found = {}
        given = self.script.given_buses
        nodes = {record.node for record in self.script.records if "/" in record.node}
        for name in {part for node in nodes for part in node.split("/")} - {"bus"}:
            number, _, rest = name.partition("-")
            is_system = name == "0-system" and name in given
            found[name] = name if is_system or not number.isdecimal() else f"{os.geteuid()}-{rest}"
            if name in given:
                self._given.setdefault("--make-bus", []).append("system" if is_system else rest or name)
        return found


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
        if 0 < seconds < float("inf"):
            return seconds
    except ValueError:
        pass
    raise UsageError(_ATTEMPT, f"--patience {quoted(word)} is no number of seconds", see_help("replay"))
