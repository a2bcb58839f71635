# SPDX-License-Identifier: GPL-2.0-or-later
"""Mapping a pool in a target: the one thing that a seccomp notification cannot do, done with ptrace.

A thread traps with mmap(2) on a kdbus handle. The handle is a socket, so the kernel could not execute the call; it has
to be executed by the thread itself, on the pool's memfd. `inject_mapping` seizes the thread, makes it execute its own
mmap with another descriptor, and lets it go with the result. The order of the steps is what keeps targets alive:

1.  PTRACE_SEIZE. It changes nothing that the thread or its notification would notice, but from here on no signal
    handler can run unseen: every way out of the kernel leads through a stop. EPERM (somebody traces the thread already)
    is found out before anything has happened; likewise that nobody can, as another thread is in the middle of an
    execve(2) which does not get on (`native.seize`).
2.  Install the read-only descriptor of the pool. If it succeeds, the thread was still in its trap; if not, nothing is
    left behind in the target.
3.  PTRACE_INTERRUPT, and only then the answer -ENOSYS, so that the stop comes before the thread is back in user mode.
4.  Wait for the stop. Go on only if the thread stands right behind its mmap with a result of -ENOSYS, or of a call that
    a signal cut short: without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, the interrupt itself ends the wait, and the
    answer comes too late. Neither has executed anything.
5.  Block all signals, so that no handler runs in the middle.
6.  Execute `mmap` and then `close` of the installed descriptor: registers set to the arguments, instruction pointer
    back on the system call instruction, PTRACE_SYSCALL to the entry and to the exit. The injected mmap is trapped
    itself, as it is shared and of a file; its notification is answered with CONTINUE. A result of -512 to -516 means
    that a stop came in between: once more.
7.  Registers back, with the result in place, signal mask back, detach.

Why PTRACE_SYSCALL and not PTRACE_SINGLESTEP, which needs half of the stops: the kernel reports a finished step by
forcing a SIGTRAP on the thread, and a forced signal that is blocked or ignored has its disposition reset to the
default. A program with a SIGTRAP handler would lose it, and die of its next breakpoint. Stops at system calls
(marked by PTRACE_O_TRACESYSGOOD) are no signals and leave nothing behind. They cannot be mistaken for a signal sent
by somebody, either.

Other stops may come at any time. A stop that announces a signal is passed with that signal: the kernel puts a blocked
one back among the pending, and lets SIGSTOP, which cannot be blocked, take its normal course: the group stops, we
resume our thread alone, and detaching puts it to sleep with the others, unless a SIGCONT has come meanwhile.
Remembering a SIGSTOP until the detach instead would stop the target for ever if its SIGCONT came in between.

Waiting alternates between waitid(2) and the listener, since the injected mmap cannot proceed before its
notification is answered. What arrives for other threads goes to `pump`. Nothing announces a stop to a poll(2), so the
listener is waited for with short timeouts that grow. waitid(2) is asked not to consume anything (WNOWAIT): the exit
status of a process that is the supervisor's own child must stay for whoever waits for it.

When another thread executes a program, a seized leader vanishes without a word, and its number goes on with the
new program. So, when a stop takes long, `TracerPid` is looked at.

Alternatives: mapping at `open`, ahead of any need, or running code written into the target: both touch memory that is
not ours to touch.

Weaknesses: a target at its limit of open files gets EMFILE from mmap, which the original never gave. ptrace requests
must come from the thread that seized, so everything is done in one go, and nobody else is served for some 0.2 ms. No
other thread may receive from the listener meanwhile. The aarch64 table was run in an
emulator alone.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from interposer.injection.binding import binding
from interposer.injection.registers import LAYOUTS, RegisterLayout
from interposer.target.ids import lines_of, read_file
from native import memory
from native.deputies import Stalled
from native.notification import EndOfTargets, Listener, Notification
from native.seize import seize

# linux/ptrace.h. Numbers, since what is used of python-ptrace may be missing (interposer.injection.binding).
PTRACE_SYSCALL = 24
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_GETSIGMASK = 0x420A
PTRACE_SETSIGMASK = 0x420B
PTRACE_O_TRACESYSGOOD = 0x1
PTRACE_O_EXITKILL = 0x100000
SYSCALL_STOP = 0x80 | 5
"""SIGTRAP with the bit that PTRACE_O_TRACESYSGOOD adds."""
WALL = 0x40000000
"""__WALL, wait(2): children of any kind."""
RED_ZONE = 128
"""Bytes below the stack pointer that belong to the program on x86-64 (its psABI); other machines have less."""
YIELDS = 200
"""How often a stop is looked for at once, before pauses begin."""
SHORTEST_PAUSE_NS = 50_000
LONGEST_PAUSE_NS = SHORTEST_PAUSE_NS << 8
INTERRUPTED = frozenset({errno.ENOENT, errno.ESRCH})
"""Why a descriptor is not installed in a thread that has left its trap: before the attempt, or in the middle of it."""
RESTART_RESULTS = range(-516, -511)
"""-ERESTARTSYS to -ERESTART_RESTARTBLOCK: results of a call that a signal or a stop cut short."""


class Outcome(enum.Enum):
    """How an injection ended."""

    MAPPED = enum.auto()
    """The thread has the pool mapped; `value` is the address."""
    REFUSED = enum.auto()
    """The thread's mmap has failed; `value` is -errno."""
    CALLER_GONE = enum.auto()
    """The thread has ended, or was interrupted before anything was done; if it lives, its mmap will trap again."""
    ALREADY_TRACED = enum.auto()
    """Nothing was done and the notification is still unanswered: the thread may not be seized."""


