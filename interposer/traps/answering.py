# SPDX-License-Identifier: GPL-2.0-or-later
"""How a trapped call is answered, whatever it is.

Every trap ends in one of five answers, and in exactly one:

- a value, which the call returns;
- an error number;
- a descriptor, installed in the target, whose number the call returns;
- later: the caller waits for a reply (`interposer.supervisor.waiting`);
- the kernel does it: the call was not ours after all. The filter lets only suspects through, so this is the rule for
  opens that lead elsewhere and for mappings of other files. It is the right answer only where the target gains
  nothing by changing its memory meanwhile: the worst that it can get is the plain file behind a node, which its first
  ioctl replaces by a handle.

A call that fails because the supervisor is short of something says so (ENFILE, ENOMEM); one whose caller may not be
inspected, EPERM, and that is told (`interposer.target.inspection`). One that fails in an unforeseen way is answered
with EIO and reported. Nobody else notices.

What a call means is said by `interposer.traps.opens`, `ioctls`, `mappings`, `mounts` and `path_mode`; each of them
looks at the call, and gives `Answering.answer` the function that serves it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.domain import Domain
from broker.errors import KdbusError, errno_of
from interposer.handles.handles import HandleTable
from interposer.nodes.filesystem import NodeFiles
from interposer.report import unexpected
from interposer.shortage import errno_of_shortage, tell_once
from interposer.target.caller import MemoryStalled, TargetCaller
from interposer.target.ids import UserNamespaces
from interposer.target.inspection import tell_forbidden
from interposer.target.stalls import PostedWrites
from interposer.traps.exactly_once import Answers, HeldCaller, Interrupted
from interposer.traps.module_parameter import AttachFlagsMask
from native.deputies import Stalled
from native.notification import Listener, Notification

if TYPE_CHECKING:
    from interposer.traps.tap import Tap


@dataclass(frozen=True, slots=True)
class MountedDomain:
    """A domain and the files that show its nodes."""

    domain: Domain
    files: NodeFiles


@dataclass(eq=False, slots=True, kw_only=True)
class Common:
    """What the calls of all listeners have in common, as handles pass from program to program."""

    handles: HandleTable
    namespaces: UserNamespaces
    parameter: AttachFlagsMask
    domains: list[MountedDomain] = field(default_factory=list)
    """Every file system that shows the nodes of a domain; a domain may be shown by several."""
    tap: Tap | None = None
    """Who is shown what is asked for and answered."""


class BrokerNeeded(Exception):
    """A call that was tried without the broker needs it; nothing has happened yet."""


class Answering:
    """Answers the calls of one listener."""

    def __init__(self, common: Common, listener: Listener, answers: Answers, posted: PostedWrites) -> None:
        """`posted`: what is written to callers."""
        self.common = common
        self.listener = listener
        self.answers = answers
        self._posted = posted
        self._without_broker = False

    def caller(self, notification: Notification) -> TargetCaller:
        """The thread that made the trapped call."""
        kind = HeldCaller if self.answers.holds(notification) else TargetCaller
        if self.common.tap is not None:
            kind = self.common.tap.watched(kind)
        common = self.common
        return kind(
            self.listener, notification, common.namespaces, common.handles, common.handles.budgets, self._posted
        )

    def answer(self, notification: Notification, serve: Callable[[], int | None], *, may_wait: bool = False) -> bool:
        """Run `serve` and answer with its value, or with the error that it raises; None: it has answered itself.

        False, and nothing has happened, if the call is over already. `may_wait`: see `Answers.begin`. Raises
        BrokerNeeded within `without_broker`, as all that the broker does is done here, and Stalled where the caller's
        memory does not come: then nothing has happened, and the call is to be served again.
        """
        self.need_broker()
        if not self.answers.begin(notification, may_wait=may_wait):
            return False
        try:
            value = serve()
        except (Stalled, MemoryStalled):
            self.answers.leave()
            raise
        except KdbusError as error:
            self._give(notification, error=errno_of(error))
        except Interrupted:
            self.answers.leave()
        except ProcessLookupError:
            # The caller is gone, and with it the need for an answer; should it live, the kernel has the errno.
            self._give(notification, error=errno.ESRCH)
        except Exception as error:
            self._give(notification, error=failure_of(notification, error))
        else:
            if value is None:
                self.answers.leave()
            else:
                self._give(notification, value)
        return True

    def _give(self, notification: Notification, value: int = 0, error: int = 0) -> None:
        """Answer a call that was begun; later, if results of it are still being written."""

        def give_late(written: bool) -> None:
            failure = error or (0 if written else errno.EFAULT)
            with suppress(OSError):
                if self.answers.begin(notification):
                    self._give(notification, value, failure)

        if self._posted.defer(notification, give_late):
            self.answers.leave()
        elif error:
            self.answers.error(notification, error)
        else:
            self.answers.value(notification, value)

    def need_broker(self) -> None:
        """To be called before the broker's state is touched. Raises BrokerNeeded within `without_broker`."""
        if self._without_broker:
            raise BrokerNeeded

    def without_broker(self, serve: Callable[[Notification], None], notification: Notification) -> bool:
        """Serve a call while the broker's state is lent; False, and nothing has happened, if the broker is needed."""
        self._without_broker = True
        try:
            serve(notification)
        except BrokerNeeded:
            return False
        finally:
            self._without_broker = False
        return True


def failure_of(notification: Notification, error: Exception) -> int:
    """The errno for a call that `error`, which is being handled, kept from being served; it is reported if need be."""
    number = errno_of_shortage(error)
    if number is not None:
        tell_once(number, str(error) or "out of memory")
        return number
    if isinstance(error, PermissionError):
        tell_forbidden(notification.pid)
        return errno.EPERM
    unexpected(f"system call {notification.number} of thread {notification.pid} fails with EIO")
    return errno.EIO
