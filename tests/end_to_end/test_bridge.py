# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus bridge` under the real `kdbus run`, with a real dbus-daemon, and programs on both sides."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.compiling import with_dbus_programs
from tests.support.message_bus import SESSION, message_bus, needed
from tests.support.users import Outcome, User, current_user

SECONDS = 120
MODULE = "tests.programs.dbus_bridged"


@pytest.fixture(scope="session")
def folder(open_folder: Path) -> Path:
    """A folder, which every user can read, with the programs for this in it as modules."""
    return with_dbus_programs(open_folder / "bridge")


@contextmanager
def daemon(
    user: User, folder: Path, configuration: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a dbus-daemon that runs as the user, and its process."""
    needed("gdbus", "libglib2.0-bin")
    needed("dbus-send", "dbus-bin")
    options = SESSION if configuration is None else (f"--config-file={configuration}",)
    with message_bus(user, folder, options) as found:
        yield found


def bridged(
    user: User,
    folder: Path,
    *command: str,
    options: Sequence[str] = (),
    bus: str = "user",
    address: str = "",
    configuration: Path | None = None,
    run_options: Sequence[str] = (),
) -> Outcome:
    """How a program ended that ran where a bus and a daemon's are one."""
    with daemon(user, folder, configuration) as (own, _):
        inner = [*user.kdbus("bridge", "--bus", bus, "--to", "session", *options), "--exec", *command]
        outer = user.kdbus("run", "--make-bus", bus, *run_options, "--", *inner)
        run = ["env", f"DBUS_SESSION_BUS_ADDRESS={address or own}", *outer]
        return user.run(run, seconds=SECONDS, folder=folder)


def test_programs_of_both_sides(user: User, folder: Path) -> None:
    # Root's bridge does not speak for who has gone before it could be asked who it was.
    options = ["--all-users"] if user.identity is None and os.geteuid() == 0 else []
    outcome = bridged(user, folder, user.python, "-m", MODULE, options=options)
    assert outcome.status == 0, outcome.output
    assert outcome.output.count("ok - ") == 12, outcome.output


SERVICES = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:tmpdir=/tmp</listen><servicedir>{folder}/services</servicedir>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"""


STARTS = "tests.programs.dbus_starts"


def with_services(user: User, folder: Path) -> Path:
    """The configuration of a daemon that can start programs."""
    services = folder / "services"
    services.mkdir(exist_ok=True)
    for name, command in (
        ("t.Started", f"{user.python} -m tests.programs.dbus_activated serve t.Started"),
        ("t.Broken", "/bin/false"),
        ("t.Idle", f"{user.python} -m {STARTS} serve-daemon t.Idle"),
    ):
        (services / f"{name}.service").write_text(f"[D-BUS Service]\nName={name}\nExec={command}\n")
    configuration = folder / "services.conf"
    configuration.write_text(SERVICES.format(folder=folder))
    return configuration


def test_what_the_daemon_starts(user: User, folder: Path) -> None:
    configuration = with_services(user, folder)
    outcome = bridged(user, folder, user.python, "-m", MODULE, "start", configuration=configuration)
    assert outcome.output.splitlines() == ["('first',)", "('second',)", "quit", "('third',)", "PeerGone"]


def test_what_the_daemon_starts_may_end_at_any_time(user: User, folder: Path) -> None:
    configuration = with_services(user, folder)
    # What it starts may go before it can be asked who it is.
    options = ["--all-users"] if user.identity is None and os.geteuid() == 0 else []
    command = [user.python, "-m", STARTS, "call-bus", "t.Idle"]
    outcome = bridged(user, folder, *command, configuration=configuration, options=options)
    assert outcome.output.splitlines() == ["all answered"]


def test_what_the_bus_starts_may_end_at_any_time(user: User, folder: Path) -> None:
    services = folder / "services-of-the-bus"
    services.mkdir(exist_ok=True)
    for name, command in (
        ("k.Idle", f"{user.python} -m {STARTS} serve-bus k.Idle"),
        ("k.Broken", "/bin/false"),
    ):
        (services / f"{name}.service").write_text(f"[D-BUS Service]\nName={name}\nExec={command}\n")
    script = (
        f"{user.python} -m {STARTS} call-daemon k.Idle; "
        "dbus-send --session --print-reply --dest=k.Broken / t.I.Echo string:x"
    )
    outcome = bridged(user, folder, "sh", "-c", script, run_options=["--activate", str(services)])
    answered, *refused = outcome.output.splitlines()
    assert answered == "all answered", outcome.output
    assert "Error org.freedesktop.DBus.Error.Spawn.ChildExited: Process k.Broken exited with status 1" in refused


def test_programs_of_others(user: User, folder: Path) -> None:
    """A service that speaks kdbus, called by gdbus and dbus-send at the daemon; and dbus-test-tool's, seen from it."""
    tool = shutil.which("dbus-test-tool")
    script = (
        f"{user.python} -m {MODULE} serve & service=$!; gdbus wait --session --timeout 60 t.Things && "
        "gdbus call --session --dest t.Things --object-path /things --method t.Things.Announce hello && "
        "dbus-send --session --print-reply=literal --dest=t.Things /things t.Things.Announce string:there && echo && "
        + (
            "dbus-test-tool echo --session --name=t.Echo & echo=$!; gdbus wait --session --timeout 60 t.Echo && "
            f"{user.python} -m {MODULE} call t.Echo; kill $echo; "
            if tool
            else ""
        )
        + "kill $service"
    )
    outcome = bridged(user, folder, "sh", "-c", script)
    expected = ["('hello',)", "there", *(["METHOD_RETURN"] if tool else [])]
    assert outcome.output.split() == expected, outcome.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_it_does_not_speak_for_others_unless_told_to(folder: Path) -> None:
    root = current_user()
    denied = bridged(root, folder, root.python, "-m", MODULE, "others", bus="system")
    assert denied.output.startswith("ours\nok"), denied.output
    allowed = bridged(root, folder, root.python, "-m", MODULE, "others", bus="system", options=["--all-users"])
    assert allowed.output.startswith("of somebody else\nok"), allowed.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_bridge_of_root_speaks_in_the_name_of_others(folder: Path) -> None:
    configuration = folder / "open.conf"
    configuration.write_text(SERVICES.format(folder=folder).replace("<allow own", '<allow user="*"/><allow own'))
    root = current_user()
    outcome = bridged(root, folder, root.python, "-m", MODULE, "whose", bus="system", configuration=configuration)
    assert outcome.output.startswith("of somebody else 65534 [65533, 65534]\nok"), outcome.output


def test_it_ends_with_the_daemon(user: User, folder: Path) -> None:
    reading, writing = os.pipe()
    with daemon(user, folder) as (address, process):
        inner = user.kdbus("bridge", "--bus", "user", "--to", address, "--ready-fd", str(writing))
        with subprocess.Popen(
            user.kdbus("run", "--make-bus", "user", "--", *inner),
            pass_fds=(writing,),
            env=user.environment,
            cwd=folder,
            **user.becoming,
        ) as bridge:
            try:
                os.close(writing)
                assert os.read(reading, 10) == b"\n"
                process.terminate()
                assert bridge.wait(SECONDS) == 0
            finally:
                bridge.kill()
                os.close(reading)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "there is no --bus"),
        (["--bus", "user"], "there is no --to"),
        (["--bus", "user", "--to", "tcp:host=localhost"], "neither unix:path= nor unix:abstract="),
        (["--bus", "user", "--to", "unix:path=/no/such", "program"], "'program' is too many"),
        (["--bus", "user", "--to", "unix:path=/no/such"], "joining the bus at 'unix:path=/no/such': No such file"),
        (["--bus", "none", "--to", "unix:path=/no/such"], "there is no such node"),
        (["--bus", "user", "--to", "session"], "DBUS_SESSION_BUS_ADDRESS is not set"),
    ],
)
def test_what_cannot_be_is_told(user: User, arguments: list[str], said: str) -> None:
    inner = user.kdbus("bridge", *arguments)
    run = ["env", "-u", "DBUS_SESSION_BUS_ADDRESS", *user.kdbus("run", "--make-bus", "user", "--", *inner)]
    outcome = user.run(run)
    assert outcome.status == 125, outcome.output
    assert outcome.output.startswith("kdbus: ") and outcome.output.count("\n") == 1, outcome.output
    assert said in outcome.output


def test_a_program_that_is_not_there(user: User, folder: Path) -> None:
    outcome = bridged(user, folder, "/no/such/program")
    assert outcome.status == 127 and "no such program" in outcome.output
