# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection to a bus of a D-Bus daemon, as one of its clients.

Source: D-Bus Specification, "Authentication Protocol", "Server Addresses". Of the mechanisms EXTERNAL is spoken, of the
transports unix sockets. As at the other end (`bridge.client`), messages are queued and never waited for (`Stream`);
whoever passes many on waits for `room`.

One task has to `receive`, for all who `ask` the daemon something: what it takes, it hands to `answered` first.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import trio

from bridge.framing import Framing
from bridge.identity import Identity, connect_as
from bridge.limits import Limits
from bridge.stream import Stream
from bridge.threads import compute
from kdbus.dbus import version1
from kdbus.dbus.errors import ErrorReply, InvalidValue
from kdbus.dbus.kernel import DRIVER, DRIVER_PATH
from kdbus.dbus.message import MAX_SIZE, Message, MessageType, method_call
from kdbus.received import Descriptor

_LARGEST_SERIAL: Final = 0xFFFFFFFF
_LONGEST_LINE: Final = 16 << 10


Answered = Callable[[Message | None], None]


class Unreachable(Exception):
    """There is no daemon, or it does not take us; the text says why."""


class Ended(Exception):
    """The daemon has ended the connection."""


def paths_of(address: str) -> list[bytes]:
    """The sockets in an address, abstract ones with a zero in front. Raises Unreachable if there is none."""
    found = []
    for each in address.split(";"):
        kind, _, words = each.partition(":")
        values = dict(word.partition("=")[::2] for word in words.split(","))
        if kind == "unix" and "path" in values:
            found.append(unquote_to_bytes(values["path"]))
        elif kind == "unix" and "abstract" in values:
            found.append(b"\0" + unquote_to_bytes(values["abstract"]))
    if not found:
        raise Unreachable(f"{address!r} has neither unix:path= nor unix:abstract=")
    return found


class Received(NamedTuple):
    """A message, the descriptors that came with it, which whoever takes it closes, and whether it is a large one."""

    message: Message
    descriptors: list[Descriptor]
    large: bool


class Daemon:
    """One connection. `name`: its unique name; `passes_descriptors`: whether they can be sent. `before_waiting` is
    called when no whole message is left to be received."""

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        """On a connected socket, which is closed with this; `log_in` comes first."""
        self.passes_descriptors = False
        self.name = ""
        self.before_waiting: Callable[[], None] = lambda: None
        self._limits = limits
        self._stream = Stream(connection, limits.descriptors)
        self._framing = Framing(MAX_SIZE, limits.descriptors)
        self._serial = 0
        self._asked: dict[int, Answered] = {}

    def send(self, message: Message, descriptors: Sequence[Descriptor] = ()) -> int:
        """Queue a message, whose descriptors are closed in any case; returns its serial. Raises InvalidValue."""
        self._serial = self._serial % _LARGEST_SERIAL + 1
        try:
            data = version1.build(replace(message, cookie=self._serial, sender=None))
            if descriptors and not self.passes_descriptors:
                raise InvalidValue("the daemon takes no file descriptors")
        except InvalidValue:
            for descriptor in descriptors:
                descriptor.close()
            raise
        self._stream.put(data, descriptors)
        self._stream.flush()
        return self._serial

    async def receive(self) -> Received:
        """The next message. Raises Ended, OSError or Malformed."""
        while (data := self._framing.next()) is None:
            self.before_waiting()
            content, descriptors = await self._stream.read()
            if not content:
                raise Ended("the daemon has closed the connection")
            self._framing.feed(content, descriptors)
        large = len(data) > self._limits.on_loop
        message = await compute(large, version1.parse, data)
        return Received(message, self._framing.claim(message.descriptors), large)

    @property
    def has_more(self) -> bool:
        """Whether something has come that was not received."""
        return self._stream.is_readable

    async def room(self, bytes_: int) -> None:
        """Wait until fewer bytes than that are queued."""
        await self._stream.room(bytes_)

    async def write_all(self) -> None:
        """Write what cannot be written at once, until this is cancelled. Raises OSError."""
        await self._stream.write_all()

    # ---- the daemon itself

    def call(self, then: Answered, member: str, signature: str = "", *body: Any) -> None:
        """Call the driver; `then` gets its answer, or None at the end of the connection."""
        serial = self.send(method_call(DRIVER, DRIVER_PATH, DRIVER, member, signature, body))
        self._asked[serial] = then

    async def ask(self, member: str, signature: str = "", *body: Any) -> tuple[Any, ...]:
        """Call the driver and wait. Raises ErrorReply or Ended."""
        answers: list[Message | None] = []
        event = trio.Event()

        def take(answer: Message | None) -> None:
            answers.append(answer)
            event.set()

        self.call(take, member, signature, *body)
        await event.wait()
        (answer,) = answers
        if answer is None:
            raise Ended("the connection has ended")
        if answer.type == MessageType.ERROR:
            raise ErrorReply(answer.error_name or "", str(answer.body[0]) if answer.signature[:1] == "s" else "")
        return answer.body

    def answered(self, message: Message) -> bool:
        """Hand a message to whoever asked for it; False if nobody did."""
        then = None if message.reply_cookie is None else self._asked.pop(message.reply_cookie, None)
        if then is None:
            return False
        then(message)
        return True

    def close(self) -> None:
        """End it. Whoever waits for an answer is told. Idempotent."""
        asked, self._asked = self._asked, {}
        for then in asked.values():
            then(None)
        self._framing.close()
        self._stream.close()

    # ---- the beginning

    async def log_in(self, user: int) -> None:
        """Authenticate as that user, who has connected, and say Hello. Raises Unreachable, Ended or OSError."""
        await self._stream.write(b"\0")
        answer = await self._line(f"AUTH EXTERNAL {str(user).encode().hex()}")
        if not answer.startswith(b"OK"):
            raise Unreachable(f"it does not take this user: {answer.decode(errors='replace')}")
        self.passes_descriptors = await self._line("NEGOTIATE_UNIX_FD") == b"AGREE_UNIX_FD"
        await self._stream.write(b"BEGIN\r\n")
        self.call(lambda _: None, "Hello")
        hello = (await self.receive()).message
        if hello.type != MessageType.METHOD_RETURN:
            raise Unreachable(f"it refuses Hello: {hello.error_name}: {hello.body}")
        self.answered(hello)
        self.name = str(hello.body[0])

    async def _line(self, text: str) -> bytes:
        """Send a line, and read one."""
        await self._stream.write(text.encode() + b"\r\n")
        line = b""
        while not line.endswith(b"\r\n"):
            data, _ = await self._stream.read()
            line += data
            if not data or len(line) > _LONGEST_LINE:
                raise Unreachable("it does not speak D-Bus")
        return line.removesuffix(b"\r\n")


async def connect(address: str, limits: Limits, identity: Identity | None = None) -> Daemon:
    """A connection to the first socket of the address that takes one, as somebody else if there is an identity. Raises
    Unreachable."""
    reason = ""
    for path in paths_of(address):
        connection = socket.socket(socket.AF_UNIX)
        try:
            if identity is None:
                await trio.to_thread.run_sync(connection.connect, path)
            else:
                await trio.to_thread.run_sync(connect_as, identity, connection, path)
            found = Daemon(connection, limits)
            with trio.fail_after(limits.login_seconds):
                await found.log_in(os.geteuid() if identity is None else identity.user)
        except (OSError, Unreachable, Ended, trio.TooSlowError) as error:
            connection.close()
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        except BaseException:
            connection.close()
            raise
        else:
            return found
    raise Unreachable(reason or "it does not answer")
