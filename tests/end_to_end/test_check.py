# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus check` finds what is wrong with real programs: the cases of `tests/programs/checked.c`.

Which rules find something in a case stands above it in the source.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from interposer.checking.findings import RULES
from tests.support.compiling import PROGRAMS, compile_program
from tests.support.users import PROJECT, Outcome, User

_SOURCE = (PROGRAMS / "checked.c").read_text()
CASES = {
    case: [] if rules == "none" else rules.split(", ")
    for rules, case in re.findall(r"^/\* ([a-z, -]+) \*/\nCASE\((\w+)\)", _SOURCE, re.MULTILINE)
}


@pytest.fixture
def program(open_folder: Path) -> Path:
    target = open_folder / "checked"
    return target if target.exists() else compile_program("checked", open_folder)


def check(user: User, *words: str) -> Outcome:
    return user.run(user.kdbus("check", *words))


def report(user: User, folder: Path, *words: str) -> dict[str, Any]:
    check(user, "--json", str(folder / "report"), *words)
    found: dict[str, Any] = json.loads((folder / "report").read_text())
    return found


def test_each_case_has_its_rules() -> None:
    assert sorted(CASES) == sorted(re.findall(r"^CASE\((\w+)\)", _SOURCE, re.MULTILINE))


@pytest.mark.parametrize("case", CASES)
def test_rules(case: str, user: User, program: Path, writable: Path) -> None:
    found = report(user, writable, "--", str(program), case)
    assert [each["rule"] for each in found["findings"] if each["severity"] != "note"] == CASES[case], found
    assert found["status"] == 0


def finding(rule: str, found: dict[str, Any]) -> str:
    (only,) = [each["text"] for each in found["findings"] if each["rule"] == rule]
    assert isinstance(only, str)
    return only


def test_what_is_told(user: User, program: Path, writable: Path) -> None:
    def told(rule: str, case: str) -> str:
        return finding(rule, report(user, writable, "--", str(program), case))

    assert re.fullmatch(r"never freed: (\d+ bytes of RECV at \d+, ){3}2 more", told("slice-leak", "never_frees"))
    assert told("unanswered-request", "forgets_to_reply") == "received and not replied to: cookie 7 of connection 1"
    assert told("unread-messages", "does_not_read") == "never received: 1 message in its queue"
    assert re.fullmatch(r"\d+ messages? lost, as its queue was full", told("lost-messages", "reads_too_late"))
    assert told("name-race", "sends_too_early").startswith("it sent to org.example.Late before anybody owned it; ")
    assert told("padding", "sends_what_was_on_the_stack") == (
        "SEND: what stands behind item 1 of the message is not zero"
    )


def test_notes_tell_what_other_revisions_do(user: User, program: Path, writable: Path) -> None:
    found = report(user, writable, "--", str(program), "well_behaved")
    told = [each["text"] for each in found["findings"] if each["rule"] == "one-revision"]
    assert "KDBUS_CMD_HELLO of 3 has another number in 2, 219, 4, final" in told
    trouble = compile_program("trouble", writable)
    found = report(user, writable, "--", str(trouble), "full_queue")
    assert finding("failed-call", found).startswith("SEND: ENOBUFS (user ")
    bounds = [each["text"] for each in found["findings"] if each["rule"] == "errno-differs"]
    assert bounds == [], bounds


@pytest.mark.parametrize("mode", ["mount", "path"])
def test_what_cannot_be_run(mode: str, user: User, writable: Path) -> None:
    """Whoever was to become the program ends, though ends are watched."""
    (writable / "text").write_text("no program")
    (writable / "text").chmod(0o755)
    for words, part in (
        (["--", "/nowhere/program"], "there is no such program"),
        (["--", str(writable / "text")], "Exec format error"),
        (["--make-bus", "a b", "--", "true"], "a name has letters"),
    ):
        outcome = check(user, "--mode", mode, *words)
        assert outcome.status in (125, 126, 127) and part in outcome.output


