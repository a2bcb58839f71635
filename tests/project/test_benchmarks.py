# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmarks measure what they say and report it; how long anything takes is not looked at.

One short run of a few groups shows that the programs work, under the real `kdbus run` and on whatever message buses are
installed. The rest is arithmetic on made-up samples.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import pictures, records, report, runner, targets
from benchmarks.command_line import REVISIONS, main
from benchmarks.execution import SOURCES, CannotRun, NotInstalled, execution, parse_samples
from benchmarks.figures import Figure, Results, Table, summarize
from benchmarks.groups import GROUPS, KDBUS, SERVED_TRAP, SYNCHRONOUS, TRAP, Context, Group, Task, size
from benchmarks.message_buses import BROKER, DAEMON, NAMES, PROXY, message_buses
from benchmarks.settings import QUICK
from benchmarks.targets import Target

PROJECT = Path(__file__).resolve().parents[2]
MEASURED = ["commands", "calls", "service", "contention", "fairness", "metadata", "bystanders", "memory"]
SECONDS = 120


class Run:
    """One run of the command: its status, what it printed, its JSON records, and the folder of the page."""

    def __init__(self, folder: Path) -> None:
        file = folder / "results.json"
        options = ["--quick", "--repetitions", "1", "--seconds", "0.01", "--json", str(file), "--save", str(folder)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *options, *MEASURED],
            check=False,
            capture_output=True,
            text=True,
            cwd=PROJECT,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.output = done.stdout
        self.records: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
        self.folder = folder

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    if shutil.which("gcc") is None:
        pytest.skip("the benchmarks need a compiler: apt-get install gcc")
    return Run(tmp_path_factory.mktemp("benchmarks"))


def test_all_groups_were_measured(run: Run) -> None:
    figures = run.of_kind("figure")
    assert [group.name for group in GROUPS if group.name in {figure["group"] for figure in figures}] == [
        group.name for group in GROUPS if group.name in MEASURED
    ]
    assert all(figure["lower_quartile"] <= figure["median"] <= figure["upper_quartile"] for figure in figures)
    assert all(figure["median"] > 0 for figure in figures if figure["unit"] == "ns")
    assert {figure["unit"] for figure in figures if figure["group"] == "fairness"} == {""}
    assert {record["schema"] for record in run.records} == {records.SCHEMA}
    assert not run.of_kind("failure")


def test_calls_were_measured_at_all_sizes(run: Run) -> None:
    rows = {figure["row"] for figure in run.of_kind("figure") if figure["column"] == SYNCHRONOUS}
    assert rows == {str(number) for number in QUICK.sizes}


def test_commands_are_compared_with_traps(run: Run) -> None:
    ratios = {
        (record["column"], record["baseline"]) for record in run.of_kind("ratio") if record["group"] == "commands"
    }
    assert ratios == set(product(["SEND", "RECV", "FREE"], [TRAP, SERVED_TRAP]))


def test_each_message_bus_was_measured_or_is_named_as_missing(run: Run) -> None:
    there = {figure["column"] for figure in run.of_kind("figure") if figure["group"] == "calls"}
    missing = {record["what"] for record in run.of_kind("missing")}
    assert set(NAMES) <= there | missing
    assert not there & missing


def test_page_and_pictures_are_written(run: Run) -> None:
    page = (run.folder / "measurements.md").read_text()
    assert all(group.title in page for group in GROUPS if group.name in MEASURED)
    for file, text in (("latency.svg", SYNCHRONOUS), ("clients.svg", KDBUS)):
        assert f"]({file})" in page
        picture = ElementTree.parse(run.folder / file).getroot()
        texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
        assert text in texts
    assert "kernel:" in run.output


# ---- statistics ----


