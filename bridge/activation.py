# SPDX-License-Identifier: GPL-2.0-or-later
"""Activation on a bus: an activator for each name that there is a program for (`bridge.activated`).

What systemd was to kdbus, of which it started services. This is an ordinary program on the bus, whose user has to be
the bus's, as only the owner may make activators. Beside them it has a connection of its own that tells what becomes of
names, owns `kdbus.Activator`, so that there is one activation on a bus, and takes over environments.

*Environment.* A program gets ours, DBUS_STARTER_ADDRESS, what somebody has set with UpdateActivationEnvironment, and
what its file says, where a later one counts. Its output goes where ours goes. It has a session of its own: what is
typed at our terminal is not for it. When activation ends, so do the programs that it has started.

*Changes.* When something changes in the folders, they are read once more. A name that is new gets an activator, one
that is no longer there loses it, once nothing is being started for it; what runs goes on. What a file says of the
program counts from the next start on. Where it says something else of the name itself, the activator is made anew.

*Refusals.* Who waits for a reply that will not come gets a signal `Failed` before kdbus says so, with the cookie of its
call and the error of D-Bus. As a signal to one receiver, it reaches only those who have asked for signals to them, as
the clients of a proxy have; for others it is enough that there is no reply.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, TypedDict

import trio

import kdbus.trio
from bridge.activatable import Activatable, account, found
from bridge.activated import Activated, Patience, Program, end
from bridge.failures import ACCESS_DENIED, INVALID_ARGS
from bridge.folder_watch import FolderWatch
from kdbus.abi.revision import FINAL
from kdbus.dbus import service
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import MessageType, signal
from kdbus.dbus.names import unique_name
from kdbus.dbus.service import Objects
from kdbus.dbus.transport import Delivery, Transport, machine_id
from kdbus.dbus.version2 import build
from kdbus.errors import Disconnected, Error, Exists, Malformed
from kdbus.flags import Attach, HelloFlag, NameFlag
from kdbus.matches import NameChangesHands
from kdbus.values import NameChange, Policy

ACTIVATOR: Final = "kdbus.Activator"
"""The name of whoever starts programs on a bus, and the interface of what it can be asked and says."""
ACTIVATOR_PATH: Final = "/kdbus/Activator"
REFUSED: Final = "Failed"
"""The signal to a caller that gets no reply."""
_END_SECONDS: Final = 5.0
"""Until a program that is asked to end is killed."""

_LOG = logging.getLogger("bridge")


class AlreadyActivated(Exception):
    """Somebody activates on this bus already; the text says who."""


@service.interface(ACTIVATOR)
class _Settings:
    """What can be asked for over the bus."""

    Failed = service.Signal("tss", "cookie", "name", "text")

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    @service.method("a{ss}", "")
    def UpdateActivationEnvironment(self, environment: dict[str, str]) -> None:
        wrong = [key for key in environment if not key or "=" in key]
        if wrong:
            raise ErrorReply(INVALID_ARGS, f"{wrong[0]!r} is no name of a variable")
        self._environment.update(environment)


@dataclass(slots=True)
class _Held:
    """A name, by its activator's connection, or that of a policy holder, which has nothing to start."""

    wanted: Activatable
    connection: kdbus.trio.Connection
    activated: Activated | None


