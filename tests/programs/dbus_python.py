# SPDX-License-Identifier: GPL-2.0-or-later
"""dbus-python, which is libdbus: a service in another process, a call, a signal, an error."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

try:
    import dbus
    import dbus.mainloop.glib
    import dbus.service
    from gi.repository import GLib
except ImportError:
    print("skip: there is no dbus-python, of the package python3-dbus, or no PyGObject")
    sys.exit()

NAME = "org.example.Python"
_PATIENCE_S = 30


class Service(dbus.service.Object):  # type: ignore[misc]
    @dbus.service.method(NAME, in_signature="sa{sv}", out_signature="(si)")  # type: ignore[untyped-decorator]
    def Twice(self, text: str, more: dict[str, Any]) -> tuple[str, int]:
        self.Called(text)
        return text * 2, more["k"]

    @dbus.service.method(NAME, in_signature="", out_signature="")  # type: ignore[untyped-decorator]
    def Fail(self) -> None:
        raise dbus.DBusException("text", name="org.example.Error")

    @dbus.service.signal(NAME, signature="s")  # type: ignore[untyped-decorator]
    def Called(self, text: str) -> None:
        """dbus-python sends it when this is called."""


def serve() -> None:
    bus = dbus.SessionBus()
    Service(bus, "/py")
    bus.request_name(NAME)
    GLib.MainLoop().run()


def use() -> None:
    bus, loop = dbus.SessionBus(), GLib.MainLoop()
    heard: list[str] = []

    def hear(text: str) -> None:
        heard.append(str(text))
        loop.quit()

    GLib.timeout_add_seconds(_PATIENCE_S, loop.quit)
    with subprocess.Popen([sys.executable, __file__, "serve"]) as service:
        try:
            bus.watch_name_owner(NAME, lambda owner: loop.quit() if owner else None)
            loop.run()
            bus.add_signal_receiver(hear, "Called", NAME)
            proxy = dbus.Interface(bus.get_object(NAME, "/py"), NAME)
            text, number = proxy.Twice("ab", {"k": dbus.Int16(-3)})
            print("called", str(text), int(number))
            loop.run()
            print("heard", heard)
            try:
                proxy.Fail()
            except dbus.DBusException as error:
                print("failed", error.get_dbus_name(), error.get_dbus_message())
        finally:
            service.kill()


dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
if sys.argv[1:]:
    serve()
else:
    use()
