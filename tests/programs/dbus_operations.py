# SPDX-License-Identifier: GPL-2.0-or-later
"""What D-Bus clients do with a bus, and what comes of it, as lines: the same on every bus that is one.

Unique names are printed by the order in which they appear; what buses may choose is left out. Each section has clients
of its own.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import Flag, Message, MessageType
from kdbus.dbus.values import Variant
from tests.programs.dbus_peer import DRIVER, Peer

CALL = MessageType.METHOD_CALL
_NAMES: dict[str, str] = {}
_TEXTS_DIFFER = ("MatchRuleInvalid", "LimitsExceeded")
"""Errors whose texts are not compared."""


def say(*words: Any) -> None:
    """Print a line."""
    text = " ".join(word if isinstance(word, str) else repr(word) for word in words).replace('"because', '" because')
    print(re.sub(r":1\.\d+", lambda found: _NAMES.setdefault(found[0], f":{len(_NAMES)}"), text)[:200], flush=True)


def attempt(label: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Do something, and print what it gives or raises."""
    try:
        say(label, function(*arguments))
    except ErrorReply as error:
        say(label[:99], "error", error.name, "" if error.name.endswith(_TEXTS_DIFFER) else error.text)


def shown(message: Message) -> str:
    """What matters of a message."""
    fields = [message.type.name, message.sender, message.destination, message.path, message.interface, message.member]
    rest = [message.error_name, message.signature, message.body, message.descriptors]
    return " ".join(map(str, fields + rest))


def show_all(label: str, *peers: Peer) -> None:
    """Print what has come to each."""
    for number, peer in enumerate(peers):
        for message in peer.settle():
            say(label, f"to {number}:", shown(message))


def names(a: Peer, b: Peer, c: Peer) -> None:
    for peer in (a, b, c):
        peer.driver("AddMatch", "s", f"type='signal',sender='{DRIVER}',member='NameOwnerChanged',arg0='org.x.N'")
    for flags in range(8):
        attempt(f"request {flags}", a.driver, "RequestName", "su", "org.x.N", flags)
        attempt("again", a.driver, "RequestName", "su", "org.x.N", flags)
        for other in range(8):
            attempt(f"other {flags} {other}", b.driver, "RequestName", "su", "org.x.N", other)
            attempt("owner", b.driver, "GetNameOwner", "s", "org.x.N")
            attempt("queue", b.driver, "ListQueuedOwners", "s", "org.x.N")
            attempt("third", c.driver, "RequestName", "su", "org.x.N", 0)
            attempt("queue", b.driver, "ListQueuedOwners", "s", "org.x.N")
            attempt("first again", a.driver, "RequestName", "su", "org.x.N", flags)
            attempt("queue", b.driver, "ListQueuedOwners", "s", "org.x.N")
            attempt("released by b", b.driver, "ReleaseName", "s", "org.x.N")
            attempt("queue", b.driver, "ListQueuedOwners", "s", "org.x.N")
            attempt("released by c", c.driver, "ReleaseName", "s", "org.x.N")
            attempt("released by a", a.driver, "ReleaseName", "s", "org.x.N")
            attempt("request", a.driver, "RequestName", "su", "org.x.N", flags)
            show_all("names", a, b, c)
        attempt("release", a.driver, "ReleaseName", "s", "org.x.N")
        attempt("release again", a.driver, "ReleaseName", "s", "org.x.N")
        attempt("has owner", a.driver, "NameHasOwner", "s", "org.x.N")
        show_all("names", a, b, c)


def bad_names(a: Peer, b: Peer, c: Peer) -> None:
    long = "a." + "b" * 254
    for name in ("", "a", ":1.77777", DRIVER, "a..b", ".a.b", "a.b.", "1a.b", "a.1b", "a b.c", long, "a.b-c"):
        attempt(f"request {name[:20]}", a.driver, "RequestName", "su", name, 4)
        attempt("release", b.driver, "ReleaseName", "s", name)
        attempt("has owner", a.driver, "NameHasOwner", "s", name)
        attempt("owner", a.driver, "GetNameOwner", "s", name)
        attempt("queue", a.driver, "ListQueuedOwners", "s", name)
        attempt("start", b.driver, "StartServiceByName", "su", name, 0)
        attempt("release", a.driver, "ReleaseName", "s", name)
    show_all("bad names", a, b, c)


