# SPDX-License-Identifier: GPL-2.0-or-later
"""Grants: which metadata a message has for its receiver.

Until version 4 sender and receiver had to agree: what the one lets out with its flags and the other asks for is
attached, and the system's administrator may forbid the rest (`Agreed`). In the final revision the receiver's wish
decides: what the bus knows by itself is always granted, and of the process what anybody could read in /proc as well
(`Visible`); a sender can refuse only what its receiver could not find out.

Which rule holds is the receiver's revision. Reference: metadata.c (`kdbus_meta_get_mask`), final-revision.md, 4.10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from broker.interfaces import Caller, Ids
from broker.metadata import PROCESS_FLAGS
from kdbus.abi import revision3 as abi

if TYPE_CHECKING:
    from broker.connection import Connection
    from broker.domain import Domain


class Grant(Protocol):
    """One of the two rules."""

    def attached(self, source: Connection, destination: Connection, caller: Caller) -> int:
        """KDBUS_ATTACH_* of what a message from `source`, sent by `caller`, has for `destination`."""
        ...

    def most(self, source: Connection, destination: Connection) -> int:
        """What `attached` returns at most, whoever sends on `source`."""
        ...

    def told(self, wanted: int, allowed: int, domain: Domain) -> int:
        """What of the `wanted` metadata is told on request, if `allowed` is what their owner lets out."""
        ...

    def reader(self, connection: Connection, caller: Caller) -> Ids:
        """The namespaces that the answer to a request of `caller` on `connection` is for."""
        ...


class Agreed:
    """What both sides want, and the module parameter lets through."""

    def attached(self, source: Connection, destination: Connection, caller: Caller) -> int:
        return self.most(source, destination)

    def most(self, source: Connection, destination: Connection) -> int:
        return source.attach_flags_send & destination.attach_flags_recv

    def told(self, wanted: int, allowed: int, domain: Domain) -> int:
        return domain.exported(wanted & allowed)

    def reader(self, connection: Connection, caller: Caller) -> Ids:
        return caller.ids


_IMPLICIT = (
    abi.ATTACH_TIMESTAMP
    | abi.ATTACH_NAMES
    | abi.ATTACH_CONN_DESCRIPTION
    | abi.ATTACH_CREDS
    | abi.ATTACH_PIDS
    | abi.ATTACH_AUXGROUPS
)


class Visible:
    """What the receiver wants and could find out."""

    def attached(self, source: Connection, destination: Connection, caller: Caller) -> int:
        wanted = destination.attach_flags_recv
        granted = _IMPLICIT | source.attach_flags_send
        if wanted & ~granted and caller.process.pids()[0].number_in(destination.ids.pid_namespace):
            granted |= PROCESS_FLAGS
        return wanted & granted

    def most(self, source: Connection, destination: Connection) -> int:
        return destination.attach_flags_recv & (_IMPLICIT | source.attach_flags_send | PROCESS_FLAGS)

    def told(self, wanted: int, allowed: int, domain: Domain) -> int:
        return wanted & allowed

    def reader(self, connection: Connection, caller: Caller) -> Ids:
        return connection.ids
