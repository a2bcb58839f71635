# SPDX-License-Identifier: GPL-2.0-or-later
"""The flow engine by itself: a real process calls, and what the engine hands back is looked at.

What the engine does for programs is compared with the broker in `test_flows.py`; here is what only shows in its state.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pytest

from broker.flow import layout
from broker.lending import LENT_COUNTERS
from broker.version3 import VERSION3
from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64
from native import identity
from native.flow import Engine
from native.notification import EndOfTargets
from native.pool import Pool
from tests.support.targets import PATIENCE_NS, Target, start_target, traps_of

POOL_SIZE = 4096
RECV = abi.REQUESTS["KDBUS_CMD_RECV"]


@dataclass
class Lent:
    """One connection that is known to an engine, with the end that its program has."""

    engine: Engine
    index: int
    theirs: socket.socket
    hang_ups: select.epoll

    def lend(self, *, readable: bool) -> None:
        """Lend it with an empty queue and an empty pool; `readable`: whether its pollers find it so."""
        free_slice = POOL_SIZE, 1, 1, U64
        state = self.index, int(readable), 0, 0, 1, 0, 1, *free_slice, 0
        assert self.engine.lend([*[0] * LENT_COUNTERS, 1, 0, *state])

    def run(self, body: Callable[[int], None]) -> None:
        """Serve all calls that a process makes in `body`, which is given its descriptor of the connection."""
        target = start_target(lambda: body(self.theirs.fileno()), traps_of("ioctl"))
        self.engine.bind(self.index, target.pid, self.theirs.fileno())
        self.engine.listen([target.listener])
        self.run_to_end_of(target)

    def run_to_end_of(self, target: Target) -> None:
        """Serve all that listen until `target` has ended, as the first of them."""
        with pytest.raises(EndOfTargets):
            self.engine.run(time.monotonic_ns() + PATIENCE_NS, PATIENCE_NS)
        assert self.engine.listener == target.listener.fileno()
        assert target.wait() == 0
        self.engine.listen([])
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
        revision=engine.speak(layout(VERSION3)),
        accepts_files=True,
        id=1,
        bus=1,
        user=1,
        counter=0,
        ours=ours.fileno(),
        epoll=watched.fileno(),
        target=theirs.fileno(),
        cookie=cookie,
        pool=pool,
    )
    ours.send(b"m")
    yield Lent(engine, index, theirs, hang_ups)
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
    assert words[LENT_COUNTERS] == 1, "the connection has changed"
    assert words[LENT_COUNTERS + 2 : LENT_COUNTERS + 4] == (lent.index, 2), "changed, and not readable"


def test_processes_of_several_trees_call_by_turns(lent: Lent) -> None:
    """The next call always comes from another listener, and the engine need not come back for that."""
    (first_in, first_out), (second_in, second_out) = os.pipe(), os.pipe()

    def take_turns(reading: int, writing: int) -> None:
        for _ in range(3):
            os.read(reading, 1)
            if call(lent.theirs.fileno(), RECV, [72, *[0] * 8]) != errno.EAGAIN:
                os._exit(2)
            os.write(writing, b"m")

    lent.lend(readable=False)
    targets = [
        start_target(partial(take_turns, first_in, second_out), traps_of("ioctl")),
        start_target(partial(take_turns, second_in, first_out), traps_of("ioctl")),
    ]
    for target in targets:
        lent.engine.bind(lent.index, target.pid, lent.theirs.fileno())
    os.write(first_out, b"m")
    for pipe_end in (first_in, first_out, second_in, second_out):
        os.close(pipe_end)
    left = {target.listener.fileno(): target for target in targets}
    while left:
        lent.engine.listen([each.listener for each in left.values()])
        with pytest.raises(EndOfTargets):
            lent.engine.run(time.monotonic_ns() + PATIENCE_NS, PATIENCE_NS)
        target = left.pop(lent.engine.listener)
        assert target.wait() == 0
        target.listener.close()
    assert lent.engine.served == 6


def test_what_is_attended_to_ends_the_waiting() -> None:
    reading, writing = os.pipe()
    with select.epoll() as hang_ups:
        engine = Engine(hang_ups.fileno(), 8)
        engine.attend(reading)
        os.write(writing, b"m")
        stop = time.monotonic_ns() + PATIENCE_NS
        assert engine.run(stop, PATIENCE_NS) is None
        assert time.monotonic_ns() < stop, "it ended before its time"
        engine.close()
    os.close(reading)
    os.close(writing)


def test_a_served_call_ends_a_long_wait_after_a_turn(lent: Lent) -> None:
    """The deadline that it may have made has to be looked at."""

    def receive(descriptor: int) -> None:
        call(descriptor, RECV, [72, *[0] * 8])
        signal.pause()

    lent.lend(readable=False)
    target = start_target(lambda: receive(lent.theirs.fileno()), traps_of("ioctl"))
    lent.engine.bind(lent.index, target.pid, lent.theirs.fileno())
    lent.engine.listen([target.listener])
    wait_for_call(target)
    stop = time.monotonic_ns() + PATIENCE_NS
    assert lent.engine.run(stop, 1) is None
    assert time.monotonic_ns() < stop, "it ended before its time"
    assert lent.engine.served == 1
    os.kill(target.pid, signal.SIGKILL)
    assert target.wait() == -signal.SIGKILL
    lent.engine.listen([])
    target.listener.close()


def test_what_has_ended_is_remembered(lent: Lent) -> None:
    """Looking uses up what is told of mounts, and it may be looked while nobody calls."""

    def receive(descriptor: int) -> None:
        call(descriptor, RECV, [72, *[0] * 8])

    reading, writing = os.pipe()
    lent.lend(readable=False)
    lent.hang_ups.register(reading, select.EPOLLIN)
    os.write(writing, b"m")
    assert lent.engine.run(0, PATIENCE_NS) is None
    lent.hang_ups.unregister(reading)
    target = start_target(lambda: receive(lent.theirs.fileno()), traps_of("ioctl"))
    lent.engine.bind(lent.index, target.pid, lent.theirs.fileno())
    lent.engine.listen([target.listener])
    received = lent.engine.run(time.monotonic_ns() + PATIENCE_NS, PATIENCE_NS)
    assert received is not None and received.pid == target.pid, "it is the broker's, which looks after that first"
    target.listener.respond_error(received.id, errno.EAGAIN)
    lent.engine.recall()
    lent.lend(readable=False)
    lent.run(receive)
    assert lent.engine.served == 1, "what has been lent since is served again"
    assert target.wait() == 0
    target.listener.close()
    os.close(reading)
    os.close(writing)


def wait_for_call(target: Target) -> None:
    """Wait until a call of `target` can be received."""
    poll = select.poll()
    poll.register(target.listener, select.POLLIN)
    assert poll.poll(PATIENCE_NS // 1_000_000) == [(target.listener.fileno(), select.POLLIN)]
