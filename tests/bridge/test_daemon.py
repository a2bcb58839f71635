# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of a D-Bus daemon, which is played here: addresses, and daemons that are none. Real ones are in
`tests/end_to_end/test_bridge.py`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from bridge.daemon import Ended, Unreachable, connect, paths_of
from bridge.limits import Limits
from kdbus.dbus import version1
from kdbus.dbus.kernel import DRIVER
from kdbus.dbus.message import Message, MessageType


@pytest.mark.parametrize(
    "address, paths",
    [
        ("unix:path=/run/bus", [b"/run/bus"]),
        ("unix:path=/a%20b%2c,guid=0123", [b"/a b,"]),
        ("unix:abstract=/tmp/x", [b"\0/tmp/x"]),
        ("tcp:host=a,port=1;unix:guid=1,path=/b;unix:path=/c", [b"/b", b"/c"]),
    ],
)
def test_addresses(address: str, paths: list[bytes]) -> None:
    assert paths_of(address) == paths


@pytest.mark.parametrize("address", ["", "unix:", "unix:tmpdir=/tmp", "tcp:host=a", "/run/bus", "unix"])
def test_addresses_without_a_socket(address: str) -> None:
    with pytest.raises(Unreachable):
        paths_of(address)


def hello(**answer: object) -> bytes:
    """The answer to Hello."""
    fields: dict[str, Any] = {"type": MessageType.METHOD_RETURN, "signature": "s", "body": (":1.7",), **answer}
    return version1.build(Message(cookie=1, reply_cookie=1, sender=DRIVER, **fields))


def play(path: Path, answers: Sequence[tuple[bytes, bytes]]) -> str:
    """The name that `connect` gets, or what it raises, of a daemon that says each of these when it has read each."""

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            for wanted, answer in answers:
                data = b""
                while wanted not in data:
                    data += connection.recv(1)
                connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass

    async def body() -> str:
        try:
            daemon = await connect(f"unix:path={path}", Limits(login_seconds=20))
        except Unreachable as error:
            return str(error)
        with pytest.raises(Ended):
            await daemon.receive()
        daemon.close()
        return daemon.name

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            return trio.run(body)
        finally:
            thread.join()


AUTHENTICATED = [(b"\r\n", b"OK 0123\r\n"), (b"NEGOTIATE_UNIX_FD\r\n", b"AGREE_UNIX_FD\r\n")]
HELLO = b"Hello\0"


@pytest.mark.parametrize(
    "answers, said",
    [
        ([*AUTHENTICATED, (HELLO, hello())], ":1.7"),
        ([(b"\r\n", b"REJECTED ANONYMOUS\r\n")], "it does not take this user: REJECTED ANONYMOUS"),
        ([(b"\0", b"x" * 20000)], "it does not speak D-Bus"),
        ([(b"\0", b"")], "it does not speak D-Bus"),
        ([*AUTHENTICATED, (HELLO, b"")], "the daemon has closed the connection"),
        (
            [*AUTHENTICATED, (HELLO, hello(type=MessageType.ERROR, error_name="a.b", body=("no",)))],
            "it refuses Hello: a.b: ('no',)",
        ),
    ],
)
def test_daemons(answers: list[tuple[bytes, bytes]], said: str, tmp_path: Path) -> None:
    assert play(tmp_path / "socket", answers) == said


def test_nobody_listens(tmp_path: Path) -> None:
    async def body() -> None:
        with pytest.raises(Unreachable, match="No such file or directory"):
            await connect(f"unix:path={tmp_path}/nothing", Limits())

    trio.run(body)
