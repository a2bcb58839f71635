# SPDX-License-Identifier: GPL-2.0-or-later
"""What is run on an emulated machine, as root: `python -m tests.kernels.inside FOLDER [PROGRAM...]`.

`kdbus doctor` first, as root and as an ordinary user: it tries each single thing that a kernel might not have. Then the
programs of the end-to-end tests, all cases of one in one `kdbus run`: those where the kernel's part is largest, in what
a call goes through when it is interrupted, killed or forked from, in descriptors and memory that change hands, in
namespaces, mounts and both modes. Then the kernel's own selftests, where their sources are. Rules of the bus, which
depend on no kernel, are left to the suite, as is pytest, which would take longer than the programs.

FOLDER has the programs, built on the machine at hand. It gets `doctor-USER.json`, and `outcomes.json`, a list of
`Outcome`, written anew after each one, so that a machine that is switched off has told something.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.kernels.confinement import scopes
from tests.kernels.labels import TRIED
from tests.project.test_selftests import NAMES
from tests.support.e2e import cases_of
from tests.support.users import User, current_user, readable_folder, unprivileged_user

HARNESS = "kdbus-test"
"""The kernel's selftests."""
CONFINEMENTS = {"yama": scopes, **TRIED}
"""By the word that asks for it: what confines programs, and is tried only then."""
CONFINED = "confined.json"
_LONG = "many_"
"""How the names of cases begin that make calls by the thousand."""
_SECONDS = 900
"""For one program: it is not here that slowness is found out."""
_VERDICT = re.compile(r"^Testing .* \(([a-z-]+)\) \.+ ([A-Z]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """A program of tests/programs; by whom it is run, what it is built with, and what `kdbus run` is given."""

    user: str
    program: str
    flags: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    revision: str = "3"

    @property
    def file(self) -> str:
        """The name that it is built as."""
        return "".join((self.program, *self.flags))

    @property
    def name(self) -> str:
        """For a person."""
        return " ".join((*self.options, self.program, *self.flags))


RUNS = (
    Run("root", "traced"),
    Run("ordinary", "traced", flags=("-m32",)),
    Run("root", "trees"),
    Run("ordinary", "lifetimes"),
    Run("root", "descriptors"),
    Run("ordinary", "descriptors", options=("--mode", "path")),
    Run("root", "namespaces"),
    Run("ordinary", "namespaces"),
    Run("root", "identity"),
    Run("ordinary", "payload"),
    Run("root", "readiness"),
    Run("ordinary", "reply"),
    Run("ordinary", "race"),
    Run("root", "final", revision="final"),
)
"""What root may do differs most in namespaces; everything else is divided between the two, as it takes long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one program went: cases that were right, and why it failed, or nothing."""

    name: str
    user: str
    right: int
    skipped: int
    wrong: str
    seconds: float


def main() -> None:
    """Run it all."""
    folder = Path(sys.argv[1])
    outcomes: list[Outcome] = []
    (folder / "outcomes.json").write_text("[]")
    with readable_folder() as open_folder:
        users = {"root": current_user(), "ordinary": unprivileged_user(open_folder)}
        for name, user in users.items():
            (folder / f"doctor-{name}.json").write_text(user.run(user.kdbus("doctor", "--json"), seconds=300).output)
        confined = []
        for word in CONFINEMENTS.keys() & set(sys.argv[2:]):
            for each in CONFINEMENTS[word](users, folder):
                confined.append(each)
                print(each.under, each.what, each.trouble or "ok", flush=True)
                (folder / CONFINED).write_text(json.dumps([asdict(each) for each in confined], indent=1))
        for outcome in _outcomes(users, folder, sys.argv[2:] or [*(run.program for run in RUNS), HARNESS]):
            outcomes.append(outcome)
            print(outcome.user, outcome.name, outcome.wrong or "ok", f"{outcome.seconds:.0f} s", flush=True)
            (folder / "outcomes.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=1))


def _outcomes(users: dict[str, User], folder: Path, wanted: Sequence[str]) -> Iterator[Outcome]:
    for run in RUNS:
        program = folder / run.file
        if run.program in wanted and program.exists():
            user = users[run.user]
            cases = [case for case in cases_of(run.program, run.user) if not case.startswith(_LONG)]
            begin = time.monotonic()
            done = user.run(user.kdbus("run", *run.options, "--", str(program), *cases), seconds=_SECONDS)
            right, skipped = (len(re.findall(word, done.output, re.MULTILINE)) for word in (r"^ok ", r"^# skipped"))
            bad = done.status or not right or "not ok" in done.output or "kdbus: " in done.output
            wrong = f"status {done.status}\n{done.output}" if bad else ""
            yield Outcome(run.name, run.user, right - skipped, skipped, wrong, time.monotonic() - begin)
    if HARNESS in wanted and (folder / HARNESS).exists():
        for name, user in users.items():
            begin = time.monotonic()
            done = user.run(user.kdbus("run", "--", "stdbuf", "-oL", str(folder / HARNESS)), seconds=_SECONDS)
            verdicts = dict(_VERDICT.findall(done.output))
            right, skipped = (sum(verdicts.get(each) == word for each in NAMES) for word in ("OK", "SKIPPED"))
            wrong = "" if not done.status and right + skipped == len(NAMES) else done.output
            yield Outcome(HARNESS, name, right, skipped, wrong, time.monotonic() - begin)


if __name__ == "__main__":
    main()
