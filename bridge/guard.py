# SPDX-License-Identifier: GPL-2.0-or-later
"""dbus-daemon's policy, applied to one client of a proxy.

Where dbus-daemon asks both sides at once, a proxy has two places: what a client sends is held against its rules about
sending when it sends it, and what arrives for a client against its rules about receiving when it arrives. What is
denied there never reaches the client, and who waits for a reply gets AccessDenied, as with dbus-daemon.

*Signals to all* reach many, and a rule about sending may be about who receives. So such a signal is sent if it may go
to somebody without names, and each client of the proxy gets it only if its sender may send it to that one. Weakness:
one that may go to owners of a name only is not sent; and programs that speak kdbus get what may go to anybody.

*Who owns a name* is asked of the bus, with one command, once a rule depends on it. The message is then sent to that
owner: should the name change hands meanwhile, kdbus refuses it, and all is looked at again. That those who wait for a
name count as owners holds for the proxy's clients, whose requests it knows.
"""

from __future__ import annotations

import errno
import logging
import os
import pwd
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Final

import kdbus.trio
from bridge.failures import ACCESS_DENIED, no_such_name
from bridge.rules import ClientRules, Decision, Named, Owner, Party, Policy, about_message
from kdbus.dbus import names
from kdbus.dbus.bloom import TYPE_NAMES
from kdbus.dbus.errors import ErrorReply, InvalidName
from kdbus.dbus.kernel import DRIVER
from kdbus.dbus.message import Flag, Message
from kdbus.errors import Error, NotFound
from kdbus.flags import Attach, HelloFlag, ListFlag, NameFlag

_CONSOLE: Final = "/run/console"
"""Where login services of the past noted who is at the console (pam_console(8))."""
_REMEMBERED: Final = 1024
"""Clients that have gone, whose signals may still be on their way."""
_TRIES: Final = 8
_LOG = logging.getLogger("bridge")


class Guards:
    """Those of all clients of a socket, by the ids of their connections."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._all: dict[int, Guard] = {}
        self._gone: deque[int] = deque()

    def of(self, sender: int) -> Guard | None:
        """The guard of a connection; None if that is nobody's who is, or was until lately, a client."""
        return self._all.get(sender)

    def add(self, peer: kdbus.trio.Connection, user: int, groups: tuple[int, ...], claims: Collection[str]) -> Guard:
        """The guard of a new client; `claims`: the names that it has asked for, now and later."""
        guard = self._all[peer.id] = Guard(self, peer, user, groups, claims)
        guard.renew(self.policy)
        return guard

    def replace(self, policy: Policy) -> None:
        """Another policy from now on, for all clients that there are and will be."""
        self.policy = policy
        for guard in self._all.values():
            guard.renew(policy)

    def remove(self, identifier: int) -> None:
        """The client has gone."""
        self._gone.append(identifier)
        if len(self._gone) > _REMEMBERED:
            self._all.pop(self._gone.popleft(), None)


