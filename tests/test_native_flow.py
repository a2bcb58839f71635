# SPDX-License-Identifier: GPL-2.0-or-later
"""The flow engine by itself: a real process calls, and what the engine hands back is looked at.

What the engine does for programs is compared with the broker in `test_flows.py`; here is what only shows in its state.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from broker import revision3 as abi
from broker.layout import U64
from broker.lending import LENT_DOMAINS
from native import identity
from native.flow import Engine
from native.notification import EndOfTargets
from native.pool import Pool
from tests.targets import PATIENCE_NS, start_target, traps_of

POOL_SIZE = 4096
RECV = abi.REQUESTS["KDBUS_CMD_RECV"]


@dataclass
class Lent:
    """One connection that is known to an engine, with the end that its program has."""

    engine: Engine
    index: int
    theirs: socket.socket

    def lend(self, *, readable: bool) -> None:
        """Lend it with an empty queue and an empty pool; `readable`: whether its pollers find it so."""
        free_slice = POOL_SIZE, 1, 1, U64
        state = self.index, int(readable), 0, 0, 1, 0, 1, *free_slice, 0
        assert self.engine.lend([*[0] * LENT_DOMAINS, 1, 0, *state])

    def run(self, body: Callable[[int], None]) -> None:
        """Serve all calls that a process makes in `body`, which is given its descriptor of the connection."""
        target = start_target(lambda: body(self.theirs.fileno()), traps_of("ioctl"))
        self.engine.bind(self.index, target.pid, self.theirs.fileno())
        with pytest.raises(EndOfTargets):
            self.engine.run(target.listener, PATIENCE_NS, 0)
        assert target.wait() == 0
        target.listener.close()


@pytest.fixture
def lent() -> Iterator[Lent]:
    if not identity.can_compare() or not identity.can_fetch():
        pytest.skip("nothing is served natively here")
    ours, theirs = socket.socketpair()
    hang_ups, watched = select.epoll(), select.epoll()
    watched.register(theirs.fileno(), 0)
    engine = Engine(hang_ups.fileno(), 8)
    pool = Pool(b"test", POOL_SIZE)
    cookie = struct.unpack("=Q", theirs.getsockopt(socket.SOL_SOCKET, 57, 8))[0]  # SO_COOKIE
    index = engine.add(
        id=1,
        bus=1,
        user=1,
        domain=0,
        ours=ours.fileno(),
        epoll=watched.fileno(),
        target=theirs.fileno(),
        cookie=cookie,
        pool=pool,
    )
    ours.send(b"m")
    yield Lent(engine, index, theirs)
    engine.close()
    pool.close()
    for file in (ours, theirs, hang_ups, watched):
        file.close()


def call(descriptor: int, request: int, command: Sequence[int]) -> int:
    """ioctl with a command of 64-bit words: 0, or the errno."""
    words = (ctypes.c_uint64 * len(command))(*command)
    ioctl = ctypes.CDLL(None, use_errno=True).ioctl
    return ctypes.get_errno() if ioctl(descriptor, ctypes.c_ulong(request), words) else 0


def test_a_byte_that_was_taken_back_from_an_empty_queue_is_told(lent: Lent) -> None:
    """Or the broker would think that pollers need no waking when the next message comes."""

    def receive(descriptor: int) -> None:
        if call(descriptor, RECV, [72, *[0] * 8]) != errno.EAGAIN:
            os._exit(2)

    lent.lend(readable=True)
    lent.run(receive)
    assert lent.engine.served == 1
    with pytest.raises(BlockingIOError):
        lent.theirs.recv(1, socket.MSG_DONTWAIT)
    words = lent.engine.recall()
    assert words[LENT_DOMAINS] == 1, "the connection has changed"
    assert words[LENT_DOMAINS + 2 : LENT_DOMAINS + 4] == (lent.index, 2), "changed, and not readable"
