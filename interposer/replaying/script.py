# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as a script: who there was, who is to be played, and what happened in which order.

A peer is a connection. What its process did on other handles, to make a bus or an endpoint, goes with it: such calls
are played if no connection of that process is left to the live program.

Calls that only asked (lists, information, peeking, negotiation) and calls that failed have changed nothing, and are not
played; nor is FREE, as the player gives back what it receives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kdbus.abi.decode import struct_of
from kdbus.abi.revision import REVISIONS, Kind
from kdbus.dialect import DIALECTS
from kdbus.errors import Malformed
from kdbus.items import walk
from tracing.escaping import count_of
from tracing.record import Event, Phase, Record

CHANGES = frozenset(
    "BUS_MAKE ENDPOINT_MAKE ENDPOINT_UPDATE HELLO UPDATE CONN_UPDATE BYEBYE SEND NAME_ACQUIRE NAME_RELEASE MATCH_ADD"
    " MATCH_REMOVE".split()
)
"""Commands that change something for others."""
PLAYED = frozenset(revision.name for revision in DIALECTS)
"""Revisions that can be played: those that the client library speaks."""
INTERRUPTED = 512
_NEGOTIATE = 1 << 63
_PEEK_OR_DROP = 3
_TABLES = {revision.name: revision for revision in REVISIONS}

Key = tuple[str, int]
"""A connection when it was recorded: its bus and its id."""


class Unplayable(Exception):
    """The recording cannot be played so; the text says why. `advice` says what to do."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


@dataclass(slots=True)
class Peer:
    """A recorded connection."""

    bus: str
    id: int
    pid: int
    comm: str
    revision: str
    names: list[str] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.bus, self.id

    def __str__(self) -> str:
        names = f", {' '.join(self.names)}" if self.names else ""
        return f"connection {self.id} on {self.bus} ({self.comm}{names})"


def bus_of(record: Record) -> str:
    """The bus whose node a record is about."""
    return record.node.partition("/")[0]


def key_of(record: Record) -> Key | None:
    """The connection that a record is of."""
    return None if record.connection is None else (bus_of(record), record.connection)


def is_change(record: Record) -> bool:
    """Whether the call has changed something for others, or was meant to."""
    if record.event is not Event.CALL or record.command not in CHANGES or record.phase is Phase.RESUMED:
        return False
    return not member(record, "flags") & _NEGOTIATE


def is_received(record: Record) -> bool:
    """Whether a message was received and taken: by RECV, or as the reply that a SEND has waited for."""
    if record.event is not Event.CALL or record.errno or not record.message:
        return False
    if record.command == "SEND":
        return record.phase is Phase.RESUMED
    return record.command == "RECV" and not member(record, "flags") & _PEEK_OR_DROP


def is_notification(record: Record) -> bool:
    """Whether the message of a record comes from the bus itself."""
    return record.message[32:40] == bytes(8)


def member(record: Record, name: str) -> int:
    """A member of the command; 0 if there is none."""
    layout = struct_of(_TABLES[record.revision], record.command) if record.revision in _TABLES else None
    if layout is None or name not in layout.members or len(record.before) < layout.size:
        return 0
    return layout.get(record.before, name)


class Script:
    """Takes the records of a recording (`tracing.record.Tracer`), and has them afterwards."""

    payload_limit = 0
    waits = False
    stacks = False
    left = False

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.peers: dict[Key, Peer] = {}
        self._made: set[str] = set()

    def take(self, record: Record) -> None:
        """The next record. Raises Unplayable."""
        if record.event is Event.DROPPED:
            told = f"{count_of(record.count, 'record')} missing in it"
            raise Unplayable(told, "record it once more, to a faster disk")
        self.payload_limit = max(self.payload_limit, len(record.payload))
        self.records.append(record)
        key = key_of(record)
        if key is not None and record.command == "HELLO" and not record.errno:
            self.peers[key] = Peer(*key, record.pid, record.comm, record.revision)
        if record.command == "BUS_MAKE" and not record.errno:
            self._made.add(made_name(record))
        for number, names in record.names.items():
            peer = self.peers.get((bus_of(record), number))
            if peer is not None:
                peer.names += [name for name in names if name not in peer.names]

    def close(self) -> None:
        """There are no more."""

    @property
    def given_buses(self) -> list[str]:
        """The buses that were there from the start (`kdbus run --make-bus`)."""
        return sorted({bus for bus, _ in self.peers} - self._made)

    def chosen(self, words: Sequence[str]) -> set[Key]:
        """Who is meant by names, ids (or BUS/ID), and names of processes. Raises Unplayable."""
        return {key for word in words for key in self._meant(word)}

    def _meant(self, word: str) -> list[Key]:
        bus, _, number = word.rpartition("/")
        found = [
            peer
            for peer in self.peers.values()
            if word in (*peer.names, peer.comm) or (str(peer.id) == number and bus in ("", peer.bus))
        ]
        if not found:
            raise Unplayable(f"nobody in it is {word!r}", self.cast())
        if number.isdecimal() and len(found) > 1:
            raise Unplayable(f"there is a {word} on several buses", f"give one as {found[0].bus}/{number}")
        return [peer.key for peer in found]

    def all_but(self, comm: str) -> set[Key]:
        """All peers but those of processes of that name, which is the live program's. Raises Unplayable."""
        found = {peer.key for peer in self.peers.values() if peer.comm != comm}
        if len(found) == len(self.peers):
            raise Unplayable(f"no process in it was called {comm!r}", f"say who is to be played, --play; {self.cast()}")
        return found

    def cast(self) -> str:
        """All peers, in words."""
        return f"there are {', '.join(map(str, self.peers.values()))}" if self.peers else "there is no connection in it"

    def check(self, played: set[Key]) -> None:
        """Raise Unplayable if somebody who is to be played cannot be."""
        if not played:
            raise Unplayable("nobody is left to be played", f"--play says who is; {self.cast()}")
        if len(played) == len(self.peers):
            raise Unplayable("nobody is left to be live", f"--play says who is played; {self.cast()}")
        for key in sorted(played):
            if self.peers[key].revision not in PLAYED:
                revision = self.peers[key].revision
                raise Unplayable(f"{self.peers[key]} speaks revision {revision}, which `kdbus replay` does not")
        for record in self.steps(played):
            if record.command == "SEND" and record.phase is not Phase.RESUMED:
                problem = _missing(record)
                if problem:
                    number = record.sequence
                    raise Unplayable(f"{self.peers[_key(record)]} cannot be played: record {number}, SEND, {problem}")

    def live_processes(self, played: set[Key]) -> set[int]:
        """The numbers that the processes had whose part the live program has."""
        return {peer.pid for key, peer in self.peers.items() if key not in played}

    def is_live(self, record: Record, played: set[Key], live: set[int]) -> bool:
        """Whether the live program did what a record tells. `live`: from `live_processes`."""
        key = key_of(record)
        return key not in played if key is not None else record.pid in live

    def steps(self, played: set[Key]) -> Iterator[Record]:
        """What those who are played have done."""
        live = self.live_processes(played)
        for record in self.records:
            is_step = (is_change(record) and not record.errno) or is_received(record) or _is_close(record)
            if is_step and not self.is_live(record, played, live):
                yield record


