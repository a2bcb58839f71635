# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts about processes, compared with what the processes know of themselves."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.interfaces import Pid
from interposer.target.ids import ThreadFolder, ThreadIds, UserNamespaces, own_namespace
from interposer.target.process import TargetProcess, below_root, first_hierarchy, last_capability, parse_status
from native.namespace import CLONE_NEWPID, CLONE_NEWUSER, unshare
from tests.support.targets import fork, held_child

PR_SET_NAME = 15
CAP_IPC_OWNER = 15
CAP_SYS_ADMIN = 21


@pytest.fixture
def namespaces() -> Iterator[UserNamespaces]:
    held = UserNamespaces()
    yield held
    held.close()


@pytest.fixture
def process_of(namespaces: UserNamespaces) -> Callable[[int], TargetProcess]:
    def make(thread: int) -> TargetProcess:
        folder = ThreadFolder(thread, lambda: True)
        return TargetProcess(folder, ThreadIds(folder, namespaces), namespaces)

    return make


ProcessOf = Callable[[int], TargetProcess]

STATUS = b"""Name:\tevil name
Umask:\t0022
State:\tS (sleeping)
Tgid:\t11
Ngid:\t0
Pid:\t12
PPid:\t3
TracerPid:\t0
Uid:\t1\t2\t3\t4
Gid:\t5\t6\t7\t8
FDSize:\t256
Groups:\t20 21 22\x20
NStgid:\t11\t2
NSpid:\t12\t5
CapInh:\t0000000000000001
CapPrm:\t0000000000000002
CapEff:\t0000000000000004
CapBnd:\t000001ffffffffff
Uid:\t0\t0\t0\t0
"""


def test_status_is_parsed() -> None:
    status = parse_status(STATUS)
    credentials = status.credentials
    assert (credentials.uid, credentials.euid, credentials.suid, credentials.fsuid) == (1, 2, 3, 4)
    assert (credentials.gid, credentials.egid, credentials.sgid, credentials.fsgid) == (5, 6, 7, 8)
    assert credentials.groups == (20, 21, 22)
    assert (status.thread_group, status.parent) == (11, 3)
    assert (status.process_numbers, status.thread_numbers) == ((11, 2), (12, 5))
    assert (status.inheritable, status.permitted, status.effective, status.bounding) == (1, 2, 4, 2**41 - 1)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/user.slice/one\n", b"/user.slice/one"),
        (b"9:name=systemd:/nine\n1:cpu,cpuacct:/one:with:colons\n0::/zero\n", b"/one:with:colons"),
        (b"12:pids:/a\n3:memory:/b\n", b"/b"),
        (b"12:pids:/a\r1:cpu:/forged\n3:memory:/b\n", b"/b"),
        (b"", None),
    ],
)
def test_first_hierarchy(text: bytes, path: bytes | None) -> None:
    assert first_hierarchy(text) == path


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        (b"/bin/sh", b"/", b"/bin/sh"),
        (b"/jail/bin/sh", b"/jail", b"/bin/sh"),
        (b"/jailed/bin/sh", b"/jail", b"/jailed/bin/sh"),
        (b"/bin/sh", b"/jail", b"/bin/sh"),
    ],
)
def test_below_root(path: bytes, root: bytes, seen: bytes) -> None:
    assert below_root(path, root) == seen


def test_own_credentials(process_of: ProcessOf) -> None:
    found = process_of(os.getpid()).credentials()
    assert (found.uid, found.euid, found.suid) == os.getresuid()
    assert (found.gid, found.egid, found.sgid) == os.getresgid()
    assert (found.fsuid, found.fsgid) == (os.geteuid(), os.getegid())
    assert set(found.groups) == set(os.getgroups())


def test_changed_credentials(process_of: ProcessOf) -> None:
    def change() -> None:
        os.setgroups([7, 8])
        os.setresgid(1, 2, 3)
        os.setresuid(4, 5, 6)

    with held_child(change) as child:
        found = process_of(child).credentials()
        assert (found.uid, found.euid, found.suid, found.fsuid) == (4, 5, 6, 5)
        assert (found.gid, found.egid, found.sgid, found.fsgid) == (1, 2, 3, 2)
        assert found.groups == (7, 8)


def test_pids_of_a_child(process_of: ProcessOf) -> None:
    own = own_namespace(b"pid")
    with held_child(lambda: None) as child:
        found = process_of(child).pids()
        assert found == (Pid({own: child}), Pid({own: child}), Pid({own: os.getpid()}))


