# SPDX-License-Identifier: GPL-2.0-or-later
"""The doctor: on this machine as it is, and on one that is made worse."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interposer import doctor
from interposer.doctor import Finding
from interposer.errors import FILE_SIZE_ADVICE, NoProc
from interposer.launch import launch, preloading
from native import seccomp
from native.namespace import CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare
from tests.interposer.test_view import become_nobody, needs_root
from tests.support.children import in_child
from tests.support.compiling import compile_program
from tests.support.e2e import cases_of
from tests.support.users import User

PROJECT = Path(__file__).resolve().parents[2]
NEEDED = {
    "architecture",
    "/proc",
    "open files",
    "size of files",
    "seccomp listener",
    "read target memory",
    "install descriptor",
    "ptrace seize",
    "answer",
    "sealed memory",
}


def examined(prepare: Callable[[], Any]) -> tuple[dict[str, Finding], doctor.Verdict]:
    def body() -> Any:
        prepare()
        findings = doctor.examine()
        return findings, doctor.judge(findings)

    findings, verdict = in_child(body)
    return {finding.name: finding for finding in findings}, verdict


def test_this_machine_works(user: User) -> None:
    outcome = user.run(user.kdbus("doctor"), folder=PROJECT)
    assert (outcome.status, "MISSING" in outcome.output) == (0, False), outcome.output
    assert "mount mode" in outcome.output


def test_json_is_one_object(user: User) -> None:
    outcome = user.run(user.kdbus("doctor", "--json"), folder=PROJECT)
    found = json.loads(outcome.output)
    assert found.keys() == {"schema", "findings", "ok", "mode", "reason"}
    assert (found["schema"], found["ok"], found["mode"]) == (2, True, "mount")
    assert {finding["name"] for finding in found["findings"] if finding["needed"]} == NEEDED
    assert all(isinstance(finding["detail"], str) for finding in found["findings"])
    details = {finding["name"]: finding["detail"] for finding in found["findings"]}
    assert details["revisions of kdbus"] == "2, 3, 219, 4, final", "each that --revision takes"


def test_examining_leaves_nothing_behind() -> None:
    def body() -> Any:
        before = (os.listdir("/proc/self/fd"), Path("/proc/self/mountinfo").read_text())
        doctor.examine()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return before == (os.listdir("/proc/self/fd"), Path("/proc/self/mountinfo").read_text())

    assert in_child(body)


def test_nested_listener_is_found() -> None:
    def prepare() -> None:
        launch.install_filter([(0x06, 0, 0, seccomp.SECCOMP_RET_ALLOW)])

    findings, verdict = examined(prepare)
    listener = findings["seccomp listener"]
    assert not listener.ok and "one is installed already" in listener.detail
    assert not findings["answer"].ok and findings["answer"].detail == "not tried, as an earlier step failed"
    assert findings["mount namespace"].ok, "what does not depend on it is still told"
    assert (verdict.ok, verdict.mode) == (False, None)
    assert "seccomp listener" in verdict.reason


@pytest.mark.parametrize(("limit", "enough"), [(64, False), (160, False), (1024, True)])
def test_the_limit_of_open_files_is_tried(user: User, limit: int, enough: bool) -> None:
    limited = ["prlimit", f"--nofile={limit}:{limit}"]
    outcome = user.run([*limited, *user.kdbus("doctor")], folder=PROJECT)
    assert (outcome.status == 0) is enough, outcome.output
    assert ("missing: open files." in outcome.output) is not enough
    opened = user.run([*limited, *user.kdbus("run", "--", user.python, "-c", _USES_A_HANDLE)], folder=PROJECT)
    told = opened.output.count("has its share of open files; raise the limit of open files")
    if enough:
        assert (opened.status, told) == (0, 0), opened.output
    elif limit == 64:
        assert (opened.status, told) == (1, 1), opened.output


def limited_in_size(user: User, size: int, *command: str) -> str:
    """What `command` says where files have at most `size` bytes, with its status in the last line."""
    script = 'size=$1; shift; { prlimit --fsize="$size:$size" "$@" 2>&1; echo "status $?"; } | cat'
    return user.run(["sh", "-c", script, "sh", str(size), *command], folder=PROJECT).output


@pytest.mark.parametrize("mode", ["mount", "path"])
def test_the_limit_of_the_size_of_files_is_tried(user: User, mode: str) -> None:
    examined = limited_in_size(user, 0, *user.kdbus("doctor"))
    assert "missing: size of files, sealed memory." in examined and examined.endswith("status 1\n"), examined
    refused = limited_in_size(user, 0, *user.kdbus("run", "--mode", mode, "--", "true"))
    assert refused.endswith(f"; {FILE_SIZE_ADVICE}\nstatus 125\n"), refused
    assert refused.count("\n") == 2 and "[Errno" not in refused, refused


def test_a_pool_that_is_too_large_is_told(user: User, open_folder: Path) -> None:
    program = str(compile_program("payload", open_folder))
    case = cases_of("payload")[0]
    told = limited_in_size(user, 4096, *user.kdbus("run", "--", program, case))
    assert f"File too large; {FILE_SIZE_ADVICE}; this is told once\n" in told, told
    assert limited_in_size(user, 1 << 30, *user.kdbus("doctor")).endswith("status 0\n")


_USES_A_HANDLE = """
import errno, fcntl, os
def use():
    try:
        fcntl.ioctl(os.open("/sys/fs/kdbus/control", os.O_RDWR), 0x9501)
    except OSError as error:
        return error.errno
