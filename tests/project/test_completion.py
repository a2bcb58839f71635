# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion, in the shells themselves: what is offered for the last word of a line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from interposer import help
from share.completion import completion

SCRIPTS = completion()
BASH, ZSH, FISH = SCRIPTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scripts are, and two files."""
    found = tmp_path_factory.mktemp("completion")
    for path, text in SCRIPTS.items():
        (found / path).parent.mkdir(parents=True, exist_ok=True)
        (found / path).write_text(text)
    (found / "file-one").touch()
    (found / "file-two").touch()
    return found


def run(shell: str, script: str, folder: Path, *arguments: str) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}: apt-get install {shell}")
    command = [shell, "-c", script, *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    return sorted(set(ended.stdout.split("\n")) - {""})


def bash(folder: Path, *words: str) -> list[str]:
    script = f'source {BASH}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kdbus; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return run("bash", script, folder, "bash", "kdbus", *words)


def fish(folder: Path, line: str) -> list[str]:
    return [found.partition("\t")[0] for found in run("fish", f"source {FISH}; complete -C '{line}'", folder)]


CASES: list[tuple[list[str], list[str]]] = [
    (["mo"], ["monitor"]),
    (["run", "--mo"], ["--mode"]),
    (["run", "--mode", ""], ["mount", "path"]),
    (["monitor", "--kind", "re"], ["reply"]),
    (["monitor", "--failed", "--cou"], ["--count"]),
    (["help", "st"], ["status"]),
    (["serve", "--socket", "file-"], ["file-one", "file-two"]),
    (["list", "--domain", "file-t"], ["file-two"]),
    (["show", "file-t"], ["file-two"]),
]


@pytest.mark.parametrize(("words", "offered"), CASES, ids=" ".join)
def test_bash(folder: Path, words: list[str], offered: list[str]) -> None:
    assert bash(folder, *words) == offered


@pytest.mark.parametrize(("words", "offered"), CASES, ids=" ".join)
def test_fish(folder: Path, words: list[str], offered: list[str]) -> None:
    assert fish(folder, " ".join(["kdbus", *words])) == offered


@pytest.mark.parametrize(
    "start",
    [
        ["run"],
        ["run", "--"],
        ["run", "--domain", "x", "--linger"],
        ["trace", "-o", "x", "--"],
        ["replay", "talk"],
        ["replay", "--timing", "talk", "--"],
    ],
)
def test_bash_completes_the_program(folder: Path, start: list[str]) -> None:
    """By the names of commands, and then by its own completion, or files without bash-completion."""
    assert "true" in bash(folder, *start, "tru")
    assert bash(folder, *start, "ls", "-l", "file-o") == ["file-one"]
    script = (
        f'source {BASH}; _command_offset() {{ echo "offset $1"; }};'
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kdbus; echo "${COMPREPLY[@]}"'
    )
    assert run("bash", script, folder, "bash", "kdbus", *start, "ls", "--co") == [f"offset {1 + len(start)}"]


def test_bash_completes_the_recording(folder: Path) -> None:
    assert bash(folder, "replay", "--timing", "file-o") == ["file-one"]


def test_fish_completes_the_program(folder: Path) -> None:
    assert "true" in fish(folder, "kdbus run tru")


def test_bash_offers_all_there_is(folder: Path) -> None:
    assert bash(folder, "") == sorted([*help.PAGES, "help", "-h", "--help", "-V", "--version"])
    assert "--help" in bash(folder, "doctor", "")
    assert bash(folder, "nonsense", "") == []


def test_zsh_understands_its_script(folder: Path) -> None:
    """Completion itself needs a terminal; that the script is called and ends up in the right branch is seen by what it
    asks zsh's functions for."""
    script = (
        f"functions[_kdbus]=$(<{ZSH}); _arguments() {{ print -rl -- $@ }}; _describe() {{ print -rl -- ${{(P)2}} }};"
        'words=("$@"); CURRENT=$#words; _kdbus'
    )
    commands = run("zsh", script, folder, "zsh", "kdbus", "")
    assert {line.partition(":")[0] for line in commands} == {*help.PAGES, "help"}
    offered = run("zsh", script, folder, "zsh", "kdbus", "monitor", "--k")
    kind = next(line for line in offered if line.startswith("*--kind["))
    assert kind.endswith("]:KINDS:(call reply signal message notification)")
    assert "*::program:_normal" in run("zsh", script, folder, "zsh", "kdbus", "run", "")
