# SPDX-License-Identifier: GPL-2.0-or-later
"""Shelves: what lets receivers take and free plain messages by themselves (`native/shelf.h`).

Code inside the receiving process asks by private calls, of numbers that no kdbus has. Whoever may use the connection
may ask: with the answer it can do what RECV and FREE do, to that connection. The one who has asked last has the shelf,
so that a program that was started by another, or a child that serves what its parent has opened, is not left with
what its forerunner had. Who is traced has none, as its tracer is to see what it does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from interposer.handles.handles import OpenHandle
from interposer.target.ids import read_file
from interposer.traps.exactly_once import Answers, Interrupted
from native.notification import Listener, Notification

ASK, SETTLE = 0x95F0, 0x95F1
_MOST = 16
"""How often one may ask for a connection: each answer is memory, which the program may keep."""


class Shelves:
    """The private calls of one listener."""

    def __init__(self, listener: Listener, answers: Answers, share: Callable[[OpenHandle], int | None] | None) -> None:
        """`share`: a descriptor of a new shelf of that connection, to be closed by us; None if it can have none.
        Raises OSError. Without it nobody gets any."""
        self._listener = listener
        self._answers = answers
        self._share = share

    def knows(self, request: int) -> bool:
        """Whether that is the number of one of these calls."""
        return request in (ASK, SETTLE)

    def ioctl(self, notification: Notification, request: int, handle: OpenHandle) -> int | None:
        """Serve a call that is one of these; its value, None if it has been answered.

        ENOTTY: nobody has any; ENOTCONN: the handle is no connection, yet; EOPNOTSUPP: what it is has none.
        """
        if self._share is None:
            self._answers.error(notification, errno.ENOTTY)
            return None
        if request == SETTLE:
            handle.settle()
            return 0
        connection = handle.connection
        if connection is None or not connection.active:
            self._answers.error(notification, errno.ENOTCONN)
            return None
        handle.shelves += 1
        refused = handle.shelves > _MOST or _is_traced(notification.pid)
        shelf = None if refused else _shelf_of(handle, self._share)
        if shelf is None:
            self._answers.error(notification, errno.EOPNOTSUPP)
            return None
        try:
            return self._listener.add_descriptor(notification.id, shelf, close_on_exec=True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                raise Interrupted from error
            if error.errno != errno.EMFILE:
                raise
            self._answers.error(notification, errno.EOPNOTSUPP)
            return None
        finally:
            os.close(shelf)


def _shelf_of(handle: OpenHandle, share: Callable[[OpenHandle], int | None]) -> int | None:
    try:
        return share(handle)
    except OSError:
        return None  # out of descriptors or memory: it goes on as it is


def _is_traced(thread: int) -> bool:
    """Whether somebody traces that thread (strace, gdb), and wants to see its calls."""
    try:
        text = read_file(f"/proc/{thread}/status")
    except OSError:
        return False
    return text.partition(b"\nTracerPid:")[2].split(None, 1)[:1] not in ([], [b"0"])
