# SPDX-License-Identifier: GPL-2.0-or-later
"""dasbus: a service in another process, a call, a property, a signal, an error."""

# Its types are read from the annotations, which therefore must not be strings: no `from __future__ import annotations`.

import subprocess
import sys
from typing import Any

try:
    from dasbus.connection import SessionMessageBus
    from dasbus.error import DBusError, ErrorMapper, get_error_decorator
    from dasbus.loop import EventLoop
    from dasbus.server.interface import dbus_interface, dbus_signal
    from dasbus.typing import Dict, Int, List, Str, Tuple, Variant, get_variant
    from gi.repository import GLib
except ImportError:
    print("skip: there is no dasbus, of the package python3-dasbus")
    sys.exit()

NAME = "org.example.Das"
_PATIENCE_S = 30
_ERRORS = ErrorMapper()


@get_error_decorator(_ERRORS)("org.example.Error")
class Failed(DBusError):  # type: ignore[misc]
    """What the service refuses with."""


@dbus_interface(NAME)
class Service:
    def __init__(self) -> None:
        self._value = 3

    def Sum(self, numbers: List[Int], more: Dict[Str, Variant]) -> Tuple[Int, List[Str]]:
        return sum(numbers), sorted(more)

    def Fail(self) -> None:
        raise Failed("text")

    @property
    def Value(self) -> Int:
        return self._value

    @Value.setter
    def Value(self, value: Int) -> None:
        self._value = value
        self.Happened(value)

    @dbus_signal  # type: ignore[untyped-decorator]
    def Happened(self, value: Int) -> None:
        """The value has changed."""


def serve() -> None:
    bus = SessionMessageBus(error_mapper=_ERRORS)
    bus.publish_object("/das", Service())
    bus.register_service(NAME)
    EventLoop().run()


def use() -> None:
    bus, loop, appearing = SessionMessageBus(error_mapper=_ERRORS), EventLoop(), EventLoop()
    for each in (loop, appearing):
        GLib.timeout_add_seconds(_PATIENCE_S, each.quit)
    with subprocess.Popen([sys.executable, __file__, "serve"], stderr=subprocess.DEVNULL) as service:
        try:
            bus.proxy.NameOwnerChanged.connect(lambda name, _, new: appearing.quit() if name == NAME and new else None)
            if not bus.proxy.NameHasOwner(NAME):
                appearing.run()
            proxy = bus.get_proxy(NAME, "/das")
            print("called", *proxy.Sum([1, 2], {"k": get_variant(Str, "v")}))
            heard: list[Any] = []

            def hear(value: int) -> None:
                heard.append(value)
                loop.quit()

            proxy.Happened.connect(hear)
            proxy.Value = 9
            loop.run()
            print("heard", heard, proxy.Value)
            try:
                proxy.Fail()
            except Failed as error:
                print("failed", error)
        finally:
            service.kill()


if sys.argv[1:]:
    serve()
else:
    use()
