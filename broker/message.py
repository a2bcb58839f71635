# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages: what SEND is given, and the one step that decides whether it is well-formed.

`from_command` makes a `Message` of what the sender's memory holds, or raises the error of the first rule that it
breaks, in the kernel's order: the message itself (size, flags, items), then what goes together (requests need a
deadline and a cookie, signals a bloom filter, broadcasts must be signals), with each item's own rules in between, in
the order in which the items stand. Who may send it to whom is decided later, in `broker.send`.

Payload is not copied here: a message only notes the pieces of the sender's memory, and copies them straight into the
first receiver's pool, and from there to all others. Files are pinned here and stay so until the last receiver's entry
is gone. Both kinds of payload keep their order (`parts`).

A memfd must be sealed against any change, so that what a receiver checks is what it uses. Files that can carry files
themselves (endpoints, unix sockets) are refused, as cycles of them could never be freed.

Reference: ipc/kdbus/message.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from broker import item, limits
from broker.behaviour import Behaviour
from broker.command import Invocation, check_flags
from broker.errors import (
    BadAddress,
    BadArgument,
    BadDescriptor,
    BadItem,
    BadMessage,
    BadName,
    BeyondFile,
    BloomNotAligned,
    BloomSizeMismatch,
    CallerGone,
    CommandChanged,
    DescriptorNotPassable,
    DuplicateItem,
    KdbusError,
    MissingDestination,
    NotForBroadcasts,
    NotSealable,
    NotSealed,
    PayloadTooLarge,
    TooManyDescriptors,
    TooManyItems,
    UnknownFlags,
)
from broker.interfaces import Caller, File
from broker.item import Item
from broker.metadata import ConnectionMetadata, ProcessMetadata, claim_flags
from broker.naming import is_valid_name
from broker.pool import Slice
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64, signed64
from kdbus.abi.revision import Kind

