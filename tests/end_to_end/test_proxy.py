# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus proxy` under the real `kdbus run`: clients of D-Bus, of kdbus, and of other people."""

from __future__ import annotations

import difflib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.programs.dbus_peer import Peer
from tests.support.compiling import with_dbus_programs
from tests.support.message_bus import message_bus, needed
from tests.support.users import Outcome, User, current_user

_SECONDS = 120


@pytest.fixture(scope="session")
def folder(open_folder: Path) -> Path:
    """A folder with the programs for this."""
    return with_dbus_programs(open_folder / "proxy")


def proxied(user: User, *command: str, options: Sequence[str] = (), folder: str | Path = "/") -> Outcome:
    """How a program ended that ran with a D-Bus of its own, which is a bus of kdbus."""
    proxy = [*user.kdbus("proxy", "--bus", "user", *options), "--exec", *command]
    return user.run(user.kdbus("run", "--make-bus", "user", "--", *proxy), seconds=_SECONDS, folder=folder)


def test_operations_give_what_they_give_with_dbus_daemon(user: User, folder: Path) -> None:
    needed("dbus-daemon", "dbus-daemon")
    program = (user.python, "-m", "tests.programs.dbus_operations")
    with message_bus(user, folder) as (address, _):
        expected = user.run(["env", f"DBUS_SESSION_BUS_ADDRESS={address}", *program], folder=folder)
    assert expected.status == 0, expected.output
    assert expected.output.count("\n") > 1500
    found = proxied(user, *program, folder=folder)
    different = difflib.unified_diff(expected.output.splitlines(), found.output.splitlines(), "dbus-daemon", "proxy")
    assert found == expected, "\n".join(different)[:5000]


def test_programs_of_both_kinds(user: User, folder: Path) -> None:
    outcome = proxied(user, user.python, "-m", "tests.programs.dbus_mixed", folder=folder)
    assert outcome.status == 0, outcome.output
    assert outcome.output.count("ok - ") == outcome.output.count("\n") >= 10


def test_what_is_invalid_ends_a_client_as_with_dbus_daemon(user: User, folder: Path) -> None:
    needed("dbus-daemon", "dbus-daemon")
    program = (user.python, "-m", "tests.programs.dbus_bad_input")
    with message_bus(user, folder) as (address, _):
        expected = user.run(["env", f"DBUS_SESSION_BUS_ADDRESS={address}", *program], folder=folder)
    assert expected.status == 0, expected.output
    assert expected.output.count("hung up") > 300
    found = proxied(user, *program, folder=folder)
    different = difflib.unified_diff(expected.output.splitlines(), found.output.splitlines(), "dbus-daemon", "proxy")
    assert found == expected, "\n".join(different)


def test_bounds(user: User, folder: Path) -> None:
    outcome = proxied(user, user.python, "-m", "tests.programs.dbus_bounds", folder=folder)
    assert outcome.status == 0, outcome.output
    # That messages are lost is told.
    lines = [line for line in outcome.output.splitlines() if " lost " not in line]
    assert len(lines) >= 7 and all(line.startswith("ok - ") for line in lines), outcome.output


def test_dbus_send(user: User) -> None:
    needed("dbus-send", "dbus-bin")
    outcome = proxied(
        *(user, "dbus-send", "--session", "--print-reply=literal", "--dest=org.freedesktop.DBus", "/"),
        *("org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.DBus"),
    )
    assert (outcome.status, outcome.output.strip()) == (0, "boolean true")


def test_gdbus(user: User) -> None:
    needed("gdbus", "libglib2.0-bin")
    outcome = proxied(
        *(user, "gdbus", "call", "--session", "--dest", "org.freedesktop.DBus"),
        *("--object-path", "/org/freedesktop/DBus", "--method", "org.freedesktop.DBus.RequestName", "a.b", "0"),
    )
    assert (outcome.status, outcome.output) == (0, "(uint32 1,)\n")


