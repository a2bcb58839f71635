# SPDX-License-Identifier: GPL-2.0-or-later
"""A short fuzz of kdbus under the real `kdbus run` (`tests.fuzz`), with flows and without; and the fuzzer's reports.

About 20 seconds, with CI=true a minute. KDBUS_FUZZ_SEED chooses other calls, KDBUS_FUZZ_SECONDS another time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import Settings, again, build, build_32_bit, play
from tests.support.supervised import Footprint, Supervised, SupervisorFailed, footprint
from tests.support.users import User

SEED = int(os.environ.get("KDBUS_FUZZ_SEED", "1"))
SECONDS = float(os.environ.get("KDBUS_FUZZ_SECONDS", "60" if os.environ.get("CI") == "true" else "20"))


@pytest.fixture(scope="module")
def fuzzer(open_folder: Path) -> Path:
    return build(open_folder)


@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize(
    ("revision", "flows", "share"),
    [("3", True, 0.3), ("3", False, 0.15), ("final", True, 0.2), ("final", False, 0.1), ("mixed", True, 0.25)],
)
def test_fuzz(fuzzer: Path, revision: str, flows: bool, share: float) -> None:
    """Nothing is found: no crash, no surprise, no wrong answer, and nothing is left behind between the rounds."""
    settings = Settings(seed=SEED, flows=flows, revision=revision)
    outcome = play(fuzzer, settings, first=1, seconds=share * SECONDS)
    if outcome.finding is not None:
        told = f"seed {SEED}, round {outcome.finding.round}: {outcome.finding.text}"
        pytest.fail(f"{told}\n{again(fuzzer, settings, outcome.finding)}", pytrace=False)
    assert outcome.rounds > 0 and outcome.by_broker > 0
    assert flows or outcome.natively == 0


@pytest.mark.parametrize("revision", ["3", "final", "mixed"])
def test_busy_rounds_are_served_natively(fuzzer: Path, revision: str) -> None:
    """Otherwise the fuzz says nothing about the native helper."""
    outcome = play(fuzzer, Settings(seed=1, revision=revision), first=11, seconds=None, rounds=8)
    assert outcome.finding is None, outcome.finding.text
    assert outcome.natively > outcome.by_broker // 100


@pytest.mark.parametrize(
    "settings",
    [
        Settings(mode="path"),
        Settings(guarantee="held"),
        Settings(guarantee="confirmed"),
        Settings(revision="final", self_serve=True),
        Settings(revision="mixed", self_serve=True),
        Settings(with_32_bit=True),
        Settings(revision="mixed", mode="path", with_32_bit=True),
    ],
    ids=["path", "held", "confirmed", "self-serve", "mixed self-serve", "32-bit", "mixed 32-bit path"],
)
def test_other_ways_of_serving(fuzzer: Path, settings: Settings) -> None:
    """Path mode, kernels that break off waits, and processes of two kinds."""
    if settings.with_32_bit:
        try:
            build_32_bit(fuzzer)
        except subprocess.CalledProcessError:
            pytest.skip("needs a compiler and a C library for 32 bits: apt-get install gcc-multilib")
    outcome = play(fuzzer, settings, first=1, seconds=None, rounds=3)
    assert outcome.finding is None, outcome.finding.text


def test_as_each_user(user: User, fuzzer: Path) -> None:
    """An ordinary user's supervisor has no privileges, and sees its programs through user namespaces."""
    outcome = play(fuzzer, Settings(seed=2, user=user), first=1, seconds=None, rounds=3)
    assert outcome.finding is None, outcome.finding.text


@pytest.fixture
def pretender(tmp_path: Path) -> Iterator[Path]:
    """A program that says what the fuzzer says, and whatever the test adds."""
    program = tmp_path / "pretender"
    program.write_text("#!/bin/sh\necho ready\nread line\n")
    program.chmod(0o755)
    yield program


_KEEPER = """#!{python}
import fcntl, os, threading

def call(descriptor):
    try:
        fcntl.ioctl(descriptor, 0x9501)
    except OSError:
        pass

def handle():
    opened = os.open("/sys/fs/kdbus/control", os.O_RDWR)
    call(opened)
    return opened

os.close(handle())
print("ready", flush=True)
for number in range(1, 5):
    input()
    kept = handle()
    if number < 3:
        os.close(kept)
        call(0)  # by then the supervisor has looked after what was closed
    elif "{keeps}" == "let_go":
        threading.Timer(1, os.close, [kept]).start()
    print(f"round {{number}}: 1 calls", flush=True)
"""
"""Says what the fuzzer says, and keeps a handle in the third round."""


def finding(program: Path, script: str) -> str:
    with program.open("a") as file:
        file.write(script)
    outcome = play(program, Settings(flows=False), first=1, seconds=None, rounds=1)
    assert outcome.finding is not None
    assert outcome.finding.round == 1
    return outcome.finding.text


def test_what_the_supervisor_writes_is_a_finding(pretender: Path) -> None:
    said = "kdbus: serving system call 16 of thread 7 failed unexpectedly"
    assert said in finding(pretender, f"echo '{said}' >&2; echo 'round 1: 5 calls'; read line")


def test_a_program_that_ends_is_a_finding(pretender: Path) -> None:
    assert "status 1" in finding(pretender, "echo 'fuzz: FOUND something' >&2; exit 1")
    assert "FOUND something" in finding(pretender, "")


def test_a_bad_end_is_a_finding(pretender: Path) -> None:
    assert "status 3" in finding(pretender, "echo 'round 1: 5 calls'; read line; exit 3")


def test_what_is_left_over_is_told() -> None:
    before = Footprint(Counter({"socket:[N]": 2, "/dev/null": 1}), pools=1, children=0, threads=1, memory=5)
    after = Footprint(Counter({"socket:[N]": 5, "pipe:[N]": 1}), pools=2, children=0, threads=1, memory=9)
    assert after.difference(before) == "-1 /dev/null, +1 pipe:[N], +3 socket:[N], +1 pools"
    assert not after.difference(after)


@pytest.mark.parametrize(("keeps", "told"), [("open", "0 s later"), ("let_go", "but not for long")])
def test_what_is_held_after_a_round_is_told_as_what_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: str, told: str
) -> None:
    program = tmp_path / "keeper"
    program.write_text(_KEEPER.format(python=sys.executable, keeps=keeps))
    program.chmod(0o755)
    monkeypatch.setattr("tests.fuzz._STAYS_SECONDS", 0 if keeps == "open" else 60)
    outcome = play(program, Settings(guarantee="remembered"), first=1, seconds=None, rounds=4)
    assert outcome.finding is not None
    assert outcome.finding.round == 3
    assert outcome.finding.text.startswith("after the round the supervisor holds +")
    assert told in outcome.finding.text


def test_footprint_sees_a_descriptor() -> None:
    before = footprint(os.getpid())
    ours, theirs = os.pipe()
    try:
        assert footprint(os.getpid()).difference(before) == "+2 pipe:[N]"
    finally:
        os.close(ours)
        os.close(theirs)


def test_silence_is_a_failure() -> None:
    with Supervised(["sleep", "100"]) as supervised, pytest.raises(SupervisorFailed, match="no answer"):
        supervised.line(0.1)
