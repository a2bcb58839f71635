# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said on a control socket: lines of JSON, one object each, both ways.

Who watches asks, with the version of what it understands:

    {"watch": 1, "ask": "facts"}

and is answered with fact sheets, each with a `record` that says what it is about: first `supervisor`, then those of
`broker.snapshot.walk` for each domain, and at last `end`; or with just one `error`, whose `reason` is for people, after
which the connection is closed. It may ask again on the same connection. Who asks for `supervisor` instead of `facts`
gets only the first of them.

The version changes when a key is removed or means something else. Keys may be added: who reads ignores what it does not
know. So a `kdbus` may watch a later one.

Bounds, for both sides: a question has up to `LONGEST_QUESTION` bytes, a line of an answer up to `LONGEST_LINE`.
"""

from __future__ import annotations

import json
from typing import Any

VERSION = 1
LONGEST_QUESTION = 4096
LONGEST_LINE = 1 << 20

FACTS = "facts"
SUPERVISOR = "supervisor"

Record = dict[str, Any]


class Nonsense(ValueError):
    """What came is none of this."""


def line_of(record: Record | dict[str, object]) -> bytes:
    """One object as a line."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def record_of(line: bytes) -> Record:
    """The object that a line holds. Raises Nonsense."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Nonsense(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Nonsense("no JSON object")
    return found
