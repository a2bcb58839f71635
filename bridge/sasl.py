# SPDX-License-Identifier: GPL-2.0-or-later
"""How a client of a D-Bus socket says who it is: the server's side, lines in and lines out.

Source: D-Bus Specification, "Authentication Protocol" and "Authentication state diagrams". After a zero byte the client
sends lines that end with CR LF, until BEGIN; messages follow. Two mechanisms are offered:

*EXTERNAL*: the client is who the kernel says it is (SO_PEERCRED). It may name a user id, in decimal, which then must be
that one: nobody acts for another here.

*ANONYMOUS*, where it is allowed: the client claims nothing. What the kernel says of it stands nevertheless.

Bounds: a line has at most 16 KiB, as in libdbus, and a client may be rejected so many times as there.
"""

from __future__ import annotations

from typing import Final

_LONGEST_LINE: Final = 16 << 10
_MOST_FAILURES: Final = 6


class Refused(Exception):
    """The client cannot be talked to any more."""


class Authentication:
    """The conversation with one client. `done` when it has sent BEGIN; `passes_descriptors`: that was agreed upon."""

    def __init__(self, user: int, guid: str, *, anonymous: bool = False) -> None:
        """`user`: who the client is, as the kernel says; `guid`: 32 hexadecimal digits of the socket."""
        self.done = False
        self.passes_descriptors = False
        self._user = user
        self._guid = guid
        self._mechanisms = ("EXTERNAL", "ANONYMOUS") if anonymous else ("EXTERNAL",)
        self._buffer = bytearray()
        self._greeted = False
        self._waits_for_data = ""
        self._accepted = False
        self._failures = 0

    def take(self, data: bytes) -> bytes:
        """What to send when these bytes came. Raises Refused."""
        self._buffer += data
        answer = b""
        if self._buffer and not self._greeted:
            if self._buffer.pop(0):
                raise Refused("the first byte is not zero")
            self._greeted = True
        while not self.done:
            end = self._buffer.find(b"\r\n")
            if end > _LONGEST_LINE or (end < 0 and len(self._buffer) > _LONGEST_LINE):
                raise Refused(f"a line of more than {_LONGEST_LINE} bytes")
            if end < 0:
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            answer += self._line(line)
        return answer

    def rest(self) -> bytes:
        """What came behind BEGIN: the beginning of the messages."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        return rest

    def _line(self, line: bytes) -> bytes:
        try:
            command, _, argument = line.decode("ascii").partition(" ")
        except UnicodeDecodeError:
            return b'ERROR "Not ASCII"\r\n'
        if command == "BEGIN":
            if not self._accepted:
                raise Refused("BEGIN without authentication")
            self.done = True
            return b""
        if command == "NEGOTIATE_UNIX_FD" and self._accepted:
            self.passes_descriptors = True
            return b"AGREE_UNIX_FD\r\n"
        if command == "AUTH" and not self._accepted:
            return self._begin(argument)
        if command == "DATA" and self._waits_for_data:
            return self._prove(self._waits_for_data, argument)
        if command in ("CANCEL", "ERROR"):
            return self._reject()
        return b'ERROR "Unknown command, or not now"\r\n'

    def _begin(self, argument: str) -> bytes:
        mechanism, space, initial = argument.partition(" ")
        if mechanism not in self._mechanisms:
            return self._reject()
        if not space:
            self._waits_for_data = mechanism
            return b"DATA\r\n"
        return self._prove(mechanism, initial)

    def _prove(self, mechanism: str, argument: str) -> bytes:
        self._waits_for_data = ""
        try:
            claimed = bytes.fromhex(argument).decode()
        except ValueError:
            return self._reject()
        if mechanism == "EXTERNAL" and claimed not in ("", str(self._user)):
            return self._reject()
        self._accepted = True
        return f"OK {self._guid}\r\n".encode()

    def _reject(self) -> bytes:
        self._waits_for_data = ""
        self._accepted = False
        self.passes_descriptors = False
        self._failures += 1
        if self._failures > _MOST_FAILURES:
            raise Refused("too many failures")
        return f"REJECTED {' '.join(self._mechanisms)}\r\n".encode()
