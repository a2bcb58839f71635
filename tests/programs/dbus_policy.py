# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients of a bus with policies are allowed and denied, as lines: the same on every bus that heeds them.

The configuration is the program's argument; `NAME` in it stands for the user's name, `GROUP` for that of its group.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import Flag, Message, MessageType, method_call, method_return
from tests.programs.dbus_peer import DRIVER, Peer

CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <policy context="mandatory">
    <deny send_interface="m.Mandatory" send_type="signal"/>
    <deny send_destination="org.x.Open" send_interface="m.Mandatory"/>
    <deny own="org.x.Mandatory"/>
  </policy>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <allow own_prefix="org.x"/>
    <deny own="org.x.Not"/>
    <deny own_prefix="org.x.Never"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_type="method_return" send_requested_reply="true"/>
    <allow send_type="error" send_requested_reply="true"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
    <deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus" send_member="GetNameOwner"/>
    <allow send_destination="org.x.Open"/>
    <deny send_destination="org.x.Open" min_fds="1"/>
    <deny send_destination="org.x.Open" send_interface="a.Denied"/>
    <deny send_destination="org.x.Open" send_path="/denied"/>
    <deny send_destination="org.x.Open" send_interface="a.b" send_member="Denied"/>
    <allow send_destination="org.x.Some" send_interface="a.b"/>
    <allow send_destination="org.x.Some" send_path="/allowed" send_member="M"/>
    <allow send_destination_prefix="org.x.Prefix"/>
    <deny send_type="signal" send_interface="a.Denied"/>
    <deny send_broadcast="true" send_interface="a.Quiet"/>
    <deny send_type="error" send_error="a.b.Denied"/>
    <deny receive_interface="a.Unheard"/>
    <deny receive_sender="org.x.Mute" receive_type="signal"/>
    <deny receive_sender="org.freedesktop.DBus" receive_interface="org.freedesktop.DBus" receive_member="NameLost"/>
    <deny send_destination="org.x.Deaf" send_type="signal"/>
  </policy>
  <policy user="NAME">
    <allow own="org.x.Not"/>
    <allow own="org.x.Mandatory"/>
    <allow send_destination="org.x.Mine" send_type="method_call"/>
  </policy>
  <policy group="GROUP">
    <allow own="org.x.Never.Again"/>
    <deny send_destination="org.x.Mine"/>
  </policy>
  <policy user="nobody">
    <deny own="a.b"/>
  </policy>
</busconfig>
"""
NAMES = ("org.x", "org.xy", "org.x.Not", "org.x.Not.So", "org.x.Never", "org.x.Never.Again", "org.x.Mandatory", "a.b")
SERVICES = ("org.x.Open", "org.x.Some", "org.x.Prefix.One", "org.x.PrefixNot", "org.x.Mine", "org.x.Mute", "org.x.Deaf")
CALLS = (
    ("/", "a.b", "M"),
    ("/", None, "M"),
    ("/", "a.b", "Denied"),
    ("/", "a.c", "Denied"),
    ("/", "a.Denied", "M"),
    ("/denied", "a.b", "M"),
    ("/allowed", "a.c", "M"),
    ("/allowed", "a.c", "N"),
    ("/", "a.Unheard", "M"),
    ("/", "m.Mandatory", "M"),
)
SIGNALS = (
    ("/", "a.b", "S"),
    ("/", "a.Denied", "S"),
    ("/", "a.Quiet", "S"),
    ("/", "a.Unheard", "S"),
    ("/", "m.Mandatory", "S"),
)


def told(client: Peer, serial: int) -> str:
    try:
        client.reply_to(serial)
    except ErrorReply as error:
        return error.name.removeprefix(f"{DRIVER}.Error.")
    return "answered"


def tried(client: Peer, service: Peer, message: Message, descriptors: Sequence[int] = ()) -> str:
    """What comes of a call: the service answers what comes to it."""
    serial = client.send(message, descriptors)
    # What was refused is answered before this, and what was not has come to the service before that.
    client.driver("GetId")
    for call in service.settle():
        if call.type == MessageType.METHOD_CALL:
            service.send(replace(method_return(call), sender=None))
    return told(client, serial)


def names(client: Peer) -> None:
    for name in NAMES:
        try:
            print("own", name, client.driver("RequestName", "su", name, 0))
        except ErrorReply as error:
            print("own", name, error.name)
    for member in ("GetNameOwner", "NameHasOwner"):
        try:
            client.driver(member, "s", DRIVER)
        except ErrorReply as error:
            print(member, error.name)
        else:
            print(member, "answered")
    print("release", client.driver("ReleaseName", "s", "org.x"))
    print("told", sorted(message.member or "" for message in client.settle()))


def calls(client: Peer, services: dict[str, Peer]) -> None:
    for name, service in services.items():
        for path, interface, member in CALLS:
            for destination in (name, service.name):
                outcome = tried(client, service, method_call(destination, path, interface, member))
                print("call", name, destination == name, path, interface, member, outcome)
        outcome = tried(client, service, method_call(name, "/", "a.b", "M", "h", (0,)), [0])
        print("call with a descriptor", name, outcome)
        quiet = method_call(name, "/", "a.Denied", "M", flags=Flag.NO_REPLY_EXPECTED)
        client.send(quiet)
        client.driver("GetId")
        print("call without reply", name, [message.member for message in service.settle()])
    print("unknown", told(client, client.send(method_call("org.x.Nobody", "/", "a.Denied", "M"))))


def replies(client: Peer, service: Peer) -> None:
    for error_name in ("a.b.Error", "a.b.Denied"):
        serial = client.send(method_call("org.x.Open", "/", "a.b", "M"))
        service.refuse("M", error_name, "text")
        service.driver("GetId")
        client.driver("GetId")
        came = [message.error_name for message in client.others if message.reply_cookie == serial]
        print("reply", error_name, came)


def signals(client: Peer, services: dict[str, Peer]) -> None:
    for service in services.values():
        service.driver("AddMatch", "s", "type='signal',member='S'")
    for path, interface, member in SIGNALS:
        for to in (None, *services):
            client.emit(path, interface, member, to=to)
            client.driver("GetId")
            heard = {name: len([each for each in one.settle() if each.member == "S"]) for name, one in services.items()}
            print("signal", interface, to, heard)
    for sender in ("org.x.Mute", "org.x.Open"):
        services[sender].emit("/", "a.b", "S")
        services[sender].driver("GetId")
        heard = {name: len([each for each in one.settle() if each.member == "S"]) for name, one in services.items()}
        print("from", sender, heard)


def waiting(client: Peer, service: Peer) -> None:
    """Who waits for a name counts as its owner."""
    print("waits", service.driver("RequestName", "su", "org.x.Open", 0))
    print("call of who waits", tried(client, service, method_call(service.name, "/", "a.b", "M")))
    print("released", service.driver("ReleaseName", "s", "org.x.Open"))
    print("call of who waited", tried(client, service, method_call(service.name, "/", "a.b", "M")))


def main() -> None:
    with ExitStack() as stack:
        client, nobody = stack.enter_context(Peer()), stack.enter_context(Peer())
        names(client)
        services = {name: stack.enter_context(Peer()) for name in SERVICES}
        for name, service in services.items():
            print("service", name, service.driver("RequestName", "su", name, 0))
            service.settle()
        calls(client, services)
        replies(client, services["org.x.Open"])
        waiting(client, nobody)
        signals(client, services)
        os.write(1, b"end\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        print(CONFIGURATION)
    else:
        main()
