# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of a command line in a file: quoting as in a POSIX shell, and nothing else of it.

What dbus-daemon makes of `Exec=` (D-Bus Specification, "Message Bus Starting Services"; checked against dbus-daemon
1.14): words at white space, '...' as it stands, "..." with a backslash before $ ` " \\ and the end of a line, a
backslash before any character outside, a comment from a # that begins a word. No variables, no patterns, no `~`. The
standard library's shlex differs in two of these: the # inside of words, and the backslash inside of double quotes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_SPACE: Final = " \t\n"
_ESCAPED: Final = '$`"\\\n'


def split(line: str) -> list[str]:
    """The words. ValueError: a quotation that does not end, or a backslash at the end."""
    words: list[str] = []
    rest = iter(line)
    word: str | None = None
    for character in rest:
        if character in _SPACE:
            if word is not None:
                words.append(word)
            word = None
        elif character == "#" and word is None:
            while next(rest, "\n") != "\n":
                pass
        elif character == "\\":
            escaped = next(rest, None)
            if escaped is None:
                raise ValueError("Text ended just after a '\\' character")
            if escaped != "\n":
                word = (word or "") + escaped
        elif character in "'\"":
            word = (word or "") + _quoted(rest, character)
        else:
            word = (word or "") + character
    return words if word is None else [*words, word]


def _quoted(rest: Iterator[str], quote: str) -> str:
    """What stands before the closing quote, taken off the front. ValueError if there is none."""
    found = ""
    for character in rest:
        if character == quote:
            return found
        if character == "\\" and quote == '"':
            escaped = next(rest, "")
            found += "" if escaped == "\n" else escaped if escaped in _ESCAPED else "\\" + escaped
        else:
            found += character
    raise ValueError("Unclosed quotes in command line")
