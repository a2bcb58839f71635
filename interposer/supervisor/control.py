# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: whoever may watches, and nobody on the bus notices.

It is served by tasks beside the loop, in the same thread, so it could keep calls waiting; and who watches may read
slowly, or not at all, or ask again and again. Hence

- the broker is looked at for a slice of `_SLICE_S` at a time, and then left alone for `_REST` times as long as that
  took: all who watch together get a fifth of the time at most;
- what is not read yet is kept by the kernel, and one slice's worth by the task, which waits; who does not read for
  `_PATIENCE_S`, or does not ask, is let go. Who watches messages may take its time: what it misses is dropped and told;
- `_MOST` may watch at a time; who comes then is told so.

To be looked at, connections that are lent to the engine have to be taken back, once for each slice. They are lent again
after the next call that the broker serves; not while somebody watches messages, which have to come by.

What answers are made with is loaded with the first question: a supervisor that nobody asks pays for one socket.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING

import trio

import interposer
from interposer.report import unexpected
from interposer.target.ids import own_namespace
from interposer.watching import places

if TYPE_CHECKING:
    from interposer.supervisor.messages import Account, MessageTap, Subscription
    from interposer.supervisor.supervisor import Supervisor
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


class Control:
    """The control socket of this process."""

    def __init__(self, watched: Supervisor, about: dict[str, object], place: places.Place | None) -> None:
        """`about`: what is told of this process besides. `place`: where to listen, which is closed by who made it;
        None if there is none for a socket."""
        self._watched = watched
        self._about = {"pid": os.getpid(), "version": interposer.__version__, "since_ns": time.time_ns(), **about}
        self._place = place
        self._count = 0
        self._turn: trio.Lock | None = None
        self._tap: MessageTap | None = None
        self._tap_users = 0

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
        with ExitStack() as taps:
            counting = False
            while (data := await line.hear(wire.LONGEST_QUESTION, _IDLE_S)) is not None:
                question = wire.record_of(data)
                if question.get("watch") != wire.VERSION:
                    reason = f"version {wire.VERSION} is spoken here, not {question.get('watch')!r}"
                elif question.get("ask") == wire.SUPERVISOR:
                    await self._tell(line, iter([self._own_sheet()]))
                    continue
                elif question.get("ask") == wire.FACTS:
                    if question.get("traffic") and not counting:
                        taps.enter_context(self._tapped())
                        counting = True
                    await self._tell(line, self._sheets(counting))
                    continue
                elif question.get("ask") == wire.MESSAGES:
                    await self._tell_messages(line, question)
                    return
                elif question.get("ask") == wire.CALLS:
                    await self._tell_calls(line, question)
                    return
                else:
                    reason = f"there is no such question: {question.get('ask')!r}"
                await line.say(wire.line_of({"record": "error", "reason": reason}))
                return

    @contextmanager
    def _tapped(self) -> Iterator[MessageTap]:
        """The tap, while somebody needs it. From then on it is told of all messages."""
        from interposer.supervisor.messages import MessageTap

        if self._tap is None:
            self._tap = MessageTap()
            self._watched.watchers.watch_messages(self._tap)
        self._tap_users += 1
        self._watched.settle()
        self._tap_all()
        try:
            yield self._tap
        finally:
            self._tap_users -= 1
            if not self._tap_users:
                self._tap = None
                self._tap_all()
                self._watched.watchers.watch_messages(None)

    def _tap_all(self) -> None:
        """In all domains, also those that programs have mounted meanwhile."""
        domains = self._watched.domains.all()
        for domain in domains:
            domain.tap = self._tap
        if self._tap is not None:
            self._tap.domains = {domain: number for number, domain in enumerate(domains)}

    async def _tell(self, line: _Line, sheets: Iterator[Record]) -> None:
        """Answer in slices."""
        from interposer.watching import wire

        more = True
        while more:
            answer = bytearray()
            async with self._slice() as goes_on:
                self._watched.settle()
                while more and goes_on():
                    sheet = next(sheets, None)
                    more = sheet is not None
                    answer += wire.line_of({"record": "end"} if sheet is None else sheet)
            await line.say(answer)

    @asynccontextmanager
    async def _slice(self) -> AsyncIterator[Callable[[], bool]]:
        """A slice of the supervisor's time, and the rest afterwards. Yields what says whether it lasts."""
        assert self._turn is not None
        async with self._turn:
            begun = time.monotonic()
            yield lambda: time.monotonic() - begun < _SLICE_S
            await trio.sleep((time.monotonic() - begun) * _REST)

    async def _tell_messages(self, line: _Line, question: Record) -> None:
        """Answer until the other side ends the conversation."""
        from interposer.supervisor.messages import Subscription
        from interposer.watching import filters, wire

        news = trio.Event()

        def wake() -> None:
            news.set()

        wanted = filters.predicate(question.get("filter", {}))
        subscription = Subscription(wanted, int(question.get("preview", 0)), wake)
        with self._tapped() as tap:
            tap.subscriptions[subscription] = None
            try:
                # Whoever asks knows from now on that nothing will be missed.
                await line.say(wire.line_of(self._own_sheet()))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(line.ended, nursery.cancel_scope)
                    # Not for the nursery, which would make a group of it.
                    with suppress(OSError):
                        while True:
                            await news.wait()
                            news = trio.Event()
                            while answer := await self._some_messages(tap, subscription):
                                await line.say(answer, float("inf"))
                    nursery.cancel_scope.cancel()
            finally:
                tap.settle()
                del tap.subscriptions[subscription]
                # The last messages of a program are seldom the least interesting.
                line.say_at_once(
                    wire.line_of(wire.with_payload(record, subscription.preview))
                    for record in iter(subscription.take, None)
                )

    async def _some_messages(self, tap: MessageTap, subscription: Subscription) -> bytearray:
        """As lines, what there is now; empty if there is nothing."""
        from interposer.watching import wire

        answer = bytearray()
        self._tap_all()
        async with self._slice() as goes_on:
            tap.settle()
            while goes_on() and (record := subscription.take()) is not None:
                answer += wire.line_of(wire.with_payload(record, subscription.preview))
        return answer

    async def _tell_calls(self, line: _Line, question: Record) -> None:
        """Answer until the other side ends the conversation."""
        from interposer.supervisor.calls import Subscription
        from interposer.watching import wire

        news = trio.Event()

        def wake() -> None:
            news.set()

        payload = question.get("payload")
        limit, stacks = payload if isinstance(payload, int) else 0, bool(question.get("stacks"))
        subscription = Subscription(limit, wake, stacks=stacks)
        self._watched.watchers.trace(subscription)
        try:
            # Whoever asks knows from now on that nothing will be missed.
            await line.say(wire.line_of(self._own_sheet()))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.ended, nursery.cancel_scope)
                with suppress(OSError):
                    while True:
                        await news.wait()
                        news = trio.Event()
                        while (record := subscription.next()) is not None:
                            await line.say(wire.line_of(record), float("inf"))
                nursery.cancel_scope.cancel()
        finally:
            self._watched.watchers.untrace(subscription)
            # The last calls of a program are those that one traces for, and its end may come at any time.
            line.say_at_once(wire.line_of(record) for record in iter(subscription.next, None))

    def _own_sheet(self) -> Record:
        by_broker, natively, spoken = self._watched.served()
        calls = {"broker": by_broker, "native": natively}
        return {"record": "supervisor", **self._about, "calls": calls, "revisions": spoken}

    def _sheets(self, counting: bool) -> Iterator[Record]:
        from broker.snapshot import walk

        yield self._own_sheet()
        seen: set[Account] = set()
        for number, domain in enumerate(self._watched.domains.all()):
            for sheet in walk(domain, own_namespace(b"pid")):
                told: Record = {**sheet, "domain": number}
                if counting and self._tap is not None and sheet["record"] == "connection":
                    account = id(domain), str(told["bus"]), int(told["id"])
                    seen.add(account)
                    told["traffic"] = self._tap.traffic_told(account)
                yield told
        if counting and self._tap is not None:
            self._tap.keep(seen)