@dataclass(frozen=True, slots=True)
class InjectionResult:
    """`value` is what mmap(2) returned to the thread; 0 where the outcome has none."""

    outcome: Outcome
    value: int = 0


Pump = Callable[[Notification], None]

Arguments = tuple[int, ...]
"""Six registers."""
InjectedCall = Callable[[RegisterLayout, int, int], tuple[int, Arguments]]
"""Number and arguments of the call to inject. Given: the layout, the number of the installed descriptor in the target,
and the address there of the text `/proc/self/fd/N` for it, 0 if there is none."""


class _Gone(Exception):
    """The thread has ended, or is not ours any more."""


def prepare() -> None:
    """Import python-ptrace ahead of the first injection, which otherwise pays some 20 ms for it."""
    binding()


def inject_mapping(
    listener: Listener,
    notification: Notification,
    descriptor: int,
    pump: Pump,
    arguments: tuple[int, ...] | None = None,
) -> InjectionResult:
    """Let the thread that trapped with mmap(2) map `descriptor` instead, its other arguments as they are.

    `notification`: received from `listener`, not yet answered, of a call to mmap whose protection and size have been
    found acceptable. `descriptor`: of this process, opened read-only. `pump` is called afterwards with each
    notification of other threads that arrived meanwhile, in order. `arguments`: the six of mmap, where the trapped call
    has them in memory (mmap of i386).

    Unless the outcome is ALREADY_TRACED, the notification is answered and the thread has its result. Raises KeyError
    if the architecture has no table, OSError if ptrace fails as it should not.
    """
    given = notification.arguments if arguments is None else arguments

    def mmap(layout: RegisterLayout, installed: int, _text: int) -> tuple[int, Arguments]:
        return layout.mmap, (*given[:4], installed, given[5])

    return inject(listener, notification, descriptor, pump, mmap)


def inject(
    listener: Listener,
    notification: Notification,
    descriptor: int,
    pump: Pump,
    call: InjectedCall,
    *,
    with_text: bool = False,
) -> InjectionResult:
    """Let a trapped thread execute another call instead of its own, on `descriptor`, of which it gets a duplicate.

    The duplicate is closed again. `with_text`: put its name in /proc below the thread's stack, for the time of the
    call, which cannot be told by a program that keeps to the ABI. All else as in `inject_mapping`.
    """
    thread: SeizedThread | None = None
    try:
        thread = SeizedThread(listener, notification, pump)
        return thread.execute(descriptor, call, with_text=with_text)
    except PermissionError:
        # Exiting threads may not be seized either.
        gone = not listener.is_valid(notification.id)
        return InjectionResult(Outcome.CALLER_GONE if gone else Outcome.ALREADY_TRACED)
    except _Gone:
        return InjectionResult(Outcome.CALLER_GONE)
    finally:
        if thread is not None:
            thread.pump_others()


