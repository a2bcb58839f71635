# SPDX-License-Identifier: GPL-2.0-or-later
"""One name, behind which a program is started when somebody sends to it.

On kdbus an activator holds the name. What is sent to it waits in the activator's pool until somebody else takes the
name, and then moves there; when that one ends or gives the name up, what it has not read comes back, and the name with
it. So a program that has nothing to do may end whenever BYEBYE lets it (it fails while messages are queued), and
nothing is lost: the next message starts it again. All that is left to do here is to start the program when something
waits, one at a time, and to say no when that does not work.

*When it has failed*, as dbus-daemon 1.14 sees it: the program cannot be executed; it ends with another status than 0
before the name is taken; the name is not taken in time, and then it is killed. One that ends with status 0 may have
left a daemon behind, which is waited for. Whoever waits is refused then, and the next message is a new attempt.

*Giving up.* What dbus-daemon does not have: too many failures in a short time, and further messages are refused without
an attempt until that time is over. The numbers are systemd's (systemd.unit(5), StartLimitBurst=). And a program that
takes the name and goes gets back what it has not read, which starts it again: when it has left the same first message
as often in a row, that is refused as well.

*Refusing.* An activator cannot send, so the messages are dropped, and kdbus tells those who wait for a reply that none
will come. Before that they are told why, by a signal that a proxy's clients understand (`bridge.activation`).
"""

from __future__ import annotations

import errno
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

import kdbus.trio
from bridge.activatable import Activatable
from bridge.failures import INVALID_ARGS, PREFIX
from kdbus.dbus.errors import ErrorReply
from kdbus.errors import Malformed

EXEC_FAILED: Final = PREFIX + "Spawn.ExecFailed"
CHILD_EXITED: Final = PREFIX + "Spawn.ChildExited"
CHILD_SIGNALED: Final = PREFIX + "Spawn.ChildSignaled"
SPAWN_FAILED: Final = PREFIX + "Spawn.Failed"
TIMED_OUT: Final = PREFIX + "TimedOut"


class Attempt(Protocol):
    """Something that was started."""

    async def failure(self) -> ErrorReply | None:
        """Wait until it ends: why it has failed, None if it need not have."""
        ...

    def kill(self) -> None:
        """End it, as it takes too long."""
        ...


class Program:
    """A program that was started for a name, as an attempt. `process` is it."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.process = process
        self._name = name

    async def failure(self) -> ErrorReply | None:
        status = await self.process.wait()
        if status < 0:
            return ErrorReply(CHILD_SIGNALED, f"Process {self._name} received signal {-status}")
        # One that ends well may have left a daemon behind.
        return ErrorReply(CHILD_EXITED, f"Process {self._name} exited with status {status}") if status else None

    def kill(self) -> None:
        self.process.kill()


Refuse = Callable[[int, int, ErrorReply], None]
Spawn = Callable[[Activatable], Awaitable[Attempt]]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds until a program has to have the name, and how many failures within how many seconds are enough."""

    start_seconds: float = 25.0
    failures: int = 5
    failures_seconds: float = 10.0


