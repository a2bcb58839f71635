# SPDX-License-Identifier: GPL-2.0-or-later
"""The event loop around a supervisor.

trio is for everything but traps: a hang-up, a deadline, a cancelled call, a signal, the end of the program. While it
has nothing to do, traps are waited for, and the hot ones are served, without it (`interposer.supervisor.idle`); and a
turn of the supervisor serves many, as going through trio costs as much as serving one.
"""

from __future__ import annotations

import signal
import time
from contextlib import closing

import trio

from interposer.launch.program import Program
from interposer.supervisor.control import Control
from interposer.supervisor.idle import IdleWait
from interposer.supervisor.supervisor import Supervisor
from interposer.supervisor.tree import Tree


async def serve(supervisor: Supervisor) -> None:
    """Serve until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, supervisor)
        with closing(IdleWait(supervisor.wait_natively)) as idle:
            supervisor.attend(await idle.find_sleep())
            trio.lowlevel.add_instrument(idle)
            try:
                await _serve_what_comes(supervisor, idle)
            finally:
                trio.lowlevel.remove_instrument(idle)
                supervisor.attend(-1)


async def _watch(supervisor: Supervisor) -> None:
    """Go through a round whenever there is news."""
    while True:
        await trio.lowlevel.wait_readable(supervisor.news_fileno())
        supervisor.housekeep(news=True)
        await trio.lowlevel.checkpoint()


async def _serve_what_comes(supervisor: Supervisor, idle: IdleWait) -> None:
    while True:
        due = supervisor.next_deadline_ns()
        if supervisor.has_received:
            await trio.lowlevel.checkpoint()
        elif due is None:
            # Most calls that find the supervisor idle find it here; leaving a cancel scope would cost each 7 us.
            await idle.woken()
        else:
            with trio.move_on_after(max(0.0, (due - time.monotonic_ns()) / 1e9)):
                await idle.woken()
        supervisor.serve_turn()


def serve_program(supervisor: Supervisor, pid: int, control: Control, *, linger: bool) -> int:
    """Serve until the program that is our child `pid` has ended, with `linger` until the last process of its tree has;
    the program's wait status.

    This process ignores terminal signals from now on.
    """
    return trio.run(_serve_program, supervisor, control, Program(pid), linger)


async def _serve_program(supervisor: Supervisor, control: Control, program: Program, linger: bool) -> int:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, supervisor)
        nursery.start_soon(control.serve)
        status = await program.run()
        if linger and not program.asked_too_late:
            await _linger(supervisor)
        supervisor.settle()  # what programs have closed by ending, before everything else is
        nursery.cancel_scope.cancel()
    return status


async def _linger(supervisor: Supervisor) -> None:
    """Serve on until the last process of the tree has ended, or a signal asks for the end."""
    if not supervisor.serves_anybody:
        return

    def ended(_: Tree) -> None:
        if not supervisor.serves_anybody:
            scope.cancel()

    with trio.CancelScope() as scope:
        supervisor.when_ended(ended)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT) as signals:
            await anext(signals)
