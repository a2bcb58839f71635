# SPDX-License-Identifier: GPL-2.0-or-later
"""What was found, for people, as JSON, and as JUnit XML, which CI services read.

All that a program chooses is escaped: names are in the findings.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from interposer.checking.checker import Checker
from interposer.checking.findings import ERROR, NOTE, RULES, WARNING, Finding
from tracing.escaping import harmless

SCHEMA = 1
_MOST_TOLD = 30


def text(checker: Checker) -> str:
    """One line for each finding, and four in the end."""
    found = checker.findings.all()
    lines = [f"kdbus check: {each.severity}: {_line(each)}" for each in found]
    used = {kind: ", ".join(_counted(checker, kind)) or "none" for kind in ("commands", "flags", "items", "revisions")}
    counts = Counter(each.severity for each in found)
    told = ", ".join(
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}" for severity in (ERROR, WARNING, NOTE)
    )
    lines += [f"kdbus check: used: {used['commands']}; revisions: {used['revisions']}"]
    lines += [f"kdbus check: {kind}: {used[kind]}" for kind in ("flags", "items")]
    lines.append(f"kdbus check: {told}")
    return "\n".join(lines) + "\n"


def _counted(checker: Checker, kind: str) -> list[str]:
    """What was used of one kind, the most frequent first."""
    found = [(_PREFIX.sub("", name), count) for name, count in checker.used[kind].most_common(_MOST_TOLD)]
    more = len(checker.used[kind]) - _MOST_TOLD
    words = [name if kind == "revisions" else f"{name} {count}" for name, count in found]
    return [*words, f"{more} more"] if more > 0 else words


_PREFIX = re.compile("^_?KDBUS_(ITEM_)?")


def _line(finding: Finding) -> str:
    times = f" ({finding.count} times)" if finding.count > 1 else ""
    return harmless(f"{finding.rule}: {finding.where}: {finding.text}{times}")


def as_json(checker: Checker, command: Sequence[str], status: int) -> str:
    """One object; docs/check.md describes it. `status`: as wait(2) gives it."""
    found = [
        {
            "rule": each.rule,
            "severity": each.severity,
            "where": each.where,
            "text": each.text,
            "count": each.count,
        }
        for each in checker.findings.all()
    ]
    ended = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"status": os.WEXITSTATUS(status)}
    used = {kind: dict(sorted(counts.items())) for kind, counts in checker.used.items()}
    about = {"schema": SCHEMA, "command": [harmless(word) for word in command], **ended}
    rules = checker.findings.rules()
    return json.dumps({**about, "rules": rules, "findings": found, "used": used}, indent=1) + "\n"


def as_junit(checker: Checker, command: Sequence[str]) -> str:
    """A suite with one case for each rule that is on. Errors are failures; the rest is what the case has said."""
    cases = []
    found = checker.findings.all()
    for rule in checker.findings.rules():
        mine = [each for each in found if each.rule == rule]
        told = "\n".join(f"{each.severity}: {_line(each)}" for each in mine)
        inside = ""
        if any(each.severity == ERROR for each in mine):
            inside = f"<failure message={quoteattr(RULES[rule][1])}>{_xml(told)}</failure>"
        elif told:
            inside = f"<system-out>{_xml(told)}</system-out>"
        cases.append(f'  <testcase classname="kdbus.check" name={quoteattr(rule)}>{inside}</testcase>')
    failed = len({each.rule for each in found if each.severity == ERROR})
    name = quoteattr(harmless(shlex.join(command)))
    suite = f'<testsuite name={name} tests="{len(cases)}" failures="{failed}" errors="0">'
    return "\n".join(['<?xml version="1.0" encoding="utf-8"?>', suite, *cases, "</testsuite>"]) + "\n"


def _xml(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