_HEADER = struct.Struct("<8Q")
_VECTOR_ITEM_SIZE = item.padded_size(16)
_MEMFD_ITEM_SIZE = item.padded_size(24)
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE (fcntl(2))."""


class Part(NamedTuple):
    """One piece of payload, in the order sent.

    `size` in bytes; `file` for a memfd, else None; `start` within the memfd, or within the copied payload, or None
    for a vector of zeros that is not stored.
    """

    size: int
    start: int | None
    file: File | None

    @property
    def stored(self) -> int:
        """Bytes that it takes of the copied payload: of a memfd, or of zeros, only what keeps the next one aligned."""
        return self.size if self.file is None and self.start is not None else self.size % 8


@dataclass(frozen=True, slots=True)
class About:
    """What a notification says, for matching: item type, ids before and after, and the name."""

    type: int
    old_id: int | None = None
    new_id: int | None = None
    name: bytes | None = None
    flags: tuple[int, ...] = ()
    """KDBUS_HELLO_* of a connection; KDBUS_NAME_* before and after of a name."""

    def payload(self, behaviour: Behaviour) -> bytes:
        """What the item says to a receiver of that behaviour."""
        if self.name is not None:
            old, new = (claim_flags(behaviour, flags) if who else 0 for who, flags in self._sides())
            return struct.pack("<4Q", self.old_id or 0, old, self.new_id or 0, new) + self.name + b"\0"
        if self.flags:
            return struct.pack("<QQ", self.new_id if self.old_id is None else self.old_id, self.flags[0])
        return b""

    def _sides(self) -> tuple[tuple[int | None, int], tuple[int | None, int]]:
        return (self.old_id, self.flags[0]), (self.new_id, self.flags[1])


class Message:
    """One message on its way. Held by whoever still needs its files."""

    __slots__ = (
        "_holders",
        "bloom_filter",
        "bloom_generation",
        "connection",
        "cookie",
        "copy",
        "copy_offset",
        "destination",
        "destination_name",
        "files",
        "flags",
        "items",
        "kernel_flags",
        "name_id",
        "notification",
        "parts",
        "payload_size",
        "payload_type",
        "pieces",
        "priority",
        "process",
        "sequence",
        "source",
        "sync",
        "timeout_or_cookie_reply",
    )

    def __init__(self, destination: int, source: int, payload_type: int) -> None:
        """An empty message, held once."""
        self.flags = 0
        """KDBUS_MSG_* as from version 3 on."""
        self.kernel_flags = 0
        """What stood there in a message of version 2, which its receivers get to see."""
        self.sync = False
        """Whether its sender waits for the answer in SEND."""
        self.priority = 0
        self.destination = destination
        self.source = source
        self.payload_type = payload_type
        self.cookie = 0
        self.timeout_or_cookie_reply = 0
        self.sequence = 0
        self.destination_name: bytes | None = None
        self.name_id = 0
        self.items: list[Item] = []
        """The items as they were sent."""
        self.notification: About | None = None
        self.bloom_filter: int | None = None
        self.bloom_generation = 0
        self.parts: list[Part] = []
        self.pieces: list[tuple[int, int]] = []
        """(address, size) in the sender's memory, to be copied one after the other; address 0 for zeros."""
        self.payload_size = 0
        """Sum of the sizes of `pieces`."""
        self.copy: Slice | None = None
        """While it is being sent: the slice with the first copy of them, held, at `copy_offset` within it."""
        self.copy_offset = 0
        self.files: list[File] = []
        self.process = ProcessMetadata()
        self.connection = ConnectionMetadata()
        self._holders = 1

    def hold(self) -> Message:
        """One more holder."""
        self._holders += 1
        return self

    def drop(self) -> None:
        """One holder less; the last one closes the files."""
        self._holders -= 1
        if self._holders == 0:
            for part in self.parts:
                if part.file is not None:
                    part.file.close()
            for file in self.files:
                file.close()

    def copy_to(self, slice_: Slice, offset: int, caller: Caller | None) -> None:
        """Copy the `pieces` of the sender `caller` into the slice, from `offset` on.

        They are read once: all receivers get the same, whatever other threads of the sender do to it meanwhile. Raises
        BadAddress, and has then released the slice.
        """
        memory = slice_.pool.memory
        place = slice_.offset + offset
        if self.copy is not None:
            source = self.copy.offset + self.copy_offset
            memory.copy(place, self.copy.pool.memory, source, self.payload_size)
        elif caller is not None:
            try:
                caller.copy(memory, place, self.pieces)
            except BaseException as error:
                slice_.release()
                if type(error) is BadAddress:
                    self._find_unreadable(error, caller)
                raise
            self.copy, self.copy_offset = slice_.hold(), offset

    def _find_unreadable(self, error: BadAddress, caller: Caller) -> None:
        """Say which item it is whose memory cannot be read: the copy of all of them says only that it failed."""
        for number, current in enumerate(self.items, 1):
            if current.type == Kind.PAYLOAD_VEC and current.u64(1):
                size, address = current.u64(0), current.u64(1)
                try:
                    caller.read(address, size)
                except CallerGone:
                    return
                except BadAddress:
                    about = {"kind": current.type, "at": number, "of": len(self.items)}
                    error.facts.update(about, address=address, size=size)
                    return

    def sent(self) -> None:
        """It has been sent to all: the first copy is its receiver's alone."""
        if self.copy is not None:
            self.copy.release()
            self.copy = None

    @property
    def is_broadcast(self) -> bool:
        return self.destination == abi.DESTINATION_BROADCAST

    def described(self, *, as_sent: bool) -> list[Item]:
        """The items as they were sent; or, where they were not kept or `as_sent` is False, others that say the same:
        destination, payload, descriptors."""
        if as_sent and (self.items or not (self.parts or self.destination_name)):
            return self.items
        found = [] if self.destination_name is None else [Item(Kind.DST_NAME, self.destination_name + b"\0")]
        for part in self.parts:
            if part.file is None:
                found.append(Item(Kind.PAYLOAD_VEC, struct.pack("<2Q", part.size, 0)))
            else:
                found.append(Item(Kind.PAYLOAD_MEMFD, struct.pack("<2QiI", part.start, part.size, -1, 0)))
        if self.files:
            found.append(Item(Kind.FDS, b"\xff" * 4 * len(self.files)))
        return found

    def items_size(self) -> int:
        """Bytes that destination name, payload and descriptors take as items at the receiver."""
        size = 0
        for part in self.parts:
            size += _VECTOR_ITEM_SIZE if part.file is None else _MEMFD_ITEM_SIZE
        if self.destination_name is not None:
            size += item.padded_size(len(self.destination_name) + 1)
        if self.files:
            size += item.padded_size(4 * len(self.files))
        return size


