# SPDX-License-Identifier: GPL-2.0-or-later
"""Opens: open(2), openat(2) and openat2(2), where mount mode traps them.

Most lead elsewhere, and are the kernel's. One that asks for reading and writing and leads to a node yields a handle,
if its caller may open the node's file; one that asks for writing alone is the module parameter's concern. Where a path
leads is found out as the caller would (`interposer.nodes.resolve`), and with its rights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from interposer.nodes.resolve import AT_FDCWD, PATH_LIMIT, StartingPoints, resolve
from interposer.target.caller import TargetCaller
from interposer.target.ids import own_namespace
from interposer.traps.answering import Answering
from interposer.traps.node_handles import NodeHandles
from native import memory
from native.credentials import borrowed_identity
from native.deputies import Stalled
from native.namespace import known_status
from native.notification import Notification

HOW_SIZE = 24
"""`struct open_how`: flags, mode, resolve, 64 bits each."""
NODE_OPEN_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_DIRECTORY | os.O_PATH
_KNOWN_FLAGS = os.O_ACCMODE | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_TRUNC | os.O_APPEND
"""Flags with which openat2(2), unlike its elders, may open a node; it refuses those that do not exist."""


class Opens:
    """Serves the opens of one listener."""

    def __init__(self, answering: Answering, nodes: NodeHandles) -> None:
        self._answering = answering
        self._nodes = nodes
        self._parameter = answering.common.parameter

    def open(self, notification: Notification) -> None:
        """open(path, flags)."""
        self.open_at(notification, AT_FDCWD, notification.arguments[0], notification.arguments[1])

    def openat(self, notification: Notification) -> None:
        """openat(directory, path, flags)."""
        directory, path, flags = notification.arguments[:3]
        self.open_at(notification, signed32(directory), path, flags)

    def openat2(self, notification: Notification) -> None:
        """openat2(directory, path, how, size): the flags lie in memory."""
        directory, path, how, size = notification.arguments[:4]
        try:
            raw = memory.read(notification.pid, how, HOW_SIZE) if size == HOW_SIZE else b""
        except (OSError, Stalled):
            raw = b""
        # What is wrong is the kernel's to say, and restricted lookups are its own: if it opens a node, that is a plain
        # file, which the first ioctl replaces.
        flags = int.from_bytes(raw[:8], "little")
        if any(raw[8:]) or flags & ~_KNOWN_FLAGS:
            flags = 0
        self.open_at(notification, signed32(directory), path, flags)

    def open_at(self, notification: Notification, directory: int, path: int, flags: int) -> None:
        """An open of any kind, its arguments taken apart; `path` is an address.

        What stalls is the kernel's, so that it is the caller who waits. Should it lead to a node after all, that is a
        plain file, which the first ioctl replaces.
        """
        with suppress(Stalled):
            if flags & NODE_OPEN_FLAGS == os.O_WRONLY:
                self._announce_writing(notification, directory, path, follow=not flags & os.O_NOFOLLOW)
            elif flags & NODE_OPEN_FLAGS == os.O_RDWR and self._open_node(notification, directory, path, flags):
                return
        self._answering.listener.respond_continue(notification.id)

    def _announce_writing(self, notification: Notification, directory: int, path: int, *, follow: bool) -> None:
        """The kernel is about to open something with O_WRONLY; the module parameter wants to know, if that may be."""
        try:
            name = memory.read_string(notification.pid, path, PATH_LIMIT)
            with StartingPoints(notification.pid, directory) as start:
                with _found(start, name, follow=follow) as found:
                    if not self._is_parameter(found):
                        return
                self._answering.need_broker()
                with identity_of(self._answering.caller(notification)), _found(start, name, follow=follow) as found:
                    if self._is_parameter(found) and _may_write(found):
                        self.parameter_opened(known_status(found))
        except OSError:
            return

    def _is_parameter(self, descriptor: int) -> bool:
        return self._parameter.is_file(known_status(descriptor))

    def about_to_be_emptied(self, status: os.stat_result) -> None:
        """The file of `status` may be emptied now: what was written to the module parameter counts all the same."""
        if self._parameter.is_file(status):
            self._parameter.current()

    def parameter_opened(self, status: os.stat_result) -> None:
        """Somebody who may opens the file of `status` with O_WRONLY."""
        if self._parameter.is_file(status):
            self._parameter.opened_for_writing()

    def _open_node(self, notification: Notification, directory: int, path: int, flags: int) -> bool:
        """Serve the open if it leads to a node; False if not."""
        try:
            name = memory.read_string(notification.pid, path, PATH_LIMIT)
            follow = not flags & os.O_NOFOLLOW
            with StartingPoints(notification.pid, directory) as start:
                # Most lead elsewhere, and are the kernel's; only for the others it matters who the caller is.
                with _found(start, name, follow=follow) as found:
                    node = self._nodes.node_behind(known_status(found))
                if node is None:
                    return False
                with identity_of(self._answering.caller(notification)), _found(start, name, follow=follow) as found:
                    # If it is forbidden, the kernel says so.
                    if self._nodes.node_behind(known_status(found)) != node or not _may_read_and_write(found):
                        return False
        except OSError:
            return False
        self._answering.answer(notification, lambda: self._nodes.open_node(notification, *node, flags))
        return True


def signed32(register: int) -> int:
    """The low half of a register as a signed number."""
    value = register & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def identity_of(caller: TargetCaller) -> borrowed_identity:
    """What the caller may do with files; capabilities of another user namespace than ours do not count here."""
    who = caller.credentials()
    capabilities = caller.process.capabilities()
    own = capabilities.user_namespace == own_namespace(b"user")
    return borrowed_identity(who.fsuid, who.fsgid, who.groups, capabilities.effective if own else 0)


@contextmanager
def _found(start: StartingPoints, path: bytes, *, follow: bool) -> Iterator[int]:
    """What `interposer.nodes.resolve.resolve` finds, closed afterwards. Raises OSError, Stalled."""
    descriptor = resolve(start, path, follow=follow)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _may_write(descriptor: int) -> bool:
    """Whether the borrowed identity may open this O_PATH descriptor's file with O_WRONLY."""
    return os.access(f"/proc/self/fd/{descriptor}", os.W_OK, effective_ids=True)


def _may_read_and_write(descriptor: int) -> bool:
    """Whether the borrowed identity may open this O_PATH descriptor's file with O_RDWR."""
    return os.access(f"/proc/self/fd/{descriptor}", os.R_OK | os.W_OK, effective_ids=True)
