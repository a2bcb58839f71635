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
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import kdbus
from pytest_kdbus.wire import Channel, Words

NAME = "kdbus-peer"
COOKIE = 1
"""Of whatever is sent here: D-Bus has it in the payload, too, and there is never more than one to be told apart."""
_PR_SET_CHILD_SUBREAPER = 36


class Agent:
    """The agent of the bus of that name."""

    def __init__(self, channel: Channel, bus: str) -> None:
        self._channel = channel
        self._bus = bus
        self._answers: dict[int, SimpleQueue[Words]] = {}

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
            "settle": self._settle,
            "wait_for_name": self._wait_for_name,
        }
        try:
            value = acts[words["do"]](words)
        except kdbus.Error as error:
            about = {"command": error.command, "errno": error.errno, "subject": error.subject}
            self._tell(id=words["id"], error=str(error), **about)
        except Exception as error:
            self._tell(id=words["id"], error=f"{words['do']}: {error}")
        else:
            self._tell(id=words["id"], value=value)

    def _tell(self, **words: Any) -> None:
        with suppress(OSError):  # nobody wants to know any more
            self._channel.send(**words)

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

    def _call(self, words: Words) -> str:
        with kdbus.connect(self._bus) as connection:
            payload = bytes.fromhex(words["payload"])
            with connection.call(words["name"], payload, timeout=words["seconds"], cookie=COOKIE) as reply:
                return b"".join(reply.views).hex()

    def _send(self, words: Words) -> None:
        with kdbus.connect(self._bus) as connection:
            connection.send(words["name"], bytes.fromhex(words["payload"]), cookie=COOKIE)

    def _settle(self, _words: Words) -> None:
        """What has been closed before a call is known when it is answered."""
        kdbus.connect(self._bus).close()

    def _fake(self, words: Words) -> None:
        connection = kdbus.connect(self._bus)
        connection.acquire_name(words["name"])
        answers = self._answers[words["fake"]] = SimpleQueue()
        threading.Thread(target=self._be, args=(words["fake"], connection, answers), daemon=True).start()

    def _be(self, number: int, connection: kdbus.Connection, answers: SimpleQueue[Words]) -> None:
        """Have the test answer each message."""
        for message in connection:
            with message:
                if message.is_notification:
                    continue
                self._tell(
                    event="message",
                    fake=number,
                    payload=b"".join(message.views).hex(),
                    sender=message.sender,
                    expects_reply=message.expects_reply,
                )
                answer = answers.get()["payload"]
                if answer is not None and message.expects_reply:
                    with suppress(kdbus.Error):  # nobody waits for it any more, which the trace shows
                        connection.reply(message, bytes.fromhex(answer), cookie=COOKIE)


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
