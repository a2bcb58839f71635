# SPDX-License-Identifier: GPL-2.0-or-later
"""Who watches a supervisor: tracers, who are shown every call, and one who is shown messages only.

Calls that the broker serves are shown by a tap (`interposer.traps.tap`), which is there only while somebody traces;
those that the engine serves it notes itself, while anybody watches (`interposer.supervisor.flows`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interposer.supervisor.flows import Flows, Watcher
from interposer.traps.answering import Common

if TYPE_CHECKING:
    from interposer.traps.tap import Tap
    from tracing.record import Tracer


class Watchers:
    """Sees to it that whoever watches is told; `common.tap` is the tap."""

    def __init__(
        self, common: Common, flows: Flows, injected: Callable[[], list[str]], allow_flows: Callable[[], None]
    ) -> None:
        """`injected`: what the call that was served last has met of what was injected. `allow_flows` decides anew
        whether calls may be served natively, as native code keeps no stacks; nothing is lent then."""
        self._common = common
        self._flows = flows
        self._injected = injected
        self._allow_flows = allow_flows
        self._of_messages: Watcher | None = None

    def trace(self, tracer: Tracer) -> None:
        """Show `tracer` every call from now on. Raises OSError(ENOMEM)."""
        if self._common.tap is None:
            from interposer.traps.tap import Tap

            self._use_tap(Tap(self._injected))
        assert self._common.tap is not None
        self._common.tap.tracers[tracer] = None
        self._changed()

    def untrace(self, tracer: Tracer) -> None:
        """Show it nothing any more."""
        tap = self._common.tap
        assert tap is not None
        del tap.tracers[tracer]
        if not tap.tracers:
            self._use_tap(None)
        self._changed()

    def watch_messages(self, watcher: Watcher | None) -> None:
        """Tell `watcher`, besides tracers, of what is served natively from now on; None: only those."""
        self._of_messages = watcher
        self._watch_natively()

    def _changed(self) -> None:
        self._watch_natively()
        self._flows.recall()
        self._allow_flows()

    def _watch_natively(self) -> None:
        watchers = self._common.tap, self._of_messages
        self._flows.watch([watcher for watcher in watchers if watcher is not None])

    def _use_tap(self, tap: Tap | None) -> None:
        self._flows.recall()
        self._common.tap = tap
        self._common.handles.connection_ended = (lambda _: None) if tap is None else tap.hung_up
