# SPDX-License-Identifier: GPL-2.0-or-later
"""A D-Bus socket whose clients are on a bus of kdbus.

Clients beyond the limit are turned away at once, those that never say Hello after a while. One that fails takes nobody
along.
"""

from __future__ import annotations

import errno
import logging
import secrets
import socket
from typing import Final

import trio

from bridge.client import Client, Terms
from bridge.house import House

_LOG = logging.getLogger("bridge")
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BREATHER_S: Final = 0.1


def new_guid() -> str:
    """A random id for a socket."""
    return secrets.token_hex(16)


class Proxy:
    """Serves a listening socket."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._house = House(terms.policy, terms.reread, terms.reload_services)
        self._clients = 0
        self._until_fewer_strangers = trio.lowlevel.ParkingLot()

    async def serve(self, listening: trio.socket.SocketType) -> None:
        """Accept clients until this is cancelled; then all of them end. Raises OSError when the socket is of no use."""
        async with trio.open_nursery() as nursery:
            while True:
                # Who comes meanwhile waits in the socket's backlog, as with dbus-daemon.
                while self._house.strangers >= self._terms.limits.unauthenticated:
                    await self._until_fewer_strangers.park()
                try:
                    connection, _ = await listening.accept()
                except OSError as error:
                    if error.errno not in _SHORTAGE and error.errno != errno.ECONNABORTED:
                        raise
                    _LOG.warning("no client can be accepted: %s", error)
                    await trio.sleep(_BREATHER_S)
                    continue
                if self._clients >= self._terms.limits.clients:
                    _LOG.warning("a client was turned away: there are %d", self._clients)
                    connection.close()
                else:
                    self._clients += 1
                    self._house.strangers += 1
                    nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: trio.socket.SocketType) -> None:
        client = Client(socket.socket(fileno=connection.detach()), self._terms, self._house)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._know, client)
            try:
                await client.serve()
            except Exception:
                _LOG.exception("a client was cut off by a mistake of ours")
            finally:
                self._clients -= 1
                nursery.cancel_scope.cancel()

    async def _know(self, client: Client) -> None:
        """Count the client as known when it says Hello, or as gone."""
        try:
            await client.said_hello.wait()
        finally:
            self._house.strangers -= 1
            self._until_fewer_strangers.unpark()
