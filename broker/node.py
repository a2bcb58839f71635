# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes: what a domain shows as files and folders, and the order in which it all ends.

A domain is a folder with the file `control` and a folder per bus; a bus's folder holds a file per endpoint. A node is
*linked* when it takes its name among its siblings, visible and usable once *active*, and never usable again after
`deactivate`, which first ends all children. Open handles outlive their node and answer ESHUTDOWN.

The kernel counts active references, to let running ioctls finish before a node is torn down. Here a command runs to
its end before the next begins, so a flag suffices. Reference: ipc/kdbus/node.c, modes in domain.c, bus.c, endpoint.c.
"""

from __future__ import annotations

from broker.errors import NodeExists, NodeShutDown
from broker.interfaces import NodeEvents
from kdbus.abi import revision3 as abi


def node_mode(access: int, owner: int) -> int:
    """Permission bits: those of the `owner` (0o600 or 0o500), repeated as KDBUS_MAKE_ACCESS_* flags say.

    World access includes group access.
    """
    mode = owner
    if access & (abi.MAKE_ACCESS_GROUP | abi.MAKE_ACCESS_WORLD):
        mode |= owner >> 3
    if access & abi.MAKE_ACCESS_WORLD:
        mode |= owner >> 6
    return mode


class Node:
    """One file or folder. Subclasses end their own affairs in `released`."""

    is_directory = False

    def __init__(self, name: str, mode: int, uid: int, gid: int) -> None:
        self.name = name
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.parent: Node | None = None
        self.children: dict[str, Node] = {}
        self.active = False
        self._ended = False

    @property
    def path(self) -> tuple[str, ...]:
        """The path below the domain's root; the domain's own is empty."""
        return () if self.parent is None else (*self.parent.path, self.name)

    def events(self) -> NodeEvents | None:
        """Who shows the nodes; the root knows."""
        return None if self.parent is None else self.parent.events()

    def link(self, parent: Node) -> None:
        """Take the name below `parent`. Raises NodeShutDown or NodeExists."""
        if not parent.active:
            raise NodeShutDown(node=parent.path)
        if self.name in parent.children:
            raise NodeExists(node=(*parent.path, self.name))
        self.parent = parent
        parent.children[self.name] = self

    def activate(self) -> None:
        """Become visible. Raises NodeShutDown if the node has been ended already."""
        if self._ended or self.active:
            raise NodeShutDown(node=self.path)
        self.active = True
        events = self.events()
        if events is not None:
            events.node_added(self.path, self.is_directory, self.mode, self.uid, self.gid)

    def deactivate(self) -> None:
        """End the node and all below it. May be called at any time and more than once."""
        if self._ended:
            return
        was_active, self.active, self._ended = self.active, False, True
        for child in list(self.children.values()):
            child.deactivate()
        self.released(was_active)
        if self.parent is not None:
            self.parent.children.pop(self.name, None)
            events = self.events()
            if was_active and events is not None:
                events.node_removed(self.path)

    def released(self, was_active: bool) -> None:
        """Called once, after the children have ended."""