def test_facts_of_a_thread(process_of: ProcessOf) -> None:
    def name_thread() -> None:
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"second thread", 0, 0, 0)
        named.set()
        done.wait()

    named, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=name_thread)
    thread.start()
    try:
        named.wait()
        assert thread.native_id is not None
        found = process_of(thread.native_id)
        own = own_namespace(b"pid")
        assert found.thread_group == os.getpid() != thread.native_id
        assert found.pids() == (Pid({own: os.getpid()}), Pid({own: thread.native_id}), Pid({own: os.getppid()}))
        assert found.thread_name() == b"second thread"
        assert found.process_name() == Path("/proc/self/comm").read_bytes().removesuffix(b"\n") != b"second thread"
        assert found.find_pid(thread.native_id) == Pid({own: thread.native_id})
    finally:
        done.set()
        thread.join()


def test_thread_name_with_line_break(process_of: ProcessOf) -> None:
    def rename() -> None:
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"a\nb\n", 0, 0, 0)

    with held_child(rename) as child:
        assert process_of(child).thread_name() == b"a\nb\n"
        assert process_of(child).credentials().uid == os.getuid()


@pytest.mark.parametrize("end", [b"\r", b"\v", b"\f", b"\x1c", b"\x85"])
def test_a_thread_name_forges_no_other_line(process_of: ProcessOf, end: bytes) -> None:
    name = end + b"Uid:\t7\t7\t7\t7"

    def rename() -> None:
        ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)

    with held_child(rename) as child:
        assert process_of(child).thread_name() == name
        assert process_of(child).credentials().uid == os.getuid()


def test_parent_that_has_ended(process_of: ProcessOf) -> None:
    def orphan() -> int:
        reading, writing = os.pipe()
        middle = os.fork()
        if not middle:
            # Not by `fork`: this one shall outlive its parent.
            child = os.fork()
            if not child:
                signal.pause()
            os.write(writing, b"%d" % child)
            os._exit(0)
        os.waitpid(middle, 0)
        return int(os.read(reading, 20))

    with held_child(orphan) as child:
        try:
            parent = process_of(child).pids()[2]
            status = Path(f"/proc/{child}/status").read_text()
            now = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
            assert parent.number_in(own_namespace(b"pid")) == now
        finally:
            os.kill(child, signal.SIGKILL)


def test_parent_that_ends_during_the_read(namespaces: UserNamespaces) -> None:
    ended = fork(lambda: None)
    os.waitpid(ended, 0)
    parents = iter([ended, os.getpid()])

    class Orphaned(ThreadFolder):
        def read(self, name: bytes, limit: int = 0) -> bytes:
            return STATUS.replace(b"PPid:\t3", b"PPid:\t%d" % next(parents))

    folder = Orphaned(os.getpid(), lambda: True)
    found = TargetProcess(folder, ThreadIds(folder, namespaces), namespaces)
    assert found.pids()[2] == Pid({own_namespace(b"pid"): os.getpid()})


def test_parent_outside_our_sight(namespaces: UserNamespaces) -> None:
    found = process_with(namespaces, status=STATUS.replace(b"PPid:\t3", b"PPid:\t0"))
    assert found.pids()[2] == Pid({})