class _Line:
    """One connection. `hear` and `say` raise OSError, TooSlowError, and ValueError for a line that is too long."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self._unsaid = memoryview(b"")

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

    async def ended(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the other side has ended the conversation."""
        with suppress(OSError):
            while True:
                await trio.lowlevel.wait_readable(self._connection)
                if not self._connection.recv(4096):
                    break
        scope.cancel()

    async def say(self, data: bytes | bytearray, patience_s: float = _PATIENCE_S) -> None:
        """Write all of it."""
        self._unsaid = memoryview(data)
        while self._unsaid:
            try:
                self._unsaid = self._unsaid[self._connection.send(self._unsaid, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                with trio.fail_after(patience_s):
                    await trio.lowlevel.wait_writable(self._connection)
        await trio.lowlevel.checkpoint()

    def say_at_once(self, lines: Iterable[bytes]) -> None:
        """Write what `say` was kept from writing, and then the lines, as far as the other side takes them at once."""
        with suppress(OSError):
            for rest in chain((self._unsaid,), map(memoryview, lines)):
                left = rest
                while left:
                    left = left[self._connection.send(left, socket.MSG_NOSIGNAL) :]


def _user_of(connection: socket.socket) -> int:
    """Who has connected, by uid; root's may be the overflow uid (`places.may_watch`)."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(packed)[1]
    return user
