# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: whoever may watches, and nobody on the bus notices.

It is served by tasks beside the loop, in the same thread, so it could keep calls waiting; and who watches may read
slowly, or not at all, or ask again and again. Hence

- the broker is looked at for a slice of `_SLICE_S` at a time, and then left alone for `_REST` times as long as that
  took: all who watch together get a fifth of the time at most;
- what is not read yet is kept by the kernel, and one slice's worth by the task, which waits; who does not read for
  `_PATIENCE_S`, or does not ask, is let go;
- `_MOST` may watch at a time; who comes then is told so.

To be looked at, connections that are lent to the engine have to be taken back, once for each slice. They are lent again
after the next call that the broker serves.

What answers are made with is loaded with the first question: a supervisor that nobody asks pays for one socket.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import trio

import interposer
from interposer.report import unexpected
from interposer.target.ids import own_namespace
from interposer.watching import places

if TYPE_CHECKING:
    from broker.domain import Domain
    from interposer.watching.wire import Record

_SLICE_S = 0.002
_REST = 4
_PATIENCE_S = 10.0
_IDLE_S = 300.0
"""How long somebody may think before the next question."""
_MOST = 16
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORTAGE_S = 0.1
_CREDENTIALS = struct.Struct("=3i")


class Watched(Protocol):
    """What is watched: a supervisor."""

    def settle(self) -> None:
        """Have the broker know all that has happened."""
        ...

    def domains(self) -> list[Domain]:
        """The domains, each once; the first is the supervisor's own."""
        ...

    def served(self) -> tuple[int, int, list[str]]:
        """Calls that the broker has served, and the engine; the names of the revisions that were spoken."""
        ...


class Control:
    """The control socket of this process."""

    def __init__(self, watched: Watched, about: dict[str, object]) -> None:
        """`about`: what is told of this process besides. Without a place for a socket, there is none."""
        self._watched = watched
        self._about = {"pid": os.getpid(), "version": interposer.__version__, "since_ns": time.time_ns(), **about}
        self._place = places.make()
        self._count = 0
        self._turn: trio.Lock | None = None

    def close(self) -> None:
        """Leave nothing behind."""
        if self._place is not None:
            self._place.close()
            self._place = None

    async def serve(self) -> None:
        """Serve until cancelled."""
        if self._place is None:
            return
        self._turn = trio.Lock()
        listening = self._place.listening
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listening)
                try:
                    connection, _ = listening.accept()
                except OSError as error:
                    if error.errno in _SHORTAGE:
                        await trio.sleep(_SHORTAGE_S)
                    continue
                connection.setblocking(False)
                nursery.start_soon(self._attend, connection)

    async def _attend(self, connection: socket.socket) -> None:
        self._count += 1
        try:
            # Whoever breaks off, or says what cannot be, is left alone.
            with connection, suppress(OSError, ValueError, trio.TooSlowError):
                await self._converse(_Line(connection), _user_of(connection))
        except Exception:
            unexpected("answering who watches failed, the supervisor goes on")
        finally:
            self._count -= 1

    async def _converse(self, line: _Line, user: int) -> None:
        from interposer.watching import wire

        reason = None
        if not places.may_watch(user):
            reason = f"uid {user} may not watch what uid {os.geteuid()} runs"
        elif self._count > _MOST:
            reason = f"{_MOST} watch already"
        if reason is not None:
            # What is closed with something unread is reset, and the answer lost.
            await line.hear(wire.LONGEST_QUESTION, _PATIENCE_S)
            await line.say(wire.line_of({"record": "error", "reason": reason}))
            return
        while (data := await line.hear(wire.LONGEST_QUESTION, _IDLE_S)) is not None:
            question = wire.record_of(data)
            version = question.get("watch")
            if version != wire.VERSION:
                reason = f"version {wire.VERSION} is spoken here, not {version!r}"
            elif question.get("ask") == wire.SUPERVISOR:
                await self._tell(line, iter([self._own_sheet()]))
                continue
            elif question.get("ask") == wire.FACTS:
                await self._tell(line, self._sheets())
                continue
            else:
                reason = f"there is no such question: {question.get('ask')!r}"
            await line.say(wire.line_of({"record": "error", "reason": reason}))
            return

    async def _tell(self, line: _Line, sheets: Iterator[Record]) -> None:
        """Answer in slices."""
        from interposer.watching import wire

        assert self._turn is not None
        more = True
        while more:
            async with self._turn:
                begun = time.monotonic()
                self._watched.settle()
                answer = bytearray()
                while more and time.monotonic() - begun < _SLICE_S:
                    sheet = next(sheets, None)
                    more = sheet is not None
                    answer += wire.line_of({"record": "end"} if sheet is None else sheet)
                await trio.sleep((time.monotonic() - begun) * _REST)
            await line.say(answer)

    def _own_sheet(self) -> Record:
        by_broker, natively, spoken = self._watched.served()
        calls = {"broker": by_broker, "native": natively}
        return {"record": "supervisor", **self._about, "calls": calls, "revisions": spoken}

    def _sheets(self) -> Iterator[Record]:
        from broker.snapshot import walk

        yield self._own_sheet()
        for number, domain in enumerate(self._watched.domains()):
            for sheet in walk(domain, own_namespace(b"pid")):
                yield {**sheet, "domain": number}


class _Line:
    """One connection. `hear` and `say` raise OSError, TooSlowError, and ValueError for a line that is too long."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    async def hear(self, longest: int, patience_s: float) -> bytes | None:
        """The next line, None at the end."""
        with trio.fail_after(patience_s):
            while b"\n" not in self._rest:
                if len(self._rest) > longest:
                    raise ValueError("too long")
                await trio.lowlevel.wait_readable(self._connection)
                data = self._connection.recv(longest)
                if not data:
                    return None
                self._rest += data
        found, _, self._rest = self._rest.partition(b"\n")
        return found

    async def say(self, data: bytes | bytearray) -> None:
        """Write all of it."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._connection.send(rest, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                with trio.fail_after(_PATIENCE_S):
                    await trio.lowlevel.wait_writable(self._connection)
        await trio.lowlevel.checkpoint()


def _user_of(connection: socket.socket) -> int:
    """Who has connected, by uid; root's may be the overflow uid (`places.may_watch`)."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(packed)[1]
    return user
