# SPDX-License-Identifier: GPL-2.0-or-later
"""Manual pages: well-formed, of each command, and with all that the pages of `kdbus help` say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from interposer import help
from share.manual import manual
from share.pages import overview, parsed, subcommands, summaries


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages are."""
    folder = tmp_path_factory.mktemp("manual")
    for path, text in manual().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def words_of(text: str) -> set[str]:
    """What is said, whatever the form."""
    return {word.rstrip(".-") for word in re.findall(r"[\w/$=.-]+", text)}


def test_each_command_has_a_page(pages: Path) -> None:
    assert {path.name for path in pages.rglob("*.?")} == {
        "kdbus.1",
        "kdbus-interposer.7",
        *(f"kdbus-{name}.1" for name in help.PAGES),
    }
    assert summaries().keys() == {*help.PAGES, "help"}


def test_pages_are_well_formed(pages: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("needs mandoc: apt-get install mandoc")
    command = ["mandoc", "-T", "lint", *map(str, sorted(pages.rglob("*.?")))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("name", list(help.PAGES))
def test_nothing_is_lost(pages: Path, name: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("needs mandoc: apt-get install mandoc")
    page = pages / "man" / "man1" / f"kdbus-{name}.1"
    shown = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=1000", str(page)], capture_output=True, check=True)
    text = re.sub(".\b", "", shown.stdout.decode())
    assert words_of(help.PAGES[name]) - words_of(text) <= {"usage", "examples"}


@pytest.mark.parametrize("name", list(help.PAGES))
def test_each_page_has_two_examples(name: str) -> None:
    assert len([line for line in subcommands()[name].examples if "kdbus " in line]) >= 2


def test_examples_have_a_section(pages: Path) -> None:
    for name in help.PAGES:
        assert "\n.SH EXAMPLES\n" in (pages / "man" / "man1" / f"kdbus-{name}.1").read_text()


def test_a_page_is_taken_apart() -> None:
    page = parsed(
        "Do it,\nat once.\n\nusage: kdbus do\n       kdbus do it\n\n  -x, --long NAME\n                 what\n"
        "                   first   one\n  -y             why;\n                 because\n\nText of\ntwo lines.\n\n"
        "  word   its text\n\n  kdbus --all\n\nexamples: kdbus do\n          kdbus do it\n"
    )
    assert (page.title, page.usage) == ("Do it, at once.", ["kdbus do", "kdbus do it"])
    first, second = page.options
    assert (first.options, first.value, first.text, first.lines) == (["-x", "--long"], "NAME", "what", ["first   one"])
    assert (second.options, second.value, second.text) == (["-y"], "", "why; because")
    assert [(word.term, word.text) for word in page.words] == [("word", "its text")]
    assert page.paragraphs == ["Text of two lines.", ["kdbus --all"]]
    assert (page.show, page.examples) == ("", ["kdbus do", "kdbus do it"])


def test_examples_behind_a_sentence() -> None:
    page = parsed("Do it.\n\nSome do. Such as, to see\nwho:\n\n  kdbus do\n\nText.\n\n  a listing\n")
    assert (page.show, page.examples) == ("Such as, to see who:", ["kdbus do"])
    assert page.paragraphs == ["Some do.", "Text.", ["a listing"]]


def test_the_date_is_that_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert all(" 1970-01-02 " in text.split("\n")[1] for text in manual().values())


def test_overview_names_all_commands() -> None:
    usages = " ".join(overview().usage)
    assert all(re.search(rf"\b{name}\b", usages) for name in help.PAGES)
