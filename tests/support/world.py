# SPDX-License-Identifier: GPL-2.0-or-later
"""The world outside the broker, in memory, and peers that live in it.

`World` is a domain with everything around it. A test usually needs just

    world = World()
    alice, bob = world.connect(), world.connect()
    alice.send(bob, b"hello")
    assert bob.recv().payload == b"hello"

`Peer` has a method per command. Each builds the command's bytes in the memory of a caller (`tests.support.building`),
issues it through the handle like a program would, and reads the results back out of that memory and of the pool. A
failing command raises the broker's error; `fails` asserts which. All calls of one peer are made by `peer.caller`,
unless another one is given (`caller=`).

The fakes themselves are in `tests.support.fakes`; everything can be imported from here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from broker.bus import Bus
from broker.connection import Connection
from broker.domain import Domain
from broker.endpoint import Endpoint
from broker.errors import KdbusError, errno_of
from broker.handle import ControlHandle, EndpointHandle, open_node
from broker.quota import QueueQuota, User
from broker.send import Wait
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from tests.support.building import (
    BLOOM_SIZE,
    PAYLOAD_DBUS,
    Info,
    ListedName,
    Outcome,
    Received,
    access_item,
    bloom_bits,
    bloom_filter_item,
    bloom_mask_item,
    cancel_item,
    command_bytes,
    descriptors_item,
    item,
    memfd_item,
    message_bytes,
    name_item,
    parse_items,
    string_item,
    vector_item,
    words_item,
    world_access,
)
from tests.support.fakes import (
    ALL_SEALS,
    SECOND,
    FakeCaller,
    FakeClock,
    FakeEvents,
    FakeFile,
    FakeIds,
    FakeNode,
    FakeNodes,
    FakePool,
    FakeProcess,
    FakeReference,
    Memory,
    credentials,
    memfd,
)

__all__ = [
    "ALL_SEALS",
    "BLOOM_SIZE",
    "BROADCAST",
    "PAYLOAD_DBUS",
    "SECOND",
    "BusMaker",
    "Calling",
    "EndpointOwner",
    "FakeCaller",
    "FakeClock",
    "FakeEvents",
    "FakeFile",
    "FakeIds",
    "FakeNode",
    "FakeNodes",
    "FakePool",
    "FakeProcess",
    "FakeReference",
    "Info",
    "ListedName",
    "Memory",
    "Outcome",
    "Peer",
    "Received",
    "Sent",
    "World",
    "access_item",
    "bloom_bits",
    "bloom_filter_item",
    "bloom_mask_item",
    "cancel_item",
    "command_bytes",
    "credentials",
    "descriptors_item",
    "fails",
    "item",
    "memfd",
    "memfd_item",
    "message_bytes",
    "name_item",
    "notices",
    "parse_items",
    "string_item",
    "vector_item",
    "words_item",
    "world_access",
]

BROADCAST = abi.DESTINATION_BROADCAST


class Calling:
    """Somebody who issues commands on a handle."""

    def __init__(self, world: World, handle: ControlHandle | EndpointHandle, caller: FakeCaller) -> None:
        self.world = world
        self.handle = handle
        self.caller = caller

    def ioctl(self, name: str, address: int, caller: FakeCaller | None = None) -> Wait | None:
        """Issue a command whose argument is at `address` in the caller's memory."""
        return self.handle.ioctl(abi.REQUESTS["KDBUS_CMD_" + name], address, caller or self.caller)

    def raw(self, name: str, data: bytes, caller: FakeCaller | None = None) -> bytes:
        """Issue a command with these bytes; returns what they are afterwards. For commands that do not wait."""
        used = caller or self.caller
        address = used.memory.put(data)
        assert self.ioctl(name, address, used) is None
        return used.memory.read(address, len(data))

    def call(
        self, name: str, struct_name: str, items: Sequence[bytes] = (), caller: FakeCaller | None = None, **members: int
    ) -> Outcome:
        """Issue a command built with `command_bytes`."""
        return Outcome(struct_name, self.raw(name, command_bytes(struct_name, items, **members), caller))

    def close(self) -> None:
        """Close the handle's last duplicate."""
        self.handle.close()


