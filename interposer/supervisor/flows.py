# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows at work: which connections are lent to the engine, and when.

The engine (`native/flow.c`) serves the calls of lent connections; the broker may not look at those until everything
has been taken back. So the supervisor calls `recall` before it lets the broker do anything (a trapped open or mmap that
leads elsewhere is none of the broker's business), and `consider` when the broker is done: the connections that were
busy lately are lent (again) if `broker.flow` says that they may be.

Which those are, and whether lending is worth it at the moment, is decided in `interposer.supervisor.busy`.

Where descriptors cannot be compared, or an answered call could come again (`interposer.traps.exactly_once`), nothing is
lent.

What depends on more than kdbus's own state, the engine is told together with the evidence that it rests on
(`interposer.target.evidence`): that what a thread sends is of that origin, and that a thread is shown these items of
it. It learns both from a call that the broker has served, and repeats them while the evidence holds.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Protocol

from broker.behaviour import Behaviour
from broker.connection import Connection
from broker.domain import MessageCounter
from broker.flow import GROUPS, flow, is_lendable, layout, lendable, signal, topic
from broker.handle import EndpointHandle
from broker.interfaces import File
from broker.lending import LENT_COUNTERS, LentWait, hand_out, take_back
from broker.message import Message
from broker.origin import Origins, Shown, shown, timestamp_of
from broker.quota import User
from broker.reply import Reply
from broker.send import Wait
from interposer.handles.handles import HandleTable, OpenHandle
from interposer.supervisor.busy import Busy
from interposer.supervisor.repeated import Kind, Repeated, Way
from interposer.supervisor.waiting import WaitingCalls
from interposer.target.budget import Charge, OverBudget
from interposer.target.caller import TargetCaller
from interposer.target.files import TargetFile
from kdbus.abi.revision import REVISIONS
from native.deputies import Deputies
from native.flow import Engine, Stall
from native.notification import Listener, Notification
from native.pool import Pool

_SEND, _RECV, _FREE = (
    frozenset(revision.requests[name] for revision in REVISIONS) for name in ("SEND", "RECV", "FREE")
)
_HOT = _SEND | _RECV | _FREE
_FORGOTTEN_USERS = 64
"""How many users are remembered besides those who have a connection: each custom endpoint has one of its own."""
_SLICES_PER_UNIT = 16
"""How many pieces of a pool cost as much to hand out and take back as a message."""
_MOST_ITEMS = 16384
"""Bytes of metadata items that the engine repeats."""
MOST_NAMES = 16384
"""Names that the engine knows (`LENT_NAMES`)."""
_RECORDS = 1024
"""How many calls are told of at a time."""
_NATIVE_NS = 20_000
"""What a SEND takes that is served natively, or a little more."""


Parameter = Callable[[], tuple[int, bytes] | None]
"""The file of the module parameter: a descriptor of ours, and what it held when it was last read; None if an earlier
value counts."""

Later = Callable[[int, Notification, Callable[[TargetCaller], Wait], int, int], None]
"""Takes over a waiting call: the number of its listener, its notification, what makes the wait for its caller, when to
look at its thread, and when it began (ns, CLOCK_MONOTONIC; 0 if nobody watched)."""


class Watcher(Protocol):
    """Who is told of calls that the engine serves (`interposer.traps.tap`, `interposer.supervisor.messages`)."""

    @property
    def payload_limit(self) -> int:
        """How many bytes of a payload are wanted."""
        ...

    @property
    def waits(self) -> bool:
        """Whether being told of a call may take long, so that each is to be told of before the next one is served."""
        ...

    def served_natively(self, records: bytes, data: bytes, handles: Mapping[int, OpenHandle]) -> None:
        """Calls that were served, in order; their form is that of `tracing.native_calls`."""
        ...

    def began_ns(self, wait: Wait) -> int:
        """When the call began that waits, 0 if it was not seen."""
        ...

    def lent(self, wait: Wait) -> None:
        """It waits in the engine from now on."""
        ...


class Flows:
    """The lent connections of one supervisor."""

    def __init__(
        self,
        hang_ups: int,
        handles: HandleTable,
        waiting: Callable[[], Iterable[tuple[int, WaitingCalls]]],
        later: Later,
        parameter: Parameter,
    ) -> None:
        """Nothing is lent while `enabled` is False.

        `waiting`: the calls that wait now, by the number of their listener. `later` takes over calls that wait
        when they are taken back.
        """
        self._parameter = parameter
        self._origins = Origins()
        self._engine = Engine(hang_ups, handles.budgets.of_threads)
        self._files = handles
        self._budget = handles.budgets.descriptors
        self._waiting = waiting
        self._later = later
        self.enabled = False
        self._counters: list[MessageCounter] = []
        self._users: dict[int, User] = {}
        self._handles: dict[int, OpenHandle] = {}
        self._connections: dict[int, Connection] = {}
        self._indices: dict[Connection, int] = {}
        self._spoken: dict[Connection, Behaviour] = {}
        """What the engine was told that each connection speaks; it may turn out to speak something else."""
        self._revisions: dict[Behaviour, int] = {}
        self._kept: dict[int, Reply] = {}
        self._charges: dict[int, Charge] = {}
        """For the memfds in messages that are lent, by the descriptors that were given away."""
        self._busy = Busy()
        self._repeated = Repeated()
        self._told_names: dict[int, int] = {}
        """The number for its names (`Origins.of_connection`) with which each connection's were told to the engine."""
        self._names_told = 0
        """How many, at most: those that changed hands since are told for each of their owners."""
        self._receiving: dict[Connection, int] = {}
        """The thread that received last, of those whose RECV the broker has served."""
        self._lent = False
        self._served = 0
        self._watchers: Sequence[Watcher] = ()

    @property
    def served(self) -> int:
        """How many calls the engine has served."""
        return self._engine.served

    @property
    def self_served(self) -> int:
        """How many calls receivers have served by themselves, of those that are known by now."""
        return self._engine.self_served

    @property
    def listener(self) -> int:
        """The listener that the last result or error of `receive` is about."""
        return self._engine.listener

    def listen(self, listeners: Sequence[Listener]) -> None:
        """Receive from these listeners from now on; nothing is lent."""
        self._engine.listen(listeners)

    def attend(self, descriptor: int) -> None:
        """What is waited for besides, see `Engine.attend`."""
        self._engine.attend(descriptor)

    def employ(self, deputies: Deputies) -> None:
        """Who touches the memory of targets from now on; closed after this."""
        self._engine.employ(deputies)

    def receive(self, stop_ns: int, turn_ns: int) -> Notification | None:
        """The next call for the broker, see `Engine.run`; `stall` and `held` say more. Raises EndOfTargets, OSError."""
        if not self._watchers:
            return self._engine.run(stop_ns, turn_ns)
        try:
            return self._engine.run(stop_ns, turn_ns)
        finally:
            records, data = self._engine.take_records()
            if records:
                for watcher in self._watchers:
                    watcher.served_natively(records, data, self._handles)

    def watch(self, watchers: Sequence[Watcher]) -> None:
        """From now on, tell these of what is served natively. Raises OSError(ENOMEM): nobody is told then."""
        self.recall()
        self._watchers = ()
        payload = max((watcher.payload_limit for watcher in watchers), default=-1)
        self._engine.watch(payload, 1 if any(watcher.waits for watcher in watchers) else _RECORDS)
        self._watchers = watchers

    @property
    def watched(self) -> bool:
        """Whether anybody is told."""
        return bool(self._watchers)

    @property
    def stall(self) -> Stall | None:
        """What the last `receive` has left behind."""
        return self._engine.stall

    @property
    def held(self) -> bool:
        """Whether the last `receive` has returned a call of a user whose calls are held."""
        return self._engine.held

    def hold(self, user: int, held: bool) -> None:
        """See `Engine.hold`."""
        self._engine.hold(user, held)

    def user_of(self, listener: Listener, notification: Notification) -> int:
        """Whose call that is, see `Engine.user_of`."""
        return self._engine.user_of(listener, notification)

    def put(self, listener: Listener, notification: Notification) -> None:
        """A call that was received from `listener` while another was served: it waits for its turn."""
        if not self._engine.put(listener, notification):
            listener.respond_error(notification.id, errno.ENOMEM)

    def take(self, listener: Listener) -> Iterator[Notification]:
        """The calls of `listener` that were received and wait for their turn."""
        while (notification := self._engine.take(listener)) is not None:
            yield notification

    @property
    def lent(self) -> bool:
        """Whether anything is lent."""
        return self._lent

    def deadline_ns(self) -> int | None:
        """When `recall` is due, so that deadlines and signals are noticed; None for never."""
        return self._engine.deadline_ns() if self._lent else None

    def look(self, now_ns: int) -> None:
        """Look at calls that wait natively. After that `deadline_ns` has passed only if the broker has to look, too."""
        if self._lent:
            self._engine.look(now_ns)

    def recall(self) -> None:
        """Take back everything, before the broker does anything."""
        if not self._lent:
            return
        words = self._engine.recall()
        self._lent = False
        served, self._served = self.served + self.self_served - self._served, self.served + self.self_served
        self._busy.returned(served)
        self._take_back(words)

    def _take_back(self, words: Sequence[int]) -> None:
        returned = take_back(
            words, self._counters, self._connections, self._users, self._kept, self._origins, self._open_file
        )
        for descriptor in list(self._charges):
            self._give_back(descriptor)  # received meanwhile
        for connection, readable in returned.readable:
            self._handles[self._indices[connection]].readable = readable
        for connection in returned.used:
            self._busy.used(self._indices[connection])
        for wait in returned.waits:
            id, pid, flags, number, architecture, pointer, listener, *rest = wait.notification
            a, b, c, d, e, f, look_ns, began_ns = rest
            notification = Notification(id, pid, number, architecture, pointer, (a, b, c, d, e, f), flags)
            broker = self._handles[self._indices[wait.connection]].broker
            assert isinstance(broker, EndpointHandle)
            self._later(listener, notification, partial(broker.resume, wait.reply, c, wait.command), look_ns, began_ns)

    def _waiting_on(self, index: int) -> int:
        """What goes with a connection: its messages and replies, and the pieces of its pool in units of as much."""
        connection = self._connections[index]
        slices = len(connection.pool) // _SLICES_PER_UNIT
        return len(connection.queue) + len(connection.replies) + len(connection.owed) + slices

    def _lendable_waits(
        self, connections: Iterable[Connection]
    ) -> tuple[dict[Reply, LentWait], dict[Reply, WaitingCalls]]:
        """The connections' calls that may wait elsewhere, and who keeps each, by the reply that it waits for."""
        waits: dict[Reply, LentWait] = {}
        keepers: dict[Reply, WaitingCalls] = {}
        expected = (reply for connection in connections for reply in connection.replies)
        for reply in [reply for reply in expected if reply.sync and reply.waiting]:
            for listener, waiting in self._waiting():
                found = waiting.lendable(reply)
                if found is not None:
                    call, wait, look_ns = found
                    facts = call.id, call.pid, call.flags, call.number, call.architecture, call.instruction_pointer
                    began_ns = max((watcher.began_ns(wait) for watcher in self._watchers), default=0)
                    waits[reply] = LentWait(wait, (*facts, listener, *call.arguments, look_ns, began_ns))
                    keepers[reply] = waiting
        return waits, keepers

    def _hand_out(self, lent: list[tuple[int, Connection, bool]], waits: dict[Reply, LentWait]) -> list[int]:
        with ExitStack() as descriptors:

            def give_file(file: File) -> int:
                assert isinstance(file, TargetFile)
                copy, charge = file.duplicate()
                descriptors.callback(os.close, copy)
                if charge is not None:
                    self._charges[copy] = charge
                    descriptors.callback(self._give_back, copy)
                return copy

            words, self._kept = hand_out(lent, self._counters, self._number_of, self._origins, give_file, waits)
            descriptors.pop_all()  # they go with the words
        return words

    def _give_back(self, descriptor: int) -> None:
        self._charges.pop(descriptor).give_back()

    def _open_file(self, number: int) -> TargetFile:
        """A memfd that comes back, or that was sent meanwhile (`Engine.allow_files`)."""
        sender, descriptor = divmod(number, 1 << 32)
        if sender:
            uid = self._connections[sender - 1].credentials.uid
            charge: Charge | None = self._budget.charge(uid, 1)
        else:
            charge = self._charges.pop(descriptor, None)
        return TargetFile(descriptor, self._files, charge)

    def share(self, handle: OpenHandle) -> int | None:
        """A descriptor of a new shelf of that connection, for its receiver, to be closed by who asks; nothing is lent.

        None if it can have none (`native/shelf.c`). Raises OSError.
        """
        connection = handle.connection
        if connection is None:
            return None
        index = self._index(connection, handle)
        return None if index is None else self._engine.share(index)

    def note(self, notification: Notification, handle: OpenHandle, caller: TargetCaller) -> None:
        """The broker has served this ioctl on `handle`: if it was a hot call, remember whatever could be repeated."""
        broker = handle.broker
        request = notification.arguments[1] & 0xFFFFFFFF
        if request not in _HOT or not isinstance(broker, EndpointHandle) or broker.connection is None:
            return
        if request in _RECV:
            self._receiving[broker.connection] = notification.pid
        elif broker.connection.refused_by in self._receiving:
            # Or nobody makes room: whoever is refused tries again.
            self._engine.favour(self._receiving[broker.connection.refused_by])
        if not self.enabled or not broker.connection.active:
            return
        with suppress(OSError):
            index = self._index(broker.connection, handle)
            if index is not None:
                self._engine.bind(index, notification.pid, notification.arguments[0] & 0xFFFFFFFF)
                self._busy.used(index)
                if request in _SEND:
                    self._note_sent(index, broker.connection, notification.pid, caller)
                elif request in _RECV:
                    self._note_received(index, broker.connection, notification.pid, caller)

    def note_answer(self, thread: int, connection: Connection, caller: TargetCaller) -> None:
        """The broker has ended a synchronous SEND of `thread` on `connection`, perhaps with an answer."""
        index = self._indices.get(connection)
        if self.enabled and index is not None:
            with suppress(OSError):
                self._note_received(index, connection, thread, caller)

    def _note_sent(self, index: int, source: Connection, thread: int, caller: TargetCaller) -> None:
        if source.last_signal is not None:
            self._note_signal(index, source, source.last_signal, thread, caller)
        if source.last_sent is None:
            return
        message, destination = source.last_sent
        who = caller.credentials()
        # What a monitor wants to know is told in the message as well.
        if source.bus.monitors or len(who.groups) > GROUPS:
            return
        self._repeated.sent(source, destination, who, len(self._busy))
        found = flow(source, destination, who)
        if found is None:
            return
        if is_lendable(source) and is_lendable(destination):
            # That this one was not served natively is no fault of its caller.
            self._engine.charge(_NATIVE_NS)
        if not (found.attach_flags or found.depends):
            return
        grant = destination.behaviour.grant
        if grant.attached(source, destination, caller) != found.attach_flags:
            return  # of another thread it would be more
        receivers = [(destination, found.attach_flags)]
        self._learn_origin(index, message, source, thread, caller, found.attach_flags, receivers)

    def _learn_origin(
        self,
        index: int,
        message: Message,
        source: Connection,
        thread: int,
        caller: TargetCaller,
        attach_flags: int,
        receivers: Iterable[tuple[Connection, int]],
    ) -> None:
        """What `thread` sends on `source` with these flags is of the origin of `message`; and what `receivers` are
        shown of it for whom that is decided when it is sent."""
        evidence = caller.evidence.packed()
        if evidence is None:
            return
        origin = self._origins.number_of(message.process, message.connection)
        self._engine.learn_origin(
            index,
            thread,
            attach_flags=attach_flags,
            connection_facts=self._origins.of_connection(source),
            credentials=self._origins.of_credentials(caller.credentials()),
            origin=origin,
            has_timestamp=timestamp_of(message.connection) is not None,
            evidence=evidence,
        )
        for destination, attached in receivers:
            receiver = self._indices.get(destination)
            if receiver is not None and destination.behaviour.inbox.whole:
                items = shown(message, destination.ids, attached, destination.behaviour)
                self._learn_shown(receiver, 0, attached, origin, items, b"")

    def _note_signal(
        self, index: int, source: Connection, message: Message, thread: int, caller: TargetCaller
    ) -> None:
        about = topic(message)
        if source.bus.monitors or about is None or len(caller.credentials().groups) > GROUPS:
            return
        self._repeated.signalled(source, about)
        found = signal(source, about)
        if found is None or not found.attach_flags:
            return
        for destination, attached in found.receivers:
            if destination.behaviour.grant.attached(source, destination, caller) != attached:
                return  # of another thread it would be more
        self._learn_origin(index, message, source, thread, caller, found.attach_flags, found.receivers)

    def _note_received(self, index: int, receiver: Connection, thread: int, caller: TargetCaller) -> None:
        message = receiver.last_received
        if receiver.behaviour.inbox.whole or message is None or not (message.process.valid or message.connection.valid):
            return
        if len(message.process.credentials.groups) > GROUPS:
            return
        exported = receiver.bus.domain.exported(receiver.attach_flags_recv)
        found = shown(message, caller.ids, exported, receiver.behaviour)
        parameter = self._parameter()
        if parameter is None:
            return
        caller.evidence.parameter(*parameter)
        evidence = caller.evidence.packed()
        if evidence is not None:
            origin = self._origins.number_of(message.process, message.connection)
            self._learn_shown(index, thread, receiver.attach_flags_recv, origin, found, evidence)

    def _learn_shown(
        self, receiver: int, thread: int, attach_flags: int, origin: int, found: Shown, evidence: bytes
    ) -> None:
        if len(found.items) <= _MOST_ITEMS:
            self._engine.learn_export(
                receiver,
                thread,
                attach_flags=attach_flags,
                origin=origin,
                items=found.items,
                items_end=found.end,
                shows_timestamp=found.timestamp,
                evidence=evidence,
            )

    def charge(self, cost_ns: int) -> None:
        """What the present call is charged, if it has not been yet, see `Engine.charge`."""
        self._engine.charge(cost_ns)

    def forget_origins(self) -> None:
        """Namespaces may have got another meaning, or there are too many numbers: begin anew."""
        self.recall()
        self._origins.clear()
        self._engine.forget_origins()
        self._forget_names()

    def _is_served(self, connection: Connection) -> bool:
        """Whether the engine knows what the connection speaks, and can tell of it whoever watches."""
        behaviour = connection.behaviour
        return self._spoken[connection] is behaviour and not (self._watchers and behaviour.message_is_command)

    def _index(self, connection: Connection, handle: OpenHandle) -> int | None:
        """The connection's index in the engine, which is told of it now if it has not been."""
        found = self._indices.get(connection)
        if found is not None:
            if self._spoken[connection] is connection.behaviour:
                return found
            self._forget(connection)
        memory, counter = connection.pool.memory, self._counter(connection.bus.messages)
        if counter is None or not isinstance(memory, Pool):
            return None
        if len(self._users) > len(self._connections) + _FORGOTTEN_USERS:
            # Nothing is lent, so only those whose numbers the engine knows are needed.
            self._users = {id(known.user): known.user for known in self._connections.values()}
        behaviour = connection.behaviour
        if behaviour not in self._revisions:
            self._revisions[behaviour] = self._engine.speak(layout(behaviour))
        index = self._engine.add(
            revision=self._revisions[behaviour],
            accepts_files=connection.installs_files,
            id=connection.id,
            bus=id(connection.bus),
            user=self._number_of(connection.user),
            counter=counter,
            ours=handle.ours.fileno(),
            epoll=handle.entry.epoll,
            target=handle.entry.number,
            cookie=handle.cookie,
            pool=memory,
        )
        self._indices[connection], self._spoken[connection] = index, behaviour
        self._connections[index] = connection
        self._handles[index] = handle
        return index

    def _number_of(self, user: User) -> int:
        """What the engine knows a user by: somebody with a connection there, or whose message waits in a lent queue."""
        self._users[id(user)] = user
        return id(user)

    def _counter(self, counter: MessageCounter) -> int | None:
        """The counter's index in the engine, perhaps that of one that counts for no connections there any more."""
        if counter not in self._counters:
            if len(self._counters) < LENT_COUNTERS:
                self._counters.append(counter)
                return len(self._counters) - 1
            used = {connection.bus.messages for connection in self._connections.values()}
            free = next((index for index, old in enumerate(self._counters) if old not in used), None)
            if free is None:
                return None
            self._counters[free] = counter
        return self._counters.index(counter)

    def forget(self, handle: OpenHandle) -> None:
        """The handle is about to be closed; nothing is lent."""
        broker = handle.broker
        connection = broker.connection if isinstance(broker, EndpointHandle) else None
        if connection is not None:
            self._receiving.pop(connection, None)
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        """The engine is not to know that connection any more, under that number."""
        self._repeated.forget(connection)
        self._spoken.pop(connection, None)
        index = self._indices.pop(connection, None)
        if index is not None:
            self._engine.remove(index)
            self._busy.forget(index)
            self._told_names.pop(index, None)
            del self._connections[index], self._handles[index]

    def consider(self) -> None:
        """The broker is done: lend what was busy, if that is possible and has paid lately."""
        if self._lent or not self.enabled or not self._busy.is_due():
            return
        if self._origins.is_full:
            self.forget_origins()
        chosen = [self._connections[index] for index in self._busy.choose(self._waiting_on)]
        considered = [connection for connection in chosen if self._is_served(connection)]
        waits, keepers = self._lendable_waits(considered)
        chosen = lendable(considered, waits)
        lent_now = set(chosen)
        ways, kinds = self._repeated.ways(lent_now), self._repeated.kinds(lent_now)
        weight = len(ways) + sum(len(kind.found.receivers) for kind in kinds)
        self._busy.lent((self._indices[connection] for connection in chosen), weight)
        if not chosen:
            self._busy.returned(0)
            return
        lent = []
        for connection in chosen:
            index = self._indices[connection]
            if not len(connection.queue):
                self._handles[index].queue_drained()
            lent.append((index, connection, self._handles[index].readable))
        try:
            words = self._hand_out(lent, waits)
        except (OSError, OverBudget):  # no more descriptors: what waits stays with the broker
            self._busy.refused()
            return
        for reply, waiting in keepers.items():
            if reply.requester in lent_now:
                waiting.gone(reply)
                for watcher in self._watchers:
                    watcher.lent(waits[reply].wait)
        if not self._engine.lend(words):
            self._take_back(words)
            self._busy.refused()
            return
        self._lent = True
        # What is fetched is charged when it comes back, and must be within everybody's share then.
        self._engine.allow_files(min(map(self._budget.left, {connection.credentials.uid for connection in chosen})))
        for way in ways:
            self._allow(way)
        for destination in dict.fromkeys(way.destination for way in ways):
            self._tell_names(destination)
        for kind in kinds:
            self._allow_signal(kind)

    def _allow_signal(self, kind: Kind) -> None:
        source, (destination, generation, bits), found = kind
        self._engine.allow_signal(
            self._indices[source],
            destination,
            generation.to_bytes(8, "little") + bits.to_bytes(source.bus.bloom_size, "little"),
            [self._indices[receiver] for receiver, _ in found.receivers],
            [attached for _, attached in found.receivers],
            found.attach_flags,
        )

    def _allow(self, way: Way) -> None:
        self._engine.allow(
            self._indices[way.source],
            self._indices[way.destination],
            attach_flags=way.flow.attach_flags,
            credentials=self._origins.of_credentials(way.who) if way.flow.depends and way.who is not None else 0,
            talks=way.flow.talks,
        )

    def _tell_names(self, connection: Connection) -> None:
        """The connection may be addressed by any of its names."""
        if not connection.names:
            return
        index, facts = self._indices[connection], self._origins.of_connection(connection)
        if self._told_names.get(index) == facts:
            return
        if self._names_told + len(connection.names) > MOST_NAMES:
            self._forget_names()
        self._told_names[index] = facts
        self._names_told += len(connection.names)
        for name, entry in connection.names.items():
            self._engine.learn_name(index, name, name_id=entry.id, facts=facts)

    def _forget_names(self) -> None:
        self._engine.forget_names()
        self._told_names.clear()
        self._names_told = 0

    def close(self) -> None:
        """Free the engine; `recall` has been called."""
        self._engine.close()
