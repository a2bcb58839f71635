# SPDX-License-Identifier: GPL-2.0-or-later
"""Endpoints: the doors of a bus.

Every bus has the default endpoint `bus`. A privileged handle may make custom ones, each with a name that begins with
the maker's uid, access flags of its own, and a policy database: what that does not grant does not exist for those who
come through this door. A custom endpoint lives until the handle that made it is closed; its connections end with it,
and are accounted for it and not for their users.

Reference: ipc/kdbus/endpoint.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker import item
from broker.command import Invocation
from broker.interfaces import Credentials
from broker.node import Node, node_mode
from broker.policy import PolicyDatabase
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.bus import Bus
    from broker.connection import Connection
    from broker.quota import User


class Endpoint(Node):
    """One door. `has_policy` tells a custom endpoint from the default one."""

    def __init__(self, bus: Bus, name: str, access: int, who: Credentials, *, custom: bool) -> None:
        """Take the name; call `activate` next. Raises NodeExists or NodeShutDown."""
        super().__init__(name, node_mode(access, 0o600), who.euid, who.egid)
        self.bus = bus
        self.id = bus.next_endpoint_id()
        self.has_policy = custom
        self.policy = PolicyDatabase()
        self.connections: dict[int, Connection] = {}
        self.user: User | None = bus.domain.anonymous_user() if custom else None
        self.creator: User | None = None
        """Whose endpoint this counts as, once it does."""
        self.link(bus)

    def count_for(self, creator: User) -> None:
        """Let it count as made by `creator`, until it ends. Raises TooManyBuses."""
        creator.add_endpoint()
        self.creator = creator

    def released(self, was_active: bool) -> None:
        if self.creator is not None:
            self.creator.endpoints -= 1
        for connection in list(self.connections.values()):
            connection.disconnect()

    def set_policy(self, invocation: Invocation) -> None:
        """Replace the policy by what the command's items say. Raises what `PolicyDatabase.set` raises."""
        self.policy.set(invocation.items, invocation.caller.ids, self, single=False, wildcards=True)


def make_endpoint(bus: Bus, make: Invocation) -> Endpoint:
    """ENDPOINT_MAKE.

    Raises MissingItem or DuplicateItem (just one name is needed), BadName, NodeExists, TooManyBuses (the user has made
    too many), and what setting the policy raises.
    """
    name = item.unique(make.items, Kind.MAKE_NAME).text()
    who = make.caller.credentials()
    bus.domain.check_uid_prefix(name, who.euid)
    endpoint = Endpoint(bus, name.decode("utf-8", "surrogateescape"), make.get("flags"), who, custom=True)
    try:
        endpoint.count_for(bus.domain.user(who.uid))
        endpoint.activate()
        endpoint.set_policy(make)
    except BaseException:
        endpoint.deactivate()
        raise
    return endpoint
