# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands as bytes, and their results read back: the core of the library, which does no input or output.

`Commands` builds for one revision what an ioctl takes: a request number and a buffer, which the kernel changes in
place. What the call returned is then read from the same buffer, and lists and infos from the part of the pool that it
names. Whoever runs the command is `kdbus.system`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kdbus import items
from kdbus.abi.layout import Struct, align8
from kdbus.abi.revision import REVISION219, Kind, Revision
from kdbus.dialect import DIALECTS
from kdbus.errors import Malformed
from kdbus.flags import Attach, HelloFlag, ListFlag, MakeFlag, NameFlag, ReceiveFlag
from kdbus.matches import MatchRule, text
from kdbus.values import BloomParameters, Credentials, Info, Listed, OwnedName, Pids, Policy

_IN_QUEUE: Final = NameFlag.IN_QUEUE


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the pool a message is: offset and size in bytes; `incomplete`: some descriptors could not be installed.
    """

    offset: int
    size: int
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Hello:
    """What HELLO returned; the bus's parameters are at `offset`, in `size` bytes."""

    id: int
    bus_flags: int
    bus_id: bytes
    offset: int
    size: int


class Command:
    """One ioctl: its request number and its argument (empty if it has none)."""

    __slots__ = ("data", "layout", "name", "request")

    def __init__(self, name: str, request: int, layout: Struct | None, content: bytes = b"") -> None:
        self.name = name
        self.request = request
        self.layout = layout
        self.data = bytearray(0 if layout is None else layout.size) + content
        if layout is not None:
            self["size"] = len(self.data)

    def __getitem__(self, member: str) -> int:
        assert self.layout is not None
        return self.layout.get(self.data, member)

    def __setitem__(self, member: str, value: int) -> None:
        assert self.layout is not None
        self.layout.put(self.data, member, value)

    def place(self, member: str) -> Place:
        """A member that tells where a message is."""
        assert self.layout is not None
        start, _ = self.layout.span(member)
        offset, size, flags = struct.unpack_from("<3Q", self.data, start)
        return Place(offset, size, bool(flags & 1))