def driver(a: Peer, b: Peer, c: Peer) -> None:
    attempt("hello", a.driver, "Hello")
    attempt("names", lambda: {DRIVER, a.name, b.name, c.name} <= set(a.driver("ListNames")))
    attempt("user", a.driver, "GetConnectionUnixUser", "s", b.name)
    attempt("process", lambda: a.driver("GetConnectionUnixProcessID", "s", b.name) == os.getpid())
    for name in (a.name, "org.x.None", ":1.99999", ":3.x"):
        for method in ("UnixUser", "UnixProcessID", "Credentials", "SELinuxSecurityContext"):
            if name != a.name or method in ("UnixUser",):
                attempt(f"{method} of {name}", a.driver, f"GetConnection{method}", "s", name)
        attempt("audit", a.driver, "GetAdtAuditSessionData", "s", name)
    attempt("credentials", lambda: a.driver("GetConnectionCredentials", "s", b.name)["UnixUserID"])
    attempt("ids", lambda: len(a.driver("GetId")))
    attempt("owner of driver", a.driver, "GetNameOwner", "s", DRIVER)
    attempt("queue of driver", a.driver, "ListQueuedOwners", "s", DRIVER)
    attempt("start driver", a.driver, "StartServiceByName", "su", DRIVER, 0)
    attempt("nothing", a.driver, "Nothing")
    attempt("wrong arguments", a.driver, "GetNameOwner", "u", 1)
    attempt("no arguments", a.driver, "RequestName")
    path, properties, peer = "/org/freedesktop/DBus", f"{DRIVER}.Properties", f"{DRIVER}.Peer"
    attempt("no interface", a.call, DRIVER, path, None, "NameHasOwner", "s", ("a.b",))
    attempt("other interface", a.call, DRIVER, path, "a.b", "NameHasOwner", "s", ("a.b",))
    attempt("other path", a.call, DRIVER, "/", DRIVER, "NameHasOwner", "s", ("a.b",))
    attempt("ping", a.call, DRIVER, path, peer, "Ping")
    attempt("ping elsewhere", a.call, DRIVER, "/a/b", peer, "Ping")
    attempt("machine", lambda: len(a.call(DRIVER, path, peer, "GetMachineId")[0]))
    attempt("ping nobody", a.call, None, "/", peer, "Ping")
    attempt("call nobody", a.call, None, "/", "a.b", "C", "s", ("x",))
    attempt("properties elsewhere", a.call, DRIVER, "/", properties, "Get", "ss", (DRIVER, "Features"))
    attempt("no property", a.call, DRIVER, path, properties, "Get", "ss", (DRIVER, "No"))
    attempt("no properties", a.call, DRIVER, path, properties, "GetAll", "s", ("a.b",))
    attempt("set", a.call, DRIVER, path, properties, "Set", "ssv", (DRIVER, "Features", Variant("s", "x")))
    said = a.call(DRIVER, path, properties, "GetAll", "s", (DRIVER,))[0]
    # Of dbus-daemon's features, security modules are the machine's.
    say("features", sorted({"ActivatableServicesChanged", "HeaderFiltering"} & set(said["Features"].value)))
    say("interfaces", sorted(said["Interfaces"].value))
    attempt("environment", a.driver, "UpdateActivationEnvironment", "a{ss}", {"A": "b"})
    attempt("introspect", lambda: "RequestName" in a.call(DRIVER, path, f"{DRIVER}.Introspectable", "Introspect")[0])
    a.emit("/", "a.b", "C", to=DRIVER)
    show_all("driver", a, b, c)


