# SPDX-License-Identifier: GPL-2.0-or-later
"""`org.freedesktop.DBus` for one client: what a D-Bus daemon answers itself, asked of kdbus.

Source: D-Bus Specification, "Message Bus Messages", and dbus-daemon 1.14 for what that leaves open: names and texts of
errors, and the order of what is checked. Nobody on kdbus has this name; each client's driver speaks for the bus.

Names of connections and of the driver itself can neither be acquired nor released. The two flags about replacing and
the queue mean the same on kdbus, whose queues were made for D-Bus.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import kdbus.trio
from bridge.driver_words import PROPERTIES, introspection
from bridge.failures import (
    ACCESS_DENIED,
    FAILED,
    INVALID_ARGS,
    LIMITS_EXCEEDED,
    NO_OWNER,
    PREFIX,
    UNKNOWN_METHOD,
    not_sent,
)
from bridge.guard import Guard
from bridge.house import House
from bridge.inward import Inward
from bridge.limits import Limits
from bridge.monitoring import Monitor
from bridge.queries import PEER, Queries
from kdbus.dbus import names
from kdbus.dbus.errors import ErrorReply, InvalidName, InvalidRule
from kdbus.dbus.kernel import DRIVER, DRIVER_PATH, matches_of
from kdbus.dbus.message import Message, MessageType
from kdbus.dbus.rule import MAX_LENGTH, Rule, parse
from kdbus.dbus.transport import machine_id
from kdbus.dbus.values import Variant
from kdbus.errors import Error, Exists, NotFound
from kdbus.flags import NameFlag

_ALLOW_REPLACEMENT, _REPLACE_EXISTING, _DO_NOT_QUEUE = 1, 2, 4
_PRIMARY_OWNER, _IN_QUEUE, _EXISTS, _ALREADY_OWNER = 1, 2, 3, 4
_RELEASED, _NON_EXISTENT, _NOT_OWNER = 1, 2, 3
_INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
_UPDATE: Final = "UpdateActivationEnvironment"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_MONITORING: Final = "org.freedesktop.DBus.Monitoring"
_STATS: Final = "org.freedesktop.DBus.Debug.Stats"
_AT_THE_PATH: Final = (_PROPERTIES, _MONITORING, _STATS)
"""Interfaces that the driver has at its own path alone."""


class _Method(NamedTuple):
    takes: str
    gives: str
    run: Callable[..., Any]
    asks: bool = False
    """Its answer may come later: then it returns None. It gets the call in front of what that takes."""


class Driver:
    """Answers one client, whose connection of kdbus is `peer`."""

    def __init__(
        self,
        peer: kdbus.trio.Connection,
        inward: Inward,
        limits: Limits,
        guard: Guard | None,
        house: House,
        claims: set[str],
        new_monitor: Callable[[Sequence[Rule]], Monitor],
        eavesdrop: Callable[[bool], None],
    ) -> None:
        """`claims`: is filled with the names that the client owns or waits for; `new_monitor`: what a client becomes
        that watches, or raises ErrorReply; `eavesdrop`: is told whether a rule asks for that. `monitor`: what it has
        become."""
        self._eavesdrop = eavesdrop
        self.monitor: Monitor | None = None
        self._new_monitor = new_monitor
        self._house = house
        self._guard = guard
        self._claims = claims
        self._peer = peer
        self._inward = inward
        self._limits = limits
        self._cookies: list[tuple[Rule, int]] = []
        self._queries = queries = Queries(peer)
        self._methods: dict[str, dict[str, _Method]] = {
            DRIVER: {
                "Hello": _Method("", "s", self._hello),
                "RequestName": _Method("su", "u", self._request_name),
                "ReleaseName": _Method("s", "u", self._release_name),
                "StartServiceByName": _Method("su", "u", inward.starting.start_service_by_name, asks=True),
                _UPDATE: _Method("a{ss}", "", inward.starting.update_activation_environment, asks=True),
                "NameHasOwner": _Method("s", "b", queries.name_has_owner),
                "ListNames": _Method("", "as", queries.list_names),
                "ListActivatableNames": _Method("", "as", queries.list_activatable_names),
                "AddMatch": _Method("s", "", self._add_match),
                "RemoveMatch": _Method("s", "", self._remove_match),
                "GetNameOwner": _Method("s", "s", queries.get_name_owner),
                "ListQueuedOwners": _Method("s", "as", queries.list_queued_owners),
                "GetConnectionUnixUser": _Method("s", "u", queries.get_connection_unix_user),
                "GetConnectionUnixProcessID": _Method("s", "u", queries.get_connection_unix_process_id),
                "GetAdtAuditSessionData": _Method("s", "ay", queries.get_audit_data),
                "GetConnectionSELinuxSecurityContext": _Method("s", "ay", queries.get_security_context),
                "ReloadConfig": _Method("", "", house.reload),
                "GetId": _Method("", "s", peer.bus_id.hex),
                "GetConnectionCredentials": _Method("s", "a{sv}", queries.get_connection_credentials),
            },
            _PROPERTIES: {
                "Get": _Method("ss", "v", self._get),
                "GetAll": _Method("s", "a{sv}", self._get_all),
                "Set": _Method("ssv", "", self._set),
            },
            _INTROSPECTABLE: {"Introspect": _Method("", "s", lambda: "")},
            _MONITORING: {"BecomeMonitor": _Method("asu", "", self._become_monitor)},
            _STATS: {
                "GetStats": _Method("", "a{sv}", house.statistics),
                "GetConnectionStats": _Method("s", "a{sv}", self._connection_stats),
                "GetAllMatchRules": _Method("", "a{sas}", house.match_rules),
            },
            PEER: {
                "GetMachineId": _Method("", "s", machine_id),
                "Ping": _Method("", "", lambda: None),
            },
        }

    def answer(self, call: Message) -> tuple[str, tuple[Any, ...]] | None:
        """Signature and body of the reply to a method call; None: it will come later. Raises ErrorReply."""
        at = self._at(call.path or "/")
        method = _found(at, call)
        if method.asks and call.member == _UPDATE and call.path != DRIVER_PATH:
            raise ErrorReply(
                ACCESS_DENIED, f"Method '{_UPDATE}' is only available at the canonical object path '{DRIVER_PATH}'"
            )
        if call.signature != method.takes:
            raise ErrorReply(
                INVALID_ARGS, f"Call to {call.member} has wrong args ({call.signature}, expected {method.takes})\n"
            )
        if method is at[_INTROSPECTABLE]["Introspect"]:
            described = {name: {each: found[:2] for each, found in methods.items()} for name, methods in at.items()}
            return "s", (introspection(call.path or "/", described),)
        try:
            result = method.run(call, *call.body) if method.asks else method.run(*call.body)
        except Error as error:
            raise not_sent(error, DRIVER) from error
        if method.asks and result is None:
            return None
        return method.gives, (result,) if method.gives else ()

    def _at(self, path: str) -> dict[str, dict[str, _Method]]:
        """The interfaces at a path. Most work anywhere, as with dbus-daemon, which had no paths at first."""
        if path == DRIVER_PATH:
            return self._methods
        return {name: methods for name, methods in self._methods.items() if name not in _AT_THE_PATH}

    # ---- names

    def _hello(self) -> str:
        raise ErrorReply(FAILED, "Already handled an Hello message")

    def _request_name(self, name: str, flags: int) -> int:
        if not _is_name(name):
            raise ErrorReply(INVALID_ARGS, f'Requested bus name "{name}" is not valid')
        if name.startswith(":"):
            raise ErrorReply(INVALID_ARGS, f"Cannot acquire a service starting with ':' such as \"{name}\"")
        if name == DRIVER:
            raise ErrorReply(
                INVALID_ARGS,
                f'Connection "{self._inward.name}" is not allowed to own the service "{name}" because it is reserved '
                "for D-Bus' use only",
            )
        if self._guard is not None and not self._guard.may_own(name):
            raise ErrorReply(
                ACCESS_DENIED,
                f'Connection "{self._inward.name}" is not allowed to own the service "{name}" due to security policies '
                "in the configuration file",
            )
        if name not in self._claims and len(self._claims) >= self._limits.names:
            raise ErrorReply(LIMITS_EXCEEDED, f'Connection "{self._inward.name}" has as many names as it may have')
        wanted = NameFlag.NONE if flags & _DO_NOT_QUEUE else NameFlag.QUEUE
        wanted |= NameFlag.ALLOW_REPLACEMENT if flags & _ALLOW_REPLACEMENT else NameFlag.NONE
        wanted |= NameFlag.REPLACE_EXISTING if flags & _REPLACE_EXISTING else NameFlag.NONE
        was_ours = self._queries.owner(name) == self._peer.id
        try:
            self._peer.acquire_name(name, wanted)
        except Exists:
            self._claims.discard(name)
            return _EXISTS
        is_ours = self._queries.owner(name) == self._peer.id
        if not is_ours and flags & _DO_NOT_QUEUE:
            # It waited for the name, and does not want to any more.
            self._claims.discard(name)
            return _EXISTS
        self._claims.add(name)
        self._count()
        if not is_ours:
            return _IN_QUEUE
        return _ALREADY_OWNER if was_ours else _PRIMARY_OWNER

    def _release_name(self, name: str) -> int:
        if not _is_name(name):
            raise ErrorReply(INVALID_ARGS, f'Given bus name "{name}" is not valid')
        if name.startswith(":"):
            raise ErrorReply(INVALID_ARGS, f"Cannot release a service starting with ':' such as \"{name}\"")
        if name == DRIVER:
            raise ErrorReply(INVALID_ARGS, f"Cannot release the {name} service because it is owned by the bus")
        try:
            self._peer.release_name(name)
        except NotFound:
            return _NON_EXISTENT
        except Error as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return _NOT_OWNER
        self._claims.discard(name)
        return _RELEASED

    # ---- match rules

    def _add_match(self, text: str) -> None:
        if len(self._cookies) >= self._limits.rules:
            raise ErrorReply(LIMITS_EXCEEDED, f'Connection "{self._inward.name}" has as many match rules as allowed')
        if len(text.encode()) > MAX_LENGTH:
            raise ErrorReply(LIMITS_EXCEEDED, f"Match rule text is {len(text)} bytes, maximum is {MAX_LENGTH}")
        rule = self._rule(text)
        cookie = 0
        # kdbus delivers messages to one receiver, and shows them to nobody else: only signals can be matched.
        if rule.type in (None, MessageType.SIGNAL) and rule not in self._inward.rules:
            try:
                matches = matches_of(rule, self._peer.bloom)
            except InvalidName:
                matches = []  # A sender that no connection of kdbus can be sends nothing.
            for match in matches:
                cookie = self._add(cookie, match)
        self._cookies.append((rule, cookie))
        self._inward.rules.append(rule)
        if rule.eavesdrop:
            self._eavesdrop(True)
        self._count()

    def _add(self, cookie: int, match: list[Any]) -> int:
        """Add a match to those of the cookie, or of a new one (0); all or none."""
        try:
            return self._peer.add_match(*match, cookie=cookie or None)
        except Error as error:
            if cookie:
                self._peer.remove_match(cookie)
            raise ErrorReply(LIMITS_EXCEEDED, f"The bus does not take this match rule: {error.meaning}") from error

    def _remove_match(self, text: str) -> None:
        rule = self._rule(text)
        if rule not in self._inward.rules:
            raise ErrorReply(PREFIX + "MatchRuleNotFound", "The given match rule wasn't found and can't be removed")
        self._inward.rules.remove(rule)
        if rule.eavesdrop:
            self._eavesdrop(any(each.eavesdrop for each in self._inward.rules))
        # Equal rules share their matches, which the first of them has: the last one that goes takes them along.
        places = [place for place, (each, _) in enumerate(self._cookies) if each == rule]
        _, cookie = self._cookies.pop(places[-1])
        if len(places) == 1 and cookie:
            self._peer.remove_match(cookie)

    def _rule(self, text: str) -> Rule:
        try:
            return parse(text)
        except InvalidRule as error:
            raise ErrorReply(PREFIX + "MatchRuleInvalid", str(error)) from None

    # ---- monitors and statistics

    def _become_monitor(self, texts: list[str], flags: int) -> None:
        if flags:
            raise ErrorReply(INVALID_ARGS, "BecomeMonitor does not support any flags yet")
        self.monitor = self._new_monitor([self._rule(text) for text in texts])

    def _connection_stats(self, name: str) -> dict[str, Variant]:
        if name == DRIVER:
            raise ErrorReply(
                INVALID_ARGS, f'GetConnectionStats is not meaningful for the message bus "{DRIVER}" itself'
            )
        owner = self._queries.owner(name)
        record = None if owner is None else self._house.record(names.unique_name(owner))
        if record is None:
            raise ErrorReply(NO_OWNER, f"Could not get statistics of name '{name}': no such name")
        return record.statistics()

    def _count(self) -> None:
        record = self._house.record(self._inward.name)
        if record is not None:
            self._house.count(record)

    # ---- properties

    def _get(self, interface: str, name: str) -> Variant:
        values = self._get_all(interface)
        if name not in values:
            raise ErrorReply(PREFIX + "UnknownProperty", f'Property "{interface}.{name}" not found')
        return values[name]

    def _get_all(self, interface: str) -> dict[str, Variant]:
        if interface not in self._methods:
            raise ErrorReply(PREFIX + "UnknownInterface", f'Interface "{interface}" not found')
        return PROPERTIES if interface == DRIVER else {}

    def _set(self, interface: str, name: str, _value: Variant) -> None:
        self._get(interface, name)
        raise ErrorReply(PREFIX + "PropertyReadOnly", f"Property '{interface}.{name}' cannot be set")


def _found(interfaces: dict[str, dict[str, _Method]], call: Message) -> _Method:
    """The method that is called. Raises ErrorReply."""
    if call.interface is not None and call.interface not in interfaces:
        raise ErrorReply(PREFIX + "UnknownInterface", f"{DRIVER} does not understand message {call.member}")
    for name, methods in interfaces.items():
        if call.interface in (None, name) and call.member in methods:
            return methods[call.member]
    raise ErrorReply(UNKNOWN_METHOD, f"{DRIVER} does not understand message {call.member}")


def _is_name(name: str) -> bool:
    try:
        names.check_bus_name(name)
    except InvalidName:
        return False
    return True
