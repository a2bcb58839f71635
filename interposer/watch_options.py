# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of subcommands that look at a kdbus that runs (list, tree, status, policy, monitor and top), read.

Imported only by whoever watches.
"""

from __future__ import annotations

import os

from interposer.ending import say_all
from interposer.errors import UsageError, quoted
from interposer.options import Given, see_help, suggestion

_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.2, 60.0


def look(word: str, given: Given, rest: list[str]) -> int:
    """`kdbus WORD`, which asks a supervisor what there is, and prints it. Raises InterposerError."""
    from interposer.watching.show import answer

    if word == "status" and not rest:
        raise UsageError("reading the arguments of `kdbus status`", "there is no id or name", see_help(word))
    wanted = rest[0] if rest else ""
    say_all(answer(word, *which(word, given), given.last("--bus"), wanted, as_json="--json" in given))
    return 0


def monitor(given: Given) -> int:
    """`kdbus monitor`; does not end by itself, unless --count says so. Raises InterposerError."""
    from interposer.watching.filters import KINDS
    from interposer.watching.monitor import lines

    attempted = "reading the options of `kdbus monitor`"
    wanted: dict[str, object] = {}
    for option in ("--bus", "--from", "--to", "--with"):
        if option in given:
            wanted[option[2:]] = given.last(option)
    if "--kind" in given:
        wanted["kinds"] = kinds = [kind for words in given["--kind"] for kind in words.split(",")]
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            advice = suggestion(unknown[0], KINDS) or f"there are {', '.join(KINDS)}"
            raise UsageError(attempted, f"there is no kind {quoted(unknown[0])} of messages", advice)
    if "--failed" in given:
        wanted["failed"] = True
    count = given.last("--count")
    if count is not None and not (count.isascii() and count.isdigit() and int(count)):
        raise UsageError(attempted, f"--count {quoted(count)} is no number of messages", see_help("monitor"))
    for text in lines(
        *which("monitor", given), wanted, None if count is None else int(count), as_json="--json" in given
    ):
        say_all(text)
    return 0


def top(given: Given) -> int:
    """`kdbus top`, until its user leaves it. Raises InterposerError."""
    attempted = "showing what happens on a kdbus"
    interval = given.last("--interval") or "1"
    try:
        seconds = float(interval)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_INTERVAL_S <= seconds <= _LONGEST_INTERVAL_S:
        reason = f"--interval {quoted(interval)} is no number of seconds from 0.2 to 60"
        raise UsageError("reading the options of `kdbus top`", reason, see_help("top"))
    asked = which("top", given)
    if not (os.isatty(0) and os.isatty(2)):
        raise UsageError(attempted, "there is no terminal", "`kdbus list` and `kdbus monitor` need none")
    try:
        from interposer.watching.top import Top
    except ModuleNotFoundError as error:
        advice = "install it: pip install 'kdbus-interposer[top]'; `kdbus list` and `kdbus monitor` need nothing"
        raise UsageError(attempted, f"there is no module {error.name}", advice) from error
    from interposer.watching.ask import watch

    with watch(*asked) as watching:
        shown = Top(watching, given.last("--bus"), seconds, light="--light" in given)
        shown.run()
    if shown.failure is not None:
        raise shown.failure
    return 0


def which(word: str, given: Given) -> tuple[str | None, int | None]:
    """The domain and the process that `kdbus WORD` is told to watch."""
    domain, process = given.last("--domain"), given.last("-p") or given.last("--pid")
    attempted = f"reading the options of `kdbus {word}`"
    if domain is not None and process is not None:
        raise UsageError(attempted, "--domain and -p both say what to watch", "leave one out")
    if process is not None and not (process.isascii() and process.isdigit()):
        raise UsageError(attempted, f"-p {quoted(process)} is no process id", "`kdbus list` without it says which are")
    return domain, None if process is None else int(process)
