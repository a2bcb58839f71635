# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the kdbus that is meant, and asking it.

Whoever gives neither a domain nor a process means the one that runs. A process may be the supervisor, or any that it
has started: then the nearest of its ancestors counts that can be watched. Or it is connected to one, as a program that
has joined a server's domain is.

Nothing that comes is trusted: an answer has bounds, in size and in time, and is shown escaped (`interposer.watching
.table`), as names and commands are chosen by programs, and root may watch other users' supervisors.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

from interposer.errors import NothingToWatch, printable
from interposer.watching import places, wire
from interposer.watching.wire import Record

_PATIENCE_S = 20.0
_SHORT_PATIENCE_S = 3.0
"""Where it is asked what there is: one that is stopped must not hold up who looks for others."""
_MOST_BYTES = 1 << 28
"""Of one answer: far more than there can be connections for."""
_ATTEMPTED = "looking for a kdbus to watch"


class Watching:
    """A conversation with one supervisor. A context manager."""

    def __init__(self, connection: socket.socket, process: int) -> None:
        self.process = process
        self._connection = connection
        self._connection.settimeout(_PATIENCE_S)
        self._rest = b""
        self._attempted = f"asking the supervisor {process}"

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the conversation."""
        self._connection.close()

    def _failed(self, reason: str, advice: str = "") -> NothingToWatch:
        self._connection.close()
        return NothingToWatch(self._attempted, reason, advice)

    def introduce(self) -> Record:
        """What the supervisor says of itself. Raises NothingToWatch."""
        self._connection.settimeout(_SHORT_PATIENCE_S)
        about = self.ask(wire.SUPERVISOR)
        self._connection.settimeout(_PATIENCE_S)
        return about[0] if about else {}

    def ask(self, question: str, **more: object) -> list[Record]:
        """All sheets of the answer but the last, which says that they are all. Raises NothingToWatch."""
        return list(self._answers(question, _MOST_BYTES, more))

    def stream(self, question: str, **more: object) -> Iterator[Record]:
        """The sheets as they come, which may take any time and does not end; the first is about the supervisor.

        It ends with the supervisor. Raises NothingToWatch.
        """
        for record in self._answers(question, None, more):
            self._connection.settimeout(None)
            yield record

    def _answers(self, question: str, left: int | None, more: dict[str, object]) -> Iterator[Record]:
        """`left`: bytes that the answer may have; None for one that only ends with the supervisor."""
        begun = False
        try:
            self._connection.sendall(wire.line_of({"watch": wire.VERSION, "ask": question, **more}))
            while True:
                line = self._line()
                left = None if left is None else left - len(line)
                record = wire.record_of(line)
                if record.get("record") == "end":
                    return
                if record.get("record") == "error":
                    raise self._failed(printable(str(record.get("reason"))), "run it as that user, or as root")
                if left is not None and left < 0:
                    raise wire.Nonsense("the answer does not end")
                yield record
                begun = True
        except TimeoutError:
            raise self._failed(
                f"no answer within {self._connection.gettimeout():g} s", "is it stopped, or very busy?"
            ) from None
        except OSError as error:
            if begun and left is None:
                return
            raise self._failed(os.strerror(error.errno or 0), "it may have ended") from error
        except wire.Nonsense as error:
            raise self._failed(f"the answer makes no sense: {error}") from error

    def _line(self) -> bytes:
        parts = self._rest.partition(b"\n")
        chunks = [parts[0]]
        size = len(parts[0])
        while not parts[1]:
            data = self._connection.recv(1 << 16)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            parts = data.partition(b"\n")
            chunks.append(parts[0])
            size += len(parts[0])
            if size > wire.LONGEST_LINE:
                raise wire.Nonsense("a line does not end")
        self._rest = parts[2]
        return b"".join(chunks)


def watch(domain: str | None = None, process: int | None = None) -> Watching:
    """The kdbus of `kdbus serve --socket DOMAIN`; or that of a process; or the only one. Raises NothingToWatch."""
    if process is not None:
        return _of_process(process)
    silent: list[int] = []
    found = list(_all(silent))
    if domain is not None:
        return _of_domain(found, domain)
    if len(found) == 1:
        return found[0][0]
    for watching, _ in found:
        watching.close()
    if not found and silent:
        which = ", ".join(map(str, silent))
        raise NothingToWatch(_ATTEMPTED, f"process {which} does not answer", "is it stopped? `fg` continues a job")
    if not found:
        advice = "start one: `kdbus serve`, or `kdbus run`, which is there from its program's first call of kdbus on"
        raise NothingToWatch(_ATTEMPTED, f"uid {os.geteuid()} runs none", advice)
    choices = ", ".join(f"-p {watching.process} ({_described(about)})" for watching, about in found)
    raise NothingToWatch(_ATTEMPTED, f"there are {len(found)}", f"choose one: {choices}")


def _of_process(process: int) -> Watching:
    attempted = f"looking for the kdbus of process {process}"
    try:
        owner = os.stat(f"/proc/{process}").st_uid
    except OSError:
        raise NothingToWatch(attempted, "there is no such process", _advice()) from None
    current = process
    while current > 0:
        with suppress(OSError):
            return Watching(places.connect(current), current)
        current = _parent(current)
    found = list(_all([]))
    connected = [watching for watching, _ in found if _is_connected(process, watching)]
    for watching, _ in found:
        if watching not in connected[:1]:
            watching.close()
    if connected:
        return connected[0]
    if owner != os.geteuid() and os.geteuid() != 0:
        raise NothingToWatch(attempted, f"it is uid {owner}'s", "run it as that user, or as root")
    reason = "it is not connected to a kdbus that you may watch, and no `kdbus run` or `kdbus serve` has started it"
    raise NothingToWatch(attempted, reason, _advice())


def _is_connected(process: int, watching: Watching) -> bool:
    try:
        return any(sheet.get("pid") == process for sheet in watching.ask(wire.FACTS) if sheet["record"] == "connection")
    except (NothingToWatch, KeyError):
        return False


def _of_domain(found: list[tuple[Watching, Record]], domain: str) -> Watching:
    wanted = os.path.realpath(domain)
    chosen: Watching | None = None
    for watching, about in found:
        served = about.get("socket")
        if chosen is None and isinstance(served, str) and os.path.realpath(served) == wanted:
            chosen = watching
        else:
            watching.close()
    if chosen is not None:
        return chosen
    attempted = f"looking for the kdbus at {printable(domain)}"
    try:
        owner = os.stat(domain).st_uid
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise NothingToWatch(attempted, reason, f"start it: kdbus serve --socket {printable(domain)}") from None
    if owner != os.geteuid():
        raise NothingToWatch(attempted, f"it is uid {owner}'s", "run it as that user, or as root")
    sockets = [printable(str(about["socket"])) for _, about in found if "socket" in about]
    served_there = f"there are {', '.join(sockets)}" if sockets else "`kdbus serve` starts one"
    raise NothingToWatch(attempted, "no `kdbus serve` of yours listens there", served_there)


def _advice() -> str:
    """Which there are, for who has named another."""
    found = list(_all([]))
    for watching, _ in found:
        watching.close()
    choices = ", ".join(f"-p {watching.process} ({_described(about)})" for watching, about in found)
    return f"there are {choices}" if found else "there is none that you may watch"


def _described(about: Record) -> str:
    if about.get("serves") == "serve":
        return f"`kdbus serve --socket {printable(str(about.get('socket')))}`"
    command = about.get("command")
    words = " ".join(map(str, command)) if isinstance(command, list) else "?"
    return f"`kdbus run {printable(words[:60])}`"


def _all(silent: list[int]) -> Iterator[tuple[Watching, Record]]:
    """Every supervisor that may be watched and answers, with what it says of itself; the others become `silent`."""
    for process in places.processes():
        with suppress(OSError):
            watching = Watching(places.connect(process), process)
            try:
                about = watching.introduce()
            except NothingToWatch:
                silent.append(process)
                continue
            yield watching, about


def _parent(process: int) -> int:
    """The process that has started it, 0 if there is none in sight."""
    try:
        with open(f"/proc/{process}/stat") as file:
            # The name before the last bracket may hold anything.
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
