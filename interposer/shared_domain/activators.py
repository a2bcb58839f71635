# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus serve --activate`: the programs that activate on the server's buses.

They are programs of the domain as others are, which join it at its socket, and so they need the server to serve them.
They begin before anybody is told that it is ready, and anybody else who comes meanwhile has to wait. They end before it
ends the domain: what they have started is to end in good order.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Final

import trio

from interposer.errors import DomainUnavailable
from interposer.report import say

_END_SECONDS: Final = 10.0
"""Until those that are asked to end are killed; they give what they have started half of that."""


class Activators:
    """Runs commands that tell by a descriptor that they are ready (`--ready-fd`)."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._commands = commands
        self._processes: list[trio.Process] = []
        self._ending = False
        self._changed = trio.Event()
        self._complete = False

    async def let_in(self, process: int) -> None:
        """Wait until all of them are ready, unless that process is one of them."""
        while not self._complete and all(each.pid != process for each in self._processes):
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def start(self, nursery: trio.Nursery) -> None:
        """Start them, and wait until they are ready. Raises DomainUnavailable if one ends instead."""
        for command in self._commands:
            reading, writing = os.pipe()
            try:
                process = await trio.lowlevel.open_process(
                    [*command, "--ready-fd", str(writing)], stdin=subprocess.DEVNULL, pass_fds=(writing,)
                )
            finally:
                os.close(writing)
            self._processes.append(process)
            self._tell()
            try:
                await trio.lowlevel.wait_readable(reading)
                if not os.read(reading, 1):
                    raise DomainUnavailable(
                        "starting what --activate asks for", "it has ended", "its own message says why"
                    )
            finally:
                os.close(reading)
            nursery.start_soon(self._watch, process)
        self._complete = True
        self._tell()

    async def _watch(self, process: trio.Process) -> None:
        status = await process.wait()
        if self._ending:
            return
        say(f"nothing is started any more: what --activate asks for has ended with status {status}")

    async def end(self) -> None:
        """Have them end, and wait for that."""
        self._ending = True
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        with trio.move_on_after(_END_SECONDS):
            for process in self._processes:
                await process.wait()
        for process in self._processes:
            process.kill()
            await process.wait()
