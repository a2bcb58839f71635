# SPDX-License-Identifier: GPL-2.0-or-later
"""How the final revision reads the message of a SEND: form first, descriptors last.

Version 3 takes the items in their order and does everything for one before it looks at the next (`broker.message`).
Here the order is:

1. the message is read like a command (`broker.negotiation`), with a table of its own; if either asks what is supported,
   nothing is sent;
2. the descriptor of CANCEL_FD (EBADF, EINVAL if it cannot be polled);
3. source, payload type, and what a broadcast or a request must and must not have;
4. the items in order, by what stands in them; then what must be there and what must not, all items considered;
5. the files behind memfds and passed descriptors, in the order of their items.

The sum of all vectors is limited to 2 MiB; the original forgot to add them up (docs/differences.md). Reference:
final-revision.md, 4.4.1.
"""

from __future__ import annotations

import struct

from broker import limits
from broker.command import Command, Invocation, ItemRule
from broker.connection import Connection
from broker.errors import (
    BadAddress,
    BadArgument,
    BadDescriptor,
    BadItem,
    BadMessage,
    BadName,
    DescriptorNotPassable,
    KdbusError,
    MissingDestination,
    NotForBroadcasts,
    PayloadTooLarge,
    TooManyDescriptors,
    TooManyItems,
    UnknownFlags,
)
from broker.interfaces import Caller, File
from broker.item import Item
from broker.message import Message, add_memfd, add_vector, check_bloom_filter, set_bloom_filter
from broker.naming import is_valid_name
from broker.negotiation import admit
from broker.send import cancel_file
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64, signed64
from kdbus.abi.revision import FINAL, Kind

_MESSAGE = Command(
    "message",
    FINAL.structs["kdbus_msg"],
    limits.LARGE_COMMAND_SIZE,
    flags=abi.MESSAGE_EXPECT_REPLY | abi.MESSAGE_NO_AUTO_START | abi.MESSAGE_SIGNAL,
    items={
        Kind.PAYLOAD_VEC: ItemRule(repeats=True),
        Kind.PAYLOAD_MEMFD: ItemRule(repeats=True),
        Kind.FDS: ItemRule(),
        Kind.BLOOM_FILTER: ItemRule(),
        Kind.DST_NAME: ItemRule(),
    },
)
_MEMFDS = 16
_END_OF_ADDRESSES = (1 << 47) - (1 << 12)
"""Where the addresses of user space end (x86-64; TASK_SIZE_MAX in arch/x86/include/asm/page_64_types.h)."""


def negotiate_message(invocation: Invocation) -> None:
    """A SEND that asks what is supported: its message, if there is one, is read and may ask as well."""
    if invocation.get("msg_address"):
        _admit(invocation)


def _admit(invocation: Invocation) -> Invocation:
    read = admit(_MESSAGE, invocation.behaviour, invocation.caller, invocation.get("msg_address"))
    if read.negotiated and not invocation.negotiated:
        raise UnknownFlags(rule="the message negotiates, and the command does not")
    return read


def read_message(source: Connection, invocation: Invocation) -> tuple[Message, File | None]:
    """The message that a SEND of `source` points at, and the file of its CANCEL_FD.

    On failure no file stays pinned. The errors are those of the essay's steps, each beside its rule.
    """
    read = _admit(invocation)
    caller = invocation.caller
    watched = cancel_file(caller, invocation.items[0]) if invocation.items else None
    message = Message(read.get("dst_id"), source.id, read.get("payload_type"))
    try:
        message.sync = bool(invocation.get("flags") & abi.SEND_SYNC_REPLY)
        _fill(message, read, source.id)
        _examine(message, source.bus.bloom_size)
        if read.negotiates:
            raise BadItem(kind=Kind.NEGOTIATE, rule="in a message that is to be sent")
        _fetch_files(message, caller)
    except BaseException as error:
        if isinstance(error, KdbusError):
            error.locate(read.items)
        if watched is not None:
            watched.close()
        message.drop()
        raise
    return message, watched


