# SPDX-License-Identifier: GPL-2.0-or-later
"""Launching: real programs under the real filter, with a supervisor that only writes down and lets the kernel do it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from interposer import errors
from interposer.launch import launch, view
from interposer.launch.execution import explain_exec_failure
from interposer.launch.filter import this_architecture
from native import seccomp
from native.notification import EndOfTargets, Listener
from tests.interposer.test_view import become_nobody, needs_root
from tests.support.children import LONG_NS, in_child


@dataclass
class Ran:
    """How a program went: wait status, stdout, its traps (name, arguments), and what `launch` said."""

    status: int
    output: str
    traps: list[tuple[str, tuple[int, ...]]]
    error: errors.InterposerError | None
    user_namespace: int
    own_user_namespace: int


def nothing() -> None:
    pass


def run(command: Sequence[str], *, prepare: Callable[[], None] = nothing, ordinary: bool = False) -> Ran:
    """Launch `command` from a child in which `prepare` has run, and let all of its traps continue."""

    def body() -> Ran:
        with tempfile.TemporaryFile() as output:
            os.dup2(output.fileno(), 1)
            if ordinary and os.geteuid() == 0:
                become_nobody()
            prepare()
            launched = launch.launch(command)
            error = launched.exec_error()
            names = {number: name for name, number in this_architecture().system_calls.items()}
            traps: list[tuple[str, tuple[int, ...]]] = []
            with Listener(launched.listener) as listener:
                try:
                    while True:
                        notification = listener.receive(LONG_NS)
                        assert notification is not None, "the program neither traps nor ends"
                        traps.append((names[notification.number], notification.arguments))
                        listener.respond_continue(notification.id)
                except EndOfTargets:
                    pass
            status = os.waitpid(launched.pid, 0)[1]
            output.seek(0)
            text = output.read().decode()
        return Ran(status, text, traps, error, launched.user_namespace, os.stat("/proc/self/ns/user").st_ino)

    result = in_child(body)
    assert isinstance(result, Ran)
    return result


@pytest.fixture(params=["root", "ordinary"])
def ordinary(request: pytest.FixtureRequest) -> bool:
    """Runs a test as root and as an ordinary user."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    return bool(request.param == "ordinary")


