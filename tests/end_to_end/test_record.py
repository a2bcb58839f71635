# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus record` keeps what programs say, `kdbus show` shows it as a trace, and other tools read it as well."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiling import compile_program
from tests.support.users import User, current_user, readable_folder

PROGRAMS = {"3": "trouble", "final": "trouble-final"}


@pytest.fixture(scope="module", params=list(PROGRAMS))
def recording(request: pytest.FixtureRequest, open_folder: Path) -> Iterator[Path]:
    """A recording of the case `speaks_dbus`, and of `silent_service` behind it."""
    program = compile_program(PROGRAMS[request.param], open_folder)
    with readable_folder() as folder:
        path = folder / "recording"
        outcome = record(path, str(program), "silent_service", "speaks_dbus")
        assert outcome == ["ok 1 - silent_service", "ok 2 - speaks_dbus", "1..2"]
        yield path


def record(path: Path, *command: str) -> list[str]:
    outcome = current_user().run(current_user().kdbus("record", "-o", str(path), "--", *command))
    assert outcome.status == 0, outcome.output
    return outcome.output.splitlines()


def show(*words: str | Path) -> str:
    """What `kdbus show` prints; it must succeed."""
    outcome = current_user().run(current_user().kdbus("show", *map(str, words)))
    assert outcome.status == 0, outcome.output
    return outcome.output


def test_it_is_shown_as_a_trace(recording: Path) -> None:
    text = show(recording)
    assert text.count("BUS_MAKE(") == 2 and text.count("# no reply came") == 1
    calls = [
        line for line in show("-e", "SEND", "-e", "name=org.example.Bank", recording).splitlines() if "Deposit" in line
    ]
    assert len(calls) == 2
    for call in calls:
        assert (
            'D-Bus {METHOD_CALL, destination="org.example.Bank", path="/org/example/Account",'
            ' interface="org.example.Account", member="Deposit", signature="su", body=["savings", 25]}' in call
        )
    table = show("-c", recording).splitlines()
    # Two requests and two replies, and two of silent_service, of which one waits and counts once.
    assert [line.split()[2] for line in table if line.endswith(" SEND")] == ["6"]
    records = [json.loads(line) for line in show("--json", "-Z", recording).splitlines()]
    assert [each["errno"] for each in records] == ["ETIMEDOUT"]


def timeline(recording: Path, path: Path) -> Any:
    """What `kdbus show --perfetto` writes, read by Perfetto's own schema, which must know all of it."""
    schema = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    show("--perfetto", "-o", path, recording)
    trace = schema.Trace()
    trace.ParseFromString(path.read_bytes())
    assert not list(_unknown(trace))
    return trace


