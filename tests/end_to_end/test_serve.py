# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus serve` and `kdbus run --domain`: real servers, launchers and programs of several users, and their deaths.

Every process here is a real one. What is waited for is an event: a line that a program prints, the end of a process, or
the server's READY=1 (sd_notify(3)).
"""

from __future__ import annotations

import dataclasses
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from interposer.shared_domain import domain_socket
from tests.interposer.test_view import needs_root
from tests.support.compiling import compile_program
from tests.support.supervised import child_of
from tests.support.users import User, current_user

SECONDS = 60
SOMEBODY = 65533


class Process:
    """A command that runs as a user, in a session of its own, with pipes."""

    def __init__(self, user: User, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.user = user
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**user.environment, **(environment or {})},
            start_new_session=True,
            **user.becoming,
        )
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._rest = b""

    def line(self) -> str:
        """The next line that it prints."""
        assert self._popen.stdout is not None
        deadline = time.monotonic() + SECONDS
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._popen.stdout], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"nothing printed in time; so far: {self._rest!r}"
            data = os.read(self._popen.stdout.fileno(), 65536)
            assert data, f"the output has ended with {self._rest!r}"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def say(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to this process alone."""
        signal.pidfd_send_signal(self._pidfd, number)

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit status (-N: signal N) and the rest of the output so far."""
        ready, _, _ = select.select([self._pidfd], [], [], SECONDS)
        assert ready, f"has not ended; output so far: {self._rest!r}"
        status = self._popen.wait()
        assert self._popen.stdout is not None
        os.set_blocking(self._popen.stdout.fileno(), False)
        while data := self._popen.stdout.read():
            self._rest += data
        return status, self._rest.decode()

    def close(self) -> None:
        """Kill what is left of the session."""
        if self._popen.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            stream.close()
        os.close(self._pidfd)


class Place:
    """A folder for sockets, the compiled program, and everything that runs; all of it is gone at the end."""

    def __init__(self, folder: Path, member: Path, stack: ExitStack) -> None:
        self.socket = str(folder / "domain")
        self.folder = folder
        self.member = str(member)
        self.prefix: tuple[str, ...] = ()
        """A command that starts all the others, servers and launchers."""
        self.options: tuple[str, ...] = ()
        """Of `kdbus run`."""
        self._stack = stack

    def start(self, user: User, *command: str, environment: dict[str, str] | None = None) -> Process:
        """Start a command."""
        process = Process(user, list(command), environment)
        self._stack.callback(process.close)
        return process

    def serve(self, user: User, *prefix: str, options: tuple[str, ...] = ()) -> Process:
        """Start a server, and wait until it can be joined. `prefix`: a command that starts it."""
        ready = str(self.folder / "ready")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(ready)
            os.chmod(ready, 0o666)
            try:
                # Not to depend on the probe of the kernel, which may see nothing on a busy machine.
                environment = {"NOTIFY_SOCKET": ready} | ({"KDBUS_EXACTLY_ONCE": "kernel"} if options else {})
                command = user.kdbus("serve", "--socket", self.socket, *options)
                server = self.start(user, *self.prefix, *prefix, *command, environment=environment)
                found, _, _ = select.select([manager], [], [], SECONDS)
                assert found, "the server does not start"
                assert manager.recv(100) == b"READY=1"
            finally:
                os.unlink(ready)
        return server

    def join(self, user: User, *command: str) -> Process:
        """Start a program in the server's domain."""
        return self.start(
            user, *self.prefix, *user.kdbus("run", "--domain", self.socket, *self.options, "--", *command)
        )

    def service(self, user: User, name: str = "x", access: str = "user") -> Process:
        """Start a service on the bus UID-NAME, and wait until it can be asked."""
        service = self.join(user, self.member, "serve", name, access)
        assert service.line() == "ready"
        return service

    def ask(self, user: User, bus: str, count: int = 1) -> tuple[int, list[str]]:
        """Ask the service on `bus`: exit status and answer, `UID PID`."""
        status, output = self.join(user, self.member, "ask", bus, str(count)).end()
        return status, output.split()

    def names(self, user: User) -> list[str]:
        """What is below /sys/fs/kdbus."""
        status, output = self.join(user, self.member, "list").end()
        assert status == 0, output
        return [line.split()[0] for line in output.splitlines()]


