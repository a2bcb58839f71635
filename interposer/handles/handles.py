# SPDX-License-Identifier: GPL-2.0-or-later
"""Handles: what the target holds instead of an open kdbus node, and how its life is followed.

A handle is one end of a stream socket pair in the target; the supervisor keeps the other. (Or of a pipe, where
sockets cannot be served: `interposer.handles.stand_ins`.) The kernel then does for free what a bus needs most:
duplicates, inheritance, passing, poll(2), and telling when the last of all duplicates is gone.

*Which handle a trapped descriptor is.* Numbers are reused, so a number is only a hint. The proof is an epoll set that
holds the target's end: it does not keep it open, and kcmp(2) compares a descriptor of any process with it
(`native.identity`, which has other means where kcmp is forbidden; `interposer.handles.entries`). What is not remembered
under its number is looked up by the inode of the socket, and then proved in the same way.

*Readable.* The message that enters an empty queue writes one byte. When the queue is empty again the byte is taken
back, through the descriptor of the very call that emptied it. Edge-triggered pollers read until the queue is empty,
as epoll(7) asks them to, so they need no byte for each message.

*The end of the handle.* All duplicates closed is a hang-up here. A target can fake that with shutdown(2), so an
epoll set is asked whether the file is really gone. Hang-ups are collected before every trap: what was closed before a
call is gone when it is served.

*The end of the connection.* The supervisor closes its end, and pollers see POLLHUP; as a byte of the target's end was
waiting there from the beginning, the kernel adds POLLERR. From then on nothing announces the last close, which still
has to be noticed, as it relieves the user's budget; so such handles are looked at whenever a node is opened, a limited
number each time (`HandleTable.sweep`). The same goes for those whose hang-up was faked again and again, which could
otherwise keep the supervisor busy for ever.

Alternatives: a pipe cannot be made readable and hung up independently; an eventfd has no hang-up; a pseudo-terminal
costs ten times more.

Weaknesses: fstat(2) shows a socket. A handle that is no connection polls writable instead of hung up, and one that is
hung up polls readable as well. A descriptor in the supervisor for each handle, and one for each eight of them; those
of pools are kept elsewhere once they are many (`native.keeper`).
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from broker.connection import Connection
from broker.handle import ControlHandle, EndpointHandle, Handle
from interposer.handles import stand_ins
from interposer.handles.entries import Entries, Entry
from interposer.handles.stand_ins import SupervisorsEnd, TargetsEnd
from interposer.report import unexpected
from interposer.target.budget import HANDLE_DESCRIPTORS, Budgets, Charge
from interposer.target.process import open_thread
from native import identity
from native.deputies import close_file
from native.namespace import AT_FDCWD, known_status


def status_of(thread: int, descriptor: int) -> os.stat_result:
    """What the kernel knows of the file of `descriptor` of `thread`, see `known_status`. Raises OSError.

    The folder of /proc belongs to root if the process made itself undumpable (proc(5)). Who has all capabilities in a
    user namespace without root may then trace the thread, but not look there; so the descriptor itself is fetched.
    """
    try:
        return known_status(AT_FDCWD, f"/proc/{thread}/fd/{descriptor}")
    except PermissionError:
        pidfd = open_thread(thread)
    try:
        fetched = identity.pidfd_getfd(pidfd, descriptor)
    finally:
        os.close(pidfd)
    try:
        return known_status(fetched)
    finally:
        close_file(fetched)


_PLACES = 64
"""How many places are remembered per handle."""
_SWEPT_AT_ONCE = 1024
"""How many handles are looked at whenever a node is opened; 1 ms."""
_MOST_FAKES = 16
"""How many faked hang-ups of one handle are looked into."""
_EVENTS_AT_ONCE = 1023
"""How many events one poll of an epoll set returns (select.epoll.poll)."""


@dataclass(eq=False, slots=True)
class OpenHandle:
    """One open handle: `broker.interfaces.ConnectionEvents` on a socket pair.

    Attributes:
        broker: what the broker made of the open; set by `HandleTable.open`. inode: of the target's end, in the file
        system of sockets. location: thread and descriptor number of the call that used the handle last.
    """

    table: HandleTable
    ours: SupervisorsEnd
    charge: Charge
    """What it costs its opener."""
    inode: int
    cookie: int
    entry: Entry
    """The target's end, as an epoll set holds it."""
    broker: Handle | None = None
    location: tuple[int, int] = (0, 0)
    known_as: dict[tuple[int, int], None] = field(default_factory=dict)
    """Where it was used, the latest last; not more than `_PLACES`."""
    plain: int = -1
    """Our duplicate of the plain file that this handle has replaced, -1 for none (`interposer.handles.lazy`)."""
    fakes: int = 0
    """How often a hang-up was announced that was none."""
    hung_up: bool = False
    readable: bool = False
    """Whether a byte waits at the target's end."""
    shelves: int = 0
    """How often it was asked for a shelf (`interposer.traps.shelves`)."""

    @property
    def connection(self) -> Connection | None:
        """The connection that the handle is, if it is one."""
        return self.broker.connection if isinstance(self.broker, EndpointHandle) else None

    def message_queued(self) -> None:
        """Wake pollers, unless they find the handle readable already."""
        if not self.hung_up and not self.readable:
            self.readable = self.ours.make_readable()

    def queue_drained(self) -> None:
        """Take the byte back."""
        if not self.hung_up and self.readable:
            with suppress(OSError):
                self.readable = not self.ours.make_unreadable(*self.location)

    def settle(self) -> None:
        """Wake pollers if there is a message, whatever they were taken to see."""
        if not self.hung_up and self.connection is not None and len(self.connection.queue):
            self.readable = self.ours.make_readable() or self.readable

    def disconnected(self) -> None:
        """Hang up: close the supervisor's end. Idempotent."""
        if not self.hung_up:
            self.hung_up = True
            self.table.hung_up(self)
            self.ours.close()

    def is_open(self) -> bool:
        """Whether any duplicate of the target's end is still open anywhere."""
        return self.entry.is_open()

    def is_file(self, thread: int, descriptor: int) -> bool:
        """Whether `descriptor` of `thread` is this handle."""
        return self.entry.is_file(thread, descriptor)