class Guard:
    """Decides for one client."""

    def __init__(
        self,
        guards: Guards,
        peer: kdbus.trio.Connection,
        user: int,
        groups: tuple[int, ...],
        claims: Collection[str],
    ) -> None:
        self.rules = ClientRules((), (), ())
        self.claims = claims
        self._user = user
        self._groups = groups
        self._guards = guards
        self._peer = peer

    def renew(self, policy: Policy) -> None:
        """Heed another policy."""
        self.rules = policy.for_client(self._user, self._groups, at_console=is_at_console(self._user))

    def may_own(self, name: str) -> bool:
        """Whether the client may ask for the name."""
        return _told(self.rules.may_own(name), f"{names.unique_name(self._peer.id)} asks for the name {name}")

    def check_driver_call(self, message: Message) -> None:
        """Raises ErrorReply if the client may not call the driver so."""
        self._check_sending(message, Named(DRIVER))

    def may_hear(self, message: Message) -> bool:
        """Whether the client may receive something of the driver's."""
        decision = self.rules.may_receive(message, Named(DRIVER))
        return _told(decision, f"the driver's {_words(message)} to {names.unique_name(self._peer.id)}")

    def send(self, message: Message, send: Callable[[int | None], None]) -> None:
        """Call `send` if the client may send the message, with the id that the owner of its destination must have, or
        None. Raises ErrorReply, and what `send` raises."""
        if message.destination is None:
            if _told(self.rules.may_send(message, Owner(tuple)), f"a signal to all: {_words(message)}"):
                send(None)
            return
        for left in reversed(range(_TRIES)):
            owner, party = self._receiver(message, message.destination)
            self._check_sending(message, party)
            try:
                send(owner)
                return
            except Error as error:
                if error.errno != errno.EREMCHG or not left:
                    raise

    def may_receive(self, message: Message, sender: int, owned: Collection[str]) -> bool:
        """Whether the client may receive what came; `owned`: the names of its sender. For a signal to all, its sender
        may have rules, too."""
        other = self._guards.of(sender)
        party = Owner(lambda: self._with_waited_for(sender, owned))
        if message.destination is None and other is not None:
            me = Owner(lambda: self._with_waited_for(self._peer.id, None))
            if not other.rules.may_send(message, me).allowed:
                return False
        decision = self.rules.may_receive(message, party)
        return _told(decision, f"{names.unique_name(self._peer.id)} is sent {_words(message)}")

    def may_eavesdrop(self, message: Message, owned: Collection[str]) -> bool:
        """Whether the client may see what is sent to another; `owned`: the names of its sender."""
        sender = names.connection_id(message.sender or "")
        other = None if sender is None else self._guards.of(sender)
        party: Party = Named(message.sender)
        if sender is not None:
            party = Owner(lambda: self._with_waited_for(sender, owned))
        me = Owner(lambda: self._with_waited_for(self._peer.id, None))
        if other is not None and not other.rules.may_send(message, me).allowed:
            return False
        return self.rules.may_receive(message, party, eavesdropping=True).allowed

    def denied(self, message: Message, way: str) -> ErrorReply:
        """What the sender is told; `way`: "send" or "receive"."""
        return ErrorReply(ACCESS_DENIED, f"Rejected {way} message; {_words(message)}")

    # ---- inside

    def _check_sending(self, message: Message, receiver: Party) -> None:
        decision = self.rules.may_send(message, receiver)
        if not _told(decision, f"{names.unique_name(self._peer.id)} sends {_words(message)}"):
            count = sum(1 for _ in about_message(self.rules.send, message, receiver))
            raise ErrorReply(ACCESS_DENIED, f"Rejected send message, {count} matched rules; {_words(message)}")

    def _receiver(self, message: Message, destination: str) -> tuple[int | None, Party]:
        """Who a destination is: an id if that is to be held on to, and the one whose names count."""
        try:
            found = self._peer.info(names.connection_id(destination) or destination, Attach.NAMES)
        except (NotFound, InvalidName):
            raise no_such_name(destination, auto_start=not message.flags & Flag.NO_AUTO_START) from None
        if found.flags & HelloFlag.ACTIVATOR:
            return None, Named(destination)
        owned = {each.name for each in found.metadata.names}
        return found.id, Owner(lambda: self._with_waited_for(found.id, owned))

    def _with_waited_for(self, identifier: int, owned: Collection[str] | None) -> Collection[str]:
        """The names that a connection owns (None: to be asked for), and those that it waits for."""
        if owned is None:
            owned = {each.name for each in self._peer.info(identifier, Attach.NAMES).metadata.names}
        other = self._guards.of(identifier)
        if other is None or not set(other.claims) - set(owned):
            return owned
        return {*owned, *self._waited_for(identifier)}

    def _waited_for(self, identifier: int) -> Iterator[str]:
        for entry in self._peer.list_names(ListFlag.QUEUED):
            if entry.id == identifier and entry.name and entry.name_flags & NameFlag.IN_QUEUE:
                yield entry.name


def _told(decision: Decision, what: str) -> bool:
    """Whether it is allowed. What is denied, and what rules want noted, is told to who reads the log."""
    rule = decision.rule
    if not decision.allowed:
        _LOG.info("denied: %s, by %s", what, rule or "no rule that allows it")
    elif rule is not None and rule.log:
        _LOG.warning("allowed: %s, by %s", what, rule)
    return decision.allowed


def _words(message: Message) -> str:
    """What a message is, for people."""
    words = {
        "type": TYPE_NAMES[message.type],
        "sender": message.sender,
        "path": message.path,
        "interface": message.interface,
        "member": message.member,
        "error name": message.error_name,
        "destination": message.destination,
    }
    return ", ".join(f'{key}="{value}"' for key, value in words.items() if value is not None)


def is_at_console(user: int) -> bool:
    """Whether a user is at the console of the machine, as login services of the past told."""
    try:
        return os.path.exists(f"{_CONSOLE}/{pwd.getpwuid(user).pw_name}")
    except (KeyError, OverflowError):
        return False