class BusMaker(Calling):
    """Who made a bus, with its control handle."""

    @property
    def bus(self) -> Bus:
        assert isinstance(self.handle, ControlHandle) and self.handle.bus is not None
        return self.handle.bus

    @property
    def name(self) -> str:
        return self.bus.name


class EndpointOwner(Calling):
    """Who made a custom endpoint, with its handle."""

    @property
    def endpoint(self) -> Endpoint:
        assert isinstance(self.handle, EndpointHandle) and self.handle.owned is not None
        return self.handle.owned

    @property
    def name(self) -> str:
        return self.endpoint.name

    def update(self, *items: bytes) -> Outcome:
        """ENDPOINT_UPDATE."""
        return self.call("ENDPOINT_UPDATE", "kdbus_cmd_update", items)


class Sent:
    """A SEND that has been issued."""

    def __init__(self, caller: FakeCaller, address: int, wait: Wait | None) -> None:
        self._caller = caller
        self.address = address
        self.wait = wait
        self.woken = 0
        if wait is not None:
            wait.on_ready(self._wake)

    def _wake(self) -> None:
        self.woken += 1

    @property
    def command(self) -> Outcome:
        """The command as it stands in memory now."""
        size = abi.STRUCTS["kdbus_cmd_send"].size
        return Outcome("kdbus_cmd_send", self._caller.memory.read(self.address, size))

    def finish(self) -> tuple[int, int, int]:
        """End the wait: (offset, size, return flags) of the reply."""
        assert self.wait is not None and self.woken
        self.wait.finish(self._caller)
        offset, size, flags = self.command.words("reply")
        return offset, size, flags


