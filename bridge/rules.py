# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy of dbus-daemon: its rules, whom they are for, and what they decide. No input or output.

Source: dbus-daemon(1), "<policy>" and "<deny>, <allow>", and what dbus-daemon 1.14 does where that is silent.

For a client, the rules of all policies that are about it stand in one row: those of the context "default", of its
groups, of its user, of the console, of the context "mandatory". A question (may it send this, receive this, own this,
connect at all) is about one kind of rule. *The last rule that fits decides*; if none fits, the answer is no. So a row
is looked at from its end, and the first that fits is the answer: most questions are answered by few rules.

What "fits" means has three surprises, which are dbus-daemon's:

* A field that the message has not is fit by any rule about it, with one exception: an <allow> with an interface fits
  only messages that have it. So a <deny> of an interface also denies calls without one.
* A rule about a destination or sender is about the *owner* of the name, whatever name the message was sent to, and who
  waits for the name counts as an owner.
* Rules about replies distinguish those that somebody waits for. On kdbus there are no others.

A message that is shown to another than its receiver is *eavesdropped* on: then rules that allow receiving count only if
they say `eavesdrop`, and otherwise those that deny it count only if they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from kdbus.dbus.message import Message, MessageType

NO_LIMIT: Final = 1 << 25
"""Descriptors that no message has (DBUS_MAXIMUM_MESSAGE_UNIX_FDS)."""


class Kind(Enum):
    """What a rule is about."""

    SEND = "send"
    RECEIVE = "receive"
    OWN = "own"
    USER = "user"
    GROUP = "group"


class Scope(Enum):
    """Whom the rules of a <policy> are for, in the order in which they are looked at."""

    DEFAULT = "default"
    GROUP = "group"
    USER = "user"
    AT_CONSOLE = "at_console"
    NOT_AT_CONSOLE = "not at_console"
    MANDATORY = "mandatory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One <allow> or <deny>, in a <policy> with the scope `scope` (and `scope_id`, a user's or group's).

    What is None is not asked for. `name`: the destination, sender, or name to own; with `below`, or any name that
    begins with it and a dot. `id`: the user or group that may connect; None: any. `file`, `line` and `text` are where
    and how it is written.
    """

    allow: bool
    kind: Kind
    scope: Scope = Scope.DEFAULT
    scope_id: int | None = None
    name: str | None = None
    below: bool = False
    id: int | None = None
    type: MessageType | None = None
    path: str | None = None
    interface: str | None = None
    member: str | None = None
    error_name: str | None = None
    broadcast: bool | None = None
    requested_reply: bool
    eavesdrop: bool = False
    min_fds: int = 0
    max_fds: int = NO_LIMIT
    log: bool = False
    file: str = ""
    line: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"

    def covers(self, name: str) -> bool:
        """Whether `name` is the rule's."""
        return self.name is None or name == self.name or (self.below and name.startswith(f"{self.name}."))


class Party(Protocol):
    """The other side of a message."""

    def has(self, rule: Rule) -> bool:
        """Whether it has the rule's name."""


class Named:
    """One that is known by a name in the message alone: the driver, or a service that is not started yet."""

    def __init__(self, name: str | None) -> None:
        self._name = name

    def has(self, rule: Rule) -> bool:
        """As Party says."""
        return self._name is not None and rule.covers(self._name)


