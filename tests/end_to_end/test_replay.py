# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus replay`: recorded clients against a live service, and a recorded service against a live client.

The two are one program (`tests/programs/replayed.c`) under two names, which is how `kdbus replay` tells who is live.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.compiling import compile_program
from tests.support.users import PROJECT, User, current_user, readable_folder

SHOP = ("shop", "0-talk", "5", "2")
BUYER = ("buyer", "0-talk", "bread", "milk")


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording, and the programs that it is of."""

    path: Path
    shop: str
    buyer: str

    def replay(self, *words: str, program: str = "", arguments: tuple[str, ...] = ()) -> tuple[int, str]:
        """Replay with these options against a program; the exit status, and what was printed."""
        user = current_user()
        outcome = user.run(user.kdbus("replay", *words, str(self.path), "--", program, *arguments))
        return outcome.status, outcome.output


def own(words: tuple[str, ...]) -> tuple[str, ...]:
    """With the bus of whoever runs this."""
    return tuple(word.replace("0-talk", f"{os.geteuid()}-talk") for word in words)


def once_open(shop: str, buyer: str) -> str:
    """A shell's script: the buyer begins when the shop is open."""
    return f"{shop} | {{ read open; exec {buyer}; }}"


@pytest.fixture(scope="module", params=["3", "219", "final"])
def recording(request: pytest.FixtureRequest, open_folder: Path) -> Iterator[Recording]:
    """The shop answers two requests of the buyer, and tells everybody that it is closed."""
    program = compile_program("replayed", open_folder, f"-I{PROJECT / 'samples'}", revision=request.param)
    with readable_folder() as folder:
        shop, buyer = (shutil.copy(program, folder / name) for name in ("shop", "buyer"))
        found = Recording(folder / "talk", str(shop), str(buyer))
        revision = ["--revision", "219"] if request.param == "219" else []
        user = current_user()
        script = once_open(f"{shop} {' '.join(own(SHOP))}", f"{buyer} {' '.join(own(BUYER))}")
        words = ["record", "-o", str(found.path), "--make-bus", "talk", *revision, "--linger", "--", "sh", "-c", script]
        outcome = user.run(user.kdbus(*words))
        assert (outcome.status, outcome.output) == (0, "bread costs 5\nmilk costs 5\nclosed\n"), outcome.output
        yield found


def test_a_service_that_does_the_same(recording: Recording) -> None:
    status, output = recording.replay(program=recording.shop, arguments=own(SHOP))
    assert status == 0, output
    assert re.fullmatch(r"open\nkdbus: replayed \d calls against '.*/shop': all \d calls of it as recorded\n", output)


def test_a_client_that_does_the_same(recording: Recording) -> None:
    status, output = recording.replay(program=recording.buyer, arguments=own(BUYER))
    assert status == 0, output
    *said, verdict = output.splitlines()
    # The played shop answers what was asked now, and tells once the buyer wants to be told.
    assert said == ["bread costs 5", "milk costs 5", "closed"]
    assert verdict.endswith("of it as recorded")


def test_a_service_that_answers_differently(recording: Recording) -> None:
    status, output = recording.replay(program=recording.shop, arguments=own(("shop", "0-talk", "6", "2")))
    assert status == 1
    changed = [line.strip() for line in output.splitlines() if re.match(r"[-+] ", line)]
    assert [line.replace(" ", "") for line in changed] == [
        f"{sign}payload,{size}bytes:\"{what}costs{price}\\0\""
        for what, size in (("bread", 14), ("milk", 13))
        for sign, price in (("-", 5), ("+", 6))
    ]
    assert "(shop, org.example.Shop) differs from the recording" in output
    assert output.endswith(": 1 difference\n")


def test_what_a_mask_covers_is_not_compared(recording: Recording) -> None:
    words = ("--mask", r"costs \d")
    status, output = recording.replay(*words, program=recording.shop, arguments=own(("shop", "0-talk", "6", "2")))
    assert (status, "as recorded" in output) == (0, True), output


def test_a_client_that_asks_less(recording: Recording) -> None:
    words = ("--patience", "0.5")
    status, output = recording.replay(*words, program=recording.buyer, arguments=own(("buyer", "0-talk", "bread")))
    assert status == 1
    assert '-    payload, 5 bytes: "milk\\0"' in output.splitlines()
    assert "the request that it answers has not come" in output
    assert "SEND did not come before record" in output


def test_a_client_that_asks_more(recording: Recording) -> None:
    arguments = own(("buyer", "0-talk", "bread", "milk", "eggs"))
    status, output = recording.replay("--patience", "30", program=recording.buyer, arguments=arguments)
    assert status == 1
    assert '+    payload, 5 bytes: "eggs\\0"' in output.splitlines()