def status_fields(text: str) -> dict[str, str]:
    """The lines of a /proc/PID/status."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def show_status(ordinary: bool, prepare: Callable[[], None] = nothing) -> dict[str, str]:
    ran = run(["cat", "/proc/self/status"], ordinary=ordinary, prepare=prepare)
    assert ran.error is None and ran.status == 0
    return status_fields(ran.output)


def test_program_runs_in_its_view_and_its_status_comes_back(ordinary: bool) -> None:
    ran = run(["sh", "-c", "cat /sys/module/kdbus/parameters/attach_flags_mask; exit 7"], ordinary=ordinary)
    assert (ran.error, ran.output, os.waitstatus_to_exitcode(ran.status)) == (None, "10271\n", 7)


def test_launcher_is_in_the_user_namespace_of_the_program(ordinary: bool) -> None:
    outside = os.stat("/proc/self/ns/user").st_ino
    ran = run(["sh", "-c", "readlink /proc/self/ns/user"], ordinary=ordinary)
    assert ran.output == f"user:[{ran.user_namespace}]\n"
    assert ran.own_user_namespace == ran.user_namespace
    assert (ran.user_namespace != outside) == ordinary


def test_privileges_are_those_that_the_user_has(ordinary: bool) -> None:
    own = status_fields(Path("/proc/self/status").read_text())
    fields = show_status(ordinary)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(fields[name], 16) == (0 if ordinary else int(own[name], 16)), name
    assert fields["NoNewPrivs"] == own["NoNewPrivs"]
    assert (fields["Seccomp"], int(fields["Seccomp_filters"])) == ("2", int(own["Seccomp_filters"]) + 1)
    assert len(set(fields["Uid"].split())) == 1


def test_signals_are_as_a_shell_gives_them(ordinary: bool) -> None:
    def prepare() -> None:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)  # As Python does at its start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})

    fields = show_status(ordinary, prepare)
    assert int(fields["SigBlk"], 16) == 1 << signal.SIGUSR1 - 1
    ignored = int(fields["SigIgn"], 16)
    assert ignored & 1 << signal.SIGUSR2 - 1, "what the user ignores stays ignored"
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        assert not ignored & 1 << number - 1, number


def test_ignored_children_are_waited_for_and_stay_ignored(ordinary: bool) -> None:
    def prepare() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    fields = show_status(ordinary, prepare)
    assert int(fields["SigIgn"], 16) & 1 << signal.SIGCHLD - 1


def test_no_descriptor_leaks(ordinary: bool) -> None:
    inherited: list[int] = []

    def prepare() -> None:
        os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)

    def expected() -> Any:
        prepare()
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.get_inheritable(int(name)):
                    inherited.append(int(name))
            except OSError:
                continue  # The descriptor of the listing itself.
        return inherited

    known = set(in_child(expected))
    ran = run(["sh", "-c", "echo /proc/self/fd/*"], prepare=prepare, ordinary=ordinary)
    seen = {int(path.rpartition("/")[2]) for path in ran.output.split()}
    # The shell has the folder open that it lists. The test's own pipes differ by number from run to run.
    assert len(seen) <= len(known) + 1, (sorted(seen), sorted(known))


def test_folder_and_umask_are_kept(ordinary: bool) -> None:
    def prepare() -> None:
        os.chdir("/usr")
        os.umask(0o123)

    ran = run(["sh", "-c", "pwd; umask"], prepare=prepare, ordinary=ordinary)
    assert ran.output == "/usr\n0123\n"


SYSTEM_CALLS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
numbers = dict(pair.split("=") for pair in sys.argv[2:])
def call(name, *arguments):
    if name in numbers:
        libc.syscall(ctypes.c_long(int(numbers[name])), *map(ctypes.c_long, arguments))
buffer = ctypes.create_string_buffer(sys.argv[1].encode())
path = ctypes.addressof(buffer)
file = os.open(sys.argv[1], os.O_RDONLY)
here = os.open(".", os.O_RDONLY)
call("ioctl", -1, 0x95FF)
for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT,
              os.O_RDWR | os.O_PATH, os.O_RDWR | os.O_DIRECTORY, os.O_RDWR | os.O_CLOEXEC):
    call("openat", here, path, flags)
    call("open", path, flags)
call("ioctl", file, 0x5401)
call("ioctl", file, 0x40089500)
call("mmap", 0, 4096, 1, 2, file, 0)
call("mmap", 0, 4096, 1, 1, file, 0)
call("mmap", 0, 4096, 1, 3, file, 0)
call("mmap", 0, 4096, 3, 0x21, -1, 0)
call("openat2", -1, 0, 0, 0)
call("mount", 0, 0, 0, 0, 0)
call("umount2", 0, 0)
call("fsopen", 0, 0)
call("ioctl", -1, 0x95FF)
"""


def test_the_kernel_agrees_with_the_filter(tmp_path: Path, ordinary: bool) -> None:
    numbers = this_architecture().system_calls
    if ordinary and os.geteuid() == 0:
        pytest.skip("the filter is the same for all; another user may not be able to run this interpreter")
    file = tmp_path / "file"
    file.write_bytes(b"x" * 4096)
    arguments = [f"{name}={number}" for name, number in numbers.items()]
    ran = run([sys.executable, "-I", "-S", "-c", SYSTEM_CALLS, str(file), *arguments])
    assert (ran.error, ran.status) == (None, 0), ran.output
    marker = ("ioctl", 0x95FF)
    seen = [(name, given[1]) if name == "ioctl" else (name, 0) for name, given in ran.traps]
    first, last = seen.index(marker), len(seen) - 1 - seen[::-1].index(marker)
    opens = [("openat", 0), ("open", 0)] if "open" in numbers else [("openat", 0)]
    always = [("openat2", 0), ("mount", 0), ("umount2", 0), ("fsopen", 0)]
    assert seen[first + 1 : last] == [*opens * 3, ("ioctl", 0x40089500), ("mmap", 0), ("mmap", 0), *always]


