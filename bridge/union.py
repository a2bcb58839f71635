# SPDX-License-Identifier: GPL-2.0-or-later
"""A bus of kdbus and the bus of a D-Bus daemon as one: what `kdbus bridge` does.

For who is heard of on the other side there is a stand-in (`bridge.stand_ins`): for owners of well-known names at once,
for others when they first say something to the other side. Beside these there are three connections: the *ear* at the
daemon hears all signals to everybody, and what becomes of names; the *hub* does so on the bus; another one asks the
daemon questions.

*No loops.* What our own connections say or own is not passed on.

*What can be started.* What the daemon can start has activators on the bus (`bridge.startable`). What activators on the
bus can start, a connection at the daemon holds the names of, which stands in for all of them. Who is started takes the
name from it, and it waits in the queue behind him. A name that both sides can start, each starts for itself.

*Names* of one side are requested by the stand-in of their owner on the other, and it waits in the queue where somebody
has them there. So if both sides have a name, each has its own, and when one goes, the other is everybody's. The driver,
and `kdbus.Activator`, are each side's own.

*Ends.* When somebody goes, what he had said has to arrive first, on whatever connection it is. Then his stand-in goes.

*Whom it speaks for.* At the daemon a stand-in is this process, for policies and for credentials, unless this is root's:
then it connects as the original's user (`bridge.identity`). On kdbus it is in the original's name, where this process
may say so, but with this process's rights. So it stands for who has the same rights, and for others only if it is told
to. The owner of a bus can claim there to be anybody: on another's bus than root's everybody is its owner for root.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

import kdbus.trio
from bridge.activation import ACTIVATOR
from bridge.daemon import Daemon, Ended, Unreachable, connect
from bridge.daemon import Received as Heard
from bridge.failures import ACCESS_DENIED, LIMITS_EXCEEDED
from bridge.identity import Identity, may_be_others
from bridge.limits import DEFAULTS, Limits
from bridge.stand_ins import HOLDER, OnBus, OnDaemon, read
from bridge.startable import Startable
from bridge.threads import compute
from kdbus.abi.revision import FINAL
from kdbus.dbus.errors import DBusError, ErrorReply
from kdbus.dbus.kernel import DRIVER
from kdbus.dbus.message import Message, MessageType
from kdbus.errors import Denied, Disconnected, Error, NotFound
from kdbus.errors import Malformed as Contradictory
from kdbus.flags import Attach, HelloFlag, ListFlag, NameFlag
from kdbus.matches import Bloom, IdLeaves, NameAppears, NameChangesHands, NameVanishes, ToId
from kdbus.nodes import ROOT
from kdbus.received import Descriptor
from kdbus.received import Message as Received
from kdbus.values import Credentials, IdChange, NameChange, Pids

_NOT_SHARED: Final = frozenset({DRIVER, ACTIVATOR})
_OF_SENDERS: Final = Attach.CREDS | Attach.NAMES
"""What a stand-in on the bus is told with each message."""
_ALLOW_REPLACEMENT: Final = 1
_REPLACE_EXISTING: Final = 2
_GONE: Final = 4096
"""Clients of the daemon that have gone, of which something may still come."""
_LOG = logging.getLogger("bridge")


class Union:
    """Both buses. `run` works; `bus` as for `kdbus.connect`, `address` is the daemon's."""

    def __init__(self, bus: str, address: str, *, all_users: bool = False, limits: Limits = DEFAULTS) -> None:
        self._bus = bus
        self._address = address
        self._all_users = all_users
        self._limits = limits
        self._on_daemon: dict[int, OnDaemon] = {}
        self._on_bus: dict[str, OnBus] = {}
        self._own_names: set[str] = set()
        self._own_ids: set[int] = set()
        self._held: set[str] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._making = trio.Lock()
        self._hub_taking = trio.Lock()
        self._ear_taking = trio.Lock()
        self._ear_idle = trio.Event()
        self._ear_busy = False

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until one of the buses ends, or this is cancelled. `ready` is called when each has the other's names.

        Raises Unreachable for the daemon, Error for the bus.
        """
        self._ear = await self._connect()
        self._ear.before_waiting = self._tell_idle
        self._asker = await self._connect()
        with kdbus.trio.connect(self._bus, revision=FINAL, attach_receive=Attach.CREDS) as self._hub:
            self._startable = Startable(self._bus, self._asker, self._has_appeared)
            self._own_ids.add(self._hub.id)
            made = os.stat(self._bus if "/" in self._bus else f"{ROOT}/{self._bus}/bus")
            self._owner, self._owner_group = made.st_uid, made.st_gid
            try:
                async with trio.open_nursery() as self._nursery:
                    await self._begin(ready)
            except* (Ended, Disconnected, OSError) as group:
                _LOG.debug("ended: %s", group)
            finally:
                for each in (self._ear, self._asker, *(each.daemon for each in self._on_daemon.values())):
                    each.close()
                for stand_in in self._on_bus.values():
                    stand_in.close()

    async def _connect(self, identity: Identity | None = None) -> Daemon:
        daemon = await connect(self._address, self._limits, identity)
        self._own_names.add(daemon.name)
        return daemon

    async def _begin(self, ready: Callable[[], None]) -> None:
        """Listen on both sides, and have each know the other's names."""
        self._nursery.start_soon(self._ear.write_all)
        self._nursery.start_soon(self._asker.write_all)
        self._nursery.start_soon(self._take_answers)
        added: list[Message | None] = []
        self._ear.call(added.append, "AddMatch", "s", "type='signal'")
        while not added:
            self._ear.answered((await self._ear.receive()).message)
        for match in (Bloom([bytes(self._hub.bloom.size)]), NameAppears(), NameVanishes(), NameChangesHands()):
            self._hub.add_match(match)
        self._hub.add_match(IdLeaves())
        async with self._ear_taking, self._hub_taking:
            # What happens meanwhile is taken up afterwards, and ends where it has to.
            self._nursery.start_soon(self._hear)
            self._nursery.start_soon(self._watch)
            (listed,) = await self._asker.ask("ListNames")
            for name in listed:
                if not name.startswith(":") and name not in _NOT_SHARED:
                    try:
                        (owner,) = await self._asker.ask("GetNameOwner", "s", name)
                    except ErrorReply:
                        continue
                    await self._owned_on_daemon(name, "", owner)
            await self._startable.refresh(self._nursery, _NOT_SHARED)
            for entry in self._hub.list_names(ListFlag.NAMES | ListFlag.ACTIVATORS):
                if entry.name and entry.flags & HelloFlag.ACTIVATOR:
                    await self._can_be_started(entry.name, entry.id)
                elif entry.name:
                    await self._owned_on_bus(entry.name, 0, entry.id)
        for stand_in in list(self._on_daemon.values()):
            await stand_in.settle()
        ready()

    async def _take_answers(self) -> None:
        while True:
            self._asker.answered((await self._asker.receive()).message)

    # ---- the daemon's side

    async def _hear(self) -> None:
        """Take what the daemon tells everybody. Raises Ended, OSError or DBusError."""
        while True:
            received = await self._ear.receive()
            self._ear_busy = True
            async with self._ear_taking:
                try:
                    await self._heard(received)
                except ErrorReply as reason:
                    _LOG.info("not passed on: %s", reason.text)
                finally:
                    for descriptor in received.descriptors:
                        descriptor.close()
            self._ear_busy = False

    def _tell_idle(self) -> None:
        """The ear has heard all that there is, or a part of a message."""
        if not self._ear.has_more:
            self._ear_idle.set()
            self._ear_idle = trio.Event()

    async def _heard(self, received: Heard) -> None:
        """Raises ErrorReply."""
        message = received.message
        if self._ear.answered(message):
            return
        if message.type != MessageType.SIGNAL or message.destination is not None or message.sender is None:
            return
        if message.sender != DRIVER:
            if message.sender not in self._own_names:
                stand_in = await self._of_client(message.sender)
                await stand_in.say(message, received.descriptors, large=received.large, via=None)
            return
        if message.member == "ActivatableServicesChanged":
            await self._startable.refresh(self._nursery, _NOT_SHARED)
        if (message.member, message.signature) != ("NameOwnerChanged", "sss"):
            return
        name, old, new = message.body
        if not name.startswith(":"):
            if name not in _NOT_SHARED:
                await self._owned_on_daemon(name, old, new)
        elif not new and name in self._own_names:
            self._own_names.remove(name)
        elif not new:
            self._gone[name] = None
            if len(self._gone) > _GONE:
                self._gone.popitem(last=False)
            if name in self._on_bus:
                self._nursery.start_soon(self._part_with_client, name)

    async def _owned_on_daemon(self, name: str, old: str, new: str) -> None:
        """A name of the daemon's changed hands."""
        if old in self._on_bus:
            self._on_bus[old].release_name(name)
        if new and new not in self._own_names:
            try:
                stand_in = await self._of_client(new)
                if not stand_in.acquire_name(name) and self._hub.info(name, Attach.NONE).id not in self._own_ids:
                    _LOG.warning("%s is owned on both sides: each has its own", name)
            except Error as error:
                _LOG.debug("%s has gone meanwhile: %s", name, error)
            except ErrorReply as reason:
                _LOG.warning("%s is not to be had on the bus: %s", name, reason.text)

    async def _ear_caught_up(self) -> None:
        while self._ear_busy or self._ear.has_more:
            await self._ear_idle.wait()

    async def _part_with_client(self, name: str) -> None:
        """A client has gone: pass on what is left of it."""
        for each in list(self._on_daemon.values()):
            await each.settle()
        stand_in = self._on_bus.get(name)
        if stand_in is not None:
            try:
                await stand_in.finish()
            except Error as error:
                _LOG.debug("%s has ended: %s", name, error)
            stand_in.scope.cancel()

    async def _of_client(self, name: str) -> OnBus:
        """The stand-in on the bus. Raises ErrorReply."""
        async with self._making:
            if name not in self._on_bus:
                self._on_bus[name] = made = await self._new_on_bus(name)
                self._nursery.start_soon(self._serve_on_bus, made)
                if name in self._gone:
                    self._nursery.start_soon(self._part_with_client, name)
            return self._on_bus[name]

    async def _new_on_bus(self, name: str) -> OnBus:
        found = {}
        try:
            (found,) = await self._asker.ask("GetConnectionCredentials", "s", name)
        except ErrorReply as reason:
            # It has gone, and has left a message.
            _LOG.debug("%s: %s", name, reason.text)
        user = found["UnixUserID"].value if "UnixUserID" in found else None
        self._check(user)
        process = found["ProcessID"].value if "ProcessID" in found else 0
        groups = found["UnixGroupIDs"].value if "UnixGroupIDs" in found else []
        try:
            peer = self._new_peer(user, groups[0] if groups else 0xFFFFFFFF, process)
        except Error as error:
            raise ErrorReply(LIMITS_EXCEEDED, f"kdbus gives no connection: {error.meaning}") from error
        self._own_ids.add(peer.id)
        peer.add_match(ToId(peer.id))
        return OnBus(peer, name, self._limits, self._of_connection, self._startable, self._is_of_bus)

    def _is_of_bus(self, identifier: int, *_: object) -> bool:
        """Whether that is no connection of ours."""
        return identifier not in self._own_ids

    def _new_peer(self, user: int | None, group: int, process: int) -> kdbus.trio.Connection:
        """A connection in somebody's name, if we may. Raises Error."""
        if user is not None:
            creds = Credentials(user, user, user, user, group, group, group, group)
            try:
                pids = Pids(process, process, 0)
                return kdbus.trio.connect(self._bus, revision=FINAL, attach_receive=_OF_SENDERS, creds=creds, pids=pids)
            except Denied:
                pass
        return kdbus.trio.connect(self._bus, revision=FINAL, attach_receive=_OF_SENDERS)

    async def _serve_on_bus(self, stand_in: OnBus) -> None:
        try:
            with stand_in.scope:
                await stand_in.serve(self._hub_caught_up)
        except (Error, trio.ClosedResourceError, OSError) as error:
            _LOG.debug("%s has ended: %s", stand_in.name, error)
        self._on_bus.pop(stand_in.name, None)
        stand_in.close()
        for each in self._on_daemon.values():
            each.forget(stand_in.name)

    # ---- the bus's side

    async def _watch(self) -> None:
        """Take what the bus tells everybody. Raises Disconnected, or another Error."""
        while True:
            await trio.lowlevel.wait_readable(self._hub.fileno())
            await self._hub_caught_up()

    async def _hub_caught_up(self) -> None:
        async with self._hub_taking:
            while True:
                try:
                    origin = self._hub.receive_nowait()
                except Contradictory:
                    continue
                if origin is None:
                    return
                with origin:
                    try:
                        await self._seen(origin)
                    except (DBusError, ErrorReply) as reason:
                        _LOG.info("not passed on: %s", reason)

    async def _seen(self, origin: Received) -> None:
        """Raises DBusError or ErrorReply."""
        change = origin.notification
        if isinstance(change, NameChange):
            self._startable.changed(change)
            hidden = NameFlag.ACTIVATOR | NameFlag.IN_QUEUE
            old = 0 if change.old_flags & hidden else change.old_id
            new = 0 if change.new_flags & hidden else change.new_id
            await self._owned_on_bus(change.name, old, new)
            if change.new_flags & NameFlag.ACTIVATOR:
                await self._can_be_started(change.name, change.new_id)
            elif not change.new_id and change.name in self._held:
                self._held.remove(change.name)
                if HOLDER in self._on_daemon:
                    self._on_daemon[HOLDER].release_name(change.name)
        elif isinstance(change, IdChange):
            self._own_ids.discard(change.id)
            if change.id in self._on_daemon:
                self._nursery.start_soon(self._part_with_connection, change.id)
        elif change is None and origin.sender not in self._own_ids:
            large = sum(map(len, origin.views)) > self._limits.on_loop
            message = await compute(large, read, origin)
            if message.type == MessageType.SIGNAL and (origin.is_broadcast or message.destination is None):
                stand_in = await self._of_connection(origin.sender, origin.metadata.creds)
                await stand_in.say(message, [Descriptor(each.take()) for each in origin.descriptors], None)

    async def _owned_on_bus(self, name: str, old: int, new: int) -> None:
        """A name of the bus's changed hands."""
        if name in _NOT_SHARED:
            return
        if old in self._on_daemon:
            self._on_daemon[old].release_name(name)
        if new and new not in self._own_ids:
            try:
                stand_in = await self._of_connection(new, None)
                stand_in.request_name(name, _REPLACE_EXISTING if name in self._held else 0)
            except ErrorReply as reason:
                _LOG.warning("%s is not to be had of the daemon: %s", name, reason.text)

    async def _can_be_started(self, name: str, activator: int) -> None:
        """A connection of the bus is the activator of a name."""
        if name in _NOT_SHARED or name in self._held or activator in self._startable.ids:
            return
        if name in self._startable.listed:
            return
        if HOLDER not in self._on_daemon:
            try:
                self._new_on_daemon(await self._connect(), HOLDER)
            except Unreachable as error:
                _LOG.warning("%s cannot be started from the daemon: %s", name, error)
                return
        self._held.add(name)
        self._on_daemon[HOLDER].request_name(name, _ALLOW_REPLACEMENT)

    async def _has_appeared(self, name: str) -> bool:
        """Whether somebody but an activator has the name on the bus, when what the daemon has told by now is done."""
        with suppress(Ended, ErrorReply):
            await self._ear.ask("GetId")
        await self._hub_caught_up()
        try:
            return not self._hub.info(name, Attach.NONE).flags & HelloFlag.ACTIVATOR
        except NotFound:
            return False

    async def _part_with_connection(self, identifier: int) -> None:
        """A connection has gone: pass on what is left of it."""
        for each in list(self._on_bus.values()):
            try:
                await each.drain()
            except Error as error:
                _LOG.debug("%s has ended: %s", each.name, error)
        if identifier in self._on_daemon:
            # It has given its names up: what comes later comes elsewhere.
            await self._on_daemon[identifier].settle()
        if identifier in self._on_daemon:
            await self._on_daemon[identifier].owes_nothing()
        if identifier in self._on_daemon:
            self._on_daemon[identifier].scope.cancel()

    async def _of_connection(self, identifier: int, creds: Credentials | None) -> OnDaemon:
        """The stand-in at the daemon. `creds`: of the connection, if a message has told. Raises ErrorReply."""
        async with self._making:
            if identifier not in self._on_daemon:
                present, groups = True, frozenset[int]()
                try:
                    # Messages do not have those that are claimed, as by a proxy for its clients.
                    told = self._hub.info(identifier, Attach.CREDS | Attach.AUXGROUPS).metadata
                    creds, groups = told.creds or creds, frozenset(told.auxgroups or ())
                except Error:
                    present = False
                try:
                    daemon = await self._connect_for(creds, groups)
                except Unreachable as error:
                    raise ErrorReply(LIMITS_EXCEEDED, f"the daemon gives no connection: {error}") from error
                self._new_on_daemon(daemon, identifier)
                if not present:
                    self._nursery.start_soon(self._part_with_connection, identifier)
            return self._on_daemon[identifier]

    async def _connect_for(self, creds: Credentials | None, groups: frozenset[int]) -> Daemon:
        """A connection to the daemon for who has these. Raises ErrorReply or Unreachable."""
        if creds is not None and self._owner != 0 and os.geteuid() == 0:
            creds, groups = Credentials(*[self._owner] * 4, *[self._owner_group] * 4), frozenset()
        if creds is not None and creds.euid != 0 and may_be_others():
            try:
                return await self._connect(Identity(creds.euid, creds.egid, sorted(groups)))
            except Unreachable:
                if not self._all_users:
                    raise
        self._check(None if creds is None else creds.euid)
        return await self._connect()

    def _new_on_daemon(self, daemon: Daemon, identifier: int) -> OnDaemon:
        made = OnDaemon(daemon, identifier, self._limits, self._of_client, self._held)
        self._on_daemon[identifier] = made
        self._nursery.start_soon(self._serve_on_daemon, made)
        return made

    async def _serve_on_daemon(self, stand_in: OnDaemon) -> None:
        async def serve() -> None:
            try:
                await stand_in.serve(self._ear_caught_up)
            finally:
                nursery.cancel_scope.cancel()

        try:
            with stand_in.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stand_in.daemon.write_all)
                    nursery.start_soon(serve)
        except* (Ended, DBusError, OSError) as group:
            _LOG.info("connection %d is not seen at the daemon any more: %s", stand_in.id, group.exceptions[0])
        self._on_daemon.pop(stand_in.id, None)
        stand_in.daemon.close()
        for each in self._on_bus.values():
            each.forget(stand_in.id)

    def _check(self, user: int | None) -> None:
        """Raise ErrorReply if we do not speak for somebody of that user; None: nobody knows, as it has gone. On the bus
        of an ordinary user it cannot be of another, but for root."""
        if not self._all_users and (os.geteuid() == 0 if user is None else user not in (0, os.geteuid())):
            who = "somebody who went before it could be asked" if user is None else f"uid {user}"
            raise ErrorReply(ACCESS_DENIED, f"the bridge does not speak for {who} (--all-users)")
