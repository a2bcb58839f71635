# SPDX-License-Identifier: GPL-2.0-or-later
"""`-k`: which functions have made a call, however a program was compiled, and why where that cannot be told.

What is expected is what the program's source says; addresses are checked with addr2line(1).
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interposer.errors import UsageError
from interposer.options import Given
from interposer.trace_options import relayed, session
from tests.support.compiling import compile_program
from tests.support.supervised import Supervised
from tests.support.users import PROJECT, User, readable_folder

pytest.importorskip("elftools", reason="needs pyelftools: pip install pyelftools")

CALLERS = ["ioctl", "innermost", "middle", "outermost", "main"]
COMPILED = {
    "O0": ["-O0"],
    "O1": [],
    "O2": ["-O2"],
    "frame-pointers": ["-O2", "-fno-omit-frame-pointer"],
    "static": ["-static"],
    "no-pie": ["-no-pie", "-fno-pie"],
    "protected": ["-O1", "-fstack-protector-all", "-fcf-protection=full", "-fno-omit-frame-pointer"],
}
FRAME = re.compile(r"^ > (?P<file>[^ (]+)(?:\((?P<function>\w+)\+0x[0-9a-f]+\))? \[(?P<address>0x[0-9a-f]+)\]$")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which every user may write."""
    with readable_folder() as found:
        found.chmod(0o777)
        yield found


def frames(lines: list[str], part: str) -> list[re.Match[str]]:
    """What stands below the line with `part`."""
    (place,) = [number for number, line in enumerate(lines) if part in line]
    found = []
    for line in lines[place + 1 :]:
        match = FRAME.match(line)
        if match is None:
            break
        found.append(match)
    return found


def functions(found: list[re.Match[str]]) -> list[str]:
    return [match["function"] for match in found]


@pytest.mark.parametrize("how", COMPILED)
def test_the_callers_are_named(how: str, folder: Path, user: User) -> None:
    program = compile_program("stacks", folder, *COMPILED[how])
    outcome = user.run(user.kdbus("trace", "-k", "--", str(program)))
    assert outcome.status == 0, outcome.output
    found = frames(outcome.output.splitlines(), "HELLO")
    assert functions(found)[: len(CALLERS)] == CALLERS, outcome.output
    assert all(match["file"] == str(program) for match in found[1 : len(CALLERS)])
    if shutil.which("addr2line") is not None:
        # What the address says is where the call returns to, which need not be in the same line any more.
        addresses = [match["address"] for match in found[1 : len(CALLERS)]]
        told = subprocess.check_output(["addr2line", "-f", "-e", program, *addresses], text=True)
        assert told.splitlines()[::2] == CALLERS[1:]


def test_without_symbols_there_are_addresses(folder: Path, user: User) -> None:
    program = compile_program("stacks", folder, "-s")
    found = frames(user.run(user.kdbus("trace", "-k", "--", str(program))).output.splitlines(), "HELLO")
    assert functions(found)[0] == "ioctl"
    assert [(match["file"], match["function"]) for match in found[1:5]] == [(str(program), None)] * 4


def test_a_program_that_was_removed(folder: Path, user: User) -> None:
    """Its tables cannot be read any more, and the trace says so."""
    program = compile_program("stacks", folder)
    pipe = folder / "pipe"
    removing = f"exec 4>{pipe}; read ready; rm {program}; echo go >&4; cat"
    script = f"mkfifo {pipe}; {program} wait <{pipe} | {{ {removing}; }}"
    lines = user.run(user.kdbus("trace", "-k", "--", "sh", "-c", script)).output.splitlines()
    assert functions(frames(lines, "HELLO")) == ["ioctl"]
    assert any("# the stack cannot be followed further:" in line and "cannot be opened" in line for line in lines)


def test_json_has_it(folder: Path, user: User) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    schema = validator(json.loads((PROJECT / "tracing" / "trace.schema.json").read_text()))
    program = compile_program("stacks", folder)
    path = folder / "trace"
    assert user.run(user.kdbus("trace", "-k", "--json", "-o", str(path), "--", str(program))).status == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        schema.validate(record)
    (call,) = [record for record in records if record["event"] == "call"]
    assert [frame["function"] for frame in call["stack"]][: len(CALLERS)] == CALLERS


def test_a_recording_has_it(folder: Path, user: User) -> None:
    program, path = compile_program("stacks", folder), folder / "recording"
    assert user.run(user.kdbus("record", "-k", "-o", str(path), "--", str(program))).status == 0
    shown = user.run(user.kdbus("show", "-k", str(path))).output
    assert functions(frames(shown.splitlines(), "HELLO"))[: len(CALLERS)] == CALLERS
    assert " > " not in user.run(user.kdbus("show", str(path))).output


def test_calls_that_native_code_would_serve_have_it(folder: Path, user: User) -> None:
    program = compile_program("traffic", folder)
    words = user.kdbus("trace", "-k", "-e", "SEND,RECV", "--", str(program), "final", "1", "200")
    lines = user.run(words).output.splitlines()
    calls = [number for number, line in enumerate(lines) if re.match(r"\[pid +\d+\] (SEND|RECV)\(", line)]
    assert len(calls) > 20, lines[-5:]
    assert all(" > " in lines[number + 1] and "(ioctl+" in lines[number + 1] for number in calls)


def test_a_kdbus_that_runs(folder: Path, user: User) -> None:
    program, path = compile_program("stacks", folder), folder / "trace"
    with Supervised([str(program), "wait"], user=user) as supervised:
        assert supervised.line(30) == "ready"
        tracing = subprocess.Popen(
            user.kdbus("trace", "-k", "-p", str(supervised.pid), "-o", str(path)),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=user.environment,
            **user.becoming,
        )
        try:
            assert tracing.stderr is not None and "tracing the kdbus" in tracing.stderr.readline()
            supervised.tell("go")
            assert supervised.finish(30) == 0
            assert tracing.wait(30) == 0
        finally:
            if tracing.returncode is None:
                tracing.send_signal(signal.SIGKILL)
                tracing.wait()
            assert tracing.stderr is not None
            tracing.stderr.close()
    assert functions(frames(path.read_text().splitlines(), "HELLO"))[: len(CALLERS)] == CALLERS


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tracing.stacks", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "elftools" or name == "tracing.programs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "elftools", None)
    monkeypatch.delitem(sys.modules, "tracing.stacks")
    given = Given({"-k": [""]})
    with pytest.raises(UsageError, match=r"pip install 'kdbus-interposer\[stacks\]'"):
        relayed(session(given), given)