raise SystemExit(errno.ENFILE in [use(), use()])
"""


@needs_root
def test_without_proc_nothing_works() -> None:
    def hide_proc() -> None:
        unshare(CLONE_NEWNS)
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount("none", "/proc", "tmpfs", 0)

    findings, verdict = examined(hide_proc)
    assert not findings["/proc"].ok and "mount -t proc" in findings["/proc"].advice
    assert (verdict.ok, verdict.mode) == (False, None)

    def run() -> str:
        hide_proc()
        with pytest.raises(NoProc, match="mount it") as refused:
            launch.launch(["true"])
        return refused.value.reason

    assert "there is no /proc" in in_child(run)


def test_inside_of_kdbus_run_it_works(user: User) -> None:
    outcome = user.run(user.kdbus("run", "--", *user.kdbus("doctor", "--json")), folder=PROJECT)
    found = json.loads(outcome.output)
    assert (outcome.status, found["ok"], found["mode"]) == (0, True, None)
    assert "outer `kdbus run`" in found["reason"]


@needs_root
def test_missing_namespaces_are_explained(tmp_path: Path) -> None:
    def prepare() -> None:
        unshare(CLONE_NEWNS)
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        tmp_path.chmod(0o755)
        (tmp_path / "proc").mkdir()
        mount("none", str(tmp_path / "proc"), "proc", 0)
        os.chroot(tmp_path)
        os.chdir("/")
        become_nobody()

    findings, verdict = examined(prepare)
    assert not any(findings[name].ok for name in ("/sys", "user namespace", "mount namespace", "view of /sys"))
    assert findings["mount namespace"].advice
    assert findings["seccomp listener"].ok and findings["answer"].ok, "a listener can be had without namespaces"
    assert (verdict.ok, verdict.mode) == (True, "path")


def test_serving_does_not_need_what_containers_forbid(user: User, open_folder: Path) -> None:
    profile = compile_program("docker_profile", open_folder, "-O2")
    outcome = user.run([str(profile), *user.kdbus("doctor", "--json")], folder=PROJECT)
    found = {line["name"]: line for line in json.loads(outcome.output)["findings"]}
    assert (found["pidfd_getfd"]["ok"], found["view of /sys"]["ok"], found["serve"]["ok"]) == (False, False, True)


def test_report_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("mount namespace", True, True, "directly"),
        Finding("ptrace seize", False, True, "Operation not permitted", "start it with CAP_SYS_PTRACE"),
        Finding("wait killable", False, False, "not known to this kernel", "newer"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    text, works = doctor.report(as_json=False)
    assert not works
    assert "ptrace seize     MISSING  Operation not permitted" in text
    assert "wait killable    without  not known" in text
    assert "start it with CAP_SYS_PTRACE" in text
    assert "does not work here; missing: ptrace seize." in text
    monkeypatch.setattr(doctor, "examine", lambda: [findings[0], findings[2]])
    assert doctor.report(as_json=False)[1]


def test_probe_that_hangs_does_not_hang_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.01)

    def hang(_tell: doctor.Report) -> None:
        signal.pause()

    (finding,) = doctor._in_child(hang, (("hanging", True, "advice"),))
    assert finding == Finding("hanging", False, True, "stuck for 0.01 s", "advice")


@pytest.mark.parametrize(
    ("path", "detail"), [(None, "none for this machine"), ("/a b/c.so", "/a b/c.so cannot stand in LD_PRELOAD")]
)
def test_why_nothing_is_preloaded(monkeypatch: pytest.MonkeyPatch, path: str | None, detail: str) -> None:
    monkeypatch.setattr(doctor, "library", lambda: path)
    monkeypatch.setattr(preloading, "library", lambda: path)
    finding = doctor._preloading()
    assert (finding.ok, finding.needed) == (False, False)
    assert finding.detail.startswith(detail)
