# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent: the test's hand in its domain.

It is the first program of the domain, and its end is the domain's. It starts programs, owns names for fakes, calls, and
waits for names, as the test asks (`pytest_kdbus.wire`). Each request has a thread of its own, and each fake, so nothing
holds up anything else. What fakes answer is decided in the test.

When the test is done, or dies, the socket hangs up. Then every process that has been started here is killed, daemons
too: they are handed to the agent when their parents end, as it is a subreaper (prctl(2)).

Its name is `kdbus-peer`, by which a trace tells it from the programs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import kdbus
from pytest_kdbus.wire import Channel, Words

NAME = "kdbus-peer"
COOKIE = 1
"""Of whatever is sent here: D-Bus has it in the payload, too, and there is never more than one to be told apart."""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Passed:
    """What an act returns, with descriptors, which are closed once the test has them."""

    value: str
    descriptors: list[int]


@contextmanager
def _closed(descriptors: Sequence[int]) -> Iterator[None]:
    """Close them at the end of the block."""
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _taken(message: kdbus.Message) -> list[int]:
    """The descriptors that came with a message; those that could not be installed are left out."""
    found = []
    for descriptor in message.descriptors:
        with suppress(kdbus.Error):
            found.append(descriptor.take())
    return found


class Agent:
    """The agent of the bus of that name."""

    def __init__(self, channel: Channel, bus: str) -> None:
        self._channel = channel
        self._bus = bus
        self._answers: dict[int, SimpleQueue[Words]] = {}
        self._peers: dict[int, kdbus.Connection] = {}
        """Those of fakes and listeners, by the number of the fake."""

    def serve(self) -> None:
        """Do what the test asks, until it is gone."""
        self._channel.send(event="ready")
        for words in self._channel.receive():
            if words["do"] == "answer":
                self._answers[words["fake"]].put(words)
            else:
                threading.Thread(target=self._act, args=(words,), daemon=True).start()

    def _act(self, words: Words) -> None:
        acts: dict[str, Callable[[Words], Any]] = {
            "start": self._start,
            "signal": self._signal,
            "fake": self._fake,
            "call": self._call,
            "send": self._send,
            "broadcast": self._broadcast,
            "parameters": self._parameters,
            "settle": self._settle,
            "wait_for_name": self._wait_for_name,
        }
        try:
            value = acts[words["do"]](words)
        except kdbus.Error as error:
            about: dict[str, Any] = {"command": error.command, "errno": error.errno, "subject": error.subject}
            self._tell(id=words["id"], error=str(error), **about)
        except Exception as error:
            self._tell(id=words["id"], error=f"{words['do']}: {error}")
        else:
            if isinstance(value, Passed):
                with _closed(value.descriptors):
                    self._tell(id=words["id"], value=value.value, descriptors=value.descriptors)
            else:
                self._tell(id=words["id"], value=value)

    def _tell(self, descriptors: Sequence[int] = (), **words: Any) -> None:
        with suppress(OSError):  # nobody wants to know any more
            self._channel.send(descriptors, **words)

    def _start(self, words: Words) -> int:
        with open(words["output"], "wb") as output, open(words["errors"], "wb") as errors:
            process = subprocess.Popen(
                words["command"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=words["folder"],
                env=words["environment"],
                start_new_session=True,
            )
        threading.Thread(target=self._wait, args=(process,), daemon=True).start()
        return process.pid

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        self._tell(event="ended", process=process.pid, status=process.wait())

    def _signal(self, words: Words) -> None:
        with suppress(ProcessLookupError):
            os.killpg(words["process"], words["number"])

    def _wait_for_name(self, words: Words) -> int:
        return kdbus.wait_for_name(self._bus, words["name"], words["seconds"])

    def _call(self, words: Words) -> Passed:
        with kdbus.connect(self._bus) as connection:
            payload = bytes.fromhex(words["payload"])
            given = words.get("descriptors", [])
            with (
                _closed(given),
                connection.call(
                    words["name"], payload, timeout=words["seconds"], cookie=COOKIE, descriptors=given
                ) as reply,
            ):
                return Passed(b"".join(reply.views).hex(), _taken(reply))

    def _send(self, words: Words) -> None:
        given = words.get("descriptors", [])
        with _closed(given), kdbus.connect(self._bus) as connection:
            connection.send(words["name"], bytes.fromhex(words["payload"]), cookie=COOKIE, descriptors=given)

    def _broadcast(self, words: Words) -> None:
        connection = kdbus.connect(self._bus) if words["fake"] is None else self._peers[words["fake"]]
        try:
            payload, bloom = bytes.fromhex(words["payload"]), bytes.fromhex(words["bloom"])
            connection.signal(payload, bloom=bloom or bytes(connection.bloom.size), cookie=COOKIE)
        finally:
            if words["fake"] is None:
                connection.close()

    def _parameters(self, _words: Words) -> list[int]:
        """Those of the bus's bloom filters."""
        with kdbus.connect(self._bus) as connection:
            return [connection.bloom.size, connection.bloom.hashes]

    def _settle(self, _words: Words) -> None:
        """What has been closed before a call is known when it is answered."""
        kdbus.connect(self._bus).close()

    def _fake(self, words: Words) -> int:
        """A peer that owns a name, or, without one, gets all signals; its id."""
        connection = kdbus.connect(self._bus)
        if words["name"]:
            connection.acquire_name(words["name"])
        else:
            connection.add_match()
        self._peers[words["fake"]] = connection
        answers = self._answers[words["fake"]] = SimpleQueue()
        threading.Thread(target=self._be, args=(words["fake"], connection, answers), daemon=True).start()
        return connection.id

    def _be(self, number: int, connection: kdbus.Connection, answers: SimpleQueue[Words]) -> None:
        """Have the test answer each message."""
        for message in connection:
            with message:
                if message.is_notification:
                    continue
                descriptors = _taken(message)
                self._tell(
                    event="message",
                    descriptors=descriptors,
                    fake=number,
                    payload=b"".join(message.views).hex(),
                    sender=message.sender,
                    expects_reply=message.expects_reply,
                )
                for descriptor in descriptors:
                    os.close(descriptor)
                answer = answers.get()
                given = answer.get("descriptors", [])
                with _closed(given):
                    if answer["payload"] is not None and message.expects_reply:
                        with suppress(kdbus.Error):  # nobody waits for it any more, which the trace shows
                            payload = bytes.fromhex(answer["payload"])
                            connection.reply(message, payload, cookie=COOKIE, descriptors=given)


def _descendants(process: int) -> list[int]:
    found = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/children", encoding="ascii") as file:
                for child in map(int, file.read().split()):
                    found += [child, *_descendants(child)]
    return found


def _kill_all() -> None:
    """Until there is none: who is killed may have started another meanwhile."""
    while found := _descendants(os.getpid()):
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main(descriptor: int, bus: str) -> None:
    """Be the agent of the test at the other end of the socket `descriptor`."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(NAME)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    end = socket.socket(fileno=descriptor)
    end.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # of the terminal: pytest decides what becomes of us
    try:
        Agent(Channel(end), bus).serve()
    finally:
        _kill_all()
        os._exit(0)  # whatever the threads wait for
