# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations with sd-bus, which is called through ctypes: LD_LIBRARY_PATH has to lead to one that knows kdbus."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Callable
from typing import Any

import kdbus
from kdbus.dbus.blocking import Connection
from kdbus.dbus.bloom import entries_of, filter_of_entries
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import signal
from tests.programs.client_support import PATIENCE, Scene, case, main

NAME = "org.example.Sd"
SIGNAL = signal("/a/b", "org.example.I", "S", "sss", ("org.x.y", "second", "/p/q/r"))
RULES = (
    "type='signal',member='S'",
    "interface='org.example.I'",
    "path='/a/b'",
    "path_namespace='/a'",
    "arg0='org.x.y'",
    "arg0namespace='org.x'",
    "arg1='second'",
    "arg2path='/p/q/'",
)

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_WAIT_US = 50_000


class SdBus:
    """A connection of sd-bus, and what it has to be told to serve."""

    def __init__(self, scene: Scene) -> None:
        self.library = ctypes.CDLL("libsystemd.so.0")
        self.bus = ctypes.c_void_p()
        self.check("sd_bus_new", ctypes.byref(self.bus))
        scene.stack.callback(self.library.sd_bus_unref, self.bus)
        self.check("sd_bus_set_address", self.bus, f"kernel:path={kdbus.ROOT}/{scene.bus.name}/bus".encode())
        self.check("sd_bus_set_bus_client", self.bus, 1)
        self.check("sd_bus_start", self.bus)
        self._kept: list[Any] = []

    def check(self, function: str, *arguments: Any) -> int:
        """Call a function of the library that returns a negative errno if it fails."""
        result: int = getattr(self.library, function)(*arguments)
        if result < 0:
            raise OSError(-result, f"{function}: {os.strerror(-result)}")
        return result

    def callback(self, function: Callable[[ctypes.c_void_p, ctypes.c_void_p], int]) -> Any:
        """A function for sd-bus to call with a message and an error to set."""
        made = _CALLBACK(lambda message, _, error: function(ctypes.c_void_p(message), ctypes.c_void_p(error)))
        self._kept.append(made)
        return made

    def process(self, is_done: Callable[[], int]) -> None:
        """Serve until `is_done`, which is asked now and then."""
        while not is_done():
            if self.check("sd_bus_process", self.bus, None) == 0:
                self.check("sd_bus_wait", self.bus, ctypes.c_uint64(_WAIT_US))

    def read_string(self, message: ctypes.c_void_p) -> bytes | None:
        """The next argument."""
        text = ctypes.c_char_p()
        self.check("sd_bus_message_read", message, b"s", ctypes.byref(text))
        return text.value

    def emit(self) -> None:
        """Send SIGNAL."""
        texts = [text.encode() for text in (SIGNAL.path, SIGNAL.interface, SIGNAL.member, SIGNAL.signature) if text]
        self.check("sd_bus_emit_signal", self.bus, *texts, *[argument.encode() for argument in SIGNAL.body])

    def serve(self, path: str, interface: str, members: bytes, data: Any) -> None:
        """Add an object, whose vtable is in the form that 2016 had: kind, flags, and five words for each member."""
        table = ctypes.create_string_buffer(_entry("<", 48) + members + _entry(">"))
        self._kept += [table, data]
        texts = (path.encode(), interface.encode())
        self.check("sd_bus_add_object_vtable", self.bus, None, *texts, table, ctypes.byref(data))

    def text(self, value: str) -> int:
        """The address of a text that stays."""
        kept = ctypes.c_char_p(value.encode())
        self._kept.append(kept)
        return ctypes.cast(kept, ctypes.c_void_p).value or 0


def _entry(kind: str, *words: int, flags: int = 0) -> bytes:
    return struct.pack("<6Q", ord(kind) | flags << 8, *words, *[0] * (5 - len(words)))


@case
def our_signals_reach_sd_bus(scene: Scene) -> None:
    ours = Connection(scene.connect(attach_receive=kdbus.Attach.NAMES))
    ours.acquire_name("org.example.Ours")
    for rule in (*RULES, "sender='org.example.Ours'"):
        theirs = SdBus(scene)
        got: list[bytes | None] = []

        def take(message: ctypes.c_void_p, _: object, theirs: SdBus = theirs, got: list[bytes | None] = got) -> int:
            got.append(theirs.read_string(message))
            return 0

        theirs.check("sd_bus_add_match", theirs.bus, None, rule.encode(), theirs.callback(take), None)
        ours.send(SIGNAL)
        theirs.process(got.__len__)
        assert got == [b"org.x.y"], rule


