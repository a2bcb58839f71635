# SPDX-License-Identifier: GPL-2.0-or-later
"""Buses that exist from the start: made by whoever serves the domain, not by a program, and ending with it.

Programs of the time expect `/sys/fs/kdbus/0-system/bus` and `/sys/fs/kdbus/UID-user/bus`, which the system's manager
made at boot. Such a bus is made as the manager would have made it: with sd-bus's bloom filters of 64 bytes and 8 hash
functions, and its maker's metadata open to all.
"""

from __future__ import annotations

import struct

from broker.bus import Bus
from broker.command import Invocation
from broker.domain import Domain
from broker.errors import BadName, NameTooLong
from broker.final import FINAL
from broker.interfaces import Caller
from broker.item import Item
from broker.limits import NODE_NAME_LENGTH
from broker.naming import check_node_name
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

_BLOOM_SIZE = 64
_HASHES = 8


def make_bus(domain: Domain, name: bytes, maker: Caller, *, world: bool) -> Bus:
    """Make the bus `name`, which need not begin with the maker's uid, as `maker`; `world`: whether everybody may enter.

    Raises BadName or NameTooLong (EINVAL, ENAMETOOLONG), and NodeExists (EEXIST).
    """
    if len(name) > NODE_NAME_LENGTH:
        raise NameTooLong(count=len(name), limit=NODE_NAME_LENGTH)
    check_node_name(name)
    if not name[:1].isdigit() or b"-" not in name:
        raise BadName(name=name)
    behaviour = domain.forced or FINAL
    known = behaviour.commands[behaviour.revision.requests["BUS_MAKE"]]
    items = [
        Item(Kind.MAKE_NAME, name + b"\0"),
        Item(Kind.BLOOM_PARAMETER, struct.pack("<2Q", _BLOOM_SIZE, _HASHES)),
        Item(Kind.ATTACH_FLAGS_SEND, struct.pack("<Q", abi.ATTACH_ALL)),
    ]
    make = Invocation(known, behaviour, maker, 0, bytearray(known.struct.size), items)
    make.put("flags", abi.MAKE_ACCESS_WORLD if world else 0)
    return Bus(domain, make, any_name=True)
