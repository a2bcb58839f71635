# SPDX-License-Identifier: GPL-2.0-or-later
"""How version 2 reads a command, and the message that SEND is there.

Some structures have no size, as nothing can follow them: these are read whole. `kernel_flags` are stored on every call
before the flags are looked at, also with those of a message, which is its own command. HELLO and messages may have
items that nobody looks at, in `Command.items` are those that somebody does.

A message has no flag for a signal: a broadcast is one, and nothing else. From here on it is as in version 3, with
version 3's flags and a memfd that begins at its start. Reference: final-revision.md, 6.1 and 6.2.
"""

from __future__ import annotations

import struct

from broker import item
from broker.behaviour import Behaviour
from broker.command import Command, Invocation, check_flags, read_sized
from broker.connection import Connection
from broker.errors import BadAddress, CommandTooLarge, CommandTooSmall, MessageOfBadSize, UnknownFlags
from broker.inbox2 import NO_AUTO_START, SYNC_REPLY
from broker.interfaces import Caller, File
from broker.item import Item
from broker.message import Message, check
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import signed64
from kdbus.abi.revision import Kind


def admit(command: Command, behaviour: Behaviour, caller: Caller, address: int) -> Invocation:
    """Read and check the argument of `command` at `address`; see the module's essay.

    Raises BadAddress, CommandTooSmall, CommandTooLarge, MessageOfBadSize, CommandChanged, UnknownFlags, BadItem, and
    what an item's check raises.
    """
    layout = command.struct
    invocation = Invocation(command, behaviour, caller, address, _read(command, caller, address), [])
    if "kernel_flags" in layout.members:
        check_flags(caller, address + layout.span("kernel_flags")[0], invocation.get("flags"), command.flags)
    elif invocation.get("flags"):
        raise UnknownFlags(flags=invocation.get("flags"))
    items = item.parse(bytes(invocation.data[layout.size :]), behaviour.item_checks, behaviour.revision)
    invocation.items = [entry for entry in items if not command.items or entry.type in command.items]
    return invocation


def _read(command: Command, caller: Caller, address: int) -> bytearray:
    layout = command.struct
    if "size" not in layout.members:
        if address & 7:
            raise BadAddress(address=address, rule="not aligned to 8 bytes")
        return bytearray(caller.read(address, layout.size))
    try:
        return read_sized(caller, address, layout.size, command.maximum)
    except (CommandTooSmall, CommandTooLarge) as error:
        if command.name == "SEND":
            raise MessageOfBadSize(**error.facts) from None
        raise


def read_message(source: Connection, sent: Invocation) -> tuple[Message, File | None]:
    """The message of a SEND; nothing ends the call but time, MSG_CANCEL and the other side. Raises what
    `broker.message.check` raises."""
    message = Message(sent.get("dst_id"), source.id, sent.get("payload_type"))
    flags = sent.get("flags")
    message.items = [_as_later(entry) for entry in sent.items]
    message.flags = flags & abi.MESSAGE_EXPECT_REPLY
    if flags & NO_AUTO_START:
        message.flags |= abi.MESSAGE_NO_AUTO_START
    if message.is_broadcast:
        message.flags |= abi.MESSAGE_SIGNAL
    message.kernel_flags = sent.get("kernel_flags")
    message.sync = bool(flags & SYNC_REPLY)
    message.priority = signed64(sent.get("priority"))
    message.cookie = sent.get("cookie")
    message.timeout_or_cookie_reply = sent.get("timeout_ns")
    return check(message, sent.get("src_id"), sent.caller, source.bus.bloom_size), None


def _as_later(entry: Item) -> Item:
    """A PAYLOAD_MEMFD with its start, which is always 0 here."""
    if entry.type != Kind.PAYLOAD_MEMFD:
        return entry
    size, number = struct.unpack("<QI4x", entry.payload)
    return Item(entry.type, struct.pack("<QQII", 0, size, number, 0))
