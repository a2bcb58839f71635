# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for a bus to be made and for a name to be owned: what both faces do, but for the waiting itself.

For either the rule is: first ask to be told, then look, or it may appear in between and be missed. A bus is a folder
that appears, of which inotify tells. The kernel's own kdbusfs raised no such events, so a look once a second
(LOOK_AGAIN) stands by.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from kdbus import matches
from kdbus.errors import Error, NotFound, failure
from kdbus.flags import Attach, HelloFlag, NameFlag
from kdbus.nodes import path_of
from kdbus.owned import OwnsDescriptor
from kdbus.peer import Peer
from kdbus.received import Message
from kdbus.system import Node
from kdbus.values import NameChange

LOOK_AGAIN: Final = 1.0
"""Seconds after which one looks again, though nothing was told."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_add_watch: Final = _LIBC.inotify_add_watch
_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
# IN_ATTRIB | IN_MOVED_TO | IN_CREATE: access to a node may be granted after it was made.
_EVENTS: Final = 0x4 | 0x80 | 0x100


class BusWatch(OwnsDescriptor):
    """Looks for an endpoint's node, and can be waited for (`fileno`) if it is not there."""

    def __init__(self, bus: str, endpoint: str, root: str) -> None:
        """Raises Error: there is no kdbus, or no more descriptors."""
        self._path = path_of(bus, endpoint, root)
        self._descriptor = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise failure("inotify_init", ctypes.get_errno())
        if not self._watch(os.path.dirname(os.path.dirname(self._path))):
            self.close()
            raise failure("open", errno.ENOENT, self._path)

    def is_there(self) -> bool:
        """Whether the node can be opened now. Raises Error: it is there, and cannot (EACCES)."""
        try:
            while os.read(self._descriptor, 4096):
                pass
        except BlockingIOError:
            pass
        self._watch(os.path.dirname(self._path))
        try:
            Node(self._path).close()
        except Error as error:
            # ESHUTDOWN: it is about to go, and another may follow.
            if error.errno not in (errno.ENOENT, errno.ESHUTDOWN):
                raise
            return False
        return True

    def fileno(self) -> int:
        """Readable when one should look again."""
        return self._descriptor

    def _watch(self, folder: str) -> bool:
        """Watch a folder, if it is there. It is opened first, as `kdbus run` has to find it for us where there is no
        mount, and named by its descriptor."""
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return bool(_add_watch(self._descriptor, f"/proc/self/fd/{opened}".encode(), _EVENTS) >= 0)
        finally:
            os.close(opened)


def ask_for_owner(peer: Peer, name: str) -> int | None:
    """Want to be told of a name's owners; returns who owns it already. An activator is none."""
    peer.add_match(matches.NameAppears(name))
    peer.add_match(matches.NameChangesHands(name))
    try:
        info = peer.info(name, Attach.NONE)
    except NotFound:
        return None
    return None if info.flags & HelloFlag.ACTIVATOR else info.id


def new_owner(message: Message) -> int | None:
    """Who owns the name now, if the message tells of a new owner."""
    change = message.notification
    if isinstance(change, NameChange) and not change.new_flags & NameFlag.ACTIVATOR:
        return change.new_id
    return None
