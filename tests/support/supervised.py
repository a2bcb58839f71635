# SPDX-License-Identifier: GPL-2.0-or-later
"""A program under the real `kdbus run`, whose supervisor is watched from outside.

For tests that go on for long: the program works in rounds and reports each one in a line on stdout; between the rounds
it holds nothing that it did not hold at the beginning, so what the supervisor holds then must be the same, too. That is
read from /proc, not asked of the supervisor: descriptors by what they lead to, mappings of pools, children, threads,
resident memory.

Memory is compared with tolerance: an interpreter keeps freed memory for later, and a kernel counts pages lazily. What
leaks grows with every round, so what is looked at is the growth over many.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.support.users import PROJECT, User

_PATIENCE_S = 60
GUARANTEE = "KDBUS_EXACTLY_ONCE"
_STATISTICS = re.compile(
    r"^kdbus: (\d+) calls served by the broker, (\d+) natively$"
    r"(?:\nkdbus: (\d+) calls served by receivers themselves$)?(?:\nkdbus: revisions spoken: .*$)?",
    re.MULTILINE,
)


class SupervisorFailed(AssertionError):
    """The supervisor, or the program under it, did what it must not do; the text says what."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds: descriptors by target (without numbers), pools, children, threads, resident bytes."""

    descriptors: Counter[str]
    pools: int
    children: int
    threads: int
    memory: int

    def difference(self, before: Footprint) -> str:
        """What is more or less than before, in words; empty if nothing is. Memory is left out."""
        parts = [f"{count:+d} {name}" for name, count in sorted(self._changes(before).items())]
        for name in ("pools", "children", "threads"):
            change = getattr(self, name) - getattr(before, name)
            if change:
                parts.append(f"{change:+d} {name}")
        return ", ".join(parts)

    def _changes(self, before: Footprint) -> dict[str, int]:
        names = self.descriptors.keys() | before.descriptors.keys()
        changes = {name: self.descriptors[name] - before.descriptors[name] for name in names}
        return {name: change for name, change in changes.items() if change}


UNSEEN = {"KDBUS_RUNTIME_DIR": "/nonexistent"}
"""For a supervisor whose descriptors are counted: nobody finds it who watches all that there are, as `kdbus list` does,
and would be a socket of it for a moment."""


def footprint(pid: int) -> Footprint:
    """What process `pid` holds now. Raises OSError if it is gone."""
    folder = Path(f"/proc/{pid}")
    descriptors: Counter[str] = Counter()
    for entry in os.listdir(folder / "fd"):
        try:
            descriptors[re.sub(r"\d+", "N", os.readlink(folder / "fd" / entry))] += 1
        except FileNotFoundError:
            continue
    pools = (folder / "maps").read_text().count("/memfd:")
    threads = os.listdir(folder / "task")
    children = sum(len((folder / "task" / thread / "children").read_text().split()) for thread in threads)
    pages = int((folder / "statm").read_text().split()[1])
    return Footprint(descriptors, pools, children, len(threads), pages * os.sysconf("SC_PAGE_SIZE"))


def child_of(pid: int) -> int:
    """The first child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def await_caught(process: int, number: int) -> None:
    """Wait until a process catches the signal `number`, which it has ignored so far."""
    stop = time.monotonic() + _PATIENCE_S
    while True:
        text = Path(f"/proc/{process}/status").read_text()
        if int(text.partition("SigCgt:")[2].split()[0], 16) >> number - 1 & 1:
            return
        if time.monotonic() >= stop:
            raise SupervisorFailed(f"signal {number} is not caught: {text}")
        os.sched_yield()


class Supervised:
    """`kdbus run OPTIONS -- PROGRAM` in a process group of its own. A context manager: at its end nobody is left."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        user: User | None = None,
    ) -> None:
        """`environment` is added to that of `user`, by default of who runs this, with the packages of this tree."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        if user is None:
            path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH", ""))))
            user = User("current", None, sys.executable, {**os.environ, "PYTHONPATH": path})
        self._process = subprocess.Popen(
            user.kdbus("run", "--statistics", *options, "--", *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd="/",
            env={**user.environment, **(environment or {})},
            start_new_session=True,
            **user.becoming,
        )
        self._pending = b""

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._process.pid

    def __enter__(self) -> Supervised:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._pipe(self._process.stdin).close()
        self._pipe(self._process.stdout).close()
        self._log.close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

    def await_loop(self) -> None:
        """Wait until the supervisor has its event loop, with descriptors of its own, if it serves calls at all."""
        if footprint(self.pid).descriptors["anon_inode:[eventpoll]"]:
            await_caught(self.pid, signal.SIGCHLD)

    def tell(self, line: str) -> None:
        """Write a line to the program's stdin."""
        try:
            self._pipe(self._process.stdin).write(f"{line}\n".encode())
            self._pipe(self._process.stdin).flush()
        except BrokenPipeError as error:
            raise SupervisorFailed(f"the program has ended; what was said:\n{self.log()}") from error

    def line(self, seconds: float) -> str:
        """The next line of the program's stdout. Raises SupervisorFailed at its end, or when there is none in time."""
        stdout = self._pipe(self._process.stdout)
        stop = time.monotonic() + seconds
        while b"\n" not in self._pending:
            ready, _, _ = select.select([stdout], [], [], max(0.0, stop - time.monotonic()))
            if not ready:
                raise SupervisorFailed(f"no answer within {seconds:g} s; {self._where()}; what was said:\n{self.log()}")
            got = os.read(stdout.fileno(), 65536)
            if not got:
                status = self._process.wait()
                raise SupervisorFailed(f"the program ended with status {status}; what was said:\n{self.log()}")
            self._pending += got
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode(errors="replace")

    def _where(self) -> str:
        """What the supervisor is doing, for a report."""
        folder = Path(f"/proc/{self.pid}")
        try:
            return f"the supervisor: {(folder / 'stat').read_text().split()[2]}, {(folder / 'wchan').read_text()}"
        except OSError as error:
            return f"the supervisor: {error}"

    def finish(self, seconds: float) -> int:
        """Close the program's stdin and wait for the end; the exit status."""
        self._pipe(self._process.stdin).close()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise SupervisorFailed(f"no end within {seconds:g} s; what was said:\n{self.log()}") from None

    def log(self) -> str:
        """All that the supervisor and the program have written to stderr."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def unexpected(self) -> str:
        """What was written to stderr besides the statistics: each line of it is a failure."""
        return _STATISTICS.sub("", self.log()).strip()

    def served(self) -> tuple[int, int]:
        """How many calls the broker and the native helper have served; after `finish`."""
        by_broker, natively, _ = self._statistics().groups()
        return int(by_broker), int(natively)

    def served_by_receivers(self) -> int:
        """How many calls receivers have served themselves (`--self-serve`); after `finish`."""
        return int(self._statistics()[3] or 0)

    def _statistics(self) -> re.Match[str]:
        found = _STATISTICS.search(self.log())
        if found is None:
            raise SupervisorFailed(f"there are no statistics; what was said:\n{self.log()}")
        return found
