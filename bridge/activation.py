# SPDX-License-Identifier: GPL-2.0-or-later
"""Activation on a bus: an activator for each name that there is a program for (`bridge.activated`).

What systemd was to kdbus, of which it started services. This is an ordinary program on the bus, whose user has to be
the bus's, as only the owner may make activators. Beside them it has a connection of its own that tells what becomes of
names, owns `kdbus.Activator`, so that there is one activation on a bus, and takes over environments.

*Environment.* A program gets ours, DBUS_STARTER_ADDRESS, what somebody has set with UpdateActivationEnvironment, and
what its file says, where a later one counts. Its output goes where ours goes. It has a session of its own: what is
typed at our terminal is not for it. When activation ends, so do the programs that it has started.

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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Final, TypedDict

import trio

import kdbus.trio
from bridge.activatable import Activatable, account
from bridge.activated import Activated, Patience, Program, end
from bridge.failures import ACCESS_DENIED, INVALID_ARGS
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


class Activation:
    """Holds the names on one bus; `activation` makes one. `ended`: the bus has gone."""

    def __init__(
        self, peer: kdbus.trio.Connection, bus: str, environment: Mapping[str, str], patience: Patience
    ) -> None:
        self._peer = peer
        self._environment = dict(environment)
        self._bus = bus
        self._patience = patience
        self._transport = Transport(peer)
        self._objects = Objects(machine_id)
        self._objects.add(ACTIVATOR_PATH, _Settings(self._environment))
        self._activated: dict[str, Activated] = {}
        self._children: set[trio.Process] = set()
        self._nursery: trio.Nursery | None = None
        self._cookie = 0
        self.ended = trio.Event()

    def hold(self, wanted: Activatable, stack: ExitStack) -> None:
        """Make the activator of a name, or a policy holder where there is nothing to start. Raises Error."""
        kind = HelloFlag.ACTIVATOR if wanted.activating else HelloFlag.POLICY_HOLDER
        accepts = HelloFlag.ACCEPT_FD if wanted.accepts_descriptors else HelloFlag.NONE
        starter = stack.enter_context(
            kdbus.trio.connect(
                self._bus,
                revision=FINAL,
                flags=kind | accepts,
                attach_receive=Attach.ALL,
                description="activator",
                policies=[Policy(wanted.name, wanted.rules)],
            )
        )
        if wanted.activating:
            self._activated[wanted.name] = Activated(
                wanted, starter, spawn=self._spawn, refuse=self._refuse, look=self._look, patience=self._patience
            )

    async def run(self) -> None:
        """Work until the bus ends, or this is cancelled; then nothing that was started is left."""
        try:
            async with trio.open_nursery() as self._nursery:
                for each in self._activated.values():
                    self._nursery.start_soon(each.serve)
                while True:
                    await trio.lowlevel.wait_readable(self._peer.fileno())
                    self._look()
        except* Disconnected:
            _LOG.debug("the bus has gone")
        finally:
            self.ended.set()
            with trio.CancelScope(shield=True):
                await self._end_all()

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
                if change.name in self._activated and not change.new_flags & NameFlag.ACTIVATOR:
                    self._activated[change.name].name_taken()
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
    bus: str, names: Sequence[Activatable], environment: Mapping[str, str], patience: Patience | None = None
) -> Iterator[Activation]:
    """Hold the names while the block runs, in which the result's `run` is to work.

    `bus` as for `kdbus.connect`; `environment`: that programs get.

    Raises AlreadyActivated, and Error: no such bus, or it is another user's. A name that cannot be held is logged.
    """
    with ExitStack() as stack:
        peer = stack.enter_context(kdbus.trio.connect(bus, revision=FINAL))
        try:
            peer.acquire_name(ACTIVATOR)
        except Exists:
            raise AlreadyActivated(f"connection {peer.info(ACTIVATOR, Attach.NONE).id} has {ACTIVATOR}") from None
        peer.add_match(NameChangesHands())
        made = Activation(peer, bus, environment, patience or Patience())
        for wanted in names:
            try:
                made.hold(wanted, stack)
            except Error as error:
                if not isinstance(error, Exists):
                    raise
                _LOG.warning("%s is left out: %s", wanted.source, error)
        yield made
