# SPDX-License-Identifier: GPL-2.0-or-later
"""How `kdbus serve` is started, and tells that it is ready; and how `kdbus run --domain` waits for it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.users import current_user

PATIENCE_S = 60
USER = current_user()


@contextmanager
def started(
    *command: str, pass_fds: tuple[int, ...] = (), stderr: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs, and is killed at the end if it still does."""
    process = subprocess.Popen(command, cwd="/", env=USER.environment, pass_fds=pass_fds, stderr=stderr)
    with process:
        try:
            yield process
        finally:
            process.kill()


def _wait_for(descriptor: int) -> bytes:
    assert select.select([descriptor], [], [], PATIENCE_S)[0], "nothing was told in time"
    return os.read(descriptor, 1000)


@contextmanager
def serving(place: Path, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server at `place`/domain that is ready, as --ready-fd tells."""
    reading, writing = os.pipe()
    command = USER.kdbus("serve", "--socket", str(place / "domain"), "--ready-fd", str(writing))
    try:
        with started(*prefix, *command, pass_fds=(writing,)) as server:
            os.close(writing)
            assert _wait_for(reading) == b"\n"
            assert _wait_for(reading) == b"", "the descriptor is closed"
            yield server
    finally:
        os.close(reading)


def _join(socket_path: Path, *options: str) -> int:
    command = USER.kdbus("run", "--domain", str(socket_path), *options, "--", "true")
    return subprocess.run(command, cwd="/", env=USER.environment, timeout=PATIENCE_S, check=False).returncode


def test_descriptor_tells_that_the_server_is_ready(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert _join(tmp_path / "domain") == 0
        server.send_signal(signal.SIGHUP)
        assert server.wait(PATIENCE_S) == 0


def test_signals_that_were_ignored_stay_ignored(tmp_path: Path) -> None:
    with serving(tmp_path, "sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh") as server:
        for number in (signal.SIGHUP, signal.SIGINT):
            server.send_signal(number)
        assert _join(tmp_path / "domain") == 0, "it serves on"
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0


def test_service_manager_passes_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "domain"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen()
        script = f'exec 3<&{listening.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
        command = ["bash", "-c", script, "bash", *USER.kdbus("serve")]
        with started(*command, pass_fds=(listening.fileno(),)) as server:
            assert _join(path) == 0, "the manager's socket keeps who comes early"
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE_S) == 0
        assert path.is_socket(), "it is the manager's"


def test_terminal_is_told(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    try:
        with started(*USER.kdbus("serve", "--socket", str(tmp_path / "domain")), stderr=theirs):
            assert _wait_for(ours).startswith(f"kdbus: serving at {tmp_path}/domain".encode())
    finally:
        os.close(ours)
        os.close(theirs)


def test_program_waits_for_its_server(tmp_path: Path) -> None:
    command = USER.kdbus("run", "--domain", str(tmp_path / "domain"), "--wait", str(PATIENCE_S), "--", "true")
    with started(*command) as program, serving(tmp_path):
        assert program.wait(PATIENCE_S) == 0
    assert _join(tmp_path / "nowhere", "--wait", "0.01") == 125


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["serve", "--socket", "x", "--ready-fd", "x"], "it is no number"),
        (["serve", "--socket", "x", "--ready-fd", "999"], "Bad file descriptor"),
        (["run", "--wait", "1", "true"], "give --domain PATH"),
        (["run", "--domain", "x", "--wait", "soon", "true"], "'soon' is no number of seconds"),
        (["run", "--domain", "x", "--wait", "nan", "true"], "'nan' is no number of seconds"),
    ],
)
def test_what_makes_no_sense_is_told(words: list[str], part: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        USER.kdbus(*words), env=USER.environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 125 and part in ended.stderr and ended.stderr.count("\n") == 1
