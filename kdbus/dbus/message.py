# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of D-Bus as values, whatever bytes they travel in.

A `Message` is checked when it is made: names are names, and what its type demands is there (D-Bus Specification,
"Message Types"). So whoever holds one need not ask again. That the body fits the signature is found out when it is
marshalled, as this costs as much as marshalling.

Fields have D-Bus's names, with two exceptions of the second version of the wire format: the serial number is a *cookie*
and has 64 bits, and so has the one that a reply refers to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Any, Final

from kdbus.dbus import names
from kdbus.dbus.errors import InvalidValue
from kdbus.dbus.signature import split

MAX_SIZE: Final = 1 << 27
"""Bytes of a message, header included (D-Bus Specification, "Message Protocol")."""
LOCAL_INTERFACE: Final = "org.freedesktop.DBus.Local"
LOCAL_PATH: Final = "/org/freedesktop/DBus/Local"
"""What D-Bus keeps for messages that a library makes for itself; none may come from a bus."""


class MessageType(IntEnum):
    """What a message is for."""

    METHOD_CALL = 1
    METHOD_RETURN = 2
    ERROR = 3
    SIGNAL = 4


class Flag(IntFlag):
    """What a message says of its treatment."""

    NO_REPLY_EXPECTED = 1
    NO_AUTO_START = 2
    ALLOW_INTERACTIVE_AUTHORIZATION = 4


NO_FLAGS: Final = Flag(0)
FLAGS: Final = tuple(Flag(number) for number in range(8))
"""By number: looking them up takes a tenth of making them."""
TYPES: Final = {int(kind): kind for kind in MessageType}
"""The same of types."""
_REMEMBERED: Final = 1024
_LONGEST_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. Raises InvalidName, InvalidSignature or InvalidValue if it cannot be one.

    `cookie` is 0 as long as nobody sent it. `body` has one value per complete type in `signature`; `descriptors` is how
    many file descriptors go with it, which values of the type `h` count from 0.
    """

    type: MessageType
    flags: Flag = NO_FLAGS
    cookie: int = 0
    path: str | None = None
    interface: str | None = None
    member: str | None = None
    error_name: str | None = None
    reply_cookie: int | None = None
    destination: str | None = None
    sender: str | None = None
    signature: str = ""
    body: tuple[Any, ...] = ()
    descriptors: int = 0

    def __post_init__(self) -> None:
        # Who sends, sends the same again and again: what is about words alone is remembered.
        check = _checked if len(self.path or "") < _LONGEST_REMEMBERED else _checked.__wrapped__
        values = check(
            self.type,
            self.path,
            self.interface,
            self.member,
            self.error_name,
            self.destination,
            self.sender,
            self.signature,
            self.reply_cookie is not None,
        )
        if not 0 <= self.cookie < 1 << 64:
            raise InvalidValue(f"the cookie {self.cookie}")
        if self.reply_cookie is not None and not 0 < self.reply_cookie < 1 << 64:
            raise InvalidValue(f"a reply to the cookie {self.reply_cookie}")
        if not 0 <= self.descriptors < 1 << 32:
            raise InvalidValue(f"{self.descriptors} file descriptors")
        if values != len(self.body):
            raise InvalidValue(f"{len(self.body)} values with the signature {self.signature!r}")

    @property
    def expects_reply(self) -> bool:
        """Whether somebody waits for a reply."""
        return self.type == MessageType.METHOD_CALL and not int(self.flags) & 1


_REQUIRED: Final = {
    MessageType.METHOD_CALL: ("path", "member"),
    MessageType.METHOD_RETURN: ("reply_cookie",),
    MessageType.ERROR: ("reply_cookie", "error_name"),
    MessageType.SIGNAL: ("path", "interface", "member"),
}


@lru_cache(maxsize=_REMEMBERED)
def _checked(
    kind: MessageType,
    path: str | None,
    interface: str | None,
    member: str | None,
    error_name: str | None,
    destination: str | None,
    sender: str | None,
    signature: str,
    is_reply: bool,
) -> int:
    """How many values the body has to have. Raises as Message does."""
    for name, check in (
        (path, names.check_path),
        (interface, names.check_interface),
        (member, names.check_member),
        (error_name, names.check_interface),
        (destination, names.check_bus_name),
        (sender, names.check_bus_name),
    ):
        if name is not None:
            check(name)
    given = {"path": path, "interface": interface, "member": member, "error_name": error_name}
    given["reply_cookie"] = "" if is_reply else None
    required = _REQUIRED[kind]
    missing = [name for name in required if given[name] is None]
    if missing:
        raise InvalidValue(f"a {kind.name} without {' and '.join(missing)}")
    if is_reply and "reply_cookie" not in required:
        raise InvalidValue(f"a {kind.name} that claims to be a reply")
    if interface == LOCAL_INTERFACE or path == LOCAL_PATH:
        raise InvalidValue("a message that claims to be the library's own (org.freedesktop.DBus.Local)")
    return len(split(signature))


def method_call(
    destination: str | None,
    path: str,
    interface: str | None,
    member: str,
    signature: str = "",
    body: tuple[Any, ...] = (),
    *,
    flags: Flag = NO_FLAGS,
    descriptors: int = 0,
) -> Message:
    """A call of a method; without an interface, the called one chooses among methods of that name."""
    return Message(
        type=MessageType.METHOD_CALL,
        flags=flags,
        path=path,
        interface=interface,
        member=member,
        destination=destination,
        signature=signature,
        body=body,
        descriptors=descriptors,
    )


def signal(
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    body: tuple[Any, ...] = (),
    *,
    destination: str | None = None,
) -> Message:
    """A signal, to all who want it unless it has a destination."""
    return Message(
        type=MessageType.SIGNAL,
        flags=Flag.NO_REPLY_EXPECTED,
        path=path,
        interface=interface,
        member=member,
        destination=destination,
        signature=signature,
        body=body,
    )


def method_return(call: Message, signature: str = "", body: tuple[Any, ...] = (), *, descriptors: int = 0) -> Message:
    """The reply to a call that was received."""
    return Message(
        type=MessageType.METHOD_RETURN,
        flags=Flag.NO_REPLY_EXPECTED,
        reply_cookie=call.cookie,
        destination=call.sender,
        signature=signature,
        body=body,
        descriptors=descriptors,
    )


def error(call: Message, name: str, text: str = "") -> Message:
    """The reply to a call that failed: the error's name, and what a person may read."""
    return Message(
        type=MessageType.ERROR,
        flags=Flag.NO_REPLY_EXPECTED,
        reply_cookie=call.cookie,
        error_name=name,
        destination=call.sender,
        signature="s",
        body=(text,),
    )
