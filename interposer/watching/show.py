# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus list`, `tree`, `status` and `policy`: one question, four ways to show the answer.

With --json all four print one object of the same form (docs/watching.md): the supervisor, and lists of domains, buses,
endpoints, policies and connections, as they came (`broker.snapshot`); those of one bus with --bus, and for `status`
just one connection. `schema` is the version of that form.

A domain usually is alone; programs that mount more of them have several, and then the names of buses in the others have
the domain's number in front, as in `1:0-system`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence

from interposer.errors import NothingToWatch, printable
from interposer.watching import ask, wire
from interposer.watching.table import Cell, Style, lines_of, number, size_of, style_of, time_of
from interposer.watching.wire import Record

SCHEMA = 1
KINDS_OF_METADATA = 14
_MOST_WORDS = 20
"""How many of the words are listed that would have been right."""
_LISTS = {"domain": "domains", "bus": "buses", "endpoint": "endpoints", "policy": "policies"}
_LISTS["connection"] = "connections"


class Facts:
    """One answer."""

    def __init__(self, sheets: Iterable[Record], bus: str | None = None) -> None:
        """`bus`: all others are left out. Raises NothingToWatch if there is none of that name."""
        self.supervisor: Record = {}
        self.lists: dict[str, list[Record]] = {name: [] for name in _LISTS.values()}
        self.peers: dict[int, str] = {}
        """After `choose`: the commands of all on the bus, by id."""
        for sheet in sheets:
            record = sheet.pop("record", None)
            if record == "supervisor":
                self.supervisor = sheet
            elif record in _LISTS:
                self.lists[_LISTS[record]].append(sheet)
        if bus is not None:
            self._leave_out_all_but(bus)

    def _leave_out_all_but(self, bus: str) -> None:
        labels = [label(sheet) for sheet in self.lists["buses"]]
        if bus not in labels:
            known = _words(labels)
            advice = f"there are {known}" if known else "nobody has made a bus yet"
            raise NothingToWatch(f"looking for the bus {printable(bus)}", "there is none of that name", advice)
        for name, sheets in self.lists.items():
            if name != "domains":
                self.lists[name] = [sheet for sheet in sheets if label(sheet) == bus]

    def choose(self, word: str) -> None:
        """Leave out all connections but the one of that id, or that owns that name. Raises NothingToWatch."""
        attempted = f"looking for the connection {printable(word)}"
        found = [each for each in self.lists["connections"] if word in (str(each["id"]), *_names(each))]
        if len(found) == 1:
            bus = [each for each in self.lists["connections"] if label(each) == label(found[0])]
            self.peers = {each["id"]: command_of(each) for each in bus}
            self.lists["connections"] = found
            return
        if found:
            where = ", ".join(f"--bus {label(each)}" for each in found)
            raise NothingToWatch(attempted, "it is on several buses", f"choose one: {where}")
        known = _words(word for each in self.lists["connections"] for word in (str(each["id"]), *_names(each)))
        advice = f"there are {known}" if known else "nobody is connected"
        raise NothingToWatch(attempted, "there is none of that id or name", advice)


def answer(word: str, domain: str | None, process: int | None, bus: str | None, wanted: str, *, as_json: bool) -> str:
    """What `kdbus WORD` prints. `wanted`: the id or name for `status`. Raises NothingToWatch."""
    with ask.watch(domain, process) as watching:
        facts = Facts(watching.ask(wire.FACTS), bus)
    if word == "status":
        facts.choose(wanted)
    if as_json:
        return json.dumps({"schema": SCHEMA, "supervisor": facts.supervisor, **facts.lists}, indent=2) + "\n"
    return "".join(line + "\n" for line in _SHOWN[word](facts, style_of()))


def label(sheet: Record) -> str:
    """The name of the bus that a sheet is about, as it is printed, and as --bus takes it."""
    name = printable(str(sheet["bus"]))
    return f"{sheet['domain']}:{name}" if sheet.get("domain") else name


def command_of(connection: Record) -> str:
    """The name of its process, as `ps` shows it."""
    return str(connection["command"] or os.path.basename(connection["executable"] or "") or "?")