def test_busctl(user: User) -> None:
    needed("busctl", "systemd")
    outcome = proxied(
        *(user, "busctl", "--user", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"),
        *("GetConnectionUnixUser", "s", "org.freedesktop.DBus"),
    )
    assert outcome.status == 0 and outcome.output.startswith("u "), outcome.output


def test_qdbus(user: User) -> None:
    """Qt's; `qdbus` itself chooses between its versions."""
    program = "/usr/lib/qt5/bin/qdbus"
    needed(program, "qdbus-qt5")
    name = "org.freedesktop.DBus"
    outcome = proxied(user, program, name, "/org/freedesktop/DBus", f"{name}.RequestName", "a.b", "0")
    assert (outcome.status, outcome.output) == (0, "1\n")


def test_dbus_monitor(user: User) -> None:
    needed("dbus-monitor", "dbus-bin")
    needed("dbus-send", "dbus-bin")
    script = (
        "exec 3< <(exec dbus-monitor --session \"member='Seen'\"); monitor=$!; "
        "while dbus-send --session / a.b.Seen; do while read -r -t 0.2 -u 3 line; do case $line in "
        "*member=Seen*) kill $monitor; exit 0;; esac; done; done; exit 3"
    )
    outcome = proxied(user, "bash", "-c", script)
    assert outcome.status == 0, outcome.output


def test_dbus_test_tool(user: User) -> None:
    needed("dbus-test-tool", "dbus-tests")
    needed("gdbus", "libglib2.0-bin")
    script = (
        "dbus-test-tool echo --session --name=org.x.Echo & gdbus wait --session --timeout 30 org.x.Echo && "
        "dbus-test-tool spam --session --dest=org.x.Echo --count=300 --queue=20 --payload=text && echo sent && kill $!"
    )
    outcome = proxied(user, "sh", "-c", script)
    assert (outcome.status, outcome.output) == (0, "sent\n")


@pytest.mark.parametrize(
    "program, said",
    [
        (
            "glib",
            "acquired org.example.Glib\nowner True\nproperty 0.5\njoined ('ab7',) [('Joined', ('ab7',))]\n"
            "failed org.example.Error\n",
        ),
        ("python", "called abab -3\nheard ['ab']\nfailed org.example.Error text\n"),
        ("dasbus", "called 3 ['k']\nheard [9] 9\nfailed text\n"),
    ],
)
def test_libraries_of_others(program: str, said: str, user: User, folder: Path) -> None:
    needed("/usr/bin/python3", "python3")
    # Without our own modules, which may be for another version of Python.
    command = ("env", "-u", "PYTHONPATH", "/usr/bin/python3", f"tests/programs/dbus_{program}.py")
    outcome = proxied(user, *command, folder=folder)
    if outcome.output.startswith("skip: "):
        pytest.skip(outcome.output)
    assert (outcome.status, outcome.output) == (0, said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_clients_of_other_users(folder: Path) -> None:
    root = current_user()
    program = (root.python, "-m", "tests.programs.dbus_users")
    assert proxied(root, *program, folder=folder).output == "the socket is closed to others\n"
    assert proxied(root, *program, "open", folder=folder).output == "hung up\n"
    found = proxied(root, *program, "open", options=["--all-users"], folder=folder).output
    assert found == "root's name: REJECTED\nuser 65534\nprocess True\ncredentials 65534 True\n"


def test_a_socket_from_a_service_manager(tmp_path: Path) -> None:
    user, path = current_user(), tmp_path / "bus"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        inner = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        proxy = ["sh", "-c", inner, "sh", *user.kdbus("proxy", "--bus", "user")]
        script = f'exec 3<&{listening.fileno()}; exec "$@"'
        command = ["bash", "-c", script, "bash", *user.kdbus("run", "--make-bus", "user", "--", *proxy)]
        with subprocess.Popen(command, pass_fds=(listening.fileno(),), env=user.environment) as process:
            try:
                with Peer(f"unix:path={path}") as client:
                    assert client.driver("GetNameOwner", "s", client.name) == client.name
                process.send_signal(signal.SIGTERM)
                assert process.wait(_SECONDS) == 0
            finally:
                process.kill()
    assert path.is_socket(), "it is the manager's"


def test_a_socket_of_its_own_is_there_when_it_is_told_and_gone_afterwards(tmp_path: Path) -> None:
    user, path = current_user(), tmp_path / "a,b c"
    address = f"unix:path={tmp_path}/a%2cb%20c"
    reading, writing = os.pipe()
    proxy = user.kdbus("proxy", "--bus", "user", "--listen", address, "--ready-fd", str(writing))
    command = user.kdbus("run", "--make-bus", "user", "--", *proxy)
    with subprocess.Popen(command, pass_fds=(writing,), env=user.environment) as process:
        try:
            os.close(writing)
            assert os.read(reading, 10) == b"\n"
            assert path.stat().st_mode & 0o777 == 0o600
            with Peer(address) as client:
                assert client.driver("NameHasOwner", "s", "a.b") is False
            process.send_signal(signal.SIGTERM)
            assert process.wait(_SECONDS) == 0
        finally:
            process.kill()
            os.close(reading)
    assert not path.exists()


def test_it_ends_as_its_program_does(user: User) -> None:
    assert proxied(user, "sh", "-c", "exit 7").status == 7
    assert proxied(user, "sh", "-c", "kill -KILL $$").status == -9
    missing = proxied(user, "/no/such/program")
    assert missing.status == 127 and "no such program" in missing.output


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "there is no --bus"),
        (["--bus", "user"], "neither --listen nor --exec"),
        (["--bus", "user", "--exec"], "--exec without a program"),
        (["--bus", "user", "program"], "'program' is too many"),
        (["--bus", "user", "--listen", "tcp:host=localhost"], "no place to listen at"),
        (["--bus", "none", "--listen", "unix:path=/nowhere"], "there is no such node"),
    ],
)
def test_what_cannot_be_is_told(user: User, arguments: list[str], said: str) -> None:
    outcome = user.run(user.kdbus("run", "--make-bus", "user", "--", *user.kdbus("proxy", *arguments)))
    assert outcome.status == 125
    assert outcome.output.startswith("kdbus: ") and outcome.output.count("\n") == 1
    assert said in outcome.output


def test_jeepney_and_kdbus(user: User, folder: Path) -> None:
    """Programs of D-Bus and programs of kdbus, on the same bus, in the same process."""
    uid = os.geteuid() if user.identity is None else user.identity
    outcome = proxied(user, user.python, "-m", "tests.programs.client_proxied", f"{uid}-user", folder=folder)
    assert outcome.status == 0 and "not ok" not in outcome.output and "\nok - " in outcome.output, outcome.output
