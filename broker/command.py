# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands: what every ioctl's argument must look like, checked in one step before anything runs.

Each command's structure starts with its own size; items may follow the fixed part. Each revision has a table of its
commands (`broker.version3`, `broker.final`): the structure, the largest size, the flags it knows, who may issue it and
what is written back. `receive` does all checks of version 3, in the kernel's order, because the first failing one
decides the errno and because write-backs happen on the way; the final revision's are in `broker.negotiation`:

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

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker import item
from broker.connection_kind import ANY_KIND
from broker.errors import BadAddress, CommandChanged, CommandTooLarge, CommandTooSmall, KdbusError, UnknownFlags
from broker.interfaces import Caller
from broker.item import Item
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import Struct

if TYPE_CHECKING:
    from broker.behaviour import Behaviour

WHOLE = "*"
"""A write-back of the whole structure, as it was read and then changed: `kernel_flags` gets its old value back."""
WHOLE_WITH_ITEMS = "**"
"""A write-back of the structure and of the items behind it."""


@dataclass(frozen=True, slots=True)
class ItemRule:
    """Whether a command takes a kind of item more than once, and whether it needs one."""

    repeats: bool = False
    required: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """What is known about one command before it is looked at."""

    name: str
    """As the final revision calls it ("LIST" is version 3's NAME_LIST)."""
    struct: Struct
    """Of size 0 for BYEBYE up to version 3, which takes no argument."""
    maximum: int
    """Largest size in bytes, items included."""
    flags: int = 0
    """Flags that the command knows."""
    kinds: frozenset[str] = ANY_KIND
    """Connections that may issue it."""
    clears_return_flags: bool = False
    """Whether `return_flags` is stored as zero before the flags are looked at."""
    write_back: tuple[str, ...] = ()
    """Members stored in the caller's memory once the command has succeeded, in that order."""
    items: Mapping[int, ItemRule] = field(default_factory=dict)
    """The kinds of items that it takes, where `broker.negotiation` reads it, or that it looks at (`broker.form2`)."""
    stores_return_flags: bool = False
    """Whether `return_flags` are stored also when it fails."""


class Invocation:
    """One command as the caller passed it: the broker's own copy, its items, and where to store results."""

    __slots__ = ("address", "behaviour", "caller", "command", "data", "items", "negotiated", "negotiates")

    def __init__(
        self,
        command: Command,
        behaviour: Behaviour,
        caller: Caller,
        address: int,
        data: bytearray,
        items: list[Item],
    ) -> None:
        self.command = command
        self.behaviour = behaviour
        self.negotiated = False
        """Whether it only asked what is supported, and is over."""
        self.negotiates = False
        """Whether it has an item that asks."""
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

    def failed(self) -> None:
        """The command has failed: store what is stored all the same. Raises BadAddress."""
        if self.command.stores_return_flags:
            self.store("return_flags")

    def finish(self) -> None:
        """The command has succeeded: write back what the table says. Raises BadAddress."""
        for member in self.command.write_back:
            if member is WHOLE:
                self.caller.write(self.address, bytes(self.data[: self.command.struct.size]))
            elif member is WHOLE_WITH_ITEMS:
                self.caller.write(self.address, bytes(self.data))
            else:
                self.store(member)


@contextmanager
def answering(behaviour: Behaviour, invocation: Invocation | None = None) -> Iterator[None]:
    """Errors of this command are answered with the errno numbers of `behaviour`, and `invocation` is written back as
    far as that is done for failed commands."""
    try:
        try:
            yield
        except KdbusError as error:
            if invocation is not None:
                error.locate(invocation.items)
                invocation.failed()
            raise
    except KdbusError as error:
        error.errnos = behaviour.errnos
        raise


def check_flags(caller: Caller, address: int, flags: int, known: int) -> None:
    """Store the `known` flags and bit 63 at `address`, then refuse others. Raises BadAddress or UnknownFlags."""
    caller.write(address, (known | abi.FLAG_KERNEL).to_bytes(8, "little"))
    if flags & ~known:
        raise UnknownFlags(flags=flags & ~known)


def read_sized(caller: Caller, address: int, minimum: int, maximum: int) -> bytearray:
    """Read a structure that starts with its own size.

    Raises BadAddress, CommandTooSmall, CommandTooLarge or CommandChanged.
    """
    if address & 7:
        raise BadAddress(address=address, rule="not aligned to 8 bytes")
    try:
        data = caller.read(address, minimum)
    except BadAddress:
        data = caller.read(address, 8)
    size = int.from_bytes(data[:8], "little")
    if size < minimum:
        raise CommandTooSmall(count=size, limit=minimum)
    if size > maximum:
        raise CommandTooLarge(count=size, limit=maximum)
    if size == len(data):
        return bytearray(data)
    data = caller.read(address, size)
    if int.from_bytes(data[:8], "little") != size:
        raise CommandChanged
    return bytearray(data)


def receive(command: Command, behaviour: Behaviour, caller: Caller, address: int) -> Invocation:
    """Read and check the argument of `command` at `address`; the steps are those of the module's essay."""
    struct = command.struct
    data = read_sized(caller, address, struct.size, command.maximum)
    invocation = Invocation(command, behaviour, caller, address, data, [])
    flags = invocation.get("flags")
    if command.clears_return_flags:
        invocation.put("return_flags", 0)
        invocation.store("return_flags")
    check_flags(caller, address + struct.span("kernel_flags")[0], flags, command.flags)
    invocation.put("return_flags", 0)
    if len(data) > struct.size:
        invocation.items = item.parse(bytes(data[struct.size :]), behaviour.item_checks, behaviour.revision)
    return invocation
