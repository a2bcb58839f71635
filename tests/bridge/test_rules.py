# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rule decides. That dbus-daemon decides the same is tested end to end (test_proxy_policy)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bridge.busconfig import read
from bridge.rules import ClientRules, Named, Owner, Policy
from kdbus.dbus.message import Message, error, method_call, method_return, signal

CALL = method_call("org.x.A", "/p", "a.b", "M")


def policy(folder: Path, *policies: str) -> Policy:
    (folder / "bus.conf").write_text(f"<busconfig>\n{chr(10).join(policies)}</busconfig>")
    return read(str(folder / "bus.conf")).policy


def rules(folder: Path, *elements: str) -> ClientRules:
    """Of a default policy with those elements, each on a line of its own, from 3."""
    return policy(folder, '<policy context="default">', *elements, "</policy>").for_client(1000, (1000,))


def owner(*names: str) -> Owner:
    return Owner(lambda: names)


@pytest.mark.parametrize(
    ("rule", "message", "names", "line"),
    [
        ('<allow send_destination="org.x.A"/>', CALL, ["org.x.A"], 3),
        ('<allow send_destination="org.x.A"/>', replace(CALL, destination=":1.7"), ["org.x.B", "org.x.A"], 3),
        ('<allow send_destination="org.x.A"/>', CALL, ["org.x.B"], None),
        ('<allow send_destination="*"/>', CALL, [], 3),
        ('<allow send_destination_prefix="org.x"/>', CALL, ["org.x.A.b"], 3),
        ('<allow send_destination_prefix="org.x"/>', CALL, ["org.xA"], None),
        ('<allow send_interface="a.b" send_member="M"/>', CALL, [], 3),
        ('<allow send_interface="a.b" send_member="N"/>', CALL, [], None),
        ('<allow send_interface="a.b"/>', replace(CALL, interface=None), [], None),
        ('<deny send_interface="a.b"/>', replace(CALL, interface=None), [], 3),
        ('<allow send_path="/q"/>', CALL, [], None),
        ('<allow send_path="/q"/>', method_return(replace(CALL, cookie=1)), [], 3),
        ('<allow send_type="signal"/>', CALL, [], None),
        ('<allow send_error="a.E"/>', error(replace(CALL, cookie=1), "a.F"), [], None),
        ('<deny send_error="a.E"/>', CALL, [], 3),
        ('<allow send_broadcast="true"/>', CALL, [], None),
        ('<allow send_broadcast="false"/>', CALL, [], 3),
        ('<allow send_broadcast="true"/>', signal("/", "a.b", "S"), [], 3),
        ('<allow send_broadcast="true"/>', signal("/", "a.b", "S", destination=":1.7"), [], None),
        ('<deny send_destination="*" min_fds="1"/>', CALL, [], None),
        ('<deny send_destination="*" min_fds="1"/>', replace(CALL, descriptors=1), [], 3),
        ('<deny send_type="method_return"/>', method_return(replace(CALL, cookie=1)), [], None),
        ('<deny send_requested_reply="true"/>', method_return(replace(CALL, cookie=1)), [], 3),
    ],
)  # fmt: skip
def test_what_fits(rule: str, message: Message, names: list[str], line: int | None, tmp_path: Path) -> None:
    decision = rules(tmp_path, rule).may_send(message, owner(*names))
    assert (decision.rule.line if decision.rule else None) == line
    assert decision.allowed == (line is not None and rule.startswith("<allow"))


def test_the_last_one_decides(tmp_path: Path) -> None:
    found = rules(tmp_path, '<deny send_destination="*"/>', '<allow send_destination="org.x.A"/>', '<deny own="*"/>')
    assert found.may_send(CALL, Named("org.x.A")).allowed
    decision = found.may_send(CALL, Named("org.x.B"))
    assert decision.rule is not None and (decision.allowed, decision.rule.line) == (False, 3)
    assert not found.may_receive(CALL, owner()).allowed


def test_names_are_asked_for_only_if_they_matter(tmp_path: Path) -> None:
    def ask() -> list[str]:
        raise AssertionError

    found = rules(tmp_path, '<allow send_destination="org.x.A"/>', '<deny send_interface="a.b"/>')
    assert not found.may_send(CALL, Owner(ask)).allowed


def test_the_order_of_policies(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        '<policy context="mandatory"><deny own="m"/></policy>',
        '<policy user="0"><allow own="m"/><allow own="u"/></policy>',
        '<policy at_console="false"><deny own="c"/></policy>',
        '<policy group="0"><deny own="u"/><allow own="g"/></policy>',
        '<policy context="default"><allow own="c"/><deny own="g"/></policy>',
    )
    root, other = found.for_client(0, (0,)), found.for_client(1000, (1000, 0))
    assert [root.may_own(name).allowed for name in "mugc"] == [False, True, True, False]
    assert [other.may_own(name).allowed for name in "mugc"] == [False, False, True, False]
    assert found.for_client(1000, (1000,)).may_own("g").allowed is False
    assert found.for_client(0, (0,), at_console=True).may_own("c").allowed


def test_who_may_connect(tmp_path: Path) -> None:
    assert policy(tmp_path).may_connect(1000, (1000,), 1000).allowed
    assert not policy(tmp_path).may_connect(0, (0,), 1000).allowed
    found = policy(tmp_path, '<policy context="default"><allow user="*"/><deny group="0"/></policy>')
    assert found.may_connect(1000, (1000,), 1).allowed
    assert not found.may_connect(1000, (1000, 0), 1).allowed
