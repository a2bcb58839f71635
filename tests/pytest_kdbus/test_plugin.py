# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin, as its users see it: test files that use it, run by a pytest of their own.

The examples of the documents and the sample project are among them. The plugin is named to pytest, not found by its
entry point, which only an installed package has (`tests/project/test_installation.py`).
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.users import PROJECT, User, readable_folder

SAMPLE = PROJECT / "samples" / "pytest"
DBUS_CLIENT = """
import sys
import kdbus
from kdbus.dbus.message import method_call
from kdbus.dbus.blocking import connect
with connect(sys.argv[1], version=1 if "classic" in sys.argv else 2) as bus:
    reply = bus.call(method_call("org.example.X", "/", "org.example.X", sys.argv[2]))
    print(reply.body)
"""


@dataclass
class Suite:
    """A folder with tests, and who runs them."""

    user: User
    folder: Path

    def run(self, *options: str, **files: str) -> str:
        """What pytest says of the folder, with these files in it; `name` is `name.py`."""
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)
        command = [self.user.python, "-m", "pytest", "-p", "pytest_kdbus.plugin", "-p", "no:cacheprovider", "-rs"]
        own = ["--rootdir", str(self.folder), "--kdbus-command", str(self.folder / "kdbus")]
        return self.user.run([*command, *own, *options], folder=self.folder, seconds=120).output


@pytest.fixture
def suite(user: User) -> Iterator[Suite]:
    with readable_folder() as folder:
        environment = {**user.environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        alone = replace(user, environment=environment)
        command = folder / "kdbus"
        command.write_text(f'#!/bin/sh\nexec {user.python} -m interposer "$@"\n')
        command.chmod(0o755)
        if user.run([user.python, "-c", "import pytest, xdist"]).status != 0:
            environment["PYTHONPATH"] += os.pathsep + str(lent(folder / "lent"))
        yield Suite(alone, folder)


def lent(folder: Path) -> Path:
    """A copy of pytest for a user who cannot read that of this environment."""
    folder.mkdir()
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "pytest-xdist", "execnet"):
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
    return folder


def greeter(folder: Path) -> None:
    """The program of the sample project, compiled."""
    if shutil.which("gcc") is None:
        pytest.skip("needs a compiler: apt-get install gcc")
    include = PROJECT / "interposer" / "include" / "final"
    flags = "-std=gnu11 -Wall -Wextra -Werror"
    assert os.system(f"gcc {flags} -I{include} {SAMPLE}/greeter.c -o {folder}/greeter") == 0


def test_sample_project(suite: Suite) -> None:
    """It needs nothing of this repository, so that it can be copied to where another one begins."""
    shutil.copytree(SAMPLE, suite.folder, dirs_exist_ok=True)
    base = suite.folder / "base"
    base.mkdir(mode=0o777)
    base.chmod(0o777)
    said = suite.run("--basetemp", str(base / "tests"))
    assert "4 passed" in said, said


@pytest.mark.parametrize("document", ["README.md", "docs/pytest.md"])
def test_examples_of_documents(document: str, suite: Suite) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", (PROJECT / document).read_text(), re.MULTILINE | re.DOTALL)
    tests = [example for example in examples if "def test_" in example]
    greeter(suite.folder)
    said = suite.run(test_examples="\n".join(tests))
    count = sum(example.count("def test_") for example in tests)
    assert count > 1 and re.search(rf"\b{count} passed", said) and "failed" not in said, said


def test_report_of_a_failed_test_has_the_trace(suite: Suite) -> None:
    said = suite.run(test_it="def test_it(kdbus):\n    kdbus.fake('org.example.X', b'')\n    assert False\n")
    assert "- kdbus trace -" in said and "NAME_ACQUIRE" in said and 'NAME "org.example.X"' in said, said


def test_skips_with_the_reason_of_doctor(suite: Suite) -> None:
    command = suite.folder / "kdbus"
    command.write_text("""#!/bin/sh\necho '{"ok": false, "reason": "the moon is full"}'\nexit 1\n""")
    said = suite.run(test_it="def test_it(kdbus):\n    kdbus.run(['true'])\n")
    assert "1 skipped" in said and "no kdbus here: the moon is full" in said, said


