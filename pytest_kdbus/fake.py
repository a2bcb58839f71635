# SPDX-License-Identifier: GPL-2.0-or-later
"""Fakes: peers that a test makes up, which own a name and answer what comes.

What a fake answers is said in one of two ways: for programs that speak D-Bus (GVariant, as sd-bus did on kdbus) by the
names of methods; for all others by bytes, or a function of the request's bytes. Handlers run in the test's process, in
a thread; one that fails makes the test fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from kdbus.dbus import message as dbus
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import Message, MessageType
from kdbus.dbus.version2 import build, parse
from pytest_kdbus.agent import COOKIE

Reply = Any
"""Nothing, a string, a bool, a tuple of a signature and its values, an ErrorReply, or what gives one of these."""
Replies = bytes | Callable[[bytes], bytes | None] | Mapping[str, Reply]
_UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"


@dataclass(frozen=True)
class Request:
    """A message that came to a fake."""

    payload: bytes
    sender: int
    """The id of the connection that sent it."""
    message: Message | None
    """What it says in D-Bus; None for a fake that does not speak it."""

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

    def __init__(self, name: str, replies: Replies) -> None:
        """`name` is its well-known name."""
        self.name = name
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
            raise TimeoutError(f"no message came to {self.name} within {seconds} s") from None

    def answer(self, payload: bytes, sender: int) -> bytes | None:
        """What to reply to a message, None for nothing."""
        try:
            speaks_dbus = isinstance(self._replies, Mapping)
            request = Request(payload, sender, parse(payload) if speaks_dbus else None)
            self.requests.append(request)
            self._news.put(request)
            if isinstance(self._replies, Mapping):
                return _dbus_answer(self._replies, request)
            return self._replies(payload) if callable(self._replies) else self._replies
        except Exception as error:
            self.errors.append(error)
            return None


def _dbus_answer(replies: Mapping[str, Reply], request: Request) -> bytes | None:
    call = request.message
    if call is None or call.type != MessageType.METHOD_CALL or not call.expects_reply:
        return None
    member = call.member or ""
    if member not in replies:
        return _built(dbus.error(call, _UNKNOWN_METHOD, f"this fake has no method {member}"))
    reply = replies[member]
    try:
        value = reply(*call.body) if callable(reply) else reply
    except ErrorReply as error:
        value = error
    if isinstance(value, ErrorReply):
        return _built(dbus.error(call, value.name, value.text))
    signature, body = _typed(value)
    return _built(dbus.method_return(call, signature, body))


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


def _built(message: Message) -> bytes:
    return build(replace(message, cookie=COOKIE))


def dbus_call(name: str, path: str, interface: str, member: str, signature: str, arguments: tuple[Any, ...]) -> bytes:
    """The payload of a call of a method."""
    return _built(dbus.method_call(name, path, interface, member, signature, arguments))


def dbus_result(payload: bytes) -> Any:
    """What a reply says: nothing, a value, or a tuple of several. Raises ErrorReply."""
    reply = parse(payload)
    if reply.type == MessageType.ERROR:
        raise ErrorReply(reply.error_name or "", str(reply.body[0]) if reply.body else "")
    return reply.body[0] if len(reply.body) == 1 else reply.body or None
