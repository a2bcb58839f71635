# SPDX-License-Identifier: GPL-2.0-or-later
"""Both kinds of stand-ins: readable and not, hung up from either side, and known by their epoll entry."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import pytest

from interposer.handles import stand_ins
from interposer.handles.stand_ins import SupervisorsEnd, TargetsEnd
from native import identity

Make = Callable[..., tuple[SupervisorsEnd, TargetsEnd]]
both = pytest.mark.parametrize("make", [stand_ins.make_socket_pair, stand_ins.make_pipe])


def events(descriptor: int) -> int:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLOUT)
    return dict(poll.poll(0)).get(descriptor, 0)


@both
def test_readable_and_unreadable_again(make: Make) -> None:
    ours, theirs = make(nonblocking=True)
    duplicate = os.dup(theirs.fileno())
    for _ in range(3):
        assert not events(duplicate) & select.POLLIN
        assert ours.make_readable() and ours.make_readable()
        assert events(duplicate) & select.POLLIN
        assert ours.make_unreadable(os.getpid(), duplicate)
    assert not events(duplicate) & select.POLLIN
    os.close(duplicate)
    ours.close()
    theirs.close()


@both
def test_hung_up_by_the_supervisor(make: Make) -> None:
    ours, theirs = make(nonblocking=True)
    assert not events(theirs.fileno()) & select.POLLHUP
    ours.close()
    assert events(theirs.fileno()) & select.POLLHUP
    theirs.close()


@both
def test_last_close_is_noticed(make: Make) -> None:
    ours, theirs = make(nonblocking=True)
    duplicate = os.dup(theirs.fileno())
    with select.epoll() as entry, select.epoll() as hang_ups:
        entry.register(theirs.fileno(), 0)
        number = theirs.fileno()
        hang_ups.register(ours.fileno(), select.EPOLLET)
        theirs.close()
        assert not hang_ups.poll(0) and identity.epoll_holds(entry.fileno(), number)
        ours.make_readable()
        ours.make_unreadable(os.getpid(), duplicate)
        assert not hang_ups.poll(0), "emptying is no hang-up"
        os.close(duplicate)
        assert hang_ups.poll(0) and not identity.epoll_holds(entry.fileno(), number)
        assert not ours.make_readable()
    ours.close()


@both
@pytest.mark.parametrize("nonblocking", [False, True])
def test_blocking_as_asked_for(make: Make, nonblocking: bool) -> None:
    ours, theirs = make(nonblocking=nonblocking)
    assert os.get_blocking(theirs.fileno()) == (not nonblocking)
    ours.close()
    theirs.close()


@both
def test_nothing_stays_open(make: Make) -> None:
    before = os.listdir("/proc/self/fd")
    ours, theirs = make(nonblocking=True)
    ours.close()
    theirs.close()
    assert os.listdir("/proc/self/fd") == before


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for possible, kind in ((True, stand_ins.SocketEnd), (False, stand_ins.PipeEnd)):
        monkeypatch.setattr(identity, "can_fetch", lambda possible=possible: possible)
        ours, theirs = stand_ins.make(nonblocking=True)
        assert isinstance(ours, kind)
        ours.close()
        theirs.close()