VALUES: tuple[tuple[str, Any], ...] = (
    ("y", 255),
    ("b", True),
    ("n", -2),
    ("q", 3),
    ("i", -4),
    ("u", 5),
    ("x", -(1 << 60)),
    ("t", 1 << 63),
    ("d", 0.1),
    ("s", "texté"),
    ("s", ""),
    ("o", "/a/b"),
    ("g", "a{sv}"),
    ("ay", b"\0\1"),
    ("as", []),
    ("as", ["", "a"]),
    ("a{sv}", {"k": Variant("a(ii)", [(1, 2)]), "l": Variant("v", Variant("s", "x"))}),
    ("(y(nx)as)", (1, (2, 3), ["z"])),
    ("aai", [[1], [], [2, 3]]),
    ("a{ya{ub}}", {1: {2: True}}),
    ("v", Variant("ao", ["/"])),
    ("ay", bytes(100_000)),
    ("ai", list(range(30_000))),
)


def calls(a: Peer, b: Peer, c: Peer) -> None:
    b.driver("RequestName", "su", "org.x.Service", 0)
    b.settle()
    for to in (b.name, "org.x.Service"):
        for kind, value in VALUES:
            serial = a.send(Message(type=CALL, path="/a", member="M", destination=to, signature=kind, body=(value,)))
            say("called", shown(b.serve("M", kind, value)))
            say("returned", a.reply_to(serial) == (value,))
        serial = a.send(Message(type=CALL, path="/a", interface="a.b", member="E", destination=to))
        b.refuse("E", "a.b.Error", "text")
        attempt("error", a.reply_to, serial)
    for to in ("org.x.None", ":1.99999", ":2.1", "org.x.None-at.all"):
        for flags in (Flag(0), Flag.NO_AUTO_START, Flag.NO_REPLY_EXPECTED):
            if not flags & Flag.NO_REPLY_EXPECTED:
                attempt(f"to {to} {flags}", lambda to=to, flags=flags: a.call(to, "/", "a.b", "C", flags=flags))
    serial = a.send(Message(type=CALL, path="/a", member="Last", destination=b.name))
    b.wait_for("Last")
    b.close()
    attempt("gone", a.reply_to, serial)
    show_all("calls", a, c)


RULES = (
    "type='signal'",
    "",
    "type='method_call'",
    "interface='a.b'",
    "interface='a.c'",
    "member='C'",
    "path='/x/y'",
    "path='/x'",
    "path_namespace='/x'",
    "path_namespace='/x/yy'",
    "path_namespace='/'",
    "arg0='text'",
    "arg1='text'",
    "arg0='other'",
    "arg0path='/aa/'",
    "arg0path='/aa/bb/cc'",
    "arg0namespace='com.example'",
    "arg0namespace='com'",
    "sender='org.x.Sender'",
    "sender='org.x.Other'",
    "sender=':1.99999'",
    "destination='org.x.Other'",
    "type='signal',interface='a.b',member='C',path='/x/y',arg0='text'",
    "eavesdrop='true',interface='a.b'",
)
SIGNALS: tuple[tuple[Any, ...], ...] = (
    ("/x/y", "a.b", "C"),
    ("/x/y", "a.b", "C", "s", "text"),
    ("/x/yy", "a.b", "D", "ss", "text", "text"),
    ("/x", "a.c", "C", "us", 1, "text"),
    ("/", "a.b", "C", "s", "/aa/bb/cc"),
    ("/", "a.b", "C", "s", "/aa/"),
    ("/", "a.b", "C", "o", "/aa/bb"),
    ("/x/y", "a.d", "E", "s", "com.example.foo"),
    ("/x/y", "a.d", "E", "s", "com.exampleX"),
    ("/x/y", "a.d", "E", "s", "com"),
)


BAD_RULES = (
    *("x", "x='y'", "type='x'", "path='x'", "arg64='x'", "type='signal',type='signal'", "member='a.b'", "a=b'"),
    *("path='/',path_namespace='/'", "arg0namespace='a b'", "sender='x'", "eavesdrop='maybe'", "a" * 1025),
)


