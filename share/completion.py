# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion for bash, zsh and fish: subcommands, options, values of options, and the program that is run.

What follows the options of `kdbus run` is a command of its own, and completed as such: that is what the shells' own
functions are for (`_command_offset` of bash-completion, `_normal` of zsh, `__fish_complete_subcommand`).

A script is plain text with everything in it, so that pressing the key starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import shorten

from interposer.watching.filters import KINDS
from share.pages import Page, overview, subcommands, summaries

_FILES = ("PATH", "FILE")
_WORDS = {
    "MODE": ("mount", "path"),
    "R": ("3", "219", "4", "final"),
    "KINDS": KINDS,
    "WHEN": ("auto", "always", "never"),
}
"""What a value may be, by what the pages call it."""
_HEAD = "# SPDX-License-Identifier: GPL-2.0-or-later\n# Made from the pages of `kdbus help`.\n"


def completion() -> dict[str, str]:
    """Each script by its path below share/."""
    pages = subcommands()
    return {
        "bash-completion/completions/kdbus": _bash(pages),
        "zsh/site-functions/_kdbus": _zsh(pages),
        "fish/vendor_completions.d/kdbus.fish": _fish(pages),
    }


def runs_a_program(page: Page) -> bool:
    """Whether a program with its arguments follows the options."""
    return "PROGRAM" in page.usage[0]


def begins_with_a_file(page: Page) -> bool:
    """Whether a file stands in front of the program."""
    return " FILE [--] PROGRAM" in page.usage[0]


def takes_a_file(page: Page) -> bool:
    """Whether a file follows the options."""
    return page.usage[0].endswith(" FILE")


def _values(page: Page) -> Iterator[tuple[str, str]]:
    """Each option of a page that takes a value, and what that is called."""
    for entry in page.options:
        if entry.value:
            yield from ((option, entry.value.partition("=")[0]) for option in entry.options)


def _options(page: Page) -> list[str]:
    return [option for entry in page.options for option in entry.options]


def _bash(pages: dict[str, Page]) -> str:
    lines = [
        *(_HEAD + "_kdbus()\n{").split("\n"),
        "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} options= values=",
        "    local runs= files= first= at",
        "    if ((COMP_CWORD == 1)); then",
        f'        COMPREPLY=($(compgen -W "{" ".join((*summaries(), *_options(overview())))}" -- "$current"))',
        "        return",
        "    fi",
        "    case ${COMP_WORDS[1]} in",
    ]
    for name, page in pages.items():
        takes = " ".join(option for option, _ in _values(page))
        runs = " runs=1" if runs_a_program(page) else " files=1" if takes_a_file(page) else ""
        first = " first=1" if begins_with_a_file(page) else ""
        lines.append(f'    {name}) options="{" ".join(_options(page))}" values="{takes}"{runs}{first} ;;')
    lines += [f'    help) options="{" ".join(pages)}" ;;', "    *) return ;;", "    esac"]
    lines += [
        "    for ((at = 2; at < COMP_CWORD; at++)); do",
        "        case ${COMP_WORDS[at]} in",
        "        --) ((at++)); break ;;",
        '        -*) [[ " $values " == *" ${COMP_WORDS[at]} "* ]] && ((at++)) ;;',
        "        *) break ;;",
        "        esac",
        "    done",
        "    if [[ -n $first ]]; then",
        "        if ((at == COMP_CWORD)) && [[ $current != -* ]]; then",
        '            COMPREPLY=($(compgen -f -- "$current"))',
        "            return",
        "        fi",
        "        if ((at < COMP_CWORD)); then",
        "            ((at++))",
        "            if ((at < COMP_CWORD)) && [[ ${COMP_WORDS[at]} == -- ]]; then ((at++)); fi",
        "        fi",
        "    fi",
        "    if [[ -n $runs ]] && { ((at < COMP_CWORD)) ||",
        "        { ((at == COMP_CWORD)) && [[ $current != -* || ${COMP_WORDS[at - 1]} == -- ]]; }; }; then",
        "        if declare -F _command_offset >/dev/null; then",
        "            _command_offset $at",
        "        elif ((at == COMP_CWORD)); then",
        '            COMPREPLY=($(compgen -c -- "$current"))',
        "        else",
        '            COMPREPLY=($(compgen -f -- "$current"))',
        "        fi",
        "        return",
        "    fi",
        '    if ((at > COMP_CWORD)) && [[ " $values " == *" $previous "* ]]; then',
        "        case ${COMP_WORDS[1]}$previous in",
    ]
    for name, page in pages.items():
        for option, value in _values(page):
            if value in _FILES:
                lines.append(f'        {name}{option}) COMPREPLY=($(compgen -f -- "$current")) ;;')
            elif value == "PID":
                lines.append(f'        {name}{option}) COMPREPLY=($(compgen -W "$(ps -eo pid=)" -- "$current")) ;;')
            elif value in _WORDS:
                words = " ".join(_WORDS[value])
                lines.append(f'        {name}{option}) COMPREPLY=($(compgen -W "{words}" -- "$current")) ;;')
    lines += [
        "        esac",
        "        return",
        "    fi",
        "    if [[ -n $files && $current != -* ]]; then",
        '        COMPREPLY=($(compgen -f -- "$current"))',
        "        return",
        "    fi",
        '    COMPREPLY=($(compgen -W "$options" -- "$current"))',
        "}",
        "complete -o filenames -F _kdbus kdbus",
    ]
    return "\n".join(lines) + "\n"


