# SPDX-License-Identifier: GPL-2.0-or-later
"""Any message between any two revisions: what both know arrives, whoever made the bus.

Hypothesis invents the message, what its sender tells and its receiver wants to know, and who made the bus. What both
revisions have a word for is then compared; docs/revisions.md says what becomes of the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import KdbusError, NoMessage
from broker.revision219 import REVISION219
from tests.support.fakes import FakeFile, memfd
from tests.support.speaker import FACTS, REVISIONS, Letter, Speaker, make_bus
from tests.support.world import BROADCAST, SECOND, World, item

NAME = b"org.example.Receiver"
SENDERS_NAME = b"org.example.Sender"
EVERYTHING = {
    "uid": 1000,
    "euid": 1000,
    "gid": 1000,
    "egid": 1000,
    "pid": 100,
    "tid": 101,
    "ppid": 1,
    "AUXGROUPS": [5, 6],
    "NAMES": SENDERS_NAME,
    "TID_COMM": b"thread",
    "PID_COMM": b"leader",
    "EXE": b"/usr/bin/program",
    "CMDLINE": b"program",
    "CGROUP": b"/user.slice",
    "CAPS": struct.pack("<I4Q", 40, 1, 2, 4, 8),
    "SECLABEL": b"label",
    "sessionid": 7,
    "loginuid": 1000,
    "CONN_DESCRIPTION": b"sender",
}
"""What there is to know of every sender here."""
OF_FACT = {
    "CREDS": ("uid", "euid", "gid", "egid"),
    "PIDS": ("pid", "tid", "ppid"),
    "AUDIT": ("sessionid", "loginuid"),
}
UNKNOWN = {"2": {"euid", "egid", "ppid"}}
"""What a revision has no word for."""

Test = TypeVar("Test", bound=Callable[..., None])

revisions = st.sampled_from(list(REVISIONS))
facts = st.sets(st.sampled_from(FACTS))
pieces = st.lists(
    st.one_of(st.binary(min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 9000).map(memfd)), max_size=4
)
files = st.lists(st.builds(FakeFile), max_size=3)
cookies = st.integers(1, 2**64 - 1)


class Pair:
    """A sender and a receiver on one bus."""

    def __init__(
        self, names: tuple[str, str, str], tells: set[str] | None = None, wants: set[str] | None = None
    ) -> None:
        """`names`: the revisions of the sender, of the receiver and of who made the bus."""
        self.world = World()
        self.names = names
        self.bus = self._as(names[2], lambda: make_bus(self.world, names[2]))
        self.tells = set(FACTS) if tells is None else tells
        self.wants = set() if wants is None else wants
        self.receiver = self._connect(names[1], wants=self.wants)
        self.sender = self._connect(names[0], tells=self.tells, description=b"sender")
        self.sender.acquire(SENDERS_NAME)

    def _as(self, revision: str, act: Callable[[], Any]) -> Any:
        """Do something as that revision, which for one has to be said."""
        self.world.domain.forced = REVISION219 if revision == "219" else None
        made = act()
        self.world.domain.forced = None
        return made

    def _connect(self, revision: str, **how: Any) -> Speaker:
        made = self._as(revision, lambda: Speaker(self.world, revision, self.bus, **how))
        assert isinstance(made, Speaker) and made.connection.behaviour.revision.name == revision
        return made

    def in_time(self) -> int:
        return self.world.clock.monotonic + SECOND

    def check(self, sent: Letter, received: Letter) -> None:
        """Compare what arrived with what was sent."""
        assert joined(received.body) == joined(sent.body)
        assert list(received.files) == list(sent.files)
        assert (received.cookie, received.priority, received.source) == (sent.cookie, sent.priority, self.sender.id)
        assert received.timeout_or_cookie_reply == sent.timeout_or_cookie_reply
        assert (received.expects_reply, received.may_start) == (sent.expects_reply, sent.may_start)
        assert received.to == sent.to
        for fact, expected in self.expected().items():
            told = received.facts[fact]
            if fact == "TIMESTAMP":
                assert isinstance(told, bytes)
                told = struct.unpack_from("<2Q", told, 8)
            assert told == expected, fact

    def expected(self) -> dict[str, object]:
        """What the receiver has to be told: what it wants, its sender tells and there are words for."""
        agreed = {fact for fact in FACTS if self._meant(fact, self.tells, 0) and self._meant(fact, self.wants, 1)}
        if self.names[1] == "2" and "CREDS" not in agreed:
            agreed.discard("PIDS")  # they are a part of CREDS
        words = {word for fact in agreed for word in OF_FACT.get(fact, (fact,))} - UNKNOWN.get(self.names[1], set())
        clock = self.world.clock
        everything = {**EVERYTHING, "TIMESTAMP": (clock.monotonic, clock.realtime)}
        return {word: fact for word, fact in everything.items() if word in words}

    def _meant(self, fact: str, said: set[str], side: int) -> bool:
        """Whether somebody who says that means this fact: in version 2 it is all the same which of the two is said."""
        both = {"CREDS", "PIDS"}
        return fact in said or (self.names[side] == "2" and fact in both and bool(said & both))


def joined(body: Sequence[bytes | int | FakeFile]) -> list[bytes | FakeFile]:
    """A body with all bytes that follow one another as one, as what counts is what is read."""
    found: list[bytes | FakeFile] = []
    for piece in body:
        data = bytes(piece) if isinstance(piece, int) else piece
        if isinstance(data, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += data
        else:
            found.append(data)
    return found


def each_pair(*senders: str) -> Callable[[Test], Test]:
    """Run a test with each of the senders and with each receiver; who made the bus is `maker`."""

    def decorate(test: Test) -> Test:
        pairs = list(product(senders or REVISIONS, REVISIONS))
        decorated: Test = pytest.mark.parametrize(("sender", "receiver"), pairs)(settings(max_examples=30)(test))
        return decorated

    return decorate


@each_pair()
@given(
    maker=revisions,
    body=pieces,
    passed=files,
    cookie=cookies,
    priority=st.integers(-(2**63), 2**63 - 1),
    may_start=st.booleans(),
    named=st.booleans(),
    tells=facts,
    wants=facts,
)
def test_a_message(
    sender: str,
    receiver: str,
    maker: str,
    body: list[bytes | int | FakeFile],
    passed: list[FakeFile],
    cookie: int,
    priority: int,
    may_start: bool,
    named: bool,
    tells: set[str],
    wants: set[str],
) -> None:
    pair = Pair((sender, receiver, maker), tells, wants)
    pair.receiver.acquire(NAME)
    before = pair.receiver.connection.pool.busy
    to = NAME if named else pair.receiver.id
    sent = Letter(to, body, passed, cookie, priority, may_start=may_start)
    pair.sender.send(sent)
    pair.check(sent, pair.receiver.receive())
    assert pair.receiver.connection.pool.busy == before


@each_pair()
@given(
    maker=revisions,
    body=pieces,
    passed=files,
    answer_body=pieces,
    answer_files=files,
    cookie=cookies,
    waits=st.booleans(),
    wants=facts,
)
def test_a_request_and_its_answer(
    sender: str,
    receiver: str,
    maker: str,
    body: list[bytes | int | FakeFile],
    passed: list[FakeFile],
    answer_body: list[bytes | int | FakeFile],
    answer_files: list[FakeFile],
    cookie: int,
    waits: bool,
    wants: set[str],
) -> None:
    pair = Pair((sender, receiver, maker), None, wants)
    sent = Letter(pair.receiver.id, body, passed, cookie, 0, pair.in_time(), expects_reply=True, waits=waits)
    wait = pair.sender.send(sent)
    received = pair.receiver.receive()
    pair.check(sent, received)
    answer = Letter(received.source, answer_body, answer_files, 5, timeout_or_cookie_reply=received.cookie)
    pair.receiver.send(answer)
    assert (wait is not None) == waits
    got = pair.sender.receive() if wait is None else pair.sender.answered(wait)
    assert joined(got.body) == joined(answer.body) and list(got.files) == answer_files
    assert (got.source, got.cookie, got.timeout_or_cookie_reply) == (pair.receiver.id, 5, cookie)
    assert not pair.sender.connection.replies


@each_pair()
@given(
    maker=revisions,
    body=pieces,
    bits=st.sets(st.integers(0, 7), max_size=5),
    wanted=st.integers(0, 7),
    wants=facts,
)
def test_a_signal(
    sender: str,
    receiver: str,
    maker: str,
    body: list[bytes | int | FakeFile],
    bits: set[int],
    wanted: int,
    wants: set[str],
) -> None:
    pair = Pair((sender, receiver, maker), None, wants)
    pair.receiver.match_bits(wanted)
    sent = Letter(BROADCAST, body, bits=sorted(bits))
    pair.sender.send(sent)
    if wanted not in bits:
        with pytest.raises(NoMessage):
            pair.receiver.receive()
        return
    received = pair.receiver.receive()
    pair.check(sent, received)
    if receiver == "final":
        assert received.bits == sent.bits
    if receiver != "2":
        assert received.flags == 4  # SIGNAL


@each_pair(*(name for name in REVISIONS if name != "2"))
@given(maker=revisions, body=pieces)
def test_a_unicast_signal(sender: str, receiver: str, maker: str, body: list[bytes | int | FakeFile]) -> None:
    """Version 2 cannot send one."""
    pair = Pair((sender, receiver, maker))
    pair.receiver.match_bits(3)
    sent = Letter(pair.receiver.id, body, bits=[3])
    pair.sender.send(sent)
    received = pair.receiver.receive()
    pair.check(sent, received)
    assert received.flags == (0 if receiver == "2" else 4)


@each_pair()
@given(maker=revisions, cookie=cookies)
def test_notifications(sender: str, receiver: str, maker: str, cookie: int) -> None:
    pair = Pair((sender, receiver, maker))
    anybody = struct.pack("<4Q", BROADCAST, 0, BROADCAST, 0)
    pair.receiver.match(item(pair.receiver.number("NAME_ADD"), anybody))
    pair.receiver.match(item(pair.receiver.number("ID_REMOVE"), anybody[:16]))
    pair.sender.acquire(NAME)
    added = pair.receiver.receive()
    assert added.notification is not None and added.source == 0
    kind, content = added.notification
    assert (kind, content[32:].rstrip(b"\0")) == ("NAME_ADD", NAME)
    assert struct.unpack_from("<Q8xQ", content) == (0, pair.sender.id)
    pair.receiver.send(
        Letter(pair.sender.id, cookie=cookie, timeout_or_cookie_reply=pair.in_time(), expects_reply=True)
    )
    pair.sender.receive()
    pair.sender.handle.close()
    told = [pair.receiver.receive() for _ in range(2)]
    found = {letter.notification[0]: letter for letter in told if letter.notification is not None}
    assert found["REPLY_DEAD"].timeout_or_cookie_reply == cookie
    gone = found["ID_REMOVE"].notification
    assert gone is not None and struct.unpack_from("<Q", gone[1]) == (pair.sender.id,)


@each_pair()
@given(maker=revisions, body=pieces, cookie=cookies)
def test_a_call_that_nobody_answers(
    sender: str, receiver: str, maker: str, body: list[bytes | int | FakeFile], cookie: int
) -> None:
    pair = Pair((sender, receiver, maker))
    sent = Letter(pair.receiver.id, body, (), cookie, 0, pair.in_time(), expects_reply=True, waits=True)
    wait = pair.sender.send(sent)
    assert wait is not None
    pair.world.expire(2 * SECOND)
    with pytest.raises(KdbusError):
        pair.sender.answered(wait)
    pair.check(sent, pair.receiver.receive())
