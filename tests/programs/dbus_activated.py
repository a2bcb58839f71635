# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations of a client of D-Bus that start programs, and what they give, to be compared with another bus's; and a
program to be started: `serve NAME [FIFO]`. `reload FOLDER`: of files that come and go meanwhile, in a folder that the
bus starts programs from."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import suppress

from kdbus.dbus.message import NO_FLAGS, Flag, Message, MessageType, method_call
from tests.programs.dbus_peer import DRIVER, Gone, Peer

BROKEN = ("t.False", "t.None", "t.NoPath", "t.Signal", "t.Unclosed", "t.Missing")


def serve(name: str, fifo: str) -> None:
    """Own the name, when somebody has opened the other end of the FIFO, until somebody says Quit, or the bus ends."""
    if fifo:
        with open(fifo, "rb"):
            pass
    with suppress(Gone), Peer() as peer:
        peer.driver("RequestName", "su", name, 4)
        while True:
            call = peer.wait(lambda message: message.type == MessageType.METHOD_CALL)
            answers = {
                "Echo": call.body,
                "Who": (str(os.getpid()),),
                "Variable": (os.environ.get(str(call.body[0]) if call.body else "", "(none)"),),
                "Quit": (),
            }
            body = answers.get(call.member or "", ())
            if call.expects_reply:
                peer.send(
                    Message(
                        type=MessageType.METHOD_RETURN,
                        reply_cookie=call.cookie,
                        destination=call.sender,
                        signature="s" * len(body),
                        body=body,
                    )
                )
            if call.member == "Quit":
                return