def _zsh(pages: dict[str, Page]) -> str:
    lines = ["#compdef kdbus", *_HEAD.rstrip("\n").split("\n"), "local -a subcommands"]
    lines += ["subcommands=(", *(f"    {_quoted(f'{name}:{text}')}" for name, text in summaries().items()), ")"]
    lines += ["if (( CURRENT == 2 )); then", "    _describe command subcommands", "    return", "fi"]
    lines += ["local chosen=$words[2]", "shift words", "(( CURRENT-- ))", "case $chosen in"]
    for name, page in pages.items():
        lines.append(f"{name})")
        lines.append("    _arguments -S -s \\" if not runs_a_program(page) else "    _arguments -S -A '-*' \\")
        for entry in page.options:
            value = _zsh_value(entry.value.partition("=")[0]) if entry.value else ""
            for option in entry.options:
                text = _short(entry.text).replace("[", "(").replace("]", ")").replace(":", " ")
                lines.append(f"        {_quoted(f'*{option}[{text}]{value}')} \\")
        rest = "'1:file:_files'" if takes_a_file(page) else "'*: :'"
        last = "'(-)1: :_command_names -e' '*::program:_normal'" if runs_a_program(page) else rest
        if begins_with_a_file(page):
            last = "'(-)1:file:_files' '2: :_command_names -e' '*::program:_normal'"
        lines += [f"        {last}", "    ;;"]
    lines += ["help)", "    _describe command subcommands", "    ;;", "esac"]
    return "\n".join(lines) + "\n"


def _zsh_value(value: str) -> str:
    action = "_files" if value in _FILES else "_pids" if value == "PID" else ""
    return f":{value}:({' '.join(_WORDS[value])})" if value in _WORDS else f":{value}:{action}"


def _fish(pages: dict[str, Page]) -> str:
    lines = [*_HEAD.rstrip("\n").split("\n"), "complete -c kdbus -f"]
    first = "-n __fish_use_subcommand"
    lines += [f"complete -c kdbus {first} -a {name} -d {_quoted(text)}" for name, text in summaries().items()]
    lines += [f"complete -c kdbus {first} {_fish_option(name)}" for name in _options(overview())]
    for name, page in pages.items():
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for entry in page.options:
            value = entry.value.partition("=")[0]
            takes = ""
            if value:
                words = "(__fish_complete_pids)" if value == "PID" else " ".join(_WORDS.get(value, ()))
                takes = " -r -F" if value in _FILES else f" -x -a {_quoted(words)}"
            names = " ".join(_fish_option(option) for option in entry.options)
            lines.append(f"complete -c kdbus {seen} {names}{takes} -d {_quoted(_short(entry.text))}")
        if runs_a_program(page):
            skipped = 3 if begins_with_a_file(page) else 2
            lines.append(f"complete -c kdbus {seen} -x -a '(__fish_complete_subcommand --fcs-skip={skipped})'")
        if takes_a_file(page) or begins_with_a_file(page):
            lines.append(f"complete -c kdbus {seen} -F")
    lines.append(f"complete -c kdbus -n '__fish_seen_subcommand_from help' -a {_quoted(' '.join(pages))}")
    return "\n".join(lines) + "\n"


def _fish_option(option: str) -> str:
    if option.startswith("--"):
        return f"-l {option[2:]}"
    return f"-s {option[1:]}" if len(option) == 2 else f"-o {option[1:]}"


def _short(text: str) -> str:
    """The beginning of what is said of an option, for a line of its own."""
    return shorten(text.partition(";")[0].replace("`", ""), 70, placeholder="...")


def _quoted(text: str) -> str:
    """For all three shells, as nothing is special in single quotes but those (and the backslash, in fish)."""
    return "'" + text.replace("\\", "").replace("'", "'\\''") + "'"
