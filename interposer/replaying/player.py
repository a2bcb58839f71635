# SPDX-License-Identifier: GPL-2.0-or-later
"""Speaks for the recorded peers, through the client library: an ordinary kdbus program.

Commands are issued as they were recorded, byte for byte, but for what cannot stay: ids of connections become those of
now, deadlines keep their distance, buses and endpoints get this user's number in front, and a reply names the cookie
that the live side has given its request now. A call that waited for its reply becomes a request whose reply comes
through the queue, which the other side cannot tell, so that all peers can be played by one thread.

What a peer received is received again, in its place, so that queues and pools fill as they did; what it says is
compared where the live side sent it (`live`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import kdbus
from interposer.replaying.live import Live, Recorded
from interposer.replaying.script import (
    Key,
    Unplayable,
    bus_of,
    is_notification,
    is_received,
    items_of,
    items_of_message,
    key_of,
    made_name,
    member,
)
from kdbus.abi.decode import struct_of
from kdbus.abi.layout import U64, align8
from kdbus.abi.revision import Kind, Revision
from kdbus.blocking import Connection
from kdbus.commands import Command
from kdbus.dialect import DIALECTS
from kdbus.flags import BROADCAST, AccessType
from kdbus.message import BloomFilter
from kdbus.nodes import ROOT, open_endpoint
from kdbus.peer import HelloOptions
from kdbus.sending import Options, Payload, Zeros
from kdbus.system import Node
from tracing.record import Event, Record

_REVISIONS = {revision.name: revision for revision in DIALECTS}
_IDS_IN_ITEMS = {
    Kind.ID: (0,),
    Kind.DST_ID: (0,),
    Kind.ID_ADD: (0,),
    Kind.ID_REMOVE: (0,),
    Kind.NAME_ADD: (0, 16),
    Kind.NAME_REMOVE: (0, 16),
    Kind.NAME_CHANGE: (0, 16),
}
"""Where in a rule's item ids of connections are; any of these may be KDBUS_MATCH_ID_ANY."""
_EXPECT_REPLY, _SIGNAL = 1, 4


@dataclass(slots=True)
class _Peer:
    """A played connection."""

    connection: Connection
    device: Node
    revision: Revision


