# SPDX-License-Identifier: GPL-2.0-or-later
"""Properties: whatever several connections do in whatever order, some things stay true.

Hypothesis invents sequences of commands on one bus, with an activator, small pools, synchronous requests that are
interrupted and restarted, clocks that advance and connections that end in the middle of things. After each command:

- no message is lost or duplicated: what is no longer queued was received, dropped, counted as lost, or was in the
  queue of a connection that ended; what is queued was sent. A received payload is the one that was sent;
- a command that fails leaves the queues as they were;
- the slices of each pool cover it, none is free and held, and the busy ones are just those that are waiting, or were
  given out and not freed yet;
- a name has the owner, and the waiters in the order, that a model of a few lines says;
- a file is pinned while a message that carries it waits, and not longer (closing it twice fails in the fake).

In the end, when everything has been received, freed and closed, nothing is left: no charge, no request, no slice, no
file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.connection import Connection
from broker.errors import (
    KdbusError,
    MessagesLost,
    NameAlreadyOwned,
    NameTaken,
    NoSuchName,
    NotNameOwner,
    PoolFull,
    ReplyNotExpected,
    TimedOut,
)
from broker.names import NameEntry
from broker.pool import Slice
from kdbus.abi import revision3 as abi
from tests.broker.test_pool import check as check_pool
from tests.support.world import (
    BROADCAST,
    SECOND,
    FakeFile,
    Peer,
    Received,
    Sent,
    World,
    bloom_filter_item,
    bloom_mask_item,
    charged,
    descriptors_item,
    memfd,
    memfd_item,
)

NAMES = [b"com.one", b"com.two"]
POOL_SIZE = 16384
NAME_FLAGS = st.sampled_from(range(8))
SIZES = st.one_of(st.just(0), st.integers(1, 64), st.integers(1000, 5000))
ANY = st.integers(0, 1 << 16)


def payload_of(cookie: int, size: int) -> bytes:
    """What message `cookie` carries."""
    return bytes((cookie + index) & 0xFF for index in range(size))


class ModelName:
    """A name: who owns it with which flags, and who waits."""

    def __init__(self, owner: Peer, flags: int) -> None:
        self.owner = owner
        self.flags = flags
        self.waiters: list[tuple[Peer, int]] = []
        self.activator: Peer | None = None


class Bus(RuleBasedStateMachine):
    """The commands. Each rule names what it sends and takes, and `_account` compares the queues."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.peers: list[Peer] = []
        self.ended: list[Connection] = []
        self.names: dict[bytes, ModelName] = {}
        self.activator: Peer | None = None
        self.cookie = 0
        self.sizes: dict[int, int] = {}
        self.files: dict[int, list[FakeFile]] = {}
        self.given_out: dict[Peer, list[Received]] = {}
        self.requests: list[tuple[Peer, Peer, int]] = []
        self.waits: list[tuple[Peer, Sent]] = []
        self.interrupted: list[tuple[Peer, Sent]] = []

    # Bookkeeping

    def _live(self) -> list[Peer]:
        return self.peers + ([self.activator] if self.activator is not None else [])

    def _pick(self, number: int) -> Peer:
        return self.peers[number % len(self.peers)]

    def _queued(self) -> Counter[int]:
        return Counter(
            entry.message.cookie
            for peer in self._live()
            for entry in peer.connection.queue.entries()
            if entry.message.source != 0
        )

    def _lost(self) -> int:
        return sum(peer.connection.lost_count for peer in self._live())

    def _account(self, action: Callable[[], object], sent: int | None = None, copies: int = 1) -> KdbusError | None:
        """Run an action that sends `copies` of `sent`; each is queued or counted as lost, and nothing else moves."""
        before, lost = self._queued(), self._lost()
        try:
            action()
        except KdbusError as error:
            if isinstance(error, PoolFull):
                assert (before - self._queued()).total() == self._lost() - lost
            else:
                assert self._queued() == before
            return error
        if sent is not None:
            before[sent] += copies
        after = self._queued()
        assert not after - before, "duplicated"
        assert (before - after).total() == self._lost() - lost, "lost and not counted"
        return None

    def _new_message(self, sender: Peer, size: int, carry: int) -> dict[str, Any]:
        """Arguments for `Peer.send`: a cookie of its own, a payload made of it, and files if `carry` says so."""
        self.cookie += 1
        files: list[FakeFile] = []
        items = []
        if carry & 1:
            files.append(memfd(8))
            items.append(memfd_item(sender.caller.open(files[0]), 8))
        if carry & 2:
            files += [FakeFile(), FakeFile()]
            items.append(descriptors_item(*[sender.caller.open(file) for file in files[-2:]]))
        self.sizes[self.cookie], self.files[self.cookie] = size, files
        return {"cookie": self.cookie, "payload": payload_of(self.cookie, size), "items": items}

    def _verify(self, received: Received) -> None:
        if received["src_id"] != 0:
            cookie = received["cookie"]
            assert received.payload[: self.sizes[cookie]] == payload_of(cookie, self.sizes[cookie])

    # Coming and going

    @initialize()
    def first_two(self) -> None:
        self.connect(True, POOL_SIZE)
        self.connect(False, 4096)

    @precondition(lambda self: len(self.peers) < 6)
    @rule(accepts=st.booleans(), pool_size=st.sampled_from([4096, POOL_SIZE]))
    def connect(self, accepts: bool, pool_size: int) -> None:
        flags = abi.HELLO_ACCEPT_FD if accepts else 0
        self.peers.append(self.world.connect(flags=flags, pool_size=pool_size))
        self.given_out[self.peers[-1]] = []

    @precondition(lambda self: self.activator is None)
    @rule()
    def connect_activator(self) -> None:
        self.activator = self.world.activator(NAMES[0], pool_size=POOL_SIZE)
        self.given_out[self.activator] = []
        known = self.names.get(NAMES[0])
        if known is None:
            known = self.names[NAMES[0]] = ModelName(self.activator, abi.NAME_ACTIVATOR)
        known.activator = self.activator

    @precondition(lambda self: len(self.peers) > 2)
    @rule(number=ANY, bye=st.booleans())
    def end(self, number: int, bye: bool) -> None:
        peer = self._pick(number)
        if bye and len(peer.connection.queue):
            with fails_somehow():
                peer.bye()
            return
        self.peers.remove(peer)
        self._end(peer, bye)

    @precondition(lambda self: self.activator is not None)
    @rule()
    def end_activator(self) -> None:
        peer, self.activator = self.activator, None
        assert peer is not None
        self._end(peer, False)

    def _end(self, peer: Peer, bye: bool) -> None:
        own = Counter(
            entry.message.cookie for entry in peer.connection.queue.entries() if entry.message.source != 0
        )  # fmt: skip
        before = self._queued()
        if bye:
            peer.bye()
        peer.close()
        for waiting in [pair for pair in self.waits if pair[0] is peer]:
            self._end_wait(*waiting)
        self.ended.append(peer.connection)
        del self.given_out[peer]
        self.requests = [entry for entry in self.requests if peer not in entry]
        self.interrupted = [pair for pair in self.interrupted if pair[0] is not peer]
        after = self._queued()
        assert not before - after - own, "somebody else's messages are gone"
        assert not after - before - own, "messages came from nowhere"
        self._model_end(peer)

    # Sending

    @rule(sender=ANY, to=ANY, size=SIZES, carry=st.integers(0, 3), priority=st.integers(0, 3))
    def send(self, sender: int, to: int, size: int, carry: int, priority: int) -> None:
        source, arguments = self._pick(sender), self._new_message(self._pick(sender), size, carry)
        target: Peer | bytes = NAMES[0] if to % 3 == 0 else self._pick(to)
        self._account(lambda: source.send(target, priority=priority, **arguments), self.cookie)

    @rule(sender=ANY, to=ANY, size=SIZES, count=st.sampled_from([4, 16, 32]))
    def send_many(self, sender: int, to: int, size: int, count: int) -> None:
        for number in range(count):
            self.send(sender, to, size, 3 if number == 0 else 0, 0)

    @rule(sender=ANY, size=SIZES, carry=st.integers(0, 1))
    def broadcast(self, sender: int, size: int, carry: int) -> None:
        source = self._pick(sender)
        arguments = self._new_message(source, size, carry)
        arguments["items"].append(bloom_filter_item())
        copies = sum(len(peer.connection.matches) > 0 for peer in self.peers if peer is not source)
        failure = self._account(
            lambda: source.send(BROADCAST, flags=abi.MESSAGE_SIGNAL, **arguments), self.cookie, copies
        )  # fmt: skip
        assert failure is None

    @rule(number=ANY)
    def subscribe(self, number: int) -> None:
        peer = self._pick(number)
        if len(peer.connection.matches):
            peer.unmatch()
        else:
            peer.match(bloom_mask_item(()))

    @rule(sender=ANY, to=ANY, size=SIZES, sync=st.booleans(), timeout=st.integers(-1, 5))
    def request(self, sender: int, to: int, size: int, sync: bool, timeout: int) -> None:
        source, arguments = self._pick(sender), self._new_message(self._pick(sender), size, 0)
        target = self._pick(to)
        deadline = self.world.clock.monotonic + timeout * SECOND
        cookie = self.cookie

        def act() -> None:
            flags = abi.MESSAGE_EXPECT_REPLY
            try:
                sent = source.send(target, flags=flags, timeout_ns=deadline, sync=sync, **arguments)
            except TimedOut:
                return  # queued nevertheless
            self.requests.append((source, target, cookie))
            if sync:
                self.waits.append((source, sent))

        self._account(act, cookie)

    @precondition(lambda self: self.requests)
    @rule(number=ANY, size=SIZES, carry=st.integers(0, 3))
    def reply(self, number: int, size: int, carry: int) -> None:
        requester, replier, cookie = self.requests[number % len(self.requests)]
        arguments = self._new_message(replier, size, carry)
        expected = requester.connection.find_reply(replier.connection, cookie)
        direct = expected is not None and expected.sync
        failure = self._account(
            lambda: replier.send(requester, cookie_reply=cookie, **arguments), None if direct else self.cookie
        )  # fmt: skip
        if failure is None:
            assert expected is not None, "answered what nobody expected"
            again = self._account(lambda: replier.send(requester, cookie_reply=cookie, cookie=self.cookie))
            assert isinstance(again, ReplyNotExpected), "answered twice"

    @precondition(lambda self: self.waits)
    @rule(number=ANY)
    def signal_arrives(self, number: int) -> None:
        source, sent = self.waits[number % len(self.waits)]
        if not sent.woken:
            self.waits.remove((source, sent))
            self.interrupted.append((source, sent))
            assert sent.wait is not None
            sent.wait.interrupt()

    @precondition(lambda self: self.interrupted)
    @rule(number=ANY)
    def restart(self, number: int) -> None:
        """The call is made again with the same arguments; it sends again only if nothing is expected any more."""
        source, sent = self.interrupted.pop(number % len(self.interrupted))
        layout = abi.STRUCTS["kdbus_msg"]
        header = source.caller.memory.read(sent.command["msg_address"], layout.size)
        cookie = layout.get(header, "cookie")
        expected = [reply for reply in source.connection.replies if reply.cookie == cookie]
        answered = any(reply.answer is not None for reply in expected)

        def act() -> None:
            try:
                wait = source.ioctl("SEND", sent.address)
            except TimedOut:
                return  # queued nevertheless
            again = Sent(source.caller, sent.address, wait)
            self.waits.append((source, again))
            assert again.woken == answered, "an answer is there for the restarted call"

        self._account(act, None if expected else cookie)

    @precondition(lambda self: any(sent.woken for _, sent in self.waits))
    @rule(number=ANY)
    def finish(self, number: int) -> None:
        ready = [pair for pair in self.waits if pair[1].woken]
        self._end_wait(*ready[number % len(ready)])

    def _end_wait(self, source: Peer, sent: Sent) -> None:
        """A call that waits is over, or its caller is gone."""
        self.waits.remove((source, sent))
        assert sent.wait is not None
        if not sent.woken:
            sent.wait.interrupt()
            return
        try:
            offset, size, flags = sent.finish()
        except KdbusError:
            return
        received = source.parse(offset, size, flags)
        self._verify(received)
        if source.connection.active:
            source.free(offset)

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self._account(lambda: self.world.expire(seconds * SECOND))

    # Receiving

    @rule(number=ANY, flags=st.sampled_from([0, 0, 0, abi.RECV_PEEK, abi.RECV_USE_PRIORITY]), keep=st.booleans())
    def receive(self, number: int, flags: int, keep: bool) -> None:
        live = self._live()
        self._receive(live[number % len(live)], flags, keep)

    def _receive(self, peer: Peer, flags: int, keep: bool) -> None:
        before = self._queued()
        try:
            received = peer.recv(flags, priority=3, free=False)
        except MessagesLost:
            assert peer.connection.lost_count == 0
        except KdbusError:
            pass
        else:
            self._verify(received)
            self.given_out[peer].append(received)
            if received["src_id"] != 0 and not flags & abi.RECV_PEEK:
                before[received["cookie"]] -= 1
            if not keep:
                self._free(peer, -1)
        assert self._queued() == +before

    @rule(number=ANY)
    def drop(self, number: int) -> None:
        live = self._live()
        peer = live[number % len(live)]
        entries = peer.connection.queue.entries()
        if entries:
            before = self._queued()
            if entries[0].message.source != 0:
                before[entries[0].message.cookie] -= 1
            peer.drop()
            assert self._queued() == +before

    @rule(number=ANY, index=ANY)
    def free(self, number: int, index: int) -> None:
        holders = [peer for peer, given in self.given_out.items() if given]
        if holders:
            peer = holders[number % len(holders)]
            self._free(peer, index % len(self.given_out[peer]))

    def _free(self, peer: Peer, index: int) -> None:
        offset = self.given_out[peer].pop(index).offset
        peer.free(offset)
        with fails_somehow():
            peer.free(offset)

    # Names

    @rule(number=ANY, name=st.sampled_from(NAMES), flags=NAME_FLAGS)
    def acquire(self, number: int, name: bytes, flags: int) -> None:
        peer = self._pick(number)
        results: list[int] = []
        failure = self._account(lambda: results.append(peer.acquire(name, flags)))
        if isinstance(failure, PoolFull):
            return  # the activator's messages did not fit: the name stays
        known = self.names.get(name)
        waits = 0
        if known is None:
            self.names[name] = ModelName(peer, flags)
        elif known.owner is peer:
            assert isinstance(failure, NameAlreadyOwned)
            return
        elif known.owner is known.activator:
            known.owner, known.flags = peer, flags
        elif flags & abi.NAME_REPLACE_EXISTING and known.flags & abi.NAME_ALLOW_REPLACEMENT:
            if known.flags & abi.NAME_QUEUE:
                known.waiters.append((known.owner, known.flags))
            known.owner, known.flags = peer, flags
        elif flags & abi.NAME_QUEUE:
            known.waiters.append((peer, flags))
            waits = abi.NAME_IN_QUEUE
        else:
            assert isinstance(failure, NameTaken)
            return
        assert failure is None and results == [flags | waits]

    @rule(number=ANY, name=st.sampled_from(NAMES))
    def release(self, number: int, name: bytes) -> None:
        peer, known = self._pick(number), self.names.get(name)
        failure = self._account(lambda: peer.release(name))
        if isinstance(failure, PoolFull):
            return
        if known is not None and known.owner is peer:
            assert failure is None
            self._model_pass_on(name)
            return
        places = [place for place in known.waiters if place[0] is peer] if known is not None else []
        if known is None or not places:
            assert isinstance(failure, (NoSuchName, NotNameOwner))
        else:
            assert failure is None
            known.waiters.remove(places[0])

    def _model_pass_on(self, name: bytes) -> None:
        known = self.names[name]
        while known.waiters:
            heir, flags = known.waiters.pop(0)
            if heir is not known.owner:
                known.owner, known.flags = heir, flags
                return
        if known.activator is not None and known.activator is not known.owner:
            known.owner, known.flags = known.activator, abi.NAME_ACTIVATOR
        else:
            del self.names[name]

    def _model_end(self, peer: Peer) -> None:
        for known in self.names.values():
            known.waiters = [place for place in known.waiters if place[0] is not peer]
            if known.activator is peer:
                known.activator = None
        for name in [name for name, known in self.names.items() if known.owner is peer]:
            self._model_pass_on(name)

    # What is always true

    @invariant()
    def names_have_one_owner_and_waiters_in_order(self) -> None:
        registry = self.world.default_bus().bus.names
        for name in NAMES:
            entry: NameEntry | None = registry.find(name)
            owners = [peer for peer in self._live() if name in peer.connection.names]
            known = self.names.get(name)
            if known is None:
                assert entry is None and owners == []
                continue
            assert entry is not None
            assert owners == [known.owner] and entry.owner is known.owner.connection
            assert entry.flags == known.flags
            assert [(place.connection, place.flags) for place in entry.waiters] == [
                (peer.connection, flags) for peer, flags in known.waiters
            ]

    def _payloads(self, peer: Peer) -> set[Slice]:
        """The slices of payload that wait in the peer's pool, in its queue or attached to a reply."""
        replies = {reply for other in self._live() for reply in other.connection.replies}
        replies |= {sent.wait.reply for _, sent in self.waits if sent.wait is not None}
        answers = [reply.answer for reply in replies if reply.requester is peer.connection]
        entries = [*peer.connection.queue.entries(), *answers]
        return {entry.payload for entry in entries if entry is not None and entry.payload is not None}

    @invariant()
    def pools_are_covered_and_hold_what_is_needed(self) -> None:
        for peer in self._live():
            pool = peer.connection.pool
            check_pool(pool)
            published = {slice_ for slice_ in pool.slices() if slice_.published}
            offsets = sorted(slice_.offset for slice_ in published)
            assert offsets == sorted(received.offset for received in self.given_out[peer])
            children = {slice_.child for slice_ in published if slice_.child is not None}
            busy = {slice_ for slice_ in pool.slices() if not slice_.free}
            assert busy == published | children | self._payloads(peer)

    @invariant()
    def files_are_pinned_while_their_message_waits(self) -> None:
        queued = self._queued()
        for cookie, files in self.files.items():
            if cookie in queued:
                assert [file.pinned for file in files] == [1] * len(files)

    @invariant()
    def pollers_know_what_waits(self) -> None:
        for peer in self._live():
            assert peer.events.readable == (len(peer.connection.queue) > 0)
            assert not peer.events.hung_up
            assert 0 <= peer.connection.request_count <= 128

    def teardown(self) -> None:
        """Receive, free and close everything; then nothing may be left."""
        while self.waits:
            self._end_wait(*self.waits[0])
        self.world.expire(100 * SECOND)
        for peer in self._live():
            while self.given_out[peer]:
                self._free(peer, 0)
            while waiting := len(peer.connection.queue):
                self._receive(peer, 0, False)
                if len(peer.connection.queue) == waiting and not peer.connection.lost_count:
                    peer.drop()  # the pool is full of payload: no room for the header
        for connection in [peer.connection for peer in self._live()] + self.ended:
            assert connection.request_count == 0
            assert charged(connection) == {}
            assert connection.replies == [] and not connection.owed
            assert connection.pool.busy == 0 or connection in self.ended
        assert [file.pinned for files in self.files.values() for file in files if file.pinned] == []
        for peer in self._live():
            peer.close()
        assert self.world.domain.user(1000).connections == 0
        assert self.world.domain.deadlines.next_ns() is None
        self.names_of_nobody()

    def names_of_nobody(self) -> None:
        """With all connections gone, so are all names."""
        registry = self.world.default_bus().bus.names
        assert [registry.find(name) for name in NAMES] == [None, None]


def fails_somehow() -> Any:
    """The block must raise an error of the bus."""
    return pytest.raises(KdbusError)


def test_any_sequence_of_commands() -> None:
    run_state_machine_as_test(Bus, settings=settings(max_examples=250, stateful_step_count=60, deadline=None))
