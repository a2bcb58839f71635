# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus check`: its options, and where its report goes.

Files are opened before the program runs: that one cannot be written should not be found out at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from interposer.checking.checker import Checker
from interposer.checking.findings import ERROR, RULES, Findings
from interposer.checking.report import as_json, as_junit, text
from interposer.errors import OutputFailed, UsageError, quoted
from interposer.options import Given, suggestion

FOUND = 1
"""The exit status where there are errors, and the program itself has ended with 0."""


class Check:
    """One run that is checked."""

    def __init__(self, given: Given) -> None:
        """Raises UsageError and OutputFailed."""
        ignored, errors = (_rules(given, option) for option in ("--ignore", "--error"))
        findings = Findings(ignored, errors)
        self.checker = Checker(findings)
        self._files = {option: _open(given[option][-1]) for option in ("--json", "--junit") if option in given}

    def finish(self, command: Sequence[str], status: int) -> int:
        """Report, once the program has ended with `status`; the status to end with, both as wait(2) gives them.

        Raises OutputFailed.
        """
        if sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(text(self.checker))
                sys.stderr.flush()
        for option, (path, descriptor) in self._files.items():
            words = as_json(self.checker, command, status) if option == "--json" else as_junit(self.checker, command)
            try:
                with open(descriptor, "w", encoding="utf-8") as file:
                    file.write(words)
            except OSError as error:
                raise _failed(path, error) from error
        failed = any(each.severity == ERROR for each in self.checker.findings.all())
        return FOUND << 8 if failed and status == 0 else status


def _rules(given: Given, option: str) -> list[str]:
    words = [word for words in given.get(option, []) for word in words.split(",")]
    for word in words:
        if word not in RULES:
            advice = suggestion(word, RULES) or f"there are {', '.join(RULES)}"
            raise UsageError("reading the options of `kdbus check`", f"there is no rule {quoted(word)}", advice)
    return words


def _open(path: str) -> tuple[str, int]:
    try:
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _failed(path, error) from error


def _failed(path: str, error: OSError) -> OutputFailed:
    reason = os.strerror(error.errno or 0)
    return OutputFailed(f"writing the report to {quoted(path)}", reason, "name a file that can be written")
