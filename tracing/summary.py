# SPDX-License-Identifier: GPL-2.0-or-later
"""The summary of `-c`: calls, errors and time by command, and replies by who was asked, with quantiles.

Durations are counted in classes that grow by a sixteenth, so a summary takes the same memory however long the program
runs, and its quantiles are right to within a sixteenth.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from kdbus.abi.decode import Flags
from tracing.escaping import harmless
from tracing.record import Event, Phase
from tracing.shown import Shown

_STEPS = 16
_QUANTILES = (50, 95, 99)
_REQUESTS = 4096
"""How many open requests are remembered."""
_TITLE = "% time     seconds     calls    errors   p50 us   p95 us   p99 us   max us command"
_REPLIES_TITLE = " requests unanswered   p50 us   p95 us   p99 us   max us who was asked: bus, connection, names"
_REPLIES_RULE = " ".join("-" * width for width in (9, 10, 8, 8, 8, 8)) + " " + "-" * 38
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


class _Durations:
    """How long things took."""

    def __init__(self) -> None:
        self.total_ns = 0
        self._longest_ns = 0
        self._classes: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._classes.total()

    def add(self, duration_ns: int) -> None:
        self.total_ns += duration_ns
        self._longest_ns = max(self._longest_ns, duration_ns)
        self._classes[_class_of(duration_ns)] += 1

    def _quantile(self, percent: int) -> int:
        """The duration in ns that so many percent did not exceed."""
        wanted = -(-len(self) * percent // 100)
        seen = 0
        for number in sorted(self._classes):
            seen += self._classes[number]
            if seen >= wanted:
                return min(_longest_of(number), self._longest_ns)
        return 0

    def columns(self) -> str:
        """The quantiles and the longest, in microseconds; dashes if there was none."""
        if not self._classes:
            return f" {'-':>8}" * (len(_QUANTILES) + 1)
        times = [*(self._quantile(percent) for percent in _QUANTILES), self._longest_ns]
        return "".join(f" {each / 1000:8.1f}" for each in times)


class _Command(_Durations):
    errors = 0


class _Replier(_Durations):
    """A connection that was asked; durations are from request to reply."""

    name = ""
    requests = 0


class Summary:
    """Counts records."""

    def __init__(self) -> None:
        self._commands: dict[str, _Command] = {}
        self._repliers: dict[tuple[str, int], _Replier] = {}
        """By bus and id."""
        self._requests: OrderedDict[tuple[str, int, int], tuple[_Replier, int]] = OrderedDict()
        """By bus, requester and cookie, who was asked, and when."""

    def count(self, shown: Shown) -> None:
        """Take a record into account; what is no call, or not over, does not count as a call."""
        record = shown.record
        if record.event is not Event.CALL:
            return
        if record.command == "SEND" and record.phase is not Phase.RESUMED:
            self._look_for_replies(shown)
        if record.phase is not Phase.WAITS:
            found = self._commands.setdefault(record.command, _Command())
            found.errors += bool(record.errno or record.error)
            found.add(record.duration_ns or 0)

    def _look_for_replies(self, shown: Shown) -> None:
        record, message = shown.record, shown.message
        if record.errno or record.connection is None or record.peer is None:
            return
        bus = record.node.partition("/")[0]
        flags = message.get("flags")
        if isinstance(flags, Flags) and "KDBUS_MSG_EXPECT_REPLY" in flags.names:
            replier = self._repliers.setdefault((bus, record.peer), _Replier())
            replier.name = " ".join(record.names.get(record.peer, ())) or replier.name
            replier.requests += 1
            if isinstance(cookie := message.get("cookie"), int):
                self._requests[bus, record.connection, cookie] = replier, record.monotonic_ns
                if len(self._requests) > _REQUESTS:
                    self._requests.popitem(last=False)
        elif isinstance(cookie := message.get("cookie_reply"), int):
            asked = self._requests.pop((bus, record.peer, cookie), None)
            if asked is not None:
                asked[0].add(max(0, record.monotonic_ns - asked[1]))

    def text(self) -> str:
        """The tables: of commands, the one that took longest first; of those who were asked, the slowest first, before
        whom come those who never replied."""
        total = sum(found.total_ns for found in self._commands.values())
        rows = [_TITLE, _RULE]
        for name, found in sorted(self._commands.items(), key=lambda pair: (-pair[1].total_ns, pair[0])):
            share = 100 * found.total_ns / total if total else 0.0
            seconds = found.total_ns / 1e9
            rows.append(f"{share:6.2f} {seconds:11.6f} {len(found):9} {found.errors or '':>9}{found.columns()} {name}")
        calls = sum(len(found) for found in self._commands.values())
        errors = sum(found.errors for found in self._commands.values())
        rows += [_RULE, f"100.00 {total / 1e9:11.6f} {calls:9} {errors or '':>9}{' ' * 36} total"]
        if self._repliers:
            rows += ["", _REPLIES_TITLE, _REPLIES_RULE]
        slowest = sorted(self._repliers.items(), key=lambda pair: (len(pair[1]) > 0, -pair[1].total_ns, pair[0]))
        for (bus, number), replier in slowest:
            missing = replier.requests - len(replier)
            who = harmless(f"{bus} {number} {replier.name}".rstrip())
            rows.append(f"{replier.requests:9} {missing or '':>10}{replier.columns()} {who}")
        return "\n".join(rows) + "\n"
