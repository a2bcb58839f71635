# SPDX-License-Identifier: GPL-2.0-or-later
"""What kdbus does instead of a daemon: matches for rules, and D-Bus's messages for notifications."""

from __future__ import annotations

import pytest

from kdbus.dbus import rule
from kdbus.dbus.bloom import filter_of_entries
from kdbus.dbus.errors import InvalidName, InvalidValue
from kdbus.dbus.kernel import DRIVER, DRIVER_PATH, NO_REPLY, matches_of, message_of
from kdbus.dbus.message import MessageType
from kdbus.flags import ANY, HelloFlag, NameFlag
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
from kdbus.values import BloomParameters, IdChange, NameChange, Notification, ReplyDead, ReplyTimeout

pytest.importorskip("siphash24", reason="no siphash24; pip install kdbus-interposer[dbus]")

USUAL = BloomParameters(64, 8)
NONE = NameFlag(0)


def mask(*entries: str) -> Bloom:
    return Bloom([filter_of_entries(entries)])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("member=M,sender=:1.5", [[FromId(5), mask("member:M")]]),
        ("member=M,sender=org.example.A", [[FromName("org.example.A"), mask("member:M")]]),
        ("sender=org.example.A", [[FromName("org.example.A"), mask()]]),
        (
            "arg0path=/a/b,member=M",
            [[mask("member:M", "arg0:/a/b")], [mask("member:M", "arg0:/")], [mask("member:M", "arg0:/a/")]],
        ),
    ],
)
def test_broadcasts(text: str, wanted: list[list[MatchRule]]) -> None:
    assert matches_of(rule.parse(text), USUAL) == wanted


def test_masks_have_the_size_of_the_bus() -> None:
    [[found]] = matches_of(rule.parse("member=M"), BloomParameters(8, 2))
    assert found == Bloom([filter_of_entries(["member:M"], size=8, hashes=2)])
    with pytest.raises(InvalidValue):
        matches_of(rule.parse("member=M"), BloomParameters(8, 100))


ALL = [NameAppears(), NameVanishes(), NameChangesHands(), IdAppears(), IdLeaves()]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ALL),
        ("sender=org.freedesktop.DBus,member=NameOwnerChanged", ALL),
        ("path=/org/freedesktop/DBus,interface=org.freedesktop.DBus,type=signal", ALL),
        ("path_namespace=/org/freedesktop", ALL),
        ("arg0namespace=org.example", ALL),
        ("arg0=org.x", [NameAppears("org.x"), NameVanishes("org.x"), NameChangesHands("org.x")]),
        ("arg0=org.x,arg1=''", [NameAppears("org.x"), NameVanishes("org.x"), NameChangesHands("org.x")]),
        ("arg0=org.x,arg2=:1.5", [NameAppears("org.x", 5), NameChangesHands("org.x", ANY, 5)]),
        ("arg0=org.x,arg1=:1.5,arg2=''", [NameVanishes("org.x", 5), NameChangesHands("org.x", 5)]),
        ("arg0=org.x,arg1=:1.5,arg2=:1.6", [NameChangesHands("org.x", 5, 6)]),
        ("arg0=:1.5", [IdAppears(5), IdLeaves(5)]),
        ("arg0=:1.5,arg2=:1.5", [IdAppears(5)]),
        ("arg0=:1.5,arg1=:1.5", [IdLeaves(5)]),
        ("arg0=:1.0", []),
        ("type=method_call", []),
        ("sender=org.example.A", []),
        ("member=Other", []),
        ("interface=org.example.A", []),
        ("path=/", []),
        ("path_namespace=/com", []),
        ("destination=:1.5", []),
    ],
)
def test_notifications(text: str, wanted: list[MatchRule]) -> None:
    changes = (NameAppears, NameVanishes, NameChangesHands, IdAppears, IdLeaves)
    found = [match[0] for match in matches_of(rule.parse(text), USUAL) if isinstance(match[0], changes)]
    assert found == wanted


def test_a_sender_that_nobody_can_be() -> None:
    with pytest.raises(InvalidName):
        matches_of(rule.parse("sender=:2.5"), USUAL)


@pytest.mark.parametrize(
    ("notification", "arguments"),
    [
        (NameChange("org.x", 0, NONE, 5, NONE), ("org.x", "", ":1.5")),
        (NameChange("org.x", 5, NONE, 0, NONE), ("org.x", ":1.5", "")),
        (NameChange("org.x", 5, NONE, 6, NameFlag.ALLOW_REPLACEMENT), ("org.x", ":1.5", ":1.6")),
        (NameChange("org.x", 4, NameFlag.ACTIVATOR, 5, NONE), ("org.x", "", ":1.5")),
        (NameChange("org.x", 5, NONE, 4, NameFlag.ACTIVATOR), ("org.x", ":1.5", "")),
        (IdChange(5, HelloFlag(0), True), (":1.5", "", ":1.5")),
        (IdChange(5, HelloFlag(0), False), (":1.5", ":1.5", "")),
    ],
)
def test_owners_change(notification: Notification, arguments: tuple[str, ...]) -> None:
    message = message_of(notification, 0)
    assert message is not None and message.body == arguments
    assert (message.sender, message.path, message.interface) == (DRIVER, DRIVER_PATH, DRIVER)
    assert rule.parse("member=NameOwnerChanged,sender=org.freedesktop.DBus").fits(message)


@pytest.mark.parametrize(
    "notification",
    [
        NameChange("org.x", 0, NONE, 4, NameFlag.ACTIVATOR),
        NameChange("org.x", 4, NameFlag.ACTIVATOR, 0, NONE),
    ],
)
def test_activators_own_nothing_and_can_start(notification: Notification) -> None:
    message = message_of(notification, 0)
    assert message is not None
    assert (message.member, message.signature, message.sender) == ("ActivatableServicesChanged", "", DRIVER)


@pytest.mark.parametrize("notification", [ReplyTimeout(), ReplyDead()])
def test_no_reply_is_an_error(notification: Notification) -> None:
    message = message_of(notification, 7)
    assert message is not None
    assert (message.type, message.error_name, message.reply_cookie) == (MessageType.ERROR, NO_REPLY, 7)
