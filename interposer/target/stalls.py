# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls whose memory does not come: they wait by themselves, and nobody with them.

A page of a program may be served by a process that takes its time, or none (userfaultfd, FUSE). Whatever the supervisor
copies is copied by a deputy (`native.deputies`), which is left behind where that takes too long. What becomes of the
call depends on what it was doing:

- It was reading: nothing has happened that could be seen, as reading comes before the effect of a command, or is part
  of what fails as a whole (a caller that is gone has the same outcome, `broker.errors.CallerGone`). It is put aside,
  and served from its start when the copy is over.
- It was writing results: that goes on by itself, and what the call writes further goes behind it. The broker is told
  that all is written; the answer waits, and becomes EFAULT if it turns out that it could not be written.

A reply is written into the memory of whoever waits for it; if that does not come, it is that caller who waits.

How many calls of one user are stuck at a time is bounded, as each holds a thread. When there are so many, further calls
of that user's processes wait until one of them gets on; and when there are very many in all, so does everybody who has
one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from native import memory
from native.deputies import Deputies, Stalled
from native.notification import Listener, Notification

PER_USER = 16
"""Calls of one user that may be stuck at a time."""
ALTOGETHER = 256
"""When so many are stuck, one is enough for a user to wait."""

Act = Callable[[int], None]
"""What to do when a copy is over; its errno, 0 for none."""


class Stalls:
    """The copies that do not end."""

    def __init__(self, deputies: Deputies, hold: Callable[[int, bool], None]) -> None:
        """`hold`: have the calls of a user held, or no longer."""
        self._deputies = deputies
        self._hold = hold
        self._outstanding: dict[int, tuple[int, Act]] = {}
        self._stuck: dict[int, int] = {}
        self._held: dict[int, list[Callable[[], None]]] = {}

    def __len__(self) -> int:
        return len(self._outstanding)

    def fileno(self) -> int:
        """Readable when there is something to `collect`."""
        return self._deputies.fileno()

    def wait(self, ticket: int, user: int, act: Act) -> None:
        """Have `act` called when the copy is over; it is part of a call of `user`."""
        self._outstanding[ticket] = user, act
        self._stuck[user] = self._stuck.get(user, 0) + 1
        if user not in self._held and self._has_too_many(user):
            self._held[user] = []
            self._hold(user, True)

    def _has_too_many(self, user: int) -> bool:
        stuck = self._stuck.get(user, 0)
        return stuck >= PER_USER or (stuck > 0 and len(self._outstanding) >= ALTOGETHER)

    def hold(self, user: int, serve: Callable[[], None]) -> None:
        """A call of a user who is held: it is served later."""
        if user in self._held:
            self._held[user].append(serve)
        else:
            serve()

    def collect(self) -> None:
        """See to what is over."""
        if not self._deputies.away:
            return
        for ticket, error in self._deputies.returned():
            user, act = self._outstanding.pop(ticket, (None, None))
            if user is None or act is None:
                continue  # it was not needed
            self._stuck[user] -= 1
            if not self._stuck[user]:
                del self._stuck[user]
            act(error)
        for user in [user for user in self._held if not self._has_too_many(user)]:
            self._hold(user, False)
            for serve in self._held.pop(user):
                serve()

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._deputies.close()


class _Posted:
    """What a call still writes, and its answer."""

    __slots__ = ("answer", "failed", "writes")

    def __init__(self) -> None:
        self.writes: deque[tuple[int, bytes]] = deque()
        self.answer: Callable[[bool], None] | None = None
        self.failed = False


class PostedWrites:
    """What is written into the memory of callers of one listener, and has to be before they are answered."""

    def __init__(self, listener: Listener, stalls: Stalls, user_of: Callable[[Notification], int]) -> None:
        self._listener = listener
        self._stalls = stalls
        self._user_of = user_of
        self._posted: dict[int, _Posted] = {}

    def write(self, notification: Notification, address: int, data: bytes) -> None:
        """Write at once, or behind what is being written. Raises OSError as `native.memory.write`."""
        posted = self._posted.get(notification.id)
        if posted is not None:
            posted.writes.append((address, data))
            return
        try:
            memory.write(notification.pid, address, data)
        except Stalled as stalled:
            self.begun(notification, stalled.ticket)

    def begun(self, notification: Notification, ticket: int) -> None:
        """A write into that caller's memory is under way."""
        posted = self._posted[notification.id] = _Posted()
        self._wait(notification, posted, ticket)

    def _wait(self, notification: Notification, posted: _Posted, ticket: int) -> None:
        self._stalls.wait(ticket, self._user_of(notification), lambda error: self._go_on(notification, posted, error))

    def defer(self, notification: Notification, answer: Callable[[bool], None]) -> bool:
        """Whether something is still being written; then `answer` is called when that is over, with whether all has
        been written."""
        posted = self._posted.get(notification.id)
        if posted is None:
            return False
        posted.answer = answer
        return True

    def close(self) -> None:
        """Nothing is written any more: what waits for that is answered, as if it had failed."""
        while self._posted:
            _, posted = self._posted.popitem()
            if posted.answer is not None:
                posted.answer(False)

    def _go_on(self, notification: Notification, posted: _Posted, error: int) -> None:
        if self._posted.get(notification.id) is not posted:
            return  # it was closed meanwhile
        posted.failed = posted.failed or error != 0
        while posted.writes and not posted.failed:
            address, data = posted.writes.popleft()
            try:
                if not self._listener.is_valid(notification.id):
                    break
                memory.write(notification.pid, address, data)
            except Stalled as stalled:
                self._wait(notification, posted, stalled.ticket)
                return
            except OSError:
                posted.failed = True
        del self._posted[notification.id]
        if posted.answer is not None:
            posted.answer(not posted.failed)
