# SPDX-License-Identifier: GPL-2.0-or-later
"""Each call takes effect once and returns once: a storm of signals over a real bus, counted at both ends, and each way
of guaranteeing it on single trapped calls.

KDBUS_STORM is how many messages the storm sends (3000 by default; a million takes some minutes per test).
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from interposer.errors import UsageError
from interposer.launch.guarantee import VARIABLE, Guarantee, forced
from interposer.traps.exactly_once import Answers
from interposer.traps.probe import Probe, collides
from native.notification import Listener, Notification
from native.seccomp import SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
from tests.support.compiling import compile_program
from tests.support.targets import PATIENCE_NS, Target, start_target, traps_of
from tests.support.users import User

MESSAGES = int(os.environ.get("KDBUS_STORM", "3000"))
SENDERS = 4
CASES = ("every_message_arrives_once", "every_call_is_answered_once")
SECONDS = 60 + MESSAGES // 500
"""How long a storm may last: a tenth of the speed that is usual."""

RESULT = 5


def finally_collides(flags: int) -> bool:
    """What the probe says in the end: on a busy machine some attempts say nothing. Raises OSError as `collides`."""
    while (verdict := collides(flags)) is None:
        continue
    return verdict


@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize("guarantee", ["", "kernel", "confirmed", "held"])
def test_storm(user: User, open_folder: Path, guarantee: str) -> None:
    """Nothing is lost, nothing is doubled, no call says anything but success or a justified EINTR.

    "": what is chosen for this machine; the others are forced.
    """
    if guarantee == "kernel" and finally_collides(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV):
        pytest.skip("this kernel loses answers")
    target = open_folder / "signal_storm"
    program = target if target.exists() else compile_program("signal_storm", open_folder, "-O2")
    environment = [f"STORM_COUNT={MESSAGES // SENDERS}", f"{VARIABLE}={guarantee}"]
    outcome = user.run(["env", *environment, *user.kdbus("run", "--", str(program))], seconds=SECONDS)
    verdicts = [line for line in outcome.output.splitlines() if not line.startswith("#")]
    expected = [f"ok {number} - {case}" for number, case in enumerate(CASES, 1)]
    assert (outcome.status, verdicts) == (0, [*expected, "1..2"]), outcome.output


def test_the_probe_tells_a_kernel_that_loses_answers() -> None:
    """Without the flag every kernel does, in the same order of events."""
    assert finally_collides(0)


def test_the_probe_in_its_child_says_the_same() -> None:
    try:
        verdict = finally_collides(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    except OSError as error:
        pytest.skip(f"this kernel does not know the flag: {error}")
    assert Probe().works() == (not verdict)


def test_a_probe_that_nobody_waits_for() -> None:
    probe = Probe()
    probe.close()
    probe.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_environment_forces_a_guarantee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert forced() is None
    monkeypatch.setenv(VARIABLE, "held")
    assert forced() is Guarantee.HELD
    monkeypatch.setenv(VARIABLE, "perhaps")
    with pytest.raises(UsageError, match="perhaps"):
        forced()


def calling(*requests: int, restarts: bool, expect: list[int]) -> Callable[[], None]:
    """A target that issues these ioctls, catches SIGUSR1, and ends well if the results (-errno) are as expected."""

    def body() -> None:
        caught: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: caught.append(number))
        signal.siginterrupt(signal.SIGUSR1, not restarts)
        ioctl = ctypes.CDLL(None, use_errno=True).ioctl
        results = []
        for request in requests:
            value = ioctl(-1, request, 0)
            results.append(value if value >= 0 else -ctypes.get_errno())
        if results != expect or len(caught) != 1:
            raise AssertionError(f"results {results}, signals {caught}")

    return body


def interrupt(target: Target, notification: Notification) -> None:
    """Send SIGUSR1, and wait until it has ended the call's wait."""
    os.kill(target.pid, signal.SIGUSR1)
    stop = time.monotonic_ns() + PATIENCE_NS
    while target.listener.is_valid(notification.id):
        assert time.monotonic_ns() < stop, "the signal does not interrupt the call"
        os.sched_yield()


def test_held_call_keeps_its_result_whatever_the_handler_says() -> None:
    target = start_target(calling(0x9501, 0x9501, restarts=False, expect=[RESULT, -3]), traps_of("ioctl"))
    answers = Answers(target.listener, Guarantee.HELD)
    first = target.next()
    assert answers.begin(first)
    assert answers.holds(first)
    interrupt(target, first)
    answers.value(first, RESULT)
    second = target.next()
    assert answers.begin(second)
    answers.error(second, 3)
    assert target.wait() == 0
    answers.close()


def test_held_call_that_is_let_go_starts_again() -> None:
    target = start_target(calling(0x9501, restarts=True, expect=[RESULT]), traps_of("ioctl"))
    answers = Answers(target.listener, Guarantee.HELD)
    first = target.next()
    assert answers.begin(first)
    interrupt(target, first)
    answers.leave()
    again = target.next()
    assert (again.arguments, again.instruction_pointer) == (first.arguments, first.instruction_pointer)
    assert not answers.holds(again)
    assert answers.begin(again)
    answers.value(again, RESULT)
    assert target.wait() == 0


