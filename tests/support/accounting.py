# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus`, with a supervisor that checks its accounting: python tests/support/accounting.py run -- PROGRAM...

Whenever everything has been taken back from the native side, each thing that is counted is counted again, from what it
stands for: the requests of a connection, the charges in its queue, the holders of each slice and the bytes in use, and
whether its pollers see it readable when, and only when, something waits. When the domains have ended, nothing may be
charged to anybody. What is wrong is told on stderr, in lines that begin with `accounting: `, and a last line tells how
often that was looked at.
"""

from __future__ import annotations

import fcntl
import struct
import sys
import termios
from collections import Counter, defaultdict
from collections.abc import Iterator

from broker.connection import Connection
from broker.handle import EndpointHandle
from broker.pool import Slice
from broker.queue import QueueEntry
from broker.quota import QueueQuota
from broker.reply import Reply
from interposer.command_line import main
from interposer.handles.handles import OpenHandle
from interposer.supervisor.flows import Flows
from interposer.supervisor.supervisor import Supervisor


class Audit:
    """Looks at one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.looks = 0

    def check(self) -> None:
        """Look at everything that is alive. Nothing is lent."""
        self.looks += 1
        handles = self._supervisor.shared.handles._by_inode.values()
        ends = [handle.broker for handle in handles if isinstance(handle.broker, EndpointHandle)]
        connections = [end.connection for end in ends if end.connection is not None]
        requests: dict[Connection, set[Reply]] = defaultdict(set)
        waits = [call.wait for tree in self._supervisor._trees.values() for call in tree.waiting._waiting.values()]
        found = [wait.reply for wait in waits]
        for connection in connections:
            found += connection.replies
            found += [entry.reply for entry in connection.queue.entries() if entry.reply is not None]
        for reply in found:
            requests[reply.requester].add(reply)
        for connection in connections:
            answers = [reply.answer for reply in requests[connection] if reply.answer is not None]
            for mistake in mistakes(connection, requests[connection], answers):
                _tell(f"connection {connection.id}: {mistake}")
        for handle in handles:
            _check_readable(handle)

    def check_end(self) -> None:
        """Look at what is left when all handles have been closed."""
        budgets = self._supervisor.shared.handles.budgets
        for budget in (budgets.descriptors, budgets.address_space, budgets.memory):
            if budget._used or any(budget._by_user.values()):
                _tell(f"charged in the end: {budget._by_user}")
        for mounted in self._supervisor.domains.mounted:
            for user in mounted.domain._users.values():
                if user.connections or user.buses or user.endpoints:
                    _tell(f"counted in the end: {user.connections} connections, {user.buses} buses of {user.uid}")


def _tell(what: str) -> None:
    print(f"accounting: {what}", file=sys.stderr)


def mistakes(connection: Connection, requests: set[Reply], answers: list[QueueEntry]) -> Iterator[str]:
    """What is wrong with a connection, in words. `requests`: the replies that it expects, or whose requests still wait
    somewhere; `answers`: those that have come for calls that wait.
    """
    entries = connection.queue.entries()
    if connection.request_count != len(requests):
        yield f"{connection.request_count} requests are counted, {len(requests)} are known"
    if any(not reply.linked or reply not in reply.replier.owed for reply in connection.replies):
        yield "expects a reply that nobody owes"
    if any(not reply.linked or reply not in reply.requester.replies for reply in connection.owed):
        yield "owes a reply that nobody expects"
    charges = Counter(entry.charge.user for entry in entries if entry.charge is not None)
    if isinstance(connection.quota, QueueQuota) and dict(charges) != connection.quota.charged:
        yield f"{connection.quota.charged} is charged for {dict(charges)}"
    pool = connection.pool
    slices = pool.slices()
    holders: Counter[Slice] = Counter(entry.payload for entry in (*entries, *answers) if entry.payload is not None)
    holders += Counter(slice_.child for slice_ in slices if slice_.child is not None)
    for slice_ in slices:
        if slice_.holders != holders[slice_]:
            yield f"the slice at {slice_.offset:#x} is held {slice_.holders} times, by {holders[slice_]}"
    if sum(slice_.size for slice_ in slices if not slice_.free) != pool.busy:
        yield "bytes in use are not what is counted"
    if sum(slice_.size for slice_ in slices) != pool.size:
        yield "the slices are not the pool"


def _check_readable(handle: OpenHandle) -> None:
    end = handle.broker
    if handle.hung_up or not isinstance(end, EndpointHandle) or end.connection is None:
        return
    waiting = struct.unpack("i", fcntl.ioctl(handle.ours.fileno(), termios.TIOCOUTQ, bytes(4)))[0] > 0
    # What has been closed by now holds no bytes.
    if waiting != handle.readable and handle.is_open():
        _tell(f"connection {end.connection.id}: a byte waits: {waiting}, and should: {handle.readable}")
    if len(end.connection.queue) and not handle.readable and handle.is_open():
        _tell(f"connection {end.connection.id}: {len(end.connection.queue)} messages, and is not readable")


def audit_supervisors() -> None:
    """Have every supervisor of this process checked."""
    audits: dict[Flows, Audit] = {}
    make, recall, end_domains = Supervisor.__init__, Flows.recall, Supervisor.end_domains

    def make_and_remember(self: Supervisor, *arguments: object, **options: object) -> None:
        make(self, *arguments, **options)  # type: ignore[arg-type]
        audits[self._flows] = Audit(self)

    def recall_and_check(self: Flows) -> None:
        lent = self._lent
        recall(self)
        if lent:
            audits[self].check()

    def end_and_check(self: Supervisor) -> None:
        end_domains(self)
        audit = audits.pop(self._flows, None)
        if audit is not None:
            audit.check_end()
            print(f"accounting looked at {audit.looks} times", file=sys.stderr)

    Supervisor.__init__ = make_and_remember  # type: ignore[method-assign]
    Flows.recall = recall_and_check  # type: ignore[method-assign]
    Supervisor.end_domains = end_and_check  # type: ignore[method-assign]


if __name__ == "__main__":
    audit_supervisors()
    sys.exit(main())
