# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus trace` shows what real programs of both revisions ask for, and why it fails.

The lines that are expected are written by hand, from what the program does, with the names of the header.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.compiling import compile_program
from tests.support.supervised import Supervised
from tests.support.users import PROJECT, Outcome, User

PROGRAMS = {"3": "trouble", "final": "trouble-final"}
each_revision = pytest.mark.parametrize("revision", PROGRAMS)


@pytest.fixture(scope="session")
def programs(open_folder: Path) -> dict[str, Path]:
    return {revision: compile_program(name, open_folder) for revision, name in PROGRAMS.items()}


def trace(user: User, program: Path, case: str, *options: str) -> list[str]:
    """The lines of the trace of one case, which must pass."""
    outcome = run(user, [*options, "--", str(program), case])
    assert outcome.status == 0 and f"ok 1 - {case}" in outcome.output, outcome.output
    return outcome.output.splitlines()


def run(user: User, words: list[str], subcommand: str = "trace") -> Outcome:
    return user.run(user.kdbus(subcommand, *words))


def only(lines: list[str], part: str) -> str:
    """The one line that has `part` in it."""
    found = [line for line in lines if part in line]
    assert len(found) == 1, "\n".join(lines)
    return found[0]


@each_revision
def test_which_rule_of_a_match_is_refused(revision: str, programs: dict[str, Path], user: User) -> None:
    line = only(trace(user, programs[revision], "bad_match"), "MATCH_ADD")
    assert re.fullmatch(
        r'\[pid +\d+\] MATCH_ADD\(\d+<\d+-trouble/bus \d+>, \{cookie=3, items=\[NAME "org.example.Sender", BLOOM_MASK'
        r" <56 bytes>\]\}\) = -1 EDOM \(item 2 of 2, BLOOM_MASK: 56 bytes, where the bus has 64\) <\d\.\d{6}>",
        line,
    )


@each_revision
def test_whose_messages_fill_a_queue(revision: str, programs: dict[str, Path], user: User) -> None:
    lines = trace(user, programs[revision], "full_queue", "-Z")
    line = only(lines, "SEND")
    reader, chatter = re.findall(r"dst_id=(\d+)", line)[0], re.findall(r"bus (\d+) org.example.Chatter>", line)[0]
    assert lines[lines.index(line) + 1] == (
        f"    # among those whose messages wait there: connection {chatter} (org.example.Chatter)"
    )
    assert f"of connection {reader}" in line and f" of connection {chatter})" in line
    if revision == "3":
        assert (
            f"-1 ENOBUFS (user {uid(user)} has 16 of 16 messages in the queue of connection {reader}, beside"
            " the first 16, which count for nobody (waiting there: " in line
        )
        assert f"there: 32 of connection {chatter}))" in line
    else:
        assert f"-1 ENOBUFS (user {uid(user)} has 256 of 256 messages in the queue of connection {reader} " in line


def uid(user: User) -> int:
    return os.geteuid() if user.identity is None else user.identity


@each_revision
def test_who_owns_a_name(revision: str, programs: dict[str, Path], user: User) -> None:
    lines = trace(user, programs[revision], "taken_name", "-e", "command=NAME_ACQUIRE", "-e", "name=org.example.Taken")
    first, second = (line for line in lines if "NAME_ACQUIRE" in line)
    owner = re.findall(r"trouble/bus (\d+) org.example.Taken>", first)[0]
    assert " = 0 <" in first
    assert f"-1 EEXIST (org.example.Taken is owned by connection {owner}, which does not allow replacement)" in second


@each_revision
def test_who_does_not_reply(revision: str, programs: dict[str, Path], user: User) -> None:
    lines = trace(user, programs[revision], "silent_service")
    unfinished = only(lines, "<unfinished ...>")
    assert (
        "flags=KDBUS_SEND_SYNC_REPLY, msg={flags=KDBUS_MSG_EXPECT_REPLY, payload_type=KDBUS_PAYLOAD_DBUS" in unfinished
    )
    assert "cookie=8" in unfinished and 'DST_NAME "org.example.Silent"' in unfinished and '5 "hello"' in unfinished
    service = re.findall(r"trouble/bus (\d+) org.example.Silent>", "\n".join(lines))[0]
    assert f"# waits until connection {service} (org.example.Silent) replies to cookie 8" in "\n".join(lines)
    resumed = only(lines, "<... SEND resumed>")
    assert f"-1 ETIMEDOUT (connection {service} has not replied to cookie 8 in time)" in resumed
    assert only(lines, "no reply came").endswith(
        f"# no reply came from connection {service} (org.example.Silent) to cookie 7: it has received the request, and"
        " not replied"
    )
    assert only(lines, "never received").endswith("# never received: 1 message in its queue") or revision == "3"


