# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules, by name, and what they have found."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

ERROR, WARNING, NOTE = "error", "warning", "note"

RULES: Final = {
    "slice-leak": (ERROR, "what was received is given back by FREE"),
    "unanswered-request": (WARNING, "each request that was received is replied to"),
    "unread-messages": (WARNING, "no messages are left in the queue"),
    "lost-messages": (WARNING, "no messages are lost because the queue is full"),
    "name-race": (WARNING, "a name is there when it is first sent to"),
    "padding": (WARNING, "bytes between items are zero"),
    "foreign-item": (WARNING, "commands have only items that all revisions take there"),
    "descriptors-left": (WARNING, "descriptors that came with messages are closed with the connection"),
    "failed-call": (NOTE, "calls succeed"),
    "errno-differs": (NOTE, "failures have the same errno in all revisions"),
    "answer-differs": (NOTE, "calls that succeed do the same in all revisions"),
    "one-revision": (NOTE, "what is used is in all revisions"),
    "names-left": (NOTE, "names are released before the connection is closed"),
    "matches-left": (NOTE, "matches are removed before the connection is closed"),
    "not-judged": (NOTE, "the program closes its connections itself"),
}
"""By name: how severe it is, and what it holds."""


@dataclass(slots=True)
class Finding:
    """Something that a rule has found."""

    rule: str
    severity: str
    where: str
    """Which program, connection and bus."""
    text: str
    count: int = 1
    """How often."""


class Findings:
    """All of a run. What is the same in rule, place and words is one, and counted."""

    def __init__(self, ignored: Collection[str] = (), errors: Collection[str] = ()) -> None:
        """Rules that are switched off, and those that are errors whatever they usually are."""
        self._ignored = frozenset(ignored)
        self._errors = frozenset(errors)
        self._found: dict[tuple[str, str, str], Finding] = {}

    def add(self, rule: str, where: str, text: str) -> None:
        """A rule has found something."""
        if rule in self._ignored:
            return
        found = self._found.get((rule, where, text))
        if found is not None:
            found.count += 1
        elif len(self._found) < _MOST:
            severity = ERROR if rule in self._errors else RULES[rule][0]
            self._found[rule, where, text] = Finding(rule, severity, where, text)

    def rules(self) -> list[str]:
        """The rules that are on."""
        return [rule for rule in RULES if rule not in self._ignored]

    def all(self) -> list[Finding]:
        """What was found: errors first, then in the order of the rules."""
        order = {rule: place for place, rule in enumerate(RULES)}
        return sorted(self._found.values(), key=lambda each: (each.severity != ERROR, order[each.rule]))


_MOST = 10_000
"""Findings that are kept: a program chooses how many there are."""
