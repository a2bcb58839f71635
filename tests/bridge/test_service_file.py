# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus's `.service` files; what dbus-daemon itself makes of them, `tests/end_to_end/test_activation.py` asks."""

from __future__ import annotations

import pytest

from bridge.service_file import MAX_SIZE, BadFile, ServiceFile, parse
from tests.support.service_files import BAD, BAD_NAMES, GOOD


@pytest.mark.parametrize("name", GOOD)
def test_what_is_accepted(name: str) -> None:
    assert parse(GOOD[name]).name == f"t.{name}"


@pytest.mark.parametrize("name", BAD)
def test_what_is_not(name: str) -> None:
    with pytest.raises(BadFile):
        parse(BAD[name])


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_nobody_can_have(name: str) -> None:
    with pytest.raises(BadFile):
        parse(f"[D-BUS Service]\nName={name}\nExec=/bin/false\n".encode())


def test_what_it_says() -> None:
    text = "[D-BUS Service]\nName=org.example.A\nExec=/bin/a 'b c' d\\se\\\\ f\nUser=root\nSystemdService=x.service\n"
    assert parse(text.encode()) == ServiceFile("org.example.A", ("/bin/a", "b c", "d", "e f"), user="root")


def test_a_command_without_words_or_end_is_known_when_it_is_needed() -> None:
    assert parse(GOOD["EmptyExec"]).command == ()
    found = parse(GOOD["unclosed"])
    assert (found.command, found.unusable) == (None, "Unclosed quotes in command line")


def test_a_line_is_named() -> None:
    with pytest.raises(BadFile, match=r"^line 4 is neither a group nor KEY=VALUE: 'Comment'$"):
        parse(BAD["NoEquals"])


def test_its_size_is_bounded() -> None:
    file = GOOD["plain"] + b"#" * (MAX_SIZE - len(GOOD["plain"]))
    assert parse(file).name == "t.plain"
    with pytest.raises(BadFile, match=f"{MAX_SIZE} are allowed"):
        parse(file + b"#")
