# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor: serves the traps of one or more trees of processes.

It waits for nothing but traps, and for those only as long as it is asked to; when it is its turn, an event loop says
(`interposer.supervisor.loop`), and before there is one `interposer.supervisor.start`. Once a call arrives for the
broker, the listeners are drained, and more is waited for for a few milliseconds, as it mostly follows at once.

In each round: hang-ups first, as a descriptor that was closed before a call must be gone when it is served; then the
trap; then the calls that it woke, in whichever tree they wait. Deadlines are looked at whenever the loop comes up for
air. Whose trap is next, of whichever tree, is decided natively (`native/shares.c`).

`kdbus run` has one tree, and its program's end ends the domain: every connection is disconnected, as an unmount would,
and processes that are left find kdbus gone; with --linger the last process is waited for. In `kdbus serve`
(`interposer.shared_domain.serve`) trees come and go, and the domain stays.

Hot calls are served natively across trees, by one engine (`interposer.supervisor.flows`), unless one of the trees is
under a filter that lets signals break off a call.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from broker.send import Wait
from interposer.handles.handles import HandleTable, OpenHandle
from interposer.launch.guarantee import forced
from interposer.options import RunOptions
from interposer.report import say, unexpected
from interposer.shortage import errno_of_shortage
from interposer.supervisor.domains import Domains
from interposer.supervisor.flows import Flows
from interposer.supervisor.tree import Shared, Tree
from interposer.supervisor.waiting import WaitingCalls
from interposer.supervisor.watchers import Watchers
from interposer.target.budget import Budgets
from interposer.target.caller import MemoryStalled, TargetCaller
from interposer.target.ids import UserNamespaces
from interposer.target.stalls import Stalls
from interposer.traps.answering import failure_of
from interposer.traps.module_parameter import AttachFlagsMask
from interposer.traps.probe import Probe
from native.deputies import Deputies, Stalled, employ
from native.identity import can_compare, can_fetch
from native.notification import EndOfTargets, Listener, Notification

if TYPE_CHECKING:
    from tracing.faults import Fault

_DYING_S = 0.05
"""How long processes that were killed with the program may take to be gone."""
_TURN_NS = 5_000_000
"""How long traps, and waiting for the next one, may keep the loop from everything else."""


