# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration files of dbus-daemon. What is taken and refused is what dbus-daemon 1.14.10 took and refused, but for
entities."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from bridge.busconfig import Configuration, ConfigurationError, read
from bridge.rules import Kind, Scope

ME = pwd.getpwuid(os.geteuid()).pw_name


def configured(folder: Path, body: str) -> Configuration:
    """What a file with that inside of <busconfig> says; its second line is the first of `body`."""
    (folder / "bus.conf").write_text(f"<busconfig>\n{body}</busconfig>")
    return read(str(folder / "bus.conf"))


def default(rule: str, about: str = 'context="default"') -> str:
    return f"<policy {about}>{rule}</policy>"


@pytest.mark.parametrize(
    "body",
    [
        *(default(f"<allow {words}/>") for words in (
            'own="a b"', 'own=""', 'own_prefix="*"', 'send_destination_prefix="a"', 'send_destination="no name"',
            'send_interface="x"', 'send_path="x"', 'send_type="*"', 'send_broadcast="true"', 'eavesdrop="true"',
            'send_requested_reply="true"', 'send_destination="*" max_fds="2"', 'send_destination="*" log="x"',
            'own="a.b" log="true"', 'user="*"', f'user="{ME}"', 'receive_member="a" receive_path="/"',
            'send_destination="a.b" eavesdrop="true"',
        )),
        default('<allow user="*"/>', 'context="mandatory"'),
        default('<allow user="*"/>', 'at_console="true"'),
        default('<allow own="a.b"/>', f'user="{ME}"'),
        default('<allow own="a.b"/>', f'user="{os.geteuid()}"'),
        '<limit name="max_message_size"> 1000 </limit>',
        '<limit name="max_message_size">0x1000</limit>',
        '<include ignore_missing="yes">nosuch</include>',
        '<include if_selinux_enabled="yes" selinux_root_relative="yes">nosuch</include>',
        "<includedir>nosuch</includedir>",
        '<selinux><associate own="a.b" context="x"/></selinux><apparmor mode="enabled"/>',
        "<servicedir>x</servicedir><standard_session_servicedirs/><standard_system_servicedirs/>",
        "<keep_umask/><syslog/><fork/><allow_anonymous/><user>root</user><type>x</type><!-- c --><pidfile>x</pidfile>",
        "<policy context='default'></policy><policy user='root'/><servicehelper>x</servicehelper>",
    ],
)  # fmt: skip
def test_what_is_taken(body: str, tmp_path: Path) -> None:
    assert configured(tmp_path, body).warnings == []


@pytest.mark.parametrize(
    "body",
    [
        *(default(f"<allow {words}/>") for words in (
            "", 'own="*" user="*"', 'own="a.b" own_prefix="a"', 'send_destination="a.b" receive_sender="a.b"',
            'send_destination="a.b" own="a.b"', 'send_destination="a.b" send_destination_prefix="a"',
            'send_member="a"', 'send_interface="a.b" send_error="a.b"', 'send_type="x"', 'send_broadcast="x"',
            'send_requested_reply="x"', 'eavesdrop="x"', 'eavesdrop="true" own="a.b"', 'min_fds="1"',
            'send_destination="*" max_fds="x"', 'send_destination="*" min_fds="-1"', 'own="a.b" max_fds="2"',
            'log="true"', 'user="root" group="root"', 'receive_interface="a.b" receive_error="a.b"',
            'receive_member="a"', 'receive_sender="*" send_requested_reply="true"', 'own="a.b" x="y"',
            'receive_broadcast="true"', 'send_sender="a.b"',
        )),
        default("<allow own='a.b'>text</allow>"),
        default("text"),
        default("<x/>"),
        *(default("<allow own='a.b'/>", about) for about in (
            "", 'context="x"', 'context="default" user="root"', 'at_console="x"', 'x="y"',
        )),
        default('<allow user="root"/>', f'user="{ME}"'),
        "<allow own='a.b'/>",
        "<x/>",
        "text",
        '<limit name="x">1</limit>',
        *(f'<limit name="max_message_size">{text}</limit>' for text in ("x", "-1", "", "9" * 20)),
        "<limit>1</limit>",
        "<include>nosuch</include>",
        '<include ignore_missing="x">nosuch</include>',
        "<include>bus.conf</include>",
        "<includedir></includedir>",
        "<includedir>bus.conf</includedir>",
        "<selinux><x/></selinux>",
        '<apparmor mode="x"/>',
        "<auth>X</auth>",
        "<type></type>",
        "<busconfig/>",
    ],
)  # fmt: skip
def test_what_is_refused(body: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"bus\.conf:2: |nosuch: "):
        configured(tmp_path, body)


@pytest.mark.parametrize(
    "text",
    [
        "", "<x/>", "<busconfig>", "\0", '<!DOCTYPE x [<!ENTITY a "b">]><busconfig/>',
        '<!DOCTYPE x [<!ENTITY a "1234567890"><!ENTITY b "&a;&a;&a;&a;">]><busconfig><type>&b;</type></busconfig>',
    ],
)  # fmt: skip
def test_what_is_no_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "bus.conf").write_text(text)
    with pytest.raises(ConfigurationError):
        read(str(tmp_path / "bus.conf"))
    with pytest.raises(ConfigurationError, match="No such file"):
        read(str(tmp_path / "other.conf"))


def test_accounts_that_do_not_exist_are_told(tmp_path: Path) -> None:
    body = default("<allow user='no such user'/>\n<allow group='4294967294'/>") + default(
        "<allow own='a.b'/>", "user='no such user'"
    )
    found = configured(tmp_path, body)
    assert found.policy.rules == []
    assert [warning.split(":")[1] for warning in found.warnings] == ["2", "3", "3"]


def test_places_and_scopes(tmp_path: Path) -> None:
    more = tmp_path / "more.d"
    more.mkdir()
    for name, text in {
        "2.conf": '<busconfig><policy context="mandatory"><deny own="c"/></policy></busconfig>',
        "1.conf": '<busconfig>\n\n<policy group="0"><deny own="b"/></policy></busconfig>',
        "3.conf": '<busconfig><policy context="default"><deny own="d"/><x/></policy></busconfig>',
        "4.txt": "not read",
    }.items():
        (more / name).write_text(text)
    found = configured(tmp_path, default('<allow own="a"/>') + "\n<includedir>more.d</includedir>")
    rules = found.policy.rules
    assert [(rule.name, rule.scope, rule.scope_id, rule.line) for rule in rules] == [
        ("a", Scope.DEFAULT, None, 2),
        ("b", Scope.GROUP, 0, 3),
        ("c", Scope.MANDATORY, None, 1),
    ]
    assert str(rules[2]) == f'{tmp_path}/more.d/2.conf:1: <deny own="c"/>'
    assert all(rule.kind == Kind.OWN for rule in rules)
    assert "3.conf:1: <x> cannot stand in <policy>" in found.warnings[0]


def test_limits_and_mechanisms(tmp_path: Path) -> None:
    limits = {"max_message_size": 1 << 40, "auth_timeout": 1500, "max_match_rules_per_connection": 7}
    limits["reply_timeout"] = 0  # known, and without effect
    body = "".join(f'<limit name="{name}">{value}</limit>' for name, value in limits.items())
    found = configured(tmp_path, body + "<auth>EXTERNAL</auth><allow_anonymous/>")
    assert (found.limits.message, found.limits.login_seconds, found.limits.rules) == (1 << 27, 1.5, 7)
    assert not found.anonymous
    assert configured(tmp_path, "<allow_anonymous/>").anonymous
    assert not configured(tmp_path, "<auth>ANONYMOUS</auth>").anonymous
