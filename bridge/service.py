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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bridge.driver_words import PROPERTIES
from bridge.failures import NOT_SUPPORTED
from bridge.queries import Queries
from kdbus.abi.revision import FINAL
from kdbus.dbus import service
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.kernel import DRIVER, DRIVER_PATH
from kdbus.dbus.trio import connect
from kdbus.dbus.values import Variant
from kdbus.errors import Error
from kdbus.flags import NameFlag

_LOG = logging.getLogger("bridge")


def _refused(member: str) -> ErrorReply:
    return ErrorReply(NOT_SUPPORTED, f"{member}: programs that speak kdbus have to do that by its own commands")


@service.interface(DRIVER)
class Driver:
    """The object, for everybody."""

    def __init__(self, queries: Queries, bus_id: str) -> None:
        self._queries = queries
        self._bus_id = bus_id

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
    def StartServiceByName(self, name: str, flags: int) -> int:
        return self._queries.start_service_by_name(name, flags)

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
        return list(PROPERTIES["Interfaces"].value)


@asynccontextmanager
async def offered(bus: str) -> AsyncIterator[None]:
    """Answer while the block runs. Where the name must not be owned, nobody answers. Raises Error."""
    async with connect(bus, revision=FINAL) as connection:
        driver = Driver(Queries(connection.peer), connection.peer.bus_id.hex())
        connection.objects.add(DRIVER_PATH, driver)
        try:
            connection.acquire_name(DRIVER, NameFlag.QUEUE)
        except Error as error:
            _LOG.warning("nobody answers for %s to programs that speak kdbus: %s", DRIVER, error)
        yield
