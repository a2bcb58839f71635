# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus doctor`: what this kernel and container allow, which mode that makes, and what would make it better.

Every finding comes from doing the thing itself, in a short-lived child, and not from a version number or a list of
capabilities: kernels are patched, and containers forbid single calls in their own seccomp profiles. The middle part is
a whole conversation as `kdbus run` has them: a subject is put under a filter, a call of it is trapped, its memory is
read, a descriptor given to it and recognised and fetched back, it is seized, and the call answered. Files of /proc and
/sys serve only to explain a failure.

Weaknesses: a security module may treat another program than this one differently. The conversation is held once;
whether WAIT_KILLABLE_RECV is free of its early race (5.19 until late 2025) shows only under a storm of signals.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from interposer import CONTROL_NODE
from interposer.errors import FILE_SIZE_ADVICE, InterposerError
from interposer.injection.binding import binding
from interposer.injection.injection import PTRACE_SEIZE
from interposer.launch import view
from interposer.launch.filter import Condition, Trap, build, this_architecture
from interposer.launch.launch import install_filter
from interposer.launch.nested import is_nested
from interposer.launch.preloading import preloadable
from interposer.options import REVISIONS
from interposer.shortage import ADVICE
from interposer.target.budget import HANDLE_DESCRIPTORS, Budgets, use_descriptors
from interposer.target.inspection import try_to_inspect, yama_scope
from native import identity, memory
from native.notification import Listener, Notification
from native.preloaded import library

SCHEMA = 2
"""Version of the JSON object; it grows when a field changes its meaning or goes away."""

PATIENCE_S = 10
"""How long a child may take before it counts as stuck, in seconds."""

_FEW_HANDLES = 8
"""Handles of kdbus that are no use: a bus, a service and a client need three, and memory for messages."""

_SMALL_POOL = 1 << 20
"""Bytes that pools of programs of the time begin with; most are larger."""

_OUTER = "supervisor"
"""Name of the finding that is there inside of a `kdbus run`; then nothing else can be tried."""

_CALLED_WITH = b"kdbus-doctor"
_TRAPPED_REQUEST = 0x9500
_TRAP = Trap("ioctl", (Condition(1, 0xFFFFFFFF, (_TRAPPED_REQUEST,)),))
"""A call that no container forbids."""
_ANSWER_ERROR = errno.EXDEV
_F_SEAL_FUTURE_WRITE = 0x10


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    `needed`: whether `kdbus run` depends on it. `detail`: what was seen. `advice`: what to do, if anything.
    """

    name: str
    ok: bool
    needed: bool
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether `kdbus run` can work, in which mode (None: in none), and why."""

    ok: bool
    mode: str | None
    reason: str


Report = Callable[[str, bool, str], None]
"""How a probe in a child tells (name, ok, detail)."""

_UNKNOWN = "not tried, as an earlier step failed"
_CONTAINER = "a container's seccomp profile or security module may forbid it"

_CONVERSATION: tuple[tuple[str, bool, str], ...] = (
    ("seccomp listener", True, f"needs Linux 5.0 with CONFIG_SECCOMP_FILTER; {_CONTAINER}"),
    ("wait killable", False, "Linux 5.19 and newer spare interrupted calls from being served twice"),
    ("synchronous wake-up", False, "Linux 6.6 and newer answer a trapped call about ten times faster"),
    ("read target memory", True, f"needs process_vm_readv(2); {_CONTAINER}"),
    ("install descriptor", True, "needs Linux 5.9: SECCOMP_IOCTL_NOTIF_ADDFD"),
    ("kcmp", False, f"without it calls are slower; needs CONFIG_KCMP; {_CONTAINER}: start it with CAP_SYS_PTRACE"),
    (
        "pidfd_getfd",
        False,
        "without it connections do not poll as writable, and only memfds, files, folders and pipes can be passed; "
        f"needs Linux 5.6; {_CONTAINER}: start it with CAP_SYS_PTRACE",
    ),
    ("ptrace seize", True, f"pools are mapped so; {_CONTAINER}, or Yama's scope 3"),
    ("answer", True, ""),
)
"""(name, needed, advice) of what one conversation with a trapped process shows, in order."""


_SERVE_ADVICE = f"a `kdbus serve` of root's serves everybody; {_CONTAINER}, or Yama's scope 3"