def connection_of(handle: OpenHandle) -> Connection:
    """The connection that a handle is."""
    assert handle.connection is not None
    return handle.connection


class HandleTable:
    """All open handles of one supervisor. `interposer.target.files.HandleRegistry`."""

    def __init__(self, closing: Callable[[OpenHandle], None], budgets: Budgets) -> None:
        """`closing` is called when a handle has been closed for the last time, before the broker hears of it."""
        self._closing = closing
        self.budgets = budgets
        self.node_of: Callable[[os.stat_result], tuple[str, ...] | None] = lambda _: None
        """See `interposer.target.files.HandleRegistry`; whoever shows the nodes sets it."""
        self.connection_ended: Callable[[OpenHandle], None] = lambda _: None
        """Told of each handle that hangs up while it is open."""
        self._by_inode: dict[int, OpenHandle] = {}
        self._by_descriptor: dict[tuple[int, int], OpenHandle] = {}
        self._by_ours: dict[int, OpenHandle] = {}
        self._unwatched: dict[OpenHandle, None] = {}
        """Those whose last close nothing announces, in the order in which they are looked at."""
        self._entries = Entries()
        self._hang_ups = select.epoll()
        self._poll = select.poll()
        self._poll.register(self._hang_ups.fileno(), select.POLLIN)

    def __len__(self) -> int:
        return len(self._by_inode)

    def count_open(self) -> int:
        """How many handles are open in some process."""
        return sum(handle.is_open() for handle in self._by_inode.values())

    def hang_ups_fileno(self) -> int:
        """A descriptor that is readable when `collect` has something to do."""
        return self._hang_ups.fileno()

    def is_endpoint_handle(self, inode: int) -> bool:
        found = self._by_inode.get(inode)
        return found is not None and isinstance(found.broker, EndpointHandle)

    def is_control_handle(self, inode: int) -> bool:
        found = self._by_inode.get(inode)
        return found is not None and isinstance(found.broker, ControlHandle)

    def prepare(self, user: int, *, nonblocking: bool) -> tuple[OpenHandle, TargetsEnd]:
        """A new handle for `user` and the target's end, which the caller installs and closes. It counts from `add` on.

        Raises OverBudget; OSError: EMFILE or ENFILE when the supervisor is out of descriptors.
        """
        charge = self.budgets.descriptors.charge(user, HANDLE_DESCRIPTORS)
        try:
            return self._make(charge, nonblocking)
        except BaseException:
            charge.give_back()
            raise

    def _make(self, charge: Charge, nonblocking: bool) -> tuple[OpenHandle, TargetsEnd]:
        ours, theirs = stand_ins.make(nonblocking=nonblocking)
        try:
            entry = self._entries.add(theirs.fileno())
        except BaseException:
            ours.close()
            theirs.close()
            raise
        inode = os.fstat(theirs.fileno()).st_ino
        return OpenHandle(self, ours, charge, inode, theirs.cookie, entry), theirs

    def add(self, handle: OpenHandle) -> None:
        """The target has its end: follow the handle from now on."""
        self._by_inode[handle.inode] = handle
        self._by_ours[handle.ours.fileno()] = handle
        # A hang-up is reported without being asked for.
        self._hang_ups.register(handle.ours.fileno(), select.EPOLLET)

    def discard(self, handle: OpenHandle) -> None:
        """The target never got its end."""
        handle.disconnected()
        self._entries.remove(handle.entry)
        handle.charge.give_back()

    def find(self, thread: int, descriptor: int) -> OpenHandle | None:
        """The handle that `descriptor` of `thread` is, if it is one."""
        key = (thread, descriptor)
        known = self._by_descriptor.get(key)
        if known is not None:
            if known.is_file(thread, descriptor):
                known.location = key
                return known
            del self._by_descriptor[key]
            known.known_as.pop(key, None)
        try:
            status = status_of(thread, descriptor)
        except OSError:
            return None
        found = self._by_inode.get(status.st_ino)
        if found is None or not found.is_file(thread, descriptor):
            return None
        self._by_descriptor[key] = found
        found.known_as[key] = None
        if len(found.known_as) > _PLACES:
            # Threads come and go, and nobody tells.
            oldest = next(iter(found.known_as))
            del found.known_as[oldest]
            self._by_descriptor.pop(oldest, None)
        found.location = key
        return found

    def hang_up_waits(self) -> bool:
        """Whether `collect` has something to do."""
        return bool(self._poll.poll(0))

    def collect(self) -> bool:
        """Close the handles whose last duplicate is gone by now; whether there were any."""
        closed = False
        # One poll does not return any number of them. But polling until there is nothing left could take for ever.
        for _ in range(len(self._by_ours) // _EVENTS_AT_ONCE + 1):
            events = self._hang_ups.poll(0)
            for number, _ in events:
                handle = self._by_ours.get(number)
                if handle is None:
                    continue
                if handle.is_open():
                    handle.fakes += 1
                    if handle.fakes == _MOST_FAKES:
                        self._hang_ups.unregister(number)
                        self._unwatched[handle] = None
                else:
                    self._close(handle)
                    closed = True
            if len(events) < _EVENTS_AT_ONCE:
                break
        return closed

    def has(self, handle: OpenHandle) -> bool:
        """Whether `handle` has not been closed for the last time yet, as far as is known."""
        return self._by_inode.get(handle.inode) is handle

    def made_lazily(self) -> list[OpenHandle]:
        """The handles that have replaced plain files."""
        return [handle for handle in self._by_inode.values() if handle.plain >= 0]

    def hung_up(self, handle: OpenHandle) -> None:
        """The supervisor's end is about to be closed: look for the last close from time to time."""
        self._by_ours.pop(handle.ours.fileno(), None)
        if handle.inode in self._by_inode:
            self._unwatched[handle] = None
            self.connection_ended(handle)

    def sweep(self) -> None:
        """Close those handles that are gone by now, among those of which nothing tells."""
        for handle in list(islice(self._unwatched, _SWEPT_AT_ONCE)):
            del self._unwatched[handle]
            if handle.is_open():
                self._unwatched[handle] = None
            else:
                self._close(handle)

    def _close(self, handle: OpenHandle) -> None:
        self._closing(handle)
        self._forget(handle)
        if handle.broker is not None:
            try:
                handle.broker.close()
            except Exception:
                unexpected("ending a handle failed, the supervisor goes on")

    def _forget(self, handle: OpenHandle) -> None:
        del self._by_inode[handle.inode]
        self._unwatched.pop(handle, None)
        for key in handle.known_as:
            self._by_descriptor.pop(key, None)
        handle.disconnected()
        self._entries.remove(handle.entry)
        if handle.plain >= 0:
            os.close(handle.plain)
        handle.charge.give_back()

    def close(self) -> None:
        """Hang up everything: the end of the supervisor."""
        for handle in list(self._by_inode.values()):
            self._close(handle)
        self._hang_ups.close()
        self._entries.close()
