# SPDX-License-Identifier: GPL-2.0-or-later
"""How the final revision reads a command: one parser for all, and programs that ask what is supported.

Every command has a table of flags and items (`broker.command.Command`). In order:

1. as in version 3: the pointer is aligned and readable (EFAULT), the size fits (EINVAL, EMSGSIZE);
2. no unknown flag (EINVAL); bit 63, NEGOTIATE, is always known;
3. each item in turn lies within the command, is of a kind that the command takes, is well-formed, and is not the second
   of a kind that may be there once (EINVAL, unless the kind has an errno of its own);
4. a NEGOTIATE item, an array of item numbers, gets every number that the command does not take overwritten with 0;
5. with bit 63 the supported flags are stored over the caller's, and the command is over: it has no other effect;
6. otherwise required items must be there (EINVAL).

`return_flags` are stored at the end, also of a command that failed in step 2 or later. Programs find out in this way
whether there is a kdbus at all: by a BUS_MAKE with nothing but bit 63. Reference: final-revision.md, 1.3 and 1.4.
"""

from __future__ import annotations

from broker.behaviour import Behaviour
from broker.command import Command, Invocation, read_sized
from broker.errors import BadItem, KdbusError, MissingItem, RepeatedItem, UnknownFlags
from broker.interfaces import Caller
from broker.item import Item, place, walk
from kdbus.abi.revision import Kind

NEGOTIATE = 1 << 63


def admit(command: Command, behaviour: Behaviour, caller: Caller, address: int) -> Invocation:
    """Read and check the argument of `command` at `address`; see the module's essay.

    `Invocation.negotiated` says that the command is over already. Raises BadAddress, CommandTooSmall, CommandTooLarge,
    CommandChanged, UnknownFlags, BadItem, RepeatedItem, MissingItem, and what an item's check raises.
    """
    data = read_sized(caller, address, command.struct.size, command.maximum)
    invocation = Invocation(command, behaviour, caller, address, data, [])
    if command.stores_return_flags:
        invocation.put("return_flags", 0)
    try:
        _check(invocation)
    except KdbusError:
        invocation.failed()
        raise
    return invocation


def _check(invocation: Invocation) -> None:
    command, flags = invocation.command, invocation.get("flags")
    if flags & ~(command.flags | NEGOTIATE):
        raise UnknownFlags(flags=flags & ~(command.flags | NEGOTIATE))
    invocation.items, arrays = _parse(invocation)
    invocation.negotiates = bool(arrays)
    taken = {invocation.behaviour.revision.number_of(kind) for kind in (*command.items, Kind.NEGOTIATE)}
    for start, array in arrays:
        for number in range(0, len(array), 8):
            if int.from_bytes(array[number : number + 8], "little") not in taken:
                invocation.caller.write(invocation.address + start + number, bytes(8))
    if flags & NEGOTIATE:
        start, _ = command.struct.span("flags")
        invocation.caller.write(invocation.address + start, command.flags.to_bytes(8, "little"))
        invocation.negotiated = True
        return
    present = {entry.type for entry in invocation.items}
    for kind, rule in command.items.items():
        if rule.required and kind not in present:
            raise MissingItem(kind=kind)


def _parse(invocation: Invocation) -> tuple[list[Item], list[tuple[int, bytes]]]:
    """The items, and of those that negotiate the place in the command and the payload."""
    command, behaviour, fixed = invocation.command, invocation.behaviour, invocation.command.struct.size
    items: list[Item] = []
    arrays: list[tuple[int, bytes]] = []
    seen: set[int] = set()
    data = bytes(invocation.data[fixed:])
    for before, (start, number, payload, padding) in enumerate(walk(data)):
        kind = behaviour.revision.kind_of(number)
        rule = command.items.get(kind)
        if rule is None and kind != Kind.NEGOTIATE:
            raise place(BadItem(rule=f"{command.name} does not take it"), kind, before, data)
        check = behaviour.item_checks.get(kind)
        if check is not None:
            try:
                check(payload)
            except KdbusError as error:
                raise place(error, kind, before, data) from None
        if kind in seen and (rule is None or not rule.repeats):
            raise place(RepeatedItem(), kind, before, data)
        seen.add(kind)
        if kind == Kind.NEGOTIATE:
            arrays.append((fixed + start, payload))
        else:
            items.append(Item(kind, payload, padding))
    return items, arrays