def test_programs(suite: Suite) -> None:
    said = suite.run(
        test_it="""
import pytest
from pytest_kdbus.domain import Failure

def test_output(kdbus):
    ended = kdbus.run(["sh", "-c", "echo $WORD; echo oops >&2; exit 3"], environment={"WORD": "hello"})
    assert (ended.status, ended.output, ended.errors) == (3, "hello\\n", "oops\\n")

def test_what_does_not_end(kdbus):
    with pytest.raises(Failure, match="sleep 1000 had not ended after 0.1 s"):
        kdbus.run(["sleep", "1000"], seconds=0.1)

def test_signals(kdbus):
    assert kdbus.start(["sleep", "1000"]).stop().status == -15

def test_what_is_not_there(kdbus):
    with pytest.raises(Failure, match="No such file"):
        kdbus.run(["/nowhere/program"])

def test_nobody_has_the_name(kdbus):
    import kdbus as library
    with pytest.raises(library.TimedOut, match="org.example.X.*nobody has acquired the name in time"):
        kdbus.wait_for_name("org.example.X", seconds=0.1)
    with pytest.raises(library.NotFound):
        kdbus.call("org.example.X", b"")

def test_who_has_ended_is_noted(kdbus):
    import kdbus as library
    expected = kdbus.start(["sh", "-c", "exit 4"])
    expected.wait()
    program = kdbus.start(["sh", "-c", "echo cannot >&2; exit 3"])
    kdbus.ended(program.process).result(30)
    with pytest.raises(library.TimedOut) as raised:
        kdbus.wait_for_name("org.example.X", seconds=0.1)
    assert raised.value.__notes__ == ["sh -c echo cannot >&2; exit 3 has ended, status 3: cannot"]
    with pytest.raises(Failure) as raised:
        kdbus.wait_for_call("SEND", seconds=0.1)
    assert len(raised.value.__notes__) == 1

def test_what_does_not_exist_cannot_be_found(kdbus):
    kdbus.run(["true"])
    for ask, told in (
        (lambda: kdbus.calls("SENT"), "no command 'SENT'; did you mean SEND"),
        (lambda: kdbus.calls(errno="ENOBUF"), "did you mean ENOBUFS"),
        (lambda: kdbus.wait_for_call("SENT"), "no command 'SENT'"),
        (lambda: kdbus.findings("slice-leek"), "did you mean slice-leak"),
    ):
        with pytest.raises(Failure, match=told):
            ask()

def test_what_is_of_the_wrong_type(kdbus):
    for attempt, told in (
        (lambda: kdbus.start("true"), "'true' is no list of words"),
        (lambda: kdbus.start([]), "is no list of words"),
        (lambda: kdbus.call("org.example.X", "text"), "'text' is not bytes"),
        (lambda: kdbus.send("org.example.X", "text"), "'text' is not bytes"),
        (lambda: kdbus.broadcast("text"), "'text' is not bytes"),
        (lambda: kdbus.fake("org.example.X", 5), "are 5: give bytes, a function, or a dictionary"),
    ):
        with pytest.raises(TypeError, match=told):
            attempt()
    assert kdbus.run([b"true"]).status == 0

@pytest.mark.kdbus(bus="a b")
def test_a_bus_that_cannot_be(kdbus):
    with pytest.raises(Failure, match="making the bus '[0-9]+-a b': a name has"):
        kdbus.run(["true"])

def test_faults_come_first(kdbus):
    kdbus.run(["true"])
    with pytest.raises(Failure, match="before the first"):
        kdbus.inject("RECV:die")

def test_faults_that_are_none(kdbus):
    kdbus.inject("RECV:dies")
    with pytest.raises(Failure, match="did you mean die"):
        kdbus.run(["true"])
"""
    )
    assert "11 passed" in said, said


def test_nothing_is_left_running(suite: Suite) -> None:
    """Not even what has become a daemon."""
    pid = suite.folder / "pid"
    pid.touch()
    pid.chmod(0o666)
    script = f"setsid sh -c 'echo $$ > {pid}; exec sleep 1000' & while ! test -s {pid}; do :; done"
    said = suite.run(test_it=f"def test_it(kdbus):\n    kdbus.run(['sh', '-c', {script!r}])\n")
    assert "1 passed" in said, said
    assert not Path("/proc", pid.read_text().strip()).exists()


