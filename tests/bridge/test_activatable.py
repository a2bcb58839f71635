# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders of files that say what there is to start."""

from __future__ import annotations

import logging
import os
import pwd
from pathlib import Path

import pytest

from bridge.activatable import Activatable, found
from kdbus.flags import Access, AccessType
from kdbus.values import Rule


def write(folder: Path, **files: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return str(folder)


def service(name: str, rest: str = "") -> str:
    return f"[D-BUS Service]\nName={name}\nExec=/bin/{name}\n{rest}"


def test_the_first_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = write(tmp_path / "1", a_service=service("t.a"), b_service=service("t.b"), c_desktop=service("t.c"))
    second = write(tmp_path / "2", x_service=service("t.b"), y_service=service("t.d"))
    assert found([first, second]) == [
        Activatable("t.a", f"{first}/a.service", ("/bin/t.a",)),
        Activatable("t.b", f"{first}/b.service", ("/bin/t.b",)),
        Activatable("t.d", f"{second}/y.service", ("/bin/t.d",)),
    ]
    assert caplog.messages == [f"{second}/x.service is left out: {first}/b.service has t.b already"]


def test_a_file_that_cannot_be_used_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, a_service="?\n", z_service=service("t.z"))
    (tmp_path / "b.service").mkdir()
    (tmp_path / "c.service").symlink_to("nowhere")
    assert [each.name for each in found([folder])] == ["t.z"]
    assert caplog.messages == [
        f"{folder}/a.service is left out: line 1 is neither a group nor KEY=VALUE: '?'",
        f"{folder}/b.service is left out: Is a directory",
        f"{folder}/c.service is left out: No such file or directory",
    ]


def test_units(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(
        tmp_path,
        a_busname="[BusName]\nName=t.a\nAllowUser=0 own\nAllowWorld=talk\n",
        a_service="[Unit]\n[Service]\nExecStart=/bin/a\nEnvironment=A=1\nWorkingDirectory=/\n",
        b_busname="[BusName]\nName=t.b\nService=a.service\nAcceptFileDescriptors=no\n",
        c_busname="[BusName]\nName=t.c\nActivating=no\nAllowGroup=0 see\n",
        d_busname="[BusName]\nName=t.d\n",
        e_busname="[BusName]\nName=t.e\nService=../a.service\n",
        f_busname="[BusName]\nName=t.f\nAllowUser=nobody-of-that-name own\n",
        g_service="[Service]\nExecStart=/bin/of-no-name\n",
    )
    with caplog.at_level(logging.WARNING):
        names = {each.name: each for each in found([folder])}
    rules = (Rule(Access.OWN, AccessType.USER, 0), Rule(Access.TALK))
    assert names == {
        "t.a": Activatable("t.a", f"{folder}/a.busname", ("/bin/a",), folder="/", environment={"A": "1"}, rules=rules),
        "t.b": Activatable(
            *("t.b", f"{folder}/b.busname", ("/bin/a",)),
            folder="/",
            environment={"A": "1"},
            accepts_descriptors=False,
        ),
        "t.c": Activatable("t.c", f"{folder}/c.busname", None, rules=(Rule(Access.SEE, AccessType.GROUP, 0),)),
    }
    assert [names[each].activating for each in ("t.a", "t.c")] == [True, False]
    assert caplog.messages == [
        f"{folder}/d.busname is left out: the unit d.service beside it: No such file or directory",
        f"{folder}/e.busname is left out: Service= is no name of a unit: '../a.service'",
        f"{folder}/f.busname is left out: there is no user 'nobody-of-that-name'",
    ]


def test_what_cannot_be_started_is_known_of(tmp_path: Path) -> None:
    folder = write(tmp_path, a_service="[D-BUS Service]\nName=t.a\nExec='\n")
    (each,) = found([folder])
    assert (each.command, each.unusable, each.activating) == (None, "Unclosed quotes in command line", True)


def test_users(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(
        tmp_path,
        a_service=service("t.a", "User=root\n"),
        b_service=service("t.b", "User=nobody-of-that-name\n"),
        c_service=service("t.c", "User=nobody\n"),
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert [(each.name, each.user) for each in found([folder])] == [("t.a", "root"), ("t.c", "nobody")]
    assert caplog.messages == [f"{folder}/b.service is left out: User= is nobody here: 'nobody-of-that-name'"]
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    assert [each.name for each in found([folder])] == ["t.c"]
    assert f"{folder}/a.service is left out: User= is root, and only root can start programs of others" in caplog.text


def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    there = write(tmp_path / "there", a_service=service("t.a"))
    assert [each.name for each in found([f"{tmp_path}/nowhere", there])] == ["t.a"]
    assert caplog.messages == [f"the folder {tmp_path}/nowhere is left out: No such file or directory"]
