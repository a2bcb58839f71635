# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the greeter: a program in C, tested from outside with the fixture `kdbus`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_kdbus.domain import Domain
from pytest_kdbus.program import Program

GREETER, LANGUAGE = "org.example.Greeter", "org.example.Language"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory, kdbus_include: Path) -> Path:
    """The greeter, compiled."""
    target = tmp_path_factory.mktemp("build") / "greeter"
    source = Path(__file__).with_name("greeter.c")
    command = ["cc", "-std=gnu11", "-Wall", "-Wextra", f"-I{kdbus_include}", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


def greeter(kdbus: Domain, program: Path) -> Program:
    """Start it, and wait until it can be called."""
    started = kdbus.start([program, kdbus.bus])
    kdbus.wait_for_name(GREETER)
    return started


def test_greets_in_the_language_of_the_greeted(kdbus: Domain, program: Path) -> None:
    words = {b"Jean": b"Bonjour", b"Ivan": b"Privet"}
    language = kdbus.fake(LANGUAGE, lambda who: words[who])
    greeter(kdbus, program)
    assert kdbus.call(GREETER, b"Jean") == b"Bonjour, Jean!"
    assert kdbus.call(GREETER, b"Ivan") == b"Privet, Ivan!"
    assert [request.payload for request in language.requests] == [b"Jean", b"Ivan"]


def test_greets_even_without_the_other_service(kdbus: Domain, program: Path) -> None:
    greeter(kdbus, program)
    assert kdbus.call(GREETER, b"Jean") == b"Hello, Jean!"
    assert [call.errno for call in kdbus.calls("SEND", program="greeter")] == ["ESRCH", None]


def test_greets_even_if_the_queue_of_the_other_is_full(kdbus: Domain, program: Path) -> None:
    kdbus.inject("SEND:errno=ENOBUFS:first=1")
    kdbus.fake(LANGUAGE, b"Bonjour")
    greeter(kdbus, program)
    assert kdbus.call(GREETER, b"Jean") == b"Hello, Jean!"
    assert kdbus.call(GREETER, b"Jean") == b"Bonjour, Jean!"


def test_gives_back_what_it_has_received(kdbus: Domain, program: Path) -> None:
    kdbus.fake(LANGUAGE, b"Bonjour")
    service = greeter(kdbus, program)
    for _ in range(10):
        kdbus.call(GREETER, b"Jean")
    service.stop()
    assert len(kdbus.calls("RECV", errno="", program="greeter")) == 10
    assert not kdbus.findings("slice-leak", "unanswered-request", "unread-messages")
