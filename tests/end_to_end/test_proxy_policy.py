# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus proxy --config`: dbus-daemon's policies, beside dbus-daemon with the same files."""

from __future__ import annotations

import difflib
import grp
import json
import pwd
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.test_proxy import proxied
from tests.programs.dbus_policy import CONFIGURATION
from tests.support.compiling import with_dbus_programs
from tests.support.message_bus import message_bus, needed
from tests.support.users import Outcome, User

_SYSTEM = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:tmpdir=/tmp</listen>
  <include>%s</include>
</busconfig>
"""


@pytest.fixture(scope="session")
def folder(open_folder: Path) -> Path:
    """A folder with the programs for this."""
    return with_dbus_programs(open_folder / "proxy-policy")


def _written(user: User, place: Path, text: str) -> Path:
    """A configuration for that user."""
    path = place / "bus.conf"
    account = pwd.getpwuid(user.identity or 0)
    group = grp.getgrgid(account.pw_gid).gr_name
    path.write_text(text.replace("NAME", account.pw_name).replace("GROUP", group))
    return path


def test_the_same_is_allowed_and_denied_as_with_dbus_daemon(user: User, folder: Path) -> None:
    needed("dbus-daemon", "dbus-daemon")
    path = _written(user, folder, CONFIGURATION)
    program = (user.python, "-m", "tests.programs.dbus_policy")
    with message_bus(user, folder, (f"--config-file={path}", "--address=unix:tmpdir=/tmp")) as (address, _):
        expected = user.run(["env", f"DBUS_SESSION_BUS_ADDRESS={address}", *program], folder=folder)
    assert expected.status == 0, expected.output
    assert expected.output.count("AccessDenied") > 90 and expected.output.count("answered") > 50
    found = proxied(user, *program, options=["--config", str(path)], folder=folder)
    different = difflib.unified_diff(expected.output.splitlines(), found.output.splitlines(), "dbus-daemon", "proxy")
    assert found == expected, "\n".join(different)[:5000]


def test_a_system_bus_denies_what_it_denies(user: User, folder: Path) -> None:
    system = Path("/usr/share/dbus-1/system.conf")
    if not system.exists():
        needed("dbus-daemon", "dbus-daemon")
    path = _written(user, folder, _SYSTEM % system)
    dest = "--dest=org.freedesktop.DBus"
    call = ("dbus-send", "--session", "--print-reply=literal", dest, "/org/freedesktop/DBus")
    outcome = proxied(user, *call, "org.freedesktop.DBus.GetId", options=["--config", str(path)])
    assert outcome.status == 0, outcome.output
    ask = ("org.freedesktop.DBus.RequestName", "string:org.x.Y", "uint32:0")
    outcome = proxied(user, *call, *ask, options=["--config", str(path)])
    assert outcome.status == 1 and "AccessDenied" in outcome.output, outcome.output


def test_a_mistake_is_told_with_its_line(user: User, folder: Path) -> None:
    path = _written(user, folder, '<busconfig>\n<policy context="default">\n<allow/>\n</policy></busconfig>')
    outcome = proxied(user, "true", options=["--config", str(path)])
    assert outcome.status == 125
    assert f"{path}:3: <allow> says nothing" in outcome.output


def answered(user: User, path: Path, *words: str, options: Sequence[str] = ()) -> Outcome:
    """What `kdbus dbus-policy` says of that configuration."""
    return user.run(user.kdbus("dbus-policy", "--config", str(path), *options, *words))


def test_which_rule_decides(user: User, folder: Path) -> None:
    path = _written(user, folder, CONFIGURATION)
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if 'path="/denied"' in text)
    call = ("destination=org.x.Open", "path=/denied", "interface=a.b", "member=M")
    denied = answered(user, path, "send", *call)
    assert (denied.status, denied.output.partition(", in ")[0]) == (
        1,
        f'denied by {path}:{line}: <deny send_destination="org.x.Open" send_path="/denied"/>',
    )
    found = json.loads(answered(user, path, "send", *call[:1], "path=/", *call[2:], options=["--json"]).output)
    assert found["allowed"] and found["rules"][-1]["text"] == '<allow send_destination="org.x.Open"/>'
    assert answered(user, path, "own", "org.x.Never").status == 1
    assert answered(user, path, "own", "org.x.Free").status == 0
    assert answered(user, path, "connect").output.startswith("allowed by ")
    assert answered(user, path, "receive", "type=signal", "path=/", "interface=a.Unheard", "member=S").status == 1


def test_mistakes_in_questions(user: User, folder: Path) -> None:
    path = _written(user, folder, CONFIGURATION)
    for words, said in (
        ((), "there is no question"),
        (("ownn",), "did you mean own?"),
        (("own",), "own needs one name"),
        (("send", "x"), "says nothing of a message"),
        (("send", "path=/"), "METHOD_CALL without member"),
        (("send", "type=x"), "there is no type 'x'"),
        (("hold",), "hold without --bus"),
    ):
        outcome = answered(user, path, *words)
        assert outcome.status == 125 and said in outcome.output, outcome.output
    outcome = answered(user, path, "connect", options=["--user", "no such user"])
    assert "there is no user" in outcome.output


def test_kdbus_is_told_as_far_as_it_goes(user: User, folder: Path) -> None:
    path = _written(user, folder, CONFIGURATION)
    found = answered(user, path, "kdbus")
    assert found.status == 0
    assert "org.x.Open  OWN  WORLD\n" in found.output and "not said: " in found.output
    hold = " ".join(user.kdbus("dbus-policy", "--config", str(path), "--bus", "user", "--ready-fd", "1", "hold"))
    # The policy of a name is held once, which shows that it is.
    script = f"exec 3< <(exec {hold}); read line <&3; {hold}; echo $?; kill $!; wait $!"
    outcome = user.run(user.kdbus("run", "--make-bus", "user", "--", "bash", "-c", script))
    assert outcome.status == 0, outcome.output
    assert "holding the policy of " in outcome.output and outcome.output.endswith("\n125\n"), outcome.output
