# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `kdbus` as its users meet it: words in; exit status, stdout, stderr and signals out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import interposer
from interposer import command_line, help
from tests.support.users import User

PROJECT = Path(__file__).resolve().parents[2]
KDBUS = [sys.executable, "-m", "interposer"]
PATIENCE_S = 60


def kdbus(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KDBUS, *words], capture_output=True, text=True, timeout=PATIENCE_S, cwd=PROJECT, env=environment, check=False
    )


def test_exit_status_is_passed_on(user: User) -> None:
    assert user.run(user.kdbus("run", "--", "sh", "-c", "exit 3"), folder=PROJECT).status == 3
    assert user.run(user.kdbus("run", "true"), folder=PROJECT) == user.run(["true"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_death_by_signal_is_died_again(number: int) -> None:
    ended = kdbus("run", "--", "sh", "-c", f"kill -{number} $$")
    assert (ended.returncode, ended.stdout, ended.stderr) == (-number, "", "")


def test_no_core_is_dumped_twice() -> None:
    program = [*KDBUS, "run", "--", "sh", "-c", "ulimit -c 0; kill -ABRT $$"]
    process = subprocess.Popen(["sh", "-c", 'ulimit -S -c $(ulimit -H -c); exec "$@"', "sh", *program], cwd=PROJECT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)


def test_options_end_at_the_program() -> None:
    assert kdbus("run", "echo", "--help", "--", "-x").stdout == "--help -- -x\n"
    assert kdbus("run", "--", "echo", "--").stdout == "--\n"


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["run", "kdbus-no-such-program"], 127, "kdbus-no-such-program"),
        (["run", "/etc/passwd"], 126, "Permission denied"),
        (["run", "/"], 126, "directory"),
        (["run"], 125, "no program"),
        (["run", "--"], 125, "no program"),
        (["run", "--frobnicate", "true"], 125, "--frobnicate"),
        (["frobnicate"], 125, "no subcommand 'frobnicate'"),
        (["--frobnicate"], 125, "no option '--frobnicate'"),
        ([], 125, "no subcommand"),
        (["include-dir", "extra"], 125, "'extra'"),
        (["doctor", "--xml"], 125, "--xml"),
        (["run", "--lingr", "true"], 125, "did you mean --linger?"),
        (["rum", "true"], 125, "did you mean run?"),
        (["--versoin"], 125, "did you mean --version?"),
        (["help", "serv"], 125, "did you mean serve?"),
        (["help", "run", "serve"], 125, "'serve' is too many"),
        (["status", "NAME", "--domain", "/x"], 125, "'--domain' comes too late; options stand in front"),
        (["show", "/x", "-e", "SEND"], 125, "'-e' comes too late"),
        (["run", "--domain", "/x", "--trace=/nonexistent/x", "true"], 125, "`kdbus trace --domain '/x'` shows"),
        (["serve", "--frobnicate"], 125, "`kdbus serve --help`"),
        (["run", os.fsdecode(b"/\xff")], 127, r"running '/\xff': there is no such program"),
        (["serve", "--socket", "/nonexistent/x"], 125, "there is no folder /nonexistent; make it"),
        (["serve", "--socket", "/etc/passwd/x"], 125, "/etc/passwd is "),
    ],
)
def test_own_failures(words: list[str], status: int, part: str) -> None:
    ended = kdbus(*words)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert part in ended.stderr
    assert ended.stderr.startswith("kdbus: ") and ended.stderr.count("\n") == 1


def test_nested_run_is_in_the_outer_domain() -> None:
    for options, said in (([], ""), (["-v"], "kdbus: an outer `kdbus run` serves")):
        ended = kdbus("run", "--", *KDBUS, "run", *options, "--", "sh", "-c", "exit 7")
        assert ended.returncode == 7
        assert ended.stderr.startswith(said) and bool(ended.stderr) == bool(said)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["help", "help"]])
def test_overview_goes_to_stdout(words: list[str]) -> None:
    ended = kdbus(*words)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, help.OVERVIEW, "")
    assert all(f"\n  {subcommand} " in ended.stdout for subcommand in command_line._SUBCOMMANDS)


@pytest.mark.parametrize("subcommand", list(command_line._SUBCOMMANDS))
def test_each_subcommand_has_a_page_of_its_own(subcommand: str) -> None:
    for words in ([subcommand, "--help"], [subcommand, "-h"], ["help", subcommand]):
        ended = kdbus(*words)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, help.PAGES[subcommand], "")
    options = {*command_line._SUBCOMMANDS[subcommand].options, "-h", "--help"}
    told = {
        word.rstrip(",")
        for line in help.PAGES[subcommand].splitlines()
        if line.startswith("  -")
        for word in line.split()[:2]
        if word.startswith("-")
    }
    assert told == options


