# SPDX-License-Identifier: GPL-2.0-or-later
"""Activation under the real `kdbus run` and `kdbus serve`: programs that are started because somebody sends to them."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.service_file import BadFile, parse
from tests.support.compiling import with_dbus_programs
from tests.support.message_bus import message_bus, needed
from tests.support.service_files import BAD, GOOD
from tests.support.users import PROJECT, Outcome, User, current_user

SECONDS = 120
DAEMON = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:tmpdir=/tmp</listen><servicedir>{folder}</servicedir>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"""


@pytest.fixture(scope="session")
def programs(open_folder: Path) -> Path:
    """A folder that every user can read, with the programs for this in it: modules, and the sample `idle`."""
    found = with_dbus_programs(open_folder / "activation")
    if shutil.which("gcc") is None:
        pytest.skip("needs a compiler: apt-get install gcc")
    include = PROJECT / "interposer" / "include" / "final"
    source, program = PROJECT / "samples" / "idle.c", found / "idle"
    subprocess.run(
        ["gcc", "-std=gnu11", "-O1", f"-I{include}", str(source), "-o", str(program), "-pthread"], check=True
    )
    return found


@pytest.fixture
def services(open_folder: Path) -> Iterator[Path]:
    """An empty folder for `.service` files."""
    folder = open_folder / "services"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def service(folder: Path, name: str, *command: str, rest: str = "") -> None:
    """Write the file of a name."""
    text = f"[D-BUS Service]\nName={name}\nExec={shlex.join(command)}\n{rest}"
    (folder / f"{name}.service").write_text(text)


def uid(user: User) -> int:
    return os.geteuid() if user.identity is None else user.identity


def bus(user: User) -> str:
    return f"{uid(user)}-user"


def activated(user: User, services: Path, *command: str, folder: Path | str = "/") -> Outcome:
    """How a program ended for which others were started."""
    options = ("--make-bus", "user", "--activate", str(services))
    return user.run(user.kdbus("run", *options, "--", *command), seconds=SECONDS, folder=folder)


def client(user: User, *words: str) -> list[str]:
    return [user.python, "-m", "tests.programs.client_activated", bus(user), *words]


@contextmanager
def daemon(user: User, services: Path, folder: Path) -> Iterator[str]:
    """The address of a dbus-daemon that runs as the user, and knows these services."""
    configuration = services / "configuration"
    configuration.write_text(DAEMON.format(folder=services))
    with message_bus(user, folder, (f"--config-file={configuration}",)) as (address, _):
        yield address


def test_a_program_is_started_and_ends_when_idle_and_nothing_is_lost(
    user: User, services: Path, programs: Path
) -> None:
    """Four callers at a time, of a program that goes whenever it has nothing to do, and messages without replies."""
    service(services, "org.example.Idle", f"{programs}/idle", bus(user))
    outcome = activated(user, services, *client(user, "load", "4", "12", "5"), folder=programs)
    assert outcome.status == 0, outcome.output
    assert "240 replies" in outcome.output, outcome.output
    starts, ends = outcome.output.count("serving org.example.Idle"), outcome.output.count("idle after")
    assert starts >= 5 and ends >= starts - 1, outcome.output


def test_one_way_messages_are_all_received(user: User, services: Path, programs: Path) -> None:
    python = [user.python, "-m", "tests.programs.client_activated", bus(user)]
    service(services, "org.example.Counter", *python, "count")
    outcome = activated(user, services, *client(user, "post", "200"), folder=programs)
    assert outcome.status == 0, outcome.output
    assert "all 200 came, in order" in outcome.output, outcome.output


def test_what_callers_see_of_programs_that_fail(user: User, services: Path, programs: Path) -> None:
    service(services, "t.False", "/bin/false")
    service(services, "t.None", "/no/such/program")
    service(services, "t.Shy", user.python, "-m", "tests.programs.client_activated", bus(user), "shy")
    (services / "t.Open.service").write_text("[D-BUS Service]\nName=t.Open\nExec=/bin/false '\n")
    outcome = activated(user, services, *client(user, "fail"), folder=programs)
    assert outcome.status == 0, outcome.output
    assert re.findall(r"^t\..*", outcome.output, re.M) == [
        "t.False EPIPE",
        "t.False EPIPE",
        "t.False ReplyDead",
        "t.None EPIPE",
        "t.Open EPIPE",
        "t.Shy EPIPE",
        "t.Missing ESRCH",
    ]
    assert outcome.output.count("shy took the name") == 5
    told = [line for line in outcome.output.splitlines() if line.startswith("kdbus: ")]
    assert told == [
        *["kdbus: Process t.False exited with status 1"] * 3,
        "kdbus: Failed to execute program t.None: No such file or directory",
        "kdbus: Unclosed quotes in command line",
        "kdbus: Process t.Shy took the name 5 times, and not the message that waits",
    ]


