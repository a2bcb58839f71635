# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer of whichever revision, for tests of the pure broker that ask what becomes of a message between two of them.

What it sends and receives is a `Letter`, which means the same in all revisions. Commands are built and read with the
tables of the revision, and nothing of the broker's; what a table does not say is written down here by name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from broker.connection import Connection
from broker.handle import ControlHandle, EndpointHandle, open_node
from broker.send import Wait
from kdbus.abi import final, revision2, revision3, revision219
from kdbus.abi.layout import U64, Struct
from tests.support.fakes import FakeEvents, FakeFile
from tests.support.world import World, bloom_bits, item, parse_items, string_item

REVISIONS: dict[str, ModuleType] = {"2": revision2, "3": revision3, "219": revision219, "final": final}
BLOOM_SIZE = 64
DBUS = final.CONSTANTS["KDBUS_PAYLOAD_DBUS"]
FACTS = (
    *("TIMESTAMP", "CREDS", "PIDS", "AUXGROUPS", "NAMES", "TID_COMM", "PID_COMM", "EXE", "CMDLINE", "CGROUP", "CAPS"),
    *("SECLABEL", "AUDIT", "CONN_DESCRIPTION"),
)
"""What one may want to know of a sender, as later revisions call it."""
_EXCHANGED = {"TID_COMM": "PID_COMM", "PID_COMM": "TID_COMM"}
_COMMANDS = {
    "UPDATE": ("UPDATE", "CONN_UPDATE"),
    "SEND": ("SEND", "MSG_SEND"),
    "RECV": ("RECV", "MSG_RECV"),
}
_STRUCTS = {
    "BUS_MAKE": ("kdbus_cmd", "kdbus_cmd_make"),
    "HELLO": ("kdbus_cmd_hello",),
    "SEND": ("kdbus_cmd_send", "kdbus_msg"),
    "RECV": ("kdbus_cmd_recv",),
    "FREE": ("kdbus_cmd_free",),
    "NAME_ACQUIRE": ("kdbus_cmd", "kdbus_cmd_name"),
    "MATCH_ADD": ("kdbus_cmd_match",),
}


@dataclass
class Letter:
    """A message. `body`: pieces of payload in order, each bytes, a number of zeros, or a memfd."""

    to: int | bytes = 0
    body: Sequence[bytes | int | FakeFile] = ()
    files: Sequence[FakeFile] = ()
    cookie: int = 0
    priority: int = 0
    timeout_or_cookie_reply: int = 0
    expects_reply: bool = False
    waits: bool = False
    may_start: bool = True
    bits: Sequence[int] | None = None
    """What its bloom filter has, if it is a signal."""
    source: int = 0
    facts: dict[str, object] = field(default_factory=dict)
    """Of what was received: what is told of the sender, by words of `FACTS` and the members of structures."""
    notification: tuple[str, bytes] | None = None
    """Of what was received from the bus: the item's name and content."""
    flags: int = 0
    """Of what was received: as its revision writes them."""


