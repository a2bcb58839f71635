# SPDX-License-Identifier: GPL-2.0-or-later
"""Fakes: peers that a test makes up, which own a name and answer what comes.

What a fake answers is said in one of two ways: for programs that speak D-Bus, by the names of methods; for all others
by bytes, or a function of the request's bytes. D-Bus is answered in the version of the wire format that the request is
in: GVariant as a rule. Handlers run in the test's process, in a thread; one that fails makes the test fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from kdbus.dbus import message as dbus
from kdbus.dbus.errors import DBusError, ErrorReply, Malformed
from kdbus.dbus.handles import replaced
from kdbus.dbus.message import Message, MessageType
from kdbus.dbus.versions import GVARIANT, Version, build, parse
from kdbus.received import Descriptor
from pytest_kdbus.agent import COOKIE


@dataclass(frozen=True)
class Passing:
    """A reply in bytes, with descriptors (numbers, or what has a `fileno`), of which the receiver gets copies."""

    payload: bytes
    descriptors: Sequence[HasFileno | int] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.payload, bytes | bytearray | memoryview):
            raise TypeError(f"the payload {self.payload!r} is not bytes, such as b'text' or 'text'.encode()")


class HasFileno(Protocol):
    """A file, a socket, ..."""

    def fileno(self) -> int: ...


Reply = Any
"""Nothing, a string, a bool, a tuple of a signature and its values, an ErrorReply, or what gives one of these."""
Raw = bytes | Passing | None
Replies = bytes | Passing | Callable[[bytes], Raw] | Mapping[str, Reply]
_UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"


@dataclass(frozen=True)
class Request:
    """A message that came to a fake."""

    payload: bytes
    sender: int
    """The id of the connection that sent it."""
    message: Message | None
    """What it says in D-Bus; None for a fake that does not speak it, and for what is no D-Bus."""
    version: Version | None = None
    """Of the wire format that it said so in."""
    descriptors: tuple[Descriptor, ...] = ()
    """Those that came with it. Each closes itself when it is forgotten, unless it is taken."""

    @property
    def member(self) -> str | None:
        """The method that was called."""
        return None if self.message is None else self.message.member

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What it was called with."""
        return () if self.message is None else self.message.body


class Fake:
    """A peer that is made up."""

    def __init__(self, name: str, replies: Replies | None, number: int) -> None:
        """`name` is its well-known name, empty for a listener; `number` is by what the agent knows it. Raises
        TypeError if that can be no replies."""
        if not (replies is None or callable(replies) or isinstance(replies, bytes | Passing | Mapping)):
            raise TypeError(f"a fake's replies are {replies!r}: give bytes, a function, or a dictionary by method")
        self.name = name
        self.number = number
        self.id = 0
        """Of its connection."""
        self.requests: list[Request] = []
        """All that has come so far."""
        self.errors: list[Exception] = []
        """What handlers have raised."""
        self._replies = replies
        self._news: SimpleQueue[Request] = SimpleQueue()

    def next(self, seconds: float = 10.0) -> Request:
        """The next message that this has not returned yet, which is waited for. Raises TimeoutError."""
        try:
            return self._news.get(timeout=seconds)
        except Empty:
            whom = self.name or f"connection {self.id}"
            raise TimeoutError(f"no message came to {whom} within {seconds} s") from None

    def answer(self, payload: bytes, sender: int, descriptors: Sequence[int] = ()) -> Passing | None:
        """What to reply to a message, None for nothing. Takes over the descriptors."""
        try:
            request = self._request(payload, sender, tuple(map(Descriptor, descriptors)))
            self.requests.append(request)
            self._news.put(request)
            if isinstance(self._replies, Mapping):
                found = _dbus_answer(self._replies, request)
            else:
                reply = self._replies(payload) if callable(self._replies) else self._replies
                found = reply if reply is None or isinstance(reply, Passing) else Passing(reply)
            if found is not None:
                numbers(found)  # raises here what would otherwise be raised where it is sent
            return found
        except Exception as error:
            self.errors.append(error)
            return None

    def _request(self, payload: bytes, sender: int, descriptors: tuple[Descriptor, ...]) -> Request:
        if isinstance(self._replies, Mapping):
            return Request(payload, sender, *_parsed(payload, descriptors), descriptors)
        if self._replies is None:
            with suppress(DBusError):
                return Request(payload, sender, *_parsed(payload, descriptors), descriptors)
        return Request(payload, sender, None, None, descriptors)


