# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus dbus-policy`: what a configuration of dbus-daemon allows, and which rule of which file it is due to; and what
of it the policy of kdbus can say.

Nothing is asked of a bus for the former: what matters of it (who owns which names) is given.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final

from bridge.busconfig import Configuration
from bridge.kdbus_policy import Translation, translated
from bridge.rule_elements import UnknownAccount, group_id, user_id
from bridge.rules import ClientRules, Named, Owner, Party, Rule, Scope, about_message, about_name, about_user
from interposer.companion import bus_name
from interposer.errors import DomainUnavailable, UsageError, quoted
from interposer.options import Given, see_help, suggestion, too_many
from interposer.proxying import configuration_in
from interposer.shared_domain.readiness import Readiness
from kdbus.dbus.bloom import TYPE_NAMES
from kdbus.dbus.errors import DBusError
from kdbus.dbus.kernel import DRIVER
from kdbus.dbus.message import Message, MessageType

SCHEMA: Final = 1
"""The version of the JSON."""
_ATTEMPT: Final = "reading the arguments of `kdbus dbus-policy`"
_QUESTIONS: Final = ("connect", "own", "send", "receive", "kdbus", "hold")
_TYPES: Final = {name: kind for kind, name in TYPE_NAMES.items()}
_KEYS: Final = ("type", "destination", "sender", "path", "interface", "member", "error", "fds", "names")
_POOL: Final = 4096


def dbus_policy(
    given: Given, words: Sequence[str], say: Callable[[str], None], warn: Callable[[str], None]
) -> int:
    """Answer; `warn` gets lines about the configuration. 0 if it is allowed, 1 if not. Raises InterposerError."""
    file = given.last("--config")
    if file is None:
        raise UsageError(_ATTEMPT, "there is no --config", see_help("dbus-policy"))
    if not words or words[0] not in _QUESTIONS:
        what = f"there is no question {quoted(words[0])}" if words else "there is no question"
        advice = suggestion(words[0], _QUESTIONS) if words else ""
        raise UsageError(_ATTEMPT, what, advice or f"there are {', '.join(_QUESTIONS)}")
    question, rest = words[0], words[1:]
    found = configuration_in(file)
    for warning in found.warnings:
        warn(f"kdbus: {warning}")
    if question in ("kdbus", "hold"):
        if rest:
            raise too_many(_ATTEMPT, rest[0], "dbus-policy")
        translation = translated(found.policy)
        if question == "hold":
            return _hold(given, translation)
        say(_translation(translation, as_json="--json" in given))
        return 0
    allowed, fitting = _asked(given, found, question, rest)
    say(_answer(question, allowed, fitting, as_json="--json" in given))
    return 0 if allowed else 1


def _asked(given: Given, found: Configuration, question: str, rest: Sequence[str]) -> tuple[bool, list[Rule]]:
    """Whether it is allowed, and the rules that fit, the last of which decides."""
    user, groups = _client(given)
    rules = found.policy.for_client(user, groups, at_console="--at-console" in given)
    if question == "connect":
        if rest:
            raise too_many(_ATTEMPT, rest[0], "dbus-policy")
        about = about_user(found.policy.about_connecting(), user, groups)
        return found.policy.may_connect(user, groups, os.geteuid()).allowed, list(about)
    if question == "own":
        if len(rest) != 1:
            raise UsageError(_ATTEMPT, "own needs one name", "such as: own org.example.Printer")
        fitting: Iterable[Rule] = about_name(rules.own, rest[0])
    else:
        fitting = _of_message(rules, question, _pairs(rest))
    last_first = list(fitting)
    return bool(last_first) and last_first[0].allow, last_first[::-1]


def _of_message(rules: ClientRules, question: str, said: dict[str, str]) -> Iterator[Rule]:
    """The rules that fit a message, the last one first. Raises UsageError."""
    kind = said.get("type", "method_call")
    if kind not in _TYPES:
        raise UsageError(_ATTEMPT, f"there is no type {quoted(kind)}", f"there are {', '.join(_TYPES)}")
    fds = said.get("fds", "0")
    if not fds.isascii() or not fds.isdigit():
        raise UsageError(_ATTEMPT, f"fds={quoted(fds)} is no number", see_help("dbus-policy"))
    is_reply = _TYPES[kind] in (MessageType.METHOD_RETURN, MessageType.ERROR)
    try:
        message = Message(
            type=_TYPES[kind],
            path=said.get("path"),
            interface=said.get("interface"),
            member=said.get("member"),
            error_name=said.get("error"),
            destination=said.get("destination"),
            sender=said.get("sender"),
            reply_cookie=1 if is_reply else None,
            descriptors=int(fds[:10]),
        )
    except DBusError as error:
        raise UsageError(_ATTEMPT, f"that is no message: {error}", see_help("dbus-policy")) from error
    known = said.get("destination" if question == "send" else "sender")
    owned = said["names"].split(",") if "names" in said else [known] if known and not known.startswith(":") else []
    other: Party = Named(DRIVER) if known == DRIVER else Owner(lambda: owned)
    return about_message(rules.send if question == "send" else rules.receive, message, other)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Words of the form KEY=VALUE. Raises UsageError."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in _KEYS:
            advice = suggestion(key, _KEYS) or f"there are {', '.join(_KEYS)}"
            raise UsageError(_ATTEMPT, f"{quoted(word)} says nothing of a message", advice)
        found[key] = value
    return found


