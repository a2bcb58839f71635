# SPDX-License-Identifier: GPL-2.0-or-later
"""What a daemon can start, for those on the bus that `bridge.union` makes one with the daemon's.

For each name that the daemon can start there is an activator on the bus, as for those of files (`bridge.activation`).
What is sent to it has the daemon start the program; when that has the name there, its stand-in takes the name here, and
gets what waits. A name for which there is an activator already is left to that one.

A program may have the name at the daemon and never on the bus, as the bridge does not speak for it, or as it has gone
at once. Then what waits is refused, like all that cannot be started. Senders who wait for a reply learn that there will
be none, and not why.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

import kdbus.trio
from bridge.activatable import Activatable
from bridge.activated import SPAWN_FAILED, Activated, Attempt, Patience
from bridge.daemon import Daemon, Ended
from kdbus.abi.revision import FINAL
from kdbus.dbus.errors import ErrorReply
from kdbus.errors import Denied, Disconnected, Error
from kdbus.flags import Attach, HelloFlag, NameFlag
from kdbus.values import NameChange, Policy

_PATIENCE: Final = Patience(start_seconds=60.0)
"""The daemon's own patience ends first, and it says so."""
_TRIES: Final = 5
_LOG = logging.getLogger("bridge")


class _Asked:
    """The daemon, asked to start a program, as an attempt. `taken` is called if somebody has the name on the bus."""

    def __init__(
        self, daemon: Daemon, name: str, has_appeared: Callable[[str], Awaitable[bool]], taken: Callable[[], None]
    ) -> None:
        self._daemon = daemon
        self._name = name
        self._has_appeared = has_appeared
        self._taken = taken

    async def failure(self) -> ErrorReply | None:
        for _ in range(_TRIES):
            try:
                await self._daemon.ask("StartServiceByName", "su", self._name, 0)
            except ErrorReply as reason:
                return reason
            except Ended:
                await trio.sleep_forever()
            if await self._has_appeared(self._name):
                self._taken()
                return None
            # It may have gone again before it was seen here.
        return ErrorReply(SPAWN_FAILED, f"{self._name} was started, and is not on this bus")

    def kill(self) -> None:
        """That is the daemon's business."""


class Startable:
    """Holds the names on the bus; they are what it contains. `ids`: of the connections that hold them; `listed`:
    all names that the daemon can start."""

    def __init__(self, bus: str, daemon: Daemon, has_appeared: Callable[[str], Awaitable[bool]]) -> None:
        """`daemon`: a connection for questions, which somebody else receives from; `has_appeared`: waits until what the
        daemon has told by now has taken effect on the bus, and tells whether somebody has the name there."""
        self._bus = bus
        self._daemon = daemon
        self._has_appeared = has_appeared
        self._activated: dict[str, tuple[Activated, kdbus.trio.Connection, trio.CancelScope]] = {}
        self.ids: set[int] = set()
        self.listed: frozenset[str] = frozenset()

    def __contains__(self, name: object) -> bool:
        return name in self._activated

    async def refresh(self, nursery: trio.Nursery, left_out: frozenset[str]) -> None:
        """Ask the daemon what it can start, but for those, and hold just that. Raises Disconnected, Ended, or
        ErrorReply."""
        (listed,) = await self._daemon.ask("ListActivatableNames")
        self.listed = frozenset(listed)
        wanted = self.listed - left_out
        for name in self._activated.keys() - wanted:
            self._activated[name][2].cancel()
        for name in sorted(wanted - self._activated.keys()):
            if self._hold(name):
                nursery.start_soon(self._serve, name)

    def _hold(self, name: str) -> bool:
        """Make an activator for a name; whether there can be one."""
        try:
            starter = kdbus.trio.connect(
                self._bus,
                revision=FINAL,
                flags=HelloFlag.ACTIVATOR | HelloFlag.ACCEPT_FD,
                attach_receive=Attach.ALL,
                policies=[Policy(name)],
            )
        except Disconnected:
            raise
        except Error as error:
            level = logging.INFO if isinstance(error, Denied) else logging.DEBUG
            _LOG.log(level, "%s cannot be started from the bus: %s", name, error)
            return False
        made = Activated(
            Activatable(name, "the daemon", ()),
            starter,
            spawn=self._start,
            refuse=lambda whom, cookie, reason: _LOG.info("%s", reason.text),
            look=lambda: None,
            patience=_PATIENCE,
        )
        self._activated[name] = made, starter, trio.CancelScope()
        self.ids.add(starter.id)
        return True

    async def _serve(self, name: str) -> None:
        made, starter, scope = self._activated[name]
        try:
            with starter, scope:
                await made.serve()
        finally:
            del self._activated[name]

    def changed(self, change: NameChange) -> None:
        """A name changed hands on the bus."""
        if change.name in self._activated and change.new_id and not change.new_flags & NameFlag.ACTIVATOR:
            self._activated[change.name][0].name_taken()

    async def _start(self, wanted: Activatable) -> Attempt:
        return _Asked(self._daemon, wanted.name, self._has_appeared, self._activated[wanted.name][0].name_taken)
