# SPDX-License-Identifier: GPL-2.0-or-later
"""What of dbus-daemon's policy kdbus can say."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from bridge.busconfig import read
from bridge.kdbus_policy import Translation, translated
from kdbus.flags import Access, AccessType

USER = os.geteuid()
ME = pwd.getpwuid(USER).pw_name


def of(folder: Path, *policies: str) -> Translation:
    (folder / "bus.conf").write_text("<busconfig>\n" + "\n".join(policies) + "</busconfig>")
    return translated(read(str(folder / "bus.conf")).policy)


def granted(found: Translation) -> dict[str, list[tuple[Access, AccessType, int]]]:
    return {policy.name: [(each.access, each.type, each.id) for each in policy.rules] for policy in found.policies}


def test_names(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        '<policy context="default"><deny own="*"/><deny send_type="method_call"/><allow own_prefix="a.b"/>',
        '<deny own="a.b.not"/><allow send_destination="c.d"/><allow send_destination="e.f"/></policy>',
        f'<policy user="{ME}"><allow own="c.d"/></policy>',
        '<policy group="0"><allow own="e.f"/></policy>',
        '<policy context="mandatory"><deny send_destination="g.h"/></policy>',
    )
    world = [(Access.OWN, AccessType.WORLD, 0)]
    talk = (Access.TALK, AccessType.WORLD, 0)
    assert granted(found) == {
        "a.b": world,
        "a.b.*": world,
        "c.d": [talk, (Access.OWN, AccessType.USER, USER)],
        "e.f": [talk, (Access.OWN, AccessType.GROUP, 0)],
    }
    assert found.unsaid == []


def test_what_cannot_be_said(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        '<policy context="default"><allow own="*"/><allow user="*"/>',
        '<deny receive_interface="a.b"/>',
        '<deny own="x.y"/><allow send_destination="x.y"/>',
        '<deny send_destination="x.y" send_interface="a.b"/></policy>',
        '<policy at_console="true"><allow own="c.d"/></policy>',
        f'<policy user="{ME}"><deny send_destination="x.y"/></policy>',
    )
    assert granted(found)["x.y"] == [(Access.TALK, AccessType.WORLD, 0)]
    said = [text.removeprefix(f"{tmp_path}/bus.conf:") for text in found.unsaid]
    assert [text[:2] for text in said] == ["5:", "x.", "2:", "3:", "6:", "th", "us"]
    assert said[0].endswith("some messages only; kdbus allows all of them")


def test_what_is_allowed_in_part_is_denied(tmp_path: Path) -> None:
    found = of(tmp_path, '<policy context="default"><allow send_destination="x.y" send_interface="a.b"/></policy>')
    assert found.policies == []
    assert found.unsaid[0].endswith("some messages only; kdbus denies all of them")
