# SPDX-License-Identifier: GPL-2.0-or-later
"""Expected replies: what a request leaves behind until it is answered.

A request with KDBUS_MSG_EXPECT_REPLY leaves a `Reply` linked with its sender, the *requester*. Only while it is
linked may the other side, the *replier*, send a message with that cookie in `cookie_reply`; the reply needs no other
permission. It is unlinked when the reply comes, when its deadline passes (the requester is notified), when the
replier goes or drops the request (notified), or when the requester goes.

A synchronous request waits inside SEND instead of being notified. Its answer never enters the requester's queue: it
is attached to the `Reply`, and the waiting call, woken, installs it (`broker.send`). A signal may interrupt the wait:
the kernel then restarts the system call with the same arguments, which finds the interrupted `Reply` by its cookie
and waits on, without sending the request again.

A requester may have 128 replies at a time (EMLINK). One counts until nothing refers to it any more; the request in
the replier's queue does, even after the deadline. Hence the counting of holders.

Deadlines of asynchronous replies and of waiting calls are kept per domain (`Deadlines`) so that the outside needs to
wait only for the nearest. Reference: ipc/kdbus/reply.c, `kdbus_conn_wait_reply` in connection.c.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker import limits
from broker.errors import KdbusError, TimedOut, TooManyRequests

if TYPE_CHECKING:
    from broker.connection import Connection
    from broker.queue import QueueEntry


class Reply:
    """One reply that `requester` expects from `replier`."""

    __slots__ = (
        "_holders",
        "answer",
        "cookie",
        "deadline_ns",
        "error",
        "interrupted",
        "linked",
        "name_id",
        "replier",
        "requester",
        "sync",
        "waiting",
        "wake",
    )

    def __init__(
        self, replier: Connection, requester: Connection, cookie: int, deadline_ns: int, name_id: int, *, sync: bool
    ) -> None:
        """Held once by the caller.

        Args:
            deadline_ns: absolute CLOCK_MONOTONIC; one that has passed is possible.
            name_id: which acquisition of a name the request was addressed to, 0 for none.
            sync: whether the request waits inside SEND.

        Raises TooManyRequests.
        """
        if requester.request_count >= limits.REQUESTS_PER_CONNECTION:
            raise TooManyRequests(count=requester.request_count, limit=limits.REQUESTS_PER_CONNECTION)
        requester.request_count += 1
        self.replier = replier
        self.requester = requester
        self.cookie = cookie
        self.deadline_ns = deadline_ns
        self.name_id = name_id
        self.sync = sync
        self.waiting = sync
        self.interrupted = False
        self.answer: QueueEntry | None = None
        self.error: KdbusError | None = None
        self.wake: Callable[[], None] | None = None
        self.linked = False
        self._holders = 1

    def hold(self) -> Reply:
        """One more holder."""
        self._holders += 1
        return self

    def drop(self) -> None:
        """One holder less; the last one frees the requester's place."""
        self._holders -= 1
        if self._holders == 0:
            self.requester.end_request()
            self.discard_answer()

    def discard_answer(self) -> None:
        """Let go of the answer, if there is one."""
        if self.answer is not None:
            self.answer.discard()
            self.answer = None

    def link(self) -> None:
        """Begin to expect the reply."""
        self.linked = True
        self.hold()
        self.requester.replies.insert(0, self)
        self.replier.owed.add(self)

    def unlink(self) -> None:
        """Expect it no longer; further calls do nothing. The answer to an interrupted call has nobody to take it."""
        if self.linked:
            self.linked = False
            if self.interrupted:
                self.discard_answer()
            self.requester.replies.remove(self)
            self.replier.owed.discard(self)
            self.drop()

    def move_to(self, replier: Connection) -> None:
        """The request moved to another connection, which is now to reply."""
        self.replier.owed.discard(self)
        self.replier = replier
        replier.owed.add(self)

    def wake_up(self, error: KdbusError | None) -> None:
        """End a synchronous wait, with `error` or with the answer attached.

        With an error the reply is expected no longer: one that comes before the waiting call has noticed is refused.
        """
        self.waiting = False
        self.error = error
        if error is not None:
            self.unlink()
        if self.wake is not None:
            self.wake()


_FEW_DEADLINES = 64


class Deadlines:
    """The deadlines of one domain: a heap whose outdated entries are skipped.

    Most replies come long before their deadline, and an entry behind one that is still expected is not skipped until
    then. So when the heap has doubled, outdated entries are taken out.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Reply]] = []
        self._serial = 0
        self._most = _FEW_DEADLINES

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, reply: Reply) -> None:
        """Watch the deadline of `reply`."""
        if len(self._heap) >= self._most:
            self._heap = [node for node in self._heap if node[2].linked]
            heapq.heapify(self._heap)
            self._most = max(_FEW_DEADLINES, 2 * len(self._heap))
        self._serial += 1
        heapq.heappush(self._heap, (reply.deadline_ns, self._serial, reply))

    def next_ns(self) -> int | None:
        """The nearest deadline (ns, CLOCK_MONOTONIC); None if there is none."""
        while self._heap and not self._heap[0][2].linked:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def expire(self, now_ns: int) -> None:
        """Act on all deadlines up to `now_ns`.

        A waiting call ends with TimedOut, an interrupted one is forgotten, an asynchronous requester is notified,
        of its latest request first.
        """
        overdue: dict[Connection, None] = {}
        while (nearest := self.next_ns()) is not None and nearest <= now_ns:
            reply = heapq.heappop(self._heap)[2]
            if reply.sync and not reply.interrupted:
                reply.wake_up(TimedOut(connection=reply.replier.id, cookie=reply.cookie))
            else:
                overdue[reply.requester] = None
        for requester in overdue:
            for reply in list(requester.replies):
                if reply.deadline_ns <= now_ns:
                    if not reply.interrupted:
                        requester.bus.notifications.reply_timeout(requester.id, reply.cookie)
                    reply.unlink()
            requester.bus.notifications.flush()