def _parsed(payload: bytes, descriptors: Sequence[Descriptor]) -> tuple[Message, Version]:
    """A message, whose values of the type `h` are the descriptors instead of their indexes, and its version."""
    message, version = parse(payload)

    def descriptor(index: int) -> Descriptor:
        if index >= len(descriptors):
            raise Malformed(f"the descriptor {index} of {len(descriptors)}")
        return descriptors[index]

    return replace(message, body=replaced(message.signature, message.body, descriptor)), version


def _dbus_answer(replies: Mapping[str, Reply], request: Request) -> Passing | None:
    call, version = request.message, request.version
    if call is None or version is None or call.type != MessageType.METHOD_CALL or not call.expects_reply:
        return None
    member = call.member or ""
    if member not in replies:
        return _built(dbus.error(call, _UNKNOWN_METHOD, f"this fake has no method {member}"), version)
    reply = replies[member]
    try:
        value = reply(*call.body) if callable(reply) else reply
    except ErrorReply as error:
        value = error
    if isinstance(value, ErrorReply):
        return _built(dbus.error(call, value.name, value.text), version)
    signature, body = _typed(value)
    return _built(dbus.method_return(call, signature, body), version)


def _typed(value: Reply) -> tuple[str, tuple[Any, ...]]:
    """The signature and the values of a reply."""
    if value is None:
        return "", ()
    if isinstance(value, bool):
        return "b", (value,)
    if isinstance(value, str):
        return "s", (value,)
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return value[0], value[1:]
    raise TypeError(f"a fake's reply is {value!r}: say of which type it is, as in ('u', 5) or ('as', ['a', 'b'])")


def _built(message: Message, version: Version) -> Passing:
    """A message as bytes of that version; values of the type `h` are descriptors."""
    passed: list[HasFileno | int] = []

    def index(value: HasFileno | int) -> int:
        passed.append(value)
        return len(passed) - 1

    body = replaced(message.signature, message.body, index)
    whole = replace(message, body=body, cookie=COOKIE, descriptors=len(passed))
    return Passing(build(whole, version), passed)


def numbers(passing: Passing) -> list[int]:
    """The numbers of the descriptors that go with it."""
    return [each if isinstance(each, int) else each.fileno() for each in passing.descriptors]


def dbus_call(name: str, path: str, interface: str, member: str, signature: str, arguments: tuple[Any, ...]) -> Passing:
    """A call of a method."""
    return _built(dbus.method_call(name, path, interface, member, signature, arguments), GVARIANT)


def dbus_signal(
    path: str, interface: str, member: str, signature: str, arguments: tuple[Any, ...], size: int, hashes: int
) -> tuple[bytes, bytes]:
    """A signal, and its bloom filter, of that many bytes and hashes."""
    from kdbus.dbus.bloom import filter_of  # which needs the extra `dbus`

    message = dbus.signal(path, interface, member, signature, arguments)
    return _built(message, GVARIANT).payload, filter_of(message, size=size, hashes=hashes)


def dbus_result(payload: bytes, descriptors: Sequence[int] = ()) -> Any:
    """What a reply says: nothing, a value, or a tuple of several. Takes over the descriptors, which are what values of
    the type `h` become. Raises ErrorReply."""
    reply, _ = _parsed(payload, tuple(map(Descriptor, descriptors)))
    if reply.type == MessageType.ERROR:
        raise ErrorReply(reply.error_name or "", str(reply.body[0]) if reply.body else "")
    return reply.body[0] if len(reply.body) == 1 else reply.body or None
