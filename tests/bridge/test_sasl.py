# SPDX-License-Identifier: GPL-2.0-or-later
"""How a client says who it is: the conversations of the D-Bus Specification, and those that break its rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sasl import Authentication, Refused

GUID = "0123456789abcdef0123456789abcdef"
EXTERNAL = b"AUTH EXTERNAL 31303030\r\n"
"""In the name of user 1000."""


def begun(*, anonymous: bool = False) -> Authentication:
    found = Authentication(1000, GUID, anonymous=anonymous)
    assert found.take(b"\0") == b""
    return found


def test_external_in_one_piece_with_the_first_message_behind() -> None:
    client = Authentication(1000, GUID)
    sent = b"\0" + EXTERNAL + b"NEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\1\0\1"
    assert client.take(sent) == f"OK {GUID}\r\nAGREE_UNIX_FD\r\n".encode()
    assert client.done and client.passes_descriptors
    assert client.rest() == b"l\1\0\1"


def test_external_byte_by_byte() -> None:
    client = begun()
    answers = b"".join(client.take(bytes([byte])) for byte in EXTERNAL + b"BEGIN\r\n")
    assert answers == f"OK {GUID}\r\n".encode()
    assert client.done and not client.passes_descriptors


def test_external_without_a_claim() -> None:
    client = begun()
    assert client.take(b"AUTH EXTERNAL\r\n") == b"DATA\r\n"
    assert client.take(b"DATA\r\n") == f"OK {GUID}\r\n".encode()


@pytest.mark.parametrize("claim", ["30", "313030", "zz", "31303030x", "ff"])
def test_who_claims_to_be_another_is_rejected(claim: str) -> None:
    client = begun()
    assert client.take(f"AUTH EXTERNAL {claim}\r\n".encode()) == b"REJECTED EXTERNAL\r\n"
    with pytest.raises(Refused):
        client.take(b"BEGIN\r\n")


def test_anonymous_only_where_it_is_allowed() -> None:
    assert begun().take(b"AUTH ANONYMOUS 61\r\n") == b"REJECTED EXTERNAL\r\n"
    assert begun(anonymous=True).take(b"AUTH ANONYMOUS 61\r\n") == f"OK {GUID}\r\n".encode()


def test_mechanisms_are_listed() -> None:
    assert begun(anonymous=True).take(b"AUTH\r\n") == b"REJECTED EXTERNAL ANONYMOUS\r\n"


@pytest.mark.parametrize("line", [b"HELP", b"NEGOTIATE_UNIX_FD", b"DATA 31", b"auth EXTERNAL", b"\xff"])
def test_what_is_unknown_or_too_early_is_an_error_and_not_the_end(line: bytes) -> None:
    client = begun()
    assert client.take(line + b"\r\n").startswith(b"ERROR ")
    assert client.take(EXTERNAL) == f"OK {GUID}\r\n".encode()


def test_cancelling_takes_the_acceptance_back() -> None:
    client = begun()
    client.take(EXTERNAL + b"NEGOTIATE_UNIX_FD\r\n")
    assert client.take(b"CANCEL\r\n") == b"REJECTED EXTERNAL\r\n"
    assert not client.passes_descriptors
    with pytest.raises(Refused):
        client.take(b"BEGIN\r\n")


def test_bounds() -> None:
    with pytest.raises(Refused):
        Authentication(1000, GUID).take(b"A")
    with pytest.raises(Refused):
        begun().take(b"A" * 20_000)
    with pytest.raises(Refused):
        begun().take(b"A" * 20_000 + b"\r\n")
    client = begun()
    with pytest.raises(Refused):
        for _ in range(10):
            client.take(b"AUTH\r\n")


WORDS = [b"\0", b"AUTH", b" EXTERNAL", b" ANONYMOUS", b" 30", b"DATA", b"CANCEL", b"ERROR", b"BEGIN", b"\r\n", b"\xff"]


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=20)), max_size=30))
def test_no_bytes_do_harm(pieces: list[bytes]) -> None:
    authentication = Authentication(0, "0" * 32, anonymous=True)
    try:
        for piece in pieces:
            answer = authentication.take(piece)
            assert answer == b"" or answer.endswith(b"\r\n")
    except Refused:
        pass