class Peer(Calling):
    """A connection, with a method per command."""

    handle: EndpointHandle

    def __init__(
        self, world: World, handle: EndpointHandle, caller: FakeCaller, events: FakeEvents, hello: Outcome
    ) -> None:
        super().__init__(world, handle, caller)
        self.handle = handle
        self.events = events
        self.hello = hello
        self.id = hello["id"]

    @property
    def connection(self) -> Connection:
        assert self.handle.connection is not None
        return self.handle.connection

    @property
    def memory(self) -> FakePool:
        """The pool's bytes."""
        memory = self.connection.pool.memory
        assert isinstance(memory, FakePool)
        return memory

    def send(
        self,
        to: Peer | int | bytes = 0,
        payload: bytes = b"",
        *,
        items: Sequence[bytes] = (),
        sync: bool = False,
        command_items: Sequence[bytes] = (),
        command_flags: int = 0,
        caller: FakeCaller | None = None,
        **members: int,
    ) -> Sent:
        """SEND to a connection, an id or a well-known name; `payload` becomes a PAYLOAD_VEC item after `items`.

        `members` are those of `kdbus_msg` (`flags`, `cookie`, `cookie_reply`, `timeout_ns`, `priority`, `dst_id`...).
        """
        used = caller or self.caller
        parts = list(items)
        if payload:
            parts.append(vector_item(used.memory.put(payload), len(payload)))
        if isinstance(to, bytes):
            parts.insert(0, string_item(abi.ITEM_DST_NAME, to))
        elif isinstance(to, Peer):
            members.setdefault("dst_id", to.id)
        else:
            members.setdefault("dst_id", to)
        message = used.memory.put(message_bytes(parts, **members))
        flags = command_flags | (abi.SEND_SYNC_REPLY if sync else 0)
        command = command_bytes("kdbus_cmd_send", command_items, flags=flags, msg_address=message)
        address = used.memory.put(command)
        return Sent(used, address, self.ioctl("SEND", address, used))

    def request(self, to: Peer | int | bytes, cookie: int, *, timeout: int = SECOND, sync: bool = False) -> Sent:
        """SEND of a request that expects a reply within `timeout` ns."""
        deadline = self.world.clock.monotonic + timeout
        return self.send(to, flags=abi.MESSAGE_EXPECT_REPLY, cookie=cookie, timeout_ns=deadline, sync=sync)

    def reply(self, to: Peer, cookie: int, payload: bytes = b"", *, items: Sequence[bytes] = ()) -> Sent:
        """SEND of the reply to a request."""
        return self.send(to, payload, items=items, cookie_reply=cookie)

    def signal(self, to: Peer | int = BROADCAST, payload: bytes = b"", *, bits: Sequence[int] = ()) -> Sent:
        """SEND of a signal, to everybody or to one."""
        return self.send(to, payload, items=[bloom_filter_item(*bits)], flags=abi.MESSAGE_SIGNAL)

    def recv(
        self, flags: int = 0, *, priority: int = 0, free: bool = True, caller: FakeCaller | None = None
    ) -> Received:
        """RECV; the message is parsed and then, unless told otherwise, its slice freed."""
        outcome = self.call("RECV", "kdbus_cmd_recv", flags=flags, priority=priority & (1 << 64) - 1, caller=caller)
        offset, size, return_flags = outcome.words("msg")
        received = self.parse(offset, size, return_flags)
        if free:
            self.free(offset)
        return received

    def parse(self, offset: int, size: int, return_flags: int = 0) -> Received:
        """The message in the slice at `offset`."""
        layout = abi.STRUCTS["kdbus_msg"]
        data = self.memory.read(offset, size)
        header = {member.name: layout.get(data, member.name) for member in layout.fields if member.size == 8}
        assert header["size"] <= size < header["size"] + 8
        raw = data[: header["size"]]
        items = parse_items(raw[layout.size :])
        payload = b""
        for item_type, found in items:
            if item_type == abi.ITEM_PAYLOAD_OFF:
                length, place = struct.unpack("<QQ", found)
                payload += bytes(length) if place == U64 else self.memory.read(place, length)
        return Received(offset, size, return_flags, header, items, payload, raw)

    def drop(self) -> None:
        """RECV that throws the next message away."""
        self.call("RECV", "kdbus_cmd_recv", flags=abi.RECV_DROP)

    def received(self) -> list[Received]:
        """RECV until the queue is empty."""
        return [self.recv() for _ in range(len(self.connection.queue))]

    def free(self, offset: int) -> Outcome:
        """FREE."""
        return self.call("FREE", "kdbus_cmd_free", offset=offset)

    def acquire(self, name: bytes, flags: int = 0, caller: FakeCaller | None = None) -> int:
        """NAME_ACQUIRE; returns the flags written back."""
        return self.call("NAME_ACQUIRE", "kdbus_cmd_name", [name_item(name)], caller, flags=flags)["flags"]

    def release(self, name: bytes) -> None:
        """NAME_RELEASE."""
        self.call("NAME_RELEASE", "kdbus_cmd_name", [name_item(name)])

    def _take(self, offset: int, size: int) -> bytes:
        data = self.memory.read(offset, size)
        self.free(offset)
        return data

    def names(self, flags: int = abi.LIST_NAMES) -> list[ListedName]:
        """NAME_LIST; the slice is freed."""
        outcome = self.call("NAME_LIST", "kdbus_cmd_name_list", flags=flags)
        data = self._take(outcome["offset"], outcome["list_size"])
        end = struct.unpack_from("<Q", data)[0]
        assert (end + 7) & ~7 == len(data)
        position = 8
        found: list[ListedName] = []
        while position < end:
            size, connection_flags, owner = struct.unpack_from("<3Q", data, position)
            items = parse_items(data[position + 24 : position + size])
            position += (size + 7) & ~7
            if items:
                ((item_type, payload),) = items
                assert item_type == abi.ITEM_OWNED_NAME and payload.endswith(b"\0")
                name_flags = struct.unpack_from("<Q", payload)[0]
                found.append(ListedName(owner, connection_flags, payload[8:-1], name_flags))
            else:
                found.append(ListedName(owner, connection_flags, None, 0))
        return found

    def _info(self, command: str, items: Sequence[bytes], caller: FakeCaller | None, **members: int) -> Info:
        outcome = self.call(command, "kdbus_cmd_info", items, caller, **members)
        data = self._take(outcome["offset"], outcome["info_size"])
        size, number, flags = struct.unpack_from("<3Q", data)
        assert (size + 7) & ~7 == len(data)
        return Info(number, flags, parse_items(data[24:size]))

    def info(self, whom: Peer | int | bytes, flags: int = abi.ATTACH_ALL, caller: FakeCaller | None = None) -> Info:
        """CONN_INFO about a connection, an id or a name; the slice is freed."""
        if isinstance(whom, bytes):
            return self._info("CONN_INFO", [name_item(whom)], caller, flags=flags)
        number = whom.id if isinstance(whom, Peer) else whom
        return self._info("CONN_INFO", (), caller, flags=flags, id=number)

    def creator_info(self, flags: int = abi.ATTACH_ALL, caller: FakeCaller | None = None) -> Info:
        """BUS_CREATOR_INFO; the slice is freed."""
        return self._info("BUS_CREATOR_INFO", (), caller, flags=flags)

    def update(self, *items: bytes) -> Outcome:
        """CONN_UPDATE."""
        return self.call("CONN_UPDATE", "kdbus_cmd_update", items)

    def match(self, *items: bytes, cookie: int = 0, flags: int = 0) -> Outcome:
        """MATCH_ADD; without items everything of connections and of the bus fits."""
        return self.call("MATCH_ADD", "kdbus_cmd_match", items, cookie=cookie, flags=flags)

    def unmatch(self, cookie: int = 0) -> Outcome:
        """MATCH_REMOVE."""
        return self.call("MATCH_REMOVE", "kdbus_cmd_match", cookie=cookie)

    def bye(self) -> None:
        """BYEBYE."""
        self.ioctl("BYEBYE", 0)


