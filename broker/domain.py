# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain: one mounted kdbusfs, with its buses, its users and its clocks.

A domain is a folder with the node `control`, world-accessible, through which anybody makes buses. It counts messages
(the sequence number in timestamps is the domain's) and users. It belongs to the user namespace of who mounted it:
names of buses begin with the maker's uid as that namespace numbers it, and privilege means CAP_IPC_OWNER there.

The module parameter `attach_flags_mask` is the system's, not the domain's, but reaches the rules through here.
Reference: ipc/kdbus/domain.c, main.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.errors import BadName
from broker.interfaces import INVALID_ID, Clock, Ids, NodeEvents, RandomBytes
from broker.node import Node, node_mode
from broker.quota import User
from broker.reply import Deadlines
from broker.tap import Tap
from kdbus.abi.revision3 import MAKE_ACCESS_WORLD

if TYPE_CHECKING:
    from broker.behaviour import Behaviour

CAP_IPC_OWNER = 15
"""The capability that makes a handle privileged (capabilities(7))."""


class Control(Node):
    """The node through which buses are made."""


class MessageCounter:
    """What messages have been numbered with, in a domain or on a bus. `latest`: of the last one."""

    __slots__ = ("latest",)

    def __init__(self) -> None:
        self.latest = 0

    def next(self) -> int:
        """The sequence number of the next message."""
        self.latest += 1
        return self.latest


class Domain(Node):
    """The root of the nodes."""

    is_directory = True

    def __init__(
        self, clock: Clock, random: RandomBytes, attach_flags_mask: Callable[[], int], ids: Ids, events: NodeEvents
    ) -> None:
        """Make a domain, active at once.

        Args:
            attach_flags_mask: the present value of the module parameter.
            ids: the user namespace that the domain belongs to.
            events: the file system that shows the nodes below the root, which itself exists already.
        """
        super().__init__("", node_mode(MAKE_ACCESS_WORLD, 0o500), 0, 0)
        self.clock = clock
        self.random = random
        self.ids = ids
        self.deadlines = Deadlines()
        self._attach_flags_mask = attach_flags_mask
        self._events = events
        self.messages = MessageCounter()
        self._last_bus_id = 0
        self._users: dict[int, User] = {}
        self.forced: Behaviour | None = None
        """What every handle speaks, if somebody has said so."""
        self.spoken: set[str] = set()
        """Names of the revisions that programs have spoken here; whoever has several domains may make it one set."""
        self.tap: Tap | None = None
        """Who hears of the messages on all buses, if anybody."""
        self.active = True
        control = Control("control", node_mode(MAKE_ACCESS_WORLD, 0o600), 0, 0)
        control.link(self)
        control.activate()

    def events(self) -> NodeEvents | None:
        return self._events

    def next_bus_id(self) -> int:
        """The id of the next bus; used up even if the bus cannot be made."""
        self._last_bus_id += 1
        return self._last_bus_id

    def user(self, uid: int) -> User:
        """The account of a user, by global id."""
        found = self._users.get(uid)
        if found is None:
            found = self._users[uid] = User(uid)
        return found

    def anonymous_user(self) -> User:
        """A new account that no uid leads to."""
        return User(INVALID_ID)

    def exported(self, attach_flags: int) -> int:
        """What of `attach_flags` the module parameter lets through now."""
        return attach_flags & self._attach_flags_mask()

    def check_uid_prefix(self, name: bytes, euid: int) -> None:
        """Names of buses and endpoints begin with `UID-`. Raises BadName, also for a user whom the domain does not
        know."""
        local = self.ids.from_uid(euid)
        if local is None or not name.startswith(b"%d-" % local):
            raise BadName(name=name, prefix=local)
