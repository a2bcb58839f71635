# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that never read, and clients that flood: what they get, and that others do not notice."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from kdbus.dbus import version1
from kdbus.dbus.errors import ErrorReply
from kdbus.dbus.message import Flag, method_call
from tests.programs.dbus_peer import DRIVER, Peer, Raw

CALLS = 20_000


def who_floods_the_driver_and_does_not_read_is_cut_off(client: Peer, other: Peer) -> None:
    data = version1.build(replace(method_call(DRIVER, "/", f"{DRIVER}.Introspectable", "Introspect"), cookie=7))
    try:
        for _ in range(CALLS):
            client.write(data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    else:
        raise AssertionError("not cut off")
    other.driver("GetId")


def who_does_not_read_fills_its_own_queue_alone(client: Peer, other: Peer) -> None:
    sent = 0
    while True:
        sent += 1
        assert sent < 1000
        serial = other.send(method_call(client.name, "/", "a.b", "C", "ay", (bytes(300_000),)))
        # What was refused is answered before this is.
        other.driver("GetId")
        refused = [message for message in other.others if message.reply_cookie == serial]
        if refused:
            assert refused[0].error_name == f"{DRIVER}.Error.LimitsExceeded"
            break
    with Peer() as third:
        assert third.driver("NameHasOwner", "s", client.name)
    for _ in range(sent - 1):
        assert client.wait_for("C").body == (bytes(300_000),)
    other.send(method_call(client.name, "/", "a.b", "Last"))
    client.serve("Last")


def a_flood_of_signals_arrives_in_order(client: Peer, other: Peer) -> None:
    client.driver("AddMatch", "s", "interface='a.b'")
    for number in range(200):
        other.emit("/", "a.b", "Flood", "u", number)
    found = [client.wait_for("Flood").body[0] for _ in range(200)]
    assert found == list(range(200))


def signals_to_who_does_not_read_are_lost_and_nobody_waits(client: Peer, other: Peer) -> None:
    client.driver("AddMatch", "s", "interface='a.b'")
    for number in range(200):
        other.emit("/", "a.b", "Large", "uay", number, bytes(300_000))
    other.driver("GetId")
    found = [client.wait_for("Large").body[0] for _ in range(10)]
    # There is room again.
    other.emit("/", "a.b", "Last")
    while (message := client.wait(lambda message: message.interface == "a.b")).member != "Last":
        found.append(message.body[0])
    assert found[:10] == list(range(10))
    assert found == sorted(found) and len(found) < 150, found


def there_are_limits_of_rules_and_names(client: Peer, other: Peer) -> None:
    limit = f"{DRIVER}.Error.LimitsExceeded"
    for member, signature, *start in (("AddMatch", "s", "member='M"), ("RequestName", "su", "a.b", 0)):
        try:
            for number in range(1000):
                name = f"{start[0]}{number}" + ("'" if member == "AddMatch" else "")
                client.driver(member, signature, name, *start[1:])
        except ErrorReply as error:
            assert error.name == limit, member
            assert number > 200, member
        else:
            raise AssertionError(member)
    client.driver("RemoveMatch", "s", "member='M7'")
    client.driver("AddMatch", "s", "type='signal',member='Again'")
    other.emit("/", "a.b", "Again")
    client.wait_for("Again")


def a_large_message_arrives_while_others_go_on(client: Peer, other: Peer) -> None:
    body = os.urandom(1 << 20) * 24
    serial = client.send(method_call(other.name, "/", "a.b", "Large", "ay", (body,)))
    with Peer() as third:
        third.driver("GetId")
    assert other.serve("Large").body == (body,)
    assert client.reply_to(serial) == ()


def clients_that_come_and_go(client: Peer, other: Peer) -> None:
    for number in range(30):
        with Raw() as raw:
            if number % 3:
                raw.log_in()
            if number % 3 == 2:
                raw.write(version1.build(method_call(DRIVER, "/", DRIVER, "Hello"))[: number * 3])
    others = set(client.driver("ListNames")) - {client.name, other.name, DRIVER}
    client.driver("AddMatch", "s", "member='NameOwnerChanged',arg2=''")
    for _ in range(30):
        with Peer() as peer:
            peer.send(method_call(client.name, "/", "a.b", "Bye", flags=Flag.NO_REPLY_EXPECTED))
        assert client.wait_for("Bye").sender == peer.name
    for _ in range(30):
        client.wait_for("NameOwnerChanged")
    assert set(client.driver("ListNames")) <= {client.name, other.name, DRIVER, *others}


CASES: tuple[Callable[[Peer, Peer], None], ...] = (
    who_floods_the_driver_and_does_not_read_is_cut_off,
    who_does_not_read_fills_its_own_queue_alone,
    a_flood_of_signals_arrives_in_order,
    signals_to_who_does_not_read_are_lost_and_nobody_waits,
    there_are_limits_of_rules_and_names,
    a_large_message_arrives_while_others_go_on,
    clients_that_come_and_go,
)


if __name__ == "__main__":
    for case in CASES:
        with ExitStack() as stack:
            case(stack.enter_context(Peer()), stack.enter_context(Peer()))
        print(f"ok - {case.__name__}", flush=True)
