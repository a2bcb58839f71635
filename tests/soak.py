# SPDX-License-Identifier: GPL-2.0-or-later
"""The soak: random traffic between processes that are born and killed, for as long as asked, and a balance at the end.

    python -m tests.soak --seconds 3600
    python -m tests.soak --seconds 600 --members 32 --seed 7
    python -m tests.soak --seconds 600 --self-serve

`programs/soak.c` does the traffic, and counts each message exactly once although its sender or its receiver may be
killed at any moment; it says how. Sent messages must equal those received (or thrown away with RECV_DROP), plus those
found in the queues of the dead, plus those lost with a connection that was closed with a queue; the last may not be
more than a queue holds. Every member that ends of its own accord also checks that its pool is one free piece again.
With `--self-serve`, members are of the final revision, and take and free plain messages by themselves.

It goes in stretches, in which all that exists is made anew and ends. After each one the supervisor has to hold the
descriptors, mappings, children and threads that it held after the first; and over all of them its resident memory may
not grow by more than `MEMORY` bytes. (The limit does not grow with the time, so a leak that a short run cannot show
shows in a long one.)

Weakness: who has been killed in the middle of a call, and whose peer was closed with all that was queued, leaves a
message of which nobody can know whether it was sent. These are counted, as "in doubt".
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.compiling import compile_program
from tests.support.supervised import UNSEEN, Footprint, Supervised, SupervisorFailed, footprint

MEMORY = 16 << 20
"""Bytes that the supervisor's resident memory may grow by after the first stretch."""
STRETCH = 10.0
"""Seconds."""
_PATIENCE = 120.0


@dataclass(slots=True)
class Balance:
    """What a soak came to; the numbers of messages and processes are sums over all stretches."""

    messages: dict[str, int] = field(default_factory=dict)
    stretches: int = 0
    seconds: float = 0.0
    by_broker: int = 0
    natively: int = 0
    by_receivers: int = 0
    memory: list[int] = field(default_factory=list)
    """Resident bytes of the supervisor after each stretch."""
    descriptors: int = 0
    """Of the supervisor, after the first stretch and after each other."""
    off: list[str] = field(default_factory=list)
    """What does not come out even, in words."""

    def add(self, line: str) -> None:
        """The program's account of one stretch: `key=value`, separated by blanks."""
        for word in line.split():
            key, _, value = word.partition("=")
            self.messages[key] = self.messages.get(key, 0) + int(value)

    def check(self) -> None:
        """Compare the sums, and the memory."""
        count = self.messages
        missing = count["sent"] - count["received"] - count["left"] - count["lost"]
        if count["wrong"] or abs(missing) > count["doubtful"]:
            self.off.append(f"{missing} messages are missing, {count['doubtful']} are in doubt, {count['wrong']} "
                            "connections do not come out even (they are named above)")  # fmt: skip
        growth = self.memory[-1] - self.memory[0]
        if growth > MEMORY:
            self.off.append(f"the supervisor's memory has grown by {growth >> 20} MiB, from {self.memory[0] >> 20} MiB")

    def lines(self) -> list[str]:
        """The balance for a person to read."""
        count = self.messages
        places = (0, len(self.memory) // 4, len(self.memory) // 2, -1)
        memory = ", ".join(f"{self.memory[place] >> 10}" for place in places)
        return [
            f"{self.seconds:.0f} s in {self.stretches} stretches; {count['calls']} calls, {self.by_broker} served by "
            f"the broker, {self.natively} natively; {self.by_receivers} more by receivers themselves",
            f"processes: {count['lives']} born, {count['ended']} ended, {count['lives'] - count['ended']} killed",
            f"messages: {count['sent']} sent = {count['received']} received or dropped + {count['left']} in the queues "
            f"of the dead + {count['lost']} closed with a queue",
            f"({count['doubtful']} messages in doubt, {count['refused']} refused)",
            f"the supervisor: {self.descriptors} descriptors after each stretch; KiB of memory after the first one, a "
            f"quarter, half and all of them: {memory}",
            *(f"OFF: {text}" for text in self.off),
        ]


def compiled(folder: Path, *, self_serve: bool) -> Path:
    """The program, compiled into `folder`: for the final revision if its receivers are to serve themselves, else 3."""
    return compile_program("soak", folder, "-O2", revision="final" if self_serve else None)


def soak(
    program: Path, *, seconds: float, members: int, seed: int, stretch: float = STRETCH, self_serve: bool = False
) -> Balance:
    """Soak for about `seconds`. Raises SupervisorFailed when something ends, hangs, or speaks that must not."""
    balance = Balance()
    begin = time.monotonic()
    baseline: Footprint | None = None
    options = ["--self-serve"] if self_serve else []
    with Supervised([str(program), str(seed), str(members)], options=options, environment=UNSEEN) as supervised:
        if supervised.line(_PATIENCE) != "ready":
            raise SupervisorFailed("the program does not start")
        while balance.stretches < 2 or time.monotonic() - begin < seconds:
            supervised.tell(str(int(stretch * 1000)))
            balance.add(supervised.line(stretch + _PATIENCE))
            balance.stretches += 1
            supervised.await_loop()
            now = footprint(supervised.pid)
            balance.memory.append(now.memory)
            if baseline is None:
                baseline = now
                balance.descriptors = now.descriptors.total()
            elif changes := now.difference(baseline):
                balance.off.append(f"after stretch {balance.stretches} the supervisor holds {changes}")
        balance.seconds = time.monotonic() - begin
        status = supervised.finish(_PATIENCE)
        if status or supervised.unexpected():
            raise SupervisorFailed(f"the end: status {status}; {supervised.unexpected()}")
        balance.by_broker, balance.natively = supervised.served()
        balance.by_receivers = supervised.served_by_receivers()
    balance.check()
    return balance


def machine() -> str:
    """What it ran on, in a line."""
    return f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores, Python " + (
        platform.python_version()
    )


def main() -> int:
    """Soak; 1 if the balance is off."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Soak kdbus under `kdbus run`.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--members", type=int, default=16, help="processes at the same time, up to 64 (default: 16)")
    parser.add_argument("--seed", type=int, default=1, help="other seeds make other traffic")
    parser.add_argument("--self-serve", action="store_true", help="receivers serve themselves; of the final revision")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdbus-soak-") as folder:
        program = compiled(Path(folder), self_serve=given.self_serve)
        try:
            balance = soak(
                program,
                seconds=given.seconds,
                members=given.members,
                seed=given.seed,
                self_serve=given.self_serve,
            )
        except SupervisorFailed as error:
            print(error)
            return 1
    print(machine())
    print("\n".join(balance.lines()))
    return 1 if balance.off else 0


if __name__ == "__main__":
    sys.exit(main())
