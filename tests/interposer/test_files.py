# SPDX-License-Identifier: GPL-2.0-or-later
"""What is found out about descriptors of every kind."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.errors import BadDescriptor
from interposer.target.files import TargetFile


class Handles:
    """A registry that knows the sockets it was told of."""

    def __init__(self) -> None:
        self.endpoints: set[int] = set()
        self.controls: set[int] = set()
        self.nodes: dict[int, tuple[str, ...]] = {}

    def is_endpoint_handle(self, inode: int) -> bool:
        return inode in self.endpoints

    def is_control_handle(self, inode: int) -> bool:
        return inode in self.controls

    def node_of(self, status: os.stat_result) -> tuple[str, ...] | None:
        return self.nodes.get(status.st_ino)


Hold = Callable[[int], TargetFile]


@pytest.fixture
def handles() -> Handles:
    return Handles()


@pytest.fixture
def hold(handles: Handles) -> Iterator[Hold]:
    """Makes a `TargetFile` of a descriptor, which belongs to it then."""
    with ExitStack() as stack:

        def make(descriptor: int) -> TargetFile:
            file = TargetFile(descriptor, handles)
            stack.callback(file.close)
            return file

        yield make


def unix_socket() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        return made.detach()


def internet_socket() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        return made.detach()


def memfd(seals: int) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, 100)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def epoll_set() -> int:
    with select.epoll() as made:
        return os.dup(made.fileno())


def path_only(path: Path | str) -> int:
    return os.open(path, os.O_PATH | os.O_NOFOLLOW)


def test_seals_of_a_memfd(hold: Hold) -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    assert hold(memfd(seals)).seals == seals
    assert hold(memfd(0)).seals == 0


def test_files_without_seals(hold: Hold) -> None:
    # Under /proc, since a file of a tmpfs has seals as a memfd has.
    for descriptor in (os.open("/proc/self/status", os.O_RDONLY), unix_socket(), os.pipe()[0]):
        assert hold(descriptor).seals is None


def test_size(hold: Hold) -> None:
    file = hold(memfd(0))
    assert file.size == 100
    os.truncate(file.fileno(), 7)
    assert file.size == 7


def test_unix_sockets(hold: Hold) -> None:
    assert hold(unix_socket()).is_unix_socket
    assert not hold(internet_socket()).is_unix_socket
    assert not hold(memfd(0)).is_unix_socket


def test_questions_leave_a_socket_as_it_is(hold: Hold) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        file = hold(theirs.detach())
        assert file.is_unix_socket and file.can_poll and file.seals is None
        os.write(file.fileno(), b"still open")
        assert ours.recv(20) == b"still open"


def test_kdbus_handles_are_no_unix_sockets(hold: Hold, handles: Handles) -> None:
    endpoint, control, other = unix_socket(), unix_socket(), unix_socket()
    handles.endpoints.add(os.fstat(endpoint).st_ino)
    handles.controls.add(os.fstat(control).st_ino)
    found = [(file.is_kdbus_endpoint, file.is_unix_socket) for file in map(hold, (endpoint, control, other))]
    assert found == [(True, False), (False, False), (False, True)]


def test_only_sockets_are_looked_up_as_handles(hold: Hold, handles: Handles) -> None:
    descriptor = memfd(0)
    handles.endpoints.add(os.fstat(descriptor).st_ino)
    assert not hold(descriptor).is_kdbus_endpoint


@pytest.mark.parametrize(
    ("open_file", "expected"),
    [
        (lambda folder: memfd(0), False),
        (lambda folder: os.open(folder, os.O_RDONLY | os.O_DIRECTORY), False),
        (lambda folder: os.open("/dev/null", os.O_RDONLY), False),
        (lambda folder: os.pipe()[0], True),
        (lambda folder: unix_socket(), True),
        (lambda folder: os.eventfd(0), True),
        (lambda folder: epoll_set(), False),
        (lambda folder: os.open("/proc/self/mounts", os.O_RDONLY), False),
    ],
    ids=["memfd", "folder", "null", "pipe", "socket", "eventfd", "epoll", "mounts"],
)
def test_can_poll(hold: Hold, tmp_path: Path, open_file: Callable[[Path], int], expected: bool) -> None:
    assert hold(open_file(tmp_path)).can_poll is expected


def test_path_only_descriptors(hold: Hold, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        # Relative, as the name of a socket is short.
        folder = os.open(tmp_path, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    for name in (".", "link", "socket"):
        file = hold(path_only(tmp_path / name))
        assert not file.is_unix_socket and not file.is_kdbus_endpoint
        with pytest.raises(BadDescriptor):
            _ = file.can_poll
        with pytest.raises(BadDescriptor):
            _ = file.seals


def test_close_happens_once(handles: Handles) -> None:
    descriptor = memfd(0)
    file = TargetFile(descriptor, handles)
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with pytest.raises(ValueError, match="closed"):
        file.close()
    with pytest.raises(ValueError, match="closed"):
        _ = file.size


@pytest.mark.parametrize(("path", "is_endpoint"), [(("0-bus", "bus"), True), (("control",), False)])
def test_the_plain_file_of_a_node_is_what_it_will_be(
    hold: Hold, handles: Handles, path: tuple[str, ...], is_endpoint: bool
) -> None:
    plain = hold(os.memfd_create("node"))
    by_path = hold(os.open(f"/proc/self/fd/{plain.fileno()}", os.O_PATH))
    handles.nodes[os.fstat(plain.fileno()).st_ino] = path
    assert plain.is_kdbus_endpoint == plain.can_poll == is_endpoint
    assert plain.seals is None
    assert not plain.is_unix_socket
    assert not by_path.is_kdbus_endpoint


def test_a_control_handle_cannot_be_polled(hold: Hold, handles: Handles) -> None:
    control, endpoint = hold(unix_socket()), hold(unix_socket())
    handles.controls.add(os.fstat(control.fileno()).st_ino)
    handles.endpoints.add(os.fstat(endpoint.fileno()).st_ino)
    assert endpoint.can_poll and not control.can_poll
