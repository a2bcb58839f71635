# SPDX-License-Identifier: GPL-2.0-or-later
"""ioctls of kdbus's magic number: they find their handle, and the broker serves them.

On the way there they may meet who watches (`interposer.traps.tap`), what is injected (`faults`, `delayed`), and the
requests by which receivers serve themselves (`shelves`), which no handle of kdbus's has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from broker.errors import KdbusError
from broker.send import Wait
from interposer.handles.handles import OpenHandle
from interposer.target.caller import TargetCaller
from interposer.traps.answering import Answering
from interposer.traps.delayed import Delayed
from interposer.traps.exactly_once import Interrupted
from interposer.traps.node_handles import NodeHandles
from interposer.traps.shelves import Shelves
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import REVISIONS
from native import memory
from native.notification import Notification

if TYPE_CHECKING:
    from interposer.traps.faults import Faults

_SENDS = frozenset(revision.requests["SEND"] for revision in REVISIONS)
_SEND_FLAGS = 8
"""Where the flags of SEND's command stand."""

Later = Callable[[Notification, Wait], None]


class Ioctls:
    """Serves the ioctls of one listener."""

    def __init__(
        self,
        answering: Answering,
        nodes: NodeHandles,
        later: Later,
        served: Callable[[Notification, OpenHandle, TargetCaller], None],
        *,
        faults: Faults | None = None,
        share: Callable[[OpenHandle], int | None] | None = None,
    ) -> None:
        """`later` takes over a waiting call; `served` is told of each ioctl that the broker has served on a handle.

        `faults`: what is injected. `share`: what lets receivers serve themselves (`interposer.traps.shelves`).
        """
        self._answering = answering
        self._nodes = nodes
        self._later = later
        self._served = served
        self._faults = faults
        self._shelves = Shelves(answering.listener, answering.answers, share)
        self.delayed = Delayed()

    def ioctl(self, notification: Notification) -> None:
        """ioctl(fd, request, argument) with kdbus's magic number."""
        descriptor, request, argument = notification.arguments[:3]

        def serve() -> int | None:
            caller = self._answering.caller(notification)
            handle = self._nodes.handle_of(notification, descriptor & 0xFFFFFFFF)
            if handle is None or handle.broker is None:
                self._answering.listener.respond_continue(notification.id)
                return None
            if not caller.is_waiting():
                # What was found is somebody else's, who has the thread's number by now.
                raise Interrupted
            if self._shelves.knows(request & 0xFFFFFFFF):
                return self._shelves.ioctl(notification, request & 0xFFFFFFFF, handle)
            if self._faults is not None and self._delay(self._faults, notification, handle, caller):
                return None
            try:
                if self._answering.common.tap is None and self._faults is None:
                    wait = handle.broker.ioctl(request & 0xFFFFFFFF, argument, caller)
                else:
                    wait = self._ioctl_by_way(notification, handle, caller)
            except KdbusError:
                # Or who is refused from the start would never be known, and be refused here for good.
                self._served(notification, handle, caller)
                raise
            self._served(notification, handle, caller)
            if wait is None:
                return 0
            self._later(notification, wait)
            return None

        may_wait = not self._answering.answers.kernel_waits and _may_wait(notification)
        if self._faults is not None and self._faults.may_delay(request & 0xFFFFFFFF):
            may_wait = True
        self._answering.answer(notification, serve, may_wait=may_wait)

    def _ioctl_by_way(self, notification: Notification, handle: OpenHandle, caller: TargetCaller) -> Wait | None:
        """`handle.broker.ioctl` by way of what is injected and of who watches."""
        assert handle.broker is not None
        request, argument = notification.arguments[1] & 0xFFFFFFFF, notification.arguments[2]
        act = partial(handle.broker.ioctl, request, argument, caller)
        if self._faults is not None:
            act = partial(self._faults.ioctl, notification, handle, request, argument, caller)
        tap = self._answering.common.tap
        if tap is None:
            return act()
        return tap.ioctl(notification, handle, request, argument, caller, act)

    def _delay(self, faults: Faults, notification: Notification, handle: OpenHandle, caller: TargetCaller) -> bool:
        """Whether the call has to wait before it is served; then it is seen to."""
        delay_ns = faults.delay_ns(notification, handle, notification.arguments[1] & 0xFFFFFFFF, caller)
        if delay_ns:
            self.delayed.add(notification, delay_ns)
        return bool(delay_ns)


def _may_wait(notification: Notification) -> bool:
    """Whether the trapped ioctl is a SEND that waits for its reply. In version 2, where the flags are a message's, that
    bit says only that there will be one."""
    if notification.arguments[1] & 0xFFFFFFFF not in _SENDS:
        return False
    try:
        command = memory.read(notification.pid, notification.arguments[2], _SEND_FLAGS + 8)
    except OSError:
        return False
    return bool(int.from_bytes(command[_SEND_FLAGS:], "little") & abi.SEND_SYNC_REPLY)