class Activation:
    """Holds the names on one bus; `activation` makes one. `ended`: the bus has gone."""

    def __init__(
        self,
        peer: kdbus.trio.Connection,
        bus: str,
        folders: Sequence[str],
        environment: Mapping[str, str],
        patience: Patience,
    ) -> None:
        """Holds nothing yet. To be closed."""
        self._peer = peer
        self._folders = folders
        self._watch = _new_watch()
        self._environment = dict(environment)
        self._bus = bus
        self._patience = patience
        self._transport = Transport(peer)
        self._objects = Objects(machine_id)
        self._objects.add(ACTIVATOR_PATH, _Settings(self._environment))
        self._wanted: dict[str, Activatable] = {}
        self._held: dict[str, _Held] = {}
        self._children: set[trio.Process] = set()
        self._nursery: trio.Nursery | None = None
        self._cookie = 0
        self.ended = trio.Event()

    def close(self) -> None:
        """Let all names go."""
        for held in self._held.values():
            held.connection.close()
        if self._watch is not None:
            self._watch.close()

    # ---- names

    def load(self) -> None:
        """Read the folders for the first time. Raises Error if a name cannot be held, unless another activator has
        it."""
        self._read()
        for wanted in self._wanted.values():
            self._hold(wanted)

    def reload(self) -> None:
        """Read the folders once more. What cannot be held is logged. Raises Disconnected when the bus has gone."""
        self._read()
        for name in dict.fromkeys((*self._held, *self._wanted)):
            self._settle(name)

    def _read(self) -> None:
        """See what is wanted, having begun to watch for changes before."""
        if self._watch is not None:
            for error in self._watch.watch(self._folders):
                _LOG.warning("changes in the folder %s are not noticed: %s", error.filename, error.strerror)
        self._wanted = {each.name: each for each in found(self._folders)}

    def _settle(self, name: str) -> None:
        """Do what has to be done about a name that is held, or wanted, or both."""
        held, wanted = self._held.get(name), self._wanted.get(name)
        if held is not None and wanted is not None and _kind(held.wanted) == _kind(wanted):
            held.wanted = wanted
            if held.activated is not None:
                held.activated.wanted = wanted
            return
        if held is not None and held.activated is not None and not held.activated.retire():
            # `_serve` comes back here.
            return
        if held is not None:
            held.connection.close()
            del self._held[name]
        if wanted is not None:
            try:
                self._hold(wanted)
            except Disconnected:
                raise
            except Error as error:
                _LOG.warning("%s is left out: %s", wanted.source, error)

    def _hold(self, wanted: Activatable) -> None:
        """Make the activator of a name, or a policy holder where there is nothing to start. Raises Error."""
        kind = HelloFlag.ACTIVATOR if wanted.activating else HelloFlag.POLICY_HOLDER
        accepts = HelloFlag.ACCEPT_FD if wanted.accepts_descriptors else HelloFlag.NONE
        try:
            starter = kdbus.trio.connect(
                self._bus,
                revision=FINAL,
                flags=kind | accepts,
                attach_receive=Attach.ALL,
                description="activator",
                policies=[Policy(wanted.name, wanted.rules)],
            )
        except Exists as error:
            _LOG.warning("%s is left out: %s", wanted.source, error)
            return
        activated = None
        if wanted.activating:
            activated = Activated(
                wanted, starter, spawn=self._spawn, refuse=self._refuse, look=self._look, patience=self._patience
            )
        held = self._held[wanted.name] = _Held(wanted, starter, activated)
        if self._nursery is not None:
            self._serve_in(self._nursery, held)

    def _serve_in(self, nursery: trio.Nursery, held: _Held) -> None:
        if held.activated is not None:
            nursery.start_soon(self._serve, held, held.activated)

    async def _serve(self, held: _Held, activated: Activated) -> None:
        """Start the program of a name, until the name is no longer wanted as it was."""
        await activated.serve()
        if self._held.get(held.wanted.name) is held:
            held.connection.close()
            del self._held[held.wanted.name]
            self._settle(held.wanted.name)

    # ---- work

    async def run(self) -> None:
        """Work until the bus ends, or this is cancelled; then nothing that was started is left."""
        try:
            async with trio.open_nursery() as self._nursery:
                for held in self._held.values():
                    self._serve_in(self._nursery, held)
                if self._watch is not None:
                    self._nursery.start_soon(self._heed_changes, self._watch)
                while True:
                    await trio.lowlevel.wait_readable(self._peer.fileno())
                    self._look()
        except* Disconnected:
            _LOG.debug("the bus has gone")
        finally:
            self.ended.set()
            with trio.CancelScope(shield=True):
                await self._end_all()

    async def _heed_changes(self, watch: FolderWatch) -> None:
        while True:
            await watch.changed()
            self.reload()

    # ---- programs

    async def _spawn(self, wanted: Activatable) -> Program:
        """Start a program. Raises OSError."""
        assert self._nursery is not None and wanted.command is not None
        if not wanted.command or "/" not in wanted.command[0]:
            # As dbus-daemon, which does not look for it in PATH.
            raise FileNotFoundError(2, "no path of a program")
        _LOG.info("starting %s for %s", wanted.command[0], wanted.name)
        try:
            process = await trio.lowlevel.open_process(
                list(wanted.command),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=wanted.folder,
                env={**self._environment, **wanted.environment},
                **_as_user(wanted.user),
            )
        except subprocess.SubprocessError as error:
            raise OSError(5, str(error)) from error
        self._children.add(process)
        self._nursery.start_soon(self._await_end, process)
        return Program(wanted.name, process)

    async def _await_end(self, process: trio.Process) -> None:
        await process.wait()
        self._children.discard(process)

    async def _end_all(self) -> None:
        for process in self._children:
            end(process)
        with trio.move_on_after(_END_SECONDS):
            for process in self._children:
                await process.wait()
        for process in self._children:
            process.kill()
            await process.wait()

    # ---- what the bus says

    def _look(self) -> None:
        """Take all that has come. Raises Error."""
        while True:
            try:
                message = self._peer.receive_nowait()
            except Malformed as error:
                _LOG.debug("ignored: %s", error)
                continue
            if message is None:
                return
            change = message.notification
            if isinstance(change, NameChange):
                message.release()
                held = self._held.get(change.name)
                if held is not None and held.activated is not None and not change.new_flags & NameFlag.ACTIVATOR:
                    held.activated.name_taken()
                continue
            delivery = self._transport.delivery(message)
            if delivery is not None and delivery.message.type == MessageType.METHOD_CALL:
                self._answer(delivery)

    def _answer(self, request: Delivery) -> None:
        action = self._objects.action(request.message)
        outcome: object
        try:
            if not self._is_owner(request.origin.sender):
                raise ErrorReply(ACCESS_DENIED, "that is for the owner of the bus")
            outcome = action.run()
        except Exception as error:
            outcome = error
        self._transport.finish(request, action, outcome)

    def _is_owner(self, sender: int) -> bool:
        """Whether a connection is ours, or root's. It is asked for, as messages of a proxy's clients do not tell."""
        try:
            creds = self._peer.info(sender, Attach.CREDS).metadata.creds
        except Error:
            return False
        return creds is not None and creds.euid in (0, os.geteuid())

    def _refuse(self, whom: int, cookie: int, reason: ErrorReply) -> None:
        """Tell a caller why there will be no reply."""
        _LOG.warning("%s", reason.text)
        self._cookie += 1
        said = signal(
            *(ACTIVATOR_PATH, ACTIVATOR, REFUSED, "tss", (cookie, reason.name, reason.text)),
            destination=unique_name(whom),
        )
        # Of a filter without bits, nobody has to find anything in it.
        bloom = bytes(self._peer.bloom.size)
        with suppress(Error):
            self._peer.signal(
                build(replace(said, cookie=self._cookie), order=sys.byteorder),
                bloom=bloom,
                destination=whom,
                cookie=self._cookie,
            )