@each_revision
def test_who_is_killed_in_a_call(revision: str, programs: dict[str, Path], user: User) -> None:
    """The call is over first, and what came of it is told once."""
    lines = trace(user, programs[revision], "killed_in_call")
    resumed = only(lines, "<... SEND resumed>")
    client = re.findall(r"trouble/bus (\d+)>", resumed)[0]
    assert " = ? ERESTARTSYS (" in resumed
    place = lines.index(resumed)
    assert only(lines, "no reply came") == lines[place + 1]
    assert lines[place + 2].endswith(f"-trouble/bus {client}> closed +++")


@each_revision
def test_who_ends_without_replying(revision: str, programs: dict[str, Path], user: User) -> None:
    lines = trace(user, programs[revision], "lazy_service")
    client = re.findall(r"SEND\(\d+<\d+-trouble/bus (\d+)>", "\n".join(lines))[0]
    closed = lines.index(only(lines, "org.example.Lazy> closed +++"))
    assert lines[closed + 1 : closed + 3] == [
        "    # never received: 1 message in its queue",
        f"    # did not reply to cookie 9 of connection {client}: it never received the request",
    ]


@each_revision
def test_no_program_forges_lines(revision: str, programs: dict[str, Path], user: User) -> None:
    lines = trace(user, programs[revision], "forger", "-e", "command=SEND")
    line = only(lines, "SEND")
    assert r"\n[pid     1] SEND(3) = 0\n\33[31m" in line and r'DST_NAME "no\nname"' in line
    assert "\x1b" not in line
    assert r'EINVAL (item 1 of 2, DST_NAME: "no\nname" breaks the rules for names)' in line


@pytest.fixture(scope="session")
def mounting(open_folder: Path) -> Path:
    return compile_program("mounts", open_folder)


def test_mounts_are_events(mounting: Path, user: User) -> None:
    lines = trace(user, mounting, "umount_ends_the_domain", "-e", "mount,umount")
    assert [re.sub(r"^\[pid +\d+\] | <[0-9.]+>$", "", line) for line in lines[:-2]] == [
        'mount("/tmp/bus", "kdbusfs") = 0',
        'umount("/tmp/bus") = 0',
    ]


def test_why_a_mount_fails(mounting: Path, user: User) -> None:
    lines = trace(user, mounting, "errors_are_those_of_mount", "-Z")
    assert " = -1 ENOENT (No such file or directory) <" in only(lines, 'mount("/tmp/absent", "kdbusfs")')
    unreadable = 'mount("", "kdbusfs") = -1 EFAULT (read a string of at most 4096 bytes at 0x1 of'
    assert only(lines, unreadable).endswith(">")


@each_revision
def test_json_follows_its_schema(revision: str, programs: dict[str, Path], user: User, open_folder: Path) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    schema = validator(json.loads((PROJECT / "tracing" / "trace.schema.json").read_text()))
    records: list[dict[str, Any]] = []
    for case in ("silent_service", "full_queue", "bad_match", "taken_name", "forger"):
        for line in trace(user, programs[revision], case, "--json"):
            if line.startswith("{"):
                records.append(json.loads(line))
                schema.validate(records[-1])
    assert {record["event"] for record in records} == {"call", "open", "map", "close"}
    full = next(record for record in records if record.get("errno") == "ENOBUFS")
    assert full["command"] == "SEND" and full["error"] == "QueueFull" and full["revision"] == revision
    assert full["payload"] == {"size": 5, "hex": b"hello".hex()}
    assert full["message"]["dst_id"] == full["peer"]
    assert [record["sequence"] for record in records if record["sequence"] == 1] == [1] * 5


