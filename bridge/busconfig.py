# SPDX-License-Identifier: GPL-2.0-or-later
"""dbus-daemon's configuration files, with all that they include.

Source: dbus-daemon(1), "CONFIGURATION FILE", and what dbus-daemon 1.14 refuses when it starts: what it refuses is
refused here. Of the elements, <policy>, <limit>, <auth> and <allow_anonymous> mean something to a proxy; the others are
known, and have no effect. <selinux> and <apparmor> are among these, so files for SELinux alone are not read.

*Order.* What a file includes stands where the <include> does. Files of an <includedir> come in the order of their
names, and one with a mistake is left out, which is told, as one package's mistake should not stop all others.

*Whose bytes.* Files are the administrator's, yet read with care: entities, which can grow without bound, are refused
(dbus-daemon takes them), no DTD is fetched, files and their number are bounded, and no file includes itself.

The parser is expat, as it tells lines, which people need to find a rule.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from xml.parsers import expat

from bridge.limits import DEFAULTS, Limits
from bridge.rule_elements import Unfit, UnknownAccount, group_id, rule_of, truth, user_id
from bridge.rules import Policy, Scope

_LARGEST: Final = 4 << 20
"""Bytes of a file."""
_MOST: Final = 2000
"""Files."""
_TEXTS: Final = frozenset(
    "user type listen auth pidfile includedir include servicedir servicehelper limit".split(),
)
_EMPTY: Final = frozenset(
    "fork keep_umask syslog allow_anonymous standard_session_servicedirs standard_system_servicedirs".split(),
)
_INSIDE: Final[Mapping[str, frozenset[str]]] = {
    "busconfig": _TEXTS | _EMPTY | {"policy", "selinux", "apparmor"},
    "policy": frozenset(("allow", "deny")),
    "selinux": frozenset(("associate",)),
}
_ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    "include": frozenset(("ignore_missing", "if_selinux_enabled", "selinux_root_relative")),
    "limit": frozenset(("name",)),
    "policy": frozenset(("context", "user", "group", "at_console")),
    "associate": frozenset(("own", "context")),
    "apparmor": frozenset(("mode",)),
}
_MECHANISMS: Final = ("EXTERNAL", "DBUS_COOKIE_SHA1", "ANONYMOUS")
_NUMBER: Final = re.compile(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|[0-9]+)")
_LONGEST_MESSAGE: Final = 1 << 27

_LIMITS: Final = {
    "max_completed_connections": "clients",
    "max_incomplete_connections": "unauthenticated",
    "max_connections_per_user": "clients_of_user",
    "auth_timeout": "login_seconds",
    "max_message_size": "message",
    "max_message_unix_fds": "descriptors",
    "pending_fd_timeout": "descriptors_seconds",
    "max_match_rules_per_connection": "rules",
    "max_names_per_connection": "names",
}
"""Those that the proxy has as well."""
_OTHER_LIMITS: Final = frozenset(
    (
        *("max_incoming_bytes", "max_incoming_unix_fds", "max_outgoing_bytes", "max_outgoing_unix_fds"),
        *("service_start_timeout", "max_pending_service_starts", "max_replies_per_connection", "reply_timeout"),
    )
)
_UPPER: Final = {"message": _LONGEST_MESSAGE, "descriptors": DEFAULTS.descriptors}
"""What the wire format, and kdbus, allow at most."""


class ConfigurationError(Exception):
    """A file that is no configuration; the text says where and why."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")


@dataclass(slots=True)
class Configuration:
    """What the files say. `warnings` are texts for people; `files` were read, in that order."""

    policy: Policy = field(default_factory=Policy)
    limits: Limits = DEFAULTS
    mechanisms: tuple[str, ...] = ()
    allow_anonymous: bool = False
    warnings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def anonymous(self) -> bool:
        """Whether clients may be anonymous."""
        return self.allow_anonymous and (not self.mechanisms or "ANONYMOUS" in self.mechanisms)


def read(path: str) -> Configuration:
    """The configuration in a file. Raises ConfigurationError."""
    found = Configuration()
    _File(found, path, ()).read()
    return found


