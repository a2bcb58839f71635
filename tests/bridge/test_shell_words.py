# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of a command line, as dbus-daemon and sh see them."""

from __future__ import annotations

import subprocess

import pytest

from bridge.shell_words import split


@pytest.mark.parametrize(
    "line, words",
    [
        ("", []),
        (" \t\n ", []),
        ("/bin/a  b\tc", ["/bin/a", "b", "c"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("''", [""]),
        ("a''b\"\"c", ["abc"]),
        (r"a\ b \\ \'", ["a b", "\\", "'"]),
        (r"'a\b'", [r"a\b"]),
        (r'"a\b \" \\ \$ \`"', [r'a\b " \ $ `']),
        ("a\\\nb", ["ab"]),
        ('"a\\\nb"', ["ab"]),
        ("a # b\nc", ["a", "c"]),
        ("a#b '#' #", ["a#b", "#"]),
        ("$HOME ~ *", ["$HOME", "~", "*"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert split(line) == words


@pytest.mark.parametrize("line", [r"'a b' x\ y", r'"\a\\\"" c#d # e', "a''b", r"'\'x \\", '"a\\\nb" c\\\nd'])
def test_words_are_those_of_sh(line: str) -> None:
    printed = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {line}\n"], stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    assert split(line) == printed.split("\0")[:-1]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("a 'b", "Unclosed quotes in command line"),
        ('"', "Unclosed quotes in command line"),
        ('"a\\', "Unclosed quotes in command line"),
        ("a\\", "Text ended just after a '\\' character"),
    ],
)
def test_what_does_not_end(line: str, reason: str) -> None:
    with pytest.raises(ValueError) as raised:
        split(line)
    assert str(raised.value) == reason