def _kind(wanted: Activatable) -> tuple[object, ...]:
    """What the connection that holds a name was made with."""
    return wanted.activating, wanted.rules, wanted.accepts_descriptors


def _new_watch() -> FolderWatch | None:
    """None, which is logged, if there can be no more of them."""
    try:
        return FolderWatch()
    except OSError as error:
        _LOG.warning("changes in folders are not noticed: %s", error.strerror)
        return None


class _User(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _as_user(user: str | None) -> _User:
    """Arguments of Popen for a program of another user, with the groups that this one has."""
    if user is None:
        return {}
    entry = account(user)
    if entry.pw_uid == os.geteuid():
        return {}
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}


@contextmanager
def activation(
    bus: str, folders: Sequence[str], environment: Mapping[str, str], patience: Patience | None = None
) -> Iterator[Activation]:
    """Hold the names that the folders have, while the block runs, in which the result's `run` is to work.

    `bus` as for `kdbus.connect`; `environment`: that programs get.

    Raises AlreadyActivated, and Error: no such bus, or it is another user's. A name that another activator has is
    logged.
    """
    with kdbus.trio.connect(bus, revision=FINAL) as peer:
        try:
            peer.acquire_name(ACTIVATOR)
        except Exists:
            raise AlreadyActivated(f"connection {peer.info(ACTIVATOR, Attach.NONE).id} has {ACTIVATOR}") from None
        peer.add_match(NameChangesHands())
        made = Activation(peer, bus, folders, environment, patience or Patience())
        try:
            made.load()
            yield made
        finally:
            made.close()
