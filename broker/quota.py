# SPDX-License-Identifier: GPL-2.0-or-later
"""Quotas: how much one user may take of a domain, and of a receiver's queue.

Buses, custom endpoints and connections are counted for the real user who makes them. Connections through a custom
endpoint are counted for the endpoint instead: each has an anonymous user of its own, so that those who use it cannot
use up anybody's budget.

In a receiver's queue the first 16 messages are free, whoever sent them. While 16 or more wait, each further message
is charged to its sender's user, up to 16 each; the 17th is refused (ENOBUFS). A charge is returned when its message
leaves the queue. Notifications of the bus itself are never charged. Nobody can so fill a queue (256 messages) alone.

A charge is an object held by the queue entry, so it cannot be returned twice or to the wrong user. Reference:
`kdbus_conn_queue_user_quota` in connection.c, limits.h.
"""

from __future__ import annotations

from broker import bounds, limits
from broker.errors import QueueFull, TooManyBuses, TooManyConnections


class User:
    """A user of a domain, or the anonymous user of a custom endpoint."""

    __slots__ = ("buses", "connections", "endpoints", "uid")

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.buses = 0
        self.connections = 0
        self.endpoints = 0

    def add_bus(self) -> None:
        """Count one more bus. Raises TooManyBuses."""
        if self.buses >= limits.BUSES_PER_USER:
            raise TooManyBuses
        self.buses += 1

    def add_endpoint(self) -> None:
        """Count one more custom endpoint. Raises TooManyBuses."""
        if self.endpoints >= bounds.ENDPOINTS_PER_USER:
            raise TooManyBuses
        self.endpoints += 1

    def add_connection(self) -> None:
        """Count one more connection. Raises TooManyConnections."""
        if self.connections >= limits.CONNECTIONS_PER_USER:
            raise TooManyConnections
        self.connections += 1


class Charge:
    """One message charged to a user in one queue."""

    __slots__ = ("_quota", "user")

    def __init__(self, quota: QueueQuota, user: User) -> None:
        self._quota: QueueQuota | None = quota
        self.user = user

    def give_back(self) -> None:
        """Return the charge; further calls do nothing."""
        if self._quota is not None:
            self._quota.give_back(self.user)
            self._quota = None


class QueueQuota:
    """What each user has been charged in one receiver's queue."""

    __slots__ = ("charged",)

    def __init__(self) -> None:
        self.charged: dict[User, int] = {}

    def charge(self, user: User | None, waiting: int) -> Charge | None:
        """Charge a message of `user` (None: the bus itself) to a queue in which `waiting` messages wait.

        Returns None where nothing is charged. Raises QueueFull.
        """
        if user is None or waiting < limits.MESSAGES_UNACCOUNTED:
            return None
        if self.charged.get(user, 0) >= limits.MESSAGES_PER_USER:
            raise QueueFull
        return self.record(user)

    def record(self, user: User) -> Charge:
        """A charge that has been decided already."""
        self.charged[user] = self.charged.get(user, 0) + 1
        return Charge(self, user)

    def give_back(self, user: User) -> None:
        """Undo one charge."""
        count = self.charged[user] - 1
        if count:
            self.charged[user] = count
        else:
            del self.charged[user]
