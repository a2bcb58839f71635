# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain of one test: programs, fakes, calls, and the trace of it all.

It begins with the first thing that needs it, so that faults can be said before. Whatever waits has a limit in seconds,
and says what it has waited for.
"""

from __future__ import annotations

import errno as numbered
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import kdbus
import pytest_kdbus
from kdbus.abi.revision import REVISIONS
from kdbus.errors import failure
from pytest_kdbus import trace
from pytest_kdbus.agent import NAME
from pytest_kdbus.fake import Fake, HasFileno, Passing, Replies, dbus_call, dbus_result, dbus_signal, numbers
from pytest_kdbus.program import Ended, Program
from pytest_kdbus.trace import Call, Finding
from pytest_kdbus.wire import Channel, Words

_PATIENCE_S = 30.0
"""How long the domain may take to begin and to end."""
SECONDS = 10.0
"""How long anything else may take unless a test says otherwise."""
_COMMANDS = frozenset(name for revision in REVISIONS for name in revision.requests)
_ERRNOS = frozenset((*numbered.errorcode.values(), "EMEDIUMTYPE"))
_BOOT = "import sys; sys.path[:0] = {paths!r}; from pytest_kdbus.agent import main; main({descriptor}, {bus!r})"


class Failure(Exception):
    """The domain could not be had, or did not do what it was asked to."""


class Domain:
    """The fixture `kdbus`."""

    def __init__(
        self, command: str, *, bus: str = "test", revision: str | None = None, mode: str | None = None
    ) -> None:
        """`command` is `kdbus`; the rest is as for the marker."""
        self._command = command
        self.bus = f"0-{bus}" if bus == "system" else f"{os.geteuid()}-{bus}"
        """The name of the bus."""
        self.path = f"/sys/fs/kdbus/{self.bus}/bus"
        """The path of its node, which programs open."""
        options = {"--make-bus": bus, "--revision": revision, "--mode": mode}
        self._options = [word for name, value in options.items() if value for word in (name, value)]
        self._folder = tempfile.TemporaryDirectory(prefix="kdbus-")
        self._recording = f"{self._folder.name}/recording"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._lock = threading.Lock()
        self._answers: dict[int, Future[Any]] = {}
        self._ended: dict[int, Future[int]] = {}
        self._fakes: dict[int, Fake] = {}
        self._programs: list[Program] = []
        self._asked = 0
        self._ready: Future[None] = Future()

    @property
    def started(self) -> bool:
        """Whether there is anything in it yet."""
        return self._process is not None

    # ---- faults ----

    def inject(self, *faults: str) -> None:
        """Have calls of programs fail, wait or lose: "SEND:errno=ENOBUFS:every=3", as docs/faults.md describes.

        Before anything has been started. Calls of fakes, and those that the test makes, are spared.
        """
        if self.started:
            raise Failure("faults must be injected before the first program, fake or call of the test")
        for fault in faults:
            self._options += ["--inject", fault if ":process=" in fault else f"{fault}:process=!{NAME}"]

    # ---- programs ----

    def start(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
    ) -> Program:
        """Start a program, which goes on while the test does; it is killed at the end of the test.

        `environment`: variables besides those of the test. Raises Failure if it cannot be executed, TypeError if the
        command is no list of words.
        """
        output = tempfile.mkstemp(dir=self._folder.name)
        errors = tempfile.mkstemp(dir=self._folder.name)
        for descriptor, _ in (output, errors):
            os.close(descriptor)
        if isinstance(command, str | bytes) or not command:
            raise TypeError(f"the command {command!r} is no list of words, such as ['./service', kdbus.bus]")
        words = [os.fsdecode(word) for word in command]
        process = self._ask(
            "start",
            command=words,
            environment={**os.environ, **(environment or {})},
            folder=str(folder or Path.cwd()),
            output=output[1],
            errors=errors[1],
        )
        program = Program(self, process, words, Path(output[1]), Path(errors[1]))
        self._programs.append(program)
        return program

    def run(
        self,
        command: Sequence[str | Path],
        *,
        seconds: float = SECONDS,
        environment: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
    ) -> Ended:
        """Run a program to its end. Raises Failure if that does not come within `seconds`; it is killed then."""
        return self.start(command, environment=environment, folder=folder).wait(seconds)

    # ---- names, calls, fakes ----

    def wait_for_name(self, name: str, seconds: float = SECONDS) -> int:
        """Wait until somebody owns the well-known name; returns the connection's id. Raises kdbus.TimedOut.

        What fails here or in `call` notes which programs have ended meanwhile, and what they said.
        """
        return int(self._ask("wait_for_name", seconds, name=name, seconds=seconds))

    def call(
        self, name: str | int, payload: bytes, seconds: float = SECONDS, *, descriptors: Sequence[HasFileno | int] = ()
    ) -> bytes:
        """Send a request, and return the payload of the reply. Raises kdbus.NotFound, PeerGone, TimedOut or Error."""
        answer, received = self._call(name, Passing(payload, descriptors), seconds)
        for descriptor in received:
            os.close(descriptor)
        return answer

    def call_method(
        self,
        name: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
        seconds: float = SECONDS,
    ) -> Any:
        """Call a method of D-Bus; nothing, the value, or a tuple of several comes back. Values of the type `h` are
        descriptors: numbers, or what has a `fileno`, on the way out, `kdbus.Descriptor` on the way in.

        Raises kdbus.dbus.errors.ErrorReply, and what `call` raises.
        """
        request = dbus_call(name, path, interface, member, signature, arguments)
        return dbus_result(*self._call(name, request, seconds))

    def _call(self, name: str | int, request: Passing, seconds: float) -> tuple[bytes, list[int]]:
        words = {"name": name, "payload": request.payload.hex(), "seconds": seconds, "descriptors": numbers(request)}
        answer, descriptors = self._ask_for_all("call", seconds, **words)
        return bytes.fromhex(answer), descriptors

    def send(self, name: str | int, payload: bytes, *, descriptors: Sequence[HasFileno | int] = ()) -> None:
        """Send a message that is no request."""
        passing = Passing(payload, descriptors)
        self._ask("send", name=name, payload=passing.payload.hex(), descriptors=numbers(passing))

    def broadcast(self, payload: bytes, *, bloom: bytes = b"", sender: Fake | None = None) -> None:
        """Send a signal in bytes to all who want it. `bloom`: its filter, as long as the bus's are; without it, one
        that only fits masks without a bit. `sender`: the fake that it comes from; nobody in particular without it."""
        number = None if sender is None else sender.number
        self._ask("broadcast", fake=number, payload=Passing(payload).payload.hex(), bloom=bloom.hex())

    def emit(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
        sender: Fake | None = None,
    ) -> None:
        """Send a signal of D-Bus to all whose matches fit it, with the bloom filter that sd-bus would make."""
        size, hashes = self._ask("parameters")
        payload, bloom = dbus_signal(path, interface, member, signature, arguments, size, hashes)
        self.broadcast(payload, bloom=bloom, sender=sender)

    def fake(self, name: str, replies: Replies) -> Fake:
        """Own a name and answer what comes for it, until the end of the test.

        `replies`: by method, for D-Bus; or, for any payload, bytes, or a function of the request's. See docs/pytest.md.
        """
        return self._fake(name, replies)

    def listen(self) -> Fake:
        """A peer without a name that gets all signals from now on, and what is sent to its `id`; `next` waits for
        them."""
        return self._fake("", None)

    def _fake(self, name: str, replies: Replies | None) -> Fake:
        with self._lock:
            number = len(self._fakes)
            fake = self._fakes[number] = Fake(name, replies, number)
        fake.id = int(self._ask("fake", name=name, fake=number))
        return fake

    # ---- the trace ----

    def calls(
        self,
        command: str | None = None,
        *,
        errno: str | None = None,
        program: str | None = None,
        process: int | None = None,
        name: str | None = None,
    ) -> list[Call]:
        """The calls that programs have made, in their order; those of fakes and of the test are left out.

        Args:
            command: "SEND", ...; errno: "ENOBUFS", ..., or "" for those that did not fail.
            program: the name of the thread; process: the number of the process.
            name: a well-known name of either side.

        Raises Failure: there is no such command or errno, so that nothing could be found.
        """
        if command is not None and command not in _COMMANDS and not command.startswith("0x"):
            raise Failure(trace.unknown("command", command, sorted(_COMMANDS)))
        if errno and errno not in _ERRNOS:
            raise Failure(trace.unknown("errno", errno, sorted(_ERRNOS)))
        wanted = {"command": command, "errno": errno, "program": program, "process": process}
        found = trace.calls(self._command, self._recording) if self.started else ()
        return [
            call
            for call in found
            if all(value is None or (getattr(call, member) or "") == value for member, value in wanted.items())
            and (name is None or any(name in names for names in call.names.values()))
        ]

    def wait_for_call(
        self,
        command: str,
        *,
        seconds: float = SECONDS,
        errno: str | None = None,
        program: str | None = None,
        process: int | None = None,
        name: str | None = None,
    ) -> Call:
        """Wait until a program has made a call, and return it: the first that fits, as for `calls`. Before a signal is
        sent, say, until a program has added its match. Raises Failure."""
        deadline = time.monotonic() + seconds
        self._begin()
        with trace.Growth(self._recording) as growth:
            while not (found := self.calls(command, errno=errno, program=program, process=process, name=name)):
                if not growth.wait(deadline - time.monotonic()):
                    failed = Failure(f"no program has made such a call of {command} within {seconds:g} s")
                    self._tell_of_ends(failed)
                    raise failed
        return found[0]

    def findings(self, *rules: str) -> list[Finding]:
        """What the rules of `kdbus check` (docs/check.md) find in what programs have done; without names, all of them.
        Raises Failure: there is no such rule.

        What a connection holds is judged when it is closed, so stop a program first to learn what it leaks.
        """
        if not self.started:
            return []
        self._ask("settle")
        try:
            return list(trace.findings(self._command, self._recording, rules))
        except ValueError as error:
            raise Failure(str(error)) from None

    def trace(self) -> str:
        """All that has happened, as `kdbus trace` shows it."""
        return trace.lines(self._command, self._recording) if self.started else ""

    # ---- the agent ----

    def ended(self, process: int) -> Future[int]:
        """The status of a program, when it has ended; -N: it died of signal N."""
        with self._lock:
            return self._ended.setdefault(process, Future())

    def signal(self, process: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a program, and what it has started."""
        self._ask("signal", process=process, number=number)

    def _ask(self, what: str, patience_s: float = 0.0, **words: Any) -> Any:
        return self._ask_for_all(what, patience_s, **words)[0]

    def _ask_for_all(self, what: str, patience_s: float = 0.0, **words: Any) -> tuple[Any, list[int]]:
        """The value of the answer, and the descriptors that came with it."""
        self._begin()
        assert self._channel is not None
        answer: Future[Any] = Future()
        with self._lock:
            self._asked += 1
            number = self._asked
            self._answers[number] = answer
        try:
            self._channel.send(id=number, do=what, **words)
            found: tuple[Any, list[int]] = answer.result(patience_s + _PATIENCE_S)
            return found
        except kdbus.Error as error:
            self._tell_of_ends(error)
            raise
        except OSError as error:
            raise self._gone() from error

    def _tell_of_ends(self, error: Exception) -> None:
        """Note on a failure which programs have ended meanwhile: they are what it is due to, mostly."""
        for program in self._programs:
            if said := program.unexpected_end():
                error.add_note(said)

    def _begin(self) -> None:
        if self.started:
            return
        ours, theirs = socket.socketpair()
        packages = {str(Path(package.__path__[0]).parent) for package in (kdbus, pytest_kdbus)}
        boot = _BOOT.format(paths=sorted(packages), descriptor=theirs.fileno(), bus=self.bus)
        command = [self._command, "record", "-o", self._recording, *self._options, "--", sys.executable, "-c", boot]
        with theirs, open(f"{self._folder.name}/said", "wb") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._channel = Channel(ours)
        self._reader.start()
        try:
            self._ready.result(_PATIENCE_S)
        except NotInTime:
            raise self._gone() from None

    def _gone(self) -> Failure:
        said = Path(self._folder.name, "said").read_text(errors="replace").strip()
        return Failure(f"the domain of this test has ended, or does not answer: {said or 'it said nothing'}")

    def _read(self) -> None:
        assert self._channel is not None
        for words in self._channel.receive():
            if "id" in words:
                self._take_answer(words)
            elif words["event"] == "ready":
                self._ready.set_result(None)
            elif words["event"] == "ended":
                self.ended(words["process"]).set_result(words["status"])
            else:
                threading.Thread(target=self._answer, args=(words,), daemon=True).start()
        with self._lock:
            waiting = [each for each in (self._ready, *self._answers.values()) if not each.done()]
        if waiting and self._process is not None:
            # Why it ends is said last.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
        for each in waiting:
            each.set_exception(self._gone())

    def _take_answer(self, words: Words) -> None:
        with self._lock:
            answer = self._answers.pop(words["id"])
        if "error" not in words:
            answer.set_result((words["value"], words.get("descriptors", [])))
        elif "command" in words:
            answer.set_exception(failure(words["command"], words["errno"], words["subject"]))
        else:
            answer.set_exception(Failure(words["error"]))

    def _answer(self, words: Words) -> None:
        fake = self._fakes[words["fake"]]
        reply = fake.answer(bytes.fromhex(words["payload"]), words["sender"], words.get("descriptors", ()))
        assert self._channel is not None
        payload, passed = (None, []) if reply is None else (reply.payload.hex(), numbers(reply))
        try:
            self._channel.send(passed, do="answer", fake=words["fake"], payload=payload)
        except OSError:
            return  # the test is over

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process is not None and self._channel is not None:
                self._channel.shut_down()
                try:
                    self._process.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    os.killpg(self._process.pid, signal.SIGKILL)
                    self._process.wait()
                self._reader.join(_PATIENCE_S)
                self._channel.close()
            errors = [error for fake in self._fakes.values() for error in fake.errors]
        finally:
            self._folder.cleanup()
        if errors:
            raise errors[0]