def _fill(message: Message, read: Invocation, source_id: int) -> None:
    """Step 3: the header."""
    message.items = read.items
    message.flags = read.get("flags")
    message.priority = signed64(read.get("priority"))
    message.cookie = read.get("cookie")
    message.timeout_or_cookie_reply = read.get("timeout_ns")
    if read.get("src_id") not in (0, source_id):
        raise BadArgument(rule=f"src_id {read.get('src_id')} is not the sender's, {source_id}")
    if message.payload_type == abi.PAYLOAD_KERNEL:
        raise BadArgument(rule="payload_type is KERNEL")
    signal = message.flags & abi.MESSAGE_SIGNAL
    if message.is_broadcast:
        if not signal:
            raise BadMessage(rule="a broadcast without SIGNAL")
        if message.timeout_or_cookie_reply:
            raise NotForBroadcasts(rule="a timeout or cookie_reply")
    if message.flags & abi.MESSAGE_EXPECT_REPLY:
        if not message.timeout_or_cookie_reply:
            raise BadArgument(rule="EXPECT_REPLY with timeout_ns 0")
        if signal:
            raise NotForBroadcasts(rule="EXPECT_REPLY")
    elif message.sync:
        raise BadArgument(rule="SYNC_REPLY without EXPECT_REPLY")
    elif signal and message.timeout_or_cookie_reply:
        raise BadArgument(rule="SIGNAL with a cookie_reply")


def _examine(message: Message, bloom_size: int) -> None:
    """Step 4: what stands in the items."""
    total = memfds = 0
    has_files = False
    for current in message.items:
        if current.type == Kind.PAYLOAD_VEC:
            total = _examine_vector(current, total)
        elif current.type == Kind.PAYLOAD_MEMFD:
            memfds += 1
            if current.u64(0) + current.u64(1) > U64:
                raise PayloadTooLarge(item=current, kind=current.type, rule="start + size overflows")
            if memfds > _MEMFDS:
                raise TooManyItems(item=current, kind=current.type, count=memfds, limit=_MEMFDS)
        elif current.type == Kind.FDS:
            has_files = True
            if len(current.payload) // 4 > limits.DESCRIPTORS_PER_USER:
                count, limit = len(current.payload) // 4, limits.DESCRIPTORS_PER_USER
                raise TooManyDescriptors(item=current, kind=current.type, count=count, limit=limit)
        elif current.type == Kind.BLOOM_FILTER:
            set_bloom_filter(message, current, bloom_size)
        elif current.type == Kind.DST_NAME:
            if not is_valid_name(current.text(), wildcard=False):
                raise BadName(item=current, kind=current.type, name=current.text())
            if message.is_broadcast:
                raise BadMessage(rule="a broadcast with DST_NAME")
            message.destination_name = current.text()
    check_bloom_filter(message)
    if message.destination == abi.DESTINATION_NAME and message.destination_name is None:
        raise MissingDestination
    if message.is_broadcast and has_files:
        raise NotForBroadcasts(kind=Kind.FDS, rule="descriptors")


def _examine_vector(current: Item, total: int) -> int:
    size, address = current.u64(0), current.u64(1)
    if total + size > limits.MESSAGE_PAYLOAD:
        raise PayloadTooLarge(item=current, kind=current.type, count=total + size, limit=limits.MESSAGE_PAYLOAD)
    if address and address + size > _END_OF_ADDRESSES:
        raise BadAddress(item=current, kind=current.type, address=address)
    return total + size


def _fetch_files(message: Message, caller: Caller) -> None:
    """Step 5: payload is noted, and files are pinned."""
    for current in message.items:
        if current.type == Kind.PAYLOAD_VEC:
            add_vector(message, current, 0)
        elif current.type == Kind.PAYLOAD_MEMFD:
            add_memfd(message, current, caller)
        elif current.type == Kind.FDS:
            for (number,) in struct.iter_unpack("<i", current.payload):
                if number < 0:
                    raise BadDescriptor(item=current, kind=current.type, descriptor=number)
                file = caller.file(number)
                message.files.append(file)
                if not file.is_path and (file.is_kdbus_endpoint or file.is_unix_socket):
                    raise DescriptorNotPassable(item=current, kind=current.type, descriptor=number)
