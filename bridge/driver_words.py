# SPDX-License-Identifier: GPL-2.0-or-later
"""How `org.freedesktop.DBus` describes itself: introspection and properties.

The properties tell which optional parts of the D-Bus Specification a bus has. Header fields that are not known do not
get through, as messages are made anew ("HeaderFiltering"); the signal "ActivatableServicesChanged" is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kdbus.dbus.kernel import DRIVER, DRIVER_PATH
from kdbus.dbus.signature import split
from kdbus.dbus.values import Variant

PROPERTIES: Final = {
    "Features": Variant("as", ["ActivatableServicesChanged", "HeaderFiltering"]),
    "Interfaces": Variant("as", ["org.freedesktop.DBus.Monitoring", "org.freedesktop.DBus.Debug.Stats"]),
}
_SIGNALS: Final = {"NameOwnerChanged": "sss", "NameLost": "s", "NameAcquired": "s", "ActivatableServicesChanged": ""}
_PROPERTIES_CHANGED: Final = """\
    <signal name="PropertiesChanged">
      <arg type="s" name="interface_name"/>
      <arg type="a{sv}" name="changed_properties"/>
      <arg type="as" name="invalidated_properties"/>
    </signal>"""
_DOCTYPE: Final = """\
<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
"""
_CONSTANT: Final = '<annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>'


def introspection(path: str, interfaces: Mapping[str, Mapping[str, tuple[str, str]]]) -> str:
    """The XML of the object at a path: of each interface the methods, with the signatures of what goes in and out."""
    lines = ["<node>"]
    for interface, methods in interfaces.items():
        lines.append(f'  <interface name="{interface}">')
        for name, (takes, gives) in methods.items():
            arguments = [*_arguments("in", takes), *_arguments("out", gives)]
            lines += [f'    <method name="{name}">', *arguments, "    </method>"]
        if interface == DRIVER:
            for name, value in PROPERTIES.items():
                lines += [f'    <property name="{name}" type="{value.signature}" access="read">', f"      {_CONSTANT}"]
                lines.append("    </property>")
            for name, signature in _SIGNALS.items():
                arguments = [f'      <arg type="{kind}"/>' for kind in split(signature)]
                lines += [f'    <signal name="{name}">', *arguments, "    </signal>"]
        if interface == "org.freedesktop.DBus.Properties":
            lines.append(_PROPERTIES_CHANGED)
        lines.append("  </interface>")
    above = path.rstrip("/") + "/"
    if DRIVER_PATH.startswith(above):
        lines.append(f'  <node name="{DRIVER_PATH[len(above) :]}"/>')
    return _DOCTYPE + "\n".join([*lines, "</node>", ""])


def _arguments(direction: str, signature: str) -> Iterable[str]:
    return (f'      <arg direction="{direction}" type="{kind}"/>' for kind in split(signature))
