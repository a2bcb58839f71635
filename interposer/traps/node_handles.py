# SPDX-License-Identifier: GPL-2.0-or-later
"""Handles of nodes: from a node that a program opens to a handle, and from a descriptor of a program back to it.

A handle is made where a node is opened (`NodeHandles.open_node`): the program gets one end of a socket, the table of
handles keeps the other. Nodes that were opened in a way that nobody has seen are plain files until their first use,
when they are replaced (`interposer.handles.lazy`); and where a pool could not be mapped, because the program is traced
by another, its memory stands in the handle's place for one call (`interposer.handles.detour`).
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial

from broker.domain import Domain
from broker.errors import NodeShutDown, NoFreeDescriptor, TooManyOpenFiles
from broker.handle import open_node
from interposer.handles.detour import Detours
from interposer.handles.handles import OpenHandle, status_of
from interposer.handles.lazy import LazyHandles
from interposer.shortage import tell_once
from interposer.target.budget import OverBudget
from interposer.target.inspection import tell_forbidden
from interposer.traps.answering import Answering
from interposer.traps.exactly_once import Interrupted
from native.notification import Notification

Node = tuple[Domain, tuple[str, ...]]
"""A node: its domain and its path there."""


class NodeHandles:
    """The handles that the calls of one listener are about."""

    def __init__(self, answering: Answering) -> None:
        """Raises OSError."""
        self._answering = answering
        self._common = answering.common
        self._listener = answering.listener
        self.detours = Detours(self._listener)
        self._lazy = LazyHandles(self._listener, self._common.handles)

    def handle_of(self, notification: Notification, descriptor: int) -> OpenHandle | None:
        """The handle behind a descriptor of the caller. A plain file of a node is replaced by a handle first."""
        thread = notification.pid
        handle = self._common.handles.find(thread, descriptor)
        if handle is not None:
            return handle
        try:
            status = status_of(thread, descriptor)
        except PermissionError:
            tell_forbidden(thread)
            return None
        except OSError:
            return None
        node = self.node_behind(status)
        if node is not None:
            return self._lazy.handle(
                notification, descriptor, lambda flags: self.open_node(notification, *node, flags, at=descriptor)
            )
        if (detoured := self.detours.restore(notification, descriptor, status)) is not None:
            return detoured
        if status.st_nlink == 0 and any(mounted.files.device == status.st_dev for mounted in self._common.domains):
            raise NodeShutDown
        return None

    def is_of_no_domain(self, thread: int, descriptor: int) -> bool:
        """Whether a descriptor of the caller is certainly neither a handle nor a node nor what was a node."""
        try:
            status = status_of(thread, descriptor)
        except OSError:
            return False
        of_domains = any(mounted.files.device == status.st_dev for mounted in self._common.domains)
        return stat.S_ISREG(status.st_mode) and not of_domains and not self.detours.knows(status)

    def install_node(self, notification: Notification, status: os.stat_result, flags: int) -> int | None:
        """Open the node whose file has that status for the caller, who may; the number, None if it is no node.

        Raises as `open_node` does.
        """
        node = self.node_behind(status)
        return None if node is None else self.open_node(notification, *node, flags)

    def node_behind(self, status: os.stat_result) -> Node | None:
        """Domain and path of the node whose file has that status. Folders are the kernel's business."""
        if stat.S_ISDIR(status.st_mode):
            return None
        for mounted in self._common.domains:
            path = mounted.files.find(status.st_dev, status.st_ino)
            if path is not None:
                return mounted.domain, path
        return None

    def open_node(
        self, notification: Notification, domain: Domain, path: tuple[str, ...], flags: int, at: int | None = None
    ) -> int:
        """Open a node for the caller; the number of the new descriptor.

        Raises NodeShutDown, NoFreeDescriptor, TooManyOpenFiles, Interrupted.
        """
        if self._common.tap is None:
            return self._open_unwatched(notification, domain, path, flags, at)
        act = partial(self._open_unwatched, notification, domain, path, flags, at)
        return self._common.tap.opening(notification, path, act)

    def _open_unwatched(
        self, notification: Notification, domain: Domain, path: tuple[str, ...], flags: int, at: int | None
    ) -> int:
        self._common.handles.sweep()
        try:
            user = self._answering.caller(notification).credentials().uid
            handle, theirs = self._common.handles.prepare(user, nonblocking=bool(flags & os.O_NONBLOCK))
        except ProcessLookupError:
            raise
        except (OSError, OverBudget) as error:
            tell_once(errno.ENFILE, str(error))
            raise TooManyOpenFiles from error
        try:
            handle.broker = open_node(domain, path, self._answering.caller(notification), handle)
            close_on_exec = bool(flags & os.O_CLOEXEC)
            number = self._listener.add_descriptor(notification.id, theirs.fileno(), close_on_exec=close_on_exec, at=at)
        except OSError as error:
            self._common.handles.discard(handle)
            if error.errno == errno.EMFILE:
                raise NoFreeDescriptor from error
            if error.errno in (errno.ENOENT, errno.ESRCH):
                raise Interrupted from error
            raise
        except BaseException:
            self._common.handles.discard(handle)
            raise
        finally:
            theirs.close()
        self._common.handles.add(handle)
        return number
