# SPDX-License-Identifier: GPL-2.0-or-later
"""A D-Bus client for tests, which waits in every step, and can say what no library would."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self
from urllib.parse import unquote

from kdbus.dbus import version1
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import Message, MessageType, error, method_call, method_return, signal

DRIVER = "org.freedesktop.DBus"
PATIENCE = 30.0
"""Seconds to wait for what must come."""


class Gone(Exception):
    """The other side has closed the connection."""


class Raw:
    """A socket of a bus: bytes out, lines and messages in. `descriptors` have come along, and are the reader's."""

    def __init__(self, address: str = "") -> None:
        address = address or os.environ["DBUS_SESSION_BUS_ADDRESS"]
        words = dict(word.split("=", 1) for word in address.partition(":")[2].split(","))
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(unquote(words["path"]))
        self.descriptors: list[int] = []
        self._buffer = bytearray()

    def line(self, text: str) -> str:
        """Send a line of the authentication; the answer."""
        self.socket.sendall(text.encode() + b"\r\n")
        while b"\r\n" not in self._buffer:
            self._read()
        answer, _, rest = bytes(self._buffer).partition(b"\r\n")
        self._buffer = bytearray(rest)
        return answer.decode()

    def log_in(self, *, descriptors: bool = True) -> None:
        """Authenticate as who we are."""
        self.socket.sendall(b"\0")
        assert self.line(f"AUTH EXTERNAL {str(os.geteuid()).encode().hex()}").startswith("OK ")
        if descriptors:
            assert self.line("NEGOTIATE_UNIX_FD") == "AGREE_UNIX_FD"
        self.socket.sendall(b"BEGIN\r\n")

    def write(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send bytes, and descriptors beside the first of them."""
        if descriptors:
            sent = socket.send_fds(self.socket, [data], list(descriptors))
            data = data[sent:]
        self.socket.sendall(data)

    def read(self) -> Message:
        """The next message. Raises Gone, or TimeoutError."""
        while True:
            if len(self._buffer) >= 16:
                order = "<" if self._buffer[0] == ord("l") else ">"
                body, _, fields = struct.unpack_from(order + "3I", self._buffer, 4)
                size = (16 + fields + 7) // 8 * 8 + body
                if len(self._buffer) >= size:
                    data = bytes(self._buffer[:size])
                    del self._buffer[:size]
                    return version1.parse(data)
            self._read()

    def ended(self) -> bool:
        """Whether the other side closes the connection, whatever it says before."""
        try:
            while True:
                self._read()
        except Gone:
            return True
        except TimeoutError:
            return False

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 253))
        except (ConnectionResetError, BrokenPipeError):
            raise Gone from None
        for _, _, content in ancillary:
            self.descriptors += array.array("i", content)
        if not data:
            raise Gone
        self._buffer += data

    def close(self) -> None:
        self.socket.close()
        for number in self.descriptors:
            os.close(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Peer(Raw):
    """One that has said Hello. `others`: messages that came while something else was waited for."""

    def __init__(self, address: str = "", *, descriptors: bool = True) -> None:
        super().__init__(address)
        self._serial = 0
        self.others: deque[Message] = deque()
        self.log_in(descriptors=descriptors)
        self.name: str = self.driver("Hello")
        self.wait_for("NameAcquired")

    @property
    def name_id(self) -> int:
        """The id in the unique name."""
        return int(self.name.removeprefix(":1."))

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> int:
        """Send a message; its serial."""
        self._serial += 1
        self.write(version1.build(replace(message, cookie=self._serial, descriptors=len(descriptors))), descriptors)
        return self._serial

    def call(self, *words: Any, descriptors: Sequence[int] = (), **options: Any) -> Any:
        """As `message.method_call`: the values of the reply. Raises ErrorReply."""
        return self.reply_to(self.send(method_call(*words, **options), descriptors))

    def reply_to(self, serial: int) -> tuple[Any, ...]:
        """Wait for that reply. Raises ErrorReply."""
        reply = self.wait(lambda message: message.reply_cookie == serial)
        if reply.type == MessageType.ERROR:
            assert reply.error_name is not None
            raise ErrorReply(reply.error_name, *reply.body[:1])
        return reply.body

    def driver(self, member: str, signature: str = "", *body: Any) -> Any:
        """Call the driver: the value of the reply, None if it has none. Raises ErrorReply."""
        values = self.call(DRIVER, "/org/freedesktop/DBus", DRIVER, member, signature, body)
        return values[0] if values else None

    def wait(self, wanted: Callable[[Message], bool]) -> Message:
        """The first message that is wanted, of those that have come or will."""
        for message in self.others:
            if wanted(message):
                self.others.remove(message)
                return message
        while True:
            message = self.read()
            if wanted(message):
                return message
            self.others.append(message)

    def wait_for(self, member: str) -> Message:
        """The next call or signal of that name."""
        return self.wait(lambda message: message.member == member)

    def serve(self, member: str, signature: str = "", *body: Any, descriptors: Sequence[int] = ()) -> Message:
        """Wait for a call, and answer it; the call."""
        call = self.wait_for(member)
        self.send(replace(method_return(call, signature, body), sender=None), descriptors)
        return call

    def refuse(self, member: str, name: str, text: str) -> Message:
        """Wait for a call, and answer it with an error; the call."""
        call = self.wait_for(member)
        self.send(replace(error(call, name, text), sender=None))
        return call

    def emit(
        self, path: str, interface: str, member: str, signature: str = "", *body: Any, to: str | None = None
    ) -> None:
        """Send a signal."""
        self.send(signal(path, interface, member, signature, body, destination=to))

    def settle(self) -> list[Message]:
        """All that has come by now: the driver is called, so what was there before comes before."""
        self.driver("GetId")
        found = list(self.others)
        self.others.clear()
        return found
