# SPDX-License-Identifier: GPL-2.0-or-later
"""What was recorded in a domain, for a test to ask about."""

from __future__ import annotations

import ctypes
import difflib
import json
import os
import select
import subprocess
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from pytest_kdbus.agent import NAME

_IN_MODIFY = 2


@dataclass(frozen=True)
class Call:
    """One call on kdbus."""

    command: str
    """ "SEND" """
    errno: str | None
    """ "ENOBUFS"; None if it did not fail."""
    reason: str | None
    """Why it failed, in words."""
    process: int
    program: str
    """The name of the thread, that of the program mostly (`/proc/PID/comm`)."""
    connection: int | None
    """The id of the connection that made it."""
    peer: int | None
    """That of the other side of a message."""
    names: dict[int, list[str]]
    """Well-known names of the connections that it is about, by id."""
    payload: bytes
    """The beginning of the message's payload."""
    record: dict[str, Any]
    """All of it, as docs/tracing.md describes."""


def lines(command: str, file: str) -> str:
    """The recording as text."""
    return _show(command, "-s", "200", file)


def calls(command: str, file: str) -> Iterator[Call]:
    """The calls of the recording, one for each, also if it has waited. Not those of the agent."""
    for line in _show(command, "--json", file).splitlines():
        record = json.loads(line)
        if record["event"] == "call" and record["phase"] != "unfinished" and record["comm"] != NAME:
            yield Call(
                record["command"],
                record.get("errno"),
                record.get("reason"),
                record["pid"],
                record["comm"],
                record.get("connection"),
                record.get("peer"),
                {int(number): names for number, names in record.get("names", {}).items()},
                bytes.fromhex((record.get("payload") or {}).get("hex", "")),
                record,
            )


class Growth:
    """Waits for a file to grow (inotify(7)). A context manager."""

    def __init__(self, file: str) -> None:
        """Raises OSError."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, os.fsencode(file), _IN_MODIFY) < 0:
            number = ctypes.get_errno()
            self.__exit__()
            raise OSError(number, os.strerror(number), file)

    def wait(self, seconds: float) -> bool:
        """Until it has grown since the last time, or, the first time, since the beginning; False: not within that time.
        """
        if not select.select([self._descriptor], [], [], max(0.0, seconds))[0]:
            return False
        with suppress(BlockingIOError):
            while os.read(self._descriptor, 4096):
                pass
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


@dataclass(frozen=True)
class Finding:
    """Something that a rule of `kdbus check` has found (docs/check.md)."""

    rule: str
    severity: str
    """ "error", "warning" or "note"."""
    where: str
    """Which program, process, connection and bus."""
    text: str


def findings(command: str, file: str, rules: Collection[str]) -> Iterator[Finding]:
    """What some rules of `kdbus check`, or without names all, find in the recording, but not in what the agent does.
    Raises ValueError: there is no such rule."""
    asked = [command, "check", "--recording", file, "--json", "/dev/stdout"]
    shown = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    told = json.loads(shown.stdout)
    for rule in rules:
        if rule not in told["rules"]:
            raise ValueError(unknown("rule", rule, told["rules"]))
    for found in told["findings"]:
        if not found["where"].startswith(f"{NAME} (") and (not rules or found["rule"] in rules):
            yield Finding(found["rule"], found["severity"], found["where"], found["text"])


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """What to say of a name that does not exist: a test that asks for it would find nothing, and pass."""
    close = difflib.get_close_matches(name, known, 1)
    advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"there is no {what} {name!r}; {advice}"


def _show(command: str, *words: str) -> str:
    # Its status does not matter: a recording that still grows is one that is cut off.
    shown = subprocess.run([command, "show", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return shown.stdout.decode()