def _client(given: Given) -> tuple[int, tuple[int, ...]]:
    """User and groups of the client that is meant: our own without --user. Raises UsageError."""
    try:
        word = given.last("--user")
        user = os.geteuid() if word is None else user_id(word)
        if "--group" in given:
            return user, tuple(group_id(each) for each in given["--group"])
        if word is None:
            return user, (os.getegid(), *os.getgroups())
        import pwd

        account = pwd.getpwuid(user)
        return user, tuple(os.getgrouplist(account.pw_name, account.pw_gid))
    except UnknownAccount as error:
        raise UsageError(_ATTEMPT, str(error), see_help("dbus-policy")) from error


def _answer(question: str, allowed: bool, fitting: Sequence[Rule], *, as_json: bool) -> str:
    """What is said of a question."""
    if as_json:
        rules = [
            {"file": rule.file, "line": rule.line, "text": rule.text, "policy": _policy(rule), "allow": rule.allow}
            for rule in fitting
        ]
        return json.dumps({"schema": SCHEMA, "question": question, "allowed": allowed, "rules": rules}) + "\n"
    word = "allowed" if allowed else "denied"
    if not fitting and question == "connect":
        return f"{word}: no rule fits, so only the user whose bus it is may connect\n"
    if not fitting:
        return f"{word}: no rule fits, and what no rule allows is denied\n"
    lines = [f"{word} by {_place(fitting[-1])}"]
    if len(fitting) > 1:
        lines += ["before it, these fit as well:", *(f"  {_place(rule)}" for rule in fitting[:-1])]
    return "\n".join(lines) + "\n"


def _place(rule: Rule) -> str:
    return f"{rule}, in <policy {_policy(rule)}>"


def _policy(rule: Rule) -> str:
    """The attribute of the <policy> that a rule is in."""
    if rule.scope in (Scope.DEFAULT, Scope.MANDATORY):
        return f'context="{rule.scope.value}"'
    if rule.scope_id is not None:
        return f'{rule.scope.value}="{rule.scope_id}"'
    return f'at_console="{"true" if rule.scope == Scope.AT_CONSOLE else "false"}"'


def _translation(found: Translation, *, as_json: bool) -> str:
    """A policy in kdbus's words."""
    if as_json:
        policies: list[dict[str, Any]] = [
            {
                "name": policy.name,
                "rules": [{"access": rule.access.name, "type": rule.type.name, "id": rule.id} for rule in policy.rules],
            }
            for policy in found.policies
        ]
        return json.dumps({"schema": SCHEMA, "policies": policies, "unsaid": found.unsaid}) + "\n"
    lines = []
    for policy in found.policies:
        for rule in policy.rules:
            whom = "WORLD" if rule.type.name == "WORLD" else f"{rule.type.name} {rule.id}"
            lines.append(f"{policy.name}  {rule.access.name}  {whom}")
    lines += [f"not said: {text}" for text in found.unsaid]
    return "".join(f"{line}\n" for line in lines)


def _hold(given: Given, found: Translation) -> int:
    """Hold the policies on a bus until a signal. Raises InterposerError."""
    import kdbus

    bus = given.last("--bus")
    if bus is None:
        raise UsageError(_ATTEMPT, "hold without --bus", "such as: kdbus dbus-policy --config FILE --bus system hold")
    ends = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    readiness = Readiness(given.last("--ready-fd"))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with ExitStack() as stack:
            for policy in found.policies:
                try:
                    holder = kdbus.connect(
                        bus_name(bus),
                        revision=kdbus.FINAL,
                        flags=kdbus.HelloFlag.POLICY_HOLDER,
                        pool_size=_POOL,
                        policies=[policy],
                    )
                except kdbus.Error as error:
                    attempted = f"holding the policy of {policy.name} on the bus {quoted(bus)}"
                    raise DomainUnavailable(attempted, error.meaning, "the owner of the bus may do it, once") from error
                stack.enter_context(holder)
            readiness.ready(f"kdbus: {len(found.policies)} policies are held")
            signal.sigwait(ends)
            readiness.stopping()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0
