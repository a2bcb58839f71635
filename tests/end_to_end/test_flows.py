# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows change nothing but the speed.

The same invented conversation (`programs/traffic.c`) is run with flows and without, and all that it saw is compared:
every result, errno, write-back, readiness, message and offset. The native side repeats numbers of the ABI; they are
compared with the table.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from broker import limits
from broker.flow import SLICES
from interposer.supervisor.repeated import MOST_PAIRS
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import REVISIONS, Revision
from tests.support.compiling import compile_program
from tests.support.users import PROJECT, User

SEEDS = (3, 4, 6, 15)
"""Such that nobody's queue is full of notifications for most of the time, which are not lent."""
STEPS = 4000
_STATISTICS = re.compile(r"kdbus: (\d+) calls served by the broker, (\d+) natively\n(?:kdbus: revisions spoken: .*\n)?")


@pytest.fixture(scope="module")
def traffic(open_folder: Path) -> Path:
    return compile_program("traffic", open_folder)


def run(
    user: User, program: Path, *options: str, revision: str, seed: int, arguments: tuple[str, ...]
) -> tuple[str, int, int]:
    """What the program told, and how many calls the broker and the engine have served."""
    conversation = str(program), revision, str(seed), str(STEPS), *arguments
    outcome = user.trusting.run(user.kdbus("run", "--statistics", *options, "--", *conversation))
    assert outcome.status == 0, outcome.output
    found = _STATISTICS.search(outcome.output)
    assert found is not None, outcome.output
    return _STATISTICS.sub("", outcome.output), int(found[1]), int(found[2])


@pytest.mark.parametrize("arguments", [(), ("metadata",)], ids=["plain", "metadata"])
@pytest.mark.parametrize(
    ("revision", "seed"),
    [
        *product(("3", "final", "mixed"), SEEDS),
        *product(("219", "mixed-219"), SEEDS[::3]),
        *product(("2", "mixed-2"), SEEDS[::2]),
    ],
)
def test_flows_change_nothing(user: User, traffic: Path, revision: str, seed: int, arguments: tuple[str, ...]) -> None:
    said = ("--revision", "219") if revision == "219" else ()
    speak = partial(run, user, traffic, *said, revision=revision, seed=seed, arguments=arguments)
    with_flows, broker, natively = speak()
    without, all_calls, none = speak("--no-flows")
    assert with_flows.splitlines() == without.splitlines()
    assert none == 0
    assert broker + natively == all_calls
    assert natively > all_calls // 32, "the comparison is worth nothing if next to nothing was served natively"


def served(user: User, program: Path, case: str) -> tuple[int, int]:
    """How many calls of a case the broker and the engine have served."""
    outcome = user.trusting.run(user.kdbus("run", "--statistics", "--", str(program), case))
    found = _STATISTICS.search(outcome.output)
    assert outcome.status == 0 and found is not None, outcome.output
    return int(found[1]), int(found[2])


@pytest.mark.parametrize(("case", "share"), [("many_callers_wait_at_once", 15), ("many_pairs_call_at_once", 5)])
def test_calls_that_wait_are_served_natively_again(user: User, open_folder: Path, case: str, share: int) -> None:
    """Some call waits at any time, and the broker is needed now and then; what waits with it is lent once more.

    However many take turns: all are lent, and waiting long is no reason to take anything back.
    """
    program = compile_program("reply", open_folder)
    by_broker, natively = served(user, program, case)
    assert natively > share * by_broker


def test_all_receivers_of_a_signal_are_served_natively(user: User, open_folder: Path) -> None:
    """However many take turns: the broker serves the signals, and until it knows the receivers."""
    program = compile_program("match", open_folder)
    by_broker, natively = served(user, program, "a_signal_to_many")
    assert natively > 4 * by_broker


def test_signals_to_one_are_served_natively(user: User, open_folder: Path) -> None:
    program = compile_program("match", open_folder)
    by_broker, natively = served(user, program, "a_signal_to_one")
    assert natively > 4 * by_broker


def test_a_connection_is_known_by_all_its_names(user: User, open_folder: Path) -> None:
    """A hundred names, each of which is used now and then; the broker serves the acquisition of each."""
    program = compile_program("names", open_folder)
    by_broker, natively = served(user, program, "any_of_many_names")
    assert natively > 4 * by_broker


def test_a_full_queue_refuses_natively(user: User, open_folder: Path) -> None:
    """Who is refused tries again at once; that must neither cost the broker anything nor take back what is lent."""
    program = compile_program("quota", open_folder)
    _, natively = served(user, program, "refused_over_and_over")
    assert natively > 400


