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

from broker.metadata import PROCESS_FLAGS
from broker.outside import Caller
from kdbus.abi import revision3 as abi

if TYPE_CHECKING:
    from broker.connection import Connection


class Grant(Protocol):
    """One of the two rules."""

    def attached(self, source: Connection, destination: Connection, caller: Caller) -> int:
        """KDBUS_ATTACH_* of what a message from `source`, sent by `caller`, has for `destination`."""
        ...

    def told(self, wanted: int, whose: Connection) -> int:
        """What of the `wanted` metadata of a connection the bus tells on request."""
        ...


class Agreed:
    """What both sides want, and the module parameter lets through."""

    def attached(self, source: Connection, destination: Connection, caller: Caller) -> int:
        return source.attach_flags_send & destination.attach_flags_recv

    def told(self, wanted: int, whose: Connection) -> int:
        return whose.bus.domain.exported(wanted & whose.attach_flags_send)


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

    def told(self, wanted: int, whose: Connection) -> int:
        return wanted & whose.attach_flags_send