def examine() -> list[Finding]:
    """Try everything. Takes some ten milliseconds; changes nothing outside of its children."""
    system = os.uname()
    findings = [
        Finding("kernel", True, False, f"{system.sysname} {system.release} on {system.machine}"),
        _simple("architecture", True, lambda: this_architecture().machine),
    ]
    if os.path.exists(CONTROL_NODE) and is_nested():
        return [*findings, Finding(_OUTER, True, False, "an outer `kdbus run` serves this process tree")]
    findings += [
        _simple("/proc", True, _look_at_proc, "mount it: `mount -t proc proc /proc`"),
        _in_child(_try_open_files, (("open files", True, ADVICE[errno.ENFILE]),))[0],
        _simple("size of files", True, _look_at_file_sizes, FILE_SIZE_ADVICE),
        _simple("/sys", False, _look_at_sys),
        _in_child(_try_user_namespace, (("user namespace", False, _user_namespace_advice()),))[0],
        *_in_child(
            _try_view,
            (("mount namespace", False, _user_namespace_advice()), ("view of /sys", False, _CONTAINER)),
        ),
        *_in_child(_converse, _CONVERSATION),
        _in_child(_try_serving, (("serve", False, _SERVE_ADVICE),))[0],
        _simple("sealed memory", True, _seal_memory, "needs Linux 5.1: F_SEAL_FUTURE_WRITE"),
        _preloading(),
        Finding("Yama", True, False, _yama()),
        Finding("revisions of kdbus", True, False, ", ".join(REVISIONS)),
    ]
    return findings


def judge(findings: list[Finding]) -> Verdict:
    """What the findings mean for `kdbus run`."""
    if any(finding.name == _OUTER for finding in findings):
        return Verdict(True, None, "programs find the domain of the outer `kdbus run`, and cannot have another one")
    missing = [finding.name for finding in findings if finding.needed and not finding.ok]
    by_name = {finding.name: finding for finding in findings}
    if missing:
        return Verdict(False, None, f"missing: {', '.join(missing)}")
    for name in ("/sys", "mount namespace", "view of /sys"):
        if name in by_name and not by_name[name].ok:
            return Verdict(True, "path", f"slower, but it can do without {name}")
    return Verdict(True, "mount", f"a mount namespace can be had {by_name['mount namespace'].detail}")


def report(as_json: bool) -> tuple[str, bool]:
    """The findings and the verdict as text that ends a line, and whether `kdbus run` can work.

    JSON: one object on one line. `schema` is a number; `findings` has objects with name, ok, needed, detail, advice
    (empty when there is none to follow); ok, mode (`mount`, `path`, or null, as inside of a `kdbus run`) and reason are
    the verdict.
    """
    findings = examine()
    verdict = judge(findings)
    if as_json:
        found = [asdict(finding) for finding in findings]
        return json.dumps({"schema": SCHEMA, **asdict(verdict), "findings": found}) + "\n", verdict.ok
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "without"
        lines.append(f"{finding.name:{width}}  {mark:7}  {finding.detail}")
        if finding.advice:
            lines.append(f"{'':{width}}           {finding.advice}")
    lines.append("")
    if verdict.ok:
        mode = "" if verdict.mode is None else f", in {verdict.mode} mode"
        lines.append(f"kdbus run works here{mode}: {verdict.reason}.")
    else:
        lines.append(f"kdbus run does not work here; {verdict.reason}.")
    return "\n".join(lines) + "\n", verdict.ok


def _preloading() -> Finding:
    """Whether programs in path mode are spared most traps."""
    name, path = "preloaded library", library()
    if path is None:
        return Finding(name, False, False, "none for this machine: in path mode all calls that name a path are trapped")
    if preloadable() is None:
        advice = "path mode is faster where no blank, colon or dollar sign is in the path: install kdbus elsewhere"
        return Finding(name, False, False, f"{path} cannot stand in LD_PRELOAD", advice)
    return Finding(name, True, False, f"in path mode programs get {path}")


def _simple(name: str, needed: bool, probe: Callable[[], str], advice: str = "") -> Finding:
    """A probe that leaves no trace and needs no child."""
    try:
        return Finding(name, True, needed, probe())
    except (OSError, InterposerError) as error:
        too_large = isinstance(error, OSError) and error.errno == errno.EFBIG
        return Finding(name, False, needed, str(error), FILE_SIZE_ADVICE if too_large else advice)


