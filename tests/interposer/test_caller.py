# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread behind a trap: a C program that traps with an ioctl, whose argument tells where everything is."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.errors import BadAddress, BadDescriptor, CallerGone, OutOfMemory
from broker.interfaces import Caller, File
from interposer.target.budget import Budgets
from interposer.target.caller import TargetCaller
from interposer.target.ids import UserNamespaces, own_namespace
from native import identity
from native.notification import Notification
from native.pool import Pool
from tests.interposer.test_files import Handles
from tests.support.targets import Target, compile_program, old_pidfd_open, start_target, traps_of

PAGE = os.sysconf("SC_PAGESIZE")
LAYOUT = struct.Struct("=16s6Q")
WRITTEN = LAYOUT.size - 8
"""Offset of the field that the target exits with."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program("caller_target", tmp_path_factory.mktemp("programs"))


@dataclass
class Trapped:
    """A target in its trap, and what it says of itself."""

    target: Target
    notification: Notification
    caller: TargetCaller
    address: int
    read_only: int
    unmapped: int
    memory_file: int
    path_only: int

    def finish(self, value: int = 0) -> int:
        """Answers the trap; returns the exit status of the target."""
        self.target.listener.respond_value(self.notification.id, value)
        return self.target.wait()

    def kill(self) -> None:
        """Ends the target in its trap."""
        os.kill(self.target.pid, signal.SIGKILL)
        assert self.target.wait() == -signal.SIGKILL


Trap = Callable[..., Trapped]


@pytest.fixture
def trap(program: Path) -> Iterator[Trap]:
    namespaces = UserNamespaces()
    listeners = []

    def start(mode: str = "plain") -> Trapped:
        target = start_target(lambda: os.execv(program, [str(program), mode]), traps_of("ioctl"))
        listeners.append(target.listener)
        notification = target.next()
        caller = TargetCaller(target.listener, notification, namespaces, Handles(), Budgets())
        address = notification.arguments[2]
        text, own, read_only, unmapped, memory_file, path_only, _ = LAYOUT.unpack(caller.read(address, LAYOUT.size))
        assert text == b"hello, caller".ljust(16, b"\0") and own == address
        return Trapped(target, notification, caller, address, read_only, unmapped, memory_file, path_only)

    yield start
    namespaces.close()
    for listener in listeners:
        listener.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_it_is_what_the_broker_asks_for(trap: Trap) -> None:
    trapped = trap()
    caller: Caller = trapped.caller
    file: File = caller.file(trapped.memory_file)
    file.close()
    assert trapped.finish(42) == 42


def test_read_and_write(trap: Trap) -> None:
    trapped = trap()
    trapped.caller.write(trapped.address + WRITTEN, struct.pack("=Q", 99))
    assert trapped.caller.read(trapped.address + WRITTEN, 8) == struct.pack("=Q", 99)
    assert trapped.caller.read(trapped.address, 0) == b""
    assert trapped.finish() == 99


def test_bad_addresses(trap: Trap) -> None:
    trapped = trap()
    caller = trapped.caller
    reads = [(0, 8), (trapped.unmapped, 1), (trapped.unmapped - 4, 8), (2**64 - 8, 8), (2**63, 1)]
    for address, size in reads:
        with pytest.raises(BadAddress) as told:
            caller.read(address, size)
        assert told.type is BadAddress
        with pytest.raises(BadAddress):
            caller.write(address, bytes(size))
    with pytest.raises(BadAddress):
        caller.write(trapped.read_only, b"no")
    with caller.new_pool(b"pool", PAGE) as pool, pytest.raises(BadAddress):
        caller.copy(pool, 0, [(trapped.address, 8), (trapped.unmapped - 4, 8)])
    assert trapped.finish() == 0


def test_copy_to_a_pool(trap: Trap) -> None:
    trapped = trap()
    with trapped.caller.new_pool(b"pool", PAGE) as pool:
        pool.write(0, b"x" * 20)
        trapped.caller.copy(pool, 3, [(trapped.address, 5), (0, 4), (trapped.address + 7, 6)])
        assert pool.read(0, 20) == b"xxxhello\0\0\0\0callerxx"
    assert trapped.finish() == 0


def test_nothing_is_read_or_written_once_the_thread_is_gone(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    trapped = trap()
    caller = trapped.caller
    pool = Pool(b"pool", PAGE)
    trapped.kill()
    with pytest.raises(CallerGone):
        caller.read(trapped.address, 8)
    # Memory calls that succeed stand for the number having been given to another process.
    reached: list[str] = []
    monkeypatch.setattr("native.memory.read", lambda pid, address, size: bytes(size))
    monkeypatch.setattr("native.memory.write", lambda pid, address, data: reached.append("write"))
    monkeypatch.setattr(Pool, "copy_from_process", lambda self, pid, offset, pieces: None)
    with pool:
        for attempt in (
            lambda: caller.read(trapped.address, 8),
            lambda: caller.write(trapped.address, b"12345678"),
            lambda: caller.copy(pool, 0, [(trapped.address, 8)]),
        ):
            with pytest.raises(CallerGone):
                attempt()
    assert reached == []
    with pytest.raises(ProcessLookupError):
        caller.credentials()


def test_file_of_the_caller(trap: Trap) -> None:
    trapped = trap()
    before = open_descriptors()
    file = trapped.caller.file(trapped.memory_file)
    assert file.seals == 0 and file.size == 0
    os.truncate(file.fileno(), 123)
    assert os.stat(f"/proc/{trapped.target.pid}/fd/{trapped.memory_file}").st_size == 123, "the same file"
    assert fcntl.fcntl(file.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    file.close()
    for number in (-1, 200, 2**31 - 1):
        with pytest.raises(BadDescriptor):
            trapped.caller.file(number)
    assert open_descriptors() == before
    assert trapped.finish() == 0


def test_path_only_descriptor_of_the_caller(trap: Trap) -> None:
    trapped = trap()
    file = trapped.caller.file(trapped.path_only)
    assert os.readlink(f"/proc/self/fd/{file.fileno()}") == "/"
    # A limit of the kernel's, not a wish: if this ever gives a number, the essay of `interposer.target.files` is out of
    # date.
    assert trapped.caller.install(file) == -errno.EBADF
    file.close()
    assert trapped.finish() == 0


@pytest.mark.parametrize("threads", [True, False], ids=["thread", "leader"])
def test_files_of_a_thread(trap: Trap, monkeypatch: pytest.MonkeyPatch, threads: bool) -> None:
    if not threads:
        monkeypatch.setattr("interposer.target.caller.pidfd_open", old_pidfd_open)
    trapped = trap("thread")
    assert trapped.notification.pid != trapped.target.pid
    try:
        file = trapped.caller.file(trapped.memory_file)
    except BadDescriptor:
        assert not threads or not has_thread_descriptors(trapped.notification.pid)
    else:
        assert threads and file.seals == 0
        file.close()
    # What the leader has as well is found in either way.
    trapped.caller.file(1).close()
    assert trapped.finish() == 0


def has_thread_descriptors(thread: int) -> bool:
    """Whether the kernel knows pidfds of threads (6.9)."""
    try:
        os.close(identity.pidfd_open(thread, identity.PIDFD_THREAD))
    except OSError:
        return False
    return True


def test_file_of_a_thread_that_is_gone(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    trapped = trap()
    trapped.kill()
    before = open_descriptors()
    with pytest.raises(BadDescriptor):
        trapped.caller.file(0)
    # The number stands for another process by now: this one.
    other = identity.pidfd_open
    monkeypatch.setattr("interposer.target.caller.pidfd_open", lambda pid, flags=0: other(os.getpid()))
    with pytest.raises(BadDescriptor):
        trapped.caller.file(0)
    assert open_descriptors() == before


def test_install(trap: Trap) -> None:
    trapped = trap()
    file = trapped.caller.file(trapped.memory_file)
    number = trapped.caller.install(file)
    folder = Path(f"/proc/{trapped.target.pid}")
    assert os.readlink(folder / "fd" / str(number)) == os.readlink(folder / "fd" / str(trapped.memory_file))
    flags = next(line for line in (folder / "fdinfo" / str(number)).read_text().splitlines() if "flags" in line)
    assert int(flags.split()[1], 8) & os.O_CLOEXEC
    assert number != trapped.memory_file
    trapped.kill()
    assert trapped.caller.install(file) == -errno.ENOENT
    file.close()


def test_install_at_the_limit(trap: Trap) -> None:
    trapped = trap("full")
    file = trapped.caller.file(trapped.memory_file)
    assert trapped.caller.install(file) == -errno.EMFILE
    file.close()
    assert trapped.finish() == 0


def test_only_own_files_and_pools_are_taken(trap: Trap) -> None:
    trapped = trap()

    class Foreign:
        pass

    with pytest.raises(TypeError, match="Foreign"):
        trapped.caller.install(Foreign())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Foreign"):
        trapped.caller.copy(Foreign(), 0, [])  # type: ignore[arg-type]
    assert trapped.finish() == 0


def test_pool_that_is_too_large(trap: Trap) -> None:
    trapped = trap()
    with pytest.raises(OutOfMemory):
        trapped.caller.new_pool(b"pool", 2**62)
    assert trapped.finish() == 0


def test_facts_about_the_caller(trap: Trap) -> None:
    trapped = trap("thread")
    process, thread, parent = trapped.caller.process.pids()
    own = own_namespace(b"pid")
    assert process.number_in(own) == trapped.target.pid
    assert thread.number_in(own) == trapped.notification.pid
    assert parent.number_in(own) == os.getpid()
    assert trapped.caller.process.thread_name() == b"caller_target"
    assert trapped.caller.ids.user_namespace == own_namespace(b"user")
    credentials = trapped.caller.credentials()
    assert (credentials.euid, credentials.egid) == (os.geteuid(), os.getegid())
    assert trapped.caller.credentials() is credentials, "read once"
    assert trapped.finish() == 0
