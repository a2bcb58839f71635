# SPDX-License-Identifier: GPL-2.0-or-later
"""What there is in a domain at this moment, as plain facts: for people who watch it, not for programs on it.

`walk` goes through a domain in the order of its tree: the domain, each bus, its endpoints, its policies, its
connections. Each fact sheet is a dictionary of numbers, texts, lists and dictionaries, which JSON can say; its key
`record` tells what it is about. docs/watching.md describes every key. Nothing is changed, and nothing asked of anybody:
what is told about a process is what was collected when it said HELLO.

It goes step by step, as whoever serves the bus may have other things to do in between. So each sheet is true by itself,
and what has gone meanwhile is left out.

Nobody's rights are looked at. Whoever may watch the process that holds the broker may see all of it.

Bounds: of what programs can make many of (senders in a queue, replies, names), a sheet lists the first `MOST`, and
counts all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from broker.bus import Bus
from broker.connection import Connection
from broker.domain import Domain
from broker.endpoint import Endpoint
from broker.names import NameEntry
from broker.node import Node
from broker.policy import Access, PolicyDatabase
from broker.reply import Reply
from kdbus.abi import revision3 as abi

Facts = dict[str, object]

MOST = 64
"""How much of a list is told."""

_ATTACH = {value: name[13:] for name, value in abi.CONSTANTS.items() if name.startswith("KDBUS_ATTACH_")}
_HELLO = {value: name[12:] for name, value in abi.CONSTANTS.items() if name.startswith("KDBUS_HELLO_")}
_CLAIM = {abi.NAME_ALLOW_REPLACEMENT: "ALLOW_REPLACEMENT", abi.NAME_QUEUE: "QUEUE", abi.NAME_ACTIVATOR: "ACTIVATOR"}
_SUBJECTS = {
    abi.POLICY_ACCESS_USER: "user",
    abi.POLICY_ACCESS_GROUP: "group",
    abi.POLICY_ACCESS_WORLD: "world",
}
_ACCESSES = {abi.POLICY_SEE: "SEE", abi.POLICY_TALK: "TALK", abi.POLICY_OWN: "OWN"}


def walk(domain: Domain, pid_namespace: int) -> Iterator[Facts]:
    """The fact sheets of a domain, from the top down. `pid_namespace`: in whose numbers processes are told."""
    buses = [node for node in domain.children.values() if isinstance(node, Bus)]
    yield {"record": "domain", "messages": domain.messages.latest, "buses": len(buses)}
    for bus in buses:
        if not bus.active:
            continue
        yield bus_facts(bus)
        endpoints = [node for node in bus.children.values() if isinstance(node, Endpoint)]
        for endpoint in endpoints:
            if endpoint.active:
                yield endpoint_facts(endpoint)
        yield from policy_facts(bus.policy, bus, None)
        for endpoint in endpoints:
            if endpoint.active and endpoint.has_policy:
                yield from policy_facts(endpoint.policy, bus, endpoint)
        for number in list(bus.connections):
            connection = bus.connections.get(number)
            if connection is not None:
                yield connection_facts(connection, pid_namespace)


def bus_facts(bus: Bus) -> Facts:
    """About a bus, without what is on it. `messages`: how many there were, where the bus counts them, else null."""
    return {
        "record": "bus",
        "bus": text(bus.name_bytes),
        "id": bus.id,
        "id128": bus.id128.hex(),
        "revision": bus.behaviour.revision.name,
        **_node_facts(bus),
        "bloom": {"size": bus.bloom_size, "hashes": int.from_bytes(bus.bloom[8:], "little")},
        "requires": flag_names(bus.attach_flags_required, _ATTACH),
        "tells_of_its_maker": flag_names(bus.attach_flags_owner, _ATTACH),
        "connections": len(bus.connections),
        "monitors": len(bus.monitors),
        "messages": None if bus.messages is bus.domain.messages else bus.messages.latest,
    }


def endpoint_facts(endpoint: Endpoint) -> Facts:
    """About one door of a bus."""
    return {
        "record": "endpoint",
        "bus": text(endpoint.bus.name_bytes),
        "endpoint": escaped(endpoint.name),
        "id": endpoint.id,
        "custom": endpoint.has_policy,
        **_node_facts(endpoint),
        "connections": len(endpoint.connections),
    }


def policy_facts(policy: PolicyDatabase, bus: Bus, endpoint: Endpoint | None) -> Iterator[Facts]:
    """About each entry of the policy of a bus, or of a custom endpoint. `holder`: the connection that brought it."""
    for entry in policy.entries():
        yield {
            "record": "policy",
            "bus": text(bus.name_bytes),
            "endpoint": None if endpoint is None else escaped(endpoint.name),
            "name": text(entry.name) + (".*" if entry.wildcard else ""),
            "holder": entry.owner.id if isinstance(entry.owner, Connection) else None,
            "access": [_access_facts(access) for access in entry.accesses[:MOST]],
            "access_count": len(entry.accesses),
        }


def connection_facts(connection: Connection, pid_namespace: int) -> Facts:
    """About one connection, its process as of HELLO, its names, its queue, its pool, and who waits for whom."""
    about = connection.metadata
    process, thread, _ = about.pids
    own = connection.credentials
    return {
        "record": "connection",
        "bus": text(connection.bus.name_bytes),
        "endpoint": escaped(connection.endpoint.name),
        "id": connection.id,
        "kind": connection.kind,
        "revision": connection.behaviour.revision.name,
        "description": None if connection.description is None else text(connection.description),
        "privileged": connection.privileged,
        "claims_identity": connection.faked_metadata,
        "pid": process.number_in(pid_namespace) or None,
        "tid": thread.number_in(pid_namespace) or None,
        "uid": own.uid,
        "euid": own.euid,
        "gid": own.gid,
        "command": _known(about.strings.get(abi.ATTACH_PID_COMM)),
        "thread": _known(about.strings.get(abi.ATTACH_TID_COMM)),
        "executable": _known(about.strings.get(abi.ATTACH_EXE)),
        "command_line": _known(about.strings.get(abi.ATTACH_CMDLINE)),
        "cgroup": _known(about.strings.get(abi.ATTACH_CGROUP)),
        "label": _known(about.strings.get(abi.ATTACH_SECLABEL)),
        "hello_flags": flag_names(connection.flags, _HELLO),
        "attach_flags_send": flag_names(connection.attach_flags_send, _ATTACH),
        "attach_flags_recv": flag_names(connection.attach_flags_recv, _ATTACH),
        **_name_facts(connection),
        "matches": len(connection.matches),
        "pool": {"size": connection.pool.size, "used": connection.pool.busy},
        "queue": _queue_facts(connection),
        "lost": connection.lost_count,
        "expects": _reply_facts(connection.replies),
        "expects_count": len(connection.replies),
        "owes": _reply_facts(connection.owed),
        "owes_count": len(connection.owed),
    }


def _name_facts(connection: Connection) -> Facts:
    names = (_claim(entry, entry.flags) for entry in connection.names.values())
    waiting = (_claim(waiter.entry, waiter.flags) for waiter in connection.waiting_for)
    meant = connection.activator_of
    return {
        "names": list(islice(names, MOST)),
        "names_count": len(connection.names),
        "waits_for_names": list(islice(waiting, MOST)),
        "waits_for_names_count": len(connection.waiting_for),
        "activates": None if meant is None else text(meant.name),
    }


def _claim(entry: NameEntry, flags: int) -> Facts:
    return {"name": text(entry.name), "flags": flag_names(flags, _CLAIM), "waiting": len(entry.waiters)}


def _queue_facts(connection: Connection) -> Facts:
    """How many messages wait, and whose they are: the sender with most of them first; 0 is the bus itself."""
    senders: dict[int, int] = {}
    size = 0
    for entry in connection.queue.entries():
        senders[entry.message.source] = senders.get(entry.message.source, 0) + 1
        size += sum(part.size for part in entry.message.parts)
    most = sorted(senders.items(), key=lambda item: (-item[1], item[0]))[:MOST]
    return {
        "messages": len(connection.queue),
        "payload": size,
        "senders": [{"id": number, "messages": count} for number, count in most],
        "senders_count": len(senders),
    }


def _reply_facts(replies: Iterable[Reply]) -> list[Facts]:
    """Who expects what from whom, until when (CLOCK_MONOTONIC, ns). `sync`: the requester waits inside SEND."""
    return [
        {
            "requester": reply.requester.id,
            "replier": reply.replier.id,
            "cookie": reply.cookie,
            "deadline_ns": reply.deadline_ns,
            "sync": reply.sync,
        }
        for reply in islice(replies, MOST)
    ]


def _access_facts(access: Access) -> Facts:
    subject = _SUBJECTS[access.kind]
    return {"to": subject, "id": None if subject == "world" else access.id, "may": _ACCESSES[access.access]}


def _node_facts(node: Node) -> Facts:
    return {"uid": node.uid, "gid": node.gid, "mode": f"{node.mode:04o}"}


def flag_names(flags: int, names: dict[int, str]) -> list[str]:
    """The bits that are set, by name; what has none, as one number in hexadecimal."""
    known = [name for bit, name in sorted(names.items()) if flags & bit]
    rest = flags & ~sum(names)
    return [*known, hex(rest)] if rest else known


def text(data: bytes) -> str:
    """Bytes that are mostly UTF-8; any that is not, as `\\xNN`."""
    return data.decode("utf-8", "backslashreplace")


def escaped(name: str) -> str:
    """The name of a node, which may hold bytes that are no UTF-8, likewise."""
    return text(name.encode("utf-8", "surrogateescape"))


def _known(data: bytes | None) -> str | None:
    return None if data is None else text(data)
