# SPDX-License-Identifier: GPL-2.0-or-later
"""Well-known names: who owns them, who waits for them, and what happens when they change hands.

A name has one owner. Others may wait in a queue, in the order in which they asked; when the owner gives the name up
or goes, the first in the queue gets it. An owner that allowed replacement loses the name to whoever asks to replace,
and is put at the end of the queue if it had asked for queuing itself. A name may also have an *activator*, a
connection that owns it whenever nobody else does, and in whose queue messages to the name wait meanwhile: they move
to the implementer that takes the name, and what it has not read comes back with the name when it goes.

Every acquisition of a new name by anybody gets a serial number, the *name id*, so that messages can be moved by the
name that they were addressed to.

What a claim to a name is, changed in the final revision: there, asking again changes the claim that one has, instead of
failing or adding a second one; a replaced owner that waits becomes the next; an activator gives up only messages to
the name. Which of the two holds is the revision of the connection that asks (`Behaviour.one_claim_per_name`).

Two rules of the original are mended here (docs/differences.md): there, messages never came back to the activator, as
the name id was not kept with the message; and a connection that waits for a name that it has come to own made the
kernel loop for ever.

Reference: ipc/kdbus/names.c, `kdbus_conn_move_messages` in connection.c.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from broker import bounds
from broker.errors import BadArgument, KdbusError, NameAlreadyOwned, NameTaken, NoSuchName, NotNameOwner, TooManyNames
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.bus import Bus
    from broker.connection import Connection


_ONE_NAME = "an activator has one name only"


class Waiter:
    """One place in the queue for a name."""

    __slots__ = ("connection", "entry", "flags")

    def __init__(self, connection: Connection, entry: NameEntry, flags: int) -> None:
        self.connection = connection
        self.entry = entry
        self.flags = flags


class NameEntry:
    """A name that somebody owns."""

    __slots__ = ("activator", "flags", "id", "name", "owner", "waiters")

    def __init__(self, name: bytes, entry_id: int, owner: Connection, flags: int) -> None:
        """`flags`: KDBUS_NAME_* of the present owner."""
        self.name = name
        self.id = entry_id
        self.owner = owner
        self.flags = flags
        self.activator: Connection | None = None
        # Not a list, in which leaving the queue takes the longer the more wait in it.
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()


class Claim(NamedTuple):
    """What NAME_ACQUIRE has led to: the flags that are kept; whether the name is owned, waited for, or neither (None);
    and whether that is new."""

    flags: int
    owned: bool | None
    new: bool


def _place(connection: Connection, entry: NameEntry | None) -> Waiter | None:
    """The place of the connection in the queue for a name, the first if it has several, None if it has none."""
    return next((waiter for waiter in connection.waiting_for if waiter.entry is entry), None)


class NameRegistry:
    """The names of one bus.

    Invariants: an entry is in its owner's `names` and in nobody else's; a waiter is in its entry's `waiters` and in
    its connection's `waiting_for`, or in neither.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._entries: dict[bytes, NameEntry] = {}
        self._last_id = 0

    def find(self, name: bytes) -> NameEntry | None:
        """The entry of a name that is owned."""
        return self._entries.get(name)

    def acquire(self, connection: Connection, name: bytes, flags: int) -> Claim:
        """Give `connection` the name, or a place in its queue, and say what it has now.

        Raises NameAlreadyOwned, NameTaken, TooManyNames (it has too many places already), BadArgument (an activator has
        one name only), or PoolFull when the activator's messages do not fit into the new owner's pool.
        """
        try:
            return self._acquire(connection, name, flags)
        finally:
            self._bus.notifications.flush()

    def _acquire(self, connection: Connection, name: bytes, flags: int) -> Claim:
        entry = self._entries.get(name)
        one_claim = connection.behaviour.one_claim_per_name
        kept = flags & connection.behaviour.stored_name_flags
        waiter = _place(connection, entry) if one_claim else None
        if waiter is not None:
            waiter.flags = kept
        if entry is None:
            self._create(connection, name, kept)
        elif entry.owner is connection:
            if not one_claim or connection.is_activator:
                raise NameAlreadyOwned(name=name)
            entry.flags = kept
            return Claim(kept, owned=True, new=False)
        elif connection.is_activator:
            self._add_activator(connection, entry)
        elif entry.flags & abi.NAME_ACTIVATOR and entry.activator is not None:
            connection.take_messages(entry.activator, entry.id if one_claim else None)
            self._change_owner(entry, connection, kept)
        elif flags & abi.NAME_REPLACE_EXISTING and entry.flags & abi.NAME_ALLOW_REPLACEMENT:
            if waiter is not None:
                self._dequeue(waiter)
            if entry.flags & abi.NAME_QUEUE and len(entry.owner.waiting_for) < bounds.WAITING_PER_CONNECTION:
                self._enqueue(entry.owner, entry, entry.flags, first=one_claim)
            self._change_owner(entry, connection, kept)
        elif flags & abi.NAME_QUEUE:
            if waiter is None:
                if len(connection.waiting_for) >= bounds.WAITING_PER_CONNECTION:
                    raise TooManyNames(count=len(connection.waiting_for), limit=bounds.WAITING_PER_CONNECTION)
                self._enqueue(connection, entry, kept)
            return Claim(kept, owned=False, new=waiter is None)
        elif waiter is not None:
            self._dequeue(waiter)
            return Claim(kept, owned=None, new=False)
        else:
            raise NameTaken(name=name, owner=entry.owner.id, allows=bool(entry.flags & abi.NAME_ALLOW_REPLACEMENT))
        return Claim(kept, owned=True, new=True)

    def _create(self, connection: Connection, name: bytes, flags: int) -> None:
        if connection.is_activator and connection.activator_of is not None:
            raise BadArgument(rule=_ONE_NAME)
        self._last_id += 1
        entry = NameEntry(name, self._last_id, connection, flags)
        if connection.is_activator:
            entry.activator = connection
            connection.activator_of = entry
        self._entries[name] = entry
        connection.names[name] = entry
        self._bus.notifications.name_change(Kind.NAME_ADD, (0, 0), (connection.id, flags), name)

    def _add_activator(self, connection: Connection, entry: NameEntry) -> None:
        """An activator comes for a name that has an owner: it will get the name when that one goes."""
        if connection.activator_of is entry:
            raise NameAlreadyOwned(name=entry.name)
        if connection.activator_of is not None:
            raise BadArgument(rule=_ONE_NAME)
        if entry.activator is None:
            entry.activator = connection
            connection.activator_of = entry
        elif connection.behaviour.one_claim_per_name:
            raise NameTaken(name=entry.name, activator=entry.activator.id)

    def _enqueue(self, connection: Connection, entry: NameEntry, flags: int, *, first: bool = False) -> None:
        waiter = Waiter(connection, entry, flags)
        entry.waiters[waiter] = None
        if first:
            entry.waiters.move_to_end(waiter, last=False)
        connection.waiting_for[waiter] = None

    def _dequeue(self, waiter: Waiter) -> None:
        del waiter.entry.waiters[waiter]
        del waiter.connection.waiting_for[waiter]

    def _change_owner(self, entry: NameEntry, owner: Connection, flags: int) -> None:
        self._bus.notifications.name_change(
            Kind.NAME_CHANGE, (entry.owner.id, entry.flags), (owner.id, flags), entry.name
        )
        del entry.owner.names[entry.name]
        entry.owner, entry.flags = owner, flags
        owner.names[entry.name] = entry

    def release(self, connection: Connection, name: bytes) -> None:
        """Give the name up, or the first place in its queue. Raises NoSuchName or NotNameOwner.

        If the name goes back to an activator whose pool cannot take the messages, PoolFull, and the name stays.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise NoSuchName(name=name)
        try:
            if entry.owner is connection:
                self._release(entry)
                return
        finally:
            self._bus.notifications.flush()
        waiter = _place(connection, entry)
        if waiter is None:
            raise NotNameOwner(name=name, owner=entry.owner.id)
        self._dequeue(waiter)

    def _release(self, entry: NameEntry) -> None:
        while entry.waiters:
            waiter = next(iter(entry.waiters))
            self._dequeue(waiter)
            if waiter.connection is not entry.owner:
                self._change_owner(entry, waiter.connection, waiter.flags)
                return
        if entry.activator is not None and entry.activator is not entry.owner:
            entry.activator.take_messages(entry.owner, entry.id)
            self._change_owner(entry, entry.activator, abi.NAME_ACTIVATOR)
            return
        self._bus.notifications.name_change(Kind.NAME_REMOVE, (entry.owner.id, entry.flags), (0, 0), entry.name)
        del entry.owner.names[entry.name]
        del self._entries[entry.name]

    def remove_connection(self, connection: Connection) -> None:
        """The connection goes: free its places in queues and its names, in the order in which it got them."""
        if connection.activator_of is not None:
            connection.activator_of.activator = None
            connection.activator_of = None
        for waiter in list(connection.waiting_for):
            self._dequeue(waiter)
        for entry in list(connection.names.values()):
            try:
                self._release(entry)
            except KdbusError:
                # The activator's pool is full. The owner is gone for good, so the name changes hands without the rest.
                if entry.activator is None:
                    raise
                self._change_owner(entry, entry.activator, abi.NAME_ACTIVATOR)
        self._bus.notifications.flush()