def matches(a: Peer, b: Peer, c: Peer) -> None:
    a.driver("RequestName", "su", "org.x.Sender", 0)
    for rule in RULES:
        attempt(f"add {rule}", b.driver, "AddMatch", "s", rule)
        for signal in SIGNALS:
            a.emit(*signal)
        a.driver("GetId")
        show_all(f"matches {rule}", b, c)
        attempt("remove", b.driver, "RemoveMatch", "s", rule)
        attempt("remove again", b.driver, "RemoveMatch", "s", rule)
    for rule in ("interface='a.b'", "interface='a.b'", "member='C'"):
        attempt("add", b.driver, "AddMatch", "s", rule)
    for rule in ("interface='a.b'", "interface='a.b'", "member='C'"):
        a.emit("/x", "a.b", "C")
        a.driver("GetId")
        show_all("more than one rule", b)
        attempt("remove", b.driver, "RemoveMatch", "s", rule)
    a.emit("/x", "a.b", "C")
    a.driver("GetId")
    show_all("no rule", b)
    for rule in BAD_RULES:
        attempt(f"bad {rule}", b.driver, "AddMatch", "s", rule)
    a.emit("/x", "a.b", "ToOne", to=c.name)
    a.emit("/x", "a.b", "ToItself", to=a.name)
    a.driver("AddMatch", "s", "member='Own'")
    a.emit("/x", "a.b", "Own", "s", "text")
    show_all("unicast", a, b, c)


def descriptors(a: Peer, b: Peer, c: Peer) -> None:
    reading, writing = os.pipe()
    serial = a.send(Message(type=CALL, path="/", member="D", destination=b.name, signature="h", body=(0,)), [reading])
    os.close(reading)
    call = b.serve("D", "ahs", [0, 0], "x", descriptors=[writing])
    os.close(writing)
    say(shown(call), len(b.descriptors))
    say("returned", a.reply_to(serial), len(a.descriptors))
    os.write(a.descriptors[0], b"through")
    say(os.read(b.descriptors[0], 10))


def to_all(a: Peer, b: Peer, c: Peer) -> None:
    """Signals to everybody that have descriptors, or are large."""
    for peer, rule in ((a, "member='S'"), (b, "interface='a.b',sender='org.x.Sender'"), (c, "member='Other'")):
        peer.driver("AddMatch", "s", rule)
    a.driver("RequestName", "su", "org.x.Sender", 0)
    with Peer(descriptors=False) as without:
        without.driver("AddMatch", "s", "member='S'")
        for size in (0, 3 << 20):
            for count in (0, 1, 2):
                opened = [os.open("/dev/zero", os.O_RDONLY) for _ in range(count)]
                body = (bytes(size), list(range(count)))
                message = Message(
                    type=MessageType.SIGNAL, path="/", interface="a.b", member="S", signature="ayah", body=body
                )
                a.send(message, opened)
                for number in opened:
                    os.close(number)
                a.driver("GetId")
                for number, peer in enumerate((a, b, c, without)):
                    for message in filter(lambda each: each.member == "S", peer.settle()):
                        values = len(message.body[0]), message.body[1], len(peer.descriptors)
                        say(f"to {number}", message.member or "", message.sender, message.destination, *values)
                    while peer.descriptors:
                        say(os.read(peer.descriptors[-1], 2))
                        os.close(peer.descriptors.pop())


