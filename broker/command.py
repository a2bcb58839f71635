# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands: what every ioctl's argument must look like, checked in one step before anything runs.

Each command's structure starts with its own size; items may follow the fixed part. `TABLE` says for each request the
structure, the largest size, the flags it knows, who may issue it and what is written back. `receive` does all checks,
in the kernel's order, because the first failing one decides the errno and because write-backs happen on the way:

1. the pointer is aligned to 8 bytes (EFAULT), the size is readable (EFAULT), not less than the structure (EINVAL),
   not over the limit (EMSGSIZE), the rest is readable (EFAULT) and the size did not change meanwhile (EINVAL);
2. some commands store zero in `return_flags` now, so that it is zero even if they fail later;
3. `kernel_flags` is stored: the flags known, and bit 63. It is there for programs to find out what this kernel can,
   so it is stored even when the flags given are wrong, which is then EINVAL;
4. the items are well-formed (see `broker.item`).

Who may issue a command at all (EOPNOTSUPP) comes even before step 1, in `broker.handle`. Reference:
ipc/kdbus/handle.c, `kdbus_memdup_user` and `kdbus_check_and_write_flags` in util.c.

The size is read twice, as the kernel does: the value that was checked is then the value that is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker import item, limits
from broker.errors import BadAddress, CommandChanged, CommandTooLarge, CommandTooSmall, UnknownFlags
from broker.item import Item
from broker.outside import Caller
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import Struct

ORDINARY = "ordinary"
ACTIVATOR = "activator"
POLICY_HOLDER = "policy holder"
MONITOR = "monitor"

_ANY_KIND = frozenset((ORDINARY, ACTIVATOR, POLICY_HOLDER, MONITOR))
_ORDINARY = frozenset((ORDINARY,))
_RECEIVERS = frozenset((ORDINARY, ACTIVATOR, MONITOR))

WHOLE = "*"
"""A write-back of the whole structure, as it was read and then changed: `kernel_flags` gets its old value back."""
WHOLE_WITH_ITEMS = "**"
"""A write-back of the structure and of the items behind it."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is known about one command before it is looked at."""

    name: str
    struct: Struct
    maximum: int
    """Largest size in bytes, items included."""
    flags: int = 0
    """Flags that the command knows."""
    kinds: frozenset[str] = _ANY_KIND
    """Connections that may issue it."""
    clears_return_flags: bool = False
    """Whether `return_flags` is stored as zero before the flags are looked at."""
    write_back: tuple[str, ...] = ()
    """Members stored in the caller's memory once the command has succeeded, in that order."""


def _command(name: str, struct: str, maximum: int = limits.LARGE_COMMAND_SIZE, **rest: object) -> tuple[int, Command]:
    return abi.REQUESTS[name], Command(name, abi.STRUCTS[struct], maximum, **rest)  # type: ignore[arg-type]


_NAME_COMMAND_SIZE = abi.STRUCTS["kdbus_cmd_name"].size + item.HEADER_SIZE + limits.NAME_LENGTH + 1
_INFO_COMMAND_SIZE = abi.STRUCTS["kdbus_cmd_info"].size + limits.NAME_LENGTH + 1
_MAKE_FLAGS = abi.MAKE_ACCESS_GROUP | abi.MAKE_ACCESS_WORLD

