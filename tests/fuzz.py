# SPDX-License-Identifier: GPL-2.0-or-later
"""The fuzzer: real processes issue invented calls under the real `kdbus run`, and both ends are watched.

    python -m tests.fuzz --seconds 600               fuzz for ten minutes
    python -m tests.fuzz --seed 5 --round 12         play one round once more
    python -m tests.fuzz --no-flows                  every call served by the broker
    python -m tests.fuzz --revision mixed            programs of version 3 and of the final revision on the same buses
    python -m tests.fuzz --revision final --self-serve      receivers serve themselves
    python -m tests.fuzz --with-32-bit               every second process is a 32-bit one

The calls are invented, and judged from the program's side, by `programs/fuzz.c`: real structures are made up and then
spoiled, in memory of all kinds, by processes that fork, die, pass their descriptors on and are interrupted. Random
bytes alone would hardly ever get past the first check. Here the supervisor is watched: it must write nothing (a call
that "failed unexpectedly" is told there), answer in time, and hold between two rounds what it held before the first.

A seed and the number of a round decide what every thread does. How threads and processes interleave they do not
decide, so a finding is played again several times, and the report says how often it came back.

`KDBUS_EXACTLY_ONCE=kernel` is set where this kernel keeps that promise: then calls are served natively from the
beginning, and not only when the kernel has been probed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from interposer.launch.guarantee import Guarantee
from interposer.traps.probe import Probe
from tests.support.compiling import compile_program
from tests.support.supervised import GUARANTEE, UNSEEN, Footprint, Supervised, SupervisorFailed, footprint
from tests.support.users import User

STEPS = 600
"""Calls per thread and round, about: a round takes a second or two."""
WARM_UP = 2
"""Rounds until everything that is kept for good has been made once."""
GROWTH = 24 << 20
"""Bytes that the supervisor's resident memory may grow by in all rounds after these."""
_ROUND_SECONDS = 120
_STAYS_SECONDS = 5
"""What is held for so long is held for good."""
_REPLAYS = 3


@dataclass(slots=True)
class Settings:
    """How to fuzz."""

    seed: int = 1
    steps: int = STEPS
    flows: bool = True
    user: User | None = None
    """Who runs it; None for who runs this."""
    mode: str | None = None
    """`mount` or `path` (`kdbus run --mode`)."""
    guarantee: str | None = None
    """How answers are made sure to arrive (`interposer.launch.guarantee`); None: in the way in which flows begin at
    once."""
    compare_memory: bool = True
    revision: str = "3"
    """What programs speak: "3", "final", or "mixed"."""
    self_serve: bool = False
    """Whether receivers serve themselves."""
    with_32_bit: bool = False
    """Whether every second process is built for 32 bits (`build_32_bit`)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not happen: in which round, and what."""

    round: int
    text: str


@dataclass(slots=True)
class Outcome:
    """What a run of the fuzzer came to."""

    rounds: int = 0
    calls: int = 0
    by_broker: int = 0
    natively: int = 0
    growth: int = 0
    """Resident bytes of the supervisor, between the warm-up and the last round."""
    finding: Finding | None = None


def build(folder: Path) -> Path:
    """Compile the fuzzer into `folder`, for each revision; that of version 3 is returned, and stands for all."""
    compile_program("fuzz", folder, revision="final")
    return compile_program("fuzz", folder)


def build_32_bit(program: Path) -> None:
    """Compile what `Settings.with_32_bit` asks for, beside what `build` has returned. Raises CalledProcessError where
    that is not possible: no x86-64, or no C library for it."""
    folder = _folder_32_bit(program)
    folder.mkdir(mode=0o755, exist_ok=True)
    compile_program("fuzz", folder, "-m32", revision="final")
    compile_program("fuzz", folder, "-m32")


def _folder_32_bit(program: Path) -> Path:
    return program.with_name("32-bit")


def kernel_keeps_promise() -> bool:
    """Whether this kernel never loses an answer (`interposer.traps.exactly_once`)."""
    probe = Probe()
    try:
        return probe.works()
    finally:
        probe.close()


def start(program: Path, settings: Settings) -> Supervised:
    environment = dict(UNSEEN)
    if settings.guarantee is not None:
        environment[GUARANTEE] = settings.guarantee
    elif settings.flows and kernel_keeps_promise():
        environment[GUARANTEE] = "kernel"
    options = [] if settings.flows else ["--no-flows"]
    options += ["--self-serve"] if settings.self_serve else []
    options += [] if settings.mode is None else ["--mode", settings.mode]
    final = program.with_name(f"{program.name}-final")
    first = final if settings.revision == "final" else program
    other = None if settings.revision in ("3", "final") else final
    if settings.with_32_bit:
        other = _folder_32_bit(program) / (other or first).name
    command = [str(first), str(settings.seed), str(settings.steps)] + ([] if other is None else [str(other)])
    return Supervised(command, options=options, environment=environment, user=settings.user)