def eavesdropping(a: Peer, b: Peer, c: Peer) -> None:
    """What one sees of messages to others."""
    b.driver("RequestName", "su", "org.x.B", 0)
    parties = ("destination='org.x.B'", f"destination='{b.name}'", "sender='org.x.B'")
    kinds = ("type='method_return'", "type='error'", "member='RequestName'", "member='NameAcquired'")
    for rule in ("interface='a.b'", *parties, *kinds):
        for word in ("eavesdrop='true',", "eavesdrop='false',"):
            attempt(f"add {word}{rule}", c.driver, "AddMatch", "s", word + rule)
            serial = a.send(Message(type=CALL, path="/", interface="a.b", member="M", destination="org.x.B"))
            b.serve("M", "s", "text")
            a.reply_to(serial)
            serial = a.send(Message(type=CALL, path="/", interface="a.b", member="N", destination=b.name))
            b.refuse("N", "a.b.Error", "no")
            attempt("refused", a.reply_to, serial)
            a.emit("/", "a.b", "S", "s", "text")
            a.emit("/", "a.b", "S", "s", "to b", to=b.name)
            a.emit("/", "a.b", "S", "s", "to c", to=c.name)
            serial = a.send(Message(type=CALL, path="/", interface="a.b", member="O", destination=c.name))
            c.serve("O")
            a.reply_to(serial)
            a.driver("RequestName", "su", "org.x.A", 0)
            a.driver("ReleaseName", "s", "org.x.A")
            attempt("unknown", a.call, "org.x.None", "/", "a.b", "M")
            a.settle(), b.settle()
            seen = [shown(message) for message in c.settle()]
            # How they stand among the client's own is left to buses.
            for line in sorted(seen, key=lambda line: re.sub(r":1\.\d+", "", line)):
                say("seen", line)
            c.driver("RemoveMatch", "s", word + rule)


def departures(a: Peer, b: Peer, c: Peer) -> None:
    a.driver("AddMatch", "s", f"type='signal',sender='{DRIVER}',interface='{DRIVER}',member='NameOwnerChanged'")
    b.driver("RequestName", "su", "org.x.Going", 0)
    c.driver("RequestName", "su", "org.x.Going", 0)
    say(shown(a.wait_for("NameOwnerChanged")))
    b.close()
    found = [shown(a.wait_for("NameOwnerChanged")) for _ in range(2)]
    for line in sorted(found, key=lambda line: "org.x.Going" in line):
        say(line)
    say(shown(c.wait(lambda message: message.member == "NameAcquired" and message.body == ("org.x.Going",))))
    with Peer() as new:
        say(shown(a.wait_for("NameOwnerChanged")), new.name)


PATH = "/org/freedesktop/DBus"


def introspection(a: Peer, b: Peer, c: Peer) -> None:
    for path in (PATH, "/", "/org", "/org/freedesktop", "/elsewhere"):
        (text,) = a.call(DRIVER, path, f"{DRIVER}.Introspectable", "Introspect")
        for line in text.splitlines():
            say(path, line)
    asked: tuple[Any, ...]
    for interface in ("", ".Monitoring", ".Debug.Stats", ".Peer", ".Introspectable", ".Properties", ".Verbose"):
        asked = (DRIVER, PATH, f"{DRIVER}.Properties", "GetAll", "s", (DRIVER + interface,))
        attempt("properties", lambda words=asked: sorted(a.call(*words)[0]))
    attempt("interfaces", a.call, DRIVER, PATH, f"{DRIVER}.Properties", "Get", "ss", (DRIVER, "Interfaces"))
    for name in (DRIVER, b.name):
        found = a.driver("GetConnectionCredentials", "s", name)
        say("credentials", sorted(found), found["UnixUserID"], found.get("UnixGroupIDs"))