TABLE: dict[int, Command] = dict(
    (
        _command("KDBUS_CMD_BUS_MAKE", "kdbus_cmd_make", flags=_MAKE_FLAGS),
        _command("KDBUS_CMD_ENDPOINT_MAKE", "kdbus_cmd_make", flags=_MAKE_FLAGS, clears_return_flags=True),
        _command(
            "KDBUS_CMD_HELLO",
            "kdbus_cmd_hello",
            flags=abi.HELLO_ACCEPT_FD | abi.HELLO_ACTIVATOR | abi.HELLO_POLICY_HOLDER | abi.HELLO_MONITOR,
            write_back=(WHOLE,),
        ),
        _command(
            "KDBUS_CMD_SEND",
            "kdbus_cmd_send",
            flags=abi.SEND_SYNC_REPLY,
            kinds=_ORDINARY,
            write_back=("return_flags",),
        ),
        _command(
            "KDBUS_CMD_RECV",
            "kdbus_cmd_recv",
            flags=abi.RECV_PEEK | abi.RECV_DROP | abi.RECV_USE_PRIORITY,
            kinds=_RECEIVERS,
            write_back=("dropped_msgs", "msg", "return_flags"),
        ),
        _command(
            "KDBUS_CMD_FREE",
            "kdbus_cmd_free",
            limits.COMMAND_SIZE,
            kinds=_RECEIVERS,
            write_back=("return_flags",),
        ),
        _command(
            "KDBUS_CMD_NAME_ACQUIRE",
            "kdbus_cmd_name",
            _NAME_COMMAND_SIZE,
            flags=abi.NAME_REPLACE_EXISTING | abi.NAME_ALLOW_REPLACEMENT | abi.NAME_QUEUE,
            kinds=_ORDINARY,
            clears_return_flags=True,
            write_back=(WHOLE_WITH_ITEMS,),
        ),
        _command(
            "KDBUS_CMD_NAME_RELEASE",
            "kdbus_cmd_name",
            _NAME_COMMAND_SIZE,
            kinds=_ORDINARY,
            clears_return_flags=True,
        ),
        _command(
            "KDBUS_CMD_NAME_LIST",
            "kdbus_cmd_name_list",
            limits.COMMAND_SIZE,
            flags=abi.LIST_UNIQUE | abi.LIST_NAMES | abi.LIST_ACTIVATORS | abi.LIST_QUEUED,
            write_back=("offset", "list_size", "return_flags"),
        ),
        _command(
            "KDBUS_CMD_CONN_INFO",
            "kdbus_cmd_info",
            _INFO_COMMAND_SIZE,
            flags=abi.ATTACH_ALL,
            write_back=("offset", "info_size", "return_flags"),
        ),
        _command(
            "KDBUS_CMD_BUS_CREATOR_INFO",
            "kdbus_cmd_info",
            _INFO_COMMAND_SIZE,
            flags=abi.ATTACH_ALL,
            write_back=("offset", "info_size", "return_flags"),
        ),
        _command(
            "KDBUS_CMD_CONN_UPDATE",
            "kdbus_cmd_update",
            kinds=frozenset((ORDINARY, POLICY_HOLDER, MONITOR)),
            write_back=("return_flags",),
        ),
        _command("KDBUS_CMD_ENDPOINT_UPDATE", "kdbus_cmd_update", write_back=("return_flags",)),
        _command(
            "KDBUS_CMD_MATCH_ADD",
            "kdbus_cmd_match",
            flags=abi.MATCH_REPLACE,
            kinds=_ORDINARY,
            write_back=("return_flags",),
        ),
        _command(
            "KDBUS_CMD_MATCH_REMOVE",
            "kdbus_cmd_match",
            abi.STRUCTS["kdbus_cmd_match"].size,
            kinds=_ORDINARY,
            write_back=("return_flags",),
        ),
    )
)
"""Every command with an argument, by its request number. BYEBYE has none."""


class Invocation:
    """One command as the caller passed it: the broker's own copy, its items, and where to store results."""

    __slots__ = ("address", "caller", "command", "data", "items")

    def __init__(self, command: Command, caller: Caller, address: int, data: bytearray, items: list[Item]) -> None:
        self.command = command
        self.caller = caller
        self.address = address
        self.data = data
        self.items = items

    def get(self, member: str) -> int:
        """A member of the structure as an unsigned integer."""
        return self.command.struct.get(self.data, member)

    def put(self, member: str, value: int) -> None:
        """Change the broker's copy; `finish` stores it."""
        self.command.struct.put(self.data, member, value)

    def put_bytes(self, member: str, value: bytes) -> None:
        """Change a member that is not an integer."""
        start, end = self.command.struct.span(member)
        self.data[start:end] = value

    def store(self, member: str) -> None:
        """Write one member to the caller's memory. Raises BadAddress."""
        start, end = self.command.struct.span(member)
        self.caller.write(self.address + start, bytes(self.data[start:end]))

    def finish(self) -> None:
        """The command has succeeded: write back what the table says. Raises BadAddress."""
        for member in self.command.write_back:
            if member is WHOLE:
                self.caller.write(self.address, bytes(self.data[: self.command.struct.size]))
            elif member is WHOLE_WITH_ITEMS:
                self.caller.write(self.address, bytes(self.data))
            else:
                self.store(member)


def check_flags(caller: Caller, address: int, flags: int, known: int) -> None:
    """Store the `known` flags and bit 63 at `address`, then refuse others. Raises BadAddress or UnknownFlags."""
    caller.write(address, (known | abi.FLAG_KERNEL).to_bytes(8, "little"))
    if flags & ~known:
        raise UnknownFlags


def read_sized(caller: Caller, address: int, minimum: int, maximum: int) -> bytearray:
    """Read a structure that starts with its own size.

    Raises BadAddress, CommandTooSmall, CommandTooLarge or CommandChanged.
    """
    if address & 7:
        raise BadAddress
    try:
        data = caller.read(address, minimum)
    except BadAddress:
        data = caller.read(address, 8)
    size = int.from_bytes(data[:8], "little")
    if size < minimum:
        raise CommandTooSmall
    if size > maximum:
        raise CommandTooLarge
    if size == len(data):
        return bytearray(data)
    data = caller.read(address, size)
    if int.from_bytes(data[:8], "little") != size:
        raise CommandChanged
    return bytearray(data)


def receive(command: Command, caller: Caller, address: int) -> Invocation:
    """Read and check the argument of `command` at `address`; the steps are those of the module's essay."""
    struct = command.struct
    data = read_sized(caller, address, struct.size, command.maximum)
    invocation = Invocation(command, caller, address, data, [])
    flags = invocation.get("flags")
    if command.clears_return_flags:
        invocation.put("return_flags", 0)
        invocation.store("return_flags")
    check_flags(caller, address + struct.span("kernel_flags")[0], flags, command.flags)
    invocation.put("return_flags", 0)
    if len(data) > struct.size:
        invocation.items = item.parse(bytes(data[struct.size :]))
    return invocation
