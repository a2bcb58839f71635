# SPDX-License-Identifier: GPL-2.0-or-later
"""The samples do what they show: real C programs, under the real `kdbus run`.

This is the project's main job, end to end: nothing here is replaced by a double. Each test runs one command and looks
at what it printed. Where several programs have to start in a certain order, a shell reads the line that the first one
prints when it is ready; nobody sleeps. Each command runs in a session of its own, which is killed as a whole when the
test ends, however it ends.

Weakness: outputs of programs that run at the same time are compared as sets of lines where their order is free.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY / "samples"
ALL = ["service", "client", "broadcast", "sync-call", "memfd", "pass-fd", "name-list", "monitor", "idle"]
UID = os.geteuid()
SERVING = f"serving org.example.Sample on {UID}-sample"

# In seconds. The samples' own patience is 30 s: beyond it, one that waits in vain says for what.
TIMEOUT = 60


@dataclass(frozen=True)
class Result:
    status: int
    output: str
    errors: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    @property
    def complaints(self) -> list[str]:
        """What was said on stderr, apart from a program's saying that it waits for a bus to appear."""
        return [line for line in self.errors.splitlines() if ": waiting for the bus " not in line]


def run(command: list[str], folder: Path) -> Result:
    """Run `command` in `folder`; whatever it leaves running in its session is killed.

    The group is killed before its leader is reaped: until then nobody else can have its number. Output goes to files,
    as a pipe would be waited for as long as a left-over process holds it.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        handle = os.pidfd_open(process.pid)
        try:
            ended, _, _ = select.select([handle], [], [], TIMEOUT)
        finally:
            os.close(handle)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        errors.seek(0)
        result = Result(process.returncode, output.read(), errors.read())
    assert ended, f"{shlex.join(command)} did not end within {TIMEOUT} s: {result}"
    return result


def run_under_kdbus(folder: Path, *command: str) -> Result:
    """`kdbus run -- COMMAND`, which has to succeed without a complaint."""
    result = run([sys.executable, "-m", "interposer", "run", "--", *command], folder)
    assert result.complaints == []
    assert result.status == 0, result.output
    return result


def build(folder: Path, revision: str) -> None:
    """Build the samples for a revision; a warning is an error."""
    include = SAMPLES.parent / "interposer" / "include" / revision
    make = ["make", "-C", str(SAMPLES), f"BUILD_DIR={folder}", f"INCLUDE_DIR={include}", "CFLAGS=-O2 -Werror"]
    result = run(make, folder)
    assert result.status == 0, result.errors


@pytest.fixture(scope="module", params=["3", "final"])
def revision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, revision: str) -> Path:
    """The folder with the samples, freshly built."""
    folder = tmp_path_factory.mktemp("samples")
    build(folder, revision)
    return folder


@pytest.fixture
def first(revision: str) -> int:
    """The id of the first connection: in the final revision the bus has taken one before."""
    return 1 if revision == "3" else 2


def test_all_are_built(samples: Path) -> None:
    assert sorted(path.name for path in samples.iterdir()) == sorted(ALL)
    assert sorted(path.stem for path in SAMPLES.glob("*.c")) == sorted(ALL)


@pytest.mark.parametrize("revision", ["219", "4"])
def test_all_build_for_those_between(tmp_path: Path, revision: str) -> None:
    build(tmp_path, revision)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ALL)


def test_make_alone_takes_the_final_revision() -> None:
    assert "\nINCLUDE_DIR ?= ../interposer/include/final\n" in (SAMPLES / "Makefile").read_text()


def test_build_takes_another_include_folder(tmp_path: Path) -> None:
    result = run(["make", "-C", str(SAMPLES), f"BUILD_DIR={tmp_path}", f"INCLUDE_DIR={tmp_path / 'absent'}"], tmp_path)
    assert result.status != 0
    assert str(tmp_path / "absent") in result.errors


@pytest.mark.skipif(Path("/sys/fs/kdbus").exists(), reason="this machine has kdbus already")
@pytest.mark.parametrize("name", ALL)
def test_says_how_to_run_it_where_there_is_no_kdbus(samples: Path, name: str) -> None:
    result = run([f"./{name}"], samples)
    assert result.status == 1
    assert result.output == ""
    assert result.errors.startswith(f"{name}: there is no kdbus here: cannot open /sys/fs/kdbus")
    assert result.errors.endswith(f"\nRun me under it: kdbus run -- ./{name}\n")


def test_python_client_talks_to_the_service(samples: Path) -> None:
    client = shlex.join([sys.executable, str(SAMPLES / "python" / "client.py")])
    result = run_under_kdbus(samples, "sh", "-c", f"./service & {client} && wait $!")
    assert len(result.lines) == 3 and SERVING in result.lines
    assert any(re.fullmatch(r"reply from connection \d+: HELLO FROM THE CLIENT", line) for line in result.lines)


def test_service_and_client_talk(samples: Path, first: int) -> None:
    result = run_under_kdbus(samples, "sh", "-c", "./service & ./client && wait $!")
    # Either may be the first to say hello to the bus.
    assert sorted(result.lines) in [
        [
            f"reply from connection {service}: HELLO FROM THE CLIENT",
            f"request from connection {client}: hello from the client",
            SERVING,
        ]
        for service, client in [(first, first + 1), (first + 1, first)]
    ]


def test_client_waits_for_a_service_that_starts_later(samples: Path) -> None:
    script = """
        { ./client "$BUS" 2>&1 >&3 | {
            read waiting
            test "$waiting" = "client: waiting for the bus $BUS" && ./service "$BUS"
        }; } 3>&1
    """
    bus = f"{UID}-later"
    result = run_under_kdbus(samples, "env", f"BUS={bus}", "sh", "-c", script)
    assert len(result.lines) == 3
    assert sum(line.endswith(": HELLO FROM THE CLIENT") for line in result.lines) == 1


def test_service_answers_several_clients(samples: Path) -> None:
    bus = f"{UID}-several"
    script = f"""
        ./service {bus} 3 & service=$!
        ./client {bus} one & one=$!
        ./client {bus} two & two=$!
        ./client {bus} three && wait $one && wait $two && wait $service
    """
    result = run_under_kdbus(samples, "sh", "-c", script)
    replies = sorted(line.partition(": ")[2] for line in result.lines if line.startswith("reply"))
    assert replies == ["ONE", "THREE", "TWO"]
    assert sum(line.startswith("request from connection") for line in result.lines) == 3


def test_second_service_is_refused(samples: Path, first: int) -> None:
    script = './service | { read serving; ./service; echo "status $?"; ./client; cat; }'
    command = [sys.executable, "-m", "interposer", "run", "--", "sh", "-c", script]
    result = run(command, samples)
    assert result.errors.startswith(f"service: cannot make the bus {UID}-sample: File exists\n")
    assert "status 1" in result.lines
    assert f"reply from connection {first}: HELLO FROM THE CLIENT" in result.lines


def test_bus_ends_with_its_service(samples: Path, revision: str) -> None:
    """The same name can be made again at once; in version 3 the ids start anew."""
    script = "./service | { read serving; ./client; cat; } && ./service | { read serving; ./client; cat; }"
    result = run_under_kdbus(samples, "sh", "-c", script)
    services = [1, 1] if revision == "3" else [2, 5]
    assert result.lines == [
        line
        for service in services
        for line in (
            f"reply from connection {service}: HELLO FROM THE CLIENT",
            f"request from connection {service + 1}: hello from the client",
        )
    ]


def test_broadcast_reaches_those_who_want_it(samples: Path) -> None:
    assert run_under_kdbus(samples, "./broadcast").lines == [
        "weather: rain is coming",
        "weather: it rains",
        "sports: two to one",
        "everything: rain is coming",
        "everything: two to one",
        "everything: it rains",
    ]


def test_synchronous_call(samples: Path, revision: str) -> None:
    assert run_under_kdbus(samples, "./sync-call").lines == [
        "service was asked: what is six times seven?",
        "caller was told: forty-two",
        "service was asked: what have I got in my pocket?",
        "caller was told nothing: Connection timed out",
        f"service was too late: {os.strerror(errno.EPERM if revision == '3' else errno.EBADSLT)}",
    ]


def test_sealed_memfd(samples: Path) -> None:
    size = sum(len(f"{number * number}\n") for number in range(20000))
    assert size % 8 != 0, "a length that needs padding is the harder case"
    assert run_under_kdbus(samples, "./memfd").lines == [
        "sender: unsealed: Text file busy",
        f"sender: sealed: sent {size} bytes",
        "receiver: in the pool: squares",
        f"receiver: in a memfd: {size} bytes, 20000 lines",
        "receiver: writing to it: Operation not permitted",
    ]


def test_passed_descriptor(samples: Path) -> None:
    assert run_under_kdbus(samples, "./pass-fd").lines == [
        "message: read this",
        "pipe: written after the message was sent",
    ]


def test_name_list(samples: Path, first: int) -> None:
    script = "./service | { read serving; ./name-list; ./client > /dev/null; cat > /dev/null; }"
    result = run_under_kdbus(samples, "sh", "-c", script)
    assert sorted(result.lines) == [f"{first} org.example.Sample", f"{first + 1} - (this program)"]


def test_monitor_shows_the_conversation(samples: Path, first: int) -> None:
    """The monitor has the second connection and is invisible, so the client has the third."""
    script = f"""
        ./service | {{
            read serving
            ./monitor {UID}-sample 3 | {{ read monitoring; ./client > /dev/null; cat; }}
            cat > /dev/null
        }}
    """
    result = run_under_kdbus(samples, "sh", "-c", script)
    assert result.lines == [
        f"notification: {first + 2} joined",
        f"request: {first + 2} -> org.example.Sample, cookie 1: hello from the client",
        f"reply: {first} -> {first + 2}, cookie 1: HELLO FROM THE CLIENT",
    ]
