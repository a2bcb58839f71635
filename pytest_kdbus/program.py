# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that a test has started."""

from __future__ import annotations

import signal
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_kdbus.domain import Domain
    from pytest_kdbus.trace import Call


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    """Its exit status; -N: it died of signal N."""
    output: str
    """What it wrote to its standard output."""
    errors: str
    """What it wrote to its standard error."""
    process: int
    _domain: Domain = field(repr=False)

    def calls(self, command: str | None = None, **chosen: Any) -> list[Call]:
        """The calls that it has made, not those of its children; chosen as by `Domain.calls`."""
        return self._domain.calls(command, process=self.process, **chosen)


class Program:
    """One that was started. `process` is its number."""

    def __init__(self, domain: Domain, process: int, command: list[str], output: Path, errors: Path) -> None:
        self._domain = domain
        self._command = command
        self._output = output
        self._errors = errors
        self._awaited = False
        self.process = process

    @property
    def output(self) -> str:
        """What it has written to its standard output so far."""
        return self._output.read_text(errors="replace")

    @property
    def errors(self) -> str:
        """What it has written to its standard error so far."""
        return self._errors.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal, and its process group."""
        self._domain.signal(self.process, number)

    def stop(self, seconds: float = 10.0) -> Ended:
        """Send it SIGTERM, and wait for its end."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 10.0) -> Ended:
        """Wait for its end. Raises Failure if that does not come within `seconds`; it is killed then."""
        from pytest_kdbus.domain import Failure

        ended = self._domain.ended(self.process)
        try:
            status = ended.result(seconds)
        except NotInTime:
            self.signal(signal.SIGKILL)
            raise Failure(
                f"{' '.join(self._command)} had not ended after {seconds} s; its output so far:\n"
                f"{self.output}{self.errors}"
            ) from None
        self._awaited = True
        return Ended(status, self.output, self.errors, self.process, self._domain)

    def unexpected_end(self) -> str | None:
        """That it has ended and with what, if so, and if nobody has waited for that."""
        ended = self._domain.ended(self.process)
        if self._awaited or not ended.done():
            return None
        said = (self.errors or self.output).strip()
        return f"{' '.join(self._command)} has ended, status {ended.result()}: {said[-1000:] or 'it said nothing'}"