def _unknown(message: Any) -> Iterator[Any]:
    """The fields of a message, and of those within it, that the schema does not have."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    yield from UnknownFieldSet(message)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                yield from _unknown(each)


def test_calls_are_slices_of_their_threads(recording: Path, tmp_path: Path) -> None:
    trace = timeline(recording, tmp_path / "timeline")
    assert {packet.trusted_packet_sequence_id for packet in trace.packet} == {1}
    begin = trace.packet[0].clock_snapshot
    assert {clock.clock_id for clock in begin.clocks} == {1, 6}
    assert abs(begin.clocks[1].timestamp / 1e9 - time.time()) < 600
    tracks = [packet.track_descriptor for packet in trace.packet if packet.HasField("track_descriptor")]
    threads = {track.uuid for track in tracks if track.thread.tid}
    assert threads and len({track.uuid for track in tracks}) == len(tracks)
    for track in tracks:
        assert not track.thread.tid or track.parent_uuid in {each.uuid for each in tracks if each.process.pid}
    events = [(packet.timestamp, packet.track_event) for packet in trace.packet if packet.HasField("track_event")]
    open_slices: dict[int, list[int]] = {}
    for when, event in events:
        assert event.track_uuid in {each.uuid for each in tracks}
        slices = open_slices.setdefault(event.track_uuid, [])
        if event.type == event.TYPE_SLICE_BEGIN:
            assert event.track_uuid in threads and not slices, "calls of a thread follow each other"
            slices.append(when)
        elif event.type == event.TYPE_SLICE_END:
            assert slices.pop() <= when
    assert not any(open_slices.values())
    named = {event.name for _, event in events if event.type == event.TYPE_SLICE_BEGIN}
    assert named >= {"open", "BUS_MAKE", "HELLO", "SEND", "RECV", "NAME_ACQUIRE"}


def test_arrows_lead_from_requests_to_answers(recording: Path, tmp_path: Path) -> None:
    trace = timeline(recording, tmp_path / "timeline")
    arrows: dict[int, list[str]] = {}
    results = set()
    for packet in trace.packet:
        event = packet.track_event
        for number in event.flow_ids:
            arrows.setdefault(number, []).append(event.name)
        for number in event.terminating_flow_ids:
            arrows[number].append(f"{event.name} ends")
        results |= {each.string_value for each in event.debug_annotations if each.name == "result"}
    # The two of silent_service are never answered: the first one is received, the second one waits in vain.
    answered = ["SEND", "RECV", "SEND", "RECV ends"]
    assert sorted(arrows.values()) == [["SEND"], ["SEND", "RECV"], answered, answered]
    assert "ETIMEDOUT" in results


def test_wireshark_reads_the_messages(recording: Path, tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("needs Wireshark: apt-get install tshark")
    path = tmp_path / "capture.pcapng"
    show("--pcapng", "-o", path, recording)
    fields = ("sender", "destination", "path", "interface", "member", "signature", "type.string", "type.uint32")
    names = [word for field in fields for word in ("-e", f"dbus.{field}")]
    found = _tshark(path, "-Y", "dbus", "-T", "fields", *names, "-e", "frame.comment")
    assert len(found) == 2
    for line in found:
        sender, *rest, comment = line.split("\t")
        assert sender.startswith(":1.")
        assert rest[:4] == ["org.example.Bank", "/org/example/Account", "org.example.Account", "Deposit"]
        assert "savings" in rest[5] and "25" in rest[6]
        assert re.fullmatch(r"\d+-trouble/bus: connection \d+ to connection \d+", comment)
    # All messages as they were are on the other interface: two requests and two replies, and two of silent_service.
    assert len(_tshark(path, "-Y", 'frame.interface_name == "kdbus"')) == 6
    assert not _tshark(path, "-Y", "_ws.malformed")


def _tshark(path: Path, *words: str) -> list[str]:
    ended = subprocess.run(["tshark", "-r", str(path), *words], capture_output=True, text=True, check=True, timeout=60)
    return ended.stdout.splitlines()


def test_an_ordinary_user_records(open_folder: Path, ordinary_user: User) -> None:
    program = compile_program("trouble", open_folder)
    with readable_folder() as folder:
        folder.chmod(0o777)
        words = ordinary_user.kdbus("record", "--", str(program), "taken_name")
        assert ordinary_user.run(words, folder=folder).status == 0
        assert "EEXIST" in show("-Z", folder / "kdbus.recording")


def test_a_recording_that_is_cut_off(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(recording.read_bytes()[:-5])
    outcome = current_user().run(current_user().kdbus("show", str(path)))
    assert outcome.status == 125
    *shown, last = outcome.output.splitlines()
    assert shown == show(recording).splitlines()[: len(shown)] and len(shown) > 30
    assert re.fullmatch(r"kdbus: reading the recording '.*cut': it is cut off behind \d+ records", last)


def test_a_recording_whose_supervisor_was_killed(open_folder: Path) -> None:
    """It ends between two records, and is known to be cut off; it can be shown, and judged, up to there."""
    program, user = compile_program("stacks", open_folder), current_user()
    with readable_folder() as folder:
        path = str(folder / "recording")
        process = subprocess.Popen(
            user.kdbus("record", "-o", path, "--", str(program), "wait"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=user.environment,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            process.kill()
            process.communicate(timeout=60)  # whoever writes the recording has that pipe as well
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        shown = user.run(user.kdbus("show", path))
        judged = user.run(user.kdbus("check", "--json", f"{path}.json", "--recording", path))
        report = json.loads(Path(f"{path}.json").read_text())
    said = rf"kdbus: reading the recording '{path}': it is cut off behind \d+ records?"
    for outcome in (shown, judged):
        assert outcome.status == 125 and re.fullmatch(said, outcome.output.splitlines()[-1]), outcome.output
    assert " open(" in shown.output and report["rules"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["show"], "there is no recording"),
        (["show", "/nowhere/file"], "opening the recording '/nowhere/file': No such file or directory"),
        (["show", "/bin/sh"], "reading the recording '/bin/sh': it is no recording of kdbus"),
        (["show", "/tmp"], "Is a directory"),
        (["show", "a", "b"], "'b' is too many"),
        (["show", "--perfetto", "--pcapng", "/bin/sh"], "--perfetto is a form of its own"),
        (["show", "-e", "SEDN", "/bin/sh"], "there is no command 'SEDN'"),
        (["record"], "there is no program"),
        (["record", "-s", "x", "--", "true"], "-s 'x' is no number of bytes"),
        (["record", "-o", "/nowhere/file", "--", "true"], "opening '/nowhere/file' for the trace: No such file"),
    ],
)
def test_what_cannot_be_done(words: list[str], part: str) -> None:
    outcome = current_user().run(current_user().kdbus(*words))
    assert outcome.status == 125 and part in outcome.output
    assert len(outcome.output.splitlines()) == 1


def test_a_reader_that_has_seen_enough(recording: Path) -> None:
    for option in ("--json", "--perfetto", "--pcapng"):
        script = f"{' '.join(current_user().kdbus('show', option, str(recording)))} | head -c 10 | wc -c"
        outcome = current_user().run(["sh", "-c", script])
        assert outcome.status == 0 and outcome.output.strip() == "10", outcome.output


def test_output_that_cannot_be_written(recording: Path) -> None:
    with open(os.devnull) as nothing:
        for words in (["--perfetto", "-o", "/dev/full"], ["--pcapng", "-o", "/nowhere/x"], ["-o", "/dev/full"]):
            command = current_user().kdbus("show", *words, str(recording))
            ended = subprocess.run(command, stdin=nothing, capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode == 125 and len(ended.stderr.splitlines()) == 1, (words, ended)
