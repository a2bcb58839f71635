# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus proxy --config`: dbus-daemon's policies, beside dbus-daemon with the same files."""

from __future__ import annotations

import difflib
import grp
import pwd
from pathlib import Path

import pytest

from tests.end_to_end.test_proxy import daemon, needed, proxied, with_programs
from tests.programs.dbus_policy import CONFIGURATION
from tests.support.users import User

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
    return with_programs(open_folder / "proxy-policy")


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
    with daemon(user, folder, f"--config-file={path}") as address:
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