def not_executable(folder: Path) -> list[tuple[str, type[errors.InterposerError], int, str]]:
    plain, foreign, script, lost = (folder / name for name in ("plain", "foreign", "script", "lost"))
    plain.write_text("#!/bin/sh\n")
    foreign.write_bytes(b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x28\x00" + bytes(100))
    script.write_text("echo no interpreter named\n")
    lost.write_text("#!/nonexistent/interpreter\n")
    for file in (foreign, script, lost):
        file.chmod(0o755)
    plain.chmod(0o644)
    folder.chmod(0o755)
    return [
        (f"{folder}/missing", errors.ProgramNotFound, 127, "no such program"),
        (f"{plain}/below", errors.ProgramNotFound, 127, "no such program"),
        ("kdbus-no-such-program", errors.ProgramNotFound, 127, "in PATH"),
        ("", errors.ProgramNotFound, 127, "no such program"),
        (str(lost), errors.ProgramNotFound, 127, "interpreter"),
        (str(plain), errors.ProgramNotExecutable, 126, "chmod +x"),
        (str(folder), errors.ProgramNotExecutable, 126, "directory"),
        (str(script), errors.ProgramNotExecutable, 126, "#!/bin/sh"),
        (str(foreign), errors.ForeignProgram, 125, "for arm"),
    ]


def test_what_cannot_be_executed_is_explained(open_folder: Path, ordinary: bool) -> None:
    for program, kind, status, part in not_executable(open_folder):
        error = run([program, "argument"], ordinary=ordinary).error
        assert type(error) is kind, program
        assert (error.exit_status, part in str(error)) == (status, True), str(error)


def test_forbidden_file_does_not_end_the_search_in_path(open_folder: Path) -> None:
    forbidden = open_folder / "forbidden"
    forbidden.mkdir(exist_ok=True)
    (forbidden / "true").write_text("#!/bin/sh\nexit 9\n")

    def prepare() -> None:
        os.environ["PATH"] = f"{forbidden}:/usr/bin:/bin"

    ran = run(["true"], prepare=prepare)
    assert (ran.error, ran.status) == (None, 0)


@pytest.mark.parametrize("number", [errno.E2BIG, errno.ETXTBSY, errno.ELOOP, errno.EPERM])
def test_other_refusals_of_exec_are_126(number: int) -> None:
    error = explain_exec_failure("/usr/bin/program", number)
    assert (type(error), error.exit_status) == (errors.ProgramNotExecutable, 126)
    assert "/usr/bin/program" in str(error) and os.strerror(number) in str(error)


def test_foreign_programs_are_named_by_their_machine(tmp_path: Path) -> None:
    file = tmp_path / "program"
    for byte_order, machine, expected in ((1, 183, "aarch64"), (2, 22, "s390"), (1, 62, "x86_64"), (1, 999, "999")):
        encoded = machine.to_bytes(2, "little" if byte_order == 1 else "big")
        file.write_bytes(b"\x7fELF\x02" + bytes([byte_order]) + bytes(12) + encoded)
        error = explain_exec_failure(str(file), errno.ENOEXEC)
        assert isinstance(error, errors.ForeignProgram) and expected in error.reason


def test_preparation_that_fails_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = errors.ViewFailed("mounting", "no luck", "try again")

    def refuse(_own_user_namespace: bool) -> NoReturn:
        raise refusal

    def die(_own_user_namespace: bool) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    def stumble(_own_user_namespace: bool) -> NoReturn:
        raise RuntimeError("a bug")

    def body() -> Any:
        for replacement, kind, part in (
            (refuse, errors.ViewFailed, "mounting: no luck; try again"),
            (die, errors.LaunchFailed, "was ended by SIGKILL"),
            (stumble, errors.LaunchFailed, "RuntimeError: a bug"),
        ):
            monkeypatch.setattr(view, "build", replacement)
            with pytest.raises(kind, match=part):
                launch.launch(["true"], launch.Mode.MOUNT)
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

    in_child(body)


def test_second_listener_is_a_typed_error() -> None:
    program = [(0x06, 0, 0, seccomp.SECCOMP_RET_ALLOW)]

    def body() -> Any:
        launch.install_filter(program)
        with pytest.raises(errors.AlreadySupervised):
            launch.install_filter(program)

    in_child(body)


@needs_root
def test_privileges_are_given_up_only_where_the_kernel_insists() -> None:
    program = [(0x06, 0, 0, seccomp.SECCOMP_RET_ALLOW)]

    def gives_up() -> Any:
        launch.install_filter(program)
        return status_fields(Path("/proc/self/status").read_text())["NoNewPrivs"]

    def as_nobody() -> Any:
        become_nobody()
        return gives_up()

    before = status_fields(Path("/proc/self/status").read_text())["NoNewPrivs"]
    assert (in_child(gives_up), in_child(as_nobody)) == (before, "1")


def test_errors_survive_the_way_to_the_parent() -> None:
    error = errors.ProgramNotFound("running \udcff", "a\0b", "")
    unpacked = errors.unpack(errors.pack(error))
    assert type(unpacked) is errors.ProgramNotFound
    assert (unpacked.attempted, unpacked.reason, unpacked.advice) == ("running \udcff", "a b", "")
    assert isinstance(errors.unpack(b"nonsense"), errors.LaunchFailed)
    assert isinstance(errors.unpack(b"SystemExit\0a\0b\0c"), errors.LaunchFailed)