def test_call_that_was_interrupted_before_it_could_be_held_is_not_served() -> None:
    target = start_target(calling(0x9501, restarts=True, expect=[RESULT]), traps_of("ioctl"))
    answers = Answers(target.listener, Guarantee.HELD)
    first = target.next()
    interrupt(target, first)
    assert not answers.begin(first)
    again = target.next()
    assert answers.begin(again)
    answers.value(again, RESULT)
    assert target.wait() == 0


def test_held_thread_may_die() -> None:
    target = start_target(calling(0x9501, restarts=True, expect=[RESULT]), traps_of("ioctl"))
    answers = Answers(target.listener, Guarantee.HELD)
    first = target.next()
    assert answers.begin(first)
    os.kill(target.pid, signal.SIGKILL)
    answers.value(first, RESULT)
    assert target.wait() == -signal.SIGKILL


def test_result_that_could_not_be_given_is_remembered() -> None:
    target = start_target(calling(0x9501, 0x9501, restarts=True, expect=[RESULT, 6]), traps_of("ioctl"))
    answers = Answers(target.listener, Guarantee.REMEMBERED)
    first = target.next()
    assert answers.begin(first)
    interrupt(target, first)
    answers.value(first, RESULT)
    assert not answers.begin(target.next())
    # Just once: the next one looks the same, and is another call.
    second = target.next()
    assert answers.begin(second)
    answers.value(second, 6)
    assert target.wait() == 0


def test_another_call_does_not_get_what_is_remembered() -> None:
    target = start_target(calling(0x9501, 0x9502, restarts=False, expect=[-4, 6]), traps_of("ioctl"))
    answers = Answers(target.listener, Guarantee.REMEMBERED)
    first = target.next()
    assert answers.begin(first)
    interrupt(target, first)
    answers.value(first, RESULT)
    second = target.next()
    assert answers.begin(second)
    answers.value(second, 6)
    assert target.wait() == 0


def test_error_is_not_remembered_as_the_call_has_done_nothing() -> None:
    target = start_target(calling(0x9501, restarts=True, expect=[RESULT]), traps_of("ioctl"))
    answers = Answers(target.listener, Guarantee.REMEMBERED)
    first = target.next()
    assert answers.begin(first)
    interrupt(target, first)
    answers.error(first, 14)
    again = target.next()
    assert answers.begin(again)
    answers.value(again, RESULT)
    assert target.wait() == 0


@pytest.mark.parametrize("guarantee", [Guarantee.KERNEL, Guarantee.CONFIRMED])
def test_received_call_waits_for_its_answer(guarantee: Guarantee) -> None:
    body = calling(0x9501, 0x9501, restarts=False, expect=[RESULT, -3])
    target = start_target(body, traps_of("ioctl"), SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    answers = Answers(target.listener, guarantee)
    first = target.next()
    assert answers.begin(first)
    os.kill(target.pid, signal.SIGUSR1)
    answers.value(first, RESULT)
    second = target.next()
    assert answers.begin(second)
    answers.error(second, 3)
    assert target.wait() == 0


def test_confirmed_thread_waits_for_death_only_when_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """In state D, in which no signal wakes it, instead of S; and nothing has changed in its descriptors."""
    before = os.listdir(f"/proc/{os.getpid()}/fd")

    def body() -> None:
        ctypes.CDLL(None).ioctl(-1, 0x9501, 0)

    target = start_target(body, traps_of("ioctl"), SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    states = []
    respond_value = Listener.respond_value

    def respond_and_look(listener: Listener, id: int, value: int) -> bool:
        states.append(Path(f"/proc/{target.pid}/stat").read_text().rpartition(") ")[2][0])
        states.append(str(len(os.listdir(f"/proc/{target.pid}/fd"))))
        return respond_value(listener, id, value)

    monkeypatch.setattr(Listener, "respond_value", respond_and_look)
    answers = Answers(target.listener, Guarantee.CONFIRMED)
    first = target.next()
    descriptors = str(len(os.listdir(f"/proc/{target.pid}/fd")))
    assert answers.begin(first)
    answers.value(first, RESULT)
    assert states == ["D", descriptors]
    assert target.wait() == 0
    target.listener.close()
    answers.close()
    assert os.listdir(f"/proc/{os.getpid()}/fd") == before


def test_confirmation_of_a_dead_thread() -> None:
    body = calling(0x9501, restarts=False, expect=[RESULT])
    target = start_target(body, traps_of("ioctl"), SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    answers = Answers(target.listener, Guarantee.CONFIRMED)
    first = target.next()
    os.kill(target.pid, signal.SIGKILL)
    assert target.wait() == -signal.SIGKILL
    answers.value(first, RESULT)
    assert target.at_end()