def _in_child(probe: Callable[[Report], None], expected: tuple[tuple[str, bool, str], ...]) -> list[Finding]:
    """Run `probe` in a child; one finding for each of `expected` (name, needed, advice), in that order."""
    told: dict[str, tuple[bool, str]] = {}
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_probe(probe, writing)
    os.close(writing)
    end = ""
    with open(reading, "rb") as pipe:
        data = b""
        while not end:
            if not select.select([pipe], [], [], PATIENCE_S)[0]:
                end = f"stuck for {PATIENCE_S} s"
                continue
            piece = os.read(reading, 65536)
            data += piece
            end = "" if piece else _UNKNOWN
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for line in data.decode().splitlines():
        name, ok, detail = json.loads(line)
        told[name] = (ok, detail)
    findings = []
    for name, needed, advice in expected:
        ok, detail = told.get(name, (False, end))
        findings.append(Finding(name, ok, needed, detail, "" if ok else advice))
    return findings


def _be_probe(probe: Callable[[Report], None], writing: int) -> NoReturn:
    def tell(name: str, ok: bool, detail: str) -> None:
        os.write(writing, json.dumps([name, ok, detail]).encode() + b"\n")

    try:
        probe(tell)
    finally:
        os._exit(0)


@contextmanager
def _step(tell: Report, name: str, detail: str = "works") -> Iterator[None]:
    """Tell how the block went; an error of it is told and then ends the probe."""
    try:
        yield
    except (OSError, InterposerError) as error:
        tell(name, False, str(error))
        raise
    tell(name, True, detail)


def _look_at_proc() -> str:
    if not os.path.exists("/proc/self"):
        raise OSError("it is not mounted")
    with open("/proc/self/status") as status:
        number = next((line.split()[1] for line in status if line.startswith("Pid:")), "")
    if number != str(os.getpid()):
        raise OSError("it is that of another pid namespace")
    os.stat("/proc/self/ns/user")
    return "mounted"


def _try_open_files(tell: Report) -> None:
    """What remains for programs after what the supervisor keeps for itself."""
    with _step(tell, "open files"):
        use_descriptors()
        handles = Budgets().descriptors.left(os.getuid()) // HANDLE_DESCRIPTORS
        if handles < _FEW_HANDLES:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            raise OSError(f"a limit of {limit} leaves a user {handles} handles of kdbus")
    tell("open files", True, f"enough for {handles} handles of one user")


def _look_at_file_sizes() -> str:
    """The memory of pools counts as files, and the view of /sys has one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return "not limited"
    if limit < _SMALL_POOL:
        raise OSError(f"a limit of {limit} bytes leaves no room for a pool of {_SMALL_POOL} bytes")
    return f"pools have at most {limit} bytes"


def _look_at_sys() -> str:
    for folder in ("/sys/fs", "/sys/module"):
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "is there no sysfs at /sys?", folder)
    return "mounted"


def _try_user_namespace(tell: Report) -> None:
    with _step(tell, "user namespace", "allowed"):
        view.enter_user_namespace()


def _try_view(tell: Report) -> None:
    with _step(tell, "mount namespace", "directly"):
        own_user_namespace = view.enter_mount_namespace()
    if own_user_namespace:
        tell("mount namespace", True, "within a user namespace")
    with _step(tell, "view of /sys"):
        view.build(own_user_namespace)


def _try_serving(tell: Report) -> None:
    """Inspect a process that is no descendant of this one, as `kdbus serve` has to, in the namespaces of a program."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            _be_stranger(ours, theirs)
        os._exit(0)
    os.waitpid(middle, 0)
    theirs.close()
    with _step(tell, "serve", "a server can answer this user's programs directly"):
        message = ours.recv(100)
        if not message:
            raise OSError("a process to inspect could not be made")
        try_to_inspect(int(message))


def _be_stranger(ours: socket.socket, theirs: socket.socket) -> NoReturn:
    """Be there until the other side has ended."""
    try:
        ours.close()
        with suppress(InterposerError):  # Another probe tells of it.
            view.enter_mount_namespace()
        theirs.send(b"%d" % os.getpid())
        theirs.recv(1)
    finally:
        os._exit(0)