def from_command(invocation: Invocation, source_id: int, bloom_size: int) -> Message:
    """The message that a SEND of connection `source_id` points at, on a bus with filters of `bloom_size` bytes.

    On failure no file stays pinned. The errors are those of the rules below, each beside its rule.
    """
    caller = invocation.caller
    address = invocation.get("msg_address")
    data = _read(caller, address)
    _, flags, priority, destination, source, payload_type, cookie, timeout = _HEADER.unpack_from(data)
    known = abi.MESSAGE_EXPECT_REPLY | abi.MESSAGE_NO_AUTO_START | abi.MESSAGE_SIGNAL
    behaviour, command = invocation.behaviour, invocation.command.struct
    if "kernel_msg_flags" in command.members:
        check_flags(caller, invocation.address + command.span("kernel_msg_flags")[0], flags, known)
    elif flags & ~known:
        raise UnknownFlags(flags=flags & ~known)
    message = Message(destination, source_id, payload_type)
    message.items = item.parse(data[_HEADER.size :], behaviour.item_checks, behaviour.revision)
    message.flags = flags
    message.sync = bool(invocation.get("flags") & abi.SEND_SYNC_REPLY)
    message.priority = signed64(priority)
    message.cookie = cookie
    message.timeout_or_cookie_reply = timeout
    return check(message, source, caller, bloom_size)


def check(message: Message, source: int, caller: Caller, bloom_size: int) -> Message:
    """Check what stands in the header of `message`, `source` being its `src_id`, and in its items, and take payload and
    descriptors into it. On failure no file stays pinned."""
    if message.payload_type == abi.PAYLOAD_KERNEL:
        raise BadArgument(rule="payload_type is KERNEL")
    if message.flags & abi.MESSAGE_EXPECT_REPLY:
        if message.timeout_or_cookie_reply == 0 or message.cookie == 0:
            zero = "cookie" if message.timeout_or_cookie_reply else "timeout_ns"
            raise BadArgument(rule=f"EXPECT_REPLY with {zero} 0")
        if message.is_broadcast:
            raise NotForBroadcasts(rule="EXPECT_REPLY")
        if message.flags & abi.MESSAGE_SIGNAL:
            raise BadArgument(rule="EXPECT_REPLY with SIGNAL")
    elif message.sync:
        raise BadArgument(rule="SYNC_REPLY without EXPECT_REPLY")
    try:
        _scan(message, message.items, caller, bloom_size)
        if source not in (0, message.source):
            raise BadArgument(rule=f"src_id {source} is not the sender's, {message.source}")
    except BaseException as error:
        if isinstance(error, KdbusError):
            error.locate(message.items)
        message.drop()
        raise
    return message


def _read(caller: Caller, address: int) -> bytes:
    """The message's header and items. EFAULT unaligned or unreadable, EINVAL for a wrong or changing size."""
    if address & 7:
        raise BadAddress(address=address, rule="not aligned to 8 bytes")
    size = int.from_bytes(caller.read(address, 8), "little")
    if not _HEADER.size <= size <= limits.MESSAGE_SIZE:
        raise BadArgument(rule=f"a message of size {size}, not {_HEADER.size} to {limits.MESSAGE_SIZE}")
    data = caller.read(address, size)
    if int.from_bytes(data[:8], "little") != size:
        raise CommandChanged
    return data


def _scan(message: Message, items: list[Item], caller: Caller, bloom_size: int) -> None:
    """Take the items into the message, in their order."""
    seen: set[int] = set()
    vector_size = 0
    for number, current in enumerate(items, 1):
        if number > limits.MESSAGE_ITEMS:
            raise TooManyItems(count=len(items), limit=limits.MESSAGE_ITEMS)
        if current.type in _ONCE:
            if current.type in seen:
                raise DuplicateItem(item=current, kind=current.type)
            seen.add(current.type)
        if current.type == Kind.PAYLOAD_VEC:
            vector_size = add_vector(message, current, vector_size)
        elif current.type == Kind.PAYLOAD_MEMFD:
            add_memfd(message, current, caller)
        elif current.type == Kind.FDS:
            _add_files(message, current, caller)
        elif current.type == Kind.BLOOM_FILTER:
            set_bloom_filter(message, current, bloom_size)
        elif current.type == Kind.DST_NAME:
            if not is_valid_name(current.text(), wildcard=False):
                raise BadName(item=current, kind=current.type, name=current.text())
            message.destination_name = current.text()
        else:
            raise BadItem(item=current, kind=current.type, rule="not taken in a message")
    if message.destination == abi.DESTINATION_NAME and message.destination_name is None:
        raise MissingDestination
    if message.is_broadcast:
        if message.destination_name is not None or not message.flags & abi.MESSAGE_SIGNAL:
            wrong = "without SIGNAL" if message.destination_name is None else "with DST_NAME"
            raise BadMessage(rule=f"a broadcast {wrong}")
        if message.timeout_or_cookie_reply:
            raise NotForBroadcasts(rule="a cookie_reply")
    check_bloom_filter(message)


