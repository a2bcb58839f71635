# SPDX-License-Identifier: GPL-2.0-or-later
"""How `kdbus serve` and `kdbus proxy` are started by others, and tell them that they can be connected to.

Four conventions, each of them somebody's own: a descriptor that gets a newline and is closed (s6, and any script with a
pipe); `sd_notify` (sd_notify(3), systemd's `Type=notify`); a socket that the service manager made and listens on until
the server is there (sd_listen_fds(3)); and a line for a person at a terminal. The socket under its name is a fifth: it
appears when it can be connected to.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from interposer.errors import DomainUnavailable, UsageError, quoted

_FIRST_PASSED = 3
"""Number of the first descriptor that a service manager passes: SD_LISTEN_FDS_START."""


class Readiness:
    """Who is to be told when the server is ready, and that it ends."""

    def __init__(self, number: str | None) -> None:
        """`number`: what the command line says of a descriptor. Raises UsageError if it is not one that is open."""
        self._descriptor = -1 if number is None else _opened(number)

    def ready(self, line: str) -> None:
        """Tell everybody that the server listens; a person at the terminal gets the line. Whoever has gone is not told.
        """
        if self._descriptor >= 0:
            with suppress(OSError):
                os.write(self._descriptor, b"\n")
            os.close(self._descriptor)
            self._descriptor = -1
        _notify(b"READY=1")
        if os.isatty(2):
            with suppress(OSError):
                os.write(2, os.fsencode(f"{line}\n"))

    def stopping(self) -> None:
        """Tell whoever manages services that the server ends."""
        _notify(b"STOPPING=1")


def passed_socket(kind: int) -> socket.socket | None:
    """The listening socket that a service manager has passed to this very process; None if there is none.

    `kind`: of socket, SOCK_SEQPACKET or SOCK_STREAM. Raises DomainUnavailable for one of another, or for several.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    attempted = "taking over the socket that the service manager listens on"
    if os.environ.get("LISTEN_FDS") != "1":
        raise DomainUnavailable(attempted, f"LISTEN_FDS is {os.environ.get('LISTEN_FDS')}", "pass one socket")
    try:
        found = socket.socket(fileno=_FIRST_PASSED)
    except OSError as error:
        raise DomainUnavailable(attempted, os.strerror(error.errno or 0), "pass an open socket") from error
    if (found.family, found.type) != (socket.AF_UNIX, kind):
        key = "ListenStream" if kind == socket.SOCK_STREAM else "ListenSequentialPacket"
        raise DomainUnavailable(attempted, "it is of another kind", f"a unit needs {key}=PATH")
    found.set_inheritable(False)
    found.setblocking(False)
    return found


def _opened(number: str) -> int:
    attempted = f"telling descriptor {quoted(number)} when the server is ready"
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise UsageError(attempted, "it is no number", "such as: kdbus serve --socket PATH --ready-fd 4 4>FILE")
    try:
        os.set_inheritable(int(number), False)
    except OSError as error:
        raise UsageError(attempted, os.strerror(error.errno or 0), "open it: --ready-fd 4 4>FILE") from error
    return int(number)


def _notify(state: bytes) -> None:
    """Tell whoever manages services, if anybody does; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        name = "\0" + address[1:] if address.startswith("@") else address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state, name)
