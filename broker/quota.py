# SPDX-License-Identifier: GPL-2.0-or-later
"""Quotas: how much one user may take of a domain, and of a receiver's queue.

Buses, custom endpoints and connections are counted for the real user who makes them. Connections through a custom
endpoint are counted for the endpoint instead: each has an anonymous user of its own, so that those who use it cannot
use up anybody's budget.

In a receiver's queue the first 16 messages are free, whoever sent them. While 16 or more wait, each further message
is charged to its sender's user, up to 16 each; the 17th is refused (ENOBUFS). A charge is returned when its message
leaves the queue. Notifications of the bus itself are never charged. Nobody can so fill a queue (256 messages) alone.

In the final revision it is memory that is shared (`ShareQuota`): one half of a pool is for messages that wait, and each
user may take a third of what the others leave of that half. Notifications are charged there, to a user of their own.
The other half is the receiver's, for results and what it has not freed.

Which of the two holds is the receiver's revision. A charge is an object held by the queue entry, so it cannot be
returned twice or to the wrong user. Reference: `kdbus_conn_queue_user_quota` in connection.c, limits.h;
final-revision.md, 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from broker import bounds, limits
from broker.errors import QueueFull, TooManyBuses, TooManyConnections, TooManyDescriptors


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
            raise TooManyBuses(user=self.uid, count=self.buses, limit=limits.BUSES_PER_USER, unit="buses")
        self.buses += 1

    def add_endpoint(self) -> None:
        """Count one more custom endpoint. Raises TooManyBuses."""
        if self.endpoints >= bounds.ENDPOINTS_PER_USER:
            limit = bounds.ENDPOINTS_PER_USER
            raise TooManyBuses(user=self.uid, count=self.endpoints, limit=limit, unit="endpoints")
        self.endpoints += 1

    def add_connection(self, limit: int = limits.CONNECTIONS_PER_USER) -> None:
        """Count one more connection, of `limit` at most. Raises TooManyConnections."""
        if self.connections >= limit:
            raise TooManyConnections(user=self.uid, count=self.connections, limit=limit)
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


class Quota(Protocol):
    """Either of the two, as far as a queue's messages are concerned."""

    def charge(self, user: User | None, waiting: int, size: int, files: int) -> Charge | ShareCharge | None:
        """Charge a message of `user` (None: the bus itself) to a queue in which `waiting` messages wait.

        `size`: bytes that it takes in the pool; `files`: descriptors that it carries. Returns None where nothing is
        charged. Raises QueueFull or TooManyDescriptors.
        """
        ...

    def record(self, user: User | None, size: int, files: int) -> Charge | ShareCharge:
        """A charge that has been decided already, elsewhere (`broker.lending`)."""
        ...


class QueueQuota:
    """What each user has been charged in one receiver's queue."""

    __slots__ = ("charged",)

    def __init__(self) -> None:
        self.charged: dict[User, int] = {}

    def charge(self, user: User | None, waiting: int, size: int, files: int) -> Charge | None:
        """See `Quota`. Raises QueueFull."""
        if user is None or waiting < limits.MESSAGES_UNACCOUNTED:
            return None
        if self.charged.get(user, 0) >= limits.MESSAGES_PER_USER:
            count, free = self.charged[user], limits.MESSAGES_UNACCOUNTED
            raise QueueFull(user=user.uid, count=count, limit=limits.MESSAGES_PER_USER, free=free)
        return self.record(user, size, files)

    def record(self, user: User | None, size: int, files: int) -> Charge:
        """See `Quota`; the bus itself is never charged."""
        assert user is not None
        self.charged[user] = self.charged.get(user, 0) + 1
        return Charge(self, user)

    def give_back(self, user: User) -> None:
        """Undo one charge."""
        count = self.charged[user] - 1
        if count:
            self.charged[user] = count
        else:
            del self.charged[user]


_MESSAGES_PER_USER = 256
_MOST_BYTES = (1 << 32) - 1


@dataclass(slots=True)
class _Share:
    """What one user has in a queue."""

    size: int = 0
    messages: int = 0
    files: int = 0


class ShareCharge:
    """One message's memory and descriptors, charged to a user in one queue."""

    __slots__ = ("_files", "_quota", "_size", "user")

    def __init__(self, quota: ShareQuota, user: User | None, size: int, files: int) -> None:
        self._quota: ShareQuota | None = quota
        self._size = size
        self._files = files
        self.user = user

    def give_back(self) -> None:
        """Return the charge; further calls do nothing."""
        if self._quota is not None:
            self._quota.give_back(self.user, self._size, self._files)
            self._quota = None


class ShareQuota:
    """What each user has of one receiver's pool. `used`: bytes of all messages that wait, whosever they are."""

    __slots__ = ("_half", "_shares", "used")

    def __init__(self, pool_size: int) -> None:
        self._half = pool_size // 2
        self._shares: dict[User | None, _Share] = {}
        self.used = 0

    def charge(self, user: User | None, waiting: int, size: int, files: int) -> ShareCharge:
        """See `Quota`. Raises QueueFull (ENOBUFS) or TooManyDescriptors (EMFILE)."""
        share = self._shares.get(user) or _Share()
        uid = None if user is None else user.uid
        if self._half < self.used:
            raise QueueFull(user=uid, used=self.used, limit=self._half)
        most = (self._half - self.used + share.size) // 3
        if most - share.size < size or share.size + size > _MOST_BYTES:
            raise QueueFull(user=uid, used=share.size, limit=most, size=size)
        if share.messages >= _MESSAGES_PER_USER:
            raise QueueFull(user=uid, count=share.messages, limit=_MESSAGES_PER_USER)
        if share.files + files > limits.DESCRIPTORS_PER_USER:
            raise TooManyDescriptors(user=uid, count=share.files + files, limit=limits.DESCRIPTORS_PER_USER)
        return self.record(user, size, files)

    def record(self, user: User | None, size: int, files: int) -> ShareCharge:
        """See `Quota`."""
        share = self._shares.setdefault(user, _Share())
        share.size += size
        share.messages += 1
        share.files += files
        self.used += size
        return ShareCharge(self, user, size, files)

    def give_back(self, user: User | None, size: int, files: int) -> None:
        """Undo one charge."""
        share = self._shares[user]
        share.size -= size
        share.messages -= 1
        share.files -= files
        self.used -= size
        if not share.messages:
            del self._shares[user]