def play(program: Path, settings: Settings, *, first: int, seconds: float | None, rounds: int | None = None) -> Outcome:
    """Play rounds from number `first` on under one supervisor, for `seconds`, or so many `rounds`."""
    outcome = Outcome()
    number = first - 1
    stop = None if seconds is None else time.monotonic() + seconds
    with start(program, settings) as supervised:
        try:
            if supervised.line(_ROUND_SECONDS) != "ready":
                raise SupervisorFailed("the fuzzer does not start")
            baseline: Footprint | None = None
            while (rounds is None or outcome.rounds < rounds) and (stop is None or time.monotonic() < stop):
                number += 1
                supervised.tell(str(number))
                outcome.calls += int(supervised.line(_ROUND_SECONDS).split()[2])
                outcome.rounds += 1
                supervised.await_loop()
                if unexpected := supervised.unexpected():
                    raise SupervisorFailed(unexpected)
                now = footprint(supervised.pid)
                if outcome.rounds <= WARM_UP or baseline is None:
                    baseline = now
                elif changes := now.difference(baseline):
                    later = _later(supervised, baseline)
                    raise SupervisorFailed(f"after the round the supervisor holds {changes}{later}")
                outcome.growth = now.memory - baseline.memory
                if outcome.growth > GROWTH and settings.compare_memory:
                    raise SupervisorFailed(f"the supervisor's memory has grown by {outcome.growth >> 20} MiB")
            status = supervised.finish(_ROUND_SECONDS)
            if status or supervised.unexpected():
                raise SupervisorFailed(f"the end: status {status}; {supervised.unexpected()}")
            outcome.by_broker, outcome.natively = supervised.served()
        except SupervisorFailed as error:
            text = str(error)
            if supervised.unexpected() not in text:
                text += f"\n{supervised.unexpected()}"
            outcome.finding = Finding(number, text)
    return outcome


def _later(supervised: Supervised, baseline: Footprint) -> str:
    """Whether what it held more for a moment stays, in words. All processes of the round have ended by now."""
    stop = time.monotonic() + _STAYS_SECONDS
    while changes := footprint(supervised.pid).difference(baseline):
        if time.monotonic() >= stop:
            return f"; {changes} {_STAYS_SECONDS} s later"
        time.sleep(0.05)
    return ", but not for long"


def again(program: Path, settings: Settings, finding: Finding) -> str:
    """Play the round of a finding some times more, alone; what came of it, in words."""
    played = [play(program, settings, first=finding.round, seconds=None, rounds=1) for _ in range(_REPLAYS)]
    count = sum(outcome.finding is not None for outcome in played)
    options = f"--seed {settings.seed} --round {finding.round} --steps {settings.steps}"
    options += "" if settings.flows else " --no-flows"
    options += " --self-serve" if settings.self_serve else ""
    options += " --with-32-bit" if settings.with_32_bit else ""
    options += "" if settings.revision == "3" else f" --revision {settings.revision}"
    options += "" if settings.mode is None else f" --mode {settings.mode}"
    options += "" if settings.guarantee is None else f" --guarantee {settings.guarantee}"
    return f"played again {_REPLAYS} times, it failed {count} times: python -m tests.fuzz {options}"


def main() -> int:
    """Fuzz; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz kdbus under `kdbus run`.")
    parser.add_argument("--seconds", type=float, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="other seeds invent other calls")
    parser.add_argument("--round", type=int, help="play this round alone, once")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"calls per thread and round (default: {STEPS})")
    parser.add_argument("--no-flows", action="store_true", help="serve every call in the broker")
    parser.add_argument("--revision", choices=("3", "final", "mixed"), default="3", help="what is spoken (default: 3)")
    parser.add_argument("--self-serve", action="store_true", help="let receivers serve themselves")
    parser.add_argument("--with-32-bit", action="store_true", help="make every second process one of 32 bits")
    parser.add_argument("--mode", choices=("mount", "path"), help="as for `kdbus run`")
    parser.add_argument("--guarantee", choices=[guarantee.value for guarantee in Guarantee], help="force this one")
    parser.add_argument("--instrumented", action="store_true", help="expect a supervisor that keeps more memory")
    given = parser.parse_args()
    settings = Settings(given.seed, given.steps, not given.no_flows, mode=given.mode, guarantee=given.guarantee)
    settings.compare_memory = not given.instrumented
    settings.revision, settings.self_serve, settings.with_32_bit = given.revision, given.self_serve, given.with_32_bit
    with tempfile.TemporaryDirectory(prefix="kdbus-fuzz-") as folder:
        program = build(Path(folder))
        if given.with_32_bit:
            build_32_bit(program)
        if given.round is not None:
            outcome = play(program, settings, first=given.round, seconds=None, rounds=1)
        else:
            seconds = 60.0 if given.seconds is None else given.seconds
            outcome = play(program, settings, first=1, seconds=seconds)
        print(
            f"seed {settings.seed}: {outcome.rounds} rounds, {outcome.calls} calls; {outcome.by_broker} served by the "
            f"broker, {outcome.natively} natively; the supervisor's memory: {outcome.growth >> 10:+d} KiB"
        )
        if outcome.finding is None:
            return 0
        print(f"round {outcome.finding.round}: {outcome.finding.text}")
        if given.round is None:
            print(again(program, settings, outcome.finding))
        return 1


if __name__ == "__main__":
    sys.exit(main())
