# SPDX-License-Identifier: GPL-2.0-or-later
"""dbus-daemon's policy in the words of kdbus, as far as these go. No input or output.

kdbus's policy is about names alone: who may OWN a name, TALK to its owner, or SEE it. It says what is allowed, to
users, to groups or to the world, and denies all else. Messages it does not look at. So there are sentences of
dbus-daemon's that it cannot say, and each of these is told:

* anything about what is in a message (interfaces, members, paths, types, descriptors), and about receiving;
* "everybody but ...", as nothing can be taken away from what the world has;
* "any name": its wildcards stand for one element of a name;
* who may connect: on kdbus the mode of the endpoint's node says that.

Where a rule about the contents of a message forbids what is allowed otherwise, kdbus allows it all; where such a rule
allows what is forbidden otherwise, kdbus allows nothing. A proxy for D-Bus programs goes on to heed the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from bridge.rules import NO_LIMIT, ClientRules, Kind, Policy, Rule, Scope
from kdbus import values
from kdbus.dbus import names
from kdbus.dbus.errors import InvalidName
from kdbus.dbus.kernel import DRIVER
from kdbus.dbus.message import MessageType
from kdbus.flags import Access, AccessType

_NOBODY: Final = 0xFFFFFFFE
"""A user whom no policy is about: the last number but one, as the last means none."""
_SOME_ELEMENT: Final = "_kdbus_interposer_"
"""Stands for an element that no rule mentions."""


@dataclass(slots=True)
class Translation:
    """Policies of kdbus, by name, and what they do not say, for people."""

    policies: list[values.Policy] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Subject:
    """Somebody whom kdbus can grant something."""

    type: AccessType
    id: int
    rules: ClientRules

    def __str__(self) -> str:
        return "the world" if self.type == AccessType.WORLD else f"{self.type.name.lower()} {self.id}"


def translated(policy: Policy) -> Translation:
    """What kdbus can say of a policy."""
    found = Translation()
    subjects = list(_subjects(policy))
    for name in _names(policy.rules):
        example = f"{name[:-1]}{_SOME_ELEMENT}" if name.endswith(".*") else name
        granted = tuple(_granted(found, subjects, name, example))
        if granted:
            found.policies.append(values.Policy(name, granted))
    found.unsaid += _unsaid(policy.rules, subjects)
    found.unsaid = list(dict.fromkeys(found.unsaid))
    return found


def _subjects(policy: Policy) -> Iterator[_Subject]:
    """The world, and each group and user that a <policy> is for."""
    yield _Subject(AccessType.WORLD, 0, policy.for_client(_NOBODY, ()))
    for group in _ids(policy, Scope.GROUP):
        yield _Subject(AccessType.GROUP, group, policy.for_client(_NOBODY, (group,)))
    for user in _ids(policy, Scope.USER):
        yield _Subject(AccessType.USER, user, policy.for_client(user, ()))


def _ids(policy: Policy, scope: Scope) -> list[int]:
    found = (rule.scope_id for rule in policy.rules if rule.scope == scope and rule.scope_id is not None)
    return list(dict.fromkeys(found))


def _names(rules: Iterable[Rule]) -> list[str]:
    """Names, and wildcards, that rules mention."""
    found: dict[str, None] = {}
    for rule in rules:
        if rule.name is None or rule.kind not in (Kind.OWN, Kind.SEND) or rule.name == DRIVER:
            continue
        try:
            names.check_well_known(rule.name if "." in rule.name else f"{rule.name}.x")
        except InvalidName:
            continue
        if "." in rule.name:
            found[rule.name] = None
        if rule.below:
            found[f"{rule.name}.*"] = None
    return list(found)


def _granted(found: Translation, subjects: list[_Subject], name: str, example: str) -> Iterator[values.Rule]:
    """What the subjects are granted about a name, of which `example` is one."""
    world: Access | None = None
    for subject in subjects:
        access = _access(found, subject, example)
        if subject.type == AccessType.WORLD:
            world = access
        elif world is not None and (access is None or access < world):
            has = "nothing" if access is None else access.name
            found.unsaid.append(f"{name}: the world may {world.name}, and {subject} has {has} less: it has as much")
            continue
        if access is not None and (subject.type == AccessType.WORLD or world is None or access > world):
            yield values.Rule(access, subject.type, subject.id)


def _access(found: Translation, subject: _Subject, name: str) -> Access | None:
    """The most that a subject may do with a name."""
    if subject.rules.may_own(name).allowed:
        return Access.OWN
    about_contents = []
    talks = False
    for rule in subject.rules.send:
        if not rule.covers(name) or rule.type not in (None, MessageType.METHOD_CALL) or rule.broadcast:
            continue
        if not _is_about_contents(rule):
            talks = rule.allow
            break
        about_contents.append(rule)
    for rule in reversed(about_contents):
        if rule.allow != talks and rule.name is not None:
            found.unsaid.append(f"{rule}: some messages only; kdbus {'allows' if talks else 'denies'} all of them")
    return Access.TALK if talks else None


def _is_about_contents(rule: Rule) -> bool:
    """Whether the rule is about more than who sends to whom."""
    words = (rule.path, rule.interface, rule.member, rule.error_name)
    return any(word is not None for word in words) or rule.min_fds > 0 or rule.max_fds < NO_LIMIT


def _unsaid(rules: Iterable[Rule], subjects: list[_Subject]) -> Iterator[str]:
    """What can be said of no name."""
    for rule in rules:
        if rule.kind in (Kind.USER, Kind.GROUP):
            yield f"{rule}: who may connect is the mode of the endpoint's node"
        elif rule.kind == Kind.RECEIVE and not rule.allow:
            yield f"{rule}: nothing can be said about receiving"
        elif rule.scope == Scope.AT_CONSOLE:
            yield f"{rule}: nothing can be said about the console"
    example = f"{_SOME_ELEMENT}.{_SOME_ELEMENT}"
    for subject in subjects:
        access = _access(Translation(), subject, example)
        if access is not None:
            what = "own" if access == Access.OWN else "call"
            yield f"{subject} may {what} any name; those that no rule mentions are left out"
