# SPDX-License-Identifier: GPL-2.0-or-later
"""The live view, driven by keys and looked at through Textual's own driver, without a terminal or a supervisor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from interposer.errors import NothingToWatch
from interposer.watching.ask import Watching
from tests.interposer.test_rates import connection

textual = pytest.importorskip("textual", reason="needs textual: pip install textual")

from textual.pilot import Pilot  # noqa: E402
from textual.widgets import DataTable, Static  # noqa: E402

from interposer.watching.top import Top  # noqa: E402

LONG = 3600.0
"""Between two questions: tests ask when they want to."""


class Supervisor:
    """Answers in the place of one."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.ended = False
        self.threads: set[threading.Thread] = set()

    def ask(self, _question: str, *, traffic: bool) -> list[dict[str, Any]]:
        self.threads.add(threading.current_thread())
        self.asked.append(traffic)
        if self.ended:
            raise NothingToWatch("asking", "it has ended")
        rest: dict[str, Any] = {"privileged": False, "claims_identity": False, "tid": 7, "command_line": None}
        rest |= {
            "cgroup": None,
            "uid": 0,
            "euid": 0,
            "gid": 0,
            "label": None,
            "description": None,
            "hello_flags": [],
            "endpoint": "bus",
        }
        rest |= {"attach_flags_send": [], "attach_flags_recv": [], "matches": 0, "lost": 0, "expects": [], "owes": []}
        found: list[dict[str, Any]] = [{"record": "supervisor", "pid": 9, "command": ["[red]x"]}]
        found.append({"record": "domain", "domain": 0, "messages": 100 * len(self.asked)})
        for number in (1, 2, 3):
            sent = len(self.asked) * 10 if number == 2 else 0
            queue: dict[str, Any] = {"messages": number, "payload": 0, "senders": [], "senders_count": 0}
            found.append({**connection(number, {"sent": sent}), **rest, "queue": queue, "command": "[bold]\x1b"})
        return found


def drive(supervisor: Supervisor, act: Callable[[Pilot[None]], Any], *, light: bool = False) -> Top:
    top = Top(cast(Watching, supervisor), None, LONG, light=light)

    async def run() -> None:
        async with top.run_test(size=(140, 40)) as pilot:
            await top._ask()
            await pilot.pause()
            await act(pilot)

    # Textual is for asyncio, and whatever else runs tests here is none of its business.
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    failures: list[BaseException] = []
    hook, threading.excepthook = threading.excepthook, lambda failure: failures.append(failure.exc_value or OSError())
    try:
        thread.start()
        thread.join()
    finally:
        threading.excepthook = hook
    if failures:
        raise failures[0]
    return top


def rows(top: Top) -> list[list[str]]:
    table = top.query_one("#connections", DataTable)
    return [[str(cell) for cell in table.get_row_at(number)] for number in range(table.row_count)]


def said(top: Top, where: str) -> str:
    return str(top.query_one(where, Static).content)


def test_the_busiest_come_first() -> None:
    async def act(pilot: Pilot[None]) -> None:
        top = cast(Top, pilot.app)
        assert [row[1] for row in rows(top)] == ["2", "1", "3"]
        assert rows(top)[0][4] == r"[bold]\x1b", "text, not markup, and no order to the terminal"
        assert "[red]x" in said(top, "#summary") and "messages/s" in said(top, "#summary")

    supervisor = Supervisor()
    drive(supervisor, act)
    assert supervisor.asked == [True, True]
    assert not supervisor.threads & {threading.main_thread()}


def test_keys() -> None:
    async def act(pilot: Pilot[None]) -> None:
        top = cast(Top, pilot.app)
        for key, ids in (("w", ["3", "2", "1"]), ("i", ["1", "2", "3"]), ("m", ["2", "1", "3"])):
            await pilot.press(key)
            assert [row[1] for row in rows(top)] == ids
        # Who was chosen stays so, wherever that is.
        await pilot.press("i", "home", "down", "down")
        assert said(top, "#status").startswith("connection 3 on 0-x")
        await pilot.press("w")
        assert said(top, "#status").startswith("connection 3 on 0-x")
        before = len(supervisor.asked)
        await pilot.press("space")
        await top._ask()
        assert len(supervisor.asked) == before and "paused" in said(top, "#summary")
        await pilot.press("space")
        await top._ask()
        assert len(supervisor.asked) == before + 1
        await pilot.press("q")

    supervisor = Supervisor()
    assert drive(supervisor, act).failure is None


def test_the_end_of_the_supervisor() -> None:
    async def act(pilot: Pilot[None]) -> None:
        top = cast(Top, pilot.app)
        supervisor.ended = True
        await top._ask()
        assert "it has ended" in said(top, "#summary")
        assert len(rows(top)) == 3, "the last that was known"
        await pilot.press("q")

    supervisor = Supervisor()
    assert drive(supervisor, act).failure is not None


def test_light() -> None:
    async def act(_pilot: Pilot[None]) -> None:
        pass

    supervisor = Supervisor()
    drive(supervisor, act, light=True)
    assert supervisor.asked == [False, False]
