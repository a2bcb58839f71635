# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls whose memory does not come: how many may be stuck, and in which order results are written."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from interposer.target.stalls import ALTOGETHER, PER_USER, PostedWrites, Stalls
from native.deputies import Deputies, Stalled
from native.notification import Listener, Notification


class FakeDeputies(Deputies):
    """Deputies that come back when they are told to."""

    def __init__(self) -> None:
        self.over: list[tuple[int, int]] = []

    @property
    def away(self) -> bool:
        return bool(self.over)

    def returned(self) -> Iterator[tuple[int, int]]:
        while self.over:
            yield self.over.pop(0)


class FakeListener(Listener):
    """Whose calls all wait."""

    def __init__(self) -> None:
        pass

    def is_valid(self, id: int) -> bool:
        return True


class Scene:
    """Somebody who writes, with memory that comes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deputies = FakeDeputies()
        self.held: list[tuple[int, bool]] = []
        self.stalls = Stalls(self.deputies, lambda user, held: self.held.append((user, held)))
        self.posted = PostedWrites(FakeListener(), self.stalls, lambda _: 7)
        self.written: list[bytes] = []
        self.stalling: dict[int, int] = {}
        """Addresses where a write stalls, with the ticket."""
        self.answers: list[bool] = []
        monkeypatch.setattr("native.memory.write", self._write)

    def _write(self, pid: int, address: int, data: bytes) -> None:
        if address in self.stalling:
            raise Stalled(self.stalling.pop(address))
        if address == 0:
            raise OSError(errno.EFAULT, "")
        self.written.append(data)

    def over(self, ticket: int, error: int = 0) -> None:
        self.deputies.over.append((ticket, error))
        self.stalls.collect()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


CALL = Notification(
    id=5, pid=99, flags=0, number=16, architecture=0, instruction_pointer=0, arguments=(0, 0, 0, 0, 0, 0)
)


def test_what_does_not_stall_is_written_at_once(scene: Scene) -> None:
    scene.posted.write(CALL, 8, b"one")
    assert scene.written == [b"one"]
    assert not scene.posted.defer(CALL, scene.answers.append)


def test_later_writes_come_behind_and_then_the_answer(scene: Scene) -> None:
    scene.stalling = {8: 1, 24: 2}
    for address, data in ((8, b"one"), (16, b"two"), (24, b"three"), (32, b"four")):
        scene.posted.write(CALL, address, data)
    assert scene.posted.defer(CALL, scene.answers.append)
    assert scene.written == []
    scene.over(1)
    assert (scene.written, scene.answers) == ([b"two"], [])
    scene.over(2)
    assert (scene.written, scene.answers) == ([b"two", b"four"], [True])
    assert not scene.posted.defer(CALL, scene.answers.append)


@pytest.mark.parametrize(("error", "address"), [(errno.EFAULT, 16), (0, 0)])
def test_what_cannot_be_written_ends_it(scene: Scene, error: int, address: int) -> None:
    scene.stalling = {8: 1}
    scene.posted.write(CALL, 8, b"one")
    scene.posted.write(CALL, address, b"two")
    scene.posted.write(CALL, 24, b"three")
    scene.posted.defer(CALL, scene.answers.append)
    scene.over(1, error)
    assert (scene.written, scene.answers) == ([], [False])


def test_nothing_is_written_once_it_is_closed(scene: Scene) -> None:
    scene.stalling = {8: 1}
    scene.posted.write(CALL, 8, b"one")
    scene.posted.write(CALL, 16, b"two")
    scene.posted.defer(CALL, scene.answers.append)
    scene.posted.close()
    assert scene.answers == [False]
    scene.over(1)
    assert (scene.written, scene.answers) == ([], [False])


def test_a_user_who_has_too_many_is_held_until_one_gets_on(scene: Scene) -> None:
    served: list[str] = []
    for ticket in range(PER_USER):
        assert scene.held == []
        scene.stalls.wait(ticket, 7, lambda _: None)
    assert scene.held == [(7, True)]
    scene.stalls.hold(7, lambda: served.append("held"))
    scene.stalls.hold(8, lambda: served.append("other"))
    assert served == ["other"]
    scene.over(3)
    assert (served, scene.held) == (["other", "held"], [(7, True), (7, False)])


def test_when_there_are_very_many_one_is_enough(scene: Scene) -> None:
    for ticket in range(ALTOGETHER):
        scene.stalls.wait(ticket, 1000 + ticket, lambda _: None)
    assert scene.held == [(1000 + ALTOGETHER - 1, True)]
    scene.over(0)
    assert scene.held[1:] == [(1000 + ALTOGETHER - 1, False)]


def test_a_copy_that_nobody_asked_for_is_forgotten(scene: Scene) -> None:
    scene.over(99)
    assert len(scene.stalls) == 0
