# SPDX-License-Identifier: GPL-2.0-or-later
"""What a daemon can start, for those on the bus that `bridge.union` makes one with the daemon's.

For each name that the daemon can start there is an activator on the bus, as for those of files (`bridge.activation`).
What is sent to it has the daemon start the program; when that has the name there, its stand-in takes the name here, and
gets what waits. A name for which there is an activator already is left to that one.

Senders who wait for a reply to what cannot be started learn that there will be none, and not why.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Final

import trio

import kdbus.trio
from bridge.activatable import Activatable
from bridge.activated import Activated, Attempt, Patience
from bridge.daemon import Daemon, Ended
from kdbus.abi.revision import FINAL
from kdbus.dbus.errors import ErrorReply
from kdbus.errors import Denied, Disconnected, Error
from kdbus.flags import Attach, HelloFlag, NameFlag
from kdbus.values import NameChange, Policy

_PATIENCE: Final = Patience(start_seconds=60.0)
"""The daemon's own patience ends first, and it says so."""
_LOG = logging.getLogger("bridge")


class _Asked:
    """The daemon, asked to start a program, as an attempt."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self._daemon = daemon
        self._name = name

    async def failure(self) -> ErrorReply | None:
        try:
            await self._daemon.ask("StartServiceByName", "su", self._name, 0)
        except ErrorReply as reason:
            return reason
        except Ended:
            await trio.sleep_forever()
        return None

    def kill(self) -> None:
        """That is the daemon's business."""


class Startable:
    """Holds the names on the bus, as long as the stack lives."""

    def __init__(self, bus: str, daemon: Daemon, stack: ExitStack) -> None:
        """`daemon`: a connection for questions, which somebody else receives from."""
        self._bus = bus
        self._daemon = daemon
        self._stack = stack
        self._activated: dict[str, Activated] = {}

    def hold(self, name: str) -> Activated | None:
        """Make an activator for a name, whose `serve` is to work from then on. None if there cannot be one."""
        try:
            starter = self._stack.enter_context(
                kdbus.trio.connect(
                    self._bus,
                    revision=FINAL,
                    flags=HelloFlag.ACTIVATOR | HelloFlag.ACCEPT_FD,
                    attach_receive=Attach.ALL,
                    policies=[Policy(name)],
                )
            )
        except Disconnected:
            raise
        except Error as error:
            level = logging.INFO if isinstance(error, Denied) else logging.DEBUG
            _LOG.log(level, "%s cannot be started from the bus: %s", name, error)
            return None
        self._activated[name] = made = Activated(
            Activatable(name, "the daemon", ()),
            starter,
            spawn=self._start,
            refuse=lambda whom, cookie, reason: _LOG.info("%s", reason.text),
            look=lambda: None,
            patience=_PATIENCE,
        )
        return made

    def changed(self, change: NameChange) -> None:
        """A name changed hands on the bus."""
        if change.name in self._activated and change.new_id and not change.new_flags & NameFlag.ACTIVATOR:
            self._activated[change.name].name_taken()

    async def _start(self, wanted: Activatable) -> Attempt:
        return _Asked(self._daemon, wanted.name)
