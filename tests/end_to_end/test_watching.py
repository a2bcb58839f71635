# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus list`, `tree`, `status` and `policy` against real supervisors with real programs on them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from interposer.watching import places, wire
from tests.end_to_end.test_serve import Place, Process, member, somebody, uid
from tests.interposer.test_view import needs_root
from tests.support.compiling import compile_program
from tests.support.users import PROJECT, User, current_user

__all__ = ["member", "somebody"]

SERVICE = "org.example.Member"


@pytest.fixture(scope="session")
def watched(open_folder: Path) -> str:
    return str(compile_program("watched", open_folder, "-O2"))


@pytest.fixture
def place(open_folder: Path, member: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """As that of test_serve, in a folder where every user may have a control socket."""
    folder = open_folder / f"watch-{abs(hash(request.node.name)):x}"
    folder.mkdir()
    folder.chmod(0o777)
    try:
        with ExitStack() as stack:
            yield Place(folder, member, stack)
    finally:
        shutil.rmtree(folder)


def here(place: Place, user: User) -> User:
    """The same user, whose supervisors are found in the folder of this test only."""
    return dataclasses.replace(user, environment={**user.environment, "KDBUS_RUNTIME_DIR": str(place.folder)})


@pytest.fixture
def somewhere(place: Place, user: User) -> User:
    return here(place, user)


def kdbus(user: User, *words: str) -> str:
    """What a `kdbus` command prints, which must work."""
    outcome = user.run(user.kdbus(*words))
    assert outcome.status == 0, outcome.output
    return outcome.output


def refused(user: User, *words: str) -> str:
    """The line that a command which must fail prints."""
    outcome = user.run(user.kdbus(*words))
    assert outcome.status == 125, outcome.output
    assert outcome.output.startswith("kdbus: ") and outcome.output.count("\n") == 1, outcome.output
    return outcome.output.removeprefix("kdbus: ").rstrip("\n")


def check(schema: str, found: dict[str, Any]) -> None:
    """Whether it is as the schema that is installed says."""
    file = PROJECT / "interposer" / "watching" / f"{schema}.schema.json"
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    validator(json.loads(file.read_text())).validate(found)


def facts(user: User, word: str = "list", *words: str) -> dict[str, Any]:
    found = json.loads(kdbus(user, word, "--json", *words))
    assert isinstance(found, dict)
    check("facts", found)
    return found


def rows(text: str) -> list[list[str]]:
    """The fields of a table's lines, without its headings."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()[1:]]


def run(place: Place, user: User, *command: str) -> Process:
    """Start a program that says that it is ready under a `kdbus run` of its own."""
    process = place.start(user, *user.kdbus("run", "--", *command))
    assert process.line() == "ready"
    return process


def child_of(process: Process) -> int:
    """The program of a `kdbus run`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    names = {Path(f"/proc/{child}/comm").read_text().strip(): int(child) for child in children}
    return names["watched"]


def test_served_domain(place: Place, somewhere: User) -> None:
    place.serve(somewhere)
    service = place.service(somewhere, "x", "world")
    bus, own = f"{uid(somewhere)}-x", str(uid(somewhere))
    held = place.join(somewhere, place.member, "hold", bus)
    assert held.line() == "connected"
    table = rows(kdbus(somewhere, "list"))
    names = [["(policy holder)"], [SERVICE], []]
    assert [row[:3] + row[4:8] + row[8:] for row in table] == [
        [bus, str(number), "3", own, "member", "0", "40/16M", *names[number - 1]] for number in (1, 2, 3)
    ]
    assert all(row[3].isdigit() for row in table)
    pids = {int(row[3]) for row in table}
    assert len(pids) == 2 and service.pid not in pids, "the programs, not their launchers"
    tree = kdbus(somewhere, "tree").splitlines()
    assert tree[0].endswith(f"kdbus serve --socket {place.socket}")
    assert tree[1] == f"└─ {bus}  revision 3, uid {own}, mode 0555"
    assert tree[2] == f"   └─ bus  uid {own}, mode 0666"
    assert re.fullmatch(rf"      ├─ 2  member\[\d+\]  {re.escape(SERVICE)}", tree[4])
    assert re.fullmatch(r"      └─ 3  member\[\d+\]", tree[5])
    assert rows(kdbus(somewhere, "policy")) == [[bus, "-", SERVICE, "1", "TALK to everybody"]]
    held.kill(signal.SIGTERM)
    held.end()
    assert [row[1] for row in rows(kdbus(somewhere, "list"))] == ["1", "2"]


def test_one_form_for_all_that_is_printed_as_json(place: Place, somewhere: User) -> None:
    server = place.serve(somewhere)
    place.service(somewhere)
    bus = f"{uid(somewhere)}-x"
    found = facts(somewhere)
    assert found["supervisor"]["pid"] == server.pid
    assert found["supervisor"]["socket"] == place.socket
    assert found["supervisor"]["revisions"] == ["3"]
    assert [each["bus"] for each in found["buses"]] == [bus]
    assert [each["endpoint"] for each in found["endpoints"]] == ["bus"]
    assert [each["id"] for each in found["connections"]] == [1, 2]
    for word in ("tree", "policy"):
        assert facts(somewhere, word).keys() == found.keys()
    assert [each["id"] for each in facts(somewhere, "status", SERVICE)["connections"]] == [2]
    place.service(somewhere, "y")
    assert len(facts(somewhere)["connections"]) == 4
    assert len(facts(somewhere, "list", "--bus", bus)["connections"]) == 2


def test_why_a_client_hangs(place: Place, somewhere: User) -> None:
    """Its peer never replies."""
    place.serve(somewhere)
    place.service(somewhere)
    blocked = place.join(somewhere, place.member, "block", f"{uid(somewhere)}-x")
    assert blocked.line() == "asking"
    while not facts(somewhere, "status", "2")["connections"][0]["owes"]:
        pass
    client = kdbus(somewhere, "status", "3")
    assert re.search(
        r"^  expects     a reply from 2 \(member\) to cookie 1, within \d+ s; it waits inside SEND$", client, re.M
    )
    assert re.search(r"^  owes        a reply to 3 \(member\) to cookie 1, ", kdbus(somewhere, "status", SERVICE), re.M)


def test_whose_messages_fill_a_queue(place: Place, somewhere: User, watched: str) -> None:
    run(place, somewhere, watched, "queue")
    assert rows(kdbus(somewhere, "list"))[0][6] == "4"
    status = kdbus(somewhere, "status", "1")
    assert "  queue       4 messages, 32 of payload: 3 from 2 (watched), 1 from 3 (watched)\n" in status


def test_run_is_found_by_the_program_it_runs(place: Place, somewhere: User, watched: str) -> None:
    first, second = (run(place, somewhere, watched, "many", number) for number in ("1", "2"))
    said = refused(somewhere, "list")
    for process in (first, second):
        assert f"-p {process.pid} (`kdbus run {watched} many" in said, said
        assert facts(somewhere, "list", "-p", str(process.pid))["supervisor"]["pid"] == process.pid
    program = child_of(second)
    found = facts(somewhere, "list", "--pid", str(program))
    assert (found["supervisor"]["pid"], found["supervisor"]["program"]) == (second.pid, program)
    assert {each["pid"] for each in found["connections"]} == {program}


def test_member_of_a_domain_is_found_by_its_number(place: Place, somewhere: User) -> None:
    server = place.serve(somewhere)
    place.service(somewhere)
    (program,) = {each["pid"] for each in facts(somewhere)["connections"]}
    assert program != server.pid
    assert facts(somewhere, "list", "-p", str(program))["supervisor"]["pid"] == server.pid


def test_one_that_is_stopped_is_no_riddle(place: Place, somewhere: User) -> None:
    server = place.serve(somewhere)
    server.kill(signal.SIGSTOP)
    assert f"process {server.pid} does not answer; is it stopped?" in refused(somewhere, "list")
    server.kill(signal.SIGCONT)
    assert facts(somewhere)["supervisor"]["pid"] == server.pid


@needs_root
def test_domains_that_programs_mount(place: Place, watched: str) -> None:
    """Their buses have the domain's number in front."""
    root = here(place, current_user())
    mounting = f"mount -t kdbusfs kdbusfs /sys/fs/kdbus && exec {watched} talk"
    process = run(place, root, "sh", "-c", mounting)
    assert [row[:2] for row in rows(kdbus(root, "list", "--bus", "1:0-watched"))] == [
        ["1:0-watched", str(n)] for n in (1, 2)
    ]
    assert "there are 1:0-watched" in refused(root, "list", "--bus", "0-watched")
    tree = kdbus(root, "tree").splitlines()
    assert tree[1] == "domain 1, mounted by a program" and tree[2].startswith("└─ 1:0-watched")
    monitor = place.start(root, *root.kdbus("monitor", "--kind", "call", "--count", "1"))
    monitor.line()
    process.say("talk")
    assert monitor.line().split()[1] == "1:0-watched"
    assert monitor.end()[0] == 0


def test_native_calls_are_no_secret(place: Place, somewhere: User) -> None:
    """What the engine has is taken back to be looked at, and lent again."""
    server = place.serve(somewhere, options=("--statistics",))
    service = place.join(somewhere, place.member, "serve", "x", "user", "plain")
    assert service.line() == "ready"
    before = facts(somewhere)["domains"][0]["messages"]
    assert place.ask(somewhere, f"{uid(somewhere)}-x", 3000) == (0, ["plain"])
    found = facts(somewhere)
    assert found["domains"][0]["messages"] >= before + 6000
    server.kill(signal.SIGTERM)
    server.end()


def test_terminals_are_not_ordered_about(place: Place, somewhere: User, watched: str) -> None:
    run(place, somewhere, watched, "forger")
    for words in (("list",), ("tree",), ("status", "1"), ("policy",)):
        shown = kdbus(somewhere, *words)
        assert all(each.isprintable() or each == "\n" for each in shown), shown
    assert rows(kdbus(somewhere, "list"))[0][5] == r"\x1b[2J\nBUS" and len(rows(kdbus(somewhere, "list"))) == 1
    assert r"started as  \x1b]0;owned\x07\r\n\xff\u202e" in kdbus(somewhere, "status", "1")
    raw = kdbus(somewhere, "list", "--json")
    assert "\x1b" not in raw and json.loads(raw)["connections"][0]["command"] == "\x1b[2J\nBUS  9"


def test_what_to_do_is_said(place: Place, somewhere: User) -> None:
    assert "start one: `kdbus serve`" in refused(somewhere, "list")
    assert "No such file or directory; start it: kdbus serve --socket" in refused(
        somewhere, "list", "--domain", place.socket
    )
    stranger = place.start(somewhere, "cat")
    assert "no such process; there is none" in refused(somewhere, "tree", "-p", "4194305")
    assert "it is not connected to a kdbus that you may watch" in refused(somewhere, "tree", "-p", str(stranger.pid))
    assert "'x' is no process id" in refused(somewhere, "list", "-p", "x")
    assert "leave one out" in refused(somewhere, "list", "-p", "1", "--domain", "x")
    server = place.serve(somewhere)
    assert f"there are -p {server.pid} (`kdbus serve --socket {place.socket}`)" in refused(
        somewhere, "list", "-p", "4194305"
    )
    assert "nobody has made a bus yet" in refused(somewhere, "list", "--bus", "x")
    assert "nobody is connected" in refused(somewhere, "status", "1")
    place.service(somewhere)
    place.service(somewhere, "y")
    own = uid(somewhere)
    assert f"there are {own}-x, {own}-y" in refused(somewhere, "list", "--bus", "x")
    assert f"there are 1, 2, {SERVICE}" in refused(somewhere, "status", "9")
    assert f"choose one: --bus {own}-x, --bus {own}-y" in refused(somewhere, "status", "1")
    assert "there is no id or name" in refused(somewhere, "status")
    assert "'2' is too many" in refused(somewhere, "status", "1", "2")
    assert kdbus(somewhere, "status", "--bus", f"{own}-y", "1").startswith(f"connection 1 on {own}-y, endpoint bus\n")


@needs_root
def test_only_the_owner_and_root_may_watch(place: Place, ordinary_user: User, somebody: User) -> None:
    own, other, root = (here(place, user) for user in (ordinary_user, somebody, current_user()))
    server = place.serve(own)
    place.service(own)
    for user in (own, root):
        assert facts(user)["supervisor"]["pid"] == server.pid
        assert facts(user, "list", "--domain", place.socket)["supervisor"]["pid"] == server.pid
    owner = f"it is uid {uid(own)}'s; run it as that user, or as root"
    assert owner in refused(other, "list", "--domain", place.socket)
    assert owner in refused(other, "list", "-p", str(server.pid))
    assert "runs none" in refused(other, "list")


@needs_root
def test_the_supervisor_itself_refuses_others(place: Place, ordinary_user: User, somebody: User) -> None:
    """Were it not for the permissions."""
    own, other = (here(place, user) for user in (ordinary_user, somebody))
    server = place.serve(own)
    script = """if True:
        import os, socket, sys
        from interposer.watching import places
        there = places.connect(int(sys.argv[1]))
        os.setgroups([])
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
        there.close()
        with socket.socket(socket.AF_UNIX) as again:
            try:
                again.connect(sys.argv[2])
            except PermissionError:
                print("forbidden")
    """
    root = here(place, current_user())
    path = places.descriptor_of(server.pid)
    outcome = root.run([root.python, "-c", script, str(server.pid), path])
    assert (outcome.status, outcome.output) == (0, "forbidden\n")
    # One who gets there all the same, with a connection that root has made.
    os.chmod(path, 0o666)
    keeper = os.open(path, os.O_PATH)
    connecting = """if True:
        import socket, sys
        there = socket.socket(socket.AF_UNIX)
        there.connect(f"/proc/self/fd/{sys.argv[1]}")
        there.sendall(b'{"watch": 1, "ask": "facts"}\\n')
        print(there.makefile().read())
    """
    try:
        answer = subprocess.run(
            [other.python, "-c", connecting, str(keeper)],
            pass_fds=[keeper],
            user=other.identity,
            group=other.identity,
            extra_groups=[],
            capture_output=True,
            check=True,
        )
    finally:
        os.close(keeper)
    reason = f"uid {uid(other)} may not watch what uid {uid(own)} runs"
    assert json.loads(answer.stdout) == {"record": "error", "reason": reason}


@needs_root
def test_root_watches_runs_of_others(place: Place, ordinary_user: User, watched: str) -> None:
    """Root is not known by its number in the user namespace that such a run is in."""
    process = run(place, here(place, ordinary_user), watched, "many", "1")
    assert facts(here(place, current_user()))["supervisor"]["pid"] == process.pid


def test_nothing_is_left_behind(place: Place, somewhere: User, watched: str) -> None:
    before = os.listdir(place.folder)
    process = run(place, somewhere, watched, "many", "1")
    assert os.listdir(place.folder) == before
    process.kill(signal.SIGTERM)
    process.end()
    server = place.serve(somewhere)
    assert facts(somewhere)["supervisor"]["pid"] == server.pid
    server.kill()
    server.end()
    assert "start one" in refused(somewhere, "list")
    assert set(os.listdir(place.folder)) - set(before) == {os.path.basename(place.socket)}, "what it serves"


def connect(server: Process) -> socket.socket:
    """A connection to a supervisor, as `interposer.watching.places` makes it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(places.descriptor_of(server.pid))
    connection.settimeout(60)
    return connection


def test_bad_watchers_disturb_nobody(place: Place, somewhere: User, watched: str) -> None:
    """Those who ask nonsense, break off, do not read, or are too many."""
    server = place.serve(somewhere)
    bus = f"{uid(somewhere)}-x"
    place.service(somewhere)
    many = place.join(somewhere, watched, "many", "400")
    assert many.line() == "ready"
    with ExitStack() as stack:

        def watcher() -> socket.socket:
            return stack.enter_context(connect(server))

        for nonsense, part in (
            (b"\xff\n", ""),
            (b"[1]\n", ""),
            (b"x" * 9000, ""),
            (b'{"watch": 2, "ask": "facts"}\n', "version 1 is spoken here, not 2"),
            (b'{"watch": 1, "ask": "\\u001b"}\n', "there is no such question"),
            (b"[" * 4000 + b"\n", ""),
        ):
            connection = watcher()
            connection.sendall(nonsense)
            try:
                said = connection.makefile("rb").read()
            except ConnectionResetError:
                said = b""
            assert part in said.decode() and bool(said) == bool(part), said
        broken_off = watcher()
        broken_off.sendall(b'{"watch": 1, "ask": "facts"}\n')
        broken_off.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        broken_off.close()
        deaf = [watcher() for _ in range(8)]
        for connection in deaf:
            connection.sendall(b'{"watch": 1, "ask": "facts"}\n' * 100)
        assert place.ask(somewhere, bus, 200)[0] == 0
        assert len(facts(somewhere)["connections"]) == 402
        while True:
            connection = watcher()
            connection.sendall(b'{"watch": 1, "ask": "supervisor"}\n')
            answer = wire.record_of(connection.makefile("rb").readline())
            if answer["record"] == "error":
                break
        assert "watch already" in answer["reason"]
        assert "watch already" in refused(somewhere, "list", "-p", str(server.pid))
        assert place.ask(somewhere, bus)[0] == 0
    assert server.pid == facts(somewhere)["supervisor"]["pid"]
    server.kill(signal.SIGTERM)
    assert server.end()[0] == 0


def test_messages_are_seen_as_they_pass(place: Place, somewhere: User, watched: str) -> None:
    process = run(place, somewhere, watched, "talk")
    monitor = place.start(somewhere, *somewhere.kdbus("monitor", "--with", "org.example.Watched"))
    assert monitor.line() == f"watching process {process.pid}; what passes is shown until Ctrl-C"
    process.say("talk")
    assert process.line() == "answered"
    bus = f"{uid(somewhere)}-watched"
    when, where, who, *what = re.split(" {2,}", monitor.line())
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6}", when)
    assert (where, who) == (bus, "2 (watched) -> 1 org.example.Watched (watched)")
    assert what == ["call 1, 9 bytes", r'"question\0"']
    _, _, who, took, payload = re.split(" {2,}", monitor.line())
    assert (who, payload) == ("1 org.example.Watched (watched) -> 2 (watched)", r'"answer\0"')
    assert re.fullmatch(r"reply to 1 after [\d.]+ [mu]?s, 7 bytes", took)
    process.kill(signal.SIGTERM)
    assert monitor.end() == (0, "the kdbus has ended\n")


def test_messages_as_json_until_there_are_enough(place: Place, somewhere: User, watched: str) -> None:
    process = run(place, somewhere, watched, "talk")
    options = ["--json", "--count", "2", "--kind", "call,reply", "--bus", f"{uid(somewhere)}-watched"]
    monitor = place.start(somewhere, *somewhere.kdbus("monitor", *options))
    about = json.loads(monitor.line())
    check("messages", about)
    assert about["pid"] == process.pid
    for _ in range(2):
        process.say("talk")
        assert process.line() == "answered"
    status, output = monitor.end()
    assert status == 0
    records = [json.loads(line) for line in output.splitlines()]
    assert [record["kind"] for record in records] == ["call", "reply"]
    for record in records:
        check("messages", record)


def test_watching_leaves_no_trace(place: Place, somewhere: User) -> None:
    """What can be served natively is, while somebody watches and afterwards."""
    place.serve(somewhere, options=("--statistics",))
    service = place.join(somewhere, place.member, "serve", "x", "user", "plain")
    assert service.line() == "ready"
    bus = f"{uid(somewhere)}-x"
    monitor = place.start(somewhere, *somewhere.kdbus("monitor", "--json", "--count", "600", "--kind", "call"))
    monitor.line()
    natively = facts(somewhere)["supervisor"]["calls"]["native"]
    assert place.ask(somewhere, bus, 600) == (0, ["plain"])
    assert [json.loads(monitor.line())["kind"] for _ in range(600)] == ["call"] * 600
    assert monitor.end()[0] == 0
    watched = facts(somewhere)["supervisor"]["calls"]["native"]
    assert place.ask(somewhere, bus, 3000) == (0, ["plain"])
    if somewhere.identity is None:
        assert watched > natively + 500
        assert facts(somewhere)["supervisor"]["calls"]["native"] > watched + 5000


def test_who_does_not_read_messages_disturbs_nobody(place: Place, somewhere: User) -> None:
    server = place.serve(somewhere)
    place.service(somewhere)
    bus = f"{uid(somewhere)}-x"
    with connect(server) as deaf:
        deaf.sendall(b'{"watch": 1, "ask": "messages", "preview": 4096}\n')
        deaf.recv(1)
        assert place.ask(somewhere, bus, 6000)[0] == 0
        stream = deaf.makefile("rb")
        stream.readline()
        records = iter(lambda: json.loads(stream.readline()), None)
        dropped = next(record for record in records if record["record"] == "dropped")
        check("messages", dropped)
    with connect(server) as deaf:
        deaf.sendall(b'{"watch": 1, "ask": "messages", "preview": 4096}\n')
        deaf.recv(1)
        assert place.ask(somewhere, bus, 500)[0] == 0
    assert place.ask(somewhere, bus)[0] == 0
    server.kill(signal.SIGTERM)
    assert server.end() == (0, "")


def test_wrong_words_for_messages(place: Place, somewhere: User) -> None:
    assert "did you mean reply?" in refused(somewhere, "monitor", "--kind", "rely")
    assert "there are call, reply, signal, message, notification" in refused(somewhere, "monitor", "--kind", "zzz")
    assert "'0' is no number of messages" in refused(somewhere, "monitor", "--count", "0")
    place.serve(somewhere)
    place.service(somewhere)
    assert f"there are {uid(somewhere)}-x" in refused(somewhere, "monitor", "--bus", "y")