def _converse(tell: Report) -> None:
    """Be the supervisor of one trapped call."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subject = os.fork()
    if subject == 0:
        _be_subject(theirs)
    theirs.close()
    with _step(tell, "seccomp listener"):
        message, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
        if not descriptors:
            raise OSError(message.decode())
        listener = Listener(descriptors[0])
        notification = listener.receive(PATIENCE_S * 10**9)
        if notification is None:
            raise OSError("the trapped call did not arrive")
    killable = message == b"K"
    tell("wait killable", killable, "works" if killable else "not known to this kernel")
    fast = listener.synchronous_wake_up
    tell("synchronous wake-up", fast, "works" if fast else "not known to this kernel")
    for step in (_read_memory, _give_and_take, _seize):
        try:
            step(tell, listener, notification)
        except OSError:
            continue  # It was told; the other steps do not depend on it.
    with _step(tell, "answer"):
        if not listener.respond_error(notification.id, _ANSWER_ERROR):
            raise OSError("the trapped call was gone")
        if os.waitpid(subject, 0)[1] != 0:
            raise OSError("the trapped call did not return what was answered")


def _be_subject(report_to: socket.socket) -> NoReturn:
    """Be the trapped process: in the namespaces that a program would be in, if they can be had."""
    status = 1
    try:
        with suppress(InterposerError):  # Another probe tells of it; a listener can be had without.
            view.enter_mount_namespace()
        try:
            listener, killable = install_filter(build(this_architecture(), [_TRAP]))
        except InterposerError as error:
            report_to.send(str(error).encode())
        else:
            socket.send_fds(report_to, [b"K" if killable else b"-"], [listener])
            os.close(listener)
            try:
                fcntl.ioctl(0, _TRAPPED_REQUEST, _CALLED_WITH)
            except OSError as error:
                status = 0 if error.errno == _ANSWER_ERROR else 1
    finally:
        os._exit(status)


def _read_memory(tell: Report, _listener: Listener, notification: Notification) -> None:
    with _step(tell, "read target memory"):
        seen = memory.read_string(notification.pid, notification.arguments[2], 100)
        if seen != _CALLED_WITH:
            raise OSError(f"read {seen!r} instead of {_CALLED_WITH!r}")


def _give_and_take(tell: Report, listener: Listener, notification: Notification) -> None:
    """Install one end of a socket pair, recognise it there, and fetch it back."""
    kept, given = socket.socketpair()
    with kept, given, select.epoll() as epoll:
        epoll.register(given, select.EPOLLIN)
        with _step(tell, "install descriptor"):
            number = listener.add_descriptor(notification.id, given.fileno(), close_on_exec=True)
        try:
            with _step(tell, "kcmp"):
                if not identity.can_compare():
                    raise OSError("forbidden, or not known to this kernel")
                if not identity.same_file(notification.pid, number, epoll.fileno(), given.fileno()):
                    raise OSError("the installed descriptor was not recognised")
        finally:
            with _step(tell, "pidfd_getfd"):
                pidfd = identity.pidfd_open(notification.pid)
                fetched = identity.pidfd_getfd(pidfd, number)
                if identity.socket_cookie(fetched) != identity.socket_cookie(given.fileno()):
                    raise OSError("another file was fetched")


def _seize(tell: Report, _listener: Listener, notification: Notification) -> None:
    with _step(tell, "ptrace seize"):
        binding().request(PTRACE_SEIZE, notification.pid, 0, 0)


def _seal_memory() -> str:
    """Do to a memfd what is done to a pool: a mapping made before the seal writes, opening it to write does not."""
    descriptor = os.memfd_create("kdbus-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        with mmap.mmap(descriptor, mmap.PAGESIZE) as mapping:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            mapping[:1] = b"k"
            try:
                os.pwrite(descriptor, b"x", 0)
            except PermissionError:
                return "works"
            raise OSError("the seal does not hold")
    finally:
        os.close(descriptor)


def _setting(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _yama() -> str:
    scope = yama_scope()
    return "not present" if scope is None else f"ptrace_scope {scope}"


def _user_namespace_advice() -> str:
    """What forbids user namespaces to ordinary users, as far as settings tell."""
    obstacles = [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns` for kdbus",
        ),
    ]
    found = [advice for path, forbidding, advice in obstacles if _setting(path) == forbidding]
    if found:
        return f"to allow user namespaces, as root: {'; '.join(found)}"
    return f"{_CONTAINER}, a chroot forbids user namespaces; running as root (CAP_SYS_ADMIN) needs none"