def test_summary(programs: dict[str, Path], user: User) -> None:
    lines = trace(user, programs["3"], "full_queue", "-c")
    row = only(lines, " SEND").split()
    assert row[2:4] == ["33", "1"] and row[-1] == "SEND"
    assert not any("SEND(" in line for line in lines)
    assert any("SEND(" in line for line in trace(user, programs["3"], "full_queue", "-C"))


def test_a_file_has_the_trace_and_the_program_its_own_output(
    programs: dict[str, Path], user: User, writable: Path
) -> None:
    path = writable / "trace"
    lines = trace(user, programs["final"], "taken_name", "-o", str(path), "-ttt")
    assert lines == ["ok 1 - taken_name", "1..1"]
    for line in path.read_text().splitlines():
        assert re.match(r"(\d+ )?\d+\.\d{6} ", line), line


def test_one_file_for_each_process(programs: dict[str, Path], user: User, writable: Path) -> None:
    script = f"{programs['3']} taken_name; {programs['final']} full_queue"
    outcome = run(user, ["-ff", "-o", str(writable / "trace"), "--", "sh", "-c", script])
    assert outcome.status == 0 and outcome.output.count("ok 1 - ") == 2
    found = {path.name: path.read_text() for path in writable.iterdir()}
    assert len(found) == 2
    for name, text in found.items():
        process = name.removeprefix("trace.")
        lines = [line for line in text.splitlines() if not line.startswith(("+++ ", "    # "))]
        assert all(line.startswith(f"{process} ") for line in lines)
        assert text.count("closed +++") == 3
    assert sorted("ENOBUFS" in text for text in found.values()) == [False, True]


def test_run_explains_what_fails(programs: dict[str, Path], user: User) -> None:
    outcome = run(user, ["--explain", "--", str(programs["final"]), "taken_name"], "run")
    (line,) = [line for line in outcome.output.splitlines() if "org.example.Taken" in line]
    assert "NAME_ACQUIRE" in line and "EEXIST" in line
    assert "HELLO" not in outcome.output


def test_run_traces_into_a_file(programs: dict[str, Path], user: User, writable: Path) -> None:
    path = writable / "trace"
    outcome = run(user, [f"--trace={path}", "--", str(programs["final"]), "taken_name"], "run")
    assert outcome.output.splitlines() == ["ok 1 - taken_name", "1..1"]
    assert path.read_text().count("NAME_ACQUIRE(") == 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-e", "command=SEDN"], "there is no command 'SEDN'; there are BUS_MAKE, "),
        (["-e", "errno=ENOBUF"], "there is no errno 'ENOBUF'; is it ENOBUFS?"),
        (["-e", "nmae=org.example"], "there is no key 'nmae'; there are command, errno, connection, name, direction"),
        (["-e", "connection=x"], "'x' is no connection id; they are numbers"),
        (["-s", "many"], "-s 'many' is no number of bytes up to 1048576"),
        (["-o", "/nowhere/file"], "opening '/nowhere/file' for the trace: No such file or directory"),
        (["--color", "pink"], "there are auto, always and never"),
        (["-c", "--json"], "-c prints nothing but a table"),
        (["-ff"], "-ff is for one file per process"),
    ],
)
def test_what_cannot_be_asked_for(words: list[str], part: str, user: User) -> None:
    outcome = run(user, [*words, "--", "/bin/true"])
    assert outcome.status == 125 and part in outcome.output
    assert len(outcome.output.splitlines()) == 1


def test_a_full_disk_ends_the_trace_and_not_the_program(programs: dict[str, Path], user: User) -> None:
    outcome = run(user, ["-o", "/dev/full", "--", str(programs["3"]), "taken_name"])
    assert outcome.status == 0 and "ok 1 - taken_name" in outcome.output
    assert only(outcome.output.splitlines(), "kdbus: ") == (
        "kdbus: writing the trace to '/dev/full': No space left on device; it ends here, and the program goes on"
    )


def test_a_reader_that_has_seen_enough(programs: dict[str, Path], user: User) -> None:
    script = f"{' '.join(user.kdbus('trace', '--', str(programs['3']), 'full_queue'))} 2>&1 >/dev/null | head -n 1"
    outcome = user.run(["sh", "-c", script])
    assert len(outcome.output.splitlines()) == 1 and "control" in outcome.output


