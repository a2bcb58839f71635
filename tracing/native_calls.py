# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of calls that native code has served, made of what it has noted of them.

The engine notes numbers and bytes in a form of its own (`struct kdbus_call_record` in `native/helper.h`), many calls at
a time. What it does not know (names of nodes and threads, who owns which names) comes with each such batch, as it was
when the calls were served: nothing of it changes while native code serves. Made into records they are the same as the
broker's would have been, as a test compares.

A batch can be sent elsewhere as bytes, as whoever serves calls has no time to make records of them
(`tracing.relay`).
"""

from __future__ import annotations

import errno
import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple

from kdbus.abi.decode import struct_of
from kdbus.abi.revision import REVISIONS, Revision
from tracing.reason import reason
from tracing.record import Event, Phase, Record

FORM: Final = struct.Struct("=7Q10I4Q72s72s")
"""Of `struct kdbus_call_record`, whose members `NativeCall` names."""
_TID, _CONNECTION, _ERROR, _PEER = 18, 20, 22, 3
"""Places of members, in units of their size."""
MOST_NAMES: Final = 16
_HEAD = struct.Struct("=QqQII")
_COOKIE = slice(48, 56)
_REVISIONS = {revision.name: revision for revision in REVISIONS}
_ERRORS = {errno.EAGAIN: "NoMessage", errno.ENOBUFS: "QueueFull", errno.EFAULT: "BadAddress"}
"""What native code refuses, by the name of the error's class."""
_REFUSED_COUNT, _REFUSED_ALL = 0, 1
WAITS, RESUMED = 1, 2
"""Phases: of a call that waits, its beginning and its end."""


class NativeCall(NamedTuple):
    """A record of the engine: times are CLOCK_MONOTONIC in ns, sizes in bytes, `place` is where its bytes begin."""

    start_ns: int
    end_ns: int
    address: int
    peer: int
    place: int
    payload_size: int
    sequence: int
    message_kept: int
    payload_kept: int
    senders: int
    phase: int
    tid: int
    descriptor: int
    connection: int
    request: int
    error: int
    padding: int
    refused_by: int
    refused_used: int
    refused_limit: int
    refused_size: int
    before: bytes
    after: bytes

    def message(self, data: bytes) -> bytes:
        """The message, as far as it was kept."""
        return data[self.place : self.place + self.message_kept]

    def payload(self, data: bytes) -> bytes:
        """The beginning of its payload."""
        start = self.place + self.message_kept
        return data[start : start + self.payload_kept]

    def error_name(self) -> str:
        """Of a call that failed: the class of the broker's error."""
        return _ERRORS[self.error]

    def reason(self, data: bytes, user: int) -> str:
        """Of a call of `user` that failed: why, in words."""
        facts = self._refusal(data, user) if self.error == errno.ENOBUFS else {}
        return reason(self.error_name(), facts)

    def waiting(self, data: bytes) -> dict[int, int]:
        """Of a call that a full queue has refused: how many messages wait there, by who has sent them."""
        start = self.place + self.message_kept + self.payload_kept
        return Counter(sender for (sender,) in struct.iter_unpack("=Q", data[start : start + 8 * self.senders]))

    def _refusal(self, data: bytes, user: int) -> dict[str, object]:
        """The facts of a QueueFull, as `broker.quota` and `broker.inbox` have them."""
        waiting = self.waiting(data)
        facts: dict[str, object] = {"connection": self.peer, "waiting": waiting}
        facts |= {"user": user, "limit": self.refused_limit}
        if self.refused_by == _REFUSED_COUNT:
            uncounted = {"free": self.refused_size} if self.refused_size else {}
            return facts | {"count": self.refused_used} | uncounted
        size = {} if self.refused_by == _REFUSED_ALL else {"size": self.refused_size}
        return facts | {"used": self.refused_used} | size


