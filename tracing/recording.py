# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings: records in a file, to be shown later and elsewhere.

A file begins with `MAGIC`, whose last byte is the version of the form. Then follow frames, each a record: its size and
its CRC-32 (32 bits each, little-endian), then its members. A member is a key and a value; the key is the member's
number (`_MEMBERS`) times two, plus 1 if the value is bytes with their length in front, else a number. Numbers are of
variable length, 7 bits in a byte, lowest first, the topmost bit saying that there is more; signed ones are folded first
(0, -1, 1, -2, ...). Members that are empty are left out, and those that a reader does not know are passed over.

A frame is written in one piece as soon as its record is there. Behind the last one stands `END`, so a recording whose
kdbus was killed, or whose disk was full, is known to be cut off, between two frames as well as within one.

Alternatives: JSON, three times as large and slower than the calls it records; pickle, which must not be read from
strangers.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from tracing.escaping import count_of
from tracing.record import Event, Frame, Left, Phase, Record

MAGIC: Final = b"kdbus recording\x02"
END: Final = b"\xff" * 8
"""What a recording that is whole ends with: no frame has that size."""
_FRAME = struct.Struct("<2I")
MOST: Final = 1 << 24
"""Bytes of a frame."""

_MEMBERS: Final = {
    1: "event",
    2: "sequence",
    3: "realtime_ns",
    4: "monotonic_ns",
    5: "duration_ns",
    6: "phase",
    7: "pid",
    8: "tid",
    9: "comm",
    10: "descriptor",
    11: "node",
    12: "connection",
    13: "revision",
    14: "command",
    15: "request",
    16: "address",
    17: "before",
    18: "after",
    19: "message",
    20: "payload",
    21: "payload_size",
    22: "pool",
    23: "length",
    24: "value",
    25: "errno",
    26: "error",
    27: "reason",
    28: "peer",
    29: "names",
    30: "notes",
    31: "count",
    32: "stack",
    33: "copied",
    34: "path",
    35: "left",
    36: "unknown",
}
"""Numbers of members; they are for good."""
_EMPTY: Final = Record(Event.CALL, 0, 0, 0)
_KINDS: Final[dict[str, type]] = {name: type(getattr(_EMPTY, name)) for name in _MEMBERS.values()}
_OPTIONAL: Final = frozenset(name for name, kind in _KINDS.items() if kind is type(None))


class BadRecording(ValueError):
    """A file that is no recording, or is damaged; the text says what is wrong, and where."""


class CutOff(BadRecording):
    """One that is a recording up to there, and no further: it is cut off, or damaged."""


def _number(value: int) -> bytes:
    folded = value << 1 if value >= 0 else ~value << 1 | 1
    out = bytearray()
    while folded > 0x7F:
        out.append(folded & 0x7F | 0x80)
        folded >>= 7
    out.append(folded)
    return bytes(out)


def frame(record: Record) -> bytes:
    """A record as a frame."""
    data = members_of(record)
    return _FRAME.pack(len(data), zlib.crc32(data)) + data


def members_of(record: Record) -> bytes:
    """A record as its members, for `restored`."""
    parts = []
    for number, name in _MEMBERS.items():
        value = getattr(record, name)
        if value is None or (not value and name not in _OPTIONAL):
            continue
        if isinstance(value, dict | list):
            value = json.dumps(value, separators=(",", ":"))
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogatepass")
        if isinstance(value, int):
            parts.append(bytes((number << 1,)) + _number(value))
        else:
            parts += [bytes((number << 1 | 1,)), _number(len(value)), value]
    return b"".join(parts)


def read(file: BinaryIO) -> Iterator[Record]:
    """The records in a recording, in their order.

    Raises BadRecording when it comes to what is none, and OSError.
    """
    magic = file.read(len(MAGIC))
    if magic[:-1] != MAGIC[:-1]:
        raise BadRecording("it is no recording of kdbus")
    if magic != MAGIC:
        raise BadRecording(f"it is of version {magic[-1]}, and this kdbus reads version {MAGIC[-1]}")
    count = 0
    while head := file.read(_FRAME.size):
        if len(head) < _FRAME.size:
            raise _bad("cut off", count)
        if head == END:
            return
        size, check = _FRAME.unpack(head)
        if size > MOST:
            raise _bad("damaged", count)
        data = file.read(size)
        if len(data) < size:
            raise _bad("cut off", count)
        if zlib.crc32(data) != check:
            raise _bad("damaged", count)
        try:
            yield restored(data)
        except (ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise CutOff(f"record {count + 1} is none: {error}") from error
        count += 1
    raise _bad("cut off", count)


def _bad(what: str, count: int) -> CutOff:
    return CutOff(f"it is {what} behind {count_of(count, 'record')}")


class _Members:
    """Takes members out of a frame."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1]

    def number(self) -> int:
        folded = shift = 0
        while True:
            byte = self.byte()
            folded |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return folded >> 1 if not folded & 1 else ~(folded >> 1)
            if shift > 70:
                raise ValueError("a number that is too long")

    def bytes(self) -> bytes:
        size = self.number()
        if not 0 <= size <= len(self._data) - self._position:
            raise ValueError("a value that is longer than its record")
        self._position += size
        return self._data[self._position - size : self._position]


def restored(data: bytes) -> Record:
    """The reverse of `members_of`. Raises ValueError, TypeError, IndexError, AttributeError or RecursionError for what
    is none."""
    found: dict[str, Any] = {}
    members = _Members(data)
    while members:
        key = members.byte()
        value: Any = members.bytes() if key & 1 else members.number()
        name = _MEMBERS.get(key >> 1)
        if name is not None:
            found[name] = _as_kind(name, value)
    return Record(**{"sequence": 0, "realtime_ns": 0, "monotonic_ns": 0, **found})


def _as_kind(name: str, value: Any) -> Any:
    kind = _KINDS[name]
    is_number = kind is int or name in _OPTIONAL
    if is_number is not isinstance(value, int):
        raise ValueError(f"{name} is of the wrong kind")
    if is_number or kind is bytes:
        return value
    text = value.decode("utf-8", "surrogatepass")
    if name == "names":
        return {int(number): _texts(names) for number, names in json.loads(text).items()}
    if name == "notes":
        return _texts(json.loads(text))
    if name == "left":
        return [_left(each) for each in json.loads(text)]
    if name == "stack":
        return [_frame(each) for each in json.loads(text)]
    return kind(text) if kind in (Event, Phase) else text


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("no list of texts")
    return value


def _left(value: Any) -> Left:
    pid, descriptor, source, cookie = value
    return Left(int(pid), int(descriptor), int(source), int(cookie))


def _frame(value: Any) -> Frame:
    file, address, function, offset = value
    if not (isinstance(file, str) and isinstance(function, str)):
        raise ValueError("no function")
    return Frame(file, int(address), function, int(offset))