class World:
    """A domain, its clock, its file system and its callers."""

    def __init__(self, *, ids: FakeIds | None = None) -> None:
        self.clock = FakeClock()
        self.nodes = FakeNodes()
        self.attach_flags_mask = abi.ATTACH_ANY
        """The module parameter."""
        self._random = 0
        self.domain = Domain(
            self.clock,
            self._random_bytes,
            lambda: self.attach_flags_mask,
            FakeIds() if ids is None else ids,
            self.nodes,
        )
        self._makers: list[BusMaker] = []

    def _random_bytes(self, size: int) -> bytes:
        self._random += 1
        return bytes((self._random + index) & 0xFF for index in range(size))

    def caller(self, uid: int = 1000, *, gid: int | None = None, groups: tuple[int, ...] = ()) -> FakeCaller:
        """A new thread of a user, without capabilities."""
        return FakeCaller(FakeProcess(who=credentials(uid, gid, groups)))

    def expire(self, nanoseconds: int = 0) -> None:
        """Let so many ns pass and act on deadlines."""
        self.clock.advance(nanoseconds)
        self.domain.deadlines.expire(self.clock.monotonic)

    def control(self, caller: FakeCaller | None = None) -> Calling:
        """An open control node."""
        used = caller or self.caller()
        handle = open_node(self.domain, ("control",), used, FakeEvents())
        assert isinstance(handle, ControlHandle)
        return Calling(self, handle, used)

    def bus(
        self,
        suffix: str = "bus",
        *,
        caller: FakeCaller | None = None,
        flags: int = abi.MAKE_ACCESS_WORLD,
        bloom: tuple[int, int] = (BLOOM_SIZE, 1),
        items: Sequence[bytes] = (),
    ) -> BusMaker:
        """Make a bus named UID-`suffix`; `items` come after the name and the bloom parameters."""
        opened = self.control(caller)
        name = b"%d-%s" % (opened.caller.process.who.euid, suffix.encode())
        parts = [string_item(abi.ITEM_MAKE_NAME, name), words_item(abi.ITEM_BLOOM_PARAMETER, *bloom), *items]
        opened.call("BUS_MAKE", "kdbus_cmd_make", parts, flags=flags)
        maker = BusMaker(self, opened.handle, opened.caller)
        self._makers.append(maker)
        return maker

    def default_bus(self) -> BusMaker:
        """The bus made first; made now if there is none."""
        return self._makers[0] if self._makers else self.bus()

    def open(
        self, bus: BusMaker | None = None, endpoint: str = "bus", caller: FakeCaller | None = None
    ) -> tuple[Calling, FakeEvents]:
        """An open endpoint node, not yet a connection."""
        used = caller or self.caller()
        events = FakeEvents()
        handle = open_node(self.domain, ((bus or self.default_bus()).name, endpoint), used, events)
        assert isinstance(handle, EndpointHandle)
        return Calling(self, handle, used), events

    def endpoint(
        self,
        suffix: str,
        *items: bytes,
        bus: BusMaker | None = None,
        caller: FakeCaller | None = None,
        flags: int = abi.MAKE_ACCESS_WORLD,
    ) -> EndpointOwner:
        """Make a custom endpoint named UID-`suffix`; `items` are its policy."""
        opened, _ = self.open(bus, caller=caller)
        name = b"%d-%s" % (opened.caller.process.who.euid, suffix.encode())
        parts = [string_item(abi.ITEM_MAKE_NAME, name), *items]
        opened.call("ENDPOINT_MAKE", "kdbus_cmd_make", parts, flags=flags)
        return EndpointOwner(self, opened.handle, opened.caller)

    def connect(
        self,
        bus: BusMaker | None = None,
        *,
        endpoint: str = "bus",
        caller: FakeCaller | None = None,
        uid: int = 1000,
        flags: int = abi.HELLO_ACCEPT_FD,
        items: Sequence[bytes] = (),
        pool_size: int = 1 << 20,
        attach_flags_send: int = abi.ATTACH_ALL,
        attach_flags_recv: int = 0,
    ) -> Peer:
        """Open an endpoint and say HELLO; `uid` is the user if no `caller` is given.

        Users of uid 1000, who make buses unless told otherwise, are privileged on the default endpoint; others are
        not. No metadata are asked for unless told otherwise, so that messages are what was sent.
        """
        opened, events = self.open(bus, endpoint, caller or self.caller(uid))
        hello = opened.call(
            "HELLO",
            "kdbus_cmd_hello",
            items,
            flags=flags,
            pool_size=pool_size,
            attach_flags_send=attach_flags_send,
            attach_flags_recv=attach_flags_recv,
        )
        assert isinstance(opened.handle, EndpointHandle)
        peer = Peer(self, opened.handle, opened.caller, events, hello)
        if not flags & abi.HELLO_POLICY_HOLDER:  # those cannot issue FREE
            peer.free(hello["offset"])
        return peer

    def activator(self, name: bytes, *policy: bytes, uid: int = 1000, pool_size: int = 1 << 20) -> Peer:
        """An activator of `name`, with policy entries."""
        flags = abi.HELLO_ACTIVATOR | abi.HELLO_ACCEPT_FD
        return self.connect(uid=uid, flags=flags, items=[name_item(name), *policy], pool_size=pool_size)

    def policy_holder(self, name: bytes, *policy: bytes, uid: int = 1000) -> Peer:
        """A policy holder with entries for `name`."""
        return self.connect(uid=uid, flags=abi.HELLO_POLICY_HOLDER, items=[name_item(name), *policy])

    def monitor(self, *, uid: int = 1000, attach_flags_recv: int = 0) -> Peer:
        """A monitor."""
        flags = abi.HELLO_MONITOR | abi.HELLO_ACCEPT_FD
        return self.connect(uid=uid, flags=flags, attach_flags_recv=attach_flags_recv)


