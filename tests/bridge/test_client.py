# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that get no further than the door: no kdbus is needed for those. Time is simulated."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bridge.client import Client, Terms
from bridge.house import House
from bridge.limits import Limits
from bridge.proxy import Proxy, new_guid
from bridge.stream import who

LIMITS = Limits(unauthenticated=2)
TERMS = Terms("no such bus", new_guid(), LIMITS)


@asynccontextmanager
async def served() -> AsyncIterator[trio.socket.SocketType]:
    """The client's end of a connection that is served."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Client(socket.socket(fileno=theirs.detach()), TERMS, House()).serve)
            yield ours
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("said", [b"", b"\0", b"\0AUTH EXTERNAL\r\n", b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\nl\1\0\1"])
async def test_who_does_not_say_hello_is_cut_off(said: bytes, autojump_clock: MockClock) -> None:
    async with served() as client:
        await client.send(said)
        before = trio.current_time()
        while await client.recv(100):
            pass
        assert trio.current_time() - before == pytest.approx(LIMITS.login_seconds)


@pytest.mark.parametrize("said", [b"x", b"\0BEGIN\r\n", b"\0" + b"A" * 20_000, b"\0AUTH\r\n" + b"AUTH\r\n" * 10])
async def test_who_breaks_the_rules_is_cut_off_at_once(said: bytes, autojump_clock: MockClock) -> None:
    async with served() as client:
        before = trio.current_time()
        await client.send(said)
        with suppress(ConnectionResetError):
            while await client.recv(100):
                pass
        assert trio.current_time() == before


async def test_strangers_wait_until_there_are_fewer(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As with dbus-daemon: two hundred programs that start at once all get in."""
    listening = trio.socket.socket(socket.AF_UNIX)
    await listening.bind(f"{tmp_path}/bus")
    listening.listen()
    with listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Proxy(TERMS).serve, listening)
            clients = [trio.socket.socket(socket.AF_UNIX) for _ in range(3)]
            for client in clients:
                await client.connect(f"{tmp_path}/bus")
                await client.send(b"\0AUTH\r\n")
            for client in clients[:2]:
                assert (await client.recv(100)).startswith(b"REJECTED")
            with trio.move_on_after(LIMITS.login_seconds / 2) as waited:
                await clients[2].recv(100)
            assert waited.cancelled_caught
            clients[0].close()
            assert (await clients[2].recv(100)).startswith(b"REJECTED")
            for client in clients[1:]:
                client.close()
            nursery.cancel_scope.cancel()


def test_the_kernel_says_who_a_client_is() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        assert who(theirs) == (os.getpid(), os.geteuid(), os.getegid())
