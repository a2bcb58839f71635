# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages that pass, for those who watch them: a record of each, in a queue for each who watches.

A record is made where the message is served, or, if that was done natively, when that is told (`native/ring.c`), and
waits as an object; it becomes a line in its own time. So what a message costs while somebody watches is bounded: some
30 us for record and line.

What waits is bounded as well: `MOST` records and `_MOST_BYTES` of payload for each who watches. What does not fit is
dropped, counted, and told in its place.

A record of a SEND that fails after the message was about to be delivered says so, instead of there being two: the last
record is handed on only when the next one comes, or when whoever watches fetches it, which is after the call.

How long a reply took is told with it. Requests are remembered for that, the last `_REQUESTS` of them.

`Traffic` is what there was since somebody began to watch, by connection.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass
from itertools import islice

from broker.bus import Bus
from broker.connection import Connection
from broker.domain import Domain
from broker.errors import KdbusError, errno_of
from broker.interfaces import Caller
from broker.message import About, Message, Part
from broker.send import Wait
from broker.snapshot import text
from interposer.handles.handles import OpenHandle, connection_of
from interposer.watching.wire import Record
from kdbus.abi import revision3 as abi
from kdbus.abi.decode import Text, decode_items
from kdbus.abi.revision import Kind
from tracing.errnos import errno_name
from tracing.native_calls import FORM, RESUMED, NativeCall

MOST = 4096
_MOST_BYTES = 4 << 20
_REQUESTS = 4096
_MOST_NAMES = 4
"""Of a sender, that are told."""
LONGEST_PREVIEW = 4096
"""Bytes of payload that a record has."""


