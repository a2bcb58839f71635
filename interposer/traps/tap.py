# SPDX-License-Identifier: GPL-2.0-or-later
"""The tap: makes records of what the broker is asked and what it answers, and changes nothing of either.

All that the broker knows of a caller comes through `broker.interfaces.Caller`, so what a call asked for is what was
read there, and what it stored is what was written there. A watching subclass of the caller keeps both. What is left in
a pool, or lies in memory that the broker has only copied, is read once the call has been served and before it is
answered: until then the caller waits, and nobody else writes.

A record is made at once, because reasons and owners of names are only true at that moment. Making one must never harm a
call: if it goes wrong, that is reported, and the trace lacks it.

Who serves a call asks for a tap at a few places (`Answering`, `NodeHandles`, `Ioctls`, `Mappings`, `Tree`,
`WaitingCalls`, `HandleTable`), and there is none unless somebody traces. What the native engine serves it notes itself
(`native/ring.c`), and is asked for before the broker does anything; both are done by one thread, so there is one order.

Weaknesses: an open that the kernel refuses, and a mapping of a handle that this supervisor does not know, are not seen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import ParamSpec, TypeVar

from broker.bus import Bus
from broker.connection import Connection
from broker.errors import KdbusError, QueueFull, errno_of
from broker.handle import ControlHandle, EndpointHandle
from broker.reply import Reply
from broker.send import Wait
from interposer.handles.handles import OpenHandle, connection_of
from interposer.report import unexpected
from interposer.target.caller import MemoryStalled, TargetCaller
from interposer.target.ids import read_file
from interposer.traps.exactly_once import HeldCaller
from interposer.traps.left_open import LeftOpen
from interposer.traps.watched import (
    WatchedCaller,
    WatchedHeldCaller,
    add_names,
    add_peer,
    names_of,
    patched,
    take_arguments,
    take_results,
)
from kdbus.abi.revision import Revision
from native.deputies import Stalled
from native.notification import Notification
from tracing.escaping import count_of, harmless
from tracing.native_calls import Batch, Known, awaited, fillers, said
from tracing.reason import reason
from tracing.record import CALLS, Event, Phase, Record, Tracer
from tracing.relay import Relay

P = ParamSpec("P")
T = TypeVar("T")

_THREADS_KNOWN = 1024
_STALLS_KNOWN = 1024


@dataclass(slots=True)
class _Call:
    """A call that waits: its record so far, and the reply that it waits for."""

    record: Record
    revision: Revision


class Tap:
    """Makes the records of one supervisor."""

    def __init__(self, injected: Callable[[], list[str]] = list) -> None:
        """`injected` gives what the call that was served last has met of what was injected, in words."""
        self.tracers: dict[Tracer, None] = {}
        """Who gets the records."""
        self._injected = injected
        self._sequence = 0
        self._waiting: dict[Wait, _Call] = {}
        self._left_open = LeftOpen()
        self._threads: dict[int, tuple[int, str]] = {}
        self._stalled: dict[int, tuple[int, int]] = {}
        """When calls began whose memory does not come, by notification."""

    def watched(self, kind: type[TargetCaller]) -> type[TargetCaller]:
        """The class of callers to be used instead of `kind`."""
        return WatchedHeldCaller if kind is HeldCaller else WatchedCaller

    def ioctl(
        self,
        notification: Notification,
        handle: OpenHandle,
        request: int,
        argument: int,
        caller: TargetCaller,
        act: Callable[[], Wait | None],
    ) -> Wait | None:
        """The ioctl that `act` has the broker serve, watched. Raises what that raises."""
        copied, note = self._stack(notification, caller) if self.stacks else (b"", "")
        record = self._begin(Event.CALL, notification, handle)
        record.copied = copied
        record.notes += [note] if note else []
        if begun := self._stalled.pop(notification.id, None):
            record.realtime_ns, record.monotonic_ns = begun
        try:
            wait = act()
        except (Stalled, MemoryStalled):
            # Nothing has happened yet, and it will be asked for once more, unless its thread is killed meanwhile.
            self._stalled[notification.id] = record.realtime_ns, record.monotonic_ns
            if len(self._stalled) > _STALLS_KNOWN:
                self._stalled.pop(next(iter(self._stalled)))
            raise
        except Exception as error:
            self._safely(self._end_call, record, handle, request, argument, caller, error)
            raise
        self._safely(self._end_call, record, handle, request, argument, caller, None, wait)
        return wait

    def finish(self, wait: Wait, caller: TargetCaller) -> None:
        """`wait.finish`, watched. Raises what that raises."""
        try:
            wait.finish(caller)
        except (Stalled, MemoryStalled):
            raise
        except Exception as error:
            self._safely(self._end_wait, wait, caller, error)
            raise
        self._safely(self._end_wait, wait, caller, None)

    def interrupted(self, wait: Wait) -> None:
        """A call is not waited for any more: a signal came, or its caller is gone."""
        self._safely(self._end_wait, wait, None, None)

    def served_natively(self, records: bytes, data: bytes, handles: Mapping[int, OpenHandle]) -> None:
        """Calls that the engine has served, in its form; `handles`: by its index."""
        self._safely(self._take_batch, records, data, handles)

    def _take_batch(self, records: bytes, data: bytes, handles: Mapping[int, OpenHandle]) -> None:
        batch = Batch(self._sequence + 1, time.time_ns() - time.monotonic_ns(), records, data, Known())
        self._sequence += len(batch)
        threads, indices, peers = batch.mentioned()
        known = batch.known
        known.threads = {thread: self._thread(thread) for thread in threads}
        connections = {index: connection_of(handles[index]) for index in indices}
        for index, connection in connections.items():
            facts = connection.behaviour.revision.name, connection.user.uid, names_of(connection)
            known.handles[index] = "/".join(connection.endpoint.path), connection.id, *facts
        for index, id in peers:
            peer = connections[index].bus.connections.get(id)
            known.peers[index, id] = None if peer is None else names_of(peer)
        if self._tells_left:
            self._left_open.note_batch(batch)
        here = []
        for tracer in self.tracers:
            if isinstance(tracer, Relay):
                tracer.take_batch(batch)
            else:
                here.append(tracer)
        for record in batch.made() if here else ():
            for tracer in here:
                tracer.take(record)

    @property
    def waits(self) -> bool:
        """Whether one of those who get records may wait for somebody else."""
        return any(tracer.waits for tracer in self.tracers)

    def began_ns(self, wait: Wait) -> int:
        """When the call began that waits (CLOCK_MONOTONIC), 0 if it was not seen."""
        call = self._waiting.get(wait)
        return 0 if call is None else call.record.monotonic_ns

    def lent(self, wait: Wait) -> None:
        """The call waits elsewhere from now on; its end is among `served_natively`, unless it is given back."""
        self._waiting.pop(wait, None)

    def given_back(self, wait: Wait, notification: Notification, began_ns: int) -> None:
        """A call that began then, and has waited elsewhere, waits here from now on."""
        if began_ns:
            self._safely(self._take_wait, wait, notification, began_ns)

    def _take_wait(self, wait: Wait, notification: Notification, began_ns: int) -> None:
        connection, command = wait.connection, wait.command
        revision = connection.behaviour.revision
        record = Record(Event.CALL, 0, began_ns + time.time_ns() - time.monotonic_ns(), began_ns)
        record.tid = notification.pid
        record.pid, record.comm = self._thread(notification.pid)
        record.descriptor = notification.arguments[0] & 0xFFFFFFFF
        record.node, record.connection = "/".join(connection.endpoint.path), connection.id
        record.revision, record.command = revision.name, "SEND"
        record.request, record.address = notification.arguments[1] & 0xFFFFFFFF, notification.arguments[2]
        record.before, record.peer = command or b"", wait.reply.replier.id
        self._waiting[wait] = _Call(record, revision)

    def opening(self, notification: Notification, path: Sequence[str], act: Callable[[], int]) -> int:
        """Open a node by `act`, which returns the descriptor's number."""
        self._threads.pop(notification.pid, None)
        record = self._begin(Event.OPEN, notification, None)
        record.node = "/".join(path)
        return self._watch(record, act)

    def mapping(self, notification: Notification, handle: OpenHandle, length: int, act: Callable[[], T]) -> T:
        """Map a pool by `act`."""
        record = self._begin(Event.MAP, notification, handle)
        record.descriptor = notification.arguments[4] & 0xFFFFFFFF
        record.length = length
        return self._watch(record, act)

    def mounting(self, notification: Notification, path: bytes, act: Callable[[], None]) -> None:
        """Mount a kdbusfs by `act`, which raises OSError."""
        self._mounting(Event.MOUNT, notification, path, act)

    def unmounting(self, notification: Notification, path: bytes, act: Callable[[], None]) -> None:
        """Unmount one by `act`, which raises OSError."""
        self._mounting(Event.UMOUNT, notification, path, act)

    def _mounting(self, event: Event, notification: Notification, path: bytes, act: Callable[[], None]) -> None:
        record = self._begin(event, notification, None)
        record.path = path.decode("utf-8", "backslashreplace")
        self._watch(record, act)

    def hung_up(self, handle: OpenHandle) -> None:
        """The connection has ended, and the handle is still open."""
        self._safely(self._hung_up, handle)

    def _hung_up(self, handle: OpenHandle) -> None:
        record = self._begin(Event.HANG_UP, None, handle)
        # The connection tells that it has ended before it lets go of what it has.
        self._leave(record, handle.connection)
        if record.connection is not None:
            record.left = self._left_open.kept((record.node, record.connection))
        self._put(record)

    def leaving(self, notification: Notification) -> None:
        """The process is about to end by itself."""
        self._safely(self._leaving, notification)

    def _leaving(self, notification: Notification) -> None:
        process, _ = self._thread(notification.pid)
        self._left_open.leaving(process)

    def closing(self, handle: OpenHandle) -> None:
        """The last descriptor was closed; the broker has not heard of it yet."""
        self._safely(self._close, handle)

    def _close(self, handle: OpenHandle) -> None:
        record = self._begin(Event.CLOSE, None, handle)
        connection = handle.connection
        if connection is not None and connection.active:
            self._leave(record, connection)
        if record.connection is not None:
            record.left, record.unknown = self._left_open.closed((record.node, record.connection))
        self._put(record)

    @staticmethod
    def _leave(record: Record, connection: Connection | None) -> None:
        """What a connection that ends leaves undone: messages not received, requests and replies that are missing."""
        if connection is None:
            return
        record.length = len(connection.queue)
        if record.length:
            record.notes.append(f"never received: {count_of(record.length, 'message')} in its queue")
        # Of a call that was broken off, that was told then.
        record.notes += [_missing(reply) for reply in connection.replies if not reply.interrupted]
        record.notes += [_owed(reply) for reply in sorted(connection.owed, key=lambda reply: reply.deadline_ns)]

    def _safely(self, act: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> None:
        try:
            act(*arguments, **named)
        except Exception:
            unexpected("recording a call failed, the trace lacks it")

    def _watch(self, record: Record, act: Callable[[], T]) -> T:
        try:
            value = act()
        except (Stalled, MemoryStalled):
            raise  # nothing has happened yet, and it will be asked for once more
        except Exception as error:
            _fail(record, error)
            self._safely(self._put, record)
            raise
        if isinstance(value, int):
            record.value = value
        self._safely(self._put, record)
        return value

    def _begin(self, event: Event, notification: Notification | None, handle: OpenHandle | None) -> Record:
        self._sequence += 1
        record = Record(event, self._sequence, time.time_ns(), time.monotonic_ns())
        if notification is not None:
            record.tid = notification.pid
            record.pid, record.comm = self._thread(notification.pid)
            if event is Event.CALL:
                record.descriptor = notification.arguments[0] & 0xFFFFFFFF
        if handle is not None:
            self._describe(record, handle)
        return record

    def _describe(self, record: Record, handle: OpenHandle) -> None:
        """What the handle stands for at the moment."""
        broker = handle.broker
        if isinstance(broker, ControlHandle):
            record.node = "control"
        elif isinstance(broker, EndpointHandle):
            record.node = "/".join(broker.endpoint.path)
            if broker.connection is not None:
                record.connection = broker.connection.id
                add_names(record, broker.connection)

    def _thread(self, thread: int) -> tuple[int, str]:
        """Its process, and its name; as they were when a thread of that number was seen first, or opened a node."""
        known = self._threads.get(thread)
        if known is None:
            known = thread, ""
            with suppress(OSError, ValueError, IndexError):
                text = read_file(f"/proc/{thread}/status")
                fields = dict(line.split(b":\t", 1) for line in text.splitlines() if b":\t" in line)
                known = int(fields[b"Tgid"]), os.fsdecode(fields[b"Name"]).encode("ascii", "backslashreplace").decode()
            if len(self._threads) >= _THREADS_KNOWN:
                self._threads.pop(next(iter(self._threads)))
            self._threads[thread] = known
        return known

    def _end_call(
        self,
        record: Record,
        handle: OpenHandle,
        request: int,
        argument: int,
        caller: TargetCaller,
        error: Exception | None,
        wait: Wait | None = None,
    ) -> None:
        if error is not None:
            _fail(record, error)  # first, as it may ask the broker
        self._describe(record, handle)
        if isinstance(error, QueueFull) and handle.connection is not None:
            record.notes += _fillers(error, handle.connection.bus)
        record.notes += self._injected()
        record.request, record.address = request, argument
        behaviour = None if handle.broker is None else handle.broker.spoken(request, argument, caller)
        revision = None if behaviour is None or request not in behaviour.commands else behaviour.revision
        record.command = f"{request:#x}" if revision is None else _commands(revision)[request]
        if revision is not None:
            record.revision = revision.name
            take_arguments(record, revision, caller, self.payload_limit)
            connection = handle.connection
            if error is None and wait is None and connection is not None:
                take_results(record, revision, connection, self.payload_limit)
            if connection is not None:
                add_peer(record, revision, connection)
        if wait is not None and revision is not None:
            record.phase = Phase.WAITS
            reply = wait.reply
            record.notes.append(awaited(reply.replier.id, names_of(reply.replier), reply.cookie))
            self._waiting[wait] = _Call(record, revision)
            self._put(record, over=False)
        else:
            self._put(record)

    def _end_wait(self, wait: Wait, caller: TargetCaller | None, error: Exception | None) -> None:
        call = self._waiting.pop(wait, None)
        if call is None:
            return
        first = call.record
        self._sequence += 1
        record = Record(Event.CALL, self._sequence, first.realtime_ns, first.monotonic_ns, phase=Phase.RESUMED)
        for member in _OF_THE_CALL:
            setattr(record, member, getattr(first, member))
        add_names(record, wait.connection)
        if caller is None:
            record.errno, record.error = 512, "Interrupted"
            record.reason = reason("Interrupted", {})
            record.notes.append(_missing(wait.reply))
        else:
            if error is not None:
                _fail(record, error)
            record.after = patched(first.before, first.address, caller)
            if error is None:
                take_results(record, call.revision, wait.connection, self.payload_limit)
                add_peer(record, call.revision, wait.connection)
        self._put(record)

    def _put(self, record: Record, *, over: bool = True) -> None:
        if over and record.event in CALLS:
            record.duration_ns = time.monotonic_ns() - record.monotonic_ns
        if self._tells_left:
            self._left_open.note(record)
        for tracer in self.tracers:
            tracer.take(record)

    @property
    def _tells_left(self) -> bool:
        return any(tracer.left for tracer in self.tracers)

    @property
    def stacks(self) -> bool:
        """Whether stacks are wanted, so that no call must be served elsewhere."""
        return any(tracer.stacks for tracer in self.tracers)

    @staticmethod
    def _stack(notification: Notification, caller: TargetCaller) -> tuple[bytes, str]:
        """What the stack of a call is found by; or why there is nothing. Raises Stalled, MemoryStalled."""
        from interposer.traps.stack import NoStack, copy

        try:
            return copy(notification, caller).packed(), ""
        except NoStack as reason:
            return b"", f"no stack: {reason}"
        except (Stalled, MemoryStalled):
            raise
        except Exception:
            unexpected("copying a stack failed, the trace lacks it")
            return b"", ""

    @property
    def payload_limit(self) -> int:
        """How many bytes of a payload are wanted."""
        return max((tracer.payload_limit for tracer in self.tracers), default=0)


_OF_THE_CALL = tuple("pid tid comm descriptor node connection revision command request address before peer".split())
"""What both records of a call that waits have."""


@cache
def _commands(revision: Revision) -> dict[int, str]:
    """The names of its commands by number."""
    return {number: name for name, number in revision.requests.items()}


def _fail(record: Record, error: Exception) -> None:
    if isinstance(error, KdbusError):
        record.errno, record.error = errno_of(error), type(error).__name__
        record.reason = reason(record.error, error.facts)
    else:
        record.errno = (isinstance(error, OSError) and error.errno) or 0
        said = isinstance(error, OSError) and error.strerror
        record.error, record.reason = type(error).__name__, harmless(said or str(error))


def _fillers(error: QueueFull, bus: Bus) -> list[str]:
    """Who they are whose messages fill a queue."""
    waiting = error.facts.get("waiting")
    senders = ((sender, bus.connections.get(sender)) for sender in (waiting() if callable(waiting) else ()))
    return fillers((number, () if sender is None else names_of(sender)) for number, sender in senders)


def _said(connection: Connection) -> str:
    return said(connection.id, names_of(connection))


def _missing(reply: Reply) -> str:
    """What has become of a request that was not answered."""
    replier = reply.replier
    return f"no reply came from {_said(replier)} to cookie {reply.cookie}: {_why_missing(reply)}"


def _owed(reply: Reply) -> str:
    """The same, from the other side."""
    return f"did not reply to cookie {reply.cookie} of {_said(reply.requester)}: {_why_missing(reply)}"


def _why_missing(reply: Reply) -> str:
    if any(entry.reply is reply for entry in reply.replier.queue.entries()):
        return "it never received the request"
    return "it has received the request, and not replied" if reply.linked else "the request is void"