def test_an_interrupted_run_keeps_what_it_has_measured(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    options = ["--quick", "--repetitions", "5", "--seconds", "0.05", "--json", str(file), "--save", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *options, *MEASURED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            while "calls, repetition" not in (line := process.stderr.readline()):
                assert line, "it ended"
            measured = {record.get("group") for record in map(json.loads, file.read_text().splitlines())}
            assert measured >= {"commands"} and "calls" not in measured
        finally:
            process.send_signal(signal.SIGINT)
            output, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, told
    assert "interrupted" in told and "Traceback" not in told
    assert "commands: Each kdbus command" in output
    assert "interrupted" in file.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json"], "the page is that of a whole run"


def test_quartiles_lie_between_the_samples() -> None:
    assert summarize([4, 1, 3, 2, 5]) == Figure(3, 2, 4, 5)
    assert summarize([7]) == Figure(7, 7, 7, 1)


@pytest.mark.parametrize(
    ("samples", "disturbed"),
    [([100, 101, 102, 103, 104], False), ([100, 100, 100, 100, 900], False), ([60, 80, 100, 120, 140], True)],
)
def test_wide_spread_is_called_disturbed(samples: list[float], disturbed: bool) -> None:
    assert summarize(samples).disturbed is disturbed


def test_ratio_is_that_of_medians() -> None:
    table = Table()
    for sample in (10, 20, 90):
        table.add("row", "ours", sample)
    table.add("row", "theirs", 40)
    assert table.ratio("row", "ours", "theirs") == 0.5
    assert table.ratio("row", "ours", "nobody") is None
    assert table.ratio("other", "ours", "theirs") is None


# ---- commands ----


def test_byte_code_is_there_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with execution() as programs:
        # Ours, the broker's, python-ptrace's.
        compiled = {path.name.partition(".")[0] for path in programs.folder.rglob("*.pyc")}
        found = programs.run([sys.executable, "-c", "from interposer.supervisor import tree; print(tree.__cached__)"])
        assert {"launch", "supervisor", "connection", "signames"} <= compiled
        assert Path(found[0]).is_relative_to(programs.folder)


# ---- turns ----


@pytest.fixture
def context() -> Iterator[Context]:
    with execution() as programs:
        yield Context(programs, QUICK, {}, Results())


@pytest.mark.parametrize("revision", REVISIONS)
def test_programs_are_built_for_every_revision(revision: str) -> None:
    with execution(revision=revision) as programs:
        for source in SOURCES.glob("kdbus-*.c"):
            programs.program(source.stem)
        call = programs.program("kdbus-call"), "synchronous", "copy", "0", "0.1", "8"
        lines = programs.run(programs.run_under_kdbus(*call))
    assert len(lines) == 5


def group_of(*tasks: Task) -> Group:
    return Group("calls", "title", "row", "ns", (), lambda _: tasks)


def test_tasks_take_turns(context: Context) -> None:
    order = []

    def task(name: str) -> Task:
        def measure() -> Iterator[tuple[str, str, float]]:
            order.append(name)
            yield "row", name, 1.0

        return Task(name, measure)

    runner.measure([group_of(task("A"), task("B"), task("C"))], context, lambda _: None, lambda: None)
    assert order == ["A", "B", "C"] * QUICK.repetitions
    assert context.results.tables["calls"].samples["row", "B"] == [1.0] * QUICK.repetitions


def test_failure_is_told_and_what_came_before_it_counts(context: Context) -> None:
    turns = []

    def half() -> Iterator[tuple[str, str, float]]:
        turns.append("half")
        yield "8", "half", 1.0
        raise CannotRun("it broke")

    def nothing() -> Iterator[tuple[str, str, float]]:
        turns.append("nothing")
        raise CannotRun("it never worked")

    def absent() -> Iterator[tuple[str, str, float]]:
        turns.append("absent")
        raise NotInstalled("apt-get install absent")

    tasks = [Task(function.__name__, function) for function in (half, nothing, absent)]
    runner.measure([group_of(*tasks)], context, lambda _: None, lambda: None)
    results = context.results
    assert results.tables["calls"].samples == {("8", "half"): [1.0] * QUICK.repetitions}
    assert [(failure.column, failure.reason) for failure in results.failures] == [
        ("half", "it broke"),
        ("nothing", "it never worked"),
    ]
    assert [(missing.what, missing.reason) for missing in results.missing] == [("absent", "apt-get install absent")]
    assert turns.count("half") == QUICK.repetitions
    assert turns.count("nothing") == turns.count("absent") == 1
    text = report.text(results, {}, "run")
    assert "failed: calls, nothing: it never worked" in text
    assert "missing: absent: apt-get install absent" in text


# ---- targets ----


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([70, 71, 72], "met"),
        ([90, 91, 92], "missed"),
        ([50, 70, 95], "met, uncertain"),
        ([60, 80, 95], "missed, uncertain"),
    ],
)
def test_verdict_on_a_target(ours: list[float], verdict: str) -> None:
    results = Results()
    table = results.tables.setdefault("calls", Table())
    for sample in ours:
        table.add("8", SYNCHRONOUS, sample)
    for sample in (99, 100, 101):
        table.add("8", DAEMON, sample)
    by_what = {outcome.target.what: outcome for outcome in targets.judge(results)}
    assert by_what[f"call and reply of 8 B, synchronous, over {DAEMON}"].verdict == verdict
    assert by_what[f"call and reply of 8 B, synchronous, over {BROKER}"].verdict == "not measured"