@dataclass(slots=True)
class Traffic:
    """What a connection has sent and got (messages of connections to it alone), and how it has answered."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    failed: int = 0
    replies: int = 0
    reply_ns: int = 0
    """Sum of the times that its replies took."""
    longest_reply_ns: int = 0


_NONE = Traffic()
Account = tuple[int, str, int]
"""Whose traffic: its domain (`id`), the name of its bus, its id."""


def account_of(domain: Domain, bus: str, connection: int) -> Account:
    """Where to find what a connection has sent and got."""
    return id(domain), bus, connection


class Subscription:
    """What waits for one who watches. `news` is called when there may be something to take."""

    def __init__(self, wanted: Callable[[Record], bool], preview: int, news: Callable[[], None]) -> None:
        """`preview`: bytes of payload."""
        self.wanted = wanted
        self.preview = max(0, min(preview, LONGEST_PREVIEW))
        self.news = news
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._dropped = 0

    def add(self, record: Record) -> None:
        """One more record, if it is wanted and there is room."""
        if not self.wanted(record):
            return
        size = len(record["payload"])
        if self._dropped or len(self._records) >= MOST or self._bytes + size > _MOST_BYTES:
            self._dropped += 1
            return
        self._records.append(record)
        self._bytes += size

    def take(self) -> Record | None:
        """The next record, or how many were dropped behind those that waited; None for nothing."""
        if self._records:
            record = self._records.popleft()
            self._bytes -= len(record["payload"])
            return record
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return {"record": "dropped", "count": dropped}
        return None


class MessageTap:
    """`broker.tap.Tap` for all who watch."""

    def __init__(self) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self.traffic: dict[Account, Traffic] = {}
        self.domains: dict[Domain, int] = {}
        """By what number each is told."""
        self._requests: OrderedDict[tuple[Bus, int, int], int] = OrderedDict()
        self._last: tuple[Message, Record] | None = None

    # What is served natively, `interposer.supervisor.flows.Watcher`:

    waits = False
    payload_limit = LONGEST_PREVIEW

    def served_natively(self, records: bytes, data: bytes, handles: Mapping[int, OpenHandle]) -> None:
        for members in FORM.iter_unpack(records):
            call = NativeCall(*members)
            connection = connection_of(handles[call.connection])
            if call.request == connection.behaviour.revision.requests["SEND"] and call.phase != RESUMED:
                self._note_native(call, data, connection)

    def began_ns(self, wait: Wait) -> int:
        return 0

    def lent(self, wait: Wait) -> None:
        pass

    def _note_native(self, call: NativeCall, data: bytes, source: Connection) -> None:
        message, memfds = _message(source, call.message(data), call.sequence)
        preview = max((subscription.preview for subscription in self.subscriptions), default=0)
        self._note(source.bus, source, message, call.payload(data)[:preview], memfds, call.end_ns)
        if call.error:
            self._note_failure(source, call.error, call.reason(data, source.user.uid))

    def sent(self, bus: Bus, source: Connection | None, message: Message, caller: Caller | None) -> None:
        memfds = sum(part.file is not None for part in message.parts)
        preview = max((subscription.preview for subscription in self.subscriptions), default=0)
        self._note(bus, source, message, _beginning(message, caller, preview), memfds, time.monotonic_ns())

    def failed(self, source: Connection, message: Message, error: KdbusError, caller: Caller) -> None:
        from tracing.reason import reason

        if self._last is None or self._last[0] is not message:
            self.sent(source.bus, source, message, caller)
        number = source.behaviour.errnos.get(type(error), errno_of(error))
        self._note_failure(source, number, reason(type(error).__name__, error.facts))

    def _note_failure(self, source: Connection, number: int, words: str) -> None:
        assert self._last is not None
        self._last[1]["failed"] = {"errno": errno_name(number), "reason": words}
        self._traffic_of(source).failed += 1

    def settle(self) -> None:
        """The last record is complete: hand it on. Not to be called in the middle of a call."""
        if self._last is not None:
            record, self._last = self._last[1], None
            for subscription in self.subscriptions:
                subscription.add(record)

    def traffic_told(self, account: Account) -> Record:
        """What there was of one connection, as a sheet has it."""
        return asdict(self.traffic.get(account, _NONE))

    def keep(self, accounts: Container[Account]) -> None:
        """Keep no account of any others, as they have ended."""
        self.traffic = {account: traffic for account, traffic in self.traffic.items() if account in accounts}

    def _note(
        self, bus: Bus, source: Connection | None, message: Message, payload: bytes, memfds: int, now: int
    ) -> None:
        """`payload`: its beginning; `memfds`: how many of its parts are such; `now`: CLOCK_MONOTONIC, in ns."""
        self.settle()
        destination = _receiver(bus, message)
        took = self._took(bus, source, message, destination, now)
        self._count(source, message, destination, took)
        self._last = (
            message,
            {
                "record": "message",
                "domain": self.domains.get(bus.domain, 0),
                "bus": text(bus.name_bytes),
                "time_ns": time.time_ns() - time.monotonic_ns() + now,
                "monotonic_ns": now,
                "sequence": message.sequence,
                "kind": kind_of(source, message),
                "from": message.source,
                "from_names": [] if source is None else [text(name) for name in islice(source.names, _MOST_NAMES)],
                "from_command": None if source is None else _command(source),
                "to": _destination(message, destination),
                "to_name": None if message.destination_name is None else text(message.destination_name),
                "to_command": None if destination is None else _command(destination),
                "cookie": message.cookie,
                "reply_to": _reply_to(message),
                "took_ns": took,
                "flags": [name for bit, name in _FLAGS.items() if message.flags & bit],
                "priority": message.priority,
                "payload_type": message.payload_type,
                "size": sum(part.size for part in message.parts),
                "parts": len(message.parts),
                "memfds": memfds,
                "descriptors": len(message.files),
                "payload": payload,
                "notification": None if message.notification is None else _notification(message.notification),
                "failed": None,
            },
        )
        for subscription in self.subscriptions:
            subscription.news()

    def _took(
        self, bus: Bus, source: Connection | None, message: Message, destination: Connection | None, now: int
    ) -> int | None:
        """How long the reply took that this message is; a request is remembered."""
        if source is None:
            return None
        if message.flags & abi.MESSAGE_EXPECT_REPLY:
            self._requests[bus, source.id, message.cookie] = now
            if len(self._requests) > _REQUESTS:
                self._requests.popitem(last=False)
            return None
        if destination is None or not _reply_to(message):
            return None
        asked = self._requests.pop((bus, destination.id, message.timeout_or_cookie_reply), None)
        return None if asked is None else now - asked

    def _count(
        self, source: Connection | None, message: Message, destination: Connection | None, took: int | None
    ) -> None:
        if destination is not None:
            self._traffic_of(destination).received += 1
        if source is not None:
            traffic = self._traffic_of(source)
            traffic.sent += 1
            traffic.sent_bytes += sum(part.size for part in message.parts)
            if took is not None:
                traffic.replies += 1
                traffic.reply_ns += took
                traffic.longest_reply_ns = max(traffic.longest_reply_ns, took)

    def _traffic_of(self, connection: Connection) -> Traffic:
        account = account_of(connection.bus.domain, text(connection.bus.name_bytes), connection.id)
        return self.traffic.setdefault(account, Traffic())


def kind_of(source: Connection | None, message: Message) -> str:
    """What a message is for."""
    if source is None:
        return "notification"
    if message.flags & abi.MESSAGE_EXPECT_REPLY:
        return "call"
    if message.flags & abi.MESSAGE_SIGNAL or message.is_broadcast:
        return "signal"
    return "reply" if _reply_to(message) else "message"


def _reply_to(message: Message) -> int | None:
    return None if message.flags & abi.MESSAGE_EXPECT_REPLY else message.timeout_or_cookie_reply or None


def _receiver(bus: Bus, message: Message) -> Connection | None:
    """Whom it is addressed to, if to one."""
    if message.is_broadcast:
        return None
    if message.destination_name is not None:
        entry = bus.names.find(message.destination_name)
        return None if entry is None else entry.owner
    return bus.connections.get(message.destination)


def _destination(message: Message, found: Connection | None) -> int | None:
    """The receiver's id; None for everybody, and for a name that nobody owns."""
    if found is not None:
        return found.id
    return None if message.is_broadcast or message.destination_name is not None else message.destination


