# SPDX-License-Identifier: GPL-2.0-or-later
"""The summary of `-c`: calls, errors and time by command, with quantiles.

Durations are counted in classes that grow by a sixteenth, so a summary takes the same memory however long the program
runs, and its quantiles are right to within a sixteenth.
"""

from __future__ import annotations

from collections import Counter

from tracing.record import Event, Phase, Record

_STEPS = 16
_QUANTILES = (50, 95, 99)
_TITLE = "% time     seconds     calls    errors   p50 us   p95 us   p99 us   max us command"
_RULE = " ".join("-" * width for width in (6, 11, 9, 9, 8, 8, 8, 8)) + " " + "-" * 18


def _class_of(duration_ns: int) -> int:
    """Which class of durations it belongs to."""
    if duration_ns < _STEPS:
        return duration_ns
    exponent = duration_ns.bit_length() - _STEPS.bit_length()
    return exponent * _STEPS + (duration_ns >> exponent)


def _longest_of(number: int) -> int:
    """The longest duration of a class, in ns."""
    if number < _STEPS:
        return number
    exponent = number // _STEPS - 1
    return ((number - exponent * _STEPS + 1) << exponent) - 1


class _Command:
    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.total_ns = 0
        self.longest_ns = 0
        self.classes: Counter[int] = Counter()

    def quantile(self, percent: int) -> int:
        """The duration in ns that so many percent of the calls did not exceed."""
        wanted = -(-self.classes.total() * percent // 100)
        seen = 0
        for number in sorted(self.classes):
            seen += self.classes[number]
            if seen >= wanted:
                return min(_longest_of(number), self.longest_ns)
        return 0


class Summary:
    """Counts records."""

    def __init__(self) -> None:
        self._commands: dict[str, _Command] = {}

    def count(self, record: Record) -> None:
        """Take a record into account; what is no call, or not over, does not count."""
        if record.event is not Event.CALL or record.phase is Phase.WAITS:
            return
        found = self._commands.setdefault(record.command, _Command())
        found.calls += 1
        found.errors += bool(record.errno or record.error)
        duration = record.duration_ns or 0
        found.total_ns += duration
        found.longest_ns = max(found.longest_ns, duration)
        found.classes[_class_of(duration)] += 1

    def text(self) -> str:
        """The table, the command that took longest first."""
        total = sum(found.total_ns for found in self._commands.values())
        rows = [_TITLE, _RULE]
        for name, found in sorted(self._commands.items(), key=lambda pair: (-pair[1].total_ns, pair[0])):
            share = 100 * found.total_ns / total if total else 0.0
            times = "".join(f" {found.quantile(percent) / 1000:8.1f}" for percent in _QUANTILES)
            times += f" {found.longest_ns / 1000:8.1f}"
            seconds = found.total_ns / 1e9
            rows.append(f"{share:6.2f} {seconds:11.6f} {found.calls:9} {found.errors or '':>9}{times} {name}")
        calls = sum(found.calls for found in self._commands.values())
        errors = sum(found.errors for found in self._commands.values())
        rows += [_RULE, f"100.00 {total / 1e9:11.6f} {calls:9} {errors or '':>9}{' ' * 36} total"]
        return "\n".join(rows) + "\n"