def check_bloom_filter(message: Message) -> None:
    """Signals have a bloom filter, and nothing else has. Raises BadMessage."""
    signal = bool(message.flags & abi.MESSAGE_SIGNAL)
    if signal != (message.bloom_filter is not None):
        raise BadMessage(rule="SIGNAL without BLOOM_FILTER" if signal else "BLOOM_FILTER without SIGNAL")


_ONCE = frozenset((Kind.FDS, Kind.BLOOM_FILTER, Kind.DST_NAME))


def _add_piece(message: Message, address: int, size: int) -> None:
    if size:
        message.pieces.append((address, size))
        message.payload_size += size


def add_vector(message: Message, current: Item, vector_size: int) -> int:
    """PAYLOAD_VEC: a piece of memory, or with a null pointer so many zeros, of which only `size % 8` are stored.

    The rest of the zeros is left to the receiver, which sees the offset ~0. The stored ones keep the alignment of
    what follows. Returns the sum of sizes so far; over 2 MiB is EMSGSIZE.
    """
    size, address = current.u64(0), current.u64(1)
    if vector_size + size > limits.MESSAGE_PAYLOAD:
        limit = limits.MESSAGE_PAYLOAD
        raise PayloadTooLarge(item=current, kind=current.type, count=vector_size + size, limit=limit)
    if address:
        message.parts.append(Part(size, message.payload_size, None))
        _add_piece(message, address, size)
    else:
        message.parts.append(Part(size, None, None))
        _add_piece(message, 0, size % 8)
    return vector_size + size


def add_memfd(message: Message, current: Item, caller: Caller) -> None:
    """PAYLOAD_MEMFD: a range of a sealed memfd; `size % 8` zeros are stored in the pool.

    EMSGSIZE if the range overflows, EBADF for no file, BeyondFile past its end, EMEDIUMTYPE for a file that has no
    seals, ETXTBSY if one is missing.
    """
    start, size = current.u64(0), current.u64(1)
    if start + size > U64:
        raise PayloadTooLarge(item=current, kind=current.type, rule="start + size overflows")
    number = int.from_bytes(current.payload[16:20], "little")
    file = caller.file(number)
    if file.is_path:
        file.close()
        raise BadDescriptor(item=current, kind=current.type, descriptor=number, rule="opened with O_PATH")
    _add_piece(message, 0, size % 8)
    message.parts.append(Part(size, start, file))
    seals = file.seals
    if seals is None:
        raise NotSealable(item=current, kind=current.type, descriptor=number)
    if seals & _ALL_SEALS != _ALL_SEALS:
        raise NotSealed(item=current, kind=current.type, descriptor=number, seals=_ALL_SEALS & ~seals)
    if start + size > file.size:
        raise BeyondFile(item=current, kind=current.type, count=start + size, limit=file.size)


def _add_files(message: Message, current: Item, caller: Caller) -> None:
    """FDS: descriptors to pass. ENOTUNIQ in broadcasts, EMFILE over 253, EBADF, EOPNOTSUPP for those that carry
    files."""
    if message.is_broadcast:
        raise NotForBroadcasts(item=current, kind=current.type, rule="descriptors")
    numbers = struct.unpack(f"<{len(current.payload) // 4}i", current.payload)
    if len(numbers) > limits.MESSAGE_DESCRIPTORS:
        limit = limits.MESSAGE_DESCRIPTORS
        raise TooManyDescriptors(item=current, kind=current.type, count=len(numbers), limit=limit)
    for number in numbers:
        if number < 0:
            raise BadDescriptor(item=current, kind=current.type, descriptor=number)
        file = caller.file(number)
        message.files.append(file)
        if file.is_kdbus_endpoint or (file.is_unix_socket and not file.is_path):
            raise DescriptorNotPassable(item=current, kind=current.type, descriptor=number)


def set_bloom_filter(message: Message, current: Item, bloom_size: int) -> None:
    """BLOOM_FILTER: generation, then the bits. EFAULT unless a multiple of 8 bytes, EDOM unless the bus's size."""
    size = len(current.payload) - 8
    if size % 8:
        raise BloomNotAligned(item=current, kind=current.type, count=size)
    if size != bloom_size:
        raise BloomSizeMismatch(item=current, kind=current.type, count=size, limit=bloom_size)
    message.bloom_generation = current.u64(0)
    message.bloom_filter = int.from_bytes(current.payload[8:], "little")
