# SPDX-License-Identifier: GPL-2.0-or-later
"""`native.identity` on children that inherit, close and duplicate descriptors."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from native import identity
from tests.support.children import Child, in_child


class Gate:
    """Holds a child at a place until the test opens it."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def wait(self) -> None:
        os.read(self._reading, 1)

    def open(self) -> None:
        os.write(self._writing, b"x")

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """One gate, open to one child."""
    made = Gate()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket pair."""
    here, there = socket.socketpair()
    yield here, there
    here.close()
    there.close()


@pytest.fixture
def epoll() -> Iterator[select.epoll]:
    """An empty epoll set."""
    made = select.epoll()
    yield made
    made.close()


Pair = tuple[socket.socket, socket.socket]


def test_the_same_file_under_any_number(pair: Pair, epoll: select.epoll, gate: Gate) -> None:
    here, there = pair
    number = there.fileno()
    epoll.register(number, 0)
    duplicate = os.dup(number)
    with Child(gate.wait) as child:
        there.close()
        os.close(duplicate)
        assert identity.same_file(child.pid, number, epoll.fileno(), number)
        assert identity.same_file(child.pid, duplicate, epoll.fileno(), number)
        assert not identity.same_file(child.pid, here.fileno(), epoll.fileno(), number)
        assert identity.epoll_holds(epoll.fileno(), number)
        gate.open()
        child.result()


def test_a_number_that_is_reused_is_another_file(pair: Pair, epoll: select.epoll, gate: Gate) -> None:
    here, there = pair
    number = there.fileno()
    epoll.register(number, 0)

    def replace() -> None:
        os.dup2(here.fileno(), number)
        os.write(ready, b"x")
        gate.wait()

    is_ready, ready = os.pipe()
    with Child(replace) as child:
        os.read(is_ready, 1)
        assert not identity.same_file(child.pid, number, epoll.fileno(), number)
        assert identity.same_file(os.getpid(), number, epoll.fileno(), number)
    os.close(is_ready)
    os.close(ready)


def test_the_entry_goes_with_the_last_close(pair: Pair, epoll: select.epoll, gate: Gate) -> None:
    _, there = pair
    number = there.fileno()
    epoll.register(number, 0)
    with Child(gate.wait) as child:
        there.close()
        assert identity.epoll_holds(epoll.fileno(), number)
        gate.open()
        child.result()
    assert not identity.epoll_holds(epoll.fileno(), number)
    assert not identity.same_file(os.getpid(), 0, epoll.fileno(), number)


@pytest.mark.parametrize("descriptor", [-1, 99999])
def test_a_descriptor_that_is_not_there_is_no_file(pair: Pair, epoll: select.epoll, descriptor: int) -> None:
    number = pair[1].fileno()
    epoll.register(number, 0)
    assert not identity.same_file(os.getpid(), descriptor, epoll.fileno(), number)


def test_what_was_never_registered(pair: Pair, epoll: select.epoll) -> None:
    assert not identity.epoll_holds(epoll.fileno(), pair[0].fileno())
    assert not identity.same_file(os.getpid(), pair[0].fileno(), epoll.fileno(), pair[0].fileno())


def test_a_bad_epoll_set_is_an_error(pair: Pair) -> None:
    for set_number, expected in ((99999, errno.EBADF), (pair[1].fileno(), errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            identity.same_file(os.getpid(), pair[0].fileno(), set_number, 0)
        assert caught.value.errno == expected
        with pytest.raises(OSError):
            identity.epoll_holds(set_number, 0)


def test_a_process_that_is_not_there(pair: Pair, epoll: select.epoll) -> None:
    with Child(lambda: None) as child:
        child.result()
    epoll.register(pair[1].fileno(), 0)
    with pytest.raises(ProcessLookupError):
        identity.same_file(child.pid, 0, epoll.fileno(), pair[1].fileno())
    with pytest.raises(ProcessLookupError):
        identity.drain(child.pid, 0, 1)
    with pytest.raises(ProcessLookupError):
        identity.pidfd_open(child.pid)


def test_a_descriptor_is_fetched(pair: Pair, gate: Gate) -> None:
    here, there = pair
    with Child(gate.wait) as child:
        pidfd = identity.pidfd_open(child.pid)
        copy = identity.pidfd_getfd(pidfd, there.fileno())
        assert not os.get_inheritable(pidfd)
        assert not os.get_inheritable(copy)
        here.send(b"hello")
        assert os.read(copy, 10) == b"hello"
        with pytest.raises(OSError, match="duplicate descriptor 99999") as caught:
            identity.pidfd_getfd(pidfd, 99999)
        assert caught.value.errno == errno.EBADF
        os.close(copy)
        os.close(pidfd)


def test_cookies_tell_sockets_apart(pair: Pair) -> None:
    here, there = pair
    assert identity.socket_cookie(here.fileno()) != identity.socket_cookie(there.fileno())
    with here.dup() as duplicate:
        assert identity.socket_cookie(here.fileno()) == identity.socket_cookie(duplicate.fileno())
    reading, writing = os.pipe()
    with pytest.raises(OSError) as caught:
        identity.socket_cookie(reading)
    assert caught.value.errno == errno.ENOTSOCK
    os.close(reading)
    os.close(writing)


def readable(descriptor: int) -> bool:
    """Whether poll(2) says so, now."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 60000])
def test_draining_empties_the_targets_end(pair: Pair, gate: Gate, size: int) -> None:
    here, there = pair
    cookie = identity.socket_cookie(there.fileno())

    def still_readable() -> bool:
        gate.wait()
        return readable(there.fileno())

    with Child(still_readable) as child:
        here.sendall(bytes(size))
        assert readable(there.fileno()) == (size > 0)
        assert identity.drain(child.pid, there.fileno(), cookie)
        gate.open()
        assert child.result() is False
    here.send(b"again")
    assert there.recv(10) == b"again"


def test_another_socket_is_not_drained(pair: Pair, gate: Gate) -> None:
    here, there = pair
    here.send(b"kept")
    with Child(gate.wait) as child:
        assert not identity.drain(child.pid, there.fileno(), identity.socket_cookie(here.fileno()))
        assert not identity.drain(child.pid, 99999, identity.socket_cookie(there.fileno()))
        assert not identity.drain(child.pid, 0, identity.socket_cookie(there.fileno()))
    assert there.recv(10) == b"kept"


def test_draining_by_the_number_of_a_thread(pair: Pair, gate: Gate) -> None:
    here, there = pair
    here.send(b"pending")
    cookie = identity.socket_cookie(there.fileno())
    told, telling = os.pipe()

    def with_thread() -> None:
        def tell_and_wait() -> None:
            os.write(telling, str(threading.get_native_id()).encode())
            gate.wait()

        thread = threading.Thread(target=tell_and_wait)
        thread.start()
        thread.join()

    with Child(with_thread) as child:
        thread = int(os.read(told, 20))
        assert thread != child.pid
        assert identity.drain(thread, there.fileno(), cookie)
        gate.open()
        child.result()
    assert not readable(there.fileno())
    os.close(told)
    os.close(telling)


def test_draining_leaves_no_descriptor(pair: Pair) -> None:
    def count() -> tuple[int, int]:
        before = len(os.listdir("/proc/self/fd"))
        cookie = identity.socket_cookie(pair[0].fileno())
        identity.drain(os.getpid(), pair[0].fileno(), cookie)
        identity.drain(os.getpid(), pair[0].fileno(), cookie + 1)
        identity.drain(os.getpid(), 99999, cookie)
        return before, len(os.listdir("/proc/self/fd"))

    before, after = in_child(count)
    assert before == after