@pytest.mark.parametrize(
    ("program", "case"),
    [
        ("payload", "results_of_commands_that_fail"),
        ("reply", "results_of_a_synchronous_call"),
        ("reply", "a_command_that_changes_while_it_waits"),
    ],
)
def test_results_are_stored_as_the_kernel_does(user: User, open_folder: Path, program: str, case: str) -> None:
    """On success only, and nothing else.

    `return_flags` too, which the native side could store together with the flags (handle.c: with the results).
    """
    compiled = compile_program(program, open_folder)
    outcome = user.trusting.run(user.kdbus("run", "--statistics", "--", str(compiled), case))
    found = _STATISTICS.search(outcome.output)
    assert outcome.status == 0 and found is not None, outcome.output
    assert int(found[2]) > 50, outcome.output


@pytest.mark.parametrize("mode", ["mount", "path"])
def test_what_leads_elsewhere_leaves_lent_what_is_lent(user: User, open_folder: Path, mode: str) -> None:
    compiled = compile_program("payload", open_folder)
    command = user.kdbus("run", "--statistics", "--mode", mode, "--", str(compiled), "files_elsewhere_between_calls")
    outcome = user.trusting.run(command)
    found = _STATISTICS.search(outcome.output)
    assert outcome.status == 0 and found is not None, outcome.output
    # SEND and RECV of nearly all of the 200 rounds.
    assert int(found[2]) > 350, outcome.output


def native_number(name: str) -> int:
    """The number that a #define of the native sources gives to `name`."""
    for file in ("hot_path.h", "flow.h"):
        text = (PROJECT / "native" / file).read_text(encoding="ascii")
        found = re.search(rf"^#define {name} \(?(\w+?)U?L*(?: << (\d+)\))?(?: |$)", text, re.MULTILINE)
        if found is not None:
            return int(found[1], 0) << int(found[2] or 0)
    raise AssertionError(f"{name} is defined nowhere")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SEND_SYNC_REPLY", abi.SEND_SYNC_REPLY),
        ("RECV_FLAGS", abi.RECV_PEEK | abi.RECV_DROP | abi.RECV_USE_PRIORITY),
        ("MSG_EXPECT_REPLY", abi.MESSAGE_EXPECT_REPLY),
        ("MSG_NO_AUTO_START", abi.MESSAGE_NO_AUTO_START),
        ("MSG_FLAGS", abi.MESSAGE_EXPECT_REPLY | abi.MESSAGE_NO_AUTO_START | abi.MESSAGE_SIGNAL),
        ("MEMFD_ITEM", 16 + abi.STRUCTS["kdbus_memfd"].size),
        ("RETURN_INCOMPLETE_FDS", abi.RECV_RETURN_INCOMPLETE_FDS),
        ("TIMESTAMP_ITEM", 16 + abi.STRUCTS["kdbus_timestamp"].size),
        ("HEADER_BYTES", abi.STRUCTS["kdbus_msg"].size),
        ("LENT_MESSAGES", limits.MESSAGES_PER_CONNECTION),
        ("LENT_REQUESTS", limits.REQUESTS_PER_CONNECTION),
        ("LENT_UNACCOUNTED", limits.MESSAGES_UNACCOUNTED),
        ("LENT_PER_USER", limits.MESSAGES_PER_USER),
        ("LENT_NAME", limits.NAME_LENGTH + 1),
        ("LENT_PAYLOAD", limits.MESSAGE_PAYLOAD),
        ("LENT_FLOWS", 4 * MOST_PAIRS),
        ("LENT_SLICES", SLICES),
    ],
)
def test_native_numbers_are_those_of_the_table(name: str, number: int) -> None:
    assert native_number(name) == number


_POINTING = [revision for revision in REVISIONS if "kdbus_cmd_send" in revision.structs]
"""Revisions whose SEND points to the message: others are not served natively."""


@pytest.mark.parametrize("revision", _POINTING, ids=lambda revision: revision.name)
def test_native_words_of_a_message_are_those_of_the_tables(revision: Revision) -> None:
    text = (PROJECT / "native" / "hot_path.h").read_text(encoding="ascii")
    enumerators = re.search(r"enum { (MSG_SIZE[^}]*) }", text)
    members = "size flags priority dst_id src_id payload_type cookie timeout_ns".split()
    assert enumerators is not None and len(enumerators[1].split(",")) == len(members) + 1
    offsets = [revision.structs["kdbus_msg"].span(member)[0] for member in members]
    assert offsets == [8 * place for place in range(len(members))]