def test_operations_give_what_they_give_with_dbus_daemon(user: User, services: Path, programs: Path) -> None:
    module = (user.python, "-m", "tests.programs.dbus_activated")
    fifo = services / "fifo"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    for name in ("Serve", "Late"):
        service(services, f"t.{name}", *module, "serve", f"t.{name}")
    service(services, "t.Gate", *module, "serve", "t.Gate", str(fifo))
    service(services, "t.False", "/bin/false")
    service(services, "t.None", "/no/such/program")
    service(services, "t.NoPath", "true")
    service(services, "t.Signal", "/bin/sh", "-c", "kill -9 $$")
    (services / "t.Unclosed.service").write_text("[D-BUS Service]\nName=t.Unclosed\nExec=/bin/false '\n")
    (services / "t.Bad.service").write_text("[D-BUS Service]\nName=t.Bad\nExec\n")
    program = (*module, "use", str(fifo))
    with daemon(user, services, programs) as address:
        expected = user.run(["env", f"DBUS_SESSION_BUS_ADDRESS={address}", *program], folder=programs)
    assert expected.status == 0, expected.output
    assert "still METHOD_RETURN  (none)\n" in expected.output and "anew METHOD_RETURN  value\n" in expected.output
    proxy = user.kdbus("proxy", "--bus", "user", "--activate", str(services), "--exec", *program)
    found = user.run(user.kdbus("run", "--make-bus", "user", "--", *proxy), seconds=SECONDS, folder=programs)
    lines = found.output.splitlines()
    ours = [line for line in lines if not line.startswith("kdbus: ")]
    different = difflib.unified_diff(expected.output.splitlines(), ours, "dbus-daemon", "proxy", lineterm="")
    assert (found.status, ours) == (0, expected.output.splitlines()), "\n".join(different)
    assert f"kdbus: {services}/t.Bad.service is left out: line 3 is neither a group nor KEY=VALUE: 'Exec'" in lines


def test_clients_are_told_when_there_is_more_or_less_to_start(user: User, services: Path, programs: Path) -> None:
    service(services, "t.New", "/bin/false")
    activate = user.kdbus("activate", "--bus", "user", "--from", str(services), "--exec", "true")
    program = [user.python, "-m", "tests.programs.dbus_activated", "watch", *activate]
    proxy = user.kdbus("proxy", "--bus", "user", "--exec", *program)
    outcome = user.run(user.kdbus("run", "--make-bus", "user", "--", *proxy), seconds=SECONDS, folder=programs)
    assert outcome.output.splitlines() == ["org.freedesktop.DBus"] * 2


def test_files_come_and_go_meanwhile_as_with_dbus_daemon(user: User, services: Path, programs: Path) -> None:
    service(services, "t.False", "/bin/false")
    services.chmod(0o777)
    program = (user.python, "-m", "tests.programs.dbus_activated", "reload", str(services))
    with daemon(user, services, programs) as address:
        expected = user.run(["env", f"DBUS_SESSION_BUS_ADDRESS={address}", *program], folder=programs)
    assert expected.status == 0, expected.output
    proxy = user.kdbus("proxy", "--bus", "user", "--activate", str(services), "--exec", *program)
    found = user.run(user.kdbus("run", "--make-bus", "user", "--", *proxy), seconds=SECONDS, folder=programs)
    different = difflib.unified_diff(
        expected.output.splitlines(), found.output.splitlines(), "dbus-daemon", "proxy", lineterm=""
    )
    assert (found.status, found.output) == (0, expected.output), "\n".join(different)
    assert "added: echo METHOD_RETURN  a\n" in found.output
    assert "removed: echo ERROR org.freedesktop.DBus.Error.ServiceUnknown" in found.output


def test_the_driver_starts_programs_for_those_that_speak_kdbus(user: User, services: Path, programs: Path) -> None:
    service(services, "org.example.Idle", f"{programs}/idle", bus(user), "org.example.Idle", "600")
    service(services, "t.False", "/bin/false")
    proxy = user.kdbus("proxy", "--bus", "user", "--activate", str(services), "--exec", *client(user, "ask"))
    outcome = user.run(user.kdbus("run", "--make-bus", "user", "--", *proxy), seconds=SECONDS, folder=programs)
    said = [line for line in outcome.output.splitlines() if not line.startswith(("kdbus: ", "serving "))]
    assert (outcome.status, said) == (
        0,
        [
            "org.example.Idle 1",
            "org.example.Idle 2",
            "t.False org.freedesktop.DBus.Error.Spawn.Failed",
            "t.Missing org.freedesktop.DBus.Error.ServiceUnknown",
        ],
    )


def test_files_are_accepted_as_by_dbus_daemon(services: Path, programs: Path) -> None:
    needed("gdbus", "libglib2.0-bin")
    user = current_user()
    for name, data in {**GOOD, **BAD}.items():
        (services / f"t.{name}.service").write_bytes(data)
    names = ["--dest", "org.freedesktop.DBus", "--object-path", "/org/freedesktop/DBus"]
    ask = ["gdbus", "call", "--session", *names, "--method", "org.freedesktop.DBus.ListActivatableNames"]
    with daemon(user, services, programs) as address:
        listed = user.run(["env", f"DBUS_SESSION_BUS_ADDRESS={address}", *ask])
    ours = set()
    for data in (*GOOD.values(), *BAD.values()):
        try:
            ours.add(parse(data).name)
        except BadFile:
            continue
    assert set(re.findall("'(t[^']*)'", listed.output)) == ours


