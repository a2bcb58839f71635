# SPDX-License-Identifier: GPL-2.0-or-later
"""Noticing the last umount: `interposer.traps.mount_watch` on real mount namespaces.

Children make the namespaces and change the mounts in them; as an ordinary user they need user namespaces, without which
the tests are skipped.
"""

from __future__ import annotations

import gc
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from interposer.launch.view import enter_mount_namespace
from interposer.traps.mount_watch import MountWatch, parse_mounts
from native import namespace
from tests.support.targets import PATIENCE_NS, fork

PLACE = "/tmp"


class Puppet:
    """A child in a mount namespace of its own that does what it is told."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def body() -> None:
            self._ours.close()
            try:
                prepare()
            except Exception as error:
                theirs.send(b"-" + str(error).encode())
                return
            theirs.send(b"+%d" % os.stat(PLACE).st_dev)
            while (command := theirs.recv(100)) != b"end":
                self._obey(command)
                theirs.send(b"+%d" % os.stat(PLACE).st_dev)

        self.pid = fork(body)
        theirs.close()
        self._ended = False
        self.device = self._reply()

    @staticmethod
    def _obey(command: bytes) -> None:
        if command == b"mount":
            namespace.mount("none", PLACE, "tmpfs", 0)
        elif command == b"unmount":
            namespace.umount2(PLACE, 0)
        elif command == b"leave":
            namespace.unshare(namespace.CLONE_NEWNS)

    def _reply(self) -> int:
        reply = self._ours.recv(1000)
        if reply.startswith(b"-"):
            pytest.skip(f"no mount namespace here: {reply[1:].decode()}")
        assert reply, "the child has failed; see its traceback"
        return int(reply)

    def do(self, command: bytes) -> int:
        """The device number at PLACE afterwards."""
        self._ours.send(command)
        return self._reply()

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            # Not by an end of file, as later children have inherited the socket.
            with suppress(OSError):
                self._ours.send(b"end")
            self._ours.close()
            os.waitpid(self.pid, 0)


@contextmanager
def puppet(*, joins: Puppet | None = None) -> Iterator[Puppet]:
    """`joins`: live in the same mount namespace."""

    def prepare() -> None:
        if joins is None:
            enter_mount_namespace()
            return
        descriptors = [os.open(f"/proc/{joins.pid}/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt")]
        if os.fstat(descriptors[0]).st_ino != os.stat("/proc/self/ns/user").st_ino:
            namespace.setns(descriptors[0], namespace.CLONE_NEWUSER)
        namespace.setns(descriptors[1], namespace.CLONE_NEWNS)

    made = Puppet(prepare)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def watch() -> Iterator[MountWatch]:
    made = MountWatch()
    yield made
    made.close()


def alarm(watch: MountWatch) -> bool:
    """Wait for the descriptor that wakes the loop."""
    return bool(select.select([watch.fileno()], [], [], PATIENCE_NS / 1e9)[0])


def test_parse_mounts() -> None:
    lines = (
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
        b"37 36 0:45 / /tmp/\r99 rw - tmpfs 0:46 rw\n"
    )
    assert parse_mounts(lines) == {36: os.makedev(98, 0), 37: os.makedev(0, 45)}
    assert parse_mounts(b"") == {}


def test_the_last_umount_is_news(watch: MountWatch) -> None:
    with puppet() as child:
        device = child.do(b"mount")
        assert watch.add(device, child.pid)
        assert not watch.has_news()
        assert watch.collect() == set()
        child.do(b"unmount")
        assert alarm(watch)
        assert watch.has_news()
        assert watch.collect() == {device}
        assert not watch.has_news()
        assert watch.collect() == set()


def test_news_are_not_used_up_by_who_waits_for_them(watch: MountWatch) -> None:
    """`fileno` tells once; what `collect` says does not depend on it."""
    with puppet() as child:
        device = child.do(b"mount")
        watch.add(device, child.pid)
        with select.epoll() as outer:
            outer.register(watch.fileno(), select.EPOLLIN)
            child.do(b"unmount")
            assert outer.poll(PATIENCE_NS / 1e9)
            assert not outer.poll(0)
        assert watch.collect() == {device}


def test_other_changes_are_none(watch: MountWatch) -> None:
    with puppet() as child:
        first = child.do(b"mount")
        watch.add(first, child.pid)
        second = child.do(b"mount")
        assert second != first
        assert watch.collect() == set()
        child.do(b"unmount")
        assert watch.collect() == set()
        child.do(b"unmount")
        assert watch.collect() == {first}


def test_the_end_of_the_namespace(watch: MountWatch) -> None:
    with puppet() as child:
        device = child.do(b"mount")
        watch.add(device, child.pid)
        child.end()
        assert alarm(watch)
        assert watch.collect() == {device}


def test_another_process_of_the_namespace_takes_over(watch: MountWatch) -> None:
    with puppet() as first:
        device = first.do(b"mount")
        watch.add(device, first.pid)
        with puppet(joins=first) as second:
            first.end()
            assert watch.collect() == set()
            second.do(b"unmount")
            assert watch.collect() == {device}


def test_a_copy_of_the_namespace_takes_over(watch: MountWatch) -> None:
    with puppet() as first:
        device = first.do(b"mount")
        watch.add(device, first.pid)
        with puppet(joins=first) as second:
            second.do(b"leave")
            first.do(b"unmount")
            assert watch.collect() == set()
            second.end()
            assert watch.collect() == {device}


def test_a_witness_that_moves_keeps_nothing_alive(watch: MountWatch) -> None:
    """The namespace that it has left would live as long as its `mountinfo` is open."""
    with puppet() as child:
        device = child.do(b"mount")
        watch.add(device, child.pid)
        child.do(b"leave")
        watch.before_unmount(child.pid)
        child.do(b"unmount")
        assert watch.collect() == {device}


def test_what_the_thread_does_not_see_is_not_followed(watch: MountWatch) -> None:
    with puppet() as one, puppet() as other:
        device = one.do(b"mount")
        assert not watch.add(device, other.pid)
        watch.search_for(device)
        assert watch.collect() == set()
        one.do(b"unmount")
        assert watch.collect() == {device}


def test_which_mounts_are_followed(watch: MountWatch) -> None:
    with puppet() as child:
        device = child.do(b"mount")
        watch.add(device, child.pid)
        with open(f"/proc/{child.pid}/mountinfo", "rb") as file:
            mounts = parse_mounts(file.read())
        assert [mount for mount in mounts if watch.is_followed(mount)] == [
            mount for mount, found in mounts.items() if found == device
        ]


def test_nothing_stays_open(watch: MountWatch) -> None:
    gc.collect()  # what other tests have left may be closed at any time
    before = len(os.listdir("/proc/self/fd"))
    with puppet() as child:
        device = child.do(b"mount")
        with_child = len(os.listdir("/proc/self/fd"))
        watch.add(device, child.pid)
        assert len(os.listdir("/proc/self/fd")) > with_child
        child.do(b"unmount")
        watch.collect()
        assert len(os.listdir("/proc/self/fd")) == with_child
    assert len(os.listdir("/proc/self/fd")) == before