def test_targets_name_groups_that_exist() -> None:
    names = {group.name for group in GROUPS}
    assert {cell[0] for target in targets.TARGETS for cell in (target.cell, target.other) if cell} <= names


# ---- peers and commands ----


def test_message_buses_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with execution() as programs, message_buses(programs) as found:
        reasons = {name: str(reason) for name, reason in found.items()}
    assert set(reasons) == {*NAMES, PROXY}
    assert reasons[DAEMON].endswith("apt-get install dbus")
    assert reasons[BROKER].endswith("apt-get install dbus-broker")


def test_helpers_of_a_command_end_with_it() -> None:
    with execution() as programs:
        number = int(programs.run(["sh", "-c", "sleep 1000 & echo $!"])[0])
    try:
        process = os.pidfd_open(number)
    except ProcessLookupError:
        return
    assert select.select([process], [], [], SECONDS)[0]
    os.close(process)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (["other: hm", "sh: no luck", "sh: so I go"], "sh: no luck"),
        (
            ["Traceback", "KeyError: 5", "kdbus: error, see above", "sh: no luck"],
            "KeyError: 5; kdbus: error, see above",
        ),
        (["Traceback", "KeyError: 5"], "KeyError: 5"),
        ([], "ended with status 3"),
    ],
)
def test_reason_of_a_failed_command(said: list[str], reason: str) -> None:
    script = "".join(["echo 5; ", *(f"echo '{line}' >&2; " for line in said), "exit 3"])
    with execution() as programs, pytest.raises(CannotRun) as caught:
        programs.run(["sh", "-c", script])
    assert str(caught.value).endswith(f": {reason}")
    assert caught.value.lines == ["5"]


def test_lines_without_a_number_are_passed_over() -> None:
    assert parse_samples(["open and close\t2.5", "ready", "8\t1"]) == [("open and close", 2.5), ("8", 1.0)]


def test_command_line_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, reason in (
        (["nonsense"], "there is no group 'nonsense'"),
        (["--save", str(tmp_path / "absent")], "is not a folder"),
        (["--repetitions", "0"], "not a number from 1 on"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert reason in capsys.readouterr().err


# ---- how it looks ----


def test_sizes_and_times_are_readable() -> None:
    assert [size(text) for text in ("8", "4096", "65536", "268435456", "1025")] == [
        "8 B",
        "4 KiB",
        "64 KiB",
        "256 MiB",
        "1025 B",
    ]
    assert [report.show_number(value, "ns") for value in (3900, 84_000, 2_376_000, 38_100_000)] == [
        "3.90 us",
        "84.0 us",
        "2376 us",
        "38.1 ms",
    ]
    assert report.show_number(8192, "bytes") == "8.00 KiB"


def _results(group: str, *samples: tuple[str, str, float]) -> Results:
    results = Results()
    results.tables[group] = Table()
    for row, column, number in samples:
        results.tables[group].add(row, column, number)
    return results


def test_pictures_show_what_was_measured(tmp_path: Path) -> None:
    results = _results("broadcast", ("1 received", "a < b", 5e4), ("10 received", "a < b", 1e5), ("1 sent", "a < b", 9))
    (picture,) = pictures.pictures(results)
    (line,) = picture.lines
    assert (line.label, [(x, figure.median) for x, figure in line.points]) == ("a < b", [(1, 5e4), (10, 1e5)])
    pictures.draw(picture, tmp_path / picture.file)
    texts = [element.text for element in ElementTree.parse(tmp_path / picture.file).iter()]
    assert {"a < b", picture.title, "receivers", "10", "100 us"} <= set(texts)


def test_the_same_results_make_the_same_picture(tmp_path: Path) -> None:
    (picture,) = pictures.pictures(_results("contention", ("8", KDBUS, 7e4), ("64", KDBUS, 8e4)))
    for name in ("one", "two"):
        pictures.draw(picture, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_the_library_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (picture,) = pictures.pictures(_results("contention", ("8", KDBUS, 7e4)))
    with pytest.raises(pictures.NoPictures, match="pip install"):
        pictures.draw(picture, tmp_path / "picture")


def test_nothing_to_draw() -> None:
    assert pictures.pictures(Results()) == []


def test_a_target_may_add_two_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("sum", 1.3, ("g", "both", "c"), ("g", "one", "c"), plus=("g", "other", "c"))
    monkeypatch.setattr(targets, "TARGETS", (target,))
    results = _results("g", ("both", "c", 60.0), ("one", "c", 30.0), ("other", "c", 20.0))
    (outcome,) = targets.judge(results)
    assert (outcome.value, outcome.verdict) == (1.2, "met")
    del results.tables["g"].samples["other", "c"]
    assert targets.judge(results)[0].verdict == "not measured"