AMBIGUOUS = """
import sys
from contextlib import suppress
import kdbus
from kdbus import matches
from kdbus.dialect import DIALECTS

revision = next(each for each in DIALECTS if each.name == sys.argv[1])
bus = kdbus.Bus(kdbus.own_name("two-ways"), revision=revision)
connect = lambda: kdbus.connect(bus.name, revision=revision)
with connect() as connection, connect() as other:
    connection.acquire_name("org.example.Twice")
    with suppress(kdbus.Error):
        connection.acquire_name("org.example.Twice")
    connection.add_match(matches.FromId(matches.ANY))
    connection.signal(b"news", bloom=bytes(64))
    message = connection.receive_nowait()
    if message is not None:
        message.release()
    with suppress(kdbus.Error):
        for _ in range(33):
            connection.send(other.id, b"fills its queue")
    with suppress(kdbus.Error):
        other.receive_nowait(priority=-1)
"""


def test_what_other_revisions_would_have_done_instead(user: User, writable: Path) -> None:
    told, errnos = {}, {}
    for revision in ("3", "final"):
        found = report(user, writable, "--", user.python, "-c", AMBIGUOUS, revision)
        told[revision] = [each["text"] for each in found["findings"] if each["rule"] == "answer-differs"]
        errnos[revision] = [each["text"] for each in found["findings"] if each["rule"] == "errno-differs"]
    assert errnos == {
        "3": ["RECV: ENOMSG in 3 is EAGAIN in 4, final"],
        "final": ["RECV: EAGAIN in final is ENOMSG in 2, 3, 219"],
    }
    assert told == {
        "3": [
            "NAME_ACQUIRE of a name that it has: EALREADY here, success in final",
            "SEND to a full queue (ENOBUFS): messages are counted here, memory is in 4, final",
        ],
        "final": [
            "NAME_ACQUIRE of a name that it has: success here, EALREADY in 2, 3, 219, 4",
            "RECV of a broadcast of its own: here it comes, nothing does in 2, 3, 219, 4",
            "SEND to connection 3, where more than 32 of one sender wait: success here, ENOBUFS in 2, 3, 219",
        ],
    }


def test_who_is_cut_off_is_not_judged(user: User, program: Path, writable: Path) -> None:
    found = report(user, writable, "--", str(program), "leaves_a_child")
    assert finding("not-judged", found).endswith(
        "so whether it would have given back 1 slices and 0 requests is not known"
    )


def test_of_who_was_killed_it_says_what_cannot_be_known(user: User, program: Path, writable: Path) -> None:
    found = report(user, writable, "--", str(program), "killed_with_descriptors")
    assert finding("not-judged", found) == (
        "its process was killed: whether that had closed 2 descriptors that came with messages is not known"
    )


def test_a_recording_is_looked_at_as_what_runs(user: User, program: Path, writable: Path) -> None:
    recording = str(writable / "recording")
    user.run(user.kdbus("record", "-o", recording, "--", str(program), "never_frees", "sends_too_early"))
    outcome = check(user, "--recording", recording)
    assert outcome.status == 1 and "error: slice-leak: " in outcome.output and "warning: name-race: " in outcome.output
    for words, told in ((["--mode", "path"], "'--mode'"), (["--", "/bin/true"], "'/bin/true'")):
        outcome = check(user, "--recording", recording, *words)
        assert outcome.status == 125 and f"--recording with {told}: nothing is run" in outcome.output
    assert check(user, "--recording", "/nowhere/x").status == 125