def test_fakes_that_speak_dbus(suite: Suite) -> None:
    said = suite.run(
        client=DBUS_CLIENT,
        test_it="""
import sys

def ask(kdbus, member, *more):
    return kdbus.run([sys.executable, "client.py", kdbus.bus, member, *more])

def test_it(kdbus):
    fake = kdbus.fake("org.example.X", {"Name": "X", "Numbers": lambda: ("au", [1, 2]), "Nothing": None})
    assert ask(kdbus, "Name").output == "('X',)\\n"
    assert ask(kdbus, "Numbers").output == "([1, 2],)\\n"
    assert ask(kdbus, "Nothing").output == "()\\n"
    assert ask(kdbus, "Other").output == "('this fake has no method Other',)\\n"
    assert ask(kdbus, "Numbers", "classic").output == "([1, 2],)\\n"
    assert [request.member for request in fake.requests] == ["Name", "Numbers", "Nothing", "Other", "Numbers"]
    assert [request.version for request in fake.requests] == [2, 2, 2, 2, 1]
    ended = ask(kdbus, "Name")
    assert [call.command for call in ended.calls("SEND")] == ["SEND"]
    assert list(ended.calls("SEND")[0].names.values()) == [["org.example.X"]]
""",
    )
    assert "1 passed" in said, said


def test_leaks_are_found(suite: Suite) -> None:
    said = suite.run(
        client="""
import sys, kdbus
with kdbus.connect(sys.argv[1]) as connection:
    connection.acquire_name("org.example.Leaky")
    received = connection.receive()  # and never released
    kept = received.views
    connection.receive()
""",
        test_it="""
import sys

def test_it(kdbus):
    assert kdbus.findings() == []
    leaky = kdbus.start([sys.executable, "client.py", kdbus.bus])
    kdbus.wait_for_name("org.example.Leaky")
    kdbus.send("org.example.Leaky", b"hello")
    assert kdbus.findings("slice-leak") == []
    leaky.stop()
    (found,) = kdbus.findings("slice-leak", "lost-messages")
    assert found.severity == "error" and "of RECV" in found.text
    assert not [each for each in kdbus.findings() if "kdbus-peer" in each.where]
""",
    )
    assert "1 passed" in said, said


def test_descriptors_that_are_left_open_are_found(suite: Suite) -> None:
    said = suite.run(
        client="""
import sys, kdbus
with kdbus.connect(sys.argv[1]) as connection:
    connection.acquire_name("org.example.Keeper")
    kept = []
    for _ in range(2):
        with connection.receive() as message:
            kept.append(message.descriptors[0].take())
""",
        test_it="""
import sys, re

def test_it(kdbus):
    keeper = kdbus.start([sys.executable, "client.py", kdbus.bus])
    kdbus.wait_for_name("org.example.Keeper")
    with open(__file__) as file:
        for _ in range(2):
            kdbus.send("org.example.Keeper", b"take it", descriptors=[file])
    keeper.wait()
    (found,) = kdbus.findings("descriptors-left")
    assert found.severity == "warning" and f"(process {keeper.process})" in found.where
    assert len(re.findall(f"descriptor [0-9]+ of process {keeper.process}, which came with cookie", found.text)) == 2
""",
    )
    assert "1 passed" in said, said


def test_a_fake_that_fails_makes_the_test_fail(suite: Suite) -> None:
    said = suite.run(
        test_it="""
import kdbus as library, pytest

def handler(payload):
    raise RuntimeError("the handler is broken")

def test_it(kdbus):
    kdbus.fake("org.example.X", handler)
    with pytest.raises(library.TimedOut):
        kdbus.call("org.example.X", b"", seconds=0.2)
"""
    )
    assert "RuntimeError: the handler is broken" in said and "1 error" in said, said


def test_marker(suite: Suite) -> None:
    said = suite.run(
        test_it="""
import pytest

@pytest.mark.kdbus(bus="other", mode="path", revision="3")
def test_it(kdbus):
    assert kdbus.bus.endswith("-other")
    kdbus.fake("org.example.X", b"yes")
    assert kdbus.call("org.example.X", b"") == b"yes"
    assert "no command of this revision" in kdbus.trace()  # that was the library, which asks for the final one first
"""
    )
    assert "1 passed" in said, said


def test_parallel_tests_do_not_meet(suite: Suite) -> None:
    said = suite.run(
        *("-p", "xdist.plugin", "-n", "2"),
        test_it="""
import pytest

@pytest.mark.parametrize("number", range(6))
def test_it(kdbus, number):
    kdbus.fake("org.example.X", b"%d" % number)
    assert kdbus.call("org.example.X", b"") == b"%d" % number
""",
    )
    assert "6 passed" in said, said


def test_without_the_command(suite: Suite) -> None:
    said = suite.run("--kdbus-command", "/nowhere/kdbus", test_it="def test_it(kdbus):\n    pass\n")
    assert "/nowhere/kdbus" in said and "1 error" in said, said


