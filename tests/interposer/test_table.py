# SPDX-License-Identifier: GPL-2.0-or-later
"""How facts are written for people."""

from __future__ import annotations

import os
import pty

import pytest

from interposer.watching.table import Cell, Style, lines_of, number, size_of, style_of, time_of, width_of

PLAIN = Style(coloured=False)


def test_columns() -> None:
    rows = [[Cell("a"), number(1), Cell("")], [Cell("longer"), number(None), Cell("x")]]
    assert lines_of(["NAME", "NO", "END"], rows, PLAIN) == ["NAME    NO  END", "a        1", "longer   -  x"]
    assert lines_of(["NAME", "NO"], [], PLAIN) == ["NAME  NO"]


def test_colour_takes_no_room() -> None:
    style = Style(coloured=True)
    rows = [[Cell("a", style.bad("a")), Cell("b")], [Cell("ccc"), Cell("d")]]
    assert lines_of(["X", "Y"], rows, style)[1:] == ["\033[31ma\033[0m    b", "ccc  d"]
    assert style.name("") == "" and PLAIN.name("x") == "x"


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("äöü", 3), ("日本", 4), ("e\u0301", 1)])
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


def test_no_orders() -> None:
    assert Cell("\033[2J\n\u202e\x7f\x9b").text == r"\x1b[2J\n\u202e\x7f\x9b"
    assert Cell("\udcff").text == r"\xff"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1K"),
        (1536, "1.5K"),
        (16 << 20, "16M"),
        (1023 << 10, "1M"),
        (1 << 60, "1048576T"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert size_of(count) == shown


@pytest.mark.parametrize(
    ("ns", "shown"), [(0, "0 ns"), (999, "999 ns"), (1500, "1.5 us"), (45_000_000, "45 ms"), (30_000_000_000, "30 s")]
)
def test_times(ns: int, shown: str) -> None:
    assert time_of(ns) == shown


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    leader, terminal = pty.openpty()
    try:
        assert style_of(terminal).name("x") != "x"
        monkeypatch.setenv("NO_COLOR", "1")
        assert style_of(terminal).name("x") == "x"
        monkeypatch.setenv("NO_COLOR", "")
        monkeypatch.setenv("TERM", "dumb")
        assert style_of(terminal).name("x") == "x"
        monkeypatch.setenv("TERM", "xterm")
        with open("/dev/null") as null:
            assert style_of(null.fileno()).name("x") == "x"
    finally:
        os.close(leader)
        os.close(terminal)