def names_of(connection: Record, style: Style) -> Cell:
    """What it owns, waits for or activates, and what it is, if it is none of the ordinary ones."""
    own = [printable(claim["name"]) for claim in connection["names"]]
    others = [f"{printable(claim['name'])} (waits)" for claim in connection["waits_for_names"]]
    if connection["activates"] and connection["activates"] not in _names(connection):
        others.append(f"{printable(connection['activates'])} (when nobody owns it)")
    rest = connection["names_count"] - len(own) + connection["waits_for_names_count"]
    rest -= len(connection["waits_for_names"])
    others += [f"and {rest} more"] if rest else []
    others += [] if connection["kind"] == "ordinary" else [f"({connection['kind']})"]
    marked = [style.name(name) for name in own] + [style.minor(other) for other in others]
    return Cell(" ".join([*own, *others]), " ".join(marked))


def _list(facts: Facts, style: Style) -> list[str]:
    rows = []
    for each in facts.lists["connections"]:
        waiting, pool = each["queue"]["messages"], each["pool"]
        rows.append(
            [
                Cell(label(each)),
                number(each["id"]),
                Cell(each["revision"]),
                number(each["pid"]),
                number(each["euid"]),
                Cell(command_of(each)),
                number(waiting, style.notable(str(waiting)) if waiting else None),
                Cell(f"{size_of(pool['used'])}/{size_of(pool['size'])}", right=True),
                names_of(each, style),
            ]
        )
    return lines_of(["BUS", "ID", "REV", "PID", "UID", "COMMAND", "QUEUE", "POOL", "NAMES"], rows, style)


def _policy(facts: Facts, style: Style) -> list[str]:
    rows = []
    for each in facts.lists["policies"]:
        granted = [_granted(access) for access in each["access"]]
        rest = each["access_count"] - len(granted)
        words = ", ".join(granted) + (f" and {rest} more" if rest else "") or "nothing"
        where = each["endpoint"]
        rows.append(
            [
                Cell(label(each)),
                Cell("-" if where is None else where),
                Cell(each["name"], style.name(printable(each["name"]))),
                number(each["holder"]),
                Cell(words),
            ]
        )
    return lines_of(["BUS", "ENDPOINT", "NAME", "HOLDER", "GRANTS"], rows, style)


def _granted(access: Record) -> str:
    whom = "everybody" if access["to"] == "world" else f"{access['to']} {access['id']}"
    return f"{access['may']} to {whom}"


def described(supervisor: Record) -> str:
    """Which kdbus it is."""
    command = supervisor.get("command")
    words = " ".join(["kdbus run --", *map(str, command)]) if isinstance(command, list) else "kdbus serve"
    if supervisor.get("socket"):
        words += f" --socket {supervisor['socket']}"
    return f"process {supervisor.get('pid')}: {printable(words)}"


def _tree(facts: Facts, style: Style) -> list[str]:
    lines = [style.heading(described(facts.supervisor))]
    for number_, domain in enumerate(facts.lists["domains"]):
        if number_:
            lines.append(style.heading(f"domain {domain['domain']}, mounted by a program"))
        buses = [bus for bus in facts.lists["buses"] if bus["domain"] == domain["domain"]]
        lines += _branches([_bus_branch(bus, facts, style) for bus in buses])
    return lines


Branch = tuple[str, list["Branch"]]


def _bus_branch(bus: Record, facts: Facts, style: Style) -> Branch:
    text = f"{style.heading(label(bus))}  revision {bus['revision']}, uid {bus['uid']}, mode {bus['mode']}"
    endpoints = [each for each in facts.lists["endpoints"] if label(each) == label(bus)]
    connections = [each for each in facts.lists["connections"] if label(each) == label(bus)]
    doors: list[Branch] = []
    for endpoint in endpoints:
        through = [each for each in connections if each["endpoint"] == endpoint["endpoint"]]
        custom = ", with a policy of its own" if endpoint["custom"] else ""
        words = f"{printable(endpoint['endpoint'])}  uid {endpoint['uid']}, mode {endpoint['mode']}{custom}"
        doors.append((words, [(_leaf(each, style), []) for each in through]))
    return text, doors


def _leaf(connection: Record, style: Style) -> str:
    words = f"{connection['id']}  {printable(command_of(connection))}[{connection['pid'] or '?'}]"
    names = names_of(connection, style).marked
    return f"{words}  {names}" if names else words


def _branches(branches: Sequence[Branch], before: str = "") -> list[str]:
    lines = []
    for place, (text, below) in enumerate(branches):
        last = place == len(branches) - 1
        lines.append(f"{before}{'└─ ' if last else '├─ '}{text}")
        lines += _branches(below, before + ("   " if last else "│  "))
    return lines


