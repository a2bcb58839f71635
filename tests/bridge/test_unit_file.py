# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd's `.busname` units, and the `.service` units that they name."""

from __future__ import annotations

import pytest

from bridge.service_file import BadFile
from bridge.unit_file import Allowed, BusName, Unit, parse_busname, parse_service
from kdbus.flags import Access, AccessType


def test_a_busname() -> None:
    text = b"""\
# the time
[Unit]
Description=Time \\
  and Date
[BusName]
Name = org.example.Time
Service=time.service
AcceptFileDescriptors=no
AllowWorld=talk
AllowUser=root own
AllowGroup=users see
"""
    assert parse_busname(text) == BusName(
        "org.example.Time",
        "time.service",
        accepts_descriptors=False,
        allowed=(
            Allowed(Access.TALK, AccessType.WORLD),
            Allowed(Access.OWN, AccessType.USER, "root"),
            Allowed(Access.SEE, AccessType.GROUP, "users"),
        ),
    )


def test_what_is_not_said() -> None:
    assert parse_busname(b"[BusName]\nName=a.b\n") == BusName("a.b")
    assert parse_busname(b"[BusName]\nName=a.b\nActivating=off\n") == BusName("a.b", activating=False)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "no section"),
        ("[BusName]\n", "no Name="),
        ("[BusName]\nName=a\n", "not a well-known name"),
        ("[BusName]\nName=a.b\nNames=a.c\n", "Names= in .BusName. is not understood"),
        ("[BusName]\nName=a.b\nActivating=perhaps\n", "neither yes nor no"),
        ("[BusName]\nName=a.b\nAllowWorld=root talk\n", "not ACCESS"),
        ("[BusName]\nName=a.b\nAllowUser=talk\n", "not WHO ACCESS"),
        ("[BusName]\nName=a.b\nAllowGroup=users all\n", "see, talk or own"),
        ("Name=a.b\n", "line 1 stands before any section"),
        ("[BusName\n", "line 1 is no name of a section"),
        ("[BusName]\nName\n", "line 2 is neither"),
        ("[BusName]\nName=a.b\\", "to be continued"),
        ("[BusName]\nName=a.b\0\n", "zero character"),
    ],
)
def test_what_is_no_busname(text: str, reason: str) -> None:
    with pytest.raises(BadFile, match=reason):
        parse_busname(text.encode())


def test_a_service() -> None:
    text = b"""\
[Unit]
Description=Time
[Service]
Type=dbus
ExecStart=/bin/never
ExecStart=
ExecStart=-/usr/lib/time \\
    '--a b' 100%% $$x
Environment=A=1 "B=2 3"
; and
Environment=A=4
WorkingDirectory=-/tmp
User=root
"""
    command = ("/usr/lib/time", "--a b", "100%", "$x")
    assert parse_service(text) == Unit(command, "/tmp", "root", {"A": "4", "B": "2 3"})


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[Unit]\n", "no section"),
        ("[Service]\n", "0 commands"),
        ("[Service]\nExecStart=/a\nExecStart=/b\n", "2 commands"),
        ("[Service]\nExecStart=a\n", "path of a program"),
        ("[Service]\nExecStart=@/a b\n", "begins with '@'"),
        ("[Service]\nExecStart=/a %h\n", "not understood"),
        ("[Service]\nExecStart=/a $HOME\n", "not understood"),
        ("[Service]\nExecStart=/a $$$HOME\n", "not understood"),
        ("[Service]\nExecStart=/a \\x20\n", "not understood"),
        ("[Service]\nExecStart=/a 'b\n", "Unclosed quotes"),
        ("[Service]\nExecStart=/a\nEnvironment=A\n", "not KEY=VALUE"),
        ("[Service]\nExecStart=/a\nWorkingDirectory=~\n", "no absolute path"),
    ],
)
def test_what_is_no_service(text: str, reason: str) -> None:
    with pytest.raises(BadFile, match=reason):
        parse_service(text.encode())
