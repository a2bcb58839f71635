# SPDX-License-Identifier: GPL-2.0-or-later
"""What D-Bus's daemon would do and kdbus does instead, translated both ways: matches, and what the bus has to tell.

Source: what sd-bus did (systemd 209 to 231, bus-control.c and bus-kernel.c). On kdbus there is no daemon that could
send signals, and `org.freedesktop.DBus` may have no owner. The bus sends notifications of its own, and clients turn
them into what the daemon would have sent: NameOwnerChanged, and the error NoReply. So a match rule that could fit
NameOwnerChanged has to ask kdbus for notifications as well, of up to five kinds:

    name, "", owner           a name got an owner         NameAppears
    name, owner, ""           a name lost its owner       NameVanishes
    name, owner, owner        a name changed hands        NameChangesHands
    unique, "", unique        a connection came           IdAppears
    unique, unique, ""        a connection went           IdLeaves

An activator that waits for messages to a name owns it for kdbus, and not for D-Bus. So what changes hands between it
and a service appears or vanishes, and NameChangesHands is asked for in any case.
"""

from __future__ import annotations

from typing import Final

from kdbus.dbus import names
from kdbus.dbus.bloom import filter_of_entries
from kdbus.dbus.errors import InvalidName
from kdbus.dbus.message import Flag, Message, MessageType
from kdbus.dbus.rule import Rule, alternatives
from kdbus.flags import ANY, NameFlag
from kdbus.matches import (
    Bloom,
    FromId,
    FromName,
    IdAppears,
    IdLeaves,
    MatchRule,
    NameAppears,
    NameChangesHands,
    NameVanishes,
)
from kdbus.values import BloomParameters, IdChange, NameChange, Notification, ReplyTimeout

DRIVER: Final = "org.freedesktop.DBus"
"""The name, and the interface, of what a daemon says itself."""
DRIVER_PATH: Final = "/org/freedesktop/DBus"
NO_REPLY: Final = "org.freedesktop.DBus.Error.NoReply"
_CHANGED: Final = "NameOwnerChanged"
_ACTIVATABLE: Final = "ActivatableServicesChanged"


def matches_of(rule: Rule, parameters: BloomParameters) -> list[list[MatchRule]]:
    """The matches to add, all with one cookie, so that everything comes that the rule fits. Each is a list of rules of
    `kdbus.matches`.

    `parameters` are those of the bus. Raises as `kdbus.dbus.bloom.filter_of_entries`, and InvalidName for a sender that
    no connection of kdbus can be.
    """
    sender: list[MatchRule] = []
    if rule.sender is not None:
        identifier = names.connection_id(rule.sender)
        sender = [FromName(rule.sender) if identifier is None else FromId(identifier)]
    found: list[list[MatchRule]] = []
    for entries in alternatives(rule):
        mask = filter_of_entries(entries, size=parameters.size, hashes=parameters.hashes)
        found.append([*sender, Bloom([mask])])
    changes = _changes(rule)
    if rule.fits(_driver_signal(_ACTIVATABLE)):
        changes += [each for each in (NameAppears(), NameVanishes()) if each not in changes]
    return found + [[change] for change in changes]


def _changes(rule: Rule) -> list[MatchRule]:
    """The notifications that could be a NameOwnerChanged which the rule fits."""
    asked = Rule(
        type=rule.type,
        sender=rule.sender,
        interface=rule.interface,
        member=rule.member,
        path=rule.path,
        path_namespace=rule.path_namespace,
        destination=rule.destination,
    )
    if not asked.fits(_owner_changed("", "", "")):
        return []
    arguments = dict(rule.arguments)
    name, old, new = (arguments.get(number) for number in range(3))
    try:
        identifier = names.connection_id(name) if name else None
        old_id, new_id = ((names.connection_id(owner) or ANY) if owner else ANY for owner in (old, new))
    except InvalidName:
        return []
    found: list[MatchRule] = []
    if identifier is None:
        if not old:
            found.append(NameAppears(name, new_id))
        if not new:
            found.append(NameVanishes(name, old_id))
        found.append(NameChangesHands(name, old_id, new_id))
    if name is None or identifier is not None:
        if not old:
            found.append(IdAppears(identifier or ANY))
        if not new:
            found.append(IdLeaves(identifier or ANY))
    return found


def _driver_signal(member: str, *words: str) -> Message:
    return Message(
        type=MessageType.SIGNAL,
        flags=Flag.NO_REPLY_EXPECTED,
        path=DRIVER_PATH,
        interface=DRIVER,
        member=member,
        sender=DRIVER,
        signature="s" * len(words),
        body=words,
    )


def _owner_changed(name: str, old: str, new: str) -> Message:
    return _driver_signal(_CHANGED, name, old, new)


def _owner(identifier: int, flags: NameFlag) -> str:
    """Who owns a name, for D-Bus: nobody if it is an activator, or one who waits."""
    if not identifier or flags & (NameFlag.ACTIVATOR | NameFlag.IN_QUEUE):
        return ""
    return names.unique_name(identifier)


def message_of(notification: Notification, reply_to: int) -> Message | None:
    """What a daemon would have sent instead of a notification; None if it would have sent nothing.

    `reply_to` is the cookie of the request that the notification is about, if it is about one.
    """
    if isinstance(notification, NameChange):
        old = _owner(notification.old_id, notification.old_flags)
        new = _owner(notification.new_id, notification.new_flags)
        if old != new:
            return _owner_changed(notification.name, old, new)
        was, is_ = notification.old_flags & NameFlag.ACTIVATOR, notification.new_flags & NameFlag.ACTIVATOR
        # An activator appears, or vanishes.
        return _driver_signal(_ACTIVATABLE) if bool(was) != bool(is_) else None
    if isinstance(notification, IdChange):
        owner = names.unique_name(notification.id)
        return _owner_changed(owner, *(("", owner) if notification.appeared else (owner, "")))
    happened = "the call timed out" if isinstance(notification, ReplyTimeout) else "the called peer went away"
    return Message(
        type=MessageType.ERROR,
        flags=Flag.NO_REPLY_EXPECTED,
        reply_cookie=reply_to,
        error_name=NO_REPLY,
        sender=DRIVER,
        signature="s",
        body=(happened,),
    )
