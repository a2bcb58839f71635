# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs that use the client library have in common: cases, each on a bus of its own.

A program is run as `PROGRAM REVISION [CASE...]`. It prints a line for each case, and a traceback if that failed.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Unpack

import trio

import kdbus
from kdbus.dialect import DIALECTS
from kdbus.peer import HelloOptions

REVISIONS = {revision.name: revision for revision in DIALECTS}
PATIENCE = 30.0
"""Seconds that a case waits for what must come."""


class Scene:
    """A bus of one case, and connections to it that end with the case."""

    def __init__(self, stack: ExitStack, revision: kdbus.Revision, name: str) -> None:
        self.stack = stack
        self.revision = revision
        self.bus = stack.enter_context(kdbus.Bus(kdbus.own_name(name), revision=revision))

    @property
    def is_version3(self) -> bool:
        return self.revision is kdbus.VERSION3

    @property
    def is_final(self) -> bool:
        return self.revision is kdbus.FINAL

    def connect(self, endpoint: str = "bus", **hello: Unpack[HelloOptions]) -> kdbus.Connection:
        connection = kdbus.connect(self.bus.name, endpoint=endpoint, revision=self.revision, **hello)
        return self.stack.enter_context(connection)


_CASES: list[Callable[[Scene], None]] = []


def case(function: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Marks a case."""
    _CASES.append(function)
    return function


def task_case(function: Callable[[Scene], Awaitable[None]]) -> None:
    """Marks a case that is a coroutine."""

    @functools.wraps(function)
    def run(scene: Scene) -> None:
        async def bounded() -> None:
            with trio.fail_after(PATIENCE):
                await function(scene)

        trio.run(bounded)

    case(run)


def fails(expected: type[kdbus.Error], number: int, function: Callable[[], object]) -> kdbus.Error:
    """The error that a call fails with, which has to be of that class, with that errno."""
    try:
        function()
    except kdbus.Error as error:
        assert type(error) is expected, repr(error)
        assert error.errno == number, repr(error)
        return error
    raise AssertionError(f"no {expected.__name__}")


def main() -> None:
    revision = REVISIONS[sys.argv[1]]
    wanted = [each for each in _CASES if each.__name__ in sys.argv[2:] or not sys.argv[2:]]
    failed = not wanted
    for function in wanted:
        name = function.__name__.replace("_", "-")
        before = set(os.listdir("/proc/self/fd"))
        try:
            with ExitStack() as stack:
                function(Scene(stack, revision, name))
            left = set(os.listdir("/proc/self/fd")) - before
            assert len(left) == 0, f"descriptors left open: {left}"
        except Exception:
            failed = True
            print(f"not ok - {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
        else:
            print(f"ok - {name}", flush=True)
    sys.exit(failed)
