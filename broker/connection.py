# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections: a peer on a bus, from HELLO to its end.

HELLO on a handle of an endpoint makes a connection: ordinary, or one of three special kinds that only privileged
handles may make and that nobody can address by id.

- An *activator* owns a name while nobody else does. It receives, but may only peek usefully; it never sends.
- A *policy holder* brings policy entries for a name into the bus's database. It neither sends nor receives.
- A *monitor* receives a copy of everything, before the receivers do. Nobody hears of its coming and going.

A connection ends by BYEBYE, by the last close of its handle, or with its endpoint. `disconnect` is the same for all:
its policy entries and names go first (an activator gets its messages back), then those who wait for a reply from it
are told, then everybody. A handle whose connection has ended answers ECONNRESET to everything but a second BYEBYE,
until it is closed; only then is the user's budget of connections relieved, and not before its last request has left
the queue in which it waits.

This module is about the life of a connection. What it sends and receives is in `broker.send` and `broker.receive`,
what it may do in `broker.access`. Reference: ipc/kdbus/connection.c.

It is also the middle of a knot: eighteen modules name each other's types in a circle (`tests/project/test_circles.py`
has the list, and keeps it from growing), although what they import when they are loaded goes one way. The concepts are
one knot. A connection is on a bus and belongs to an endpoint, both of which have their connections; a message knows
its sender, and lies in queues of connections; a reply is owed by one connection to another; a revision's `Behaviour`
has functions over all of them, and each of them has one. Rules follow these relations in both directions, so a
protocol in between would repeat most attributes of the class behind it, and hide nothing. What asks for little is
outside: spelling (`broker.naming`), kinds of connections (`broker.connection_kind`), policy databases, pools, quotas
and items know nobody here, and metadata asks two things of its reader (`broker.metadata.Reader`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker import item
from broker.command import Invocation
from broker.connection_kind import ACTIVATOR, MONITOR, ORDINARY, POLICY_HOLDER
from broker.errors import (
    AlreadyDisconnected,
    AttachFlagsRefused,
    BadArgument,
    BadItem,
    BadName,
    Disconnected,
    KdbusError,
    MessagesPending,
    NodeShutDown,
    NotPermitted,
    PeerGone,
    PoolFull,
    QueueFull,
    WrongConnectionKind,
)
from broker.interfaces import ConnectionEvents, Credentials
from broker.item import Item
from broker.match import MatchDatabase
from broker.metadata import PROCESS_FLAGS, START_TIME, ProcessMetadata, faked_items
from broker.naming import is_valid_name
from broker.pool import Pool
from broker.queue import Queue, QueueEntry
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.behaviour import Behaviour
    from broker.endpoint import Endpoint
    from broker.message import Message
    from broker.names import NameEntry, Waiter
    from broker.reply import Reply

_SPECIAL_KINDS = (
    (abi.HELLO_ACTIVATOR, ACTIVATOR),
    (abi.HELLO_POLICY_HOLDER, POLICY_HOLDER),
    (abi.HELLO_MONITOR, MONITOR),
)

_HELLO_ITEMS = frozenset(
    (
        Kind.NAME,
        Kind.CREDS,
        Kind.PIDS,
        Kind.SECLABEL,
        Kind.CONN_DESCRIPTION,
        Kind.POLICY_ACCESS,
        Kind.BLOOM_MASK,
        Kind.ID,
        Kind.NAME_ADD,
        Kind.NAME_REMOVE,
        Kind.NAME_CHANGE,
        Kind.ID_ADD,
        Kind.ID_REMOVE,
    )
)
"""What HELLO takes; the types that it does not look at are accepted as in the original."""


_CLAIMS = (Kind.CREDS, Kind.PIDS, Kind.SECLABEL)
"""Identities that HELLO may claim."""


@dataclass(frozen=True, slots=True)
class Opener:
    """Who opened the endpoint: its credentials, whether it is privileged there (`broker.handle`), and whether that is
    by CAP_IPC_OWNER."""

    credentials: Credentials
    privileged: bool
    capable: bool


_CLAIMS_NEED_PRIVILEGE = "only who is privileged on the bus may claim an identity"

_ORDER_OF_UPDATE = {Kind.ATTACH_FLAGS_SEND: 0, Kind.ATTACH_FLAGS_RECV: 1, Kind.NAME: 2, Kind.POLICY_ACCESS: 2}
"""When UPDATE looks at the kinds of its items, if that is not in the items' own order. Names and accesses keep theirs,
as each access belongs to the name before it."""


def kind_of(flags: int) -> str:
    """The kind that KDBUS_HELLO_* flags ask for. Raises BadArgument for more than one special kind."""
    kinds = [kind for flag, kind in _SPECIAL_KINDS if flags & flag]
    if len(kinds) > 1:
        raise BadArgument(rule=f"flags for {' and '.join(kinds)} at once")
    return kinds[0] if kinds else ORDINARY


class Connection:
    """One peer.

    `active` is true from `connect` to `disconnect`. `replies` are those it waits for, the latest request first;
    `owed` those that others wait for from it. `names` are in the order in which they were acquired. `last_sent`,
    `last_signal` and `last_received` are hints for `broker.flow`: the unicast message that the last command sent, with
    its receiver, the signal that it sent, to one or to all, the message that it received. `refused_by` is whose queue
    was too full for the one that it was to send.
    """

    def __init__(self, endpoint: Endpoint, hello: Invocation, opener: Opener) -> None:
        """Check a HELLO on a handle that was opened by `opener`, and prepare the connection; nobody knows of it before
        `connect`.

        Fills in what HELLO returns. Raises, in this order: BadArgument, WrongConnectionKind (a monitor on a custom
        endpoint), NotPermitted, what `_check_items` raises (before those two, where the revision says so), BadArgument
        (attach flags), AttachFlagsRefused, BadArgument or OutOfMemory (a pool that cannot be), BadArgument (faked
        identities), TooManyConnections.
        """
        bus, caller = endpoint.bus, hello.caller
        self.behaviour = hello.behaviour
        self.endpoint = endpoint
        self.bus = bus
        self.flags = hello.get("flags")
        self.kind = kind_of(self.flags)
        self.privileged = opener.privileged
        if self.behaviour.names_before_privilege:
            self.description = self._check_items(hello.items, claims=False)
            self._check_kind()
            if not self.privileged and any(entry.type in _CLAIMS for entry in hello.items):
                raise NotPermitted(rule=_CLAIMS_NEED_PRIVILEGE)
        else:
            self._check_kind()
            self.description = self._check_items(hello.items, claims=True)
        self.attach_flags_send = self.behaviour.read_attach_flags(hello.get("attach_flags_send"))
        self.attach_flags_recv = self.behaviour.read_attach_flags(hello.get("attach_flags_recv"))
        missing = bus.attach_flags_required & ~self.attach_flags_send
        if missing:
            raise AttachFlagsRefused(attach_flags=missing)
        self.credentials = opener.credentials if self.behaviour.identity_of_opener else caller.credentials()
        self.ids = caller.ids.kept() if self.behaviour.inbox.whole else caller.ids
        """How the one who called HELLO numbers users and processes; of use later only where it is kept."""
        self.active = False
        self.id = bus.next_connection_id()
        self.metadata = ProcessMetadata()
        self.faked_metadata = False
        self.names: dict[bytes, NameEntry] = {}
        self.waiting_for: dict[Waiter, None] = {}
        self.activator_of: NameEntry | None = None
        self.replies: list[Reply] = []
        self.owed: set[Reply] = set()
        self.request_count = 0
        self.lost_count = 0
        self._closed = False
        self.matches = MatchDatabase(self, bus.subscribers)
        self.queue = Queue()
        self.quota = self.behaviour.new_quota(hello.get("pool_size"))
        self.events: ConnectionEvents | None = None
        self.last_sent: tuple[Message, Connection] | None = None
        self.last_signal: Message | None = None
        self.refused_by: Connection | None = None
        self.last_received: Message | None = None
        self.pool = self._new_pool(hello)
        try:
            self._collect_metadata(hello)
            self.user = endpoint.user if endpoint.user is not None else bus.domain.user(self._accounted(opener))
            self.user.add_connection(self.behaviour.connections_per_user)
        except BaseException:
            self.pool.memory.close()
            raise
        self._fill_in(hello)

    def speak(self, behaviour: Behaviour) -> None:
        """It has turned out to speak that revision instead: what waits is charged once more, as that has it."""
        self.behaviour = behaviour
        self.quota = behaviour.new_quota(self.pool.size)
        for waiting, entry in enumerate(self.queue.entries()):
            charge, entry.charge = entry.charge, None
            if charge is not None and entry.payload is not None:
                charge.give_back()
                with suppress(QueueFull):  # more than it would have let in, and then for nothing
                    entry.charge = self.quota.charge(charge.user, waiting, entry.payload.size, len(entry.message.files))

    def _accounted(self, opener: Opener) -> int:
        """The user whose connection this counts as: one that it claims to be, if that may be believed."""
        claimed = self.faked_metadata and self.metadata.valid & abi.ATTACH_CREDS
        believed = claimed and self.behaviour.identity_of_opener and opener.capable
        return self.metadata.credentials.uid if believed else self.credentials.uid

    def _check_kind(self) -> None:
        if self.kind == MONITOR and self.endpoint.has_policy:
            raise WrongConnectionKind(rule="no monitors on a custom endpoint")
        if self.kind != ORDINARY and not self.privileged:
            raise NotPermitted(rule=f"only who is privileged on the bus may be a connection of kind {self.kind}")

    def _new_pool(self, hello: Invocation) -> Pool:
        """The pool, as a file whose name tells the description. A file cannot have 2^63 bytes or more."""
        size = hello.get("pool_size")
        if size >> 63:
            raise BadArgument(rule=f"pool_size {size}")
        label = b"" if self.description is None else b":" + self.description
        return Pool(hello.caller.new_pool(b"kdbus-conn" + label, size), size)

    def _check_items(self, items: list[Item], *, claims: bool) -> bytes | None:
        """The rules for the items of a HELLO; returns the description. `claims`: look at faked identities as well.

        BadArgument: a name without being activator or policy holder, a second name or description, no name where one
        is needed, a bad size; BadName; NotPermitted: faked identity without privilege; BadItem: a type that HELLO
        does not take.
        """
        name = description = None
        for current in items:
            if current.type not in _HELLO_ITEMS:
                raise BadItem(item=current, kind=current.type, rule="HELLO does not take it")
            if current.type == Kind.NAME:
                if self.kind not in (ACTIVATOR, POLICY_HOLDER) or name is not None:
                    rule = "only activators and policy holders have one" if name is None else "a second one"
                    raise BadArgument(item=current, kind=current.type, rule=rule)
                name = current.text()
                if not is_valid_name(name, wildcard=True):
                    raise BadName(item=current, kind=current.type, name=name)
            elif current.type in _CLAIMS:
                if claims and not self.privileged:
                    raise NotPermitted(item=current, kind=current.type, rule=_CLAIMS_NEED_PRIVILEGE)
                if current.type == Kind.PIDS and len(current.payload) != 24:
                    raise BadArgument(item=current, kind=current.type, rule="not 24 bytes of payload")
            elif current.type == Kind.CONN_DESCRIPTION:
                if description is not None:
                    raise BadArgument(item=current, kind=current.type, rule="a second one")
                description = current.text()
        if self.kind in (ACTIVATOR, POLICY_HOLDER) and name is None:
            raise BadArgument(rule=f"a connection of kind {self.kind} needs a NAME item")
        return description

    def _collect_metadata(self, hello: Invocation) -> None:
        faked = faked_items(hello.items)
        if any(part is not None for part in faked):
            self.metadata.fake(hello.caller, *faked)
            self.faked_metadata = True
        else:
            self.metadata.collect(hello.caller, PROCESS_FLAGS | START_TIME)

    def _fill_in(self, hello: Invocation) -> None:
        """What HELLO returns: the bus's properties. Its bloom parameters are an item in a slice, perhaps as a list, or
        in the structure."""
        if self.behaviour.returns_required_flags:
            required = self.behaviour.write_attach_flags(self.bus.attach_flags_required)
            hello.put("attach_flags_send", required | abi.FLAG_KERNEL)
        hello.put("bus_flags", self.bus.flags)
        hello.put("id", self.id)
        hello.put_bytes("id128", self.bus.id128)
        if "bloom" in hello.command.struct.members:
            hello.put_bytes("bloom", self.bus.bloom)
            return
        bloom = self.behaviour.revision.build(Kind.BLOOM_PARAMETER, self.bus.bloom)
        if self.behaviour.results_as_list:
            bloom = (8 + len(bloom)).to_bytes(8, "little") + bloom
        slice_ = self.pool.store(bloom)
        slice_.publish()
        slice_.release()
        hello.put("offset", slice_.offset)
        hello.put("items_size", slice_.size)

    @property
    def installs_files(self) -> bool:
        """Whether descriptors in messages are installed in who receives them here."""
        return bool(self.flags & abi.HELLO_ACCEPT_FD) or not self.behaviour.files_if_accepted

    @property
    def empty_offset(self) -> int:
        """The offset that commands return for nothing."""
        return self.pool.size if self.behaviour.empty_is_pool_size else 0

    def lose(self) -> None:
        """A message could not be queued; the receiver is told of the number."""
        self.lost_count += 1
        if self.behaviour.losses_wake and self.events is not None:
            self.events.message_queued()

    def drained(self) -> None:
        """Something was taken out of the queue, or losses were told: pollers may have nothing to see any more."""
        told = not (self.behaviour.losses_wake and self.lost_count)
        if self.events is not None and not len(self.queue) and told:
            self.events.queue_drained()

    @property
    def is_activator(self) -> bool:
        return self.kind == ACTIVATOR

    @property
    def _is_announced(self) -> bool:
        """Whether all are told that it comes and goes."""
        return self.kind != MONITOR or self.behaviour.monitors_match

    def connect(self, hello: Invocation) -> None:
        """Become a peer of the bus.

        Everybody is told (mostly not of a monitor), an activator gets its name, and activators and policy holders their
        policy entries. On failure the connection is disconnected again, which those who saw it come are told as well.

        Raises NodeShutDown, and what acquiring a name and setting a policy raise.
        """
        if not self.endpoint.active:
            raise NodeShutDown(node=self.endpoint.path)
        self.bus.add_connection(self)
        self.endpoint.connections[self.id] = self
        self.active = True
        try:
            if self._is_announced:
                self.bus.notifications.id_change(Kind.ID_ADD, self.id, self.flags)
            if self.is_activator:
                name = item.unique(hello.items, Kind.NAME).text()
                self.bus.names.acquire(self, name, abi.NAME_ACTIVATOR)
            self.bus.notifications.flush()
            if self.kind in (ACTIVATOR, POLICY_HOLDER):
                wildcards = self.kind == POLICY_HOLDER
                self.bus.policy.set(hello.items, hello.caller.ids, self, single=True, wildcards=wildcards)
        except KdbusError:
            self.disconnect()
            raise

    def gone(self) -> Disconnected:
        """The error of whoever needs it although it has ended; it says so if its bus, or endpoint, has."""
        parents = (self.bus, self.endpoint)
        return Disconnected(connection=self.id, node=next((each.path for each in parents if not each.active), None))

    def bye(self) -> None:
        """BYEBYE. Raises AlreadyDisconnected or MessagesPending."""
        if not self.active:
            raise AlreadyDisconnected(connection=self.id)
        if len(self.queue):
            raise MessagesPending(count=len(self.queue))
        self.disconnect()

    def disconnect(self) -> None:
        """End the connection; see the module's essay for the order. Further calls do nothing."""
        if not self.active:
            return
        self.active = False
        # Or each of a row of connections, the next of which writes to the last, would keep all that have gone before.
        self.last_sent = self.last_signal = self.last_received = self.refused_by = None
        bus = self.bus
        if self.events is not None:
            self.events.disconnected()
        for reply in list(self.replies):
            if reply.sync and reply.waiting:
                reply.wake_up(self.gone())
        bus.policy.remove_owner(self)
        bus.remove_connection(self)
        self.endpoint.connections.pop(self.id, None)
        bus.names.remove_connection(self)
        for entry in self.queue.entries():
            if entry.reply is not None:
                bus.notifications.reply_dead(entry.message.source, entry.message.cookie)
            self.queue.remove(entry)
            entry.discard()
        for reply in list(self.replies):
            reply.unlink()
        for requester in sorted({reply.requester for reply in self.owed}, key=lambda peer: peer.id):
            for reply in [expected for expected in requester.replies if expected.replier is self]:
                if reply.sync:
                    reply.wake_up(PeerGone(connection=self.id, rule="it has ended"))
                else:
                    bus.notifications.reply_dead(requester.id, reply.cookie)
                reply.unlink()
        if self._is_announced:
            bus.notifications.id_change(Kind.ID_REMOVE, self.id, self.flags)
        bus.notifications.flush()

    def close(self) -> None:
        """The handle was closed for the last time, or HELLO failed: free everything. Called exactly once."""
        self.disconnect()
        self.pool.memory.close()
        self._closed = True
        self._leave_budget()

    def end_request(self) -> None:
        """Nobody refers any more to one of the replies that this connection expected."""
        self.request_count -= 1
        self._leave_budget()

    def _leave_budget(self) -> None:
        if self._closed and not self.request_count:
            self.user.connections -= 1

    def claims(self, name: bytes) -> bool:
        """Whether it owns the name or waits for it."""
        return name in self.names or any(waiter.entry.name == name for waiter in self.waiting_for)

    def find_reply(self, replier: Connection | None, cookie: int) -> Reply | None:
        """The reply to `cookie` that this connection expects from `replier` (None: from anybody), of the latest such
        request."""
        for reply in self.replies:
            if replier in (None, reply.replier) and reply.cookie == cookie:
                return reply
        return None

    def take_messages(self, source: Connection, name_id: int | None) -> None:
        """Move waiting messages here from `source`, all or those that were addressed by the name of `name_id`.

        Requests among them are now to be answered by this connection. Messages that carry descriptors which this
        connection does not accept, or whose payload does not fit, are lost and counted. Raises PoolFull if the last
        one did not fit.
        """
        for reply in list(source.owed):
            if reply.requester in (source, self) or name_id not in (None, reply.name_id):
                continue
            reply.move_to(self)
        failure: KdbusError | None = None
        for entry in source.queue.entries():
            if name_id not in (None, entry.name_id):
                continue
            user = None if entry.charge is None else entry.charge.user
            source.queue.remove(entry)
            if entry.message.files and not self.flags & abi.HELLO_ACCEPT_FD:
                self.lose()
                entry.discard()
                continue
            try:
                moved = self.behaviour.inbox.move(entry, self, user)
            except KdbusError as error:
                failure = error
                self.lose()
                entry.discard()
                continue
            failure = None
            self.enqueue(moved)
        source.drained()
        if isinstance(failure, PoolFull) and not self.behaviour.one_claim_per_name:
            raise failure

    def enqueue(self, entry: QueueEntry) -> None:
        """Append a message to the queue and wake pollers."""
        self.queue.add(entry)
        if self.events is not None:
            self.events.message_queued()

    def update(self, invocation: Invocation) -> None:
        """CONN_UPDATE: change attach flags, or a policy holder's entries.

        Raises WrongConnectionKind (policy holders have no attach flags, others no policy), BadItem, BadArgument
        (unknown flags, or fewer than the bus requires), and what setting a policy raises.
        """
        send = receive = None
        policy = False
        items = invocation.items
        if self.behaviour.update_by_kind:
            items = sorted(items, key=lambda entry: _ORDER_OF_UPDATE[Kind(entry.type)])
        for current in items:
            if current.type in (Kind.ATTACH_FLAGS_SEND, Kind.ATTACH_FLAGS_RECV):
                if self.kind == POLICY_HOLDER or (self.is_activator and current.type == Kind.ATTACH_FLAGS_SEND):
                    raise WrongConnectionKind(item=current, kind=current.type, connection_kind=self.kind)
                flags = self.behaviour.read_attach_flags(current.u64())
                if current.type == Kind.ATTACH_FLAGS_SEND:
                    send = flags
                else:
                    receive = flags
            elif current.type in (Kind.NAME, Kind.POLICY_ACCESS):
                if self.kind != POLICY_HOLDER:
                    raise WrongConnectionKind(item=current, kind=current.type, connection_kind=self.kind)
                policy = True
            else:
                raise BadItem(item=current, kind=current.type, rule="UPDATE does not take it")
        if policy:
            ids = invocation.caller.ids
            self.bus.policy.set(invocation.items, ids, self, single=True, wildcards=True)
        if send is not None:
            missing = self.bus.attach_flags_required & ~send
            if missing:
                raise BadArgument(kind=Kind.ATTACH_FLAGS_SEND, attach_flags=missing, rule="the bus requires more")
            self.attach_flags_send = send
        if receive is not None:
            self.attach_flags_recv = receive
