# SPDX-License-Identifier: GPL-2.0-or-later
"""A client library for kdbus, and the tables of its ABI.

    import kdbus

    with kdbus.connect("0-system") as connection:
        with connection.call("org.example.Echo", b"hello") as reply:
            print(bytes(reply.payload))

It speaks the public API of kdbus and nothing else (nodes below `/sys/fs/kdbus`, ioctl, mmap, poll), so the same program
runs under `kdbus run` and on a kernel that has kdbus. docs/client.md is the guide. This module has the names of the
blocking face; `kdbus.trio` has those of the other, `kdbus.matches` the rules of matches.

The names are loaded when they are first used. Who wants the tables, `kdbus.abi`, gets the tables alone: the programs
of this project stand on them, and have to start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdbus.abi.revision import FINAL, REVISION219, VERSION3, Revision
    from kdbus.blocking import Connection, connect, wait_for_bus, wait_for_name
    from kdbus.errors import (
        Cancelled,
        Denied,
        Disconnected,
        Error,
        Exists,
        Malformed,
        NotFound,
        PeerGone,
        QueueFull,
        TimedOut,
        Unsupported,
    )
    from kdbus.flags import (
        ANY,
        BROADCAST,
        KERNEL,
        PAYLOAD_DBUS,
        Access,
        AccessType,
        Attach,
        HelloFlag,
        ListFlag,
        MakeFlag,
        MessageFlag,
        NameFlag,
    )
    from kdbus.message import BloomFilter, MemfdRange
    from kdbus.negotiation import Supported
    from kdbus.nodes import ROOT, Bus, Endpoint, own_name, speaks_final, supported
    from kdbus.received import Descriptor, Message
    from kdbus.sending import Memfd, Zeros
    from kdbus.values import (
        Audit,
        BloomParameters,
        Capabilities,
        Credentials,
        IdChange,
        Info,
        Listed,
        Metadata,
        NameChange,
        Notification,
        OwnedName,
        Pids,
        Policy,
        ReplyDead,
        ReplyTimeout,
        Rule,
        Timestamp,
    )

_HOMES = {
    "abi.revision": "FINAL REVISION219 VERSION3 Revision",
    "blocking": "Connection connect wait_for_bus wait_for_name",
    "errors": "Cancelled Denied Disconnected Error Exists Malformed NotFound PeerGone QueueFull TimedOut Unsupported",
    "flags": "ANY BROADCAST KERNEL PAYLOAD_DBUS Access AccessType Attach HelloFlag ListFlag MakeFlag MessageFlag"
    " NameFlag",
    "message": "BloomFilter MemfdRange",
    "negotiation": "Supported",
    "nodes": "ROOT Bus Endpoint own_name speaks_final supported",
    "received": "Descriptor Message",
    "sending": "Memfd Zeros",
    "values": "Audit BloomParameters Capabilities Credentials IdChange Info Listed Metadata NameChange Notification"
    " OwnedName Pids Policy ReplyDead ReplyTimeout Rule Timestamp",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ANY",
    "BROADCAST",
    "FINAL",
    "KERNEL",
    "PAYLOAD_DBUS",
    "REVISION219",
    "ROOT",
    "VERSION3",
    "Access",
    "AccessType",
    "Attach",
    "Audit",
    "BloomFilter",
    "BloomParameters",
    "Bus",
    "Cancelled",
    "Capabilities",
    "Connection",
    "Credentials",
    "Denied",
    "Descriptor",
    "Disconnected",
    "Endpoint",
    "Error",
    "Exists",
    "HelloFlag",
    "IdChange",
    "Info",
    "ListFlag",
    "Listed",
    "MakeFlag",
    "Malformed",
    "Memfd",
    "MemfdRange",
    "Message",
    "MessageFlag",
    "Metadata",
    "NameChange",
    "NameFlag",
    "NotFound",
    "Notification",
    "OwnedName",
    "PeerGone",
    "Pids",
    "Policy",
    "QueueFull",
    "ReplyDead",
    "ReplyTimeout",
    "Revision",
    "Rule",
    "Supported",
    "TimedOut",
    "Timestamp",
    "Unsupported",
    "Zeros",
    "connect",
    "own_name",
    "speaks_final",
    "supported",
    "wait_for_bus",
    "wait_for_name",
]


if not TYPE_CHECKING:  # With it, type checkers would take any name for one of this module.

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
