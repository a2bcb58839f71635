# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with D-Bus values and messages, split by whose fault it is.

`Malformed` is the peer's: bytes that came in are not what they claim to be. The others are the caller's: a value, name,
signature or rule that D-Bus does not have. All are ValueErrors, as all are about a value that was handed over, and all
are DBusErrors, so that one clause catches what this package raises.

`ErrorReply` is another matter: nothing is wrong with the message, it is the answer. A caller gets it instead of a
result, and a service raises it to give it.
"""

from __future__ import annotations


class DBusError(ValueError):
    """Anything that this package refuses."""


class InvalidSignature(DBusError):
    """Not a signature of D-Bus (or not a type of GVariant, where that is asked for)."""


class InvalidName(DBusError):
    """Not a valid name of a bus connection, interface, member or error, or not an object path."""


class InvalidValue(DBusError):
    """A value that its signature cannot hold, or a message that lacks what its type needs."""


class InvalidRule(DBusError):
    """Not a match rule."""


class Malformed(DBusError):
    """Bytes that are not what they claim to be: a peer is broken, or lies."""


class ErrorReply(Exception):
    """The answer to a call that failed: the error's name, such as "org.freedesktop.DBus.Error.Failed", and a text for
    people, which may be empty."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(f"{name}: {text}" if text else name)
        self.name = name
        self.text = text