def test_a_reader_that_does_not_read(programs: dict[str, Path], user: User) -> None:
    """Its pipe stays full, and the program gets on."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        user.kdbus("trace", "-s", "100000", "--json", "--", str(programs["3"]), "full_queue"),
        stdout=subprocess.DEVNULL,
        stderr=writing,
        cwd="/",
        env=user.environment,
        start_new_session=True,
        **user.becoming,
    )
    os.close(writing)
    try:
        assert process.wait(60) == 0
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(reading)


def test_a_signal_to_all_of_a_group(writable: Path, user: User) -> None:
    """`timeout kdbus trace -o FILE -- PROGRAM`: what the program was doing, and how it ended, is in the file."""
    program, path = compile_program("stacks", writable), writable / "trace"
    process = subprocess.Popen(
        user.kdbus("trace", "-o", str(path), "--", str(program), "wait"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        env=user.environment,
        start_new_session=True,
        **user.becoming,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
    lines = path.read_text().splitlines()
    assert ['open("control")' in line for line in lines] == [True, False] and lines[1] == "+++ <control> closed +++"


@each_revision
def test_a_kdbus_that_runs_is_joined(revision: str, programs: dict[str, Path], user: User, writable: Path) -> None:
    program = programs[revision]
    script = f"{program} bad_match; read go; {program} taken_name; read go; {program} silent_service"
    with Supervised(["sh", "-c", script], user=user) as supervised:
        assert supervised.line(30) == "ok 1 - bad_match"  # the supervisor is there
        supervised.line(30)
        path = writable / "trace"
        tracing = _start(user, "trace", "-p", str(supervised.pid), "-o", str(path))
        try:
            assert _line_of(tracing.stderr) == f"kdbus: tracing the kdbus of process {supervised.pid} until Ctrl-C\n"
            supervised.tell("go")
            assert supervised.line(30) == "ok 1 - taken_name"
            supervised.line(30)
            _wait_for(path, "+++ <control> closed +++")
            tracing.send_signal(signal.SIGINT)
            assert tracing.wait(30) == -signal.SIGINT
            supervised.tell("go")
            assert supervised.line(30) == "ok 1 - silent_service"
            supervised.line(30)
            assert supervised.finish(30) == 0
            assert not supervised.unexpected()
        finally:
            _end(tracing)
    lines = path.read_text().splitlines()
    assert "is owned by connection" in only(lines, "EEXIST")
    assert not any("org.example.Silent" in line for line in lines)


def test_a_joined_trace_ends_with_its_kdbus(programs: dict[str, Path], user: User) -> None:
    script = f"{programs['final']} bad_match; read go; {programs['final']} taken_name"
    with Supervised(["sh", "-c", script], user=user) as supervised:
        assert supervised.line(30) == "ok 1 - bad_match"
        supervised.line(30)
        tracing = _start(user, "trace", "--pid", str(supervised.pid), "-c")
        try:
            _line_of(tracing.stderr)
            supervised.tell("go")
            assert supervised.line(30) == "ok 1 - taken_name"
            assert tracing.stderr is not None
            table = tracing.stderr.read().splitlines()
            assert tracing.wait(30) == 0
            assert [line.split()[2:4] for line in table if line.endswith("NAME_ACQUIRE")] == [["2", "1"]]
        finally:
            _end(tracing)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-p", "1", "--", "true"], "'true' cannot be run in a kdbus that runs"),
        (["-p", "1", "--linger"], "--linger is for a program that is run"),
        (["-p", "x"], "-p 'x' is no process id"),
        (["--domain", "/nowhere/socket"], "/nowhere/socket"),
    ],
)
def test_what_cannot_be_joined(words: list[str], part: str, user: User) -> None:
    outcome = run(user, words)
    assert outcome.status == 125 and part in outcome.output


def _start(user: User, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        user.kdbus(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=user.environment,
        **user.becoming,
    )


def _line_of(pipe: IO[str] | None) -> str:
    assert pipe is not None
    return pipe.readline()


def _wait_for(path: Path, text: str) -> None:
    """Until `text` stands in the file, which another process writes."""
    stop = time.monotonic() + 30
    while text not in path.read_text():
        assert time.monotonic() < stop, path.read_text()
        os.sched_yield()


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    assert process.stderr is not None
    process.stderr.close()
