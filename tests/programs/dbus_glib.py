# SPDX-License-Identifier: GPL-2.0-or-later
"""GLib's GDBusConnection, as a service and as a client: a call, a property, a signal, an error."""

from __future__ import annotations

import sys
from typing import Any

try:
    from gi.repository import Gio, GLib
except ImportError:
    print("skip: there is no PyGObject, of the package python3-gi")
    sys.exit()

NAME = "org.example.Glib"
XML = f"""<node><interface name="{NAME}">
<method name="Join"><arg type="as" direction="in"/><arg type="a{{sv}}" direction="in"/><arg type="s" direction="out"/>
</method>
<method name="Fail"/>
<property name="Level" type="d" access="read"/>
<signal name="Joined"><arg type="s"/></signal>
</interface></node>"""
_PATIENCE_S = 30


def connect() -> Any:
    address = Gio.dbus_address_get_for_bus_sync(Gio.BusType.SESSION, None)
    flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
    return Gio.DBusConnection.new_for_address_sync(address, flags, None, None)


def serve(connection: Any, _sender: str, path: str, _interface: str, method: str, values: Any, invocation: Any) -> None:
    if method == "Fail":
        invocation.return_dbus_error("org.example.Error", "text")
        return
    words, more = values.unpack()
    joined = GLib.Variant("(s)", ("".join(words) + str(more["k"]),))
    connection.emit_signal(None, path, NAME, "Joined", joined)
    invocation.return_value(joined)


class Client:
    """Uses the service, one step after the other."""

    def __init__(self, loop: Any, server_name: str) -> None:
        self.loop = loop
        self.server_name = server_name
        self.heard: list[Any] = []

    def begin(self, _connection: Any, name: str) -> None:
        print("acquired", name)
        Gio.DBusProxy.new(connect(), Gio.DBusProxyFlags.NONE, None, name, "/a", NAME, None, self.made)

    def made(self, _source: Any, result: Any) -> None:
        self.proxy = Gio.DBusProxy.new_finish(result)
        print("owner", self.proxy.get_name_owner() == self.server_name)
        print("property", self.proxy.get_cached_property("Level").unpack())
        self.proxy.connect("g-signal", lambda _proxy, _sender, name, values: self.heard.append((name, values.unpack())))
        arguments = GLib.Variant("(asa{sv})", (["a", "b"], {"k": GLib.Variant("i", 7)}))
        self.proxy.call("Join", arguments, Gio.DBusCallFlags.NONE, -1, None, self.joined)

    def joined(self, proxy: Any, result: Any) -> None:
        print("joined", proxy.call_finish(result).unpack(), self.heard)
        proxy.call("Fail", None, Gio.DBusCallFlags.NONE, -1, None, self.failed)

    def failed(self, proxy: Any, result: Any) -> None:
        try:
            proxy.call_finish(result)
        except GLib.Error as error:
            print("failed", Gio.DBusError.get_remote_error(error))
        self.loop.quit()


def main() -> None:
    loop, server = GLib.MainLoop(), connect()
    interface = Gio.DBusNodeInfo.new_for_xml(XML).interfaces[0]
    server.register_object("/a", interface, serve, lambda *_: GLib.Variant("d", 0.5), None)
    client = Client(loop, server.get_unique_name())
    GLib.timeout_add_seconds(_PATIENCE_S, loop.quit)
    Gio.bus_own_name_on_connection(server, NAME, 0, client.begin, None)
    loop.run()


main()