@pytest.fixture(scope="session")
def member(open_folder: Path) -> Path:
    return compile_program("member", open_folder, "-O2")


@pytest.fixture
def place(open_folder: Path, member: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    folder = open_folder / f"serve-{abs(hash(request.node.name)):x}"
    folder.mkdir()
    folder.chmod(0o777)
    try:
        with ExitStack() as stack:
            yield Place(folder, member, stack)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def somebody(ordinary_user: User) -> User:
    """Another ordinary user."""
    if ordinary_user.identity is None:
        pytest.skip("needs root, to be several users")
    return dataclasses.replace(ordinary_user, name="somebody", identity=SOMEBODY)


def uid(user: User) -> int:
    return os.geteuid() if user.identity is None else user.identity


def test_service_and_clients_are_started_apart(place: Place, user: User) -> None:
    place.serve(user)
    service = place.service(user)
    bus = f"{uid(user)}-x"
    for _ in range(2):
        status, answer = place.ask(user, bus, 20)
        assert (status, answer[0]) == (0, str(uid(user))), answer
        assert int(answer[1]) not in (0, service.pid)
    assert place.names(user) == [bus, "control"]


def test_programs_that_join_later_find_what_is_there(place: Place, user: User) -> None:
    place.serve(user)
    first, second = place.service(user, "first"), place.service(user, "second")
    own = uid(user)
    assert place.names(user) == [f"{own}-first", f"{own}-second", "control"]
    first.kill(signal.SIGTERM)
    assert first.end()[0] == -signal.SIGTERM, "signals to the launcher are meant for the program"
    assert place.names(user) == [f"{own}-second", "control"]
    assert place.ask(user, f"{own}-second")[0] == 0
    second.kill(signal.SIGTERM)
    second.end()
    assert place.names(user) == ["control"]


def test_the_programs_end_is_the_launchers(place: Place, user: User) -> None:
    place.serve(user)
    assert place.join(user, "sh", "-c", "echo out; exit 7").end() == (7, "out\n")
    assert place.join(user, "sh", "-c", "kill -USR1 $$").end()[0] == -signal.SIGUSR1
    status, output = place.join(user, "/nonexistent").end()
    assert status == 127 and "kdbus: " in output


def test_receivers_serve_themselves(place: Place, user: User, open_folder: Path) -> None:
    """Where both the server and who joins it have been asked to."""
    program = open_folder / "self_serve"
    if not program.exists():
        compile_program("self_serve", open_folder, "-O2")
    server = place.serve(user, options=("--statistics", "--self-serve"))
    cases = "order_and_readiness", "calls"
    assert place.join(user, str(program), *cases).end()[0] == 0
    place.options = ("--self-serve",)
    status, output = place.join(user, str(program), *cases).end()
    assert status == 0 and "kdbus: " not in output, output
    server.kill(signal.SIGTERM)
    told = server.end()[1].splitlines()[1]
    assert told.endswith(" calls served by receivers themselves")
    if user.identity is None:
        assert int(told.split()[1]) > 1000


@pytest.mark.parametrize("options", [("--statistics",), ("--statistics", "--no-flows")])
def test_hot_calls_are_served_natively_across_trees(place: Place, user: User, options: tuple[str, ...]) -> None:
    server = place.serve(user, options=options)
    service = place.join(user, place.member, "serve", "x", "user", "plain")
    assert service.line() == "ready"
    assert place.ask(user, f"{uid(user)}-x", 3000) == (0, ["plain"])
    server.kill(signal.SIGTERM)
    words = server.end()[1].splitlines()[0].split()
    assert (words[0], words[-1]) == ("kdbus:", "natively")
    natively = int(words[-2])
    if "--no-flows" in options:
        assert natively == 0
    elif user.identity is None:
        # SEND, RECV, FREE, SEND, FREE
        assert natively > 10_000, words


@needs_root
def test_faults_hit_whoever_has_asked_for_them(place: Place, user: User) -> None:
    place.serve(user)
    place.service(user)
    bus = f"{uid(user)}-x"
    place.options = ("--inject", "HELLO:errno=EMFILE")
    status, output = place.ask(user, bus)
    assert status != 0, output
    place.options = ("--inject", "SEND:delay=1ms", "--inject", "RECV:errno=EINTR:process=nobody")
    assert place.ask(user, bus)[0] == 0
    place.options = ()
    status, output = place.ask(user, bus)
    assert status == 0, output


def test_users_meet_as_permissions_allow(place: Place, ordinary_user: User, somebody: User) -> None:
    """Credentials are the kernel's, and true across the user namespaces that launchers make."""
    place.serve(current_user())
    place.service(ordinary_user, "open", "world")
    place.service(ordinary_user, "closed", "user")
    own, other = uid(ordinary_user), uid(somebody)
    assert place.names(somebody) == [f"{own}-closed", f"{own}-open", "control"]
    assert place.ask(somebody, f"{own}-open")[1][0] == str(other)
    assert place.ask(ordinary_user, f"{own}-open")[1][0] == str(own)
    assert place.ask(current_user(), f"{own}-open")[1][0] == "0"
    assert place.ask(somebody, f"{own}-closed") == (3, ["connect:", "EACCES"])
    assert place.ask(ordinary_user, f"{own}-closed")[1][0] == str(own)
    status, output = place.join(current_user(), place.member, "list").end()
    assert status == 0
    lines = [f"{own}-closed {own} 500", f"{own}-open {own} 555", "control 0 666"]
    assert output.splitlines() == lines, "nodes have their true owners"
    # An owner has no power over what the server has made.
    script = f"rm -r /sys/fs/kdbus/{own}-open; mkdir /sys/fs/kdbus/y"
    status, output = place.join(ordinary_user, "sh", "-c", script).end()
    assert status != 0 and output.count("ermission denied") == 2, output
    assert len(place.names(somebody)) == 3


@needs_root
def test_the_parameter_is_one_for_all(place: Place, ordinary_user: User) -> None:
    place.serve(current_user())
    mask = "/sys/module/kdbus/parameters/attach_flags_mask"
    assert place.join(ordinary_user, "sh", "-c", f"cat {mask}; echo 0 > {mask}").end()[1].startswith("10271\n")
    place.service(ordinary_user, "x", "world")
    assert place.join(current_user(), "sh", "-c", f"echo 1 > {mask}").end() == (0, "")
    assert place.join(ordinary_user, "cat", mask).end() == (0, "1\n")
    # The service cannot see any more who asks.
    assert place.ask(ordinary_user, f"{uid(ordinary_user)}-x") == (0, ["plain"])


@needs_root
def test_an_ordinary_users_server_refuses_others(place: Place, ordinary_user: User, somebody: User) -> None:
    place.serve(ordinary_user)
    assert os.stat(place.socket).st_mode & 0o777 == 0o600
    status, output = place.join(somebody, "true").end()
    assert status == 125 and "Permission denied" in output and output.count("\n") == 1, output
    os.chmod(place.socket, 0o666)
    for stranger in (somebody, current_user()):
        status, output = place.join(stranger, "echo", "executed").end()
        assert status == 125 and "serves nobody else" in output and "executed" not in output, output
    assert place.join(ordinary_user, "true").end() == (0, "")


@needs_root
def test_a_server_that_may_not_inspect_says_so(place: Place, ordinary_user: User) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv: apt-get install util-linux")
    place.serve(current_user(), "setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace", "--")
    status, output = place.join(ordinary_user, "echo", "executed").end()
    assert status == 125 and "may not inspect" in output and "executed" not in output, output


def test_death_of_a_launcher_disturbs_nobody(place: Place, user: User) -> None:
    """Its program goes on, and so do the others."""
    place.serve(user)
    service, other = place.service(user, "x"), place.service(user, "other")
    service.kill()
    assert service.end()[0] == -signal.SIGKILL
    own = uid(user)
    assert place.ask(user, f"{own}-x")[0] == 0
    assert place.ask(user, f"{own}-other")[0] == 0
    other.kill(signal.SIGTERM)
    other.end()
    assert place.names(user) == [f"{own}-x", "control"]


def test_a_program_may_be_bound_to_its_launcher(place: Place, user: User) -> None:
    place.serve(user)
    own = uid(user)
    other = place.service(user, "other")
    place.options = ("--die-with-parent",)
    service = place.service(user, "x")
    program = os.pidfd_open(child_of(service.pid))
    try:
        service.kill()
        assert select.select([program], [], [], SECONDS)[0], "it goes on"
    finally:
        os.close(program)
    assert place.names(user) == [f"{own}-other", "control"]
    assert place.ask(user, f"{own}-other")[0] == 0
    other.kill(signal.SIGTERM)


def test_death_of_a_program_disturbs_nobody(place: Place, user: User) -> None:
    place.serve(user)
    own = uid(user)
    service, other = place.service(user, "x"), place.service(user, "other")
    held = place.join(user, place.member, "hold", f"{own}-x")
    blocked = place.join(user, place.member, "block", f"{own}-x")
    assert (held.line(), blocked.line()) == ("connected", "asking")
    os.kill(child_of(service.pid), signal.SIGKILL)
    assert service.end()[0] == -signal.SIGKILL
    assert held.end() == (0, "hang-up\n"), "the bus has ended"
    assert blocked.end()[0] == 3
    assert place.ask(user, f"{own}-other")[0] == 0
    assert place.names(user) == [f"{own}-other", "control"]
    other.kill(signal.SIGTERM)


def test_sigterm_ends_the_domain_as_an_unmount_would(place: Place, user: User) -> None:
    server = place.serve(user)
    own = uid(user)
    service = place.service(user)
    held = place.join(user, place.member, "hold", f"{own}-x")
    blocked = place.join(user, place.member, "block", f"{own}-x")
    file = place.folder / "file"
    file.touch()
    file.chmod(0o666)
    later = place.join(user, place.member, "open", str(file))
    node = place.join(user, place.member, "open", "/sys/fs/kdbus/control")
    assert (held.line(), blocked.line()) == ("connected", "asking")
    assert (later.line(), node.line()) == ("waiting", "waiting")
    server.kill(signal.SIGTERM)
    assert server.end() == (0, "")
    assert not os.path.lexists(place.socket)
    assert held.end() == (0, "hang-up\n")
    assert service.end() == (0, "hang-up\n")
    assert blocked.end()[0] == 3
    later.say("now")
    assert later.end() == (0, "opened\n"), "plain files can still be opened"
    node.say("now")
    assert node.end() == (3, "open: ENOENT\n")


def test_sudden_death_of_the_server(place: Place, user: User) -> None:
    """Programs see hang-ups; the socket that stays behind does not keep another server from starting."""
    server = place.serve(user)
    service = place.service(user)
    blocked = place.join(user, place.member, "block", f"{uid(user)}-x")
    assert blocked.line() == "asking"
    server.kill()
    assert server.end()[0] == -signal.SIGKILL
    assert service.end() == (0, "hang-up\n")
    assert blocked.end() == (3, "send: ENOSYS\n")
    status, output = place.join(user, "true").end()
    assert status == 125 and "kdbus serve" in output, output
    place.serve(user)
    place.service(user)
    assert place.ask(user, f"{uid(user)}-x")[0] == 0


def test_nothing_is_left_behind(place: Place, user: User) -> None:
    server = place.serve(user)
    mounts = Path("/proc/self/mountinfo").read_text()
    place.service(user)
    bus = f"{uid(user)}-x"

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    for _ in range(3):
        assert place.ask(user, bus)[0] == 0
    before = descriptors()
    for _ in range(12):
        assert place.ask(user, bus)[0] == 0
    # The last ones may not have been tidied up yet.
    assert descriptors() <= before + 11
    assert len(Path(f"/proc/{server.pid}/mountinfo").read_text().splitlines()) <= mounts.count("\n") + 2
    assert Path("/proc/self/mountinfo").read_text() == mounts
    server.kill(signal.SIGTERM)
    server.end()
    assert os.listdir(place.folder) == []


def test_one_server_for_each_path(place: Place, user: User) -> None:
    place.serve(user)
    status, output = place.start(user, *user.kdbus("serve", "--socket", place.socket)).end()
    assert status == 125 and "somebody listens there already" in output
    assert place.join(user, "true").end() == (0, "")
    file = place.folder / "file"
    file.touch()
    status, output = place.start(user, *user.kdbus("serve", "--socket", str(file))).end()
    assert status == 125 and "no socket" in output
    assert file.exists()


@pytest.mark.parametrize("arguments", [(), ("--socket",), ("--socket", "/tmp/" + "x" * 120), ("--socket", "")])
def test_bad_options_are_explained(arguments: tuple[str, ...], place: Place) -> None:
    user = current_user()
    status, output = place.start(user, *user.kdbus("serve", *arguments)).end()
    assert status == 125 and output.startswith("kdbus: ") and output.count("\n") == 1, output


def test_whoever_breaks_the_rules_is_left_alone(place: Place, user: User) -> None:
    place.serve(user)
    place.service(user)
    pipe = os.pipe()
    offers: list[tuple[bytes, bytes, list[int]]] = [
        (b"J", b"", []),
        (b"J", b"K", [pipe[0], pipe[1]]),
        (b"J", b"KUF", [pipe[0]] * 8),
        (b"?", b"x" * 1000, []),
    ]
    for kind, text, descriptors in offers:
        with domain_socket.connect(place.socket) as connection:
            welcome = domain_socket.receive(connection)
            assert welcome is not None and welcome.kind == domain_socket.WELCOME
            welcome.close()
            domain_socket.send(connection, kind, text, descriptors)
            answer = domain_socket.receive(connection)
            assert answer is None, answer
    for descriptor in pipe:
        os.close(descriptor)
    assert place.ask(user, f"{uid(user)}-x")[0] == 0


def answer_of(connection: socket.socket) -> bytes:
    """The kind of the first message from the server."""
    message = domain_socket.receive(connection)
    assert message is not None
    message.close()
    return message.kind


def test_nobody_can_take_all_places(place: Place, user: User) -> None:
    """Connections to the socket count as their users', whether a program joins or not."""
    place.serve(user, "prlimit", "--nofile=400:400")
    connections = [domain_socket.connect(place.socket) for _ in range(300)]
    answers = [answer_of(connection) for connection in connections]
    assert 16 < answers.count(domain_socket.WELCOME) <= (400 - 128 - 400 // 8) * 2 // 3
    assert answers[-1] == domain_socket.REFUSED
    if uid(user) == os.geteuid():
        status, output = place.join(user, "true").end()
        assert status == 125 and "this user has had its share" in output
    else:
        assert place.join(user, "true").end() == (0, "")
    for connection in connections:
        connection.close()
    # The server hears of that one by one.
    refused = True
    while refused:
        with domain_socket.connect(place.socket) as connection:
            refused = answer_of(connection) == domain_socket.REFUSED
    for _ in range(20):
        assert place.join(user, "true").end() == (0, "")


def test_inner_run_is_in_the_outer_domain(place: Place, user: User) -> None:
    place.serve(user)
    place.service(user)
    for outer in (["run", "--domain", place.socket], ["run"]):
        inner = [*user.kdbus("run", "-v"), "--", place.member, "list"]
        status, output = place.start(user, *user.kdbus(*outer, "--", *inner)).end()
        lines = output.splitlines()
        assert status == 0 and lines[0].startswith("kdbus: an outer `kdbus run` serves"), output
        assert lines[-1].startswith("control ") and len(lines) == (3 if "--domain" in outer else 2)
    inner = [*user.kdbus("run", "--domain", place.socket), "--", place.member, "list"]
    status, output = place.start(user, *user.kdbus("run", "--", *inner)).end()
    assert status == 125 and output.startswith("kdbus: joining the domain"), output
    quiet = place.start(user, *user.kdbus("run", "--", *user.kdbus("run", "--", "sh", "-c", "exit 7"))).end()
    assert quiet == (7, "")