@pytest.mark.parametrize(
    ("case", "count"), [("keeps_a_descriptor", 1), ("ends_with_a_descriptor", 2), ("keeps_a_memfd", 1)]
)
def test_a_recording_tells_of_descriptors(case: str, count: int, user: User, program: Path, writable: Path) -> None:
    recording = str(writable / "recording")
    user.run(user.kdbus("record", "-o", recording, "--", str(program), case, "closes_descriptors"))
    told = finding("descriptors-left", report(user, writable, "--recording", recording))
    words = r"descriptor (\d+) of process (\d+), which came with cookie (\d+) of connection (\d+)"
    assert re.fullmatch(f"still open: {'; '.join([words] * count)}", told), told
    shown = user.run(user.kdbus("show", "-e", "close", recording)).output
    assert re.search(r"closed \+\+\+" + f"\n    # still open: {words}" * count + "\n", shown), shown
    closes = user.run(user.kdbus("show", "-e", "close", "--json", recording)).output.splitlines()
    left = [each for line in closes for each in json.loads(line).get("left", ())]
    members = [tuple(str(each[name]) for name in ("descriptor", "pid", "cookie", "source")) for each in left]
    assert members == re.findall(words, told) == re.findall(words, shown)


def test_used(user: User, program: Path, writable: Path) -> None:
    used = report(user, writable, "--", str(program), "well_behaved")["used"]
    assert used["commands"] == {"BUS_MAKE": 1, "FREE": 4, "HELLO": 2, "RECV": 2, "SEND": 2}
    assert used["revisions"] == {"3": 11}
    assert used["flags"]["KDBUS_MSG_EXPECT_REPLY"] == 1 and used["items"]["KDBUS_ITEM_PAYLOAD_VEC"] == 2


def test_status(user: User, program: Path) -> None:
    def status(*words: str) -> int:
        return check(user, *words).status

    assert status("--", str(program), "never_frees") == 1
    assert status("--ignore", "slice-leak", "--", str(program), "never_frees") == 0
    assert status("--", str(program), "sends_too_early") == 0
    assert status("--error", "padding,name-race", "--", str(program), "sends_too_early") == 1
    assert status("--", "sh", "-c", "exit 3") == 3
    assert status("--", "sh", "-c", "kill -9 $$") == -9
    assert status("--", str(program), "never_frees", "no_such_case") == 1


def test_text(user: User, program: Path) -> None:
    lines = check(user, "--", str(program), "never_frees").output.splitlines()
    assert lines[0] == "ok 1 - never_frees"
    assert re.match(r"kdbus check: error: slice-leak: checked \(process \d+\), connection 2 of \d+-e2e.\d+: ", lines[2])
    assert lines[-4] == "kdbus check: used: SEND 5, RECV 5, HELLO 2, FREE 2, BUS_MAKE 1; revisions: 3"
    assert lines[-3].startswith("kdbus check: flags: ")
    assert lines[-2].startswith("kdbus check: items: PAYLOAD_VEC 5, ")
    assert lines[-1].startswith("kdbus check: 1 error, 0 warnings, ")


def test_junit(user: User, program: Path, writable: Path) -> None:
    path = writable / "junit.xml"
    check(user, "--junit", str(path), "--ignore", "padding", "--", str(program), "never_frees", "sends_too_early")
    suite = ElementTree.parse(path).getroot()
    cases = {case.get("name"): case for case in suite}
    assert set(cases) == set(RULES) - {"padding"} and suite.get("failures") == "1"
    assert cases["slice-leak"].find("failure") is not None
    said = cases["name-race"].find("system-out")
    assert said is not None and said.text is not None and "org.example.Late" in said.text
    assert not list(cases["unread-messages"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--ignore", "slice-leek"], "there is no rule 'slice-leek'; did you mean slice-leak?"),
        (["--error", "everything"], "there is no rule 'everything'; there are slice-leak, "),
        (["--json", "/nowhere/x"], "writing the report to '/nowhere/x': No such file or directory"),
    ],
)
def test_what_cannot_be_asked_for(words: list[str], part: str, user: User) -> None:
    outcome = check(user, *words, "--", "/bin/true")
    assert outcome.status == 125 and part in outcome.output and len(outcome.output.splitlines()) == 1


def test_each_rule_is_documented_with_an_example() -> None:
    text = (PROJECT / "docs" / "check.md").read_text()
    for rule, (severity, _) in RULES.items():
        told = re.search(rf"^## {rule} \({severity}\)$(.*?)^#", text, re.MULTILINE | re.DOTALL)
        assert told is not None and "\n\n    " in told[1], rule
