# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus proxy` under the real `kdbus run`: clients of D-Bus, of kdbus, and of other people."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.compiling import PROGRAMS
from tests.support.users import Outcome, User

_SECONDS = 120


@pytest.fixture(scope="session")
def folder(open_folder: Path) -> Path:
    """A folder, which every user can read, with the programs for this in it as modules."""
    found = open_folder / "proxy"
    target = found / "tests" / "programs"
    target.mkdir(parents=True)
    (target.parent / "__init__.py").touch()
    for program in (*PROGRAMS.glob("dbus_*.py"), *PROGRAMS.glob("client_*.py")):
        shutil.copy(program, target)
    return found


def proxied(user: User, *command: str, options: Sequence[str] = (), folder: str | Path = "/") -> Outcome:
    """How a program ended that ran with a D-Bus of its own, which is a bus of kdbus."""
    proxy = [*user.kdbus("proxy", "--bus", "user", *options), "--exec", *command]
    return user.run(user.kdbus("run", "--make-bus", "user", "--", *proxy), seconds=_SECONDS, folder=folder)


def needed(program: str, package: str) -> None:
    """Skip the test if the machine has no such program."""
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}, of the package {package}")


@contextmanager
def daemon(user: User, folder: Path) -> Iterator[str]:
    """The address of a dbus-daemon that runs as the user."""
    command = ["dbus-daemon", "--session", "--nofork", "--print-address=1", "--address=unix:tmpdir=/tmp"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=user.environment,
        user=user.identity,
        group=user.identity,
        extra_groups=None if user.identity is None else [],
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip()
        finally:
            process.kill()


def test_operations_give_what_they_give_with_dbus_daemon(user: User, folder: Path) -> None:
    needed("dbus-daemon", "dbus-daemon")
    program = (user.python, "-m", "tests.programs.dbus_operations")
    with daemon(user, folder) as address:
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
    with daemon(user, folder) as address:
        expected = user.run(["env", f"DBUS_SESSION_BUS_ADDRESS={address}", *program], folder=folder)
    assert expected.status == 0, expected.output
    assert expected.output.count("hung up") > 40
    found = proxied(user, *program, folder=folder)
    different = difflib.unified_diff(expected.output.splitlines(), found.output.splitlines(), "dbus-daemon", "proxy")
    assert found == expected, "\n".join(different)


def test_bounds(user: User, folder: Path) -> None:
    outcome = proxied(user, user.python, "-m", "tests.programs.dbus_bounds", folder=folder)
    assert outcome.status == 0, outcome.output
    assert outcome.output.count("ok - ") == outcome.output.count("\n") >= 6, outcome.output


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
