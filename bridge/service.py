# SPDX-License-Identifier: GPL-2.0-or-later
"""`org.freedesktop.DBus` for programs that speak kdbus: a service that tells what there is on the bus.

Programs of the time asked the bus itself, as kdbus knows names, owners and matches. Some call the name nevertheless, or
send everything that they do not know to it. They get answers to all questions. What they would have done to themselves
(own a name, add a match) nobody can do for another on kdbus: that is NotSupported.

It is an ordinary service made with `kdbus.dbus`. If the name is taken, by the proxy of another socket of this bus say,
this one waits for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from bridge.activated import SPAWN_FAILED
from bridge.driver_words import PROPERTIES
from bridge.failures import NOT_SUPPORTED, no_such_name
from bridge.queries import PEER, Queries
from bridge.starting import ALREADY_RUNNING, STARTED
from kdbus.abi.revision import FINAL
from kdbus.dbus import service
from kdbus.dbus.errors import DBusError, ErrorReply
from kdbus.dbus.kernel import DRIVER, DRIVER_PATH
from kdbus.dbus.message import MessageType, method_call
from kdbus.dbus.rule import Rule
from kdbus.dbus.trio import Connection, Subscription, connect
from kdbus.dbus.values import Variant
from kdbus.errors import Error
from kdbus.flags import NameFlag

_LOG = logging.getLogger("bridge")


def _refused(member: str) -> ErrorReply:
    return ErrorReply(NOT_SUPPORTED, f"{member}: programs that speak kdbus have to do that by its own commands")


@service.interface(DRIVER)
class Driver:
    """The object, for everybody."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queries = Queries(connection.peer)
        self._bus_id = connection.peer.bus_id.hex()

    @service.method("", "s")
    def Hello(self) -> str:
        raise _refused("Hello")

    @service.method("su", "u")
    def RequestName(self, name: str, flags: int) -> int:
        raise _refused("RequestName")

    @service.method("s", "u")
    def ReleaseName(self, name: str) -> int:
        raise _refused("ReleaseName")

    @service.method("s", "")
    def AddMatch(self, rule: str) -> None:
        raise _refused("AddMatch")

    @service.method("s", "")
    def RemoveMatch(self, rule: str) -> None:
        raise _refused("RemoveMatch")

    @service.method("s", "as")
    def ListQueuedOwners(self, name: str) -> list[str]:
        return self._queries.list_queued_owners(name)

    @service.method("", "as")
    def ListNames(self) -> list[str]:
        return self._queries.list_names()

    @service.method("", "as")
    def ListActivatableNames(self) -> list[str]:
        return self._queries.list_activatable_names()

    @service.method("s", "b")
    def NameHasOwner(self, name: str) -> bool:
        return self._queries.name_has_owner(name)

    @service.method("su", "u")
    async def StartServiceByName(self, name: str, flags: int) -> int:
        if name not in self._queries.list_activatable_names()[1:]:
            raise no_such_name(name, auto_start=True)
        wanted = Rule(type=MessageType.SIGNAL, sender=DRIVER, member="NameOwnerChanged", arguments=((0, name),))
        with self._connection.subscribe(wanted) as changes:
            if self._queries.owner(name) is not None:
                return ALREADY_RUNNING
            return await self._started(name, changes)

    async def _started(self, name: str, changes: Subscription) -> int:
        """Send the name something that starts a program, until somebody has it. Raises ErrorReply."""
        failed = False
        async with trio.open_nursery() as nursery:

            async def ping() -> None:
                nonlocal failed
                try:
                    await self._connection.call(method_call(name, "/", PEER, "Ping"), timeout=math.inf)
                except (Error, DBusError):
                    failed = self._queries.owner(name) is None
                nursery.cancel_scope.cancel()

            nursery.start_soon(ping)
            while not (await changes.receive()).body[2]:
                pass
            nursery.cancel_scope.cancel()
        if failed:
            raise ErrorReply(SPAWN_FAILED, f"Failed to activate service '{name}': it did not take the name")
        return STARTED

    @service.method("s", "s")
    def GetNameOwner(self, name: str) -> str:
        return self._queries.get_name_owner(name)

    @service.method("s", "u")
    def GetConnectionUnixUser(self, name: str) -> int:
        return self._queries.get_connection_unix_user(name)

    @service.method("s", "u")
    def GetConnectionUnixProcessID(self, name: str) -> int:
        return self._queries.get_connection_unix_process_id(name)

    @service.method("s", "a{sv}")
    def GetConnectionCredentials(self, name: str) -> dict[str, Variant]:
        return self._queries.get_connection_credentials(name)

    @service.method("s", "ay")
    def GetConnectionSELinuxSecurityContext(self, name: str) -> bytes:
        return self._queries.get_security_context(name)

    @service.method("s", "ay")
    def GetAdtAuditSessionData(self, name: str) -> bytes:
        return self._queries.get_audit_data(name)

    @service.method("", "")
    def ReloadConfig(self) -> None:
        raise _refused("ReloadConfig")

    @service.method("", "s")
    def GetId(self) -> str:
        return self._bus_id

    @property
    @service.exposed("as")
    def Features(self) -> list[str]:
        return list(PROPERTIES["Features"].value)

    @property
    @service.exposed("as")
    def Interfaces(self) -> list[str]:
        return []  # Monitoring and statistics are for clients of a socket.


@asynccontextmanager
async def offered(bus: str) -> AsyncIterator[None]:
    """Answer while the block runs. Where the name must not be owned, nobody answers. Raises Error."""
    async with connect(bus, revision=FINAL) as connection:
        connection.objects.add(DRIVER_PATH, Driver(connection))
        try:
            connection.acquire_name(DRIVER, NameFlag.QUEUE)
        except Error as error:
            _LOG.warning("nobody answers for %s to programs that speak kdbus: %s", DRIVER, error)
        yield
