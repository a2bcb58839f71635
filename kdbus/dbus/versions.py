# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages in either version of the wire format, by what they say of themselves.

On kdbus nearly everybody spoke the second version: sd-bus and GLib ignore what comes in the first. Early libdbus sent
the first, as it did to a daemon. The fourth byte of a message tells them apart in both byte orders, so whoever reads
need not be told; whoever writes has to know what the other understands.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from kdbus.dbus import version1, version2
from kdbus.dbus.errors import Malformed
from kdbus.dbus.gvariant import Order
from kdbus.dbus.message import Message

Version: TypeAlias = Literal[1, 2]
CLASSIC: Final = 1
"""What D-Bus daemons speak, and early libdbus spoke on kdbus."""
GVARIANT: Final = 2
"""What sd-bus and GLib spoke on kdbus."""


def version_of(data: bytes | memoryview) -> Version | None:
    """Which version a message claims to be of; None: it is no message."""
    if len(data) < 4 or data[0] not in b"lB":
        return None
    return CLASSIC if data[3] == CLASSIC else GVARIANT if data[3] == GVARIANT else None


def parse(data: bytes | memoryview) -> tuple[Message, Version]:
    """The message in exactly these bytes, and its version. Raises Malformed if it is none."""
    version = version_of(data)
    if version is None:
        raise Malformed(f"{len(data)} bytes that do not begin as a message of D-Bus does: {bytes(data[:4])!r}")
    return (version1.parse if version == CLASSIC else version2.parse)(data), version


def build(message: Message, version: Version, *, order: Order = "little") -> bytes:
    """The bytes of a message. Raises InvalidValue as `version1.build` and `version2.build` do."""
    return (version1.build if version == CLASSIC else version2.build)(message, order=order)
