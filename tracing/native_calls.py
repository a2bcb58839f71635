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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from kdbus.abi.decode import struct_of
from kdbus.abi.revision import REVISIONS, Revision
from tracing.reason import reason
from tracing.record import Event, Phase, Record

FORM: Final = struct.Struct("=6Q10I4Q72s72s")
"""Of a record: start and end (ns, CLOCK_MONOTONIC), third argument, peer, place of its bytes, size of the payload;
bytes kept of the message and of the payload, number of senders, phase, thread, descriptor, index of the connection,
request, errno, nothing; why it was refused; the argument before and after."""
_TID, _CONNECTION, _PEER = 16, 18, 3
"""Places of members, in units of their size."""
MOST_NAMES: Final = 16
_HEAD = struct.Struct("=QqQII")
_COOKIE = slice(48, 56)
_REVISIONS = {revision.name: revision for revision in REVISIONS}
_ERRORS = {errno.EAGAIN: "NoMessage", errno.ENOBUFS: "QueueFull", errno.EFAULT: "BadAddress"}
"""What native code refuses, by the name of the error's class."""
_REFUSED_COUNT, _REFUSED_ALL = 0, 1


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
            yield self._made(sequence, members)

    def _made(self, sequence: int, members: tuple[Any, ...]) -> Record:
        (start_ns, end_ns, address, peer, place, payload_size, *small) = members[:-2]
        message, payload, senders, phase, tid, descriptor, index, request, error, _, *refusal = small
        node, connection, spoken, user, names = self.known.handles[index]
        pid, comm = self.known.threads[tid]
        command, size = _command(spoken, request)
        data, place = self.data, int(place)
        middle, end = place + message, place + message + payload
        record = Record(
            Event.CALL,
            sequence,
            start_ns + self.to_realtime_ns,
            start_ns,
            None if phase == 1 else end_ns - start_ns,
            _PHASES[phase],
            pid,
            tid,
            comm,
            descriptor,
            node,
            connection,
            spoken,
            command,
            request,
            address,
            before=members[-2][:size],
            after=members[-1][:size],
            message=data[place:middle],
            payload=data[middle:end],
            payload_size=payload_size,
            names={connection: names[:MOST_NAMES]} if names else {},
        )
        others = self.known.peers.get((index, peer)) if peer else None
        if others is not None:
            record.peer = peer
            if others:
                record.names[peer] = others[:MOST_NAMES]
        if phase == 1:
            cookie = int.from_bytes(record.message[_COOKIE], "little")
            record.notes.append(awaited(peer, others or (), cookie))
        if error:
            record.errno, record.error = error, _ERRORS[error]
            facts = _refused(refusal, user, peer, data[end : end + 8 * senders]) if error == errno.ENOBUFS else {}
            record.reason = reason(record.error, facts)
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


def _refused(refusal: Sequence[int], user: int, connection: int, senders: bytes) -> dict[str, object]:
    """The facts of a QueueFull, as `broker.quota` and `broker.inbox` have them."""
    kind, used, limit, size = refusal
    waiting: dict[int, int] = {}
    for (sender,) in struct.iter_unpack("=Q", senders):
        waiting[sender] = waiting.get(sender, 0) + 1
    facts: dict[str, object] = {"connection": connection, "waiting": waiting, "user": user, "limit": limit}
    if kind == _REFUSED_COUNT:
        return facts | {"count": used}
    return facts | ({"used": used} if kind == _REFUSED_ALL else {"used": used, "size": size})


def said(connection: int, names: Sequence[str]) -> str:
    """A connection in words."""
    return f"connection {connection}" + (f" ({', '.join(names)})" if names else "")


def awaited(replier: int, names: Sequence[str], cookie: int) -> str:
    """What a call waits for, in words."""
    return f"waits until {said(replier, names)} replies to cookie {cookie}"
