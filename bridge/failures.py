# SPDX-License-Identifier: GPL-2.0-or-later
"""What D-Bus calls the failures of kdbus, for a client whose message did not arrive.

Names and texts are those of dbus-daemon 1.14 where it has the same failure, as programs compare the names and people
search for the texts.
"""

from __future__ import annotations

import errno
from typing import Final

from kdbus.dbus.errors import ErrorReply
from kdbus.errors import Denied, Error, NotFound, PeerGone, QueueFull

PREFIX: Final = "org.freedesktop.DBus.Error."
ACCESS_DENIED: Final = PREFIX + "AccessDenied"
FAILED: Final = PREFIX + "Failed"
INVALID_ARGS: Final = PREFIX + "InvalidArgs"
LIMITS_EXCEEDED: Final = PREFIX + "LimitsExceeded"
NO_OWNER: Final = PREFIX + "NameHasNoOwner"
NO_REPLY: Final = PREFIX + "NoReply"
NOT_SUPPORTED: Final = PREFIX + "NotSupported"
SERVICE_UNKNOWN: Final = PREFIX + "ServiceUnknown"
UNKNOWN_METHOD: Final = PREFIX + "UnknownMethod"

_LIMITS: Final = frozenset({errno.EMLINK, errno.E2BIG, errno.EMSGSIZE, errno.EMFILE})
_DESCRIPTORS: Final = frozenset({errno.ECOMM, errno.EOPNOTSUPP})


def not_sent(error: Error, destination: str, *, auto_start: bool = True) -> ErrorReply:
    """The answer to a call that kdbus did not take. `auto_start`: the caller would have liked the service started."""
    number = error.errno or 0
    if isinstance(error, NotFound) or number == errno.EADDRNOTAVAIL:
        return no_such_name(destination, auto_start=auto_start)
    if isinstance(error, QueueFull):
        return ErrorReply(LIMITS_EXCEEDED, f'The destination service "{destination}" has a full message queue')
    if isinstance(error, Denied):
        return ErrorReply(ACCESS_DENIED, f"The policy of the bus does not allow this message to {destination}")
    if isinstance(error, PeerGone) or number == errno.ECONNRESET:
        return gone()
    if number in _DESCRIPTORS:
        return ErrorReply(NOT_SUPPORTED, f"The file descriptors cannot be passed to {destination}: {error.meaning}")
    return ErrorReply(LIMITS_EXCEEDED if number in _LIMITS else FAILED, f"Not sent to {destination}: {error.meaning}")


def no_such_name(name: str, *, auto_start: bool) -> ErrorReply:
    """Nobody has the name, and nobody can be started for it."""
    if auto_start:
        return ErrorReply(SERVICE_UNKNOWN, f"The name {name} was not provided by any .service files")
    return ErrorReply(NO_OWNER, f'Name "{name}" does not exist')


def gone() -> ErrorReply:
    """The callee ended without a reply."""
    return ErrorReply(NO_REPLY, "Message recipient disconnected from message bus without replying")
