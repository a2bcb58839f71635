# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of `--inject`: what they mean, and that others are refused with what there is."""

from __future__ import annotations

import errno

import pytest

from tracing.faults import BadFault, Effect, parse


def hit(text: str) -> list[int]:
    """Which of the first ten calls are hit."""
    fault = parse(text)
    return [number for number in range(1, 11) if fault.hits(number)]


@pytest.mark.parametrize(
    ("when", "numbers"),
    [
        ("", list(range(1, 11))),
        (":when=3", [3]),
        (":when=3+", [3, 4, 5, 6, 7, 8, 9, 10]),
        (":when=3+4", [3, 7]),
        (":every=3", [3, 6, 9]),
        (":every=1", list(range(1, 11))),
        (":first=2", [1, 2]),
    ],
)
def test_which_calls_are_hit(when: str, numbers: list[int]) -> None:
    assert hit(f"SEND:errno=EIO{when}") == numbers


def test_what_happens() -> None:
    fault = parse("send,Recv:errno=enobufs:delay=20ms:name=org.example.X")
    assert fault.commands == {"SEND", "RECV"} and fault.name == "org.example.X"
    assert (fault.effect, fault.errno, fault.delay_ns) == (Effect.FAIL, errno.ENOBUFS, 20_000_000)
    assert parse("HELLO:delay=500us").delay_ns == 500_000
    assert parse("RECV:die").effect is Effect.DIE
    assert parse("NAME_ACQUIRE:errno=EMEDIUMTYPE").errno == 124


def test_which_processes() -> None:
    assert parse("SEND:die:process=client").is_for("client") and not parse("SEND:die:process=client").is_for("other")
    assert not parse("SEND:die:process=!client").is_for("client") and parse("SEND:die:process=!client").is_for("other")
    assert parse("SEND:die").is_for("client") and parse("SEND:die:process=a-long-name-of-22-bytes").is_for(
        "a-long-name-of-"
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "names no command; there are BUS_MAKE, "),
        (":errno=EIO", "names no command"),
        ("SEND:", "there is no word ''"),
        ("SEND:errno", "errno= needs a value"),
        ("SEND:errno=", "errno= needs a value"),
        ("RECV:die=1", "die takes no value"),
        ("RECV:die:lost", "has die and lost, a call meets one of them"),
        ("RECV:lost:delay=1s", "delay goes with errno alone"),
        ("SEND:lost", "lost is for RECV alone"),
        ("SEND,RECV:incomplete", "incomplete is for RECV alone"),
        ("SEND:errno=EIO:errno=EIO", "errno is given twice"),
        ("SEND:errno=EIO:every=2:first=3", "every and first both say which calls are meant"),
        ("SEND:errno=EIO:every=0", "every=0 is not a number from 1"),
        ("SEND:errno=EIO:first=2+", "first=2+ is not a number from 1"),
        ("SEND:errno=EIO:when=x", "when=x is not a number from 1, N+ or N+STEP"),
        ("SEND:delay=5", "delay=5 is no time up to 60 s"),
        ("SEND:delay=61s", "delay=61s is no time up to 60 s"),
        ("SEND:every=2", "does not say what shall happen"),
        ("SEND:errno=105", "there is no errno '105'"),
    ],
)
def test_what_is_refused(text: str, part: str) -> None:
    with pytest.raises(BadFault) as caught:
        parse(text)
    assert part in str(caught.value)
