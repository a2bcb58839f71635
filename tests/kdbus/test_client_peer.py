# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection on a device of memory that answers as it is told: who lies, what is given back, and when."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import struct
from collections.abc import Callable

import pytest

import kdbus
from kdbus.abi.revision import FINAL, VERSION3, Revision
from kdbus.commands import Command, Commands
from kdbus.errors import failure
from kdbus.peer import Peer

POOL = 4096
Answer = Callable[[Command], None]


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


class FakeDevice:
    """HELLO succeeds; other commands do what `answers` say, in order. FREE is recorded."""

    def __init__(self) -> None:
        self.pool = bytearray(POOL)
        self.answers: list[Answer] = []
        self.freed: list[int] = []
        self.closed = False

    def run(self, command: Command, subject: str = "") -> None:
        if command.name == "FREE":
            self.freed.append(command["offset"])
        elif command.name == "HELLO":
            old = "kernel_flags" in command.layout.members  # type: ignore[union-attr]
            self.pool[:40] = words(40, 32, 6, 64, 8) if old else words(32, 7, 64, 8, 0)
            command["id"], command["offset"], command["items_size"] = 9, 0, 40 if old else 32
        else:
            self.answers.pop(0)(command)

    def map(self, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        return (ctypes.c_ubyte * size).from_buffer(self.pool)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = True

    def deliver(self, offset: int, data: bytes, size: int | None = None, lost: int = 0) -> None:
        """Answer the next RECV with these bytes, which are said to take `size`."""
        self.pool[offset : offset + len(data)] = data

        def answer(command: Command) -> None:
            start, end = command.layout.span("msg")  # type: ignore[union-attr]
            command.data[start:end] = words(offset, len(data) if size is None else size, 0)
            command["dropped_msgs"] = lost

        self.answers.append(answer)

    def refuse(self, number: int, lost: int = 0) -> None:
        """Answer the next RECV with an errno."""

        def answer(command: Command) -> None:
            command["dropped_msgs"] = lost
            raise failure(command.name, number)

        self.answers.append(answer)


def connect(revision: Revision = FINAL) -> tuple[Peer, FakeDevice]:
    device = FakeDevice()
    peer = Peer(device, Commands(revision), pool_size=POOL)
    assert device.freed == [0]
    device.freed.clear()
    return peer, device


def message(*items: bytes, size: int | None = None) -> bytes:
    body = b"".join(items)
    return words(64 + len(body) if size is None else size, 0, 0, 9, 5, 0x77, 3, 0) + body


def with_payload(text: bytes) -> bytes:
    """A message of the final revision with 16 bytes of payload behind it."""
    return message(words(32, 3, len(text), 96)) + text.ljust(16, b"\0")


@pytest.mark.parametrize("revision", [VERSION3, FINAL])
def test_hello_is_understood_and_freed(revision: Revision) -> None:
    peer, _ = connect(revision)
    assert (peer.id, peer.bloom.size, peer.bloom.hashes) == (9, 64, 8)


@pytest.mark.parametrize("revision", [VERSION3, FINAL])
def test_peer_that_lies_in_a_header_costs_nothing(revision: Revision) -> None:
    peer, device = connect(revision)
    reading, writing = os.pipe()
    os.close(writing)
    descriptors = words(20, 4 if revision is VERSION3 else 5) + struct.pack("<2i", reading, 0)
    device.deliver(512, message(descriptors, words(2, 0x1000)))
    with pytest.raises(kdbus.Malformed, match="an item claims 2 bytes") as caught:
        peer.receive_nowait()
    # Given back while the exception, and with it all that was looked at, is still held.
    assert device.freed == [512]
    assert caught.value.__traceback__ is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_place_beyond_the_pool() -> None:
    peer, device = connect()
    device.deliver(0, b"", 64)
    device.answers[0] = lambda command: command.data.__setitem__(slice(40, 64), words(POOL, 64, 0))
    with pytest.raises(kdbus.Malformed, match="does not lie within the pool"):
        peer.receive_nowait()


def test_results_beyond_the_pool() -> None:
    peer, device = connect()
    device.answers.append(lambda command: command.data.__setitem__(slice(24, 40), words(POOL - 8, 24)))
    with pytest.raises(kdbus.Malformed, match="LIST"):
        peer.list_names()
    assert device.freed == [POOL - 8]


def test_message_is_freed_when_it_is_closed() -> None:
    peer, device = connect()
    device.deliver(512, with_payload(b"hello"))
    received = peer.receive_nowait()
    assert received is not None
    assert bytes(received.payload) == b"hello"
    assert device.freed == []
    received.release()
    received.release()
    assert device.freed == [512]
    with pytest.raises(ValueError, match="was released"):
        _ = received.payload


def test_message_is_freed_when_it_is_forgotten() -> None:
    peer, device = connect()
    device.deliver(512, with_payload(b"hello"))
    received = peer.receive_nowait()
    del received
    gc.collect()
    assert device.freed == [512]


def test_view_keeps_its_part_of_the_pool() -> None:
    peer, device = connect()
    device.deliver(512, with_payload(b"hello"))
    received = peer.receive_nowait()
    assert received is not None
    part = received.payload[1:3]
    received.release()
    del received
    gc.collect()
    assert device.freed == []
    assert bytes(part) == b"el"
    with pytest.raises(TypeError, match="read-only"):
        part[0] = 1
    del part
    gc.collect()
    assert device.freed == [512]


def test_part_that_is_given_out_twice_is_freed_once() -> None:
    peer, device = connect()
    device.deliver(512, with_payload(b"hello"))
    device.deliver(512, with_payload(b"hello"))
    peeked, received = peer.receive_nowait(peek=True), peer.receive_nowait()
    assert peeked is not None and received is not None
    peeked.release()
    assert device.freed == []
    received.release()
    assert device.freed == [512]


def test_part_is_not_freed_while_it_is_given_out_again() -> None:
    peer, device = connect()
    held: list[kdbus.Message] = []
    device.deliver(512, with_payload(b"hello"))
    device.deliver(1024, with_payload(b"other"))
    for _ in range(2):
        peeked = peer.receive_nowait(peek=True)
        assert peeked is not None
        held.append(peeked)
    del peeked
    device.deliver(512, with_payload(b"hello"))
    answer = device.answers[0]

    def forget_meanwhile(command: Command) -> None:
        answer(command)
        held.clear()

    device.answers[0] = forget_meanwhile
    received = peer.receive_nowait()
    assert received is not None and device.freed == [1024]
    received.release()
    assert device.freed == [1024, 512]


def test_memfd_that_is_shorter_than_said() -> None:
    peer, device = connect()
    short = os.memfd_create("short")
    os.truncate(short, 10)
    device.deliver(512, message(words(40, 4) + struct.pack("<QQiI", 0, 100, short, 0)))
    received = peer.receive_nowait()
    assert received is not None
    with pytest.raises(kdbus.Malformed, match="100 bytes at 0 of a memfd"):
        _ = received.views
    received.release()
    assert device.freed == [512]


def test_child_does_not_free_what_is_its_parents() -> None:
    peer, device = connect()
    device.deliver(512, with_payload(b"hello"))
    received = peer.receive_nowait()
    assert received is not None
    child = os.fork()
    if child == 0:
        received.release()
        os._exit(len(device.freed))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    received.release()
    assert device.freed == [512]


def test_errors_can_be_pickled() -> None:
    for error in (failure("SEND", 3, "org.example.X"), kdbus.Malformed("RECV", meaning="nonsense")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)


def test_nothing_is_freed_after_the_end() -> None:
    peer, device = connect()
    device.deliver(512, with_payload(b"hello"))
    received = peer.receive_nowait()
    peer.close()
    assert received is not None
    assert bytes(received.payload) == b"hello"
    received.release()
    assert device.freed == []


def test_descriptors_are_closed_with_the_message_unless_taken() -> None:
    peer, device = connect()
    first, second = os.pipe()
    device.deliver(512, message(words(28, 5) + struct.pack("<4i", first, second, -1, 0)))
    received = peer.receive_nowait()
    assert received is not None
    taken = received.descriptors[0].take()
    with pytest.raises(kdbus.Error, match="could not be installed"):
        received.descriptors[2].fileno()
    received.release()
    os.close(taken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(second)
    with pytest.raises(ValueError, match="taken or closed"):
        received.descriptors[1].fileno()


def test_descriptors_in_a_peeked_message_mean_nothing() -> None:
    peer, device = connect(VERSION3)
    device.deliver(512, message(words(20, 4) + struct.pack("<2i", 0, 0)))
    received = peer.receive_nowait(peek=True)
    assert received is not None
    received.release()
    os.fstat(0)


def test_losses_are_counted_in_the_way_of_version_3() -> None:
    peer, device = connect(VERSION3)
    device.refuse(75, lost=3)  # EOVERFLOW
    device.deliver(512, message())
    received = peer.receive_nowait()
    assert received is not None
    assert (received.lost, peer.lost) == (3, 3)
    device.refuse(11)  # EAGAIN
    assert peer.receive_nowait() is None


def test_losses_are_counted_in_the_way_of_the_final_revision() -> None:
    peer, device = connect()
    device.refuse(11, lost=2)
    assert peer.receive_nowait() is None
    device.deliver(512, message(), lost=1)
    received = peer.receive_nowait()
    assert received is not None
    assert (received.lost, peer.lost) == (1, 3)


def test_connection_that_fails_is_closed() -> None:
    device = FakeDevice()
    device.map = lambda size: (_ for _ in ()).throw(failure("mmap", 1))  # type: ignore[method-assign]
    with pytest.raises(kdbus.Denied):
        Peer(device, Commands(FINAL), pool_size=POOL)
    assert device.closed


def test_errors_name_command_subject_and_meaning() -> None:
    error = failure("SEND", 3, "org.example.X")
    assert isinstance(error, kdbus.NotFound) and isinstance(error, ProcessLookupError)
    assert str(error) == "[Errno 3] SEND (org.example.X): nobody owns the name (ESRCH)"
    assert (error.command, error.errno, error.subject) == ("SEND", 3, "org.example.X")
    assert isinstance(failure("SEND", 110), TimeoutError)
    assert type(failure("SEND", 9)) is kdbus.Error
