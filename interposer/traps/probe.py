# SPDX-License-Identifier: GPL-2.0-or-later
"""The probe: whether this kernel's waits for an answer are broken off by death only, as it says they are.

Until late 2025 they were not always (`interposer.traps.exactly_once`, CONFIRMED). The version of a kernel does not
tell, as distributors repair theirs; so it is tried, in a child, while others are served already.

The probe (`collides`) needs a rare order of events, and gets it without luck. Threads A and B are trapped and received.
B is given a descriptor that does not fit in its table; the table of a process with several threads grows only after an
RCU grace period, some milliseconds, during which B holds the lock of all notifications. First the answer to A, then A
itself, woken by a signal, queue for that lock; then B lets go. The probe believes what it sees only if it saw both of
them in the queue.

Weakness: where it sees nothing (no /proc/self/task/TID/syscall, RCU always expedited), CONFIRMED stays: 15 us per trap.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from interposer.launch.filter import Trap, build, this_architecture
from native import seccomp
from native.notification import Listener, Notification

_WORKS, _COLLIDES, _UNKNOWN = b"w", b"c", b"?"
_PROBE_S = 5
"""When an attempt that is stuck is killed, in seconds, and the probe with it."""
_PAUSES_S = (*[0.0] * 20, *(0.125 * 2**number for number in range(8)))
"""Before each attempt: many follow each other at once, and then fewer and fewer, for half a minute."""
_STEP_NS = 200_000_000
"""How long the probe waits for each of its conditions."""
_ANSWER = 77


class Probe:
    """A child that finds out whether this kernel's flag is free of the hole.

    To be started by a process of one thread, and before there are descriptors whose last close matters.
    """

    def __init__(self) -> None:
        self._pipe, theirs = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _survive_nobody()
                os.dup2(theirs, 0)
                os.closerange(1, 1 << 16)
                verdict = next(filter(lambda each: each is not None, _attempts()), None)
                os.write(0, _UNKNOWN if verdict is None else _COLLIDES if verdict else _WORKS)
            finally:
                os._exit(0)
        os.close(theirs)

    def fileno(self) -> int:
        """A descriptor that is readable when the verdict is there."""
        return self._pipe

    def has_verdict(self) -> bool:
        """Whether the verdict is there."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        return bool(poll.poll(0))

    def works(self) -> bool:
        """Whether the flag is free of the hole; False also when that could not be found out. Once, and waits."""
        verdict = os.read(self._pipe, 1)
        self.close()
        return verdict == _WORKS

    def close(self) -> None:
        """End the child, if it is still there. Idempotent."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _attempts() -> Iterator[bool | None]:
    """What one attempt after the other says. On a busy machine it takes several, and a calmer moment."""
    for pause in _PAUSES_S:
        signal.alarm(0)
        time.sleep(pause)  # in a child that nobody waits for
        signal.alarm(_PROBE_S)
        yield collides(seccomp.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)


def _survive_nobody() -> None:
    """End with the parent, and in any case soon. Standard output and error are left alone by closing them."""
    seccomp.set_parent_death_signal(signal.SIGKILL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_PROBE_S)


def collides(flags: int) -> bool | None:
    """Whether a thread under a filter with `flags` loses an answer to a signal that came just before it.

    None if the order of events could not be brought about. Takes as long as an RCU grace period (5 to 30 ms).
    Raises OSError if no filter may be installed, or not with these flags.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            _survive_nobody()
            ours.close()
            _be_probed(theirs, flags)
        finally:
            os._exit(0)
    theirs.close()
    try:
        with ours:
            report, descriptors, _, _ = socket.recv_fds(ours, 16, 1, socket.MSG_CMSG_CLOEXEC)
            if not descriptors:
                number = int(report or b"5")
                raise OSError(number, f"install a seccomp filter: {os.strerror(number)}")
            with Listener(descriptors[0]) as listener:
                return _Collision(listener, child, ours).provoke()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _be_probed(report: socket.socket, flags: int) -> None:
    """The process with the threads A and B. Reports its listener, and then the result of A's call."""
    signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    architecture = this_architecture()
    program = build(architecture, [Trap("ioctl")])
    seccomp.set_no_new_privileges()
    try:
        listener = seccomp.install_filter(program, flags)
    except OSError as error:
        report.send(b"%d" % (error.errno or errno.EIO))
        return
    socket.send_fds(report, [b"+"], [listener])
    os.close(listener)
    ioctl = ctypes.CDLL(None, use_errno=True).ioctl
    results: list[int] = []

    def first() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        results.append(ioctl(-1, ord("A"), 0))

    threads = [threading.Thread(target=first), threading.Thread(target=lambda: ioctl(-1, ord("B"), 0), daemon=True)]
    for thread in threads:
        thread.start()
    threads[0].join()
    report.send(b"%d" % results[0])
    # The parent kills this process when it has read that.
    signal.pause()


@dataclass
class _Collision:
    """The order of events that the essay describes, brought about from outside."""

    listener: Listener
    process: int
    report: socket.socket

    def provoke(self) -> bool | None:
        received = {}
        for _ in "AB":
            notification = self.listener.receive(_STEP_NS)
            if notification is None:
                return None
            received[chr(notification.arguments[1] & 0xFF)] = notification
        a, b = received["A"], received["B"]
        blocker = _Background(lambda: self._grow_table(b))
        if not (blocker.is_in_ioctl() and self._is_blocked(b)):
            return None
        answer = _Background(lambda: self.listener.respond_value(a.id, _ANSWER))
        if not answer.is_in_ioctl():
            return None
        os.kill(self.process, signal.SIGUSR1)
        if not self._is_blocked(a) or answer.ended or blocker.ended:
            return None
        answer.join()
        result = self.report.recv(16)
        return int(result) != _ANSWER if result else None

    def _grow_table(self, notification: Notification) -> None:
        # Its soft limit of open files is what we have inherited together; the last number needs the largest table.
        last = os.sysconf("SC_OPEN_MAX") - 1
        number = min(last, 1 << 16)
        try:
            self.listener.add_descriptor(notification.id, self.report.fileno(), close_on_exec=True, at=number)
        except OSError:
            return

    def _is_blocked(self, notification: Notification) -> bool:
        path = f"/proc/{notification.pid}/stat"
        return _wait_until(lambda: _read(path).rpartition(b") ")[2][:1] == b"D")


class _Background(threading.Thread):
    """A thread that makes one call on the listener."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.ended = False
        self.start()

    def run(self) -> None:
        self._call()
        self.ended = True

    def is_in_ioctl(self) -> bool:
        """Waits until the thread is blocked in an ioctl; False if that does not come."""
        number = b"%d " % this_architecture().system_calls["ioctl"]
        return _wait_until(lambda: self.ended or self._call_in_progress().startswith(number)) and not self.ended

    def _call_in_progress(self) -> bytes:
        return _read(f"/proc/self/task/{self.native_id}/syscall")


def _wait_until(condition: Callable[[], bool]) -> bool:
    stop = time.monotonic_ns() + _STEP_NS
    while not condition():
        if time.monotonic_ns() > stop:
            return False
        os.sched_yield()
    return True


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(512)
    except OSError:
        return b""
