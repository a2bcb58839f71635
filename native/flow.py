# SPDX-License-Identifier: GPL-2.0-or-later
"""The flow engine: receiving traps, and serving those whose answer has been decided already.

The face of `flow.c`, where it is explained what a flow is. An `Engine` receives from listeners in the caller's
stead: what it can serve by itself never comes to Python.

State goes in and out as sequences of 64-bit words; `broker.lending` knows what they mean, this module does not.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import EINTR, EINVAL, ENOMEM, EOPNOTSUPP

from native.deputies import Deputies
from native.library import failure, ffi, lib
from native.notification import EndOfTargets, Listener, Notification, pack_into, unpack
from native.pool import Pool

NEVER = (1 << 64) - 1
STALL_CALL, STALL_ANSWER, STALL_OTHER = int(lib.STALL_CALL), int(lib.STALL_ANSWER), int(lib.STALL_OTHER)


@dataclass(frozen=True, slots=True)
class Stall:
    """A call in which a deputy was left behind, see `struct kdbus_stall`. `kind`: one of `lib.STALL_*`."""

    ticket: int
    user: int
    listener: int
    call: Notification
    kind: int


class Engine:
    """The connections that are served without the broker.

    `hang_ups` (a descriptor that is readable when a handle has hung up) stays the caller's. A call that comes when it
    is readable is never served here. `descriptors`: how many may be held of threads that call often, so that they need
    not be opened for each call.

    Raises OSError: EMFILE or ENFILE, ENOMEM.
    """

    __slots__ = (
        "_buffer",
        "_data",
        "_engine",
        "_listener",
        "_notification",
        "_pools",
        "_records",
        "_size",
        "_stall",
        "_words",
        "held",
        "stall",
    )

    def __init__(self, hang_ups: int, descriptors: int) -> None:
        self._engine = lib.kdbus_engine_create(hang_ups, descriptors)
        if self._engine == ffi.NULL:
            raise failure(-ffi.errno, "set up the flow engine")
        self._notification = ffi.new("struct kdbus_notification *")
        self._buffer = ffi.buffer(self._notification)
        self._words = ffi.new("const uint64_t **")
        self._listener = ffi.new("int *", -1)
        self._records = ffi.new("const struct kdbus_call_record **")
        self._data = ffi.new("const char **")
        self._size = ffi.new("size_t *")
        self._stall = ffi.new("struct kdbus_stall *")
        self._pools: dict[int, Pool] = {}
        self.stall: Stall | None = None
        """What the last `run` has left behind."""
        self.listen(())

    def employ(self, deputies: Deputies) -> None:
        """Have the engine run by these from now on. They are closed after it."""
        lib.kdbus_engine_employ(self._engine, deputies.description())

    def user_of(self, listener: Listener, notification: Notification) -> int:
        """The number of the user whose call that is; all ones for nobody's."""
        pack_into(self._buffer, notification)
        return int(lib.kdbus_engine_user(self._engine, listener.fileno(), self._notification))

    def hold(self, user: int, held: bool) -> None:
        """From now on, or no longer, calls of that user are not served, but returned by `run` with `held` set. Raises
        OSError(ENOMEM)."""
        self._check(lib.kdbus_engine_hold(self._engine, user, held), "hold a user's calls")

    @property
    def served(self) -> int:
        """How many calls have been served here since the beginning."""
        return int(lib.kdbus_engine_served(self._engine))

    @property
    def self_served(self) -> int:
        """How many calls receivers have served by themselves, of those that are known by now."""
        return int(lib.kdbus_engine_self_served(self._engine))

    def share(self, index: int) -> int | None:
        """A descriptor of a new shelf of a connection that is not lent (`shelf.c`), the caller's; None if messages of
        its revision have none. Raises OSError: ENOMEM, EMFILE, ENFILE."""
        descriptor = int(lib.kdbus_engine_share(self._engine, index))
        if descriptor == -EOPNOTSUPP:
            return None
        self._check(descriptor, "make a shelf")
        return descriptor

    def speak(self, revision: Mapping[str, int]) -> int:
        """Make a revision of the ABI known; its number here. `revision`: the members of `kdbus_flow_revision`
        (`native/helper.h`). Raises OSError(ENOSPC): there are too many.
        """
        number = lib.kdbus_engine_speak(self._engine, ffi.new("struct kdbus_flow_revision *", dict(revision)))
        self._check(number, "make a revision known to the flow engine")
        return int(number)

    def add(
        self,
        *,
        revision: int,
        accepts_files: bool,
        id: int,
        bus: int,
        user: int,
        counter: int,
        ours: int,
        epoll: int,
        target: int,
        cookie: int,
        pool: Pool,
    ) -> int:
        """Make a connection known; its index here.

        `revision`: what `speak` has returned; `accepts_files`: whether descriptors are installed in who receives here,
        where its revision asks. `id` on its bus; `bus` and `user`: numbers of the bus and of the accounted user, any
        but each its own; `counter`: of messages, index below 16; the rest as in `interposer.handles.handles`. Raises
        OSError: ENOMEM, ENOSPC.
        """
        facts = ffi.new("struct kdbus_flow_connection *")
        facts.revision, facts.accepts_files = revision, accepts_files
        facts.id, facts.bus, facts.user, facts.counter = id, bus, user, counter
        facts.ours, facts.epoll, facts.target, facts.cookie = ours, epoll, target, cookie
        facts.pool = pool.description()
        index = lib.kdbus_engine_add_connection(self._engine, facts)
        if index < 0:
            raise failure(index, f"make connection {id} known to the flow engine")
        self._pools[index] = pool
        return int(index)

    def remove(self, index: int) -> None:
        """Forget a connection. Raises OSError(EBUSY) while it is lent."""
        self._check(lib.kdbus_engine_remove_connection(self._engine, index), "forget a connection")
        del self._pools[index]

    def bind(self, index: int, thread: int, descriptor: int) -> None:
        """Remember under which number a thread has the connection; proved again with each call."""
        self._check(lib.kdbus_engine_bind(self._engine, index, thread, descriptor), "remember a descriptor")

    def lend(self, words: Sequence[int]) -> bool:
        """Lend connections with their state; nothing else is lent at the moment. False if the engine does not take it,
        or has no memory for it: then the words are still the caller's.
        """
        result = lib.kdbus_engine_lend(self._engine, ffi.new("uint64_t[]", words), len(words))
        if result in (-EINVAL, -ENOMEM):
            return False
        self._check(result, "lend connections")
        return True

    def allow(
        self,
        source: int,
        destination: int,
        *,
        attach_flags: int,
        credentials: int,
        talks: bool,
    ) -> None:
        """Allow plain messages between two lent connections, addressed by id, or by a name that is known.

        `attach_flags`: what their origin has to tell. `credentials`: number of those that the sender must have, 0 for
        any. Without `talks` only replies. Raises OSError(ENOMEM).
        """
        flow = ffi.new("struct kdbus_flow_facts *")
        flow.source, flow.destination = source, destination
        flow.attach_flags, flow.credentials, flow.talks = attach_flags, credentials, talks
        self._check(lib.kdbus_engine_allow(self._engine, flow), "allow a flow")

    def learn_name(self, index: int, name: bytes, *, name_id: int, facts: int) -> None:
        """The connection has that name, and will have it as long as it is lent with this number for its names.

        `name_id`: which acquisition of the name that is. Raises OSError(ENOSPC) when too many are known, see
        `forget_names`; OSError(ENOMEM).
        """
        told = ffi.new("struct kdbus_name_facts *")
        told.connection, told.name_id, told.facts = index, name_id, facts
        self._check(lib.kdbus_engine_learn_name(self._engine, told, name), "learn a name")

    def forget_names(self) -> None:
        """No name is known any more. To be called when the numbers are given anew."""
        lib.kdbus_engine_forget_names(self._engine)

    def allow_signal(
        self,
        source: int,
        destination: int,
        bloom_filter: bytes,
        receivers: Sequence[int],
        attached: Sequence[int],
        attach_flags: int,
    ) -> None:
        """Allow plain signals of `source` to `destination` (an id, or that for all) with that filter (its generation,
        64 bits, then the bits) to reach these lent connections.

        `attached`: what each of them is shown at most; `attach_flags`: what their origin has to tell. Raises
        OSError(ENOMEM).
        """
        facts = ffi.new("struct kdbus_signal_facts *")
        facts.source, facts.destination, facts.attach_flags = source, destination, attach_flags
        facts.count, facts.filter_size = len(receivers), len(bloom_filter)
        told = ffi.new("uint32_t[]", receivers), ffi.new("uint64_t[]", attached)
        self._check(lib.kdbus_engine_allow_signal(self._engine, facts, bloom_filter, *told), "allow a signal")

    def learn_origin(
        self,
        source: int,
        thread: int,
        *,
        attach_flags: int,
        connection_facts: int,
        credentials: int,
        origin: int,
        has_timestamp: bool,
        evidence: bytes,
    ) -> None:
        """What `thread` sends on `source` is of that origin, as long as the evidence (`interposer.target.evidence`)
        holds.

        `connection_facts`, `credentials`, `origin`: numbers (`broker.origin`). Raises OSError(ENOMEM).
        """
        facts = ffi.new("struct kdbus_origin_facts *")
        facts.connection, facts.thread, facts.attach_flags = source, thread, attach_flags
        facts.connection_facts, facts.credentials, facts.origin = connection_facts, credentials, origin
        facts.has_timestamp = has_timestamp
        result = lib.kdbus_engine_learn_origin(self._engine, facts, evidence, len(evidence))
        self._check(result, "learn an origin")

    def learn_export(
        self,
        receiver: int,
        thread: int,
        *,
        attach_flags: int,
        origin: int,
        items: bytes,
        items_end: int,
        shows_timestamp: bool,
        evidence: bytes,
    ) -> None:
        """`thread` is shown `items` of messages of that origin on `receiver`, as long as the evidence holds.
        `items_end`: their bytes without the padding of the last one.

        `attach_flags`: those of the receiver. Where it does not depend on who receives, `thread` is 0, there is no
        evidence, and the flags are those of the flow. Raises OSError(ENOMEM).
        """
        facts = ffi.new("struct kdbus_export_facts *")
        facts.connection, facts.thread, facts.attach_flags = receiver, thread, attach_flags
        facts.origin, facts.shows_timestamp, facts.items_end = origin, shows_timestamp, items_end
        result = lib.kdbus_engine_learn_export(self._engine, facts, items, len(items), evidence, len(evidence))
        self._check(result, "learn what is shown of an origin")

    def watch(self, payload: int, most: int) -> None:
        """Keep a record of each call that is served from now on, with so many bytes of its payload, or none if that is
        negative. `run` ends when there are `most` records.

        What `take_records` has not taken is lost. Raises OSError(ENOMEM).
        """
        self._check(lib.kdbus_engine_watch(self._engine, payload, most), "watch what is served")

    def take_records(self) -> tuple[bytes, bytes]:
        """The records since the last time (`tracing.native_calls` knows their form), and the bytes that they are
        about. To be called after each `run`, which ends when there is no room for more."""
        count = lib.kdbus_engine_take_records(self._engine, self._records, self._data, self._size)
        if not count:
            return b"", b""
        records = ffi.buffer(self._records[0], count * ffi.sizeof("struct kdbus_call_record"))
        return bytes(records), bytes(ffi.buffer(self._data[0], self._size[0]))

    def forget_origins(self) -> None:
        """Forget all that was learnt. Raises OSError(EBUSY) while anything is lent."""
        self._check(lib.kdbus_engine_forget_origins(self._engine), "forget origins")

    def favour(self, thread: int) -> None:
        """The next call of that thread's process comes before all turns, once (`native/shares.c`)."""
        lib.kdbus_engine_favour(self._engine, thread)

    def charge(self, cost_ns: int) -> None:
        """Whoever made the present call is charged that, instead of the time that it takes (`native/shares.c`)."""
        lib.kdbus_engine_charge(self._engine, cost_ns)

    def allow_files(self, count: int) -> None:
        """Let so many memfds be fetched from senders until `recall`; none at first.

        In the words of `recall`, the descriptor of such a one has the sender's index + 1 in its high half.
        """
        lib.kdbus_engine_allow_files(self._engine, count)

    def recall(self) -> Sequence[int]:
        """Take back everything that is lent, and end all flows; the words that have changed, empty for none."""
        count = lib.kdbus_engine_recall(self._engine, self._words)
        if count <= 0:
            self._check(count, "take back what was lent")
            return ()
        return struct.unpack(f"={count}Q", ffi.buffer(self._words[0], 8 * count))

    def deadline_ns(self) -> int | None:
        """When what is lent has to be taken back: a reply is overdue, or a call has waited for `patience_ns`."""
        due = int(lib.kdbus_engine_deadline(self._engine))
        return None if due == NEVER else due

    def look(self, now_ns: int) -> None:
        """Look at the threads of calls that have waited for long (`interposer.supervisor.waiting`); those that sleep
        are no longer
        due."""
        lib.kdbus_engine_look(self._engine, now_ns)

    def listen(self, listeners: Sequence[Listener]) -> None:
        """Receive from these listeners from now on. A call of one may be answered while another one's is served, so
        none of them may be closed before the next `listen`, see also `take`. Raises OSError(ENOMEM)."""
        descriptors = ffi.new("int[]", [listener.fileno() for listener in listeners])
        received = ffi.new("struct kdbus_received *[]", [listener.received for listener in listeners])
        result = lib.kdbus_engine_listen(self._engine, descriptors, received, len(listeners))
        self._check(result, "listen to the trees of processes")

    def put(self, listener: Listener, notification: Notification) -> bool:
        """A call that was received from `listener` otherwise: `run` serves it in its turn. False if memory is out."""
        pack_into(self._buffer, notification)
        return int(lib.kdbus_engine_put(self._engine, listener.fileno(), self._notification)) == 0

    def take(self, listener: Listener) -> Notification | None:
        """A call of `listener` that was received and waits for its turn; None if there is none.

        All are to be taken before `listen` leaves that listener out.
        """
        if lib.kdbus_engine_take(self._engine, listener.fileno(), self._notification):
            return unpack(self._buffer)
        return None

    @property
    def listener(self) -> int:
        """The descriptor that the last result or error of `run` is about."""
        return int(self._listener[0])

    def attend(self, descriptor: int) -> None:
        """From now on, `descriptor` (-1 for none) ends waiting in `run` when it is readable. It stays the caller's."""
        lib.kdbus_engine_attend(self._engine, descriptor)

    def run(self, stop_ns: int, turn_ns: int) -> Notification | None:
        """Receive and serve until there is a call for the broker, or something else to do, or `stop_ns` has come
        (CLOCK_MONOTONIC; at once if it is over); at the latest `turn_ns` after the first call that was served.

        A call in which a deputy was left behind is in `stall`; where `held` is set, the result is a call of a user
        whose calls are held. Raises EndOfTargets, and OSError as `Listener.receive` does: `listener` tells whose.
        """
        self.stall, self.held = None, False
        result = lib.kdbus_engine_run(self._engine, stop_ns, turn_ns, self._notification, self._listener)
        if result == 1:
            return unpack(self._buffer)
        if result in (3, 4):
            self._look_at_stall()
            return unpack(self._buffer) if result == 4 else None
        if result == 5:
            self.held = True
            return unpack(self._buffer)
        if result == 2:
            raise EndOfTargets
        if result in (0, -EINTR):
            # A signal: its Python handler runs when this returns.
            return None
        raise failure(result, f"receive from seccomp listener {self.listener}")

    def _look_at_stall(self) -> None:
        lib.kdbus_engine_stall(self._engine, self._stall)
        call = unpack(ffi.buffer(ffi.addressof(self._stall.call)))
        self.stall = Stall(self._stall.ticket, self._stall.user, self._stall.listener, call, self._stall.kind)
        for pool in self._pools.values():
            pool.look()

    def _check(self, result: int, attempt: str) -> None:
        if result < 0:
            raise failure(result, attempt)

    def close(self) -> None:
        """Free everything; nothing is lent any more, and what was is lost. Called once."""
        lib.kdbus_engine_destroy(self._engine)
        self._engine = ffi.NULL