class Supervisor:
    """Serves trees of processes: what they share, and the loop.

    To be made before this process has a second thread, or descriptors whose last close matters.
    """

    def __init__(self, options: RunOptions, mask: AttachFlagsMask, *, probe: bool) -> None:
        """`mask`: the module parameter. `probe`: find out which guarantee this kernel gives, as there are, or will be,
        filters whose waits are killable only."""
        self._options = options
        self._probe = Probe() if probe and forced() is None else None
        self._kernel_keeps_promise = False
        self._calls_for_broker = 0
        self._news = select.epoll()
        self._trees: dict[int, Tree] = {}
        self._over = False
        self._next: tuple[Tree, Notification] | None = None
        """A call that was received while trio slept: the broker's, and nothing is received before it is served."""
        self._sleep = -1
        """What is waited for besides traps, see `attend`."""
        self._ended: Callable[[Tree], None] = lambda _: None
        handles = HandleTable(self._closing, Budgets())
        self._flows = Flows(self._news.fileno(), handles, self._waiting, self._resume, mask.evidence)
        deputies = Deputies()
        employ(deputies)
        self._flows.employ(deputies)
        self._stalls = Stalls(deputies, self._flows.hold)
        namespaces = UserNamespaces()
        namespaces.forgotten = self._flows.forget_origins
        self.domains = Domains(options.revision, mask, namespaces)
        handles.node_of = self.domains.node_of
        self.shared = Shared(
            handles=handles,
            namespaces=namespaces,
            parameter=mask,
            domains=self.domains.mounted,
            flows=self._flows,
            stalls=self._stalls,
            new_domain=self.domains.new_mounted,
            self_serve=options.self_serve,
        )
        self.watchers = Watchers(self.shared, self._flows, self._injected, self._allow_flows)
        if options.tracer is not None:
            self.watchers.trace(options.tracer)
        self._news.register(handles.hang_ups_fileno(), select.EPOLLIN)
        self._news.register(self._stalls.fileno(), select.EPOLLIN)
        if self._probe is not None:
            self._news.register(self._probe.fileno(), select.EPOLLIN)

    def _injected(self) -> list[str]:
        """What the call that was served last has met of what was injected."""
        return [text for tree in self._trees.values() if tree.faults is not None for text in tree.faults.told()]

    def add(self, listener: Listener, *, waits_killable: bool, faults: Sequence[Fault] = ()) -> Tree:
        """Serve the calls of `listener`, which is owned from now on. `faults`: what they are to meet. Raises OSError.
        """
        injected = None
        if faults:
            from interposer.traps.faults import Faults

            injected = Faults(faults)
        tree = Tree(listener, waits_killable, self.shared, injected)
        if self._kernel_keeps_promise:
            tree.kernel_keeps_promise()
        self._flows.recall()
        self._trees[listener.fileno()] = tree
        self._flows.listen([each.listener for each in self._trees.values()])
        for descriptor in tree.news():
            self._news.register(descriptor, select.EPOLLIN)
        self._allow_flows()
        return tree

    def release(self, tree: Tree) -> int:
        """Serve `tree` no longer; its listener, which is the caller's now. Its waiting calls are answered."""
        listener = os.dup(tree.listener.fileno())
        self._remove(tree)
        return listener

    def _remove(self, tree: Tree) -> None:
        self._flows.recall()
        listener = tree.listener.fileno()
        self._answer_waiting(tree)
        del self._trees[listener]
        for descriptor in tree.news():
            # Closing would not do: a short-lived child may have a duplicate.
            self._news.unregister(descriptor)
        self._flows.listen([each.listener for each in self._trees.values()])
        tree.close()
        for other in self._trees.values():
            other.waiting.finish_ready()
        self._allow_flows()

    def _answer_waiting(self, tree: Tree) -> None:
        """Serve what was received and waits for its turn: whoever has the listener next does not see it any more."""
        waiting = self._flows.take(tree.listener)
        if self._next is not None and self._next[0] is tree:
            waiting = chain([self._next[1]], waiting)
            self._next = None
        for notification in waiting:
            try:
                if tree.listener.is_valid(notification.id):
                    tree.serve(notification)
            except Exception as error:
                with suppress(OSError):
                    tree.listener.respond_error(notification.id, failure_of(notification, error))

    def _allow_flows(self) -> None:
        """The native helper recognises handles by kcmp(2), and empties them through pidfd_getfd(2)."""
        # With a tree comes or goes a namespace that passes for ours.
        self._flows.forget_origins()
        possible = self._options.flows and can_compare() and can_fetch()
        without_stacks = self.shared.tap is None or not self.shared.tap.stacks
        self._flows.enabled = possible and without_stacks and all(tree.may_flow for tree in self._trees.values())

    def _resume(
        self,
        listener: int,
        notification: Notification,
        resume: Callable[[TargetCaller], Wait],
        look_ns: int,
        began_ns: int,
    ) -> None:
        self._trees[listener].resume(notification, resume, look_ns, began_ns)

    def _waiting(self) -> Iterator[tuple[int, WaitingCalls]]:
        return ((listener, tree.waiting) for listener, tree in self._trees.items())

    def when_ended(self, ended: Callable[[Tree], None]) -> None:
        """`ended` is called with each tree whose last process has ended, after it has been let go of."""
        self._ended = ended

    @property
    def serves_anybody(self) -> bool:
        """Whether there is a tree of which a process is left."""
        return bool(self._trees)

    @property
    def has_received(self) -> bool:
        """Whether a call was received that is still to be served."""
        return self._next is not None

    def news_fileno(self) -> int:
        """A descriptor that is readable when `housekeep` has news."""
        return self._news.fileno()

    def attend(self, descriptor: int) -> None:
        """Waiting natively ends when this descriptor is readable (-1: none)."""
        self._sleep = descriptor
        self._flows.attend(descriptor)

    def wait_natively(self, stop_ns: int) -> bool:
        """Serve hot calls while nobody else has anything to do, until `stop_ns` (CLOCK_MONOTONIC) or until what is
        attended to is readable; whether there is something for `serve_turn`."""
        if self._next is not None:
            return True
        due = self.next_deadline_ns()
        served, begun = self._flows.served, time.monotonic_ns()
        try:
            notification = self._next_call(stop_ns if due is None else min(stop_ns, due))
        except (EndOfTargets, OSError):
            return True  # it will be told once more
        if notification is not None:
            self._next = self._trees[self._flows.listener], notification
            return True
        now = time.monotonic_ns()
        self._flows.look(now)
        due = self.next_deadline_ns()
        # The engine has used up the news of mounts, so trio would not see them.
        if (due is not None and due <= now) or self._mount_news():
            return True
        # Tasks have something to do as well: those who make calls are to get a whole turn.
        # And whoever sends on what a tap has been told of.
        return self._flows.served != served and (self._flows.watched or now - begun < _TURN_NS)

    def _mount_news(self) -> bool:
        news = [tree.mounts.has_news() for tree in self._trees.values()]
        return any(news)

    def next_deadline_ns(self) -> int | None:
        """When the loop has to come up for air at the latest."""
        times = [mounted.domain.deadlines.next_ns() for mounted in self.domains.mounted]
        times += [tree.waiting.next_look_ns() for tree in self._trees.values()]
        times += [tree.delayed.next_ns() for tree in self._trees.values()]
        times.append(self._flows.deadline_ns())
        return min((due for due in times if due is not None), default=None)

    def serve_turn(self) -> None:
        """Serve the traps that are there, and those that follow at once, whatever else there is to do meanwhile; and
        what has ended."""
        if self._over:
            return
        if self._mount_news():
            # The poll of `news_fileno` has used them up, so the engine would not see them.
            self.housekeep(news=True)
        self._flows.attend(-1)
        try:
            self._take_turn(time.monotonic_ns() + _TURN_NS)
        finally:
            self._flows.attend(self._sleep)
        self.housekeep(news=False)

    def serve_what_waits(self, longest_ns: int) -> None:
        """Serve the traps that wait by now, if there are any, and then those that follow within `longest_ns`."""
        if self.wait_natively(0):
            self._take_turn(time.monotonic_ns() + longest_ns)
            self.housekeep(news=False)

    def _take_turn(self, stop: int) -> None:
        due = self.next_deadline_ns()
        if due is not None:
            stop = min(stop, due)
        while self._trees:
            tree, notification = self._receive(stop)
            if tree is None:
                return
            if notification is not None:
                self._serve_one(tree, notification)
            if time.monotonic_ns() >= stop:
                return

    def _receive(self, stop_ns: int) -> tuple[Tree | None, Notification | None]:
        """The next call, and whose it is. A tree without a call has ended; no tree: there was none in time."""
        if self._next is not None:
            (tree, notification), self._next = self._next, None
            return tree, notification
        try:
            received = self._next_call(stop_ns)
        except EndOfTargets:
            tree = self._trees[self._flows.listener]
            self._end(tree)
            return tree, None
        except OSError:
            tree = self._trees[self._flows.listener]
            self._give_up(tree)
            return tree, None
        return (None, None) if received is None else (self._trees[self._flows.listener], received)

    def _next_call(self, stop_ns: int) -> Notification | None:
        """The next call for the broker, None if there is none until `stop_ns`, or something else to do. Raises
        EndOfTargets, OSError."""
        notification = self._flows.receive(stop_ns, _TURN_NS)
        stall = self._flows.stall
        if stall is not None:
            self._trees[stall.listener].left(stall)
        if notification is not None and self._flows.held:
            self._trees[self._flows.listener].hold(notification)
            return None
        return notification

    def _serve_one(self, tree: Tree, notification: Notification) -> None:
        self._calls_for_broker += 1
        try:
            tree.detours.end(notification)
            if self._flows.lent and tree.serve_elsewhere(notification):
                return
            self._flows.recall()
            self._collect_handles()
            self._collect_stalls()
            for each in self._trees.values():
                each.mounts.collect()
            begun = time.monotonic_ns()
            tree.serve(notification)
            # Taking back and lending again is nobody's call.
            self._flows.charge(time.monotonic_ns() - begun)
            for each in self._trees.values():
                each.waiting.finish_ready()
            self._flows.consider()
        except (Stalled, MemoryStalled) as stalled:
            tree.put_aside(notification, stalled.ticket)
        except Exception as error:
            self._fail(tree, notification, error)

    def _fail(self, tree: Tree, notification: Notification, error: Exception) -> None:
        """`error` is being handled: the call fails, unless it is answered already."""
        if isinstance(error, OSError) and error.errno == errno.ENOENT:
            return
        number = failure_of(notification, error)
        try:
            tree.listener.respond_error(notification.id, number)
        except OSError as refused:
            if refused.errno != errno.EINPROGRESS:
                self._give_up(tree)

    def _end(self, tree: Tree) -> None:
        """The last process of a tree has ended."""
        self.housekeep(news=True)
        self._remove(tree)
        self._ended(tree)

    def _give_up(self, tree: Tree) -> None:
        """A listener that cannot be used: others must not suffer."""
        unexpected("a seccomp listener failed, its programs find kdbus gone")
        self._remove(tree)
        self._ended(tree)

    def housekeep(self, *, news: bool) -> None:
        """Hang-ups, deadlines, cancelled and interrupted calls, if there are any or if there is `news` of them."""
        if self._over:
            return
        now = time.monotonic_ns()
        self._flows.look(now)
        due = self.next_deadline_ns()
        news = news or self._mount_news() or self.shared.handles.hang_up_waits()
        if not news and (due is None or due > now):
            return
        try:
            self._look_after_everything(now)
        except Exception as error:
            if errno_of_shortage(error) is None:
                unexpected("looking after what has ended failed, the supervisor goes on")

    def _look_after_everything(self, now: int) -> None:
        trees = list(self._trees.values())
        self._flows.recall()
        self._learn()
        for tree in trees:
            tree.detours.collect()
        self._collect_handles()
        self._collect_stalls()
        for tree in trees:
            tree.mounts.collect()
        for mounted in self.domains.mounted:
            mounted.domain.deadlines.expire(now)
        for tree in trees:
            tree.waiting.look()
        for tree in trees:
            tree.waiting.finish_ready()
        for tree in trees:
            for notification in tree.delayed.take_due(now):
                self._serve_one(tree, notification)

    def _learn(self) -> None:
        """Once the kernel is known to keep its promise, calls need no confirmation any more, and may be lent."""
        if self._probe is None or not self._probe.has_verdict():
            return
        self._news.unregister(self._probe.fileno())
        probe, self._probe = self._probe, None
        if probe.works():
            self._kernel_keeps_promise = True
            for tree in self._trees.values():
                tree.kernel_keeps_promise()
            self._allow_flows()

    def _collect_handles(self) -> None:
        """Close what has been closed for the last time, even if its owner died while it waited in a call."""
        if self.shared.handles.collect():
            for tree in self._trees.values():
                tree.waiting.forget_gone()

    def _collect_stalls(self) -> None:
        """Go on with calls whose memory has come."""
        self._stalls.collect()

    def settle(self) -> None:
        """Take back what is lent, and see to what has ended: what the broker holds then is how it is."""
        self.housekeep(news=True)

    def served(self) -> tuple[int, int, list[str]]:
        """Calls that the broker has served, and the engine; the names of the revisions that programs have spoken."""
        return self._calls_for_broker, self._flows.served, sorted(self.domains.spoken)

    def _closing(self, handle: OpenHandle) -> None:
        self._flows.forget(handle)
        if self.shared.tap is not None:
            if handle.connection is not None:
                for tree in self._trees.values():
                    tree.waiting.forget_gone(handle.connection)  # who was killed in a call has left that first
            self.shared.tap.closing(handle)

    def tell_who_is_left(self) -> None:
        """The program has ended: say so if processes that it has left behind have handles, which hang up now."""
        count = self.shared.handles.count_open()
        if count and not self._all_end_now():
            handles = "a handle" if count == 1 else f"{count} handles"
            say(
                f"kdbus: the program has ended, and processes that it left behind have {handles} open, "
                "which hang up now: `kdbus run --linger` serves them to their end"
            )

    def _all_end_now(self) -> bool:
        """Whether no process is left in any tree, or those that are just dying have been the last."""
        poll = select.poll()
        for listener in self._trees:
            poll.register(listener, 0)  # a hang-up is always told
        ended, stop = 0, time.monotonic() + _DYING_S
        while ended < len(self._trees) and (left := stop - time.monotonic()) > 0:
            for listener, _ in poll.poll(left * 1000):
                poll.unregister(listener)
                ended += 1
        return ended == len(self._trees)

    def end_domains(self) -> None:
        """Disconnect everybody, as an unmount would: waiting calls are answered, handles hang up. Nothing is served any
        more, also by a task whose turn has come already."""
        self._over = True
        self._flows.recall()
        self.domains.deactivate()
        for tree in self._trees.values():
            tree.waiting.finish_ready()
        self.shared.handles.close()

    def close(self) -> None:
        """End the domains and let go of everything."""
        self.end_domains()
        for tree in list(self._trees.values()):
            self._remove(tree)
        self.domains.close()
        if self._options.statistics:
            by_broker, natively, spoken = self.served()
            print(f"kdbus: {by_broker} calls served by the broker, {natively} natively", file=sys.stderr)
            if self._options.self_serve:
                print(f"kdbus: {self._flows.self_served} calls served by receivers themselves", file=sys.stderr)
            print(f"kdbus: revisions spoken: {', '.join(spoken) or 'none'}", file=sys.stderr)
        self._flows.close()
        self._stalls.close()
        self._news.close()
        if self._probe is not None:
            self._probe.close()
        self.shared.namespaces.close()
