# SPDX-License-Identifier: GPL-2.0-or-later
"""Which messages somebody wants to see.

A filter is an object with any of these keys; a message has to fit all that are there:

    bus       the name of its bus
    from, to  who sends it, who gets it: an id, the name of a process, or a name that the sender owns, or by which the
              receiver is addressed
    with      either of the two
    kinds     a list of what it may be, see `KINDS`
    failed    true: only those whose SEND fails

Both sides know this: the supervisor leaves out what nobody wants, and the command line finds out what is wrong with the
words before it asks.
"""

from __future__ import annotations

from collections.abc import Callable

from interposer.watching.wire import Nonsense, Record

KINDS = ("call", "reply", "signal", "message", "notification")
_TEXTS = ("bus", "from", "to", "with")


def predicate(wanted: object) -> Callable[[Record], bool]:
    """Whether a message fits. Raises Nonsense for what is no filter."""
    if not isinstance(wanted, dict):
        raise Nonsense("a filter is an object")
    for key, value in wanted.items():
        if key in _TEXTS:
            right = isinstance(value, str)
        elif key == "kinds":
            right = isinstance(value, list) and all(kind in KINDS for kind in value)
        else:
            right = key == "failed" and isinstance(value, bool)
        if not right:
            raise Nonsense(f"no filter: {key!r}")
    return lambda record: all(_fits(record, key, value) for key, value in wanted.items())


def _fits(record: Record, key: str, value: object) -> bool:
    if key == "bus":
        return bool(record["bus"] == value)
    if key == "from":
        return value in _words(record, "from")
    if key == "to":
        return value in _words(record, "to")
    if key == "with":
        return value in _words(record, "from") or value in _words(record, "to")
    if key == "kinds":
        return isinstance(value, list) and record["kind"] in value
    return not value or record["failed"] is not None


def _words(record: Record, side: str) -> tuple[object, ...]:
    names = record["from_names"] if side == "from" else [record["to_name"]]
    return str(record[side]), record[f"{side}_command"], *names
