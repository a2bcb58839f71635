# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening descriptors of another thread anew: this process plays the target."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from pathlib import Path

import pytest

from broker.errors import BadDescriptor, DescriptorNotPassable
from interposer.target.ids import ThreadFolder
from interposer.target.reopened import reopen

FOLDER = ThreadFolder(os.getpid(), lambda: True)


def test_memfd_with_its_seals() -> None:
    descriptor = os.memfd_create("passed", os.MFD_ALLOW_SEALING)
    os.write(descriptor, b"content")
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    found = reopen(FOLDER, descriptor)
    assert fcntl.fcntl(found, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE
    assert os.pread(found, 100, 0) == b"content"
    assert not os.get_inheritable(found)
    os.close(found)
    os.close(descriptor)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK])
def test_file_with_flags_and_offset(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, flags)
    os.lseek(descriptor, 4, os.SEEK_SET)
    path.unlink()
    found = reopen(FOLDER, descriptor)
    mask = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK
    assert fcntl.fcntl(found, fcntl.F_GETFL) & mask == flags
    assert os.lseek(found, 0, os.SEEK_CUR) == 4
    os.close(found)
    os.close(descriptor)


def test_pipe_is_the_same_pipe() -> None:
    reading, writing = os.pipe()
    found = reopen(FOLDER, reading)
    os.write(writing, b"x")
    assert os.get_blocking(found) and os.read(found, 10) == b"x"
    for descriptor in (reading, writing, found):
        os.close(descriptor)


def test_what_cannot_be_opened_anew() -> None:
    with socket.socket() as stream, select.epoll() as epoll:
        event = os.eventfd(0)
        for descriptor in (stream.fileno(), epoll.fileno(), event):
            with pytest.raises(DescriptorNotPassable):
                reopen(FOLDER, descriptor)
        os.close(event)


def test_memory_devices_can() -> None:
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    found = reopen(FOLDER, descriptor)
    assert os.read(found, 2) == b"\0\0"
    os.close(found)
    os.close(descriptor)


def test_no_such_descriptor() -> None:
    free = os.dup(0)
    os.close(free)
    with pytest.raises(BadDescriptor):
        reopen(FOLDER, free)


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with socket.socket() as stream, pytest.raises(DescriptorNotPassable):
        reopen(FOLDER, stream.fileno())
    assert os.listdir("/proc/self/fd") == before