class Activated:
    """Starts the program of one name, as often as it is needed."""

    def __init__(
        self,
        wanted: Activatable,
        starter: kdbus.trio.Connection,
        *,
        spawn: Spawn,
        refuse: Refuse,
        look: Callable[[], None],
        patience: Patience,
    ) -> None:
        """`starter`: the activator's connection; `spawn`: starts what is wanted, and raises OSError; `refuse`: tells a
        sender why its message of that cookie is dropped; `look`: has `name_taken` called for what has happened."""
        self.wanted = wanted
        self._starter = starter
        self._spawn = spawn
        self._refuse = refuse
        self._look = look
        self._patience = patience
        self._taken = trio.Event()
        self._idle = trio.CancelScope()
        self._is_idle = True
        self._retired = False
        self._failures: deque[float] = deque()
        self._last: tuple[int, int, int] | None = None
        self._in_vain = 0

    def name_taken(self) -> None:
        """Somebody has got the name from the activator."""
        self._taken.set()
        self._taken = trio.Event()

    def retire(self) -> bool:
        """Have `serve` end: when what is being started has the name, or is given up, or now. Then True is returned, and
        it needs the connection no more."""
        self._retired = True
        self._idle.cancel()
        return self._is_idle

    async def serve(self) -> None:
        """Until it is to retire. The end of the connection raises Disconnected, or another Error."""
        while not self._retired:
            self._is_idle = True
            with trio.CancelScope() as self._idle:
                await trio.lowlevel.wait_readable(self._starter.fileno())
            self._is_idle = False
            first = None if self._retired else self._first()
            if first is not None:
                reason = await self._start(first)
                if reason is not None:
                    await self._refuse_all(reason)

    async def _start(self, first: tuple[int, int, int]) -> ErrorReply | None:
        """Start the program for what waits, until it has the name; or why that is not so."""
        if self.wanted.command is None:
            return ErrorReply(INVALID_ARGS, self.wanted.unusable)
        if self._has_failed_enough():
            return ErrorReply(
                SPAWN_FAILED,
                f"Process {self.wanted.name} failed {self._patience.failures} times within "
                f"{self._patience.failures_seconds:g} s and is not started again for a while",
            )
        self._in_vain = self._in_vain + 1 if first == self._last else 0
        self._last = first
        if self._in_vain == self._patience.failures:
            return ErrorReply(
                SPAWN_FAILED,
                f"Process {self.wanted.name} took the name {self._in_vain} times, and not the message that waits",
            )
        reason = await self._attempt()
        if reason is not None:
            self._failures.append(trio.current_time())
        return reason

    async def _attempt(self) -> ErrorReply | None:
        name, taken = self.wanted.name, self._taken
        try:
            attempt = await self._spawn(self.wanted)
        except OSError as error:
            why = os.strerror(error.errno or errno.EIO)
            return ErrorReply(EXEC_FAILED, f"Failed to execute program {name}: {why}")
        reason = None
        with trio.move_on_after(self._patience.start_seconds) as limit:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    nonlocal reason
                    reason = await attempt.failure()
                    if reason is not None:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                await taken.wait()
                nursery.cancel_scope.cancel()
        # It may have had the name and gone before we got to hear of it.
        self._look()
        if taken.is_set():
            return None
        if limit.cancelled_caught:
            attempt.kill()
            milliseconds = int(self._patience.start_seconds * 1000)
            return ErrorReply(
                TIMED_OUT, f"Failed to activate service '{name}': timed out (service_start_timeout={milliseconds}ms)"
            )
        return reason

    def _has_failed_enough(self) -> bool:
        oldest = trio.current_time() - self._patience.failures_seconds
        while self._failures and self._failures[0] <= oldest:
            self._failures.popleft()
        return len(self._failures) >= self._patience.failures

    async def _refuse_all(self, reason: ErrorReply) -> None:
        """Drop what waits."""
        self._last = None
        while True:
            try:
                message = self._starter.receive_nowait(peek=True)
            except Malformed:
                message = None
            else:
                if message is None:
                    return
                with message:
                    if message.expects_reply:
                        self._refuse(message.sender, message.cookie, reason)
            self._starter.drop_nowait()
            await trio.lowlevel.checkpoint()

    def _first(self) -> tuple[int, int, int] | None:
        """What tells the message that waits longest from others; None if none waits."""
        while True:
            try:
                message = self._starter.receive_nowait(peek=True)
            except Malformed:
                self._starter.drop_nowait()
                continue
            if message is None:
                return None
            with message:
                stamp = message.metadata.timestamp
                return message.sender, message.cookie, 0 if stamp is None else stamp.sequence


def end(process: trio.Process) -> None:
    """Ask a program to end, if it has not done so."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