LISTENER = """
import sys
import kdbus
with kdbus.connect(sys.argv[1]) as bus:
    bus.add_match()
    with bus.receive(timeout=10) as message:
        print(bytes(message.payload), message.sender)
"""
DBUS_LISTENER = """
import sys
from kdbus.dbus.blocking import connect
from kdbus.dbus.rule import Rule
with connect(sys.argv[1]) as bus, bus.subscribe(Rule(member="Changed")) as signals:
    print(signals.receive(10).body)
"""
PASSER = """
import os, sys
import kdbus
with kdbus.connect(sys.argv[1]) as bus:
    ours, theirs = os.pipe()
    with bus.call("org.example.Store", b"have it", descriptors=[theirs]) as reply:
        os.close(theirs)
        print(os.read(reply.descriptors[0].fileno(), 99), bytes(reply.payload))
    print(os.read(ours, 99))
"""
SIGNALS = """
import sys

def test_bytes(kdbus):
    fake = kdbus.fake("org.example.News", b"")
    listener = kdbus.start([sys.executable, "listener.py", kdbus.bus])
    kdbus.wait_for_call("MATCH_ADD")
    kdbus.broadcast(b"news", sender=fake)
    ended = listener.wait()
    assert ended.output == f"b'news' {fake.id}\\n", ended.errors

def test_dbus(kdbus):
    heard = kdbus.listen()
    listener = kdbus.start([sys.executable, "dbus_listener.py", kdbus.bus])
    kdbus.wait_for_call("MATCH_ADD")
    kdbus.emit("/x", "org.example.X", "Other", "s", "no")
    kdbus.emit("/x", "org.example.X", "Changed", "su", "volume", 7)
    ended = listener.wait()
    assert ended.output == "('volume', 7)\\n", ended.errors
    assert [heard.next().member for _ in range(2)] == ["Other", "Changed"]
    assert heard.requests[1].arguments == ("volume", 7)
    kdbus.send(heard.id, b"for you")
    assert heard.next().payload == b"for you"

def test_in_vain(kdbus):
    import pytest
    from pytest_kdbus.domain import Failure

    with pytest.raises(Failure, match="such a call of SEND within 0.1 s"):
        kdbus.wait_for_call("SEND", seconds=0.1)
    with pytest.raises(TimeoutError, match="no message came to connection"):
        kdbus.listen().next(0.1)
"""
DESCRIPTORS = """
import os
import sys
from pytest_kdbus.fake import Passing

def test_bytes(kdbus):
    ours, theirs = os.pipe()
    os.write(theirs, b"from the test")
    fake = kdbus.fake("org.example.Store", Passing(b"take it", [ours]))
    program = kdbus.start([sys.executable, "passer.py", kdbus.bus])
    came = fake.next().descriptors[0]
    os.write(came.fileno(), b"back")
    came.close()
    ended = program.wait()
    assert ended.output == "b'from the test' b'take it'\\nb'back'\\n", ended.errors
    os.close(ours)
    os.close(theirs)

def test_dbus(kdbus, tmp_path):
    path = tmp_path / "file"
    path.write_text("content")
    def open_it(mode, given):
        assert os.read(given.fileno(), 9) == b"given"
        return "h", open(path)
    kdbus.fake("org.example.Files", {"Open": open_it})
    ours, theirs = os.pipe()
    os.write(theirs, b"given")
    answer = kdbus.call_method("org.example.Files", "/", "org.example.Files", "Open", "sh", "r", ours)
    assert os.read(answer.fileno(), 9) == b"content"
    os.close(ours)
    os.close(theirs)

def test_sending(kdbus, tmp_path):
    fake = kdbus.fake("org.example.Files", lambda request: request.upper())
    with open(tmp_path / "file", "w") as file:
        assert kdbus.call("org.example.Files", b"x", descriptors=[file]) == b"X"
        kdbus.send("org.example.Files", b"y", descriptors=[file])
        for _ in range(2):
            assert os.path.sameopenfile(fake.next().descriptors[0].fileno(), file.fileno())
"""


def test_signals_are_sent_and_awaited(suite: Suite) -> None:
    said = suite.run(
        test_signals=SIGNALS,
        listener=LISTENER,
        dbus_listener=DBUS_LISTENER,
    )
    assert "3 passed" in said, said


def test_descriptors_go_both_ways(suite: Suite) -> None:
    said = suite.run(
        test_descriptors=DESCRIPTORS,
        passer=PASSER,
    )
    assert "3 passed" in said, said