def statistics(a: Peer, b: Peer, c: Peer) -> None:
    stats = f"{DRIVER}.Debug.Stats"
    for path in ("/", PATH):
        attempt("statistics", lambda at=path: list(a.call(DRIVER, at, stats, "GetStats")[0]))
    for name in (DRIVER, "org.x.None", ":1.99999"):
        attempt("of one", a.call, DRIVER, PATH, stats, "GetConnectionStats", "s", (name,))
    b.driver("RequestName", "su", "org.x.Counted", 0)
    b.driver("RequestName", "su", "org.x.Counted.Too", 0)
    b.driver("ReleaseName", "s", "org.x.Counted.Too")
    for rule in ("type='signal',member='X'", "member=Y,arg0=z", "member=Y,arg0=z"):
        b.driver("AddMatch", "s", rule)
    b.driver("RemoveMatch", "s", "member=Y,arg0=z")
    for name in ("org.x.Counted", b.name):
        (found,) = a.call(DRIVER, PATH, stats, "GetConnectionStats", "s", (name,))
        kept = ("MatchRules", "PeakMatchRules", "BusNames", "PeakBusNames", "UniqueName", "OutgoingMessages")
        say("counted", list(found), [found[key].value for key in kept])
    (found,) = a.call(DRIVER, PATH, stats, "GetAllMatchRules")
    say("rules", [sorted(rule.split(",")) for rule in found[b.name]], found[c.name])
    (found,) = a.call(DRIVER, PATH, stats, "GetStats")
    sums = ("ActiveConnections", "IncompleteConnections", "MatchRules", "BusNames", "PeakMatchRulesPerConnection")
    say("all", [found[key].value for key in sums])
    attempt("reload", a.driver, "ReloadConfig")
    attempt("reload with arguments", a.driver, "ReloadConfig", "s", "x")


WATCHED: tuple[list[str], ...] = (
    [],
    ["type='signal'"],
    ["type='method_call',member='M'", "member='S'"],
    ["destination='org.x.M',interface='a.b'", "path='/end'"],
)


def monitoring(a: Peer, b: Peer, c: Peer) -> None:
    become = (f"{DRIVER}.Monitoring", "BecomeMonitor", "asu")
    attempt("elsewhere", a.call, DRIVER, "/", *become, ([], 0))
    attempt("flags", a.call, DRIVER, PATH, *become, ([], 1))
    attempt("bad rule", a.call, DRIVER, PATH, *become, (["x"], 0))
    attempt("wrong arguments", a.call, DRIVER, PATH, become[0], become[1], "as", ([],))
    for rules in WATCHED:
        with Peer() as monitor:
            monitor.driver("RequestName", "su", "org.x.Watched", 0)
            monitor.settle()
            say("monitor", monitor.name)
            attempt(f"become {rules}", monitor.call, DRIVER, PATH, *become, (rules, 0))
            attempt("gone", a.driver, "GetNameOwner", "s", "org.x.Watched")
            c.driver("RequestName", "su", "org.x.M", 0)
            serial = b.send(Message(type=CALL, path="/", interface="a.b", member="M", destination="org.x.M"))
            c.serve("M", "s", "text")
            b.reply_to(serial)
            b.emit("/", "a.b", "S", "s", "text")
            b.emit("/", "a.b", "S", to=c.name)
            attempt("unknown", b.call, "org.x.None", "/", "a.b", "M")
            c.driver("ReleaseName", "s", "org.x.M")
            b.emit("/end", "a.b", "S")
            b.driver("GetId")
            found: list[Message] = []
            while not found or found[-1].path != "/end":
                found.append(monitor.read())
            # How the driver's signals stand among other messages is left to buses.
            lines = [shown(message) for message in found if message.member != "NameOwnerChanged"]
            for line in sorted(lines, key=lambda line: re.sub(r":1\.\d+", "", line)):
                say("shown", line)
            changes = [message.body for message in found if message.member == "NameOwnerChanged"]
            say("changes", [body for body in changes if body[0] == "org.x.M"])
            monitor.send(Message(type=CALL, path="/", member="Nothing", destination=b.name))
            say("ended", monitor.ended())


SECTIONS = (
    *(names, bad_names, driver, calls, matches, descriptors, to_all, eavesdropping, departures),
    *(introspection, statistics, monitoring),
)


def main() -> None:
    for section in SECTIONS:
        if section.__name__ in sys.argv[1:] or not sys.argv[1:]:
            say("section", section.__name__)
            with ExitStack() as stack:
                section(*(stack.enter_context(Peer()) for _ in range(3)))


if __name__ == "__main__":
    main()