class Owner:
    """A connection. `names` gives those that it owns or waits for, and is asked once, if at all."""

    def __init__(self, names: Callable[[], Collection[str]]) -> None:
        self._ask = names
        self._names: Collection[str] | None = None

    def has(self, rule: Rule) -> bool:
        """As Party says."""
        if self._names is None:
            self._names = self._ask()
        return any(rule.covers(name) for name in self._names)


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer, and the rule that it is due to; None: no rule fits, so it is no."""

    allowed: bool
    rule: Rule | None


def fits(rule: Rule, message: Message, other: Party, *, eavesdropping: bool = False) -> bool:
    """Whether a rule about sending (receiving) fits a message to (from) that party."""
    if rule.type is not None and rule.type != message.type:
        return False
    if message.reply_cookie is not None and not rule.allow and not rule.requested_reply:
        return False  # It denies replies that nobody waits for.
    if rule.kind == Kind.RECEIVE and rule.eavesdrop != eavesdropping and rule.allow == eavesdropping:
        return False
    if rule.path is not None and message.path not in (None, rule.path):
        return False
    if rule.interface is not None:
        if message.interface is None and rule.allow:
            return False
        if message.interface not in (None, rule.interface):
            return False
    if rule.member is not None and message.member not in (None, rule.member):
        return False
    if rule.error_name is not None and message.error_name not in (None, rule.error_name):
        return False
    if rule.broadcast is not None:
        is_broadcast = message.type == MessageType.SIGNAL and message.destination is None
        if rule.broadcast != is_broadcast:
            return False
    if not rule.min_fds <= message.descriptors <= rule.max_fds:
        return False
    return rule.name is None or other.has(rule)


def about_message(
    rules: Iterable[Rule], message: Message, other: Party, *, eavesdropping: bool = False
) -> Iterator[Rule]:
    """Those of the rules that fit, in their order."""
    return (rule for rule in rules if fits(rule, message, other, eavesdropping=eavesdropping))


def about_name(rules: Iterable[Rule], name: str) -> Iterator[Rule]:
    """Those of the rules that are about owning that name."""
    return (rule for rule in rules if rule.covers(name))


def about_user(rules: Iterable[Rule], user: int, groups: Collection[int]) -> Iterator[Rule]:
    """Those of the rules that are about that user's connecting."""
    for rule in rules:
        known = groups if rule.kind == Kind.GROUP else (user,)
        if rule.id is None or rule.id in known:
            yield rule


def decided(fitting: Iterator[Rule]) -> Decision:
    """What rules that fit, the last one first, decide."""
    rule = next(fitting, None)
    return Decision(rule is not None and rule.allow, rule)


@dataclass(frozen=True, slots=True)
class ClientRules:
    """The rules for one client, by kind, each with the last one first."""

    send: tuple[Rule, ...]
    receive: tuple[Rule, ...]
    own: tuple[Rule, ...]

    def may_send(self, message: Message, receiver: Party) -> Decision:
        """Whether the client may send that to that receiver."""
        return decided(about_message(self.send, message, receiver))

    def may_receive(self, message: Message, sender: Party, *, eavesdropping: bool = False) -> Decision:
        """Whether the client may receive that from that sender."""
        return decided(about_message(self.receive, message, sender, eavesdropping=eavesdropping))

    def may_own(self, name: str) -> Decision:
        """Whether the client may ask for that name."""
        return decided(about_name(self.own, name))


@dataclass(slots=True)
class Policy:
    """All rules, in the order in which they were read."""

    rules: list[Rule] = field(default_factory=list)
    _known: dict[tuple[int, tuple[int, ...], bool], ClientRules] = field(default_factory=dict)

    def may_connect(self, user: int, groups: Collection[int], owner: int) -> Decision:
        """Whether a user may connect. Without rules about that, `owner` may, whose process this is."""
        decision = decided(about_user(reversed(self.about_connecting()), user, groups))
        return Decision(user == owner, None) if decision.rule is None else decision

    def about_connecting(self) -> list[Rule]:
        """The rules about who may connect, in the order in which they count."""
        rows = (self._of(Scope.DEFAULT), self._of(Scope.MANDATORY))
        return [rule for row in rows for rule in row if rule.kind in (Kind.USER, Kind.GROUP)]

    def for_client(self, user: int, groups: Sequence[int], *, at_console: bool = False) -> ClientRules:
        """The rules for a client. Those of its groups come in the order in which the groups are given."""
        key = (user, tuple(groups), at_console)
        if key not in self._known:
            row = [*self._of(Scope.DEFAULT)]
            for group in dict.fromkeys(groups):
                row += self._of(Scope.GROUP, group)
            row += self._of(Scope.USER, user)
            row += self._of(Scope.AT_CONSOLE if at_console else Scope.NOT_AT_CONSOLE)
            row += self._of(Scope.MANDATORY)
            by_kind = ([rule for rule in reversed(row) if rule.kind == kind] for kind in ClientKinds)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = ClientRules(*map(tuple, by_kind))
        return self._known[key]

    def _of(self, scope: Scope, scope_id: int | None = None) -> list[Rule]:
        return [rule for rule in self.rules if rule.scope == scope and rule.scope_id == scope_id]


ClientKinds: Final = (Kind.SEND, Kind.RECEIVE, Kind.OWN)
_REMEMBERED: Final = 256
"""Clients of different users or groups."""