class Player:
    """Plays steps (`Script.steps`), one after the other."""

    def __init__(self, live: Live, recorded: Recorded, bus_now: Callable[[str], str]) -> None:
        """`bus_now`: the name that a bus or endpoint of the recording has now."""
        self._live = live
        self._recorded = recorded
        self._bus_now = bus_now
        self._peers: dict[Key, _Peer] = {}
        self._made: dict[str, Node] = {}
        """Handles that made a bus or an endpoint, by the name of it below the root, in the recording."""
        self.played = 0
        self.failures: list[str] = []

    def play(self, record: Record) -> None:
        """One step. What fails, and did not when it was recorded, is kept in `failures`."""
        try:
            self._play(record)
        except kdbus.Error as error:
            self.failures.append(f"record {record.sequence}, {record.command} of a played peer, fails now: {error}")
        except Unplayable as error:
            self.failures.append(f"record {record.sequence}, {record.command} of a played peer: {error}")

    def close(self) -> None:
        """The end of all that is played."""
        for peer in self._peers.values():
            peer.connection.close()
        for node in self._made.values():
            node.close()

    def _play(self, record: Record) -> None:
        key = key_of(record)
        if key is None or (record.command == "HELLO" and record.event is Event.CALL):
            self._begin(record, key)
            return
        peer = self._peers.get(key)
        if peer is None:
            return  # It could not connect, which was told.
        if record.event is Event.CLOSE:
            del self._peers[key]
            peer.connection.close()
        elif is_received(record):
            self._receive(peer, record)
        elif record.command == "SEND":
            self.played += 1
            self._send(peer, record)
        else:
            self.played += 1
            peer.device.run(self._command(record, bus_of(record)))

    def _begin(self, record: Record, key: Key | None) -> None:
        self.played += 1
        bus = bus_of(record)
        if record.command == "BUS_MAKE":
            self._make(Node(f"{ROOT}/control"), made_name(record), record)
        elif record.command == "ENDPOINT_MAKE":
            self._make(Node(f"{ROOT}/{self._bus_now(bus)}/bus"), f"{bus}/{made_name(record)}", record)
        elif record.command == "ENDPOINT_UPDATE":
            of_process = [node for name, node in self._made.items() if name.startswith(f"{bus}/")]
            node = self._made.get(record.node) or next(iter(of_process), None)
            if node is None:
                raise Unplayable("its endpoint was not made")
            node.run(self._command(record, bus))
        elif key is not None:
            revision = _REVISIONS[record.revision]
            endpoint = record.node.partition("/")[2]
            endpoint = "bus" if endpoint == "bus" else self._bus_now(endpoint)
            device, commands = open_endpoint(self._bus_now(bus), endpoint, ROOT, revision)
            connection = Connection(device, commands, **_hello(record))
            self._peers[key] = _Peer(connection, device, revision)
            self._live.pair(key, connection.id)

    def _make(self, node: Node, name: str, record: Record) -> None:
        try:
            node.run(self._command(record, ""))
        except kdbus.Error:
            node.close()
            raise
        self._made[name] = node

    def _command(self, record: Record, bus: str) -> Command:
        """The command of a record, to be issued now."""
        layout = struct_of(_REVISIONS[record.revision], record.command)
        if layout is None or not record.before:
            return Command(record.command, record.request, None)
        content = b"".join(self._item(record, kind, data, bus) for kind, data in items_of(record))
        command = Command(record.command, record.request, layout, content)
        command.data[8 : layout.size] = record.before[8 : layout.size]
        return command

    def _item(self, record: Record, kind: int, data: bytes, bus: str) -> bytes:
        if kind == Kind.MAKE_NAME:
            data = self._bus_now(made_name(record)).encode() + b"\0"
        for offset in _IDS_IN_ITEMS.get(Kind(kind), ()) if kind in _KINDS else ():
            if offset + 8 <= len(data):
                (number,) = struct.unpack_from("<Q", data, offset)
                packed = struct.pack("<Q", self._id_now((bus, number)) if 0 < number < U64 else number)
                data = data[:offset] + packed + data[offset + 8 :]
        number = _REVISIONS[record.revision].number_of(kind) if kind in _KINDS else kind
        item = struct.pack("<2Q", 16 + len(data), number or kind) + data
        return item + bytes(align8(len(item)) - len(item))

    def _id_now(self, key: Key) -> int:
        now = self._live.now(key)
        if now is None:
            raise Unplayable(f"connection {key[1]} of the recording is not there now")
        return now

    def _send(self, peer: _Peer, record: Record) -> None:
        flags, priority, to, _, payload_type, cookie, last = struct.unpack_from("<Qq5Q", record.message, 8)
        bus = bus_of(record)
        options = Options(
            cookie=cookie,
            priority=priority,
            payload_type=payload_type,
            flags=kdbus.MessageFlag(flags & ~(_EXPECT_REPLY | _SIGNAL)),
        )
        items = items_of_message(record)
        name = next((data.rstrip(b"\0").decode() for kind, data in items if kind == Kind.DST_NAME), None)
        bloom = next((data for kind, data in items if kind == Kind.BLOOM_FILTER), None)
        number = to if to in (0, BROADCAST) else self._id_now((bus, to))
        destination: int | str = number
        if name is not None:
            destination = name
            if number:
                options["owner"] = number
        payload = list(_payload(record))
        if bloom is not None:
            filter_ = BloomFilter(bloom[8:], int.from_bytes(bloom[:8], "little"))
            peer.connection.signal(*payload, bloom=filter_, destination=destination, **options)
        elif flags & _EXPECT_REPLY:
            peer.connection.send(destination, *payload, timeout=(last - record.monotonic_ns) / 1e9, **options)
        elif last and name is None:
            peer.connection.answer(number, self._cookie(peer, (bus, to), last), *payload, **options)
        else:
            peer.connection.send(destination, *payload, **options)

    def _cookie(self, peer: _Peer, requester: Key, cookie: int) -> int:
        """The cookie that a request has now which had that one. The peers' own are as they were."""
        if requester in self._peers:
            return cookie
        said = self._recorded.requests.get((requester, cookie), [])
        found = self._live.request(requester, said, peer.connection.id)
        if found is None:
            raise Unplayable("the request that it answers has not come")
        return found

    @staticmethod
    def _receive(peer: _Peer, record: Record) -> None:
        """Receive what has come; of the bus's own messages, whichever come first."""
        with suppress(kdbus.Malformed):
            while (message := peer.connection.receive_nowait()) is not None:
                with message:
                    if is_notification(record) or not message.is_notification:
                        return


_KINDS = frozenset(int(kind) for kind in Kind)


def _payload(record: Record) -> Iterator[Payload]:
    place = 0
    for kind, data in items_of_message(record):
        if kind == Kind.PAYLOAD_VEC:
            size, address = struct.unpack_from("<2Q", data)
            yield record.payload[place : place + size] if address else Zeros(size)
            place += size


def _hello(record: Record) -> HelloOptions:
    """What a HELLO asked for."""
    found = HelloOptions(
        flags=kdbus.HelloFlag(member(record, "flags")),
        pool_size=member(record, "pool_size"),
        attach_send=kdbus.Attach(member(record, "attach_flags_send")),
        attach_receive=kdbus.Attach(member(record, "attach_flags_recv")),
    )
    names: list[tuple[str, list[kdbus.Rule]]] = []
    for kind, data in items_of(record):
        if kind == Kind.CONN_DESCRIPTION:
            found["description"] = _text(data)
        elif kind == Kind.SECLABEL:
            found["seclabel"] = _text(data)
        elif kind == Kind.PIDS:
            found["pids"] = kdbus.Pids(*struct.unpack_from("<3Q", data))
        elif kind == Kind.CREDS:
            layout = _REVISIONS[record.revision].structs["kdbus_creds"]
            found["creds"] = kdbus.Credentials(*(layout.get(data, each.name) for each in layout.fields))
        elif kind == Kind.NAME:
            names.append((_text(data), []))
        elif kind == Kind.POLICY_ACCESS and names:
            type_, access, number = struct.unpack_from("<3Q", data)
            names[-1][1].append(kdbus.Rule(kdbus.Access(access), AccessType(type_), number))
    found["policies"] = [kdbus.Policy(name, tuple(rules)) for name, rules in names]
    return found


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="surrogateescape")
