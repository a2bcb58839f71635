# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors of targets, held by the supervisor: `broker.interfaces.File` on a duplicate.

A message under way holds what its sender named: the open file description, not the number. pidfd_getfd(2) makes a
duplicate of it in the supervisor, whatever its kind, O_PATH descriptors included, and SECCOMP_IOCTL_NOTIF_ADDFD
gives the receiver one. Nothing is opened anew: a reopened file would have an offset and status flags of its own, and
sockets cannot be reopened at all.

The questions that kdbus asked of `struct file` are put to the descriptor:

- *Is it a kdbus endpoint, is it a Unix socket?* Both may not be passed (`kdbus_handle_check_file`). A kdbus handle is a
  Unix socket here, so handles are recognised first, by the inode of the socket, in the supervisor's own list. One that
  is still the plain file of its node (`interposer.handles.lazy`) is recognised by that file.
- *Has it a poll operation?* epoll_ctl(2) refuses exactly the files that have none, with EPERM. Of nodes, endpoints have
  one, and `control` has none. Files of file systems are not asked, as FUSE hands the question on to its server, which
  may take its time; nor are epoll sets, which may contain such a file. kdbus took both.
- *Which seals?* fcntl(2), F_GET_SEALS. Nodes have none.

kdbus looked descriptors up with `fget_raw` for FDS items, which finds O_PATH descriptors, and with `fget` elsewhere,
which reports EBADF for them. The two questions that only those other items ask, `seals` and `can_poll`, therefore raise
BadDescriptor for an O_PATH descriptor.

Weaknesses: SECCOMP_IOCTL_NOTIF_ADDFD, unlike all the rest, refuses O_PATH descriptors with EBADF. kdbus passed them;
here they can be sent, and their receiver gets a message whose descriptors are incomplete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
from functools import cached_property
from typing import Protocol

from broker.errors import BadDescriptor
from interposer.target.budget import Charge
from native.deputies import close_file
from native.namespace import known_status

F_GET_SEALS = 1034
_ENDPOINT, _CONTROL = "endpoint", "control"
_ENDPOINT_DEPTH = 2
"""Endpoints lie in the folder of their bus, `control` in that of the domain."""


class HandleRegistry(Protocol):
    """The supervisor's list of kdbus handles, by the inode number of the socket that the target holds."""

    def is_endpoint_handle(self, inode: int) -> bool:
        """Whether it is a handle opened from an endpoint node."""
        ...

    def is_control_handle(self, inode: int) -> bool:
        """Whether it is a handle opened from a domain's control node."""
        ...

    def node_of(self, status: os.stat_result) -> tuple[str, ...] | None:
        """The path, in its domain, of the node whose plain file has that status."""
        ...


class TargetFile:
    """`broker.interfaces.File` on `descriptor`, a duplicate in this process that is owned from now on."""

    def __init__(self, descriptor: int, handles: HandleRegistry, charge: Charge | None = None) -> None:
        """`charge`: what it costs whoever named it, until it is closed."""
        self._descriptor = descriptor
        self._handles = handles
        self._charge = charge

    def duplicate(self) -> tuple[int, Charge | None]:
        """A descriptor like this one, and what it costs whoever named the file. Raises OverBudget, OSError."""
        charge = None if self._charge is None else self._charge.again()
        try:
            return os.dup(self.fileno()), charge
        except BaseException:
            if charge is not None:
                charge.give_back()
            raise

    def fileno(self) -> int:
        """The duplicate. Raises ValueError once the file is closed."""
        if self._descriptor < 0:
            raise ValueError("the file is closed")
        return self._descriptor

    @cached_property
    def seals(self) -> int | None:
        """F_SEAL_* bits, None for a file that cannot be sealed. Raises BadDescriptor for O_PATH."""
        if self._node is not None:
            return None
        try:
            return fcntl.fcntl(self.fileno(), F_GET_SEALS)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            if error.errno == errno.EBADF:
                raise BadDescriptor from error
            raise

    @property
    def size(self) -> int:
        """Size in bytes, at this moment."""
        return os.fstat(self.fileno()).st_size

    @cached_property
    def is_kdbus_endpoint(self) -> bool:
        """Whether this is a handle opened from an endpoint node."""
        return self._node == _ENDPOINT

    @cached_property
    def _node(self) -> str | None:
        """What kind of node this was opened from, if it was; None for O_PATH, which opens nothing."""
        status = known_status(self.fileno())
        if _may_be_handle(status.st_mode):
            if self._handles.is_endpoint_handle(status.st_ino):
                return _ENDPOINT
            return _CONTROL if self._handles.is_control_handle(status.st_ino) else None
        path = self._handles.node_of(status) if stat.S_ISREG(status.st_mode) and not self.is_path else None
        if path is None:
            return None
        return _ENDPOINT if len(path) == _ENDPOINT_DEPTH else _CONTROL

    @cached_property
    def is_unix_socket(self) -> bool:
        """Whether this is an AF_UNIX socket, and neither a kdbus handle nor an O_PATH descriptor of its name."""
        if self._node is not None or not stat.S_ISSOCK(known_status(self.fileno()).st_mode):
            return False
        return _socket_domain(self.fileno()) == socket.AF_UNIX

    @cached_property
    def is_path(self) -> bool:
        """Whether it was opened with O_PATH, so that it can be passed but not used."""
        return bool(fcntl.fcntl(self.fileno(), fcntl.F_GETFL) & os.O_PATH)

    @cached_property
    def can_poll(self) -> bool:
        """Whether the file has a poll operation, and one that asks nobody. Raises BadDescriptor for O_PATH."""
        if self._node is not None:
            return self._node == _ENDPOINT
        if self.is_path:
            raise BadDescriptor
        mode = known_status(self.fileno()).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or self._is_epoll_set:
            return False
        with select.epoll() as probe:
            try:
                probe.register(self.fileno(), 0)
            except PermissionError:
                return False
            return True

    @property
    def _is_epoll_set(self) -> bool:
        return os.readlink(f"/proc/self/fd/{self.fileno()}") == "anon_inode:[eventpoll]"

    def close(self) -> None:
        """Drop the reference. Raises ValueError the second time."""
        descriptor = self.fileno()
        self._descriptor = -1
        charge = self._charge
        if charge is None:
            close_file(descriptor)
        else:
            close_file(descriptor, charge.user, charge.give_back)


def _may_be_handle(mode: int) -> bool:
    """Whether a handle can be such a file: inode numbers are given away once among sockets and pipes together."""
    return stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)


def _socket_domain(descriptor: int) -> int | None:
    """The address family of a socket; None for an O_PATH descriptor of a socket's name."""
    try:
        # Given all three, the object believes them, whatever the truth is.
        borrowed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise
    try:
        return borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    finally:
        borrowed.detach()
