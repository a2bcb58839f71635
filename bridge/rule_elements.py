# SPDX-License-Identifier: GPL-2.0-or-later
"""<allow> and <deny> of dbus-daemon's configuration: from attributes to a rule.

Source: dbus-daemon(1), and which combinations dbus-daemon 1.14 refuses when it starts. It does not look at whether
names are names; nor is that done here. An account that does not exist is no mistake: the rule is left out, and that is
told.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from bridge.rules import NO_LIMIT, Kind, Rule
from kdbus.dbus.bloom import TYPE_NAMES

_ANY: Final = "*"
_SEND: Final = frozenset(
    f"send_{word}"
    for word in (
        *("destination", "destination_prefix", "interface", "member", "error", "path", "type"),
        *("requested_reply", "broadcast"),
    )
)
_RECEIVE: Final = frozenset(
    f"receive_{word}" for word in ("sender", "interface", "member", "error", "path", "type", "requested_reply")
)
_ALONE: Final = ("own", "own_prefix", "user", "group")
_MODIFIERS: Final = frozenset(("eavesdrop", "min_fds", "max_fds"))
_KNOWN: Final = _SEND | _RECEIVE | _MODIFIERS | frozenset(_ALONE) | {"log"}
_FIELDS: Final = {"interface": "interface", "member": "member", "error": "error_name", "path": "path"}
_TYPES: Final = {name: kind for kind, name in TYPE_NAMES.items()}


class Unfit(Exception):
    """Attributes that make no rule; the text says why."""


class UnknownAccount(Exception):
    """A user or group that does not exist."""


def rule_of(element: str, attributes: Mapping[str, str], place: Mapping[str, Any], *, per_client: bool) -> Rule:
    """The rule of an element, "allow" or "deny". `place`: file, line, scope and scope_id; `per_client`: it stands in
    the policy of a user or group. Raises Unfit and UnknownAccount."""
    kind = _kind(element, attributes)
    if kind in (Kind.USER, Kind.GROUP) and per_client:
        raise Unfit(f"<{element}> with {kind.value}= decides who may connect, so it cannot be for some clients only")
    allow = element == "allow"
    text = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    found: dict[str, Any] = dict(place, allow=allow, kind=kind, text=f"<{element}{text}/>", requested_reply=allow)
    found["log"] = attributes.get("log") == "true"
    if kind == Kind.OWN:
        found["below"] = "own_prefix" in attributes
        found["name"] = attributes["own_prefix"] if found["below"] else _unless_any(attributes["own"])
    elif kind in (Kind.USER, Kind.GROUP):
        word = attributes[kind.value]
        found["id"] = None if word == _ANY else (user_id(word) if kind == Kind.USER else group_id(word))
    else:
        found.update(_message(attributes, kind.value))
    return Rule(**found)


def _kind(element: str, attributes: Mapping[str, str]) -> Kind:
    """What the rule is about. Raises Unfit for what does not go together."""
    given = frozenset(attributes)
    for name in attributes:
        if name not in _KNOWN:
            raise Unfit(f"<{element}> has no attribute {name}")
    alone = [name for name in _ALONE if name in given]
    of_messages = given & (_SEND | _RECEIVE | _MODIFIERS)
    if not alone and not given & (_SEND | _RECEIVE | {"eavesdrop"}):
        raise Unfit(f"<{element}> says nothing of what it is about")
    if len(alone) > 1 or (alone and of_messages):
        raise Unfit(f"{' and '.join((*alone, *sorted(of_messages)))} cannot be combined in one <{element}>")
    if given & _SEND and given & _RECEIVE:
        raise Unfit(f"attributes of sending and of receiving cannot be combined in one <{element}>")
    if {"send_destination", "send_destination_prefix"} <= given:
        raise Unfit("send_destination cannot be combined with send_destination_prefix")
    for way in ("send", "receive"):
        if f"{way}_error" in given and given & {f"{way}_member", f"{way}_interface"}:
            raise Unfit(f"{way}_error cannot be combined with {way}_member or {way}_interface")
        if f"{way}_member" in given and not given & {f"{way}_interface", f"{way}_path"}:
            raise Unfit(f"{way}_member needs {way}_interface or {way}_path beside it")
    if alone:
        return Kind.OWN if alone[0].startswith("own") else Kind(alone[0])
    return Kind.SEND if given & _SEND else Kind.RECEIVE


def _message(attributes: Mapping[str, str], way: str) -> dict[str, Any]:
    """What a rule about messages asks for. Raises Unfit."""
    found: dict[str, Any] = {}
    for word, name in _FIELDS.items():
        found[name] = _unless_any(attributes.get(f"{way}_{word}", _ANY))
    found["name"] = _unless_any(attributes.get("send_destination" if way == "send" else "receive_sender", _ANY))
    if "send_destination_prefix" in attributes:
        found["name"], found["below"] = attributes["send_destination_prefix"], True
    kind = _unless_any(attributes.get(f"{way}_type", _ANY))
    if kind is not None and kind not in _TYPES:
        raise Unfit(f"{way}_type={kind!r}; there are {', '.join(_TYPES)} and *")
    found["type"] = None if kind is None else _TYPES[kind]
    for word in ("eavesdrop", f"{way}_requested_reply", "send_broadcast"):
        if word in attributes:
            found[word.removeprefix(f"{way}_")] = truth(word, attributes[word])
    found["min_fds"] = _count("min_fds", attributes.get("min_fds", "0"))
    found["max_fds"] = _count("max_fds", attributes.get("max_fds", str(NO_LIMIT)))
    return found


def truth(name: str, value: str) -> bool:
    """What "true" and "false" mean. Raises Unfit for anything else."""
    if value not in ("true", "false"):
        raise Unfit(f"{name}={value!r} is neither true nor false")
    return value == "true"


def _count(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value[:20]) > NO_LIMIT:
        raise Unfit(f"{name}={value!r} is no number from 0 to {NO_LIMIT}")
    return int(value)


def _unless_any(value: str) -> str | None:
    return None if value == _ANY else value


def user_id(word: str) -> int:
    """The id of a user, by name or number. Raises UnknownAccount, also for a number that is nobody's."""
    try:
        return pwd.getpwuid(int(word)).pw_uid if word.isascii() and word.isdigit() else pwd.getpwnam(word).pw_uid
    except (KeyError, OverflowError, ValueError):
        raise UnknownAccount(f"there is no user {word!r}") from None


def group_id(word: str) -> int:
    """The id of a group, likewise."""
    try:
        return grp.getgrgid(int(word)).gr_gid if word.isascii() and word.isdigit() else grp.getgrnam(word).gr_gid
    except (KeyError, OverflowError, ValueError):
        raise UnknownAccount(f"there is no group {word!r}") from None