def _command(connection: Connection) -> str | None:
    found = connection.metadata.strings.get(abi.ATTACH_PID_COMM)
    return None if found is None else text(found)


def _beginning(message: Message, caller: Caller | None, limit: int) -> bytes:
    """The beginning of the payload that is in the sender's memory; less, if that cannot be read, or is in a memfd."""
    found = bytearray()
    for address, size in message.pieces:
        if caller is None or len(found) >= limit:
            break
        wanted = min(size, limit - len(found))
        try:
            found += caller.read(address, wanted) if address else bytes(wanted)
        except KdbusError:
            break
    return bytes(found)


def _message(source: Connection, data: bytes, sequence: int) -> tuple[Message, int]:
    """A message as it was passed to SEND, as far as it is told of, and how many memfds are in it."""
    revision = source.behaviour.revision
    _, flags, priority, destination, _, payload_type, cookie, timeout = _HEADER.unpack_from(data)
    message = Message(destination, source.id, payload_type)
    message.flags, message.priority, message.cookie = flags, priority, cookie
    message.timeout_or_cookie_reply, message.sequence = timeout, sequence
    memfds = 0
    for item in decode_items(revision, data[_HEADER.size :]):
        if isinstance(item.value, Text) and item.name == "DST_NAME":
            message.destination_name = item.value.data
        elif isinstance(item.value, dict) and item.name in ("PAYLOAD_VEC", "PAYLOAD_MEMFD"):
            size = item.value["size"]
            assert isinstance(size, int)
            message.parts.append(Part(size, None, None))
            memfds += item.name == "PAYLOAD_MEMFD"
    return message, memfds


_HEADER = struct.Struct("=QQqQQQQQ")
"""struct kdbus_msg."""


def _notification(about: About) -> Record:
    """What the bus says. `old` and `new`: connections, null for none."""
    name = None if about.name is None else text(about.name)
    return {"type": Kind(about.type).name, "old": about.old_id or None, "new": about.new_id or None, "name": name}


_FLAGS = {
    abi.MESSAGE_EXPECT_REPLY: "EXPECT_REPLY",
    abi.MESSAGE_NO_AUTO_START: "NO_AUTO_START",
    abi.MESSAGE_SIGNAL: "SIGNAL",
}
