# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls whose memory does not come, traced: each is there once, whole, once it has been served.

The programs of `tests/programs/stalls.c` pass as without a trace; what each call says is told there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiling import compile_program
from tests.support.users import User, readable_folder

pytestmark = pytest.mark.parametrize("user", ["root"], indirect=True)
TEXT = b"A message of 23 bytes.\0"


def traced(program: Path, case: str, user: User, *options: str) -> list[dict[str, Any]]:
    """The calls of a case, which must pass."""
    with readable_folder() as folder:
        folder.chmod(0o777)
        path = folder / "trace"
        outcome = user.run(user.kdbus("trace", "--json", *options, "-o", str(path), "--", str(program), case))
        records = [json.loads(line) for line in path.read_text().splitlines()]
    assert (outcome.status, outcome.output) == (0, f"ok 1 - {case}\n1..1\n")
    sequence = [record["sequence"] for record in records]
    assert sequence == sorted(set(sequence))
    return [record for record in records if record["event"] == "call"]


@pytest.fixture(scope="module")
def program(open_folder: Path) -> Path:
    return compile_program("stalls", open_folder)


def payload(call: dict[str, Any]) -> bytes:
    return bytes.fromhex(call.get("payload", {}).get("hex", ""))


@pytest.mark.parametrize("options", [(), ("-k",)], ids=["plain", "stacks"])
def test_a_payload(user: User, program: Path, options: tuple[str, ...]) -> None:
    calls = traced(program, "a_payload_that_does_not_come", user, *options)
    assert [(call["command"], call["errno"]) for call in calls if payload(call).startswith(b"late")] == [
        ("SEND", None),
        ("RECV", None),
    ]
    if not options:
        return  # native code may have served it, as if it came when it was whole
    (late,) = [call for call in calls if call["command"] == "SEND" and payload(call).startswith(b"late")]
    before = [call for call in calls if call["command"] == "SEND" and call["sequence"] < late["sequence"]]
    # It had begun when others went on, and was over behind them.
    assert late["monotonic_ns"] < before[-1]["monotonic_ns"]
    assert late["monotonic_ns"] + late["duration_ns"] > before[-1]["monotonic_ns"]


@pytest.mark.parametrize("case", ["a_message_that_does_not_come", "a_command_that_does_not_come"])
def test_a_command(user: User, program: Path, case: str) -> None:
    calls = traced(program, case, user)
    by_the_call = [call for call in calls if call["tid"] != call["pid"] and call["command"] == "SEND"]
    assert [(payload(call), call["errno"]) for call in by_the_call] == [(TEXT, None)]


def test_results(user: User, program: Path) -> None:
    calls = traced(program, "results_of_recv_that_cannot_be_written_yet", user)
    (late,) = [call for call in calls if call["command"] == "RECV" and call.get("message", {}).get("cookie") == 7]
    assert payload(late) == TEXT and late["results"]["msg"]["msg_size"] > 0


def test_a_reply(user: User, program: Path) -> None:
    calls = traced(program, "a_reply_that_cannot_be_written_yet", user)
    waiting = [call for call in calls if call["phase"] == "unfinished"]
    over = [call for call in calls if call["phase"] == "resumed"]
    assert waiting and len(waiting) == len(over)
    assert {call["tid"] for call in waiting} == {call["tid"] for call in over}


def test_one_that_is_killed(user: User, program: Path) -> None:
    """What never happened is not shown."""
    assert traced(program, "killed_while_memory_does_not_come", user)
