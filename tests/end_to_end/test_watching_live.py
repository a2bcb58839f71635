# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus top` in a real terminal: tmux shows what a person would see, and presses the keys."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_serve import Place, member
from tests.end_to_end.test_watching import here, kdbus, place, refused, run, watched
from tests.support.users import User, current_user

__all__ = ["member", "place", "watched"]

SECONDS = 60


class Terminal:
    """A tmux of its own with one window, in which a command runs."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        # The terminal says how large it is, and not who runs the tests.
        named = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self._environment = {**named, "TERM": "xterm-256color"}
        # What it ends with stays on the screen.
        line = f"{shlex.join(command)}; echo ended with $?; exec cat"
        self._call("new-session", "-d", "-x", "140", "-y", "40", "sh", "-c", line)

    def _call(self, *words: str) -> str:
        command = [*self._tmux, *words]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=True, timeout=SECONDS
        ).stdout

    def screen(self) -> list[str]:
        """What it shows."""
        return self._call("capture-pane", "-p").splitlines()

    def press(self, *keys: str) -> None:
        self._call("send-keys", *keys)

    def shows(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """The screen once it is as wanted."""
        stop = time.monotonic() + SECONDS
        while not wanted(screen := self.screen()):
            assert time.monotonic() < stop, "\n".join(screen)
        return screen

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def user(place: Place) -> User:
    return here(place, current_user())


@pytest.fixture
def top(place: Place, user: User) -> Iterator[Callable[..., Terminal]]:
    """Starts `kdbus top` in a terminal."""
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux: apt-get install tmux")
    if importlib.util.find_spec("textual") is None:
        pytest.skip("needs textual: pip install textual")
    terminals: list[Terminal] = []

    def start(*options: str) -> Terminal:
        command = user.kdbus("top", "--interval", "0.2", *options)
        terminals.append(Terminal(place.folder, command, {**user.environment}))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def row_of(screen: list[str], number: int) -> list[str]:
    """The fields of a connection's line; none if there is no such line."""
    found = [line.split() for line in screen if line.split()[1:2] == [str(number)] and "-watched" in line]
    return found[0] if found else []


def test_what_happens_is_seen(place: Place, user: User, watched: str, top: Callable[..., Terminal]) -> None:
    process = run(place, user, watched, "talk")
    terminal = top()
    screen = terminal.shows(lambda screen: bool(row_of(screen, 2)))
    assert f"process {process.pid}: kdbus run -- {watched} talk" in screen[0]
    assert {"BUS", "QUEUE", "SENT/S", "REPLY", "NAMES"} <= set(screen[4].split())
    assert row_of(screen, 1)[-1] == "org.example.Watched"

    def answers_are_timed(screen: list[str]) -> bool:
        process.say("talk")
        assert process.line() == "answered"
        return "us" in row_of(screen, 1) or "ms" in row_of(screen, 1)

    terminal.shows(answers_are_timed)
    terminal.press("i", "Home", "Down")
    terminal.shows(lambda screen: any(line.lstrip().startswith("connection 2 on ") for line in screen))
    terminal.press("q")
    assert "ended with 0" in terminal.shows(lambda screen: "ended with 0" in screen)


def test_queues_and_the_end(place: Place, user: User, watched: str, top: Callable[..., Terminal]) -> None:
    process = run(place, user, watched, "queue")
    terminal = top("--light", "--pid", str(process.pid))
    assert row_of(terminal.shows(lambda screen: bool(row_of(screen, 1))), 1)[5] == "4"
    process.kill()
    terminal.shows(lambda screen: "it has ended" in screen[0])
    terminal.press("q")
    screen = terminal.shows(lambda screen: "ended with 125" in screen)
    assert any("it may have ended" in line for line in screen)


def test_hostile_names_are_only_text(place: Place, user: User, watched: str, top: Callable[..., Terminal]) -> None:
    run(place, user, watched, "forger")
    terminal = top("--light")
    screen = terminal.shows(lambda screen: bool(row_of(screen, 1)))
    assert r"\x1b[2J\nBUS" in " ".join(row_of(screen, 1))
    terminal.press("q")


def test_without_a_terminal(place: Place, user: User) -> None:
    assert "there is no terminal; `kdbus list`" in refused(user, "top")
    for interval in ("0", "61", "x", "nan"):
        assert "is no number of seconds from 0.2 to 60" in refused(user, "top", "--interval", interval)
    assert "live" in kdbus(user, "top", "--help")
