# SPDX-License-Identifier: GPL-2.0-or-later
"""Mappings: mmap(2) of a handle is that of its connection's pool, made in the caller by injection.

`interposer.injection.injection` says how. Where the caller is traced by another, the pool's memory takes the handle's
place in the caller for one call (`interposer.handles.detour`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

from broker.limits import PAGE_SIZE
from interposer.injection.injection import Outcome, inject_mapping
from interposer.traps.answering import Answering
from interposer.traps.node_handles import NodeHandles
from native import memory
from native.notification import Notification
from native.pool import Pool

_PROT_WRITE = 0x2
_MAP_TYPE, _MAPS_SHARED, _MAP_ANONYMOUS = 0xF, (1, 3), 0x20
_OLD_MMAP_ARGUMENTS = struct.Struct("=6I")


class Mappings:
    """Serves the mappings of one listener."""

    def __init__(self, answering: Answering, nodes: NodeHandles, pump: Callable[[Notification], None]) -> None:
        """`pump` gets notifications that arrive while a mapping is injected."""
        self._answering = answering
        self._listener = answering.listener
        self._nodes = nodes
        self._pump = pump

    def mmap(self, notification: Notification) -> None:
        """mmap(address, length, protection, flags, fd, offset), shared and of a file; mmap2 of i386 is the same."""
        self._map(notification, notification.arguments)

    def old_mmap(self, notification: Notification) -> None:
        """mmap(arguments) of i386: the six of them lie in memory, 32 bits each."""
        try:
            raw = memory.read(notification.pid, notification.arguments[0], _OLD_MMAP_ARGUMENTS.size)
        except OSError:
            raw = bytes(_OLD_MMAP_ARGUMENTS.size)
        address, length, protection, flags, descriptor, offset = _OLD_MMAP_ARGUMENTS.unpack(raw)
        if flags & _MAP_TYPE in _MAPS_SHARED and not flags & _MAP_ANONYMOUS and offset % PAGE_SIZE == 0:
            self._map(notification, (address, length, protection, flags, descriptor, offset // PAGE_SIZE))
        else:
            self._listener.respond_continue(notification.id)

    def _map(self, notification: Notification, arguments: tuple[int, ...]) -> None:
        _, length, protection, _, descriptor, _ = arguments
        if self._nodes.is_of_no_domain(notification.pid, descriptor & 0xFFFFFFFF):
            self._listener.respond_continue(notification.id)
            return

        def serve() -> int | None:
            handle = self._nodes.handle_of(notification, descriptor & 0xFFFFFFFF)
            if handle is None or handle.broker is None:
                self._listener.respond_continue(notification.id)
                return None
            rounded = (length + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
            act = partial(handle.broker.map, rounded, writable=bool(protection & _PROT_WRITE))
            tap = self._answering.common.tap
            pool = act() if tap is None else tap.mapping(notification, handle, length, act)
            assert isinstance(pool, Pool)
            with pool.opened() as opened:
                result = inject_mapping(self._listener, notification, opened, self._pump, arguments)
                if result.outcome is Outcome.ALREADY_TRACED:
                    self._nodes.detours.map_instead(notification, handle, descriptor & 0xFFFFFFFF, opened)
            return None

        self._answering.answer(notification, serve, may_wait=True)