class Speaker:
    """A connection of the revision of that name; everybody's HELLO is by the user who made the bus."""

    handle: ControlHandle | EndpointHandle
    address: int
    wait: Wait | None

    def __init__(
        self,
        world: World,
        revision: str,
        bus: str,
        *,
        wants: Iterable[str] = (),
        tells: Iterable[str] = FACTS,
        description: bytes | None = None,
    ) -> None:
        self.revision = revision
        self.tables = REVISIONS[revision]
        self.caller = world.caller(groups=(5, 6))
        handle = open_node(world.domain, (bus, "bus"), self.caller, FakeEvents())
        assert isinstance(handle, EndpointHandle)
        self.handle = handle
        items = [] if description is None else [string_item(self.number("CONN_DESCRIPTION"), description)]
        hello = _issue(
            self,
            "HELLO",
            items,
            flags=1,
            pool_size=1 << 20,
            attach_flags_send=self._attach(tells),
            attach_flags_recv=self._attach(wants),
        )
        self.id = hello["id"]

    @property
    def connection(self) -> Connection:
        assert isinstance(self.handle, EndpointHandle) and self.handle.connection is not None
        return self.handle.connection

    def number(self, name: str) -> int:
        """The number of an item."""
        number: int = self.tables.CONSTANTS[f"KDBUS_ITEM_{name}"]
        return number

    def layout(self, name: str) -> Struct:
        """A structure."""
        found: Struct = self.tables.STRUCTS[name]
        return found

    def _attach(self, facts: Iterable[str]) -> int:
        words = {self._own_word(fact) for fact in facts}
        return sum(self.tables.CONSTANTS[f"KDBUS_ATTACH_{word}"] for word in words)

    def _own_word(self, fact: str) -> str:
        """What a fact is called here: version 2 has processes among its credentials."""
        if self.revision != "2":
            return fact
        return "CREDS" if fact == "PIDS" else _EXCHANGED.get(fact, fact)

    def acquire(self, name: bytes) -> None:
        """Own a name."""
        _issue(self, "NAME_ACQUIRE", [string_item(self.number("NAME"), name)])

    def match(self, *items: bytes) -> None:
        """Add a match."""
        _issue(self, "MATCH_ADD", items, cookie=1)

    def match_bits(self, *bits: int) -> None:
        """Add a match for signals with these bits."""
        self.match(item(self.number("BLOOM_MASK"), bloom_bits(*bits, size=BLOOM_SIZE)))

    def send(self, letter: Letter) -> Wait | None:
        """Send it; a wait if it waits for an answer, which `answered` reads then."""
        to = letter.to
        items = [string_item(self.number("DST_NAME"), to)] if isinstance(to, bytes) else []
        items += map(self._piece, letter.body)
        if letter.files:
            numbers = [self.caller.open(file) for file in letter.files]
            items.append(item(self.number("FDS"), struct.pack(f"<{len(numbers)}i", *numbers)))
        if letter.bits is not None:
            items.append(item(self.number("BLOOM_FILTER"), bytes(8) + bloom_bits(*letter.bits, size=BLOOM_SIZE)))
        own = "kdbus_cmd_send" not in self.tables.STRUCTS
        members = {
            "flags": self._flags(letter, own=own),
            "priority": letter.priority,
            "dst_id": 0 if isinstance(to, bytes) else to,
            "payload_type": DBUS,
            "cookie": letter.cookie,
            "timeout_ns": letter.timeout_or_cookie_reply,
        }
        if own:
            self.result = _issue(self, "SEND", items, **members)
        else:
            message = self.caller.memory.put(_built(self.layout("kdbus_msg"), items, members))
            flags = self.tables.CONSTANTS["KDBUS_SEND_SYNC_REPLY"] if letter.waits else 0
            self.result = _issue(self, "SEND", flags=flags, msg_address=message)
        self.sent_at = self.address
        return self.wait

    def _flags(self, letter: Letter, *, own: bool) -> int:
        words = {
            "EXPECT_REPLY": letter.expects_reply,
            "NO_AUTO_START": not letter.may_start,
            "SYNC_REPLY": letter.waits and own,
            "SIGNAL": letter.bits is not None and not own,
        }
        return sum(self.tables.CONSTANTS[f"KDBUS_MSG_{word}"] for word, is_set in words.items() if is_set)

    def _piece(self, piece: bytes | int | FakeFile) -> bytes:
        if isinstance(piece, FakeFile):
            layout = self.layout("kdbus_memfd")
            members = {"size": piece.size, "fd": self.caller.open(piece)}
            return item(self.number("PAYLOAD_MEMFD"), _built(layout, (), members))
        size, address = (piece, 0) if isinstance(piece, int) else (len(piece), self.caller.memory.put(piece))
        return item(self.number("PAYLOAD_VEC"), struct.pack("<2Q", size, address))

    def receive(self) -> Letter:
        """The next message, which is freed."""
        _issue(self, "RECV")
        return self._taken("kdbus_cmd_recv", "msg", "offset", self.address)

    def answered(self, wait: Wait) -> Letter:
        """What a call was answered, which is freed."""
        wait.finish(self.caller)
        struct_name = "kdbus_cmd_send" if "kdbus_cmd_send" in self.tables.STRUCTS else "kdbus_msg"
        return self._taken(struct_name, "reply", "offset_reply", self.sent_at)

    def _taken(self, struct_name: str, member: str, older: str, address: int) -> Letter:
        layout = self.layout(struct_name)
        start, _ = layout.span(member if member in layout.members else older)
        offset = int.from_bytes(self.caller.memory.read(address + start, 8), "little")
        letter = self._read(offset)
        _issue(self, "FREE", offset=offset)
        return letter

    def _read(self, offset: int) -> Letter:
        memory, layout = self.connection.pool.memory, self.layout("kdbus_msg")
        size = int.from_bytes(memory.read(offset, 8), "little")
        raw = memory.read(offset, size + 7 & ~7)
        flags = layout.get(raw, "flags")
        letter = Letter(
            layout.get(raw, "dst_id"),
            cookie=layout.get(raw, "cookie"),
            priority=struct.unpack_from("<q", raw, layout.span("priority")[0])[0],
            timeout_or_cookie_reply=layout.get(raw, "timeout_ns"),
            expects_reply=bool(flags & 1),
            may_start=not flags & self.tables.CONSTANTS["KDBUS_MSG_NO_AUTO_START"],
            source=layout.get(raw, "src_id"),
            flags=flags,
        )
        names = {number: name for name, number in self._items().items()}
        base = 0 if self.revision == "3" else offset
        body: list[bytes | int | FakeFile] = []
        for number, content in parse_items(raw[layout.size :]):
            name = names[number]
            if name == "PAYLOAD_OFF":
                length, place = struct.unpack("<2Q", content)
                body.append(length if place == U64 else memory.read(base + place, length))
            elif name == "PAYLOAD_MEMFD":
                memfd = self.layout("kdbus_memfd")
                assert "start" not in memfd.members or memfd.get(content, "start") == 0
                body.append(self.caller.descriptors[memfd.get(content, "fd")])
                assert memfd.get(content, "size") == body[-1].size  # type: ignore[union-attr]
            elif name == "FDS":
                numbers = struct.unpack(f"<{len(content) // 4}i", content)
                letter.files = [self.caller.descriptors[each] for each in numbers]
            elif name == "DST_NAME":
                letter.to = content[:-1]
            elif name == "BLOOM_FILTER":
                letter.bits = [bit for bit in range(8 * BLOOM_SIZE) if content[8 + bit // 8] >> bit % 8 & 1]
            elif number >= 0x8000:
                letter.notification = name, content
            else:
                letter.facts.update(self._facts(name, content))
        letter.body = body
        return letter

    def _items(self) -> dict[str, int]:
        constants: dict[str, int] = self.tables.CONSTANTS
        prefix = "KDBUS_ITEM_"
        return {name.removeprefix(prefix): each for name, each in constants.items() if name.startswith(prefix)}

    def _facts(self, name: str, content: bytes) -> dict[str, object]:
        """What an item of metadata says: of numbers each by itself."""
        if name in ("CREDS", "PIDS", "AUDIT"):
            layout = self.layout(f"kdbus_{name.lower()}")
            return {each.name: layout.get(content, each.name) for each in layout.fields}
        if name == "AUXGROUPS":
            words = "I" if self.layout("kdbus_creds").size == 32 else "Q"
            return {name: [number for (number,) in struct.iter_unpack(f"<{words}", content)]}
        if name == "OWNED_NAME":
            return {"NAMES": content[8:-1]}
        if name in ("TIMESTAMP", "CAPS"):
            return {name: content}
        return {_EXCHANGED.get(name, name) if self.revision == "2" else name: content[:-1]}


class _Maker:
    """Who makes a bus."""

    def __init__(self, world: World, revision: str) -> None:
        self.tables = REVISIONS[revision]
        self.caller = world.caller()
        handle = open_node(world.domain, ("control",), self.caller, FakeEvents())
        assert isinstance(handle, ControlHandle)
        self.handle = handle
        self.address = 0
        self.wait: Wait | None = None


def make_bus(world: World, revision: str) -> str:
    """A bus that is made by that revision; its name. It lives as long as the world."""
    maker = _Maker(world, revision)
    name = f"1000-{revision}"
    numbers = {each: maker.tables.CONSTANTS[f"KDBUS_ITEM_{each}"] for each in ("MAKE_NAME", "BLOOM_PARAMETER")}
    bloom = item(numbers["BLOOM_PARAMETER"], struct.pack("<2Q", BLOOM_SIZE, 8))
    _issue(maker, "BUS_MAKE", [bloom, string_item(numbers["MAKE_NAME"], name.encode())], flags=2)
    return name


def _built(layout: Struct, items: Sequence[bytes], members: dict[str, int]) -> bytes:
    data = bytearray(layout.size)
    tail = b"".join(items)
    for member, value in members.items():
        layout.put(data, member, value & U64)
    if "size" in layout.members and "size" not in members:
        layout.put(data, "size", layout.size + len(tail))
    return bytes(data) + tail


def _issue(who: Speaker | _Maker, name: str, items: Sequence[bytes] = (), **members: int) -> dict[str, int]:
    """Issue a command; returns the members of its structure afterwards."""
    layout = next(who.tables.STRUCTS[each] for each in _STRUCTS[name] if each in who.tables.STRUCTS)
    names = (f"KDBUS_CMD_{each}" for each in _COMMANDS.get(name, (name,)))
    request = next(who.tables.REQUESTS[each] for each in names if each in who.tables.REQUESTS)
    who.address = who.caller.memory.put(_built(layout, items, members))
    who.wait = who.handle.ioctl(request, who.address, who.caller)
    after = who.caller.memory.read(who.address, layout.size)
    return {each.name: layout.get(after, each.name) for each in layout.fields if each.size == 8}