def test_a_program_that_does_nothing(recording: Recording) -> None:
    words = ("--patience", "0.5", "--play", "buyer")
    status, output = recording.replay(*words, program="/bin/false")
    assert status == 1
    assert "-NAME_ACQUIRE" in output.splitlines() and "the program had ended" in output
    assert recording.replay(*words, program="/bin/sh", arguments=("-c", "exit 7"))[0] == 7
    assert recording.replay(*words, program="/bin/sh", arguments=("-c", "kill -SEGV $$"))[0] == -11


def test_a_program_that_does_not_end(recording: Recording) -> None:
    status, output = recording.replay("--patience", "0.2", "--play", "buyer", program="/bin/sleep", arguments=("60",))
    assert status == 1 and "the program was still running, and was ended by SIGTERM" in output


def test_peers_are_chosen_by_name_and_id(recording: Recording) -> None:
    for who in ("org.example.Shop", "shop"):
        status, output = recording.replay("--play", who, program=recording.buyer, arguments=own(BUYER))
        assert status == 0, output
    output = recording.replay("--play", "nobody", program=recording.buyer)[1]
    number = re.search(r"connection (\d+) on \d+-talk \(shop, org.example.Shop\)", output)
    assert number is not None, output
    assert recording.replay("--play", number[1], program=recording.buyer, arguments=own(BUYER))[0] == 0


def test_recorded_time_is_kept(open_folder: Path) -> None:
    """A pause before the client's request is made again with --timing, and not without."""
    program = compile_program("replayed", open_folder, f"-I{PROJECT / 'samples'}", revision="final")
    user = current_user()
    with readable_folder() as folder:
        shop, buyer = (str(shutil.copy(program, folder / name)) for name in ("shop", "buyer"))
        words = ["--make-bus", "talk", "--inject", "SEND:delay=1s:process=buyer:when=1"]
        one = own(("shop", "0-talk", "5", "1"))
        script = once_open(f"{shop} {' '.join(one)}", f"{buyer} {' '.join(own(('buyer', '0-talk', 'bread')))}")
        outcome = user.run(user.kdbus("record", "-o", f"{folder}/talk", *words, "--linger", "--", "sh", "-c", script))
        assert outcome.status == 0, outcome.output
        for options, slow in ((("--timing",), True), ((), False)):
            begun = time.monotonic()
            outcome = user.run(user.kdbus("replay", *options, f"{folder}/talk", "--", shop, *one))
            assert outcome.status == 0, outcome.output
            if slow:
                assert time.monotonic() - begun >= 1


def test_an_ordinary_user_replays(recording: Recording, ordinary_user: User) -> None:
    """What another user has recorded: the bus has this one's number in front."""
    recording.path.parent.chmod(0o755)
    recording.path.chmod(0o644)
    bus = f"{ordinary_user.identity or 0}-talk"
    words = ("replay", str(recording.path), "--", recording.shop, "shop", bus, "5", "2")
    outcome = ordinary_user.run(ordinary_user.kdbus(*words))
    assert outcome.status == 0, outcome.output


def test_descriptors_cannot_be_played(open_folder: Path) -> None:
    user = current_user()
    program = str(compile_program("descriptors", open_folder))
    with readable_folder() as folder:
        path = str(folder / "recording")
        assert user.run(user.kdbus("record", "-o", path, "--", program, "a_pipe_and_a_file")).status == 0
        outcome = user.run(user.kdbus("replay", "--play", "1", path, "--", "true"))
        assert outcome.status == 125
        assert "passes descriptors, which cannot be recorded" in outcome.output


def test_what_is_damaged_is_not_played(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(recording.path.read_bytes()[:-5])
    outcome = current_user().run(current_user().kdbus("replay", str(path), "--", "true"))
    assert outcome.status == 125 and "it is cut off behind" in outcome.output


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "there is no recording"),
        (("/nowhere/file", "true"), "opening the recording '/nowhere/file': No such file or directory"),
        (("/bin/sh", "true"), "it is no recording of kdbus"),
        (("file",), "there is no program to play against"),
        (("file", "--timing", "true"), "options stand before it"),
        (("--mask", "(", "file", "true"), "--mask '('"),
        (("--patience", "never", "file", "true"), "--patience 'never' is no number of seconds"),
    ],
)
def test_what_cannot_be_done(words: tuple[str, ...], part: str) -> None:
    outcome = current_user().run(current_user().kdbus("replay", *words))
    assert outcome.status == 125 and part in outcome.output, outcome.output


def test_not_within_another(recording: Recording) -> None:
    user = current_user()
    inner = user.kdbus("replay", str(recording.path), "--", recording.buyer, *own(BUYER))
    outcome = user.run(user.kdbus("run", "--", *inner))
    assert outcome.status == 125
    assert f"replaying against '{recording.buyer}': an outer `kdbus run` serves" in outcome.output