def test_rules_and_units_of_systemd(user: User, services: Path, programs: Path) -> None:
    (services / "idle.busname").write_text("[BusName]\nName=org.example.Idle\nService=real.service\nAllowWorld=talk\n")
    (services / "real.service").write_text(
        "[Unit]\nDescription=x\n[Service]\nWorkingDirectory=/tmp\nEnvironment=MARK=here\n"
        f'ExecStart=/bin/sh -c "pwd; env | grep ^MARK; exec {programs}/idle {bus(user)}"\n'
    )
    (services / "held.busname").write_text("[BusName]\nName=org.example.Held\nActivating=no\nAllowWorld=own\n")
    outcome = activated(user, services, *client(user, "load", "1", "1"), folder=programs)
    assert outcome.status == 0, outcome.output
    assert outcome.output.startswith("/tmp\nMARK=here\nserving org.example.Idle\n"), outcome.output


def test_units_come_and_go_meanwhile(user: User, services: Path, programs: Path) -> None:
    services.chmod(0o777)
    (services / "real.service").write_text("[Service]\nExecStart=/bin/false\n")
    outcome = activated(user, services, *client(user, "files", str(services)), folder=programs)
    assert (outcome.status, outcome.output.splitlines()) == (
        0,
        [
            "new: appears",
            "other rules: vanishes appears",
            "nothing to start: vanishes",
            "something to start: appears",
            "removed: vanishes",
        ],
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs of others")
def test_another_users_program(services: Path, programs: Path) -> None:
    root = current_user()
    service(services, "org.example.Idle", "/bin/sh", "-c", "id -un; id -Gn; exit 1", rest="User=nobody\n")
    outcome = activated(root, services, *client(root, "load", "1", "1"), folder=programs)
    assert outcome.output.startswith("nobody\nnogroup\n"), outcome.output


def test_what_was_started_ends_with_activation(user: User, services: Path, programs: Path) -> None:
    service(
        services, "org.example.Idle", "/bin/sh", "-c", f"echo $$; exec {programs}/idle {bus(user)} org.example.Idle 600"
    )
    outcome = activated(user, services, *client(user, "load", "1", "3"), folder=programs)
    assert outcome.status == 0, outcome.output
    process = outcome.output.split()[0]
    assert not Path(f"/proc/{process}").exists()


def test_a_server_activates(user: User, services: Path, programs: Path) -> None:
    service(services, "org.example.Idle", f"{programs}/idle", bus(user))
    reading, writing = os.pipe()
    folder = services / "socket"
    folder.mkdir()
    folder.chmod(0o777)
    options = ("--make-bus", "user", "--activate", str(services), "--ready-fd", str(writing))
    with subprocess.Popen(
        user.kdbus("serve", "--socket", f"{folder}/s", *options),
        pass_fds=(writing,),
        env=user.environment,
        cwd=programs,
        stdin=subprocess.DEVNULL,
        **user.becoming,
    ) as process:
        try:
            os.close(writing)
            # Whoever comes too early has to wait until everything is there.
            join = user.kdbus("run", "--domain", f"{folder}/s", "--wait", "60", "--", *client(user, "load", "2", "10"))
            outcome = user.run(join, seconds=SECONDS, folder=programs)
            assert (outcome.status, outcome.output) == (0, "20 replies\n")
            assert os.read(reading, 10) == b"\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            os.close(reading)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["run", "--make-bus", "user", "--activate", "/no/such", "--", "true"], "the folder '/no/such': No such file"),
        (["run", "--activate", "/", "--", "true"], "does not say for which bus"),
        (
            ["run", "--make-bus", "a", "--make-bus", "b", "--activate", "c=/", "--", "true"],
            "does not say for which bus",
        ),
        (["run", "--domain", "/no/such", "--activate", "/", "--", "true"], "--activate with --domain"),
        (["serve", "--socket", "/no/such/s", "--activate", "/"], "does not say for which bus"),
        (["activate"], "there is no --bus"),
        (["activate", "--bus", "user"], "there is no --from"),
        (["activate", "--bus", "user", "--from", "/", "true"], "'true' is too many"),
        (["activate", "--bus", "user", "--from", "/"], "connecting to the bus"),
    ],
)
def test_what_cannot_be_is_told(user: User, arguments: list[str], said: str) -> None:
    outcome = user.run(user.kdbus(*arguments))
    assert outcome.status == 125
    assert outcome.output.startswith("kdbus: ") and outcome.output.count("\n") == 1, outcome.output
    assert said in outcome.output


def test_one_activation_for_each_bus(user: User, services: Path) -> None:
    inner = user.kdbus("activate", "--bus", "user", "--from", str(services), "--exec", "true")
    outcome = activated(user, services, *inner)
    assert outcome.status == 125 and "has kdbus.Activator" in outcome.output
    # A bus of another user.
    if uid(user) != 0:
        return
    assert activated(user, services, "sh", "-c", "exit 7").status == 7