class Client:
    """Prints what each operation gives."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def start(self, member: str, *words: str, to: str = "t.Serve", flags: Flag = NO_FLAGS) -> int:
        """Send a call of the program; its serial."""
        return self.peer.send(method_call(to, "/", "t.I", member, "s" * len(words), words, flags=flags))

    def driver(self, member: str, signature: str = "", *body: object, path: str = "/org/freedesktop/DBus") -> int:
        return self.peer.send(method_call(DRIVER, path, DRIVER, member, signature, body))

    def say(self, what: str, serial: int) -> None:
        """Print how that call ends."""
        reply = self.peer.wait(lambda message: message.reply_cookie == serial)
        body = [sorted(each) if isinstance(each, list) else each for each in reply.body]
        print(what, reply.type.name, reply.error_name or "", *body, flush=True)


def use(fifo: str) -> None:
    with Peer() as peer:
        client = Client(peer)
        client.say("activatable", client.driver("ListActivatableNames"))
        client.say("not started", client.start("Echo", "a", flags=Flag.NO_AUTO_START))
        client.say("owner", client.driver("GetNameOwner", "s", "t.Serve"))
        client.say("owned", client.driver("NameHasOwner", "s", "t.Serve"))
        for serial in [client.start("Echo", word) for word in "abc"]:
            client.say("echo", serial)
        client.say("owned", client.driver("NameHasOwner", "s", "t.Serve"))
        client.say("runs", client.driver("StartServiceByName", "su", "t.Serve", 0))

        rule = "type='signal',member='NameOwnerChanged',arg0='t.Serve'"
        client.say("match", client.driver("AddMatch", "s", rule))
        for _ in range(2):
            client.say("quit", client.start("Quit"))
            changed = peer.wait_for("NameOwnerChanged")
            print("gone", bool(changed.body[1]), bool(changed.body[2]))
            client.say("started", client.driver("StartServiceByName", "su", "t.Serve", 0))
            changed = peer.wait_for("NameOwnerChanged")
            print("came", bool(changed.body[1]), bool(changed.body[2]))

        for name in BROKEN:
            client.say(f"call {name}", client.start("Echo", "a", to=name))
            client.say(f"start {name}", client.driver("StartServiceByName", "su", name, 0))
            serial = client.start("Echo", "a", to=name, flags=Flag.NO_REPLY_EXPECTED)
            client.say(f"after {name}", client.driver("GetId") and client.driver("NameHasOwner", "s", name))
            del serial
        client.say("the bus", client.driver("StartServiceByName", "su", DRIVER, 0))
        client.say("no name", client.driver("StartServiceByName", "su", "inv", 0))
        client.say("wrong", client.driver("StartServiceByName", "s", "t.Serve"))

        # What is asked for meanwhile is answered meanwhile.
        starting = [client.driver("StartServiceByName", "su", "t.Gate", 0) for _ in range(2)]
        calling = client.start("Echo", "through", to="t.Gate")
        client.say("not yet", client.driver("NameHasOwner", "s", "t.Gate"))
        with open(fifo, "wb"):
            for serial in starting:
                client.say("started", serial)
        client.say("echo", calling)

        client.say("variable", client.start("Variable", "T_SET"))
        client.say("set", client.driver("UpdateActivationEnvironment", "a{ss}", {"T_SET": "value"}))
        client.say("elsewhere", client.driver("UpdateActivationEnvironment", "a{ss}", {"T_SET": "other"}, path="/a"))
        client.say("wrong", client.driver("UpdateActivationEnvironment", "as", ["T_SET"]))
        client.say("still", client.start("Variable", "T_SET"))
        client.say("quit", client.start("Quit"))
        peer.wait_for("NameOwnerChanged")
        client.say("anew", client.start("Variable", "T_SET"))
        client.say("type", client.start("Variable", "DBUS_STARTER_BUS_TYPE"))
        # A caller that leaves does not take along what it has started.
        with Peer() as other:
            other.send(method_call("t.Late", "/", "t.I", "Echo", "s", ("x",)))
            other.driver("GetId")
        client.say("late", client.start("Echo", "y", to="t.Late"))


def reload(folder: str) -> None:
    """What becomes of files that come, change and go while the bus is there. The folder is left without them."""
    path = f"{folder}/t.Later.service"

    def write(*words: str) -> None:
        command = shlex.join([sys.executable, "-m", "tests.programs.dbus_activated", "serve", *words])
        # Whole from the start: whoever reads the folder at that moment, for an earlier change, complains of a half.
        with open(f"{path}.new", "w") as file:
            file.write(f"[D-BUS Service]\nName=t.Later\nExec={command}\n")
        os.rename(f"{path}.new", path)

    with Peer() as peer:
        client = Client(peer)

        def try_all(what: str) -> None:
            client.say(f"{what}: activatable", client.driver("ListActivatableNames"))
            client.say(f"{what}: echo", client.start("Echo", "a", to="t.Later"))
            client.say(f"{what}: owned", client.driver("NameHasOwner", "s", "t.Later"))

        client.driver("AddMatch", "s", "member='NameOwnerChanged',arg0='t.Later'")
        try_all("before")
        write("t.Later")
        client.say("reload", client.driver("ReloadConfig"))
        try_all("added")
        os.unlink(path)
        client.say("reload", client.driver("ReloadConfig"))
        try_all("removed, and it runs")
        client.say("quit", client.start("Quit", to="t.Later"))
        peer.wait(lambda message: message.member == "NameOwnerChanged" and message.body[1:] == (message.body[1], ""))
        try_all("removed")
        write("t.Other")
        client.say("reload", client.driver("ReloadConfig"))
        write("t.Later")
        client.say("reload", client.driver("ReloadConfig"))
        try_all("changed")
        os.unlink(path)
        client.say("reload", client.driver("ReloadConfig"))
        client.say("quit", client.start("Quit", to="t.Later"))
        peer.wait(lambda message: message.member == "NameOwnerChanged" and message.body[1:] == (message.body[1], ""))

        # Nobody has to ask for it.
        client.driver("AddMatch", "s", "member='ActivatableServicesChanged'")
        for what, there in (("noticed", True), ("gone", False)):
            if there:
                write("t.Later")
            else:
                os.rename(path, f"{path}.away")
            while ("t.Later" in peer.driver("ListActivatableNames")) != there:
                peer.wait_for("ActivatableServicesChanged")
            client.say(f"{what}: activatable", client.driver("ListActivatableNames"))
        os.unlink(f"{path}.away")


def watch(command: list[str]) -> None:
    """What is told when a command makes activators, which go when it ends."""
    with Peer() as peer:
        peer.driver("AddMatch", "s", "member='ActivatableServicesChanged'")
        with subprocess.Popen(command) as activator:
            for _ in range(2):
                print(peer.wait_for("ActivatableServicesChanged").sender, flush=True)
            activator.wait()


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch(sys.argv[2:])
    elif sys.argv[1] == "reload":
        reload(sys.argv[2])
    elif sys.argv[1] == "serve":
        serve(sys.argv[2], "".join(sys.argv[3:]))
    else:
        use(sys.argv[2])