def test_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    for words in (["--help"], ["--version"], ["doctor"], ["doctor", "--json"], ["include-dir"]):
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                [*KDBUS, *words], stdout=full, stderr=subprocess.PIPE, text=True, cwd=PROJECT, check=False
            )
        assert ended.returncode == 125
        assert ended.stderr.startswith("kdbus: writing to standard output: No space left on device")
        assert ended.stderr.count("\n") == 1
    limited = 'ulimit -f 0; exec "$@" > "$0"'
    program = ["sh", "-c", limited, str(tmp_path / "file"), *KDBUS, "--help"]
    ended = subprocess.run(program, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert ended.returncode == 125 and "File too large" in ended.stderr and "ulimit -f" in ended.stderr


def test_reader_that_has_seen_enough() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ended = subprocess.run([*KDBUS, "--help"], stdout=pipe, stderr=subprocess.PIPE, cwd=PROJECT, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str) -> None:
    assert kdbus(option).stdout == f"kdbus {interposer.__version__}\n"


def test_include_folder_has_the_header() -> None:
    folder = Path(kdbus("include-dir").stdout.removesuffix("\n"))
    assert (folder / "linux" / "kdbus.h").is_file() and folder.name == "final"
    for revision in ("2", "3", "219", "4"):
        other = Path(kdbus("include-dir", "--revision", revision).stdout.removesuffix("\n"))
        assert (other / "linux" / "kdbus.h").is_file() and other.name == revision
    unknown = kdbus("include-dir", "--revision", "5")
    assert unknown.returncode == 125 and "try 2, 219, 3, 4, final" in unknown.stderr


def test_environment_is_untouched() -> None:
    given = {"PATH": os.environ["PATH"], "LANG": "C", "EMPTY": "", "ODD": "a=b\nc"}
    ended = kdbus("run", "env", "-0", environment=given)
    assert dict(entry.split("=", 1) for entry in ended.stdout.split("\0") if entry) == given
    given["LC_CTYPE"] = "C"
    ended = kdbus("run", "env", "-0", environment=given)
    assert dict(entry.split("=", 1) for entry in ended.stdout.split("\0") if entry) == given


def test_ignored_children_do_not_lose_the_status() -> None:
    program = [*KDBUS, "run", "--", "sh", "-c", "exit 4"]
    process = subprocess.Popen(["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh", *program], cwd=PROJECT)
    assert process.wait(PATIENCE_S) == 4


@pytest.mark.parametrize("trapped_before", [False, True])
def test_signals_are_left_to_the_program(trapped_before: bool) -> None:
    """SIGINT to the whole group does not end kdbus before its program; SIGTERM to kdbus is handed on.

    Once before any call was trapped, and once while the supervisor runs.
    """
    trap = f"{sys.executable} -c 'import os; os.open(\"/dev/null\", os.O_RDWR)'; " if trapped_before else ""
    handlers = "trap 'echo interrupted' INT; trap 'echo terminated; exit 6' TERM; "
    script = f"{handlers}{trap}echo ready; while :; do read x; done"
    process = subprocess.Popen(
        [*KDBUS, "run", "--", "sh", "-c", script],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "terminated\n"
            assert process.wait(PATIENCE_S) == 6
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _modules_after(*command: str, options: Sequence[str] = ()) -> tuple[set[str], set[str]]:
    """What `kdbus run` of `command` has imported at its end, and which of it the garbage collector still looks at."""
    code = (
        "import sys, gc; before = set(sys.modules);"
        "from interposer.command_line import main; status = main(sys.argv[1:]);"
        "print(status, gc.isenabled(), *set(sys.modules) - before);"
        "looked_at = set(map(id, gc.get_objects()));"
        "print(*(name for name, module in sys.modules.items() if id(module) in looked_at))"
    )
    words = [sys.executable, "-c", code, "run", *options, "--", *command]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=PROJECT, check=True)
    first, second = ended.stdout.splitlines()
    status, collects, *imported = first.split()
    assert (status, collects) == ("0", "True")
    return set(imported), set(second.split())


def test_program_that_is_never_trapped_needs_no_supervisor() -> None:
    imported, _ = _modules_after("true")
    assert "interposer.launch.launch" in imported
    # The first two are the supervisor; the others would take a third of all the time until the program starts.
    assert not imported & {"interposer.supervisor.supervisor", "trio", "dataclasses", "inspect", "pathlib"}


_TRAPPED = (sys.executable, "-c", "import os; os.open('/dev/null', os.O_RDWR)")


def test_collector_does_not_look_through_the_supervisor() -> None:
    imported, looked_at = _modules_after(*_TRAPPED, options=["--linger"])
    assert {"interposer.supervisor.supervisor", "broker.domain", "trio"} <= imported
    assert not looked_at & {"interposer.supervisor.supervisor", "broker.domain", "trio"}
    # Nobody traces.
    assert not {name for name in imported if name.partition(".")[0] == "tracing" or name.startswith("kdbus.abi.decode")}
    assert not imported & {"interposer.watching.wire", "interposer.watching.ask", "broker.snapshot", "json"}, "unasked"


def test_bug_is_an_own_failure(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(command_line, "_dispatch", lambda words: words[99])
    assert command_line.main([]) == 125
    assert "IndexError" in capfd.readouterr().err
    assert ["IndexError" in report.read_text() for report in tmp_path.iterdir()] == [True]
