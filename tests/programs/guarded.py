# SPDX-License-Identifier: GPL-2.0-or-later
"""Sides that `kdbus replay` plays against each other: a bus with an endpoint, policies and a monitor, and a guest.

guarded.py keeper REVISION BUS ACCESS    makes the bus, a policy holder for what is below org.example, and an
                                         endpoint through which org.example.Door may be had as ACCESS says (own,
                                         talk); says that it is open, answers one request, and narrows the policies
guarded.py watcher REVISION BUS          is a monitor, and says who sent what to whom, until the answer has passed
guarded.py guest REVISION BUS            wants two names through the endpoint, asks the keeper, and, when it
                                             has read a line from its standard input, takes leave
"""

from __future__ import annotations

import sys
from pathlib import Path

import kdbus
from kdbus import Access, AccessType, HelloFlag, Policy, Rule
from kdbus.dialect import DIALECTS

KEEPER, DOOR, OTHER = "org.example.Keeper", "org.example.Door", "org.example.Other"
PATIENCE = 30.0


def everybody(access: Access) -> tuple[Rule, ...]:
    return (Rule(access, AccessType.WORLD),)


def keeper(revision: kdbus.Revision, bus: str, access: str) -> None:
    gate = [Policy(DOOR, everybody(Access[access.upper()])), Policy(KEEPER, everybody(Access.TALK))]
    with kdbus.Bus(bus, revision=revision) as made, kdbus.connect(bus, revision=revision) as owner:
        below = [Policy("org.example.*", everybody(Access.OWN))]
        holder = kdbus.connect(bus, flags=HelloFlag.POLICY_HOLDER, policies=below, revision=revision)
        with holder, made.make_endpoint(kdbus.own_name("gate"), policies=gate) as endpoint:
            owner.acquire_name(KEEPER)
            print("open", flush=True)
            with owner.receive(PATIENCE) as request:
                holder.update(policies=[Policy("org.example.*", everybody(Access.TALK))])
                endpoint.update([Policy(KEEPER, everybody(Access.TALK))])
                owner.reply(request, b"welcome")
            with owner.receive(PATIENCE):
                pass


def watcher(revision: kdbus.Revision, bus: str) -> None:
    with kdbus.connect(bus, flags=HelloFlag.MONITOR, revision=revision) as monitor:
        print("watching", flush=True)
        payload = b""
        while payload != b"welcome":
            with monitor.receive(PATIENCE) as message:
                payload = bytes(message.payload)
                if payload:
                    print(f"{payload.decode()} to {message.destination_name or 'whoever asked'}", file=sys.stderr)
        print("seen", flush=True)


def guest(revision: kdbus.Revision, bus: str) -> None:
    with kdbus.connect(bus, endpoint=kdbus.own_name("gate"), revision=revision) as connection:
        for name in (DOOR, OTHER):
            try:
                connection.acquire_name(name)
                print(f"{name} is mine")
            except kdbus.Denied:
                print(f"{name} is not for me")
        with connection.call(KEEPER, b"hello", timeout=PATIENCE) as reply:
            print(bytes(reply.payload).decode())
        # The keeper ends with that, and the bus with it, so the watcher has to have seen all.
        sys.stdin.readline()
        connection.send(KEEPER, b"goodbye")


def main() -> None:
    role, name, bus, *more = sys.argv[1:]
    # All would be called as the interpreter is.
    Path("/proc/self/comm").write_text(role)
    revision = next(each for each in DIALECTS if each.name == name)
    if role == "keeper":
        keeper(revision, bus, more[0])
    elif role == "watcher":
        watcher(revision, bus)
    else:
        guest(revision, bus)


if __name__ == "__main__":
    main()