def _is_close(record: Record) -> bool:
    return record.event is Event.CLOSE and record.connection is not None


def _key(record: Record) -> Key:
    key = key_of(record)
    assert key is not None
    return key


def made_name(record: Record) -> str:
    """The name of the bus or endpoint that a call makes."""
    for kind, content in items_of(record):
        if kind == Kind.MAKE_NAME:
            return content.rstrip(b"\0").decode("ascii", "backslashreplace")
    return ""


def items_of(record: Record) -> list[tuple[int, bytes]]:
    """Kind and content of a command's items. Those behind one that is broken are left out."""
    layout = struct_of(_TABLES[record.revision], record.command)
    return [] if layout is None else list(_items(record, record.before[layout.size :]))


def items_of_message(record: Record) -> list[tuple[int, bytes]]:
    """The same of a message."""
    return list(_items(record, record.message[_TABLES[record.revision].structs["kdbus_msg"].size :]))


def _items(record: Record, data: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        for kind, content in walk(_TABLES[record.revision], memoryview(data), record.command):
            yield kind, bytes(content)
    except Malformed:
        return


def _missing(record: Record) -> str:
    """What is not in the recording of a message that was sent."""
    size = 0
    for kind, content in items_of_message(record):
        if kind == Kind.PAYLOAD_MEMFD:
            return "has a memfd, whose content is not recorded"
        if kind == Kind.FDS:
            return "passes descriptors, which cannot be recorded"
        if kind == Kind.PAYLOAD_VEC:
            size += int.from_bytes(content[:8], "little")
    if size > len(record.payload):
        return f"has {size} bytes of payload, of which {len(record.payload)} are recorded (`kdbus record -s`)"
    return ""