@case
def signals_of_sd_bus_reach_us(scene: Scene) -> None:
    ours, theirs = Connection(scene.connect()), SdBus(scene)
    theirs.process(lambda: 1)
    for rule in RULES:
        with ours.subscribe(rule) as found:
            theirs.emit()
            assert found.receive(PATIENCE).body == SIGNAL.body, rule
    with scene.connect() as raw:
        raw.add_match()
        theirs.emit()
        with raw.receive(PATIENCE) as message:
            assert message.bloom is not None
            entries = [entry for entry in entries_of(SIGNAL) if not entry.startswith(("arg1", "arg2"))]
            assert message.bloom.data == filter_of_entries(entries)


@case
def owners_of_names_change_for_sd_bus(scene: Scene) -> None:
    ours, theirs = Connection(scene.connect()), SdBus(scene)
    got: list[bytes | None] = []

    def take(message: ctypes.c_void_p, _: object) -> int:
        got.append(theirs.read_string(message))
        return 0

    rule = b"type='signal',member='NameOwnerChanged',arg0='org.example.New'"
    theirs.check("sd_bus_add_match", theirs.bus, None, rule, theirs.callback(take), None)
    ours.acquire_name("org.example.New")
    theirs.process(got.__len__)
    assert got == [b"org.example.New"]


@case
def a_service_of_sd_bus_is_called(scene: Scene) -> None:
    theirs = SdBus(scene)

    def echo(message: ctypes.c_void_p, error: ctypes.c_void_p) -> int:
        text = theirs.read_string(message)
        if text == b"fail":
            return theirs.library.sd_bus_error_set(error, b"org.example.Error.No", b"no way")  # type: ignore[no-any-return]
        array = (ctypes.c_uint32(1), b"k", b"ax", ctypes.c_uint32(2), ctypes.c_int64(-1), ctypes.c_int64(2))
        return theirs.check("sd_bus_reply_method_return", message, b"sa{sv}", text, *array)

    def large(message: ctypes.c_void_p, _: object) -> int:
        reply = ctypes.c_void_p()
        theirs.check("sd_bus_message_new_method_return", message, ctypes.byref(reply))
        content = (ctypes.c_char(b"y"), b"z" * 3_000_000, ctypes.c_size_t(3_000_000))
        theirs.check("sd_bus_message_append_array", reply, *content)
        theirs.check("sd_bus_send", theirs.bus, reply, None)
        theirs.library.sd_bus_message_unref(reply)
        return 1

    def method(name: str, inputs: str, outputs: str, function: Any) -> bytes:
        address = ctypes.cast(theirs.callback(function), ctypes.c_void_p).value or 0
        return _entry("M", *map(theirs.text, (name, inputs, outputs)), address, flags=1 << 2)

    members = method("Echo", "s", "sa{sv}", echo) + method("Large", "", "ay", large)
    members += _entry("W", theirs.text("Volume"), theirs.text("d"), flags=1 << 2 | 1 << 5)
    theirs.serve("/o", NAME, members, ctypes.c_double(0.5))
    theirs.check("sd_bus_request_name", theirs.bus, NAME.encode(), ctypes.c_uint64(0))

    done = threading.Event()
    failures: list[BaseException] = []

    def converse() -> None:
        try:
            with Connection(scene.connect()) as ours:
                remote = ours.proxy(NAME, "/o", NAME)
                text, values = remote.Echo("x")
                assert (text, values["k"].value) == ("x", [-1, 2])
                assert remote.Large() == b"z" * 3_000_000
                remote.set("Volume", 0.75)
                assert remote.get_all() == {"Volume": 0.75}
                try:
                    remote.Echo("fail")
                except ErrorReply as error:
                    assert (error.name, error.text) == ("org.example.Error.No", "no way")
                else:
                    raise AssertionError("no error")
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=converse)
    thread.start()
    theirs.process(done.is_set)
    thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main()