def hold(listener: Listener, notification: Notification, pump: Pump) -> SeizedThread | None:
    """Seize a thread in its trap, so that it cannot leave it unseen; None if it has left it already, or has ended.

    Then the call can take effect, and `SeizedThread.finish` gives its result, or `release` lets the thread go. `pump`
    as in `inject_mapping`. Raises PermissionError if the thread may not be seized, KeyError as `inject_mapping` does.
    """
    if not listener.is_valid(notification.id):
        # Seizing for nothing takes so long that under frequent signals the next call would be given up as well.
        return None
    try:
        thread = SeizedThread(listener, notification, pump)
        if listener.is_valid(notification.id):
            return thread
        thread.release()
    except _Gone:
        pass
    return None


@dataclass(frozen=True, slots=True)
class _Stop:
    """A ptrace stop: `signal` as wait(2) reports it, `event` a PTRACE_EVENT_* or 0."""

    signal: int
    event: int

    @property
    def is_call(self) -> bool:
        """Entry or exit of a system call."""
        return self.signal == SYSCALL_STOP

    @property
    def signal_to_pass(self) -> int:
        """The signal that this stop announces, which takes its course when the thread is resumed with it."""
        return 0 if self.event or self.is_call else self.signal


class SeizedThread:
    """The trapped thread of `notification`, seized. Made by `hold` and `inject_mapping`.

    Every method raises _Gone once the thread has ended; it has been reaped, or will be, by then.
    The constructor raises PermissionError if the thread cannot be seized. `pump_others` hands over what came meanwhile.

    Invariant: `_stop` is the stop that the thread is in whenever registers are read or written.
    """

    def __init__(self, listener: Listener, notification: Notification, pump: Pump) -> None:
        self._pump = pump
        self._listener = listener
        self.notification = notification
        self._layout = LAYOUTS[notification.architecture]
        self._others: list[Notification] = []
        self._id = notification.pid
        self._installed = -1
        self._executing = -1
        self._ptrace = binding()
        self._call(self._seize)

    def _seize(self) -> None:
        try:
            seize(self._id, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD)
        except TimeoutError as error:
            raise PermissionError(errno.EPERM, "its process is executing a program, and not getting on") from error

    def execute(self, descriptor: int, call: InjectedCall, *, with_text: bool) -> InjectionResult:
        """Steps 2 to 7 of the procedure above."""
        failure = 0
        try:
            self._installed = self._listener.add_descriptor(self.notification.id, descriptor, close_on_exec=True)
        except OSError as error:
            failure = error.errno or errno.EIO
        self._request(PTRACE_INTERRUPT)
        answered = self._listener.respond_error(self.notification.id, errno.ENOSYS)
        self._stop = self._wait()
        registers = self._registers()
        if failure in INTERRUPTED or not self._is_behind_call(registers):
            # A signal came before everything, or the thread is where no thread should be: we have no business here.
            self._request(PTRACE_DETACH, 0, self._stop.signal_to_pass)
            return InjectionResult(Outcome.REFUSED, -errno.ENOSYS) if answered else InjectionResult(Outcome.CALLER_GONE)
        value = -failure if failure else self._execute_on_installed(registers, call, with_text)
        self._set_registers(registers, {self._layout.result: value}, self.notification.instruction_pointer)
        self._request(PTRACE_DETACH, 0, self._stop.signal_to_pass)
        return InjectionResult(Outcome.REFUSED if -4096 < value < 0 else Outcome.MAPPED, value)

    def finish(self, value: int) -> None:
        """Let the held call return `value` (-errno for an error), even if a signal has cut it short, and let go."""
        with suppress(_Gone):
            self._request(PTRACE_INTERRUPT)
            self._listener.respond_value(self.notification.id, value)
            self._stop = self._wait()
            registers = self._registers()
            if self._is_cut_short(registers):
                self._set_registers(registers, {self._layout.result: value}, self.notification.instruction_pointer)
            self._request(PTRACE_DETACH, 0, self._stop.signal_to_pass)
        self.pump_others()

    def release(self) -> None:
        """Let the held thread go as it is: a call that is not answered yet starts again."""
        with suppress(_Gone):
            self._request(PTRACE_INTERRUPT)
            self._stop = self._wait()
            self._request(PTRACE_DETACH, 0, self._stop.signal_to_pass)
        self.pump_others()

    def pump_others(self) -> None:
        """Hand over the notifications of other threads that arrived while this one was waited for."""
        while self._others:
            self._pump(self._others.pop(0))

    def _is_cut_short(self, registers: Any) -> bool:
        """Whether the thread is about to restart the trapped call, or to have it fail with EINTR."""
        layout, trapped = self._layout, self.notification
        position = getattr(registers, layout.instruction_pointer)
        if position == trapped.instruction_pointer:
            return self._result(registers) in RESTART_RESULTS
        return layout.rewinds and position == trapped.instruction_pointer - layout.instruction_size

    def _execute_on_installed(self, registers: Any, call: InjectedCall, with_text: bool) -> int:
        """Steps 5 and 6: the result of the call on the installed descriptor, which is closed again."""
        mask = ctypes.c_uint64()
        everything = ctypes.c_uint64(2**64 - 1)
        self._request(PTRACE_GETSIGMASK, ctypes.sizeof(mask), ctypes.addressof(mask))
        self._request(PTRACE_SETSIGMASK, ctypes.sizeof(everything), ctypes.addressof(everything))
        try:
            with self._text(registers) if with_text else nullcontext(0) as text:
                value = self._execute(registers, *call(self._layout, self._installed, text))
        except OSError as error:
            value = -(error.errno or errno.EIO)
        self._execute(registers, self._layout.close, (self._installed, 0, 0, 0, 0, 0))
        self._request(PTRACE_SETSIGMASK, ctypes.sizeof(mask), ctypes.addressof(mask))
        return value

    @contextmanager
    def _text(self, registers: Any) -> Iterator[int]:
        """The name of the installed descriptor in the thread's memory, beyond the red zone of its stack.

        Raises OSError if there is no stack.
        """
        text = b"/proc/self/fd/%d\0" % self._installed
        address = (int(getattr(registers, self._layout.stack_pointer)) - RED_ZONE - len(text)) & ~0xF
        try:
            found = memory.read(self._id, address, len(text))
            memory.write(self._id, address, text)
        except Stalled as stalled:
            raise OSError(errno.EFAULT, "the stack does not come") from stalled
        try:
            yield address
        finally:
            with suppress(Stalled):
                memory.write(self._id, address, found)

    def _is_behind_call(self, registers: Any) -> bool:
        """Whether the thread has just left the trapped mmap, without having executed it."""
        layout, trapped = self._layout, self.notification
        position = getattr(registers, layout.instruction_pointer)
        arguments = tuple(getattr(registers, name) for name in layout.arguments)
        if position == trapped.instruction_pointer:
            # The result may have replaced the first argument.
            first = 1 if layout.result == layout.arguments[0] else 0
            result = self._result(registers)
            unexecuted = result == -errno.ENOSYS or result in RESTART_RESULTS
            return unexecuted and arguments[first:] == trapped.arguments[first:]
        rewound = layout.rewinds and position == trapped.instruction_pointer - layout.instruction_size
        return rewound and arguments == trapped.arguments

    def _result(self, registers: Any) -> int:
        """The result register: an address, or -errno."""
        value = int(getattr(registers, self._layout.result)) % (1 << self._layout.bits)
        return value if value < (1 << self._layout.bits) - 4095 else value - (1 << self._layout.bits)

    def _execute(self, registers: Any, number: int, arguments: tuple[int, ...]) -> int:
        """Let the thread execute the system call `number`; returns its result."""
        layout = self._layout
        values = {**dict(zip(layout.arguments, arguments, strict=True)), layout.number: number}
        start = self.notification.instruction_pointer - layout.instruction_size
        self._executing = number
        while True:
            self._set_registers(registers, values, start)
            self._run_to_call_stop()
            self._run_to_call_stop()
            result = self._result(self._registers())
            if result not in RESTART_RESULTS:
                return result

    def _set_registers(self, registers: Any, values: dict[str, int], instruction_pointer: int) -> None:
        """Set all registers: as in `registers`, but for `values` and the position."""
        fresh = type(registers).from_buffer_copy(registers)
        for name, value in values.items():
            setattr(fresh, name, value % 2**64)
        setattr(fresh, self._layout.instruction_pointer, instruction_pointer)
        if self._layout.call_in_progress is not None:
            setattr(fresh, self._layout.call_in_progress, 2**64 - 1)
        self._call(lambda: self._ptrace.set_registers(self._id, fresh))

    def _run_to_call_stop(self) -> None:
        while True:
            self._request(PTRACE_SYSCALL, 0, self._stop.signal_to_pass)
            self._stop = self._wait()
            if self._stop.is_call:
                return

    def _wait(self) -> _Stop:
        """Wait for the next stop, serving the listener meanwhile."""
        rounds = 0
        while True:
            found = self._look()
            if found is not None:
                return found
            # A stop mostly comes within microseconds, once the thread has a processor: give up ours.
            if rounds < YIELDS:
                os.sched_yield()
                self._serve(0)
            else:
                pause = min(LONGEST_PAUSE_NS, SHORTEST_PAUSE_NS << rounds - YIELDS)
                self._serve(pause)
                if pause == LONGEST_PAUSE_NS and not self._is_ours():
                    raise _Gone
            rounds += 1

    def _look(self) -> _Stop | None:
        """The stop that the thread is in, if it is in one."""
        try:
            found = os.waitid(os.P_PID, self._id, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | WALL)
        except ChildProcessError:
            raise _Gone from None
        if found is None:
            return None
        if found.si_code == os.CLD_TRAPPED:
            return _Stop(found.si_status & 0xFF, found.si_status >> 8)
        if found.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
            self._bury()
            raise _Gone
        return None

    def _serve(self, timeout_ns: int) -> None:
        """Take one notification, waiting up to `timeout_ns`: let our own injected call through, keep the others."""
        try:
            found = self._listener.receive(timeout_ns)
        except EndOfTargets:
            self._bury()
            raise _Gone from None
        if found is None:
            return
        if found.pid == self._id and found.number == self._executing:
            # False when a stop has just cut the call short; it will come again.
            self._listener.respond_continue(found.id)
        else:
            self._others.append(found)

    def _is_ours(self) -> bool:
        """Whether this thread number is still traced by this very thread."""
        try:
            text = read_file(f"/proc/{self._id}/status")
        except OSError:
            return False
        return int(text.partition(b"\nTracerPid:")[2].split(None, 1)[0]) == threading.get_native_id()

    def _request(self, request: int, address: int = 0, data: int = 0) -> None:
        self._call(lambda: self._ptrace.request(request, self._id, address, data))

    def _registers(self) -> Any:
        return self._call(lambda: self._ptrace.registers(self._id))

    def _call(self, function: Callable[[], Any]) -> Any:
        """Ask something of ptrace(2), which may find that the thread has ended."""
        try:
            return function()
        except ProcessLookupError:
            self._bury()
            raise _Gone from None
        except OSError as error:
            number = error.errno or errno.EIO
            raise OSError(number, f"trace thread {self._id}: {os.strerror(number)}") from error

    def _bury(self) -> None:
        """See to it that the ended thread does not stay a zombie because of us.

        The supervisor's own child is left to whoever waits for it. Any other thread is ours to reap, which may have to
        wait, for a core dump say: so another thread waits for it.
        """
        try:
            text = read_file(f"/proc/{self._id}/status")
        except OSError:
            return
        fields = dict(line.split(b":", 1) for line in lines_of(text))
        if int(fields[b"Tgid"]) == self._id and int(fields[b"PPid"]) == os.getpid():
            return
        threading.Thread(target=_reap, args=(self._id,), daemon=True).start()


def _reap(thread_id: int) -> None:
    # ECHILD: it was never seized, or has vanished without a trace (see "executes a program" above).
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, thread_id, os.WEXITED | WALL)
