# SPDX-License-Identifier: GPL-2.0-or-later
"""One tree of processes: what belongs to one seccomp listener, and ends with the last process under its filter.

The kernel allows one listener for each tree of processes. Everything that is about a trapped call hangs on it: the
answers, the calls that wait, the mounts that its programs make. What the trees share (the domains with their buses, the
handles, the flows, what is known of user namespaces) is in `Shared`; a descriptor of one tree may be passed to another,
so handles are nobody's own.

A `kdbus run` has one tree and its own `Shared`; in `kdbus serve` trees come and go. `interposer.supervisor.supervisor`
is the loop over them.

What a filter traps is decided by whoever installs it, and a server is given listeners by others. So a call that this
module has no answer for is left to the kernel.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from broker.interfaces import Ids
from broker.send import Wait
from interposer.handles.handles import OpenHandle
from interposer.launch.filter import this_architecture
from interposer.launch.guarantee import Guarantee, forced
from interposer.nodes.filesystem import NodeFiles
from interposer.supervisor.flows import Flows
from interposer.supervisor.waiting import WaitingCalls
from interposer.target.caller import TargetCaller
from interposer.target.stalls import PostedWrites, Stalls
from interposer.traps.answering import Answering, Common, MountedDomain
from interposer.traps.exactly_once import Answers
from interposer.traps.ioctls import Ioctls
from interposer.traps.mappings import Mappings
from interposer.traps.mounts import Mounts
from interposer.traps.node_handles import NodeHandles
from interposer.traps.opens import Opens
from interposer.traps.path_mode import PathCalls
from interposer.traps.preloaded import Preloaded
from native.flow import STALL_ANSWER, STALL_CALL, STALL_OTHER, Stall
from native.notification import Listener, Notification

if TYPE_CHECKING:
    from interposer.traps.faults import Faults

Serve = Callable[[Notification], None]


@dataclass(eq=False, slots=True, kw_only=True)
class Shared(Common):
    """What all trees of one supervisor have in common."""

    flows: Flows
    stalls: Stalls
    new_domain: Callable[[Ids, NodeFiles], MountedDomain]
    self_serve: bool = False
    """Whether receivers may serve themselves."""


class Tree:
    """The processes under one listener."""

    def __init__(self, listener: Listener, waits_killable: bool, shared: Shared, faults: Faults | None = None) -> None:
        """Takes over `listener`. `waits_killable`: see `interposer.launch.launch.Launched`. `faults`: what calls are to
        meet. Raises OSError."""
        self.faults = faults
        self._path_calls: PathCalls | None = None
        self._preloaded: Preloaded | None = None
        self._aside: dict[int, Notification] = {}
        """Calls that are served, or answered, later."""
        self._shared = shared
        self.listener = listener
        self._pump = partial(shared.flows.put, listener)
        self.waiting = WaitingCalls(self.listener, self._finish, self._interrupted)
        self._answers = Answers(self.listener, _guarantee(waits_killable), self._pump)
        self._posted = PostedWrites(self.listener, shared.stalls, partial(shared.flows.user_of, self.listener))
        self._answering = Answering(shared, self.listener, self._answers, self._posted)
        self._nodes = NodeHandles(self._answering)
        self._opens = opens = Opens(self._answering, self._nodes)
        self._self_serve = shared.self_serve and faults is None
        share = shared.flows.share if self._self_serve else None
        self._repeats = self._answers.kernel_waits and faults is None
        ioctls = Ioctls(self._answering, self._nodes, self.waiting.add, self._served, faults=faults, share=share)
        mappings = Mappings(self._answering, self._nodes, self._pump)
        self.mounts = Mounts(self._answering, shared.new_domain)
        self.detours = self._nodes.detours
        self.delayed = ioctls.delayed
        served: dict[str, Serve] = {"ioctl": ioctls.ioctl, "fsopen": self.mounts.fsopen}
        served["exit_group"] = self._exit_group
        served |= {"mount": self.mounts.mount, "umount2": self.mounts.umount2, "umount": self.mounts.umount}
        mostly_elsewhere = {"open": opens.open, "openat": opens.openat, "openat2": opens.openat2}
        mostly_elsewhere |= {"mmap": mappings.mmap, "mmap2": mappings.mmap, "old_mmap": mappings.old_mmap}
        self._serve_by_call = _by_number(served)
        self._mostly_elsewhere = _by_number(mostly_elsewhere)

    def news(self) -> tuple[int, ...]:
        """Descriptors that are readable when there is something to look after."""
        return self.mounts.fileno(), self.detours.fileno(), self.waiting.cancels_fileno()

    def show_folder(self, files: NodeFiles, kdbus: int, module: int) -> None:
        """The programs' own /sys/fs/kdbus is a private folder (`interposer.traps.path_mode`), with these two in it.

        `files`: the nodes in `kdbus`. `module` is owned from now on.
        """
        self._path_calls = PathCalls(
            self._answering,
            self._opens,
            self._nodes,
            files,
            kdbus,
            module,
            self._pump,
            shelves=self._self_serve,
            repeats=self._repeats,
        )
        self._mostly_elsewhere |= _by_number(self._path_calls.handlers())
        self.mounts.on_mount = self._path_calls.preloaded.mounted

    def spare_opens(self, files: NodeFiles, module: int) -> None:
        """Programs have the preloaded library in mount mode: answer what it asks (`interposer.traps.preloaded`).

        `files`: the nodes at /sys/fs/kdbus; `module`: the device of /sys/module/kdbus. Raises OSError.
        """
        preloaded = Preloaded(files.device, module, real=True, shelves=self._self_serve, repeats=self._repeats)
        answering, opens = self._answering, self._opens

        def open_(call: Notification) -> None:
            if not preloaded.serve(answering, call, call.arguments[0], call.arguments[1]):
                opens.open(call)

        def openat(call: Notification) -> None:
            if not preloaded.serve(answering, call, call.arguments[1], call.arguments[2]):
                opens.openat(call)

        self._mostly_elsewhere |= _by_number({"open": open_, "openat": openat})
        self.mounts.on_mount = preloaded.mounted
        self._preloaded = preloaded

    def kernel_keeps_promise(self) -> None:
        """This kernel is known to be free of the hole (`interposer.traps.exactly_once`): answers need no
        confirmation."""
        if self._answers.guarantee is Guarantee.CONFIRMED and forced() is None:
            self._answers.guarantee = Guarantee.KERNEL

    @property
    def may_flow(self) -> bool:
        """Whether hot calls may be served natively: each arrives once, an answer needs no confirmation, and no fault is
        injected, as none hits what is served natively."""
        return self.faults is None and self._answers.guarantee is Guarantee.KERNEL

    def resume(
        self, notification: Notification, resume: Callable[[TargetCaller], Wait], look_ns: int, began_ns: int
    ) -> None:
        """Take over a call that waits, from the native side. `look_ns`: when to look at its thread; `began_ns`: when
        it began, 0 if nobody watched."""
        wait = resume(self._answering.caller(notification))
        if self._shared.tap is not None:
            self._shared.tap.given_back(wait, notification, began_ns)
        self.waiting.add(notification, wait, look_ns)

    def left(self, stall: Stall) -> None:
        """The engine has left a call behind."""
        call = stall.call
        if stall.kind == STALL_OTHER:
            self._posted.begun(call, stall.ticket)
        elif stall.kind == STALL_ANSWER:
            self._aside[call.id] = call
            self._shared.stalls.wait(stall.ticket, stall.user, partial(self._answer_late, call))
        elif stall.kind == STALL_CALL:
            self.put_aside(call, stall.ticket, stall.user)
        else:
            self._pump(call)

    def put_aside(self, notification: Notification, ticket: int, user: int | None = None) -> None:
        """Serve a call once that copy is over."""
        if user is None:
            user = self._shared.flows.user_of(self.listener, notification)
        self._aside[notification.id] = notification
        self._shared.stalls.wait(ticket, user, lambda _error: self._put_back(notification))

    def hold(self, notification: Notification) -> None:
        """Serve a call once its user's calls are not held any more."""
        user = self._shared.flows.user_of(self.listener, notification)
        self._aside[notification.id] = notification
        self._shared.stalls.hold(user, partial(self._put_back, notification))

    def _put_back(self, notification: Notification) -> None:
        if self._aside.pop(notification.id, None) is not None:
            self._pump(notification)

    def _answer_late(self, notification: Notification, error: int) -> None:
        if self._aside.pop(notification.id, None) is None:
            return
        with suppress(OSError):
            if error:
                self.listener.respond_error(notification.id, errno.EFAULT)
            else:
                self.listener.respond_value(notification.id, 0)

    def serve_elsewhere(self, notification: Notification) -> bool:
        """Serve a call on a path or file that is none of kdbus's, as most are, while the broker's state may be lent.

        False, and nothing has happened, if it is any other call. Raises OSError if the listener is unusable.
        """
        serve = self._mostly_elsewhere.get((notification.architecture, notification.number))
        return serve is not None and self._answering.without_broker(serve, notification)

    def serve(self, notification: Notification) -> None:
        """Serve a trapped call. Raises OSError if the listener is unusable."""
        if not self._answers.kernel_waits:
            self.waiting.left(notification.pid)
        call = notification.architecture, notification.number
        serve = self._serve_by_call.get(call) or self._mostly_elsewhere.get(call)
        if serve is None:
            self.listener.respond_continue(notification.id)
        else:
            serve(notification)

    def _exit_group(self, notification: Notification) -> None:
        """exit_group(status): the process ends, and still has all that it has open."""
        if self._shared.tap is not None:
            self._shared.tap.leaving(notification)
        self.listener.respond_continue(notification.id)

    def _served(self, notification: Notification, handle: OpenHandle, caller: TargetCaller) -> None:
        self._shared.flows.note(notification, handle, caller)

    def _finish(self, notification: Notification, wait: Wait) -> None:
        def serve() -> int:
            caller = self._answering.caller(notification)
            if self._shared.tap is None:
                wait.finish(caller)
            else:
                self._shared.tap.finish(wait, caller)
            self._shared.flows.note_answer(notification.pid, wait.connection, caller)
            return 0

        if not self._answering.answer(notification, serve):
            wait.interrupt()

    def _interrupted(self, wait: Wait) -> None:
        if self._shared.tap is not None:
            self._shared.tap.interrupted(wait)

    def close(self) -> None:
        """End the domains that were mounted here, and let go of everything. Nothing is lent."""
        for notification in self._aside.values():
            with suppress(OSError):
                self.listener.respond_error(notification.id, errno.ESHUTDOWN)
        self._aside.clear()
        self._posted.close()
        self.waiting.close()
        self.detours.close()
        self.mounts.close()
        if self._path_calls is not None:
            self._path_calls.close()
        if self._preloaded is not None:
            self._preloaded.close()
        self._answers.close()
        self.listener.close()


def _by_number(served: Mapping[str, Serve]) -> dict[tuple[int, int], Serve]:
    """What serves which call, by architecture and number instead of by name."""
    return {
        (architecture.audit, number): served[name]
        for architecture in this_architecture().all
        for name, number in architecture.system_calls.items()
        if name in served
    }


def _guarantee(waits_killable: bool) -> Guarantee:
    """How answers are made sure to arrive, to begin with."""
    return forced() or (Guarantee.CONFIRMED if waits_killable else Guarantee.HELD)