class _File:
    """Reads one file into a configuration."""

    def __init__(self, found: Configuration, path: str, within: tuple[str, ...]) -> None:
        """`within`: the files that include it."""
        self._found = found
        self._path = path
        self._within = (*within, os.path.realpath(path))
        self._open: list[str] = []
        self._attributes: dict[str, str] = {}
        self._text = ""
        self._scope: dict[str, Any] | None = {}
        self._parser = expat.ParserCreate()

    def read(self) -> None:
        """Read it. Raises ConfigurationError."""
        if len(self._found.files) >= _MOST:
            raise ConfigurationError(self._path, 0, f"more than {_MOST} files")
        self._found.files.append(self._path)
        try:
            with open(self._path, "rb") as file:
                content = file.read(_LARGEST + 1)
        except OSError as error:
            raise ConfigurationError(self._path, 0, error.strerror or str(error)) from error
        if len(content) > _LARGEST:
            raise ConfigurationError(self._path, 0, f"more than {_LARGEST} bytes")
        parser = self._parser
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._entity
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            raise ConfigurationError(self._path, error.lineno, expat.errors.messages[error.code]) from error

    def _wrong(self, reason: str) -> ConfigurationError:
        return ConfigurationError(self._path, self._parser.CurrentLineNumber, reason)

    def _warn(self, reason: str) -> None:
        self._found.warnings.append(f"{self._path}:{self._parser.CurrentLineNumber}: {reason}")

    def _entity(self, name: str, *_: object) -> None:
        raise self._wrong(f"it declares an entity, {name!r}; entities are not taken")

    # ---- elements

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open:
            if name != "busconfig":
                raise self._wrong(f"the outermost element is <{name}>, not <busconfig>")
        elif name not in _INSIDE.get(self._open[-1], ()):
            raise self._wrong(f"<{name}> cannot stand in <{self._open[-1]}>")
        self._open.append(name)
        self._text = ""
        if name in ("allow", "deny"):
            self._rule(name, attributes)
            return
        for attribute in attributes:
            if attribute not in _ATTRIBUTES.get(name, ()):
                raise self._wrong(f"<{name}> has no attribute {attribute}")
        self._attributes = attributes
        if name == "policy":
            self._scope = self._scope_of(attributes)
        elif name == "apparmor" and attributes.get("mode", "enabled") not in ("enabled", "disabled", "required"):
            raise self._wrong(f"mode={attributes['mode']!r} is none of enabled, disabled, required")
        elif name == "associate" and set(attributes) != {"own", "context"}:
            raise self._wrong("<associate> needs own= and context=")
        elif name == "allow_anonymous":
            self._found.allow_anonymous = True

    def _characters(self, text: str) -> None:
        if self._open[-1] in _TEXTS:
            self._text += text
        elif text.strip():
            raise self._wrong(f"text where there can be none, in <{self._open[-1]}>")

    def _end(self, name: str) -> None:
        self._open.pop()
        if name not in _TEXTS:
            return
        text = self._text
        if not text:
            raise self._wrong(f"<{name}> is empty")
        if name == "include":
            self._include(text, self._attributes)
        elif name == "includedir":
            self._include_folder(text)
        elif name == "limit":
            self._limit(text, self._attributes)
        elif name == "auth":
            if text not in _MECHANISMS:
                raise self._wrong(f"<auth> {text!r} is none of {', '.join(_MECHANISMS)}")
            self._found.mechanisms += (text,)

    # ---- what they say

    def _scope_of(self, attributes: Mapping[str, str]) -> dict[str, Any] | None:
        """Whom a <policy> is for; None if for nobody that exists."""
        if len(attributes) != 1:
            raise self._wrong("<policy> needs one of context=, user=, group= and at_console=")
        (key, value), *_ = attributes.items()
        if key == "context":
            if value not in ("default", "mandatory"):
                raise self._wrong(f"context={value!r} is neither default nor mandatory")
            return {"scope": Scope(value)}
        try:
            if key == "at_console":
                return {"scope": Scope.AT_CONSOLE if truth(key, value) else Scope.NOT_AT_CONSOLE}
            return {"scope": Scope(key), "scope_id": user_id(value) if key == "user" else group_id(value)}
        except Unfit as unfit:
            raise self._wrong(str(unfit)) from unfit
        except UnknownAccount as unknown:
            self._warn(f"{unknown}: a <policy> that is for nobody")
            return None

    def _rule(self, name: str, attributes: Mapping[str, str]) -> None:
        place = dict(self._scope or {}, file=self._path, line=self._parser.CurrentLineNumber)
        per_client = self._scope is not None and "scope_id" in self._scope
        try:
            rule = rule_of(name, attributes, place, per_client=per_client)
        except Unfit as unfit:
            raise self._wrong(str(unfit)) from unfit
        except UnknownAccount as unknown:
            self._warn(f"{unknown}: a rule that is about nobody")
        else:
            if self._scope is not None:
                self._found.policy.rules.append(rule)

    def _limit(self, text: str, attributes: Mapping[str, str]) -> None:
        name = attributes.get("name")
        if name not in _LIMITS and name not in _OTHER_LIMITS:
            raise self._wrong(f"there is no limit {name!r}")
        number = _NUMBER.match(text)
        if number is None or len(number[2]) > 18:
            raise self._wrong(f"the limit {name} is {text!r}, which is no number")
        value = int(number[2], 16 if number[2][1:2] in ("x", "X") else 10)
        if number[1] == "-" and value:
            raise self._wrong(f"the limit {name} is negative")
        if name in _LIMITS:
            ours = _LIMITS[name]
            amount: Any = value / 1000 if ours.endswith("_seconds") else min(value, _UPPER.get(ours, value))
            self._found.limits = replace(self._found.limits, **{ours: amount})

    # ---- other files

    def _include(self, text: str, attributes: Mapping[str, str]) -> None:
        for name, value in attributes.items():
            if value not in ("yes", "no"):
                raise self._wrong(f"{name}={value!r} is neither yes nor no")
        if "yes" in (attributes.get("if_selinux_enabled"), attributes.get("selinux_root_relative")):
            return
        path = self._beside(text)
        if attributes.get("ignore_missing") == "yes" and not os.path.exists(path):
            return
        if os.path.realpath(path) in self._within:
            raise self._wrong(f"{path} includes itself")
        _File(self._found, path, self._within).read()

    def _include_folder(self, text: str) -> None:
        folder = self._beside(text)
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._wrong(f"{folder}: {error.strerror}") from error
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".conf") and os.path.realpath(path) not in self._within:
                before = replace(self._found, policy=Policy(list(self._found.policy.rules)))
                try:
                    _File(self._found, path, self._within).read()
                except ConfigurationError as error:
                    self._found.policy, self._found.limits = before.policy, before.limits
                    self._found.mechanisms, self._found.allow_anonymous = before.mechanisms, before.allow_anonymous
                    self._warn(f"left out: {error}")

    def _beside(self, text: str) -> str:
        """A path that is relative to this file."""
        return os.path.join(os.path.dirname(os.path.abspath(self._path)), text)
