# SPDX-License-Identifier: GPL-2.0-or-later
"""Where buses are, and how they are made.

A bus is a folder below the root (`/sys/fs/kdbus`) with a node `bus` in it, and one more for each custom endpoint. It is
there as long as the descriptor that made it is open. So is an endpoint. Neither has anything to wait for: these classes
serve both faces.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from kdbus import negotiation
from kdbus.abi.revision import FINAL, VERSION3, Revision
from kdbus.commands import Commands
from kdbus.errors import Error, Unsupported
from kdbus.flags import Attach, MakeFlag
from kdbus.system import Node
from kdbus.values import BloomParameters, Policy

ROOT: Final = "/sys/fs/kdbus"
"""Where kdbusfs is mounted."""


def own_name(name: str) -> str:
    """The name of a bus or endpoint with the user id in front, as the bus demands it: "1000-sample"."""
    return f"{os.geteuid()}-{name}"


def speaks_final(root: str = ROOT) -> bool:
    """Whether the final revision is spoken there, or one that shares its numbers; False: an earlier one. Asks without
    any effect. Raises Error if there is no kdbus."""
    node = Node(f"{root}/control")
    try:
        node.run(negotiation.probe())
    except Unsupported:
        return False
    finally:
        node.close()
    return True


def supported(command: str, bus: str | None = None, *, root: str = ROOT) -> negotiation.Supported:
    """What a command that makes something takes: BUS_MAKE; or, with the name of a bus, HELLO and ENDPOINT_MAKE. It is
    asked without any effect. Connections are asked themselves (`Peer.supported`). Raises Error; Unsupported: only
    version 3 is spoken there, which cannot be asked."""
    asked = negotiation.ask(FINAL, command)
    node = Node(f"{root}/control" if bus is None else f"{root}/{bus}/bus")
    try:
        node.run(asked)
    finally:
        node.close()
    assert asked.layout is not None
    return negotiation.answer(FINAL, asked.layout, asked.data)


def commands_for(revision: Revision | None, root: str) -> Commands:
    """The commands of a revision; None: of the newest that is spoken there."""
    if revision is None:
        return Commands(FINAL, guessed=True) if speaks_final(root) else Commands(VERSION3)
    return Commands(revision)


class _Made:
    """Something that exists while its descriptor is open."""

    def __init__(self, node: Node, commands: Commands, name: str, root: str) -> None:
        self._node = node
        self._commands = commands
        self.name = name
        self.root = root

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._node.fileno()

    def close(self) -> None:
        """The end of it, and of all connections to it. Idempotent."""
        self._node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Endpoint(_Made):
    """A custom endpoint of a bus. What its policies do not allow is not possible through it."""

    def __init__(
        self,
        bus: str,
        name: str,
        flags: MakeFlag = MakeFlag.NONE,
        policies: Iterable[Policy] = (),
        *,
        root: str = ROOT,
        revision: Revision | None = None,
    ) -> None:
        """Make an endpoint (see `own_name`) of the bus of that name; only the bus's owner may. Raises Exists, Denied or
        another Error."""
        commands = commands_for(revision, root)
        node = Node(f"{root}/{bus}/bus")
        super().__init__(node, commands, name, root)
        self.bus = bus
        try:
            node.run(commands.endpoint_make(name, flags), name)
            self.update(policies)
        except BaseException:
            node.close()
            raise

    def update(self, policies: Iterable[Policy]) -> None:
        """Replace its policies. Raises Error; then the old ones stay."""
        self._node.run(self._commands.endpoint_update(policies), self.name)


class Bus(_Made):
    """A bus."""

    def __init__(
        self,
        name: str,
        flags: MakeFlag = MakeFlag.NONE,
        *,
        bloom: BloomParameters | None = None,
        creator: Attach = Attach.ALL,
        required: Attach = Attach.NONE,
        root: str = ROOT,
        revision: Revision | None = None,
    ) -> None:
        """Make a bus (see `own_name`).

        `flags`: who besides this user may use it. `creator`: what may be told of its maker. `required`: what every
        connection has to tell of itself; version 3 only (ValueError). Raises Exists or another Error.
        """
        commands = commands_for(revision, root)
        command = commands.bus_make(name, bloom or BloomParameters(), flags, creator, required)
        node = Node(f"{root}/control")
        super().__init__(node, commands, name, root)
        try:
            node.run(command, name)
        except Error:
            node.close()
            raise

    def make_endpoint(
        self, name: str, flags: MakeFlag = MakeFlag.NONE, policies: Iterable[Policy] = ()
    ) -> Endpoint:
        """Make a custom endpoint. As Endpoint."""
        return Endpoint(self.name, name, flags, policies, root=self.root, revision=self._commands.revision)


def path_of(bus: str, endpoint: str, root: str) -> str:
    """The path of an endpoint's node. `bus`: a name, or that path itself."""
    return bus if "/" in bus else f"{root}/{bus}/{endpoint}"


def open_endpoint(bus: str, endpoint: str, root: str, revision: Revision | None) -> tuple[Node, Commands]:
    """An endpoint's node, for HELLO, and the commands of its revision. `bus`: as in `path_of`. Raises Error."""
    path = path_of(bus, endpoint, root)
    commands = commands_for(revision, os.path.dirname(os.path.dirname(path)))
    return Node(path), commands
