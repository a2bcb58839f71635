# SPDX-License-Identifier: GPL-2.0-or-later
"""What the D-Bus Specification calls invalid, and what is merely odd: whether the bus hangs up, as lines.

Each is sent by a client of its own, which then calls the bus; another client sees that the bus goes on.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Sequence
from dataclasses import replace

from kdbus.dbus import version1
from kdbus.dbus.message import Message, MessageType, method_call, signal
from kdbus.dbus.values import Variant
from tests.programs.dbus_peer import DRIVER, Gone, Peer, Raw


def field(number: int, kind: str, value: bytes) -> bytes:
    """A header field in little-endian, whose text is `value`."""
    size = bytes([len(value)]) if kind == "g" else struct.pack("<I", len(value))
    return bytes([number, len(kind)]) + kind.encode() + b"\0" + size + value + b"\0"


CALL = (
    field(1, "o", b"/org/freedesktop/DBus"),
    field(2, "s", DRIVER.encode()),
    field(3, "s", b"NameHasOwner"),
    field(6, "s", DRIVER.encode()),
)
NAME = struct.pack("<I", 3) + b"a.b\0"


def message(
    fields: Sequence[bytes] = (*CALL, field(8, "g", b"s")),
    body: bytes = NAME,
    *,
    kind: int = 1,
    flags: int = 0,
    version: int = 1,
    serial: int = 9,
    order: bytes = b"l",
    size: int | None = None,
    padding: bytes = b"\0",
) -> bytes:
    """A message of these parts."""
    packed = b""
    for each in fields:
        packed += padding * (-len(packed) % 8) + each
    claimed = len(body) if size is None else size
    header = order + struct.pack("<3B3I", kind, flags, version, claimed, serial, len(packed))
    return header + packed + padding * (-len(header + packed) % 8) + body


def with_body(signature: str, body: bytes) -> bytes:
    return message((*CALL, field(8, "g", signature.encode())), body)


def replaced(number: int, kind: str, value: bytes) -> bytes:
    """The call with another value for a header field."""
    kept = [each for each in (*CALL, field(8, "g", b"s")) if each[0] != number]
    return message((*kept, field(number, kind, value)))


DEEP = b"".join(b"\1v\0" for _ in range(70)) + b"\1y\0\7"

MESSAGES = {
    "a valid one": message(),
    "an unknown flag": message(flags=0x80),
    "an unknown header field": message((*CALL, field(8, "g", b"s"), field(77, "s", b"x"))),
    "an unknown type": message(kind=9) + message(),
    "an unexpected sender": replaced(7, "s", b":1.4242"),
    "byte order x": message(order=b"x"),
    "type 0": message(kind=0),
    "version 2": message(version=2),
    "version 0": message(version=0),
    "serial 0": message(serial=0),
    "no path": message((*CALL[1:], field(8, "g", b"s"))),
    "no member": message((*CALL[:2], CALL[3], field(8, "g", b"s"))),
    "a signal without interface": message((CALL[0], CALL[2]), b"", kind=4),
    "a reply without serial": message((CALL[3],), b"", kind=2),
    "an error without name": message((CALL[3], b"\5\1u\0\1\0\0\0"), b"", kind=3),
    "reply serial 0": message((CALL[3], b"\5\1u\0\0\0\0\0"), b"", kind=2),
    "a path twice": message((*CALL, CALL[0], field(8, "g", b"s"))),
    "header field 0": message((*CALL, field(0, "s", b"x"), field(8, "g", b"s"))),
    "a path of the type s": replaced(1, "s", b"/a"),
    "a bad path": replaced(1, "o", b"/a//b"),
    "a path with a slash at its end": replaced(1, "o", b"/a/"),
    "an interface of one element": replaced(2, "s", b"a"),
    "an interface with a digit": replaced(2, "s", b"a.1b"),
    "a member with a dot": replaced(3, "s", b"a.b"),
    "an empty member": replaced(3, "s", b""),
    "a member of 256 characters": replaced(3, "s", b"a" * 256),
    "a bad destination": replaced(6, "s", b"a b.c"),
    "a bad error name": message((CALL[3], field(4, "s", b"x"), b"\5\1u\0\1\0\0\0"), b"", kind=3),
    "a signature that is none": replaced(8, "g", b"z"),
    "half a signature": replaced(8, "g", b"a"),
    "an empty structure": replaced(8, "g", b"()"),
    "33 arrays": replaced(8, "g", b"a" * 33 + b"y"),
    "a dictionary outside of an array": replaced(8, "g", b"{ss}"),
    "a key that is a variant": replaced(8, "g", b"a{vs}"),
    "the local interface": replaced(2, "s", b"org.freedesktop.DBus.Local"),
    "the local path": replaced(1, "o", b"/org/freedesktop/DBus/Local"),
    "padding that is not zero": message(padding=b"\1"),
    "a body without signature": message(CALL),
    "a signature without body": message(body=b""),
    "a body that is too long": message(body=NAME + b"\0"),
    "a body of 128 MiB": message(size=1 << 27),
    "a body of 4 GiB": message(size=0xFFFFFFFF),
    "a string without end": with_body("s", struct.pack("<I", 3) + b"abcd"),
    "a string with a zero": with_body("s", struct.pack("<I", 3) + b"a\0b\0"),
    "a string that is no UTF-8": with_body("s", struct.pack("<I", 3) + b"a\xffb\0"),
    "a surrogate": with_body("s", struct.pack("<I", 3) + b"\xed\xa0\x80\0"),
    "a string beyond the body": with_body("s", struct.pack("<I", 300) + b"abc\0"),
    "a boolean of 2": with_body("b", struct.pack("<I", 2)),
    "an object path that is none": with_body("o", struct.pack("<I", 3) + b"a/b\0"),
    "a signature value that is none": with_body("g", b"\1z\0"),
    "an array beyond the body": with_body("ay", struct.pack("<I", 99) + b"abc"),
    "an array of half an element": with_body("au", struct.pack("<I", 3) + b"abc"),
    "an array of more than 64 MiB": with_body("ay", struct.pack("<I", (1 << 26) + 1)),
    "a variant of two values": with_body("v", b"\2yy\0\1\1"),
    "a variant of none": with_body("v", b"\0\0"),
    "variants 70 deep": with_body("v", DEEP),
    "descriptors that did not come": message((*CALL, field(8, "g", b"s"), b"\x09\1u\0\1\0\0\0")),
}


SEEDS = (
    message(),
    version1.build(
        replace(
            method_call(
                DRIVER,
                "/a/b",
                "a.b",
                "M",
                "sa{sv}(iu)ayb",
                ("hi", {"k": Variant("d", 0.5), "l": Variant("as", ["x", "y"])}, (1, 2), b"abc", True),
            ),
            cookie=9,
        )
    ),
    version1.build(
        replace(
            signal("/a/b", "a.b", "S", "ogvad", ("/x", "a{sv}", Variant("(sv)", ("x", Variant("ao", ["/y"]))), [1.0])),
            cookie=9,
        )
    ),
    version1.build(
        Message(
            type=MessageType.METHOD_RETURN,
            cookie=9,
            reply_cookie=77,
            destination=DRIVER,
            signature="aas",
            body=([["a"], [], ["bc", "d"]],),
        )
    ),
    version1.build(
        Message(
            type=MessageType.ERROR,
            cookie=9,
            reply_cookie=77,
            error_name="a.b.E",
            destination=DRIVER,
            signature="s",
            body=("text",),
        )
    ),
    version1.build(
        replace(method_call(DRIVER, "/a", "a.b", "M", "ynqiuxtd", (1, -2, 3, -4, 5, -6, 7, 0.5)), cookie=9), order="big"
    ),
)
DAMAGED = 600


def damaged(numbers: random.Random) -> bytes:
    """A message in which some bytes are wrong, though none of its sizes: a longer one would be waited for."""
    data = bytearray(numbers.choice(SEEDS))
    places = [place for place in range(len(data)) if not 4 <= place < 16]
    for _ in range(numbers.choice((1, 1, 1, 2, 3))):
        place = numbers.choice(places)
        likely = (0, 1, 2, data[place] ^ 1 << numbers.randrange(8), ord(numbers.choice("sgoavy(){}.:/_a0")))
        data[place] = numbers.choice((numbers.randrange(256), *likely))
    return bytes(data)


def hangs_up(client: Peer, data: bytes) -> bool:
    """Whether the bus hangs up when it gets that. If not, it answers what comes behind."""
    try:
        client.write(data)
        client.driver("GetId")
    except (Gone, OSError):
        return True
    return False


def main() -> None:
    with Peer() as other:
        for label, data in MESSAGES.items():
            with Peer() as client:
                print(label, "-", "hung up" if hangs_up(client, data) else "answered", flush=True)
            other.driver("GetId")
        numbers = random.Random(4711)
        for count in range(DAMAGED):
            data = damaged(numbers)
            with Peer() as client:
                print(count, data, "-", "hung up" if hangs_up(client, data) else "answered", flush=True)
        with Raw() as raw:
            raw.log_in()
            raw.write(message())
            print("no Hello -", raw.read().error_name)
        with Raw() as raw:
            raw.socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
            print("another protocol -", raw.ended())
        with Raw() as raw:
            raw.socket.sendall(b"\0BEGIN\r\n")
            print("no authentication -", raw.ended())
        with Raw() as raw:
            raw.log_in(descriptors=False)
            raw.write(message(), [0])
            print("descriptors without agreement -", raw.read().error_name)
        with Peer() as client:
            before = set(os.listdir("/proc/self/fd"))
            client.send(method_call(DRIVER, "/", DRIVER, "GetId"), [0] * 3)
            client.wait(lambda reply: reply.reply_cookie is not None)
            print("descriptors for the driver - answered")
            other.driver("GetId")
            print("descriptors that came:", len(set(os.listdir("/proc/self/fd")) - before))


if __name__ == "__main__":
    main()