@contextmanager
def fails(error: type[KdbusError], errno: int | None = None) -> Iterator[None]:
    """The block must raise just that error (not a subclass), which programs see as `errno`."""
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    if errno is not None:
        assert errno_of(caught.value) == errno


def charged(connection: Connection) -> dict[User, int]:
    """The messages that each user is charged for in a queue of version 3."""
    assert isinstance(connection.quota, QueueQuota)
    return connection.quota.charged


def owner(peer: Peer, name: bytes = b"org.example.Name") -> int | None:
    """The id of the owner of a name."""
    entry = peer.connection.bus.names.find(name)
    return None if entry is None else entry.owner.id


def notices(peer: Peer) -> list[tuple[int | bytes, ...]]:
    """What waits in the peer's queue, received and in short.

    A notification is (item type, id, flags) for connections, (item type, old id, old flags, new id, new flags, name)
    for names, and (item type, cookie) for replies; the message of a connection is (0, sender's id).
    """
    found: list[tuple[int | bytes, ...]] = []
    for message in peer.received():
        if message["src_id"] != abi.SOURCE_KERNEL:
            found.append((0, message["src_id"]))
            continue
        item_type, payload = message.items[0]
        if item_type in (abi.ITEM_REPLY_TIMEOUT, abi.ITEM_REPLY_DEAD):
            found.append((item_type, message["cookie_reply"]))
        elif item_type in (abi.ITEM_ID_ADD, abi.ITEM_ID_REMOVE):
            found.append((item_type, *struct.unpack("<2Q", payload)))
        else:
            found.append((item_type, *struct.unpack("<4Q", payload[:32]), payload[32:].split(b"\0")[0]))
    return found
