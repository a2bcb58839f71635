# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said on a control socket: lines of JSON, one object each, both ways.

Who watches asks, with the version of what it understands:

    {"watch": 1, "ask": "facts"}

and is answered with fact sheets, each with a `record` that says what it is about: first `supervisor`, then those of
`broker.snapshot.walk` for each domain, and at last `end`; or with just one `error`, whose `reason` is for people, after
which the connection is closed. It may ask again on the same connection. Who asks for `supervisor` instead of `facts`
gets only the first of them.

With `"traffic": true`, sheets of connections have a `traffic`, from that question on until the conversation ends: what
each has sent and got, and how long its replies took.

    {"watch": 1, "ask": "messages", "preview": 64, "filter": {...}}

is answered without end, by the `supervisor`, and then a `message` record for each that passes
(`interposer.supervisor.messages`) and that the filter lets through (`interposer.watching.filters`); `dropped` tells how
many are missing in its place, as they came faster than they were read.

    {"watch": 1, "ask": "calls", "payload": 16384}

is answered in the same way with a `call` for each call on kdbus, whose `frame` is a record as recordings have it
(`tracing.recording`), in base64, with so much of payloads.

The version changes when a key is removed or means something else. Keys may be added: who reads ignores what it does not
know. So a `kdbus` may watch a later one.

Bounds, for both sides: a question has up to `LONGEST_QUESTION` bytes, a line of an answer up to `LONGEST_LINE`.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

VERSION = 1
LONGEST_QUESTION = 4096
LONGEST_LINE = 1 << 20

FACTS = "facts"
SUPERVISOR = "supervisor"
MESSAGES = "messages"
CALLS = "calls"

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


def with_payload(record: Record, limit: int) -> Record:
    """A record of the tap as it is sent: of its payload the first `limit` bytes, in base64 (RFC 4648)."""
    if "payload" not in record:
        return record
    return {**record, "payload": b64encode(record["payload"][:limit]).decode()}