def test_executable_and_command_line(process_of: ProcessOf, tmp_path: Path) -> None:
    program = tmp_path / "copy of cat"
    shutil.copy(shutil.which("cat") or "/bin/cat", program)
    with subprocess.Popen(
        ["first\none", "-"], executable=program, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            # An answer means that it runs; before, its command line is not there yet.
            child.stdin.write(b"+")
            assert child.stdout.read(1) == b"+"
            found = process_of(child.pid)
            assert found.executable() == os.fsencode(program)
            assert found.command_line() == b"first\none"
            program.unlink()
            assert process_of(child.pid).executable() == os.fsencode(program) + b" (deleted)"
        finally:
            child.kill()


def test_executable_under_another_root(process_of: ProcessOf) -> None:
    executable = Path(sys.executable).resolve()
    with held_child(lambda: os.chroot(executable.parents[1])) as child:
        assert process_of(child).executable() == b"/" + os.fsencode(executable.relative_to(executable.parents[1]))


def test_command_line_that_is_empty(process_of: ProcessOf) -> None:
    zombie = fork(lambda: None)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    assert process_of(zombie).command_line() is None
    assert process_of(zombie).executable() is None
    os.waitpid(zombie, 0)


def test_control_group(process_of: ProcessOf) -> None:
    found = process_of(os.getpid()).control_group()
    if not Path("/proc/self/cgroup").exists():
        assert found is None
    else:
        assert found is not None and found in Path("/proc/self/cgroup").read_bytes() and found.startswith(b"/")


def test_security_label(process_of: ProcessOf) -> None:
    try:
        expected = Path("/proc/self/attr/current").read_bytes().rstrip(b"\0\n") or None
    except OSError:
        expected = None
    assert process_of(os.getpid()).security_label() == expected


def test_audit(process_of: ProcessOf) -> None:
    found = process_of(os.getpid()).audit()
    try:
        expected = int(Path("/proc/self/sessionid").read_text()), int(Path("/proc/self/loginuid").read_text())
    except FileNotFoundError:
        assert found is None
    else:
        assert found == expected


@pytest.fixture
def offers_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with a security module, and with audit."""
    monkeypatch.setattr("interposer.target.process.has_security_labels", lambda: True)
    monkeypatch.setattr("interposer.target.process.has_audit", lambda: True)


class Folder(ThreadFolder):
    """A `/proc/TID` with other content, for what this machine does not offer."""

    def __init__(self, content: dict[bytes, bytes]) -> None:
        super().__init__(os.getpid(), lambda: True)
        self._content = content

    def read(self, name: bytes, limit: int = 1 << 62) -> bytes:
        if name not in self._content:
            raise FileNotFoundError
        return self._content[name][:limit]


def process_with(namespaces: UserNamespaces, **content: bytes) -> TargetProcess:
    folder = Folder({name.replace("_", "/").encode(): text for name, text in content.items()})
    return TargetProcess(folder, ThreadIds(folder, namespaces), namespaces)


def test_what_the_machine_lacks_is_none(namespaces: UserNamespaces) -> None:
    found = process_with(namespaces)
    assert found.audit() is None and found.security_label() is None
    assert found.control_group() is None and found.command_line() is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (b"unconfined\n", b"unconfined"),
        (b"system_u:system_r:init_t:s0\0", b"system_u:system_r:init_t:s0"),
        (b"profile (enforce)\n", b"profile (enforce)"),
        (b"\n", None),
        (b"", None),
    ],
)
@pytest.mark.usefixtures("offers_all")
def test_forms_of_security_labels(namespaces: UserNamespaces, text: bytes, label: bytes | None) -> None:
    assert process_with(namespaces, attr_current=text).security_label() == label


@pytest.mark.usefixtures("offers_all")
def test_audit_of_a_login(namespaces: UserNamespaces) -> None:
    assert process_with(namespaces, loginuid=b"1000", sessionid=b"3").audit() == (3, 1000)
    assert process_with(namespaces, loginuid=b"4294967295", sessionid=b"4294967295").audit() == (2**32 - 1, 2**32 - 1)


@pytest.mark.usefixtures("offers_all")
def test_facts_of_a_thread_that_is_gone(namespaces: UserNamespaces) -> None:
    folder = ThreadFolder(os.getpid(), lambda: False)
    found = TargetProcess(folder, ThreadIds(folder, namespaces), namespaces)
    reads: list[Callable[[], object]] = [
        found.credentials,
        found.pids,
        found.thread_name,
        found.process_name,
        found.executable,
        found.command_line,
        found.control_group,
        found.capabilities,
        found.security_label,
        found.audit,
        lambda: found.has_capability(CAP_IPC_OWNER, 1),
        lambda: found.find_pid(1),
    ]
    for read in reads:
        with pytest.raises(ProcessLookupError):
            read()


def test_capabilities(process_of: ProcessOf) -> None:
    found = process_of(os.getpid()).capabilities()
    assert found.last_cap == int(Path("/proc/sys/kernel/cap_last_cap").read_text()) == last_capability()
    assert found.user_namespace == own_namespace(b"user")
    lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if "Cap" in line)
    assert (found.inheritable, found.permitted) == (int(lines["CapInh"], 16), int(lines["CapPrm"], 16))
    assert (found.effective, found.bounding) == (int(lines["CapEff"], 16), int(lines["CapBnd"], 16))


def test_capability_bits_beyond_the_last_are_cleared(namespaces: UserNamespaces) -> None:
    text = STATUS.replace(b"CapEff:\t0000000000000004", b"CapEff:\tffffffffffffffff")
    found = process_with(namespaces, status=text).capabilities()
    assert found.effective == (1 << last_capability() + 1) - 1


def test_capability_in_own_namespace(namespaces: UserNamespaces) -> None:
    own = own_namespace(b"user")
    found = process_with(namespaces, status=STATUS)
    assert found.has_capability(2, own)
    assert not found.has_capability(CAP_SYS_ADMIN, own)


def test_capabilities_towards_other_namespaces(process_of: ProcessOf, namespaces: UserNamespaces) -> None:
    own = own_namespace(b"user")
    with held_child(lambda: unshare(CLONE_NEWUSER)) as inside, held_child(lambda: None) as outside:
        inner, outer = process_of(inside), process_of(outside)
        identity = os.stat(f"/proc/{inside}/ns/user").st_ino
        assert not outer.has_capability(CAP_SYS_ADMIN, identity), "never met"
        namespaces.identify(ThreadFolder(inside, lambda: True))
        assert inner.has_capability(CAP_SYS_ADMIN, identity), "whoever enters a new namespace has all capabilities"
        assert not inner.has_capability(CAP_SYS_ADMIN, own), "but none outside"
        assert outer.has_capability(CAP_SYS_ADMIN, identity), "the maker of a namespace has all capabilities in it"


def test_maker_of_a_namespace_needs_no_capability_and_others_do(
    process_of: ProcessOf, namespaces: UserNamespaces
) -> None:
    def ordinary(uid: int) -> Callable[[], None]:
        return lambda: os.setresuid(uid, uid, uid)

    def make() -> None:
        os.setresuid(1234, 1234, 1234)
        unshare(CLONE_NEWUSER)

    with held_child(make) as inside, held_child(ordinary(1234)) as maker, held_child(ordinary(1235)) as other:
        identity = namespaces.identify(ThreadFolder(inside, lambda: True))
        assert process_of(maker).has_capability(CAP_SYS_ADMIN, identity)
        assert not process_of(other).has_capability(CAP_SYS_ADMIN, identity)
        assert process_of(os.getpid()).has_capability(CAP_SYS_ADMIN, identity), "root has it by its capabilities"


@pytest.mark.parametrize("number", [0, -1, 1 << 22, 1 << 40])
def test_impossible_numbers_are_nobodys(process_of: ProcessOf, number: int) -> None:
    assert process_of(os.getpid()).find_pid(number) is None


def test_find_pid_in_own_namespace(process_of: ProcessOf) -> None:
    own = own_namespace(b"pid")
    found = process_of(os.getpid())
    assert found.find_pid(os.getppid()) == Pid({own: os.getppid()})
    child = fork(lambda: None)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert found.find_pid(child) == Pid({own: child}), "a zombie still has its number"
    os.waitpid(child, 0)
    assert found.find_pid(child) is None


def test_pids_in_nested_namespaces(process_of: ProcessOf) -> None:
    """init (1) of a new pid namespace, and its child (2), seen from outside and by each other."""

    def enter() -> int:
        unshare(CLONE_NEWPID)
        # The first child is the new namespace's init; its own number outside is what it cannot know itself.
        return fork(with_child)

    def with_child() -> None:
        fork(signal.pause)
        os.write(writing, b"+")
        signal.pause()

    reading, writing = os.pipe()
    with held_child(enter) as init:
        try:
            own = own_namespace(b"pid")
            inner = os.stat(f"/proc/{init}/ns/pid").st_ino
            found = process_of(init)
            process, thread, parent = found.pids()
            assert process == thread == Pid({own: init, inner: 1})
            assert parent.number_in(inner) == 0 and parent.number_in(own) != 0
            assert found.find_pid(1) == process
            assert found.find_pid(os.getpid()) is None

            assert os.read(reading, 1) == b"+"
            second = found.find_pid(2)
            assert second is not None
            child = process_of(second.number_in(own))
            assert child.pids() == (second, second, process)
            assert second.number_in(inner) == 2
            assert process_of(os.getpid()).find_pid(second.number_in(own)) == second, "seen from outside"
        finally:
            os.kill(init, signal.SIGKILL)
            os.close(reading)
            os.close(writing)
