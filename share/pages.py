# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of `kdbus help`, taken apart into what it consists of.

The pages are written for terminals, in a few forms: paragraphs; a usage; options, each with its text from column 17 on
or in the next lines; lists of words with their text, such as the subcommands; examples, behind that word or behind a
sentence that begins with "Such as". Blank lines separate them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from interposer.help import OVERVIEW, PAGES

_TEXT_COLUMN = 17
_TERM = re.compile(r"  (\S(?:.*?\S)?)(?:  +(\S.*))?")
_USAGE, _EXAMPLES = "usage: ", "examples: "
_SUCH_AS = re.compile(r"(.*?)\s*(Such as\b[^.]*:)")


@dataclass(slots=True)
class Entry:
    """An option with its text, or a word with its. `lines`: of a list within the text, which keeps its form."""

    term: str
    text: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def options(self) -> list[str]:
        """The names of an option."""
        return re.findall(r"(?<![\w-])--?\w[\w-]*", self.term)

    @property
    def value(self) -> str:
        """What its value is called; empty without one."""
        return self.term.rpartition(" ")[2] if re.search(r" [A-Z]", self.term) else ""


@dataclass(slots=True)
class Page:
    """One page. `paragraphs` are text, or lines of a listing. `show`: what the examples show, in words."""

    title: str
    usage: list[str] = field(default_factory=list)
    options: list[Entry] = field(default_factory=list)
    words: list[Entry] = field(default_factory=list)
    paragraphs: list[str | list[str]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    show: str = ""


def parsed(text: str) -> Page:
    """The parts of a page."""
    blocks = [block.split("\n") for block in text.rstrip("\n").split("\n\n")]
    page = Page(" ".join(blocks.pop(0)))
    for block in blocks:
        if block[0].startswith(_USAGE):
            page.usage += _indented(block, _USAGE)
        elif block[0].startswith(_EXAMPLES):
            page.examples += _indented(block, _EXAMPLES)
        elif block[0].startswith("  -"):
            page.options += _entries(block)
        elif _is_list(block):
            page.words += _entries(block)
        elif block[0].startswith("  "):
            lines = [line[2:] for line in block]
            if page.show and not page.examples:
                page.examples = lines
            else:
                page.paragraphs.append(lines)
        else:
            options = next((number for number, line in enumerate(block) if line.startswith("  -")), len(block))
            paragraph = " ".join(block[:options])
            if found := _SUCH_AS.fullmatch(paragraph):
                paragraph, page.show = found.groups()
            if paragraph:
                page.paragraphs.append(paragraph)
            page.options += _entries(block[options:])
    return page


def _indented(block: list[str], start: str) -> list[str]:
    return [line[len(start) :] for line in block]


def _is_list(block: list[str]) -> bool:
    """Whether each line is a word and its text."""
    return all(re.match(r"  [a-z-]+  +\S", line) for line in block)


def _entries(block: list[str]) -> list[Entry]:
    found: list[Entry] = []
    for line in block:
        match = _TERM.fullmatch(line)
        if not line.startswith("   ") and match:
            found.append(Entry(match[1], match[2] or ""))
        elif line.startswith(" " * (_TEXT_COLUMN + 1)):
            found[-1].lines.append(line.strip())
        else:
            found[-1].text = f"{found[-1].text} {line.strip()}".lstrip()
    return found


def overview() -> Page:
    """What `kdbus help` prints."""
    return parsed(OVERVIEW)


def subcommands() -> dict[str, Page]:
    """The page of each subcommand."""
    return {name: parsed(text) for name, text in PAGES.items()}


def summaries() -> dict[str, str]:
    """Each subcommand in a few words."""
    return {entry.term: entry.text for entry in overview().words}
