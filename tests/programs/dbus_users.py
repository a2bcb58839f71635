# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of other users: let in or not, and in whose name they are on the bus. Needs root."""

from __future__ import annotations

import os
import sys
import traceback

from tests.programs.dbus_peer import Gone, Peer, Raw

OTHER = 65534


def as_another() -> None:
    """What the other user's client does."""
    os.setgroups([])
    os.setresgid(OTHER, OTHER, OTHER)
    os.setresuid(OTHER, OTHER, OTHER)
    try:
        raw = Raw()
    except PermissionError:
        print("the socket is closed to others", flush=True)
        return
    with raw:
        try:
            raw.socket.sendall(b"\0")
            print("root's name:", raw.line(f"AUTH EXTERNAL {b'0'.hex()}").partition(" ")[0], flush=True)
        except (Gone, OSError):
            print("hung up", flush=True)
            return
    with Peer() as client:
        print("user", client.driver("GetConnectionUnixUser", "s", client.name))
        print("process", client.driver("GetConnectionUnixProcessID", "s", client.name) == os.getpid())
        found = client.driver("GetConnectionCredentials", "s", client.name)
        print("credentials", found["UnixUserID"].value, OTHER in found["UnixGroupIDs"].value, flush=True)


def main() -> None:
    if sys.argv[1:] == ["open"]:
        path = os.environ["DBUS_SESSION_BUS_ADDRESS"].partition("path=")[2].partition(",")[0]
        os.chmod(os.path.dirname(path), 0o755)
        os.chmod(path, 0o666)
    child = os.fork()
    if child == 0:
        try:
            as_another()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)


main()