@dataclass(slots=True)
class Known:
    """What the calls of a batch are about."""

    handles: dict[int, tuple[str, int, str, int, list[str]]] = field(default_factory=dict)
    """By the engine's index: node, id of the connection, revision, user, names."""
    threads: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Process and name, by thread."""
    peers: dict[tuple[int, int], list[str] | None] = field(default_factory=dict)
    """Names of a connection, by the index of one on the same bus, and its id; None: there is none any more."""

    def packed(self) -> bytes:
        """As bytes, for `unpacked`."""
        return json.dumps([list(each.items()) for each in (self.handles, self.threads, self.peers)]).encode()

    @classmethod
    def unpacked(cls, data: bytes) -> Known:
        """The reverse of `packed`."""
        handles, threads, peers = json.loads(data)
        return cls(
            {index: tuple(each) for index, each in handles},
            {thread: tuple(each) for thread, each in threads},
            {tuple(which): names for which, names in peers},
        )


@dataclass(slots=True)
class Batch:
    """Calls that were served one after the other."""

    sequence: int
    """Of the first record."""
    to_realtime_ns: int
    """What CLOCK_REALTIME was ahead of CLOCK_MONOTONIC."""
    records: bytes
    data: bytes
    known: Known

    def __len__(self) -> int:
        return len(self.records) // FORM.size

    def mentioned(self) -> tuple[set[int], set[int], set[tuple[int, int]]]:
        """Threads, indices of connections, and peers (index and id), which `known` has to have."""
        halves, words = memoryview(self.records).cast("I"), memoryview(self.records).cast("Q")
        indices = halves[_CONNECTION :: FORM.size // 4].tolist()
        peers = set(zip(indices, words[_PEER :: FORM.size // 8].tolist(), strict=True))
        if any(halves[_ERROR :: FORM.size // 4]):
            calls = map(NativeCall._make, FORM.iter_unpack(self.records))
            peers.update((call.connection, sender) for call in calls for sender in call.waiting(self.data))
        return set(halves[_TID :: FORM.size // 4].tolist()), set(indices), {each for each in peers if each[1]}

    def packed(self, known: bytes) -> Sequence[bytes]:
        """As bytes, for `unpacked`. `known`: `known.packed()`, or nothing if it is that of the batch before."""
        head = _HEAD.pack(self.sequence, self.to_realtime_ns, len(self.records), len(self.data), len(known))
        return head, self.records, self.data, known

    @classmethod
    def unpacked(cls, data: bytes, before: Known) -> Batch:
        """The reverse of `packed`. `before`: what the batch before has known."""
        sequence, ahead_ns, records, size, known = _HEAD.unpack_from(data)
        ends = _HEAD.size + records, _HEAD.size + records + size
        if known:
            before = Known.unpacked(data[ends[1] : ends[1] + known])
        return cls(sequence, ahead_ns, data[_HEAD.size : ends[0]], data[ends[0] : ends[1]], before)

    def made(self) -> Iterator[Record]:
        """The records."""
        for sequence, members in enumerate(FORM.iter_unpack(self.records), self.sequence):
            yield self._made(sequence, NativeCall._make(members))

    def _made(self, sequence: int, call: NativeCall) -> Record:
        node, connection, spoken, user, names = self.known.handles[call.connection]
        pid, comm = self.known.threads[call.tid]
        command, size = _command(spoken, call.request)
        record = Record(
            Event.CALL,
            sequence,
            call.start_ns + self.to_realtime_ns,
            call.start_ns,
            None if call.phase == WAITS else call.end_ns - call.start_ns,
            _PHASES[call.phase],
            pid,
            call.tid,
            comm,
            call.descriptor,
            node,
            connection,
            spoken,
            command,
            call.request,
            call.address,
            before=call.before[:size],
            after=call.after[:size],
            message=call.message(self.data),
            payload=call.payload(self.data),
            payload_size=call.payload_size,
            names={connection: names[:MOST_NAMES]} if names else {},
        )
        others = self.known.peers.get((call.connection, call.peer)) if call.peer else None
        if others is not None:
            record.peer = call.peer
            if others:
                record.names[call.peer] = others[:MOST_NAMES]
        if call.phase == WAITS:
            cookie = int.from_bytes(record.message[_COOKIE], "little")
            record.notes.append(awaited(call.peer, others or (), cookie))
        if call.error:
            record.errno, record.error = call.error, call.error_name()
            record.reason = call.reason(self.data, user)
            known = ((sender, self.known.peers.get((call.connection, sender))) for sender in call.waiting(self.data))
            record.notes += fillers((sender, found or ()) for sender, found in known)
        return record


_PHASES = (Phase.WHOLE, Phase.WAITS, Phase.RESUMED)


@cache
def _command(revision_name: str, request: int) -> tuple[str, int]:
    """The name of a command, and the size of its structure."""
    revision: Revision = _REVISIONS[revision_name]
    name = next(name for name, number in revision.requests.items() if number == request)
    layout = struct_of(revision, name)
    assert layout is not None
    return name, layout.size


def said(connection: int, names: Sequence[str]) -> str:
    """A connection in words."""
    return f"connection {connection}" + (f" ({', '.join(names)})" if names else "")


def awaited(replier: int, names: Sequence[str], cookie: int) -> str:
    """What a call waits for, in words."""
    return f"waits until {said(replier, names)} replies to cookie {cookie}"


def fillers(senders: Iterable[tuple[int, Sequence[str]]]) -> list[str]:
    """Who those are whose messages fill a queue, in words, if any of them has a name."""
    found = [said(connection, names) for connection, names in senders if names]
    return [f"among those whose messages wait there: {', '.join(found)}"] if found else []
