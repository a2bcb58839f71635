# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client of a proxy asks of whoever starts programs on its bus, and has no answer to yet.

StartServiceByName is answered when the name has an owner, or is told to get none, as with dbus-daemon. Any message that
starts things does: a Ping is sent to the name. It is answered by the program, by the bus (nobody will ever do), or
first of all by the news that somebody has taken the name, as not every program that speaks kdbus answers.

UpdateActivationEnvironment is handed on to the owner of `kdbus.Activator`, in the client's name, and so is the answer.

Our own calls have cookies that no client can have given to one of its own, as serials have 32 bits.

Why a call failed that would have started something, `kdbus.Activator` tells the caller just before kdbus tells that
there will be no reply (`bridge.activation`). It is believed to whoever owns that name, and kept until kdbus says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import kdbus.trio
from bridge.activation import ACTIVATOR, ACTIVATOR_PATH, REFUSED
from bridge.failures import FAILED, NO_REPLY, gone, no_such_name
from bridge.queries import PEER
from kdbus.dbus import names, version2
from kdbus.dbus.errors import DBusError, ErrorReply
from kdbus.dbus.message import Message, MessageType, error, method_call, method_return
from kdbus.errors import Error, NotFound
from kdbus.flags import Attach, HelloFlag, ListFlag, NameFlag
from kdbus.matches import NameChangesHands
from kdbus.received import Message as Received
from kdbus.values import NameChange

FIRST_COOKIE: Final = 1 << 33
STARTED, ALREADY_RUNNING = 1, 2
_REASONS: Final = 64
"""Failures that are remembered. Each is asked for at once."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call of the client's. `name`: what is to be started for it; `cookie`: of our match for that."""

    call: Message
    name: str | None = None
    cookie: int = 0


class Starting:
    """Asks on behalf of one client, whose connection of kdbus is `peer`. `say` sends the client something of the
    driver's."""

    def __init__(self, peer: kdbus.trio.Connection, say: Callable[[Message], None]) -> None:
        self._peer = peer
        self._say = say
        self._asked: dict[int, _Asked] = {}
        self._reasons: dict[int, ErrorReply] = {}
        self._cookie = FIRST_COOKIE

    # ---- what the client asks

    def start_service_by_name(self, call: Message, name: str, _flags: int) -> int | None:
        """The answer, None if it will be said later. Raises ErrorReply or Error."""
        if all(entry.name != name for entry in self._peer.list_names(ListFlag.ACTIVATORS)):
            raise no_such_name(name, auto_start=True)
        cookie = self._peer.add_match(NameChangesHands(name))
        try:
            if not self._peer.info(name, Attach.NONE).flags & HelloFlag.ACTIVATOR:
                self._peer.remove_match(cookie)
                return ALREADY_RUNNING
            self._ask(method_call(name, "/", PEER, "Ping"), _Asked(call, name, cookie))
        except BaseException:
            self._peer.remove_match(cookie)
            raise
        return None

    def update_activation_environment(self, call: Message, environment: dict[str, str]) -> bool | None:
        """None: it will be answered later. Raises ErrorReply or Error."""
        member = "UpdateActivationEnvironment"
        wanted = method_call(ACTIVATOR, ACTIVATOR_PATH, ACTIVATOR, member, "a{ss}", (environment,))
        try:
            self._ask(wanted, _Asked(call))
        except NotFound:
            # Nobody starts programs, so none has another environment. Scripts that log in do not expect a failure.
            return True
        return None

    def _ask(self, message: Message, asked: _Asked) -> None:
        self._cookie += 1
        data = version2.build(replace(message, cookie=self._cookie), order=sys.byteorder)
        assert message.destination is not None
        self._peer.send(message.destination, data, timeout=float("inf"), cookie=self._cookie)
        self._asked[self._cookie] = asked

    # ---- what the bus says

    def take_changed(self, change: NameChange) -> None:
        """A name changed hands."""
        if not change.new_flags & NameFlag.ACTIVATOR:
            for cookie in [each for each, asked in self._asked.items() if asked.name == change.name]:
                self._finish(cookie, STARTED)

    def take_reply(self, origin: Received) -> None:
        """A reply to one of our calls, which is not for the client as it is."""
        asked = self._asked.get(origin.reply_to)
        if asked is None:
            return
        if asked.name is not None:
            self._finish(origin.reply_to, STARTED)
            return
        try:
            message = version2.parse(origin.payload)
        except (DBusError, Error) as reason:
            self._finish(origin.reply_to, ErrorReply(FAILED, f"an answer that cannot be read: {reason}"))
            return
        if message.type == MessageType.ERROR:
            text = message.body[0] if message.signature.startswith("s") else ""
            self._finish(origin.reply_to, ErrorReply(message.error_name or NO_REPLY, text))
        else:
            self._finish(origin.reply_to)

    def take_failed(self, message: Message) -> bool:
        """Whether this, from the owner of `kdbus.Activator`, is why a call failed; it is remembered then. Raises
        InvalidName."""
        found = refusal(message)
        if found is None:
            return False
        cookie, reason = found
        self._reasons[cookie] = reason
        if len(self._reasons) > _REASONS:
            del self._reasons[next(iter(self._reasons))]
        return True

    def reason(self, cookie: int) -> ErrorReply:
        """Why there will be no reply to a call, as kdbus says."""
        return self._reasons.pop(cookie, None) or gone()

    def take_dead(self, cookie: int) -> None:
        """There will be no reply to one of our calls."""
        self._finish(cookie, self.reason(cookie))

    def _finish(self, cookie: int, result: int | ErrorReply | None = None) -> None:
        asked = self._asked.pop(cookie, None)
        if asked is None:
            return
        if asked.cookie:
            self._peer.remove_match(asked.cookie)
        if not asked.call.expects_reply:
            return
        call = replace(asked.call, sender=None)
        if isinstance(result, ErrorReply):
            self._say(error(call, result.name, result.text))
        else:
            body: tuple[Any, ...] = () if result is None else (result,)
            self._say(method_return(call, "u" if body else "", body))


def refusal(message: Message) -> tuple[int, ErrorReply] | None:
    """The cookie of a call, and why it failed, if a message of the owner of `kdbus.Activator` says that. Raises
    InvalidName."""
    if (message.interface, message.member, message.signature) != (ACTIVATOR, REFUSED, "tss"):
        return None
    cookie, name, text = message.body
    return cookie, ErrorReply(names.check_interface(name), text)


def is_ours(cookie: int) -> bool:
    """Whether a call with that cookie was made here, and not by the client."""
    return cookie >= FIRST_COOKIE
