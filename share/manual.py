# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages: kdbus(1), kdbus-SUBCOMMAND(1) and kdbus-interposer(7), in man(7)'s macros.

The first kinds are the pages of `kdbus help`. The last one explains the whole; its text is the file beside this one, of
which a line that begins with `# ` is a heading, and two blanks begin a listing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import wrap

from share.pages import Entry, Page, overview, subcommands, summaries

_WHOLE = Path(__file__).parent / "kdbus-interposer.text"
_SOURCE = "kdbus-interposer"


def manual() -> dict[str, str]:
    """Each page by its path below share/."""
    pages = subcommands()
    short = summaries()
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    found = {"man/man1/kdbus.1": _command("kdbus", overview(), "runs programs written for kdbus", pages, date)}
    for name, page in pages.items():
        found[f"man/man1/kdbus-{name}.1"] = _command(f"kdbus-{name}", page, short[name], pages, date)
    found["man/man7/kdbus-interposer.7"] = _whole(_WHOLE.read_text(), pages, date)
    return found


def _command(name: str, page: Page, short: str, pages: Mapping[str, Page], date: str) -> str:
    lines = [*_head(name, 1, date, short), ".SH SYNOPSIS"]
    for number, usage in enumerate(page.usage):
        lines += [*([".br"] if number else []), _inline(usage)]
    lines += [".SH DESCRIPTION", _inline(page.title)]
    for number, paragraph in enumerate(page.paragraphs):
        before = page.paragraphs[number - 1] if number else page.title
        lines += _listing(paragraph) if isinstance(paragraph, list) else [".PP", _inline(paragraph)]
        assert isinstance(paragraph, str) or isinstance(before, str), "two listings in a row"
    if page.words:
        lines += [".SH COMMANDS", *_list(page.words)]
    if page.options:
        lines += [".SH OPTIONS", *_list(page.options)]
    if page.examples:
        examples = _listing(page.examples)
        lines += [".SH EXAMPLES", *([_inline(page.show), *examples] if page.show else examples[1:])]
    return _text([*lines, *_see_also(name, pages)])


def _whole(text: str, pages: Mapping[str, Page], date: str) -> str:
    short, _, text = text.partition("\n\n")
    lines = _head("kdbus-interposer", 7, date, short)
    fresh = False
    for block in text.rstrip("\n").split("\n\n"):
        if block.startswith("# "):
            lines.append(f".SH {block[2:].upper()}")
            fresh = True
            continue
        if block.startswith("  "):
            lines += _listing([line[2:] for line in block.split("\n")])[fresh:]
        else:
            lines += [*([] if fresh else [".PP"]), _inline(" ".join(block.split("\n")))]
        fresh = False
    return _text([*lines, *_see_also("kdbus-interposer", pages)])


def _head(name: str, section: int, date: str, short: str) -> list[str]:
    title = f'.TH {_plain(name.upper())} {section} {date} "{_SOURCE}"'
    licence = '.\\" SPDX-License-Identifier: GPL-2.0-or-later'
    return [licence, title, ".SH NAME", _inline(f"{name}\0 {short}").replace("\0", " \\-")]


def _see_also(name: str, pages: Iterable[str]) -> list[str]:
    others = [f"\\fBkdbus\\fR(1){',' if other else ''}" for other in (1,) if name != "kdbus"]
    names = [f"kdbus-{page}" for page in sorted(pages) if f"kdbus-{page}" != name]
    others += [f"\\fB{_plain(each)}\\fR(1)," for each in names]
    others += [] if name == "kdbus-interposer" else ["\\fBkdbus\\-interposer\\fR(7),"]
    others[-1] = others[-1].rstrip(",")
    return [".SH SEE ALSO", *others]


def _list(entries: list[Entry]) -> list[str]:
    lines = []
    for entry in entries:
        lines += [".TP", _term(entry.term), _inline(entry.text)]
        for line in entry.lines:
            word, _, text = line.partition("  ")
            lines += [".br", _inline(f"{word}: {text.strip()}" if text else line)]
    return lines


def _term(term: str) -> str:
    """Option names in bold, what their values are called in italics."""
    words = re.sub(r"(?<![\w-])--?\w[\w-]*|^[a-z-]+$", lambda found: f"\0B{found[0]}\0R", term)
    words = re.sub(r"(?<= )[A-Z]+\b", lambda found: f"\0I{found[0]}\0R", words)
    return _plain(words).replace("\0", "\\f")


def _listing(lines: list[str]) -> list[str]:
    return [".PP", ".RS 4", ".EX", *(_guarded(_plain(line)) for line in lines), ".EE", ".RE"]


def _inline(text: str) -> str:
    """A paragraph: what stands in backquotes in bold."""
    parts = text.split("`")
    marked = "".join(f"\\fB{_plain(part)}\\fR" if place % 2 else _plain(part) for place, part in enumerate(parts))
    # New sentences on new lines, as troff wants them.
    sentences = re.sub(r"(?<=[.:?]) (?=[A-Z\\])", "\n", marked).split("\n")
    wrapped = (line for sentence in sentences for line in wrap(sentence, 78, break_long_words=False))
    return "\n".join(_guarded(line) for line in wrapped)


def _plain(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def _guarded(line: str) -> str:
    """A line that no macro begins."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines if line)
