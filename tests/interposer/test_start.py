# SPDX-License-Identifier: GPL-2.0-or-later
"""Serving before there is an event loop, and while it is imported."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from interposer.supervisor import start
from interposer.supervisor.supervisor import Supervisor

INNER, OUTER = "inner_module_of_a_test", "outer_module_of_a_test"


class Served:
    """Stands for a supervisor: what `wait` says has come, is served; `news` is readable when there is any."""

    def __init__(self, wait: Callable[[int], bool] = lambda _: False) -> None:
        self.wait_natively = wait
        self.turns = 0
        self.settled = 0
        self.attended: list[int] = []
        self.news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.between: list[str] = []
        self.imports: list[str] = []

    def serve_turn(self) -> None:
        self.turns += 1

    def serve_what_waits(self, _longest_ns: int) -> None:
        self.between.append("served")
        while self.imports:
            importlib.import_module(self.imports.pop())

    def housekeep(self, *, news: bool) -> None:
        assert news
        os.eventfd_read(self.news)
        self.settled += 1

    def settle(self) -> None:
        self.settled += 1

    def news_fileno(self) -> int:
        return self.news

    def attend(self, descriptor: int) -> None:
        self.attended.append(descriptor)


def _child(status: int) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def _first_calls(served: Served, pid: int) -> int | None:
    return start.serve_first_calls(cast(Supervisor, served), pid)


def test_a_program_that_ends_early_needs_no_loop() -> None:
    served = Served()
    status = _first_calls(served, _child(3))
    assert status is not None and os.waitstatus_to_exitcode(status) == 3
    assert served.settled == 1, "what it has closed by ending"
    assert served.attended[-1] == -1


def test_calls_are_served_until_nothing_comes() -> None:
    """As the engine would do it: returns at once when there is a call, else when the time is over."""
    coming = [True] * 50

    def wait(stop_ns: int) -> bool:
        if coming:
            return coming.pop()
        while time.monotonic_ns() < stop_ns:
            os.sched_yield()
        return False

    served = Served(wait)
    assert _first_calls(served, os.getpid()) is None
    assert served.turns == 50


def test_a_program_that_never_pauses_gets_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_MOST_NS", 1_000_000)
    served = Served(lambda _: True)
    assert _first_calls(served, os.getpid()) is None


def test_hang_ups_are_looked_after() -> None:
    served = Served()
    os.eventfd_write(served.news, 1)
    monotonic = []

    def wait(stop_ns: int) -> bool:
        monotonic.append(stop_ns)
        while len(monotonic) > 1 and time.monotonic_ns() < stop_ns:
            os.sched_yield()
        return False

    served.wait_natively = wait
    assert _first_calls(served, os.getpid()) is None
    assert served.settled == 1 and len(monotonic) == 2, "and then waited for more"


def test_calls_are_served_between_the_modules_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{OUTER}.py").write_text(f"import {INNER}\n")
    (tmp_path / f"{INNER}.py").write_text("")
    before = list(sys.meta_path)
    try:
        with start.serving_between_imports(cast(Supervisor, served)):
            importlib.import_module(OUTER)
        assert len(served.between) == 2
        assert sys.meta_path == before
    finally:
        sys.modules.pop(OUTER, None)
        sys.modules.pop(INNER, None)


def test_what_serving_imports_is_no_occasion_to_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served()
    served.imports.append(INNER)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{OUTER}.py").write_text("")
    (tmp_path / f"{INNER}.py").write_text("")
    try:
        with start.serving_between_imports(cast(Supervisor, served)):
            importlib.import_module(OUTER)
        assert len(served.between) == 1
    finally:
        sys.modules.pop(OUTER, None)
        sys.modules.pop(INNER, None)