def _status(facts: Facts, style: Style) -> list[str]:
    (each,) = facts.lists["connections"]
    return _status_of(each, facts.peers, style)


def status_of(facts: Facts, bus: str, number: int, style: Style) -> list[str]:
    """What `kdbus status` prints of one of many connections; empty if it has gone."""
    there = [each for each in facts.lists["connections"] if label(each) == bus]
    peers = {each["id"]: command_of(each) for each in there}
    return [line for each in there if each["id"] == number for line in _status_of(each, peers, style)]


def _status_of(each: Record, peers: dict[int, str], style: Style) -> list[str]:
    lines = [style.heading(f"connection {each['id']} on {label(each)}, endpoint {printable(each['endpoint'])}")]
    lines += [f"  {name:<12}{text}" for name, text in _status_lines(each, peers, style) if text]
    return lines


def _status_lines(each: Record, peers: dict[int, str], style: Style) -> Iterable[tuple[str, str]]:
    kind = each["kind"] + (", privileged" if each["privileged"] else "")
    yield "kind", f"{kind}, revision {each['revision']}"
    claimed = " (as it claims)" if each["claims_identity"] else ""
    yield "process", f"{printable(command_of(each))}, pid {each['pid'] or '?'}, thread {each['tid'] or '?'}{claimed}"
    yield "executable", printable(each["executable"] or "")
    yield "started as", printable(each["command_line"] or "")
    yield "user", f"uid {each['uid']}, effective uid {each['euid']}, gid {each['gid']}"
    yield "cgroup", printable(each["cgroup"] or "")
    yield "label", printable(each["label"] or "")
    yield "description", printable(each["description"] or "")
    yield "names", names_of(each, style).marked
    yield "flags", " ".join(each["hello_flags"])
    yield "tells", _metadata(each["attach_flags_send"])
    yield "asks for", _metadata(each["attach_flags_recv"])
    yield "matches", str(each["matches"])
    pool = each["pool"]
    yield "pool", f"{size_of(pool['used'])} of {size_of(pool['size'])} in use"
    yield "queue", _queue(each["queue"], peers)
    yield "lost", style.bad(f"{each['lost']} messages") if each["lost"] else ""
    for reply in each["expects"]:
        yield "expects", style.notable(f"a reply from {_peer(reply['replier'], peers)} {_until(reply)}")
    for reply in each["owes"]:
        yield "owes", style.notable(f"a reply to {_peer(reply['requester'], peers)} {_until(reply)}")


def _queue(queue: Record, peers: dict[int, str]) -> str:
    if not queue["messages"]:
        return "empty"
    senders = [f"{each['messages']} from {_peer(each['id'], peers)}" for each in queue["senders"]]
    rest = queue["senders_count"] - len(senders)
    more = f" and {rest} more senders" if rest else ""
    return f"{queue['messages']} messages, {size_of(queue['payload'])} of payload: {', '.join(senders)}{more}"


def _metadata(flags: list[str]) -> str:
    return "no metadata" if not flags else "all metadata" if len(flags) == KINDS_OF_METADATA else " ".join(flags)


def _peer(number: int, peers: dict[int, str]) -> str:
    if not number:
        return "the bus"
    return f"{number} ({printable(peers[number])})" if number in peers else f"{number} (gone)"


def _until(reply: Record) -> str:
    """Which reply it is, and until when it may come; sender and receiver share the machine's clock."""
    left = reply["deadline_ns"] - time.monotonic_ns()
    until = f"within {time_of(left)}" if left > 0 else "too late by now"
    how = "; it waits inside SEND" if reply["sync"] else ""
    return f"to cookie {reply['cookie']}, {until}{how}"


def _names(connection: Record) -> list[str]:
    return [str(claim["name"]) for claim in connection["names"]]


def _words(words: Iterable[str]) -> str:
    """The first of these words, in a row."""
    found = list(dict.fromkeys(words))
    rest = f" and {len(found) - _MOST_WORDS} more" if len(found) > _MOST_WORDS else ""
    return ", ".join(printable(word) for word in found[:_MOST_WORDS]) + rest


_SHOWN: dict[str, Callable[[Facts, Style], list[str]]] = {
    "list": _list,
    "tree": _tree,
    "status": _status,
    "policy": _policy,
}