class Commands:
    """Builds the commands of one revision and reads their results.

    Methods that build raise ValueError for what this revision has no item for, and for texts with a zero character.
    Methods that read raise Malformed.
    """

    def __init__(self, revision: Revision, *, guessed: bool = False) -> None:
        """`guessed`: the revision may turn out to be another one that has the same HELLO (`settled`). ValueError: one
        that this library does not speak."""
        if revision not in DIALECTS:
            raise ValueError(f"this library does not speak revision {revision.name} of kdbus")
        self._guessed = guessed
        self.revision = revision
        self.dialect = DIALECTS[revision]

    def bus_make(
        self,
        name: str,
        bloom: BloomParameters,
        flags: MakeFlag,
        creator: Attach = Attach.NONE,
        required: Attach = Attach.NONE,
    ) -> Command:
        """A bus. `creator`: metadata that BUS_CREATOR_INFO may tell; `required`: what every connection must tell."""
        if required and not self.dialect.requires_metadata:
            raise ValueError(f"a bus of revision {self.revision.name} of kdbus cannot require metadata")
        content = self._item(Kind.BLOOM_PARAMETER, struct.pack("<2Q", bloom.size, bloom.hashes))
        content += self._item(Kind.MAKE_NAME, text(name))
        if creator:
            content += self._item(Kind.ATTACH_FLAGS_SEND, struct.pack("<Q", creator))
        if required:
            content += self._item(Kind.ATTACH_FLAGS_RECV, struct.pack("<Q", required))
        return self._command("BUS_MAKE", content, flags=flags)

    def endpoint_make(self, name: str, flags: MakeFlag) -> Command:
        """A custom endpoint, without policies yet."""
        return self._command("ENDPOINT_MAKE", self._item(Kind.MAKE_NAME, text(name)), flags=flags)

    def endpoint_update(self, policies: Iterable[Policy]) -> Command:
        """The policies of a custom endpoint, instead of those that it has."""
        return self._command("ENDPOINT_UPDATE", self._policies(policies))

    def hello(
        self,
        flags: HelloFlag,
        pool_size: int,
        send: Attach,
        receive: Attach,
        *,
        description: str | None = None,
        policies: Iterable[Policy] = (),
        creds: Credentials | None = None,
        pids: Pids | None = None,
        seclabel: str | None = None,
    ) -> Command:
        """A connection. `creds`, `pids` and `seclabel` are what it claims to be, instead of what it is."""
        content = self._policies(policies)
        if description is not None:
            content += self._item(Kind.CONN_DESCRIPTION, text(description))
        if creds is not None:
            layout = self.revision.structs["kdbus_creds"]
            packed = bytearray(layout.size)
            for field in layout.fields:
                layout.put(packed, field.name, getattr(creds, field.name))
            content += self._item(Kind.CREDS, bytes(packed))
        if pids is not None:
            content += self._item(Kind.PIDS, struct.pack("<3Q", pids.pid, pids.tid, pids.ppid))
        if seclabel is not None:
            content += self._item(Kind.SECLABEL, text(seclabel))
        return self._command(
            "HELLO", content, flags=flags, attach_flags_send=send, attach_flags_recv=receive, pool_size=pool_size
        )

    def read_hello(self, command: Command) -> Hello:
        """What a HELLO that succeeded says."""
        assert command.layout is not None
        start, end = command.layout.span("id128")
        return Hello(
            id=command["id"],
            bus_flags=command["bus_flags"],
            bus_id=bytes(command.data[start:end]),
            offset=command["offset"],
            size=command["items_size"],
        )

    def read_bloom(self, data: memoryview) -> BloomParameters:
        """The bus's parameters, out of what HELLO left in the pool."""
        body = self._sized(data, "HELLO") if self.dialect.size_word else data
        for kind, content in items.walk(self.revision, body, "HELLO"):
            if kind == Kind.BLOOM_PARAMETER:
                return BloomParameters(*items.words(content, 2, "HELLO"))
        raise Malformed("HELLO", meaning="the bus does not tell its bloom parameters")

    def settled(self, data: memoryview) -> Commands:
        """The commands of the revision that is spoken indeed, as told by what HELLO left in the pool: systemd 219's
        HELLO is the final revision's, but its result begins with a size, which makes no sense as an item."""
        if self._guessed:
            try:
                self.read_bloom(data)
            except Malformed:
                return Commands(REVISION219)
        return self

    def update(
        self, send: Attach | None = None, receive: Attach | None = None, policies: Iterable[Policy] = ()
    ) -> Command:
        """New attach flags, or policies (of a policy holder); what is not given stays."""
        content = b""
        if send is not None:
            content += self._item(Kind.ATTACH_FLAGS_SEND, struct.pack("<Q", send))
        if receive is not None:
            content += self._item(Kind.ATTACH_FLAGS_RECV, struct.pack("<Q", receive))
        return self._command("UPDATE", content + self._policies(policies))

    def byebye(self) -> Command:
        """The end of the connection, unless messages are queued."""
        return self._command("BYEBYE")

    def free(self, offset: int) -> Command:
        """Gives a part of the pool back."""
        return self._command("FREE", offset=offset)

    def send(self, address: int, *, synchronous: bool = False, cancel_fd: int | None = None) -> Command:
        """Sends the message at an address in memory; `synchronous`: waits for the reply, or until `cancel_fd` is
        readable."""
        content = b"" if cancel_fd is None else self._item(Kind.CANCEL_FD, struct.pack("<i", cancel_fd))
        return self._command("SEND", content, flags=int(synchronous), msg_address=address)

    def receive(self, flags: ReceiveFlag, priority: int = 0) -> Command:
        """The next message; with USE_PRIORITY, the first whose priority is at most that number."""
        return self._command("RECV", flags=flags, priority=priority)

    def name_acquire(self, name: str, flags: NameFlag) -> Command:
        """Ownership of a name, or a place in its queue."""
        return self._command("NAME_ACQUIRE", self._item(Kind.NAME, text(name)), flags=flags)

    def is_held(self, command: Command) -> bool:
        """Whether a NAME_ACQUIRE that succeeded made the caller the owner."""
        if self.dialect.answers_in_flags:
            return not command["flags"] & _IN_QUEUE
        return bool(command["return_flags"] & NameFlag.PRIMARY)

    def name_release(self, name: str) -> Command:
        """Gives up a name, or a place in its queue."""
        return self._command("NAME_RELEASE", self._item(Kind.NAME, text(name)))

    def list_names(self, flags: ListFlag) -> Command:
        """Connections and names."""
        return self._command("LIST", flags=flags)

    def read_list(self, data: memoryview) -> list[Listed]:
        """The entries of a list in the pool."""
        layout = self.dialect.list_entry
        owner, flags = ("owner_id", "conn_flags") if "owner_id" in layout.members else ("id", "flags")
        body = self._sized(data, "LIST") if self.dialect.list_size_word else data
        found = []
        while body:
            size = layout.get(body, "size") if len(body) >= layout.size else 0
            if not layout.size <= size <= len(body):
                raise Malformed("LIST", meaning=f"an entry of {size} bytes where {len(body)} are left")
            name = OwnedName("", NameFlag.NONE)
            reader = items.MetadataReader(self.revision, "LIST")
            for kind, content in items.walk(self.revision, body[layout.size : size], "LIST"):
                reader.take(kind, content)
            names = reader.result().names
            name = names[0] if names else name
            entry = Listed(layout.get(body, owner), HelloFlag(layout.get(body, flags)), name.name or None, name.flags)
            found.append(entry)
            body = body[align8(size) :]
        return found

    def connection_info(self, whom: int | str, attach: Attach) -> Command:
        """About a connection, by id or by a name that it owns."""
        if isinstance(whom, str):
            return self._info("CONN_INFO", attach, 0, self._item(Kind.NAME, text(whom)))
        return self._info("CONN_INFO", attach, whom)

    def creator_info(self, attach: Attach) -> Command:
        """About the bus and its maker."""
        return self._info("BUS_CREATOR_INFO", attach, 0)

    def read_info(self, data: memoryview, command: str) -> Info:
        """An info in the pool."""
        layout = self.revision.structs["kdbus_info"]
        if len(data) < layout.size or not layout.size <= layout.get(data, "size") <= len(data):
            raise Malformed(command, meaning="an info that does not fit in its part of the pool")
        reader = items.MetadataReader(self.revision, command)
        bus_name = None
        for kind, content in items.walk(self.revision, data[layout.size : layout.get(data, "size")], command):
            if kind == Kind.MAKE_NAME:
                bus_name = items.text(content, command)
            else:
                reader.take(kind, content)
        return Info(layout.get(data, "id"), layout.get(data, "flags"), reader.result(), bus_name)

    def match_add(self, cookie: int, rules: Sequence[MatchRule], *, replace: bool = False) -> Command:
        """A match; `replace`: instead of those with that cookie."""
        content = b"".join(self._item(*rule.item) for rule in rules)
        return self._command("MATCH_ADD", content, cookie=cookie, flags=int(replace))

    def match_remove(self, cookie: int) -> Command:
        """Removes all matches with that cookie."""
        return self._command("MATCH_REMOVE", cookie=cookie)

    def _command(self, name: str, content: bytes = b"", **members: int) -> Command:
        request, layout = self.dialect.layout(name)
        if request & 0x3FFF0000 == 0:  # No argument: BYEBYE of version 3.
            layout = None
        command = Command(name, request, layout, content)
        for member, value in members.items():
            command[member] = value
        return command

    def _info(self, name: str, attach: Attach, whom: int, content: bytes = b"") -> Command:
        if self.dialect.flags_attach:
            return self._command(name, content, flags=attach, id=whom)
        return self._command(name, content, attach_flags=attach, id=whom)

    def _item(self, kind: Kind, content: bytes) -> bytes:
        return item(self.revision, kind, content)

    def _policies(self, policies: Iterable[Policy]) -> bytes:
        content = b""
        for policy in policies:
            content += self._item(Kind.NAME, text(policy.name))
            for rule in policy.rules:
                content += self._item(Kind.POLICY_ACCESS, struct.pack("<3Q", rule.type, rule.access, rule.id))
        return content

    def _sized(self, data: memoryview, command: str) -> memoryview:
        """What stands behind a leading word with the size of it all."""
        (size,) = items.words(data, 1, command)
        if not 8 <= size <= len(data):
            raise Malformed(command, meaning=f"a result claims {size} bytes of {len(data)}")
        return data[8:size]


def item(revision: Revision, kind: Kind, content: bytes) -> bytes:
    """An item as bytes, padded. ValueError: the revision has none of that kind."""
    built = revision.build(kind, content)
    if not built:
        raise ValueError(f"revision {revision.name} of kdbus has no item {kind.name}")
    return built
