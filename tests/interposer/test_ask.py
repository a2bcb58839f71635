# SPDX-License-Identifier: GPL-2.0-or-later
"""Who watches believes nothing: what a supervisor says has bounds, and it is that user's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from interposer.errors import NothingToWatch
from interposer.watching import ask, places, wire

ME = os.getpid()
Answer = Callable[[socket.socket], None]


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """Makes this process one that answers each question by what the function does with the connection."""
    monkeypatch.setenv("KDBUS_RUNTIME_DIR", str(tmp_path))
    place = places.make()
    assert place is not None
    place.listening.setblocking(True)
    threads = []

    def answer_by(answer: Answer) -> None:
        def serve() -> None:
            connection, _ = place.listening.accept()
            with connection:
                connection.recv(4096)
                try:
                    answer(connection)
                except (BrokenPipeError, ConnectionResetError):
                    return

        threads.append(Thread(target=serve))
        threads[-1].start()

    yield answer_by
    for thread in threads:
        thread.join()
    place.close()


def sends(*records: dict[str, object]) -> Answer:
    return lambda connection: connection.sendall(b"".join(map(wire.line_of, records)))


def test_answer(supervisor: Callable[[Answer], None]) -> None:
    supervisor(sends({"record": "bus", "new": 1}, {"record": "end"}))
    with ask.watch(process=ME) as watching:
        assert watching.ask(wire.FACTS) == [{"record": "bus", "new": 1}]


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (sends(), "it may have ended"),
        (sends({"record": "bus"}), "it may have ended"),
        (lambda connection: connection.sendall(b"\xff\n"), "makes no sense: not JSON"),
        (lambda connection: connection.sendall(b"[1]\n"), "makes no sense: no JSON object"),
        (lambda connection: connection.sendall(b"[" * 100000 + b"\n"), "makes no sense: not JSON"),
        (lambda connection: connection.sendall(b"x" * (1 << 22)), "a line does not end"),
        (sends({"record": "error", "reason": "\x1b[2J"}), r"\x1b[2J"),
    ],
)
def test_nonsense(supervisor: Callable[[Answer], None], answer: Answer, part: str) -> None:
    supervisor(answer)
    with ask.watch(process=ME) as watching, pytest.raises(NothingToWatch) as caught:
        watching.ask(wire.FACTS)
    assert part in str(caught.value)
    assert str(caught.value).isprintable()


def test_answer_that_does_not_end(supervisor: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "_MOST_BYTES", 1 << 16)

    def answer(connection: socket.socket) -> None:
        while True:
            connection.sendall(wire.line_of({"record": "bus", "bus": "x" * 1000}))

    supervisor(answer)
    with ask.watch(process=ME) as watching, pytest.raises(NothingToWatch, match="the answer does not end"):
        watching.ask(wire.FACTS)


def test_silence(supervisor: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "_PATIENCE_S", 0.05)

    def answer(connection: socket.socket) -> None:
        connection.recv(1)  # until who asks has gone

    supervisor(answer)
    with ask.watch(process=ME) as watching, pytest.raises(NothingToWatch, match=r"no answer within 0\.05 s"):
        watching.ask(wire.FACTS)
