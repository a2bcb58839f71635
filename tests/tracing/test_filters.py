# SPDX-License-Identifier: GPL-2.0-or-later
"""Filters choose records, and a word that names nothing is refused with what there is."""

from __future__ import annotations

import struct

import pytest

from broker import errors
from broker import final as behaviour
from kdbus.abi.revision import FINAL, Kind
from tracing.errnos import OF_KDBUS, errno_name
from tracing.filters import BadFilter, Filter
from tracing.record import Event, Phase, Record
from tracing.shown import show

NAME = FINAL.build(Kind.NAME, b"org.example.A\0")
ACQUIRE = Record(Event.CALL, 1, 0, 0, command="NAME_ACQUIRE", revision="final", connection=1)
ACQUIRE.before = struct.pack("<3Q", 24 + len(NAME), 0, 0) + NAME
SEND = Record(Event.CALL, 2, 0, 0, command="SEND", connection=1, peer=2, names={2: ["org.example.B"]}, errno=105)
RECV = Record(Event.CALL, 3, 0, 0, command="RECV", connection=2, peer=1, errno=11)
WAITS = Record(Event.CALL, 4, 0, 0, command="SEND", connection=3, phase=Phase.WAITS)
CLOSE = Record(Event.CLOSE, 5, 0, 0, connection=1)
DROPPED = Record(Event.DROPPED, 6, 0, 0, count=1)
ALL = (ACQUIRE, SEND, RECV, WAITS, CLOSE, DROPPED)


@pytest.mark.parametrize(
    ("expressions", "kept"),
    [
        ([], [1, 2, 3, 4, 5]),
        (["SEND"], [2, 4]),
        (["command=send,RECV"], [2, 3, 4]),
        (["trace=!SEND,RECV"], [1, 5]),
        (["close"], [5]),
        (["KDBUS_CMD_SEND,CLOSE"], [2, 4, 5]),
        (["mmap"], []),
        (["errno=ENOBUFS"], [2]),
        (["errno=!EAGAIN"], [1, 2, 4, 5]),
        (["connection=2"], [2, 3]),
        (["connection=1", "command=SEND"], [2]),
        (["name=org.example.A"], [1]),
        (["name=org.example.B,org.example.A"], [1, 2]),
        (["direction=sent"], [2, 4]),
        (["direction=received"], [3]),
    ],
)
def test_what_is_kept(expressions: list[str], kept: list[int]) -> None:
    chosen = Filter(expressions)
    # That something is missing is always told.
    assert [record.sequence for record in ALL if chosen.takes(show(record))] == [*kept, 6]


def test_only_failures_or_only_successes() -> None:
    failed, succeeded = Filter(failed=True), Filter(succeeded=True)
    assert [record.sequence for record in ALL if failed.takes(show(record))] == [2, 3, 6]
    assert [record.sequence for record in ALL if succeeded.takes(show(record))] == [1, 5, 6]


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("SEDN", "there is no command 'SEDN'; there are BUS_MAKE, "),
        ("nmae=x", "there is no key 'nmae'; there are command, errno, connection, name, direction"),
        ("errno=EAGIAN", "there is no errno 'EAGIAN'; is it EAGAIN?"),
        ("errno=EFOO", f"there is no errno 'EFOO'; kdbus has {', '.join(OF_KDBUS)}"),
        ("!errno=EPERM", "the ! of '!errno=EPERM' belongs before the values: errno=!EPERM"),
        ("errno!=EPERM", "the ! of 'errno!=EPERM' belongs before the values: errno=!EPERM"),
        ("errno=XYZ", f"there is no errno 'XYZ'; kdbus has {', '.join(OF_KDBUS)}"),
        ("direction=up", "there is no direction 'up'; there are sent, received"),
        ("connection=:1.2", "':1.2' is no connection id"),
        ("name=", "name= has no value"),
    ],
)
def test_what_names_nothing(expression: str, part: str) -> None:
    with pytest.raises(BadFilter) as caught:
        Filter([expression])
    assert str(caught.value).startswith(part)


@pytest.mark.parametrize(("number", "words"), [(95, ("EOPNOTSUPP", "ENOTSUP")), (11, ("EAGAIN", "EWOULDBLOCK"))])
def test_each_name_of_a_number(number: int, words: tuple[str, ...]) -> None:
    """It is shown by the one that the kernel uses."""
    assert errno_name(number) == words[0]
    record = Record(Event.CALL, 1, 0, 0, command="SEND", errno=number)
    for word in words:
        assert Filter([f"errno={word}"]).takes(show(record))
        assert not Filter([f"errno=!{word}"]).takes(show(record))


def test_those_of_kdbus_are_all_that_the_bus_answers() -> None:
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.KdbusError)]
    concrete = [each() for each in found if each not in (errors.KdbusError, errors.Injected)]
    answered = {*map(errors.errno_of, concrete), *behaviour.FINAL.errnos.values()}
    assert {errno_name(number) for number in answered if number} == set(OF_KDBUS)
